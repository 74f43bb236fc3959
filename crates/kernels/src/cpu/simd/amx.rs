//! AMX, the tile unit of recent Xeons: products of a tile of bytes with a tile of bytes, summed in i32, and of bf16,
//! summed in f32.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use super::LANES;
use crate::cpu::bf16_tiles::{self, ActivationTile, SumTile, WeightTile};
use crate::cpu::tile_plan::TILE_ROWS;

/// Exists only where the CPU has AMX-TILE, AMX-INT8 and AMX-BF16 and the operating system lets this process use them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amx(());

impl Amx {
    pub(crate) fn detect() -> Option<Self> {
        static PERMITTED: OnceLock<bool> = OnceLock::new();
        (*PERMITTED.get_or_init(permitted)).then_some(Self(()))
    }
}

/// Whether the CPU has AMX-TILE, AMX-INT8 and AMX-BF16, as all CPUs with tiles have so far, and Linux grants this process
/// the tile registers, which a process must request.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const FEATURES: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    if __cpuid_count(7, 0).edx & FEATURES != FEATURES {
        return false;
    }
    // SAFETY: the call touches no memory; a kernel that does not know it returns an error.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// A row of a tile: 64 inputs of one activation row.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct TileRow(pub(crate) [u8; 64]);

impl Default for TileRow {
    fn default() -> Self {
        Self([0; 64])
    }
}

/// A tile of activations.
pub(crate) type Tile = [TileRow; TILE_ROWS];

/// Activations of one row tile and one group of inputs: `[upper, lower][half of the group]`, or the only byte.
pub(crate) type Activations<const BYTES: usize> = [[Tile; 2]; BYTES];

/// Weights of one panel and one group of inputs, as packed: two tiles, one for each half of the group. If the inputs
/// end within the group, the next panel's weights follow; they are multiplied by zeros.
pub(crate) type Weights = [[u8; 4 * LANES]; 2 * TILE_ROWS];

/// The sums of one group: `[upper, lower][row]`, or those of the only byte.
pub(crate) type Sums<const BYTES: usize> = [[[i32; LANES]; TILE_ROWS]; BYTES];

/// The shapes of the tiles as `ldtilecfg` takes them: palette 1.
#[derive(Debug)]
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Tiles of as many rows of 64 bytes each.
    fn load(rows: [u8; 8], _: Amx) {
        let mut config = Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        config.row_bytes[..8].fill(ROW_BYTES as u16);
        config.rows[..8].copy_from_slice(&rows);
        // SAFETY: an `Amx` exists only where the instruction does; the shapes are within palette 1.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
    }
}

/// Bytes of a tile's row, and from one row to the next in memory.
const ROW_BYTES: usize = 64;

const _: () = assert!(size_of::<Tile>() == TILE_ROWS * ROW_BYTES && size_of::<Config>() == 64);
const _: () = assert!(size_of::<ActivationTile>() == 1024 && size_of::<WeightTile>() == 1024);
const _: () = assert!(size_of::<SumTile>() == 1024);

/// This thread's tile registers, released when dropped. Activations stay in `tmm0` to `tmm3` for all panels.
///
/// The compiler does not use the tile registers itself, so they keep their contents between blocks of assembly.
pub(crate) struct TileUnit {
    rows: usize,
    amx: Amx,
}

impl TileUnit {
    pub(crate) fn new(amx: Amx) -> Self {
        Self { rows: 0, amx }
    }

    /// Loads up to 16 rows of activations.
    #[inline(always)]
    pub(crate) fn load<const BYTES: usize>(&mut self, rows: usize, activations: &Activations<BYTES>) {
        if self.rows != rows {
            self.rows = rows;
            let (rows, side) = (rows as u8, TILE_ROWS as u8);
            Config::load([rows, rows, rows, rows, side, side, rows, rows], self.amx);
        }
        // SAFETY: the tiles have at most 16 rows of 64 bytes, and as many are readable at each address.
        unsafe {
            asm!(
                "tileloadd tmm0, [{from} + {row}]",
                "tileloadd tmm1, [{from} + {row} + 1024]",
                from = in(reg) activations, row = in(reg) size_of::<TileRow>(),
                out("tmm0") _, out("tmm1") _,
                options(nostack, readonly),
            );
        }
        if let Some(lower) = activations.get(1) {
            // SAFETY: as above.
            unsafe {
                asm!(
                    "tileloadd tmm2, [{from} + {row}]",
                    "tileloadd tmm3, [{from} + {row} + 1024]",
                    from = in(reg) lower, row = in(reg) size_of::<TileRow>(),
                    out("tmm2") _, out("tmm3") _,
                    options(nostack, readonly),
                );
            }
        }
    }

