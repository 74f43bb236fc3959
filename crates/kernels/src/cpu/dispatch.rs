//! Choice of the implementation: the best that the CPU supports, chosen once, or one forced for a comparison.

use std::cell::Cell;
use std::sync::OnceLock;

use super::simd::{Kernel, Simd, portable::Portable};
#[cfg(target_arch = "x86_64")]
use super::simd::{amx::Amx, avx2::Avx2, avx512::Avx512};

/// An implementation of the kernels. Their results are equal except as the [module](super) states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implementation {
    /// AVX-512 F, BW, VL and VNNI, and AMX-INT8 for integer products of several rows.
    Avx512Amx,
    /// AVX-512 F, BW, VL and VNNI.
    Avx512Vnni,
    /// AVX-512 F, BW and VL.
    Avx512,
    /// AVX2 with FMA.
    Avx2,
    /// Plain Rust for any CPU.
    Portable,
}

impl Implementation {
    /// The name used in logs and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512Amx => "avx512-amx",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    fn level(self) -> Option<IsaLevel> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Amx => Some(IsaLevel::Avx512Amx(Avx512::detect()?, Amx::detect()?)),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => Avx512::detect().map(IsaLevel::Avx512Vnni),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::detect().map(IsaLevel::Avx512),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::detect().map(IsaLevel::Avx2),
            Self::Portable => Some(IsaLevel::Portable(Portable)),
            #[cfg(not(target_arch = "x86_64"))]
            _ => None,
        }
    }
}

/// An implementation that this CPU supports, with the proof.
#[derive(Clone, Copy, Debug)]
pub(crate) enum IsaLevel {
    #[cfg(target_arch = "x86_64")]
    Avx512Amx(Avx512<true>, Amx),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512<true>),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512<false>),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    Portable(Portable),
}

impl IsaLevel {
    /// Runs a kernel compiled for this level.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Amx(s, _) | Self::Avx512Vnni(s) => s.without_vnni().call(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(s) => s.call(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(s) => s.call(kernel),
            Self::Portable(s) => s.call(kernel),
        }
    }

    /// Runs a kernel that multiplies integers, with VNNI if the level has it.
    pub(crate) fn run_integers<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Amx(s, _) | Self::Avx512Vnni(s) => s.call(kernel),
            _ => self.run(kernel),
        }
    }

    /// Rows of the tallest tile of one panel: as many accumulators as leave registers for `weight_vectors` vectors of
    /// weights.
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "only AVX2 has few registers"))]
    pub(crate) fn tile_rows(self, weight_vectors: usize) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Amx(..) | Self::Avx512Vnni(_) | Self::Avx512(_) => 8,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => 7 - weight_vectors,
            Self::Portable(_) => 3,
        }
    }

    /// Panels of a tile of `rows` rows, for a format that keeps `weight_vectors` vectors of weights of each panel.
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "only AVX2 has few registers"))]
    pub(crate) fn tile_panels(self, rows: usize, weight_vectors: usize) -> usize {
        let panels = match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Amx(..) | Self::Avx512Vnni(_) | Self::Avx512(_) => Avx512::<true>::ACCUMULATORS / rows,
            // Each accumulator and each vector of weights takes two registers. Larger tiles would spill at every step.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => match (rows, weight_vectors) {
                (1, 1) => 4,
                (1 | 2, _) => 2,
                _ => 1,
            },
            Self::Portable(_) => Portable::ACCUMULATORS / rows,
        };
        match panels {
            4.. => 4,
            2..4 => 2,
            _ => 1,
        }
    }
}

const ALL: [Implementation; 5] = [
    Implementation::Avx512Amx,
    Implementation::Avx512Vnni,
    Implementation::Avx512,
    Implementation::Avx2,
    Implementation::Portable,
];

/// The implementations this CPU can run, best first.
pub fn available() -> Vec<Implementation> {
    ALL.into_iter().filter(|implementation| implementation.level().is_some()).collect()
}

thread_local! {
    static FORCED: Cell<Option<(Implementation, IsaLevel)>> = const { Cell::new(None) };
}

fn chosen() -> (Implementation, IsaLevel) {
    static BEST: OnceLock<(Implementation, IsaLevel)> = OnceLock::new();
    FORCED.get().unwrap_or_else(|| {
        *BEST.get_or_init(|| {
            ALL.into_iter()
                .find_map(|implementation| Some((implementation, implementation.level()?)))
                .unwrap_or((Implementation::Portable, IsaLevel::Portable(Portable)))
        })
    })
}

/// The level for calls from this thread.
pub(crate) fn level() -> IsaLevel {
    chosen().1
}

/// Name of the implementation in use: `avx512-amx`, `avx512-vnni`, `avx512`, `avx2` or `portable`.
pub fn implementation() -> &'static str {
    chosen().0.name()
}

/// Whether the implementation in use multiplies bytes faster than 16-bit integers, so that
/// [`WeightFormat::W8A8`](super::WeightFormat::W8A8) is faster than [`WeightFormat::Int8`](super::WeightFormat::Int8).
pub fn multiplies_bytes() -> bool {
    matches!(chosen().0, Implementation::Avx512Amx | Implementation::Avx512Vnni)
}

/// Runs `work` with every kernel called from this thread forced to one implementation; for tests and comparisons.
///
/// # Panics
/// If this CPU does not support the implementation; see [`available`].
pub fn with_implementation<R>(implementation: Implementation, work: impl FnOnce() -> R) -> R {
    struct Restore(Option<(Implementation, IsaLevel)>);
    impl Drop for Restore {
        fn drop(&mut self) {
            FORCED.set(self.0);
        }
    }
    let level = implementation.level();
    assert!(
        level.is_some(),
        "this CPU does not support the {} kernels; available() lists those it does",
        implementation.name()
    );
    let _restore = Restore(FORCED.replace(level.map(|level| (implementation, level))));
    work()
}
