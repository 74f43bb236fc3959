//! AMX, the tile unit of recent Xeons: products of a tile of bytes with a tile of bytes, summed in i32.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use super::LANES;

/// Rows of a tile, which is also the outputs of a weight panel.
pub(crate) const TILE_ROWS: usize = LANES;

/// Exists only where the CPU has AMX-TILE and AMX-INT8 and the operating system lets this process use them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amx(());

impl Amx {
    pub(crate) fn detect() -> Option<Self> {
        static PERMITTED: OnceLock<bool> = OnceLock::new();
        (*PERMITTED.get_or_init(permitted)).then_some(Self(()))
    }
}

/// Whether the CPU has AMX-TILE and AMX-INT8 and Linux grants this process the tile registers, which a process must
/// request.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const TILES_AND_INT8: u32 = 1 << 24 | 1 << 25;
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    if __cpuid_count(7, 0).edx & TILES_AND_INT8 != TILES_AND_INT8 {
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

const _: () = assert!(size_of::<Tile>() == 1024 && size_of::<Config>() == 64);

/// This thread's tile registers, released when dropped. Activations stay in `tmm0` to `tmm3` for all panels.
///
/// The compiler does not use the tile registers itself, so they keep their contents between blocks of assembly.
pub(crate) struct TileUnit {
    rows: usize,
    _amx: Amx,
}

impl TileUnit {
    pub(crate) fn new(amx: Amx) -> Self {
        Self { rows: 0, _amx: amx }
    }

    /// Loads up to 16 rows of activations.
    #[inline(always)]
    pub(crate) fn load<const BYTES: usize>(&mut self, rows: usize, activations: &Activations<BYTES>) {
        if self.rows != rows {
            self.rows = rows;
            let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
            config.row_bytes[..8].fill(64);
            let (rows, side) = (rows as u8, TILE_ROWS as u8);
            config.rows[..8].copy_from_slice(&[rows, rows, rows, rows, side, side, rows, rows]);
            // SAFETY: an `Amx` exists only where the instruction does; the shapes are within palette 1.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
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
        // SAFETY: an `Amx` exists only where the instruction does. Released tiles are not saved at a context switch.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