    /// Multiplies the loaded activations by one panel's weights and sums over the group.
    #[inline(always)]
    pub(crate) fn multiply<const BYTES: usize>(&self, weights: &Weights, sums: &mut Sums<BYTES>) {
        if BYTES == 1 {
            // SAFETY: as for `load`, and `sums` holds 16 rows of 64 bytes.
            unsafe {
                asm!(
                    "tilezero tmm6",
                    "tileloadd tmm4, [{weights} + {row}]",
                    "tdpbsud tmm6, tmm0, tmm4",
                    "tileloadd tmm5, [{weights} + {row} + 1024]",
                    "tdpbsud tmm6, tmm1, tmm5",
                    "tilestored [{sums} + {row}], tmm6",
                    weights = in(reg) weights, sums = in(reg) sums, row = in(reg) size_of::<TileRow>(),
                    out("tmm4") _, out("tmm5") _, out("tmm6") _,
                    options(nostack),
                );
            }
            return;
        }
        // SAFETY: as for `load`, and `sums` holds twice 16 rows of 64 bytes.
        unsafe {
            asm!(
                "tilezero tmm6",
                "tilezero tmm7",
                "tileloadd tmm4, [{weights} + {row}]",
                "tdpbsud tmm6, tmm0, tmm4",
                "tdpbsud tmm7, tmm2, tmm4",
                "tileloadd tmm5, [{weights} + {row} + 1024]",
                "tdpbsud tmm6, tmm1, tmm5",
                "tdpbsud tmm7, tmm3, tmm5",
                "tilestored [{sums} + {row}], tmm6",
                "tilestored [{sums} + {row} + 1024], tmm7",
                weights = in(reg) weights, sums = in(reg) sums, row = in(reg) size_of::<TileRow>(),
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        };
    }
}

impl Drop for TileUnit {
    fn drop(&mut self) {
        release(self.amx);
    }
}

/// Releases the tile registers. Released ones are not saved at a context switch.
fn release(_: Amx) {
    // SAFETY: an `Amx` exists only where the instruction does.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// This thread's tile registers, for products of bf16, released when dropped. `tmm0` to `tmm3` hold the sums of
/// `[row tile][panel]`, `tmm4` and `tmm5` the activations, `tmm6` and `tmm7` the weights.
pub(crate) struct Bf16Unit(Amx);

impl Bf16Unit {
    pub(crate) fn new(amx: Amx) -> Self {
        Config::load([TILE_ROWS as u8; 8], amx);
        Self(amx)
    }
}

impl Drop for Bf16Unit {
    fn drop(&mut self) {
        release(self.0);
    }
}

/// Runs `$instruction` with the register of the sums of one row tile and panel in place of `{sums}`.
macro_rules! with_sums {
    (($tile:expr, $panel:expr), $($instruction:tt)*) => {
        match ($tile, $panel) {
            (0, 0) => with_sums!(@ "tmm0", $($instruction)*),
            (0, _) => with_sums!(@ "tmm1", $($instruction)*),
            (_, 0) => with_sums!(@ "tmm2", $($instruction)*),
            (_, _) => with_sums!(@ "tmm3", $($instruction)*),
        }
    };
    (@ $register:literal, $before:literal, $after:literal $(, $operand:expr)?) => {
        // SAFETY: an `Amx` exists only where the instruction does; a tile of sums has 16 rows of 64 bytes.
        unsafe {
            asm!(
                concat!($before, $register, $after),
                $(sums = in(reg) $operand, row = in(reg) ROW_BYTES,)?
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nostack),
            )
        }
    };
}

impl bf16_tiles::TileUnit for Bf16Unit {
    #[inline(always)]
    fn set_sums(&mut self, tile: usize, panel: usize, sums: Option<&SumTile>) {
        match sums {
            Some(sums) => with_sums!((tile, panel), "tileloadd ", ", [{sums} + {row}]", sums.as_ptr()),
            None => with_sums!((tile, panel), "tilezero ", ""),
        }
    }

    #[inline(always)]
    fn multiply<const R: usize, const P: usize>(&mut self, x: [&ActivationTile; R], weights: [&WeightTile; P]) {
        let row = ROW_BYTES;
        // SAFETY: all tiles have 16 rows of 64 bytes, and an `Amx` exists only where the instructions do.
        unsafe {
            asm!(
                "tileloadd tmm4, [{x} + {row}]",
                "tileloadd tmm6, [{weights} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                x = in(reg) x[0], weights = in(reg) weights[0], row = in(reg) row,
                out("tmm0") _, out("tmm4") _, out("tmm6") _,
                options(nostack, readonly),
            );
            if P == 2 {
                asm!(
                    "tileloadd tmm7, [{weights} + {row}]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    weights = in(reg) weights[P - 1], row = in(reg) row,
                    out("tmm1") _, out("tmm7") _,
                    options(nostack, readonly),
                );
            }
            if R == 2 {
                asm!(
                    "tileloadd tmm5, [{x} + {row}]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    x = in(reg) x[R - 1], row = in(reg) row,
                    out("tmm2") _, out("tmm5") _,
                    options(nostack, readonly),
                );
            }
            if R == 2 && P == 2 {
                asm!("tdpbf16ps tmm3, tmm5, tmm7", out("tmm3") _, options(nostack, nomem));
            }
        }
    }

    #[inline(always)]
    fn store_sums(&self, tile: usize, panel: usize, sums: &mut SumTile) {
        with_sums!((tile, panel), "tilestored [{sums} + {row}], ", "", sums.as_mut_ptr());
    }
}
