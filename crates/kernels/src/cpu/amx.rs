//! Int8 products on the tile unit (AMX) of recent Xeons.
//!
//! The unit multiplies bytes. Activations of 16 bits are split into their upper and their lower bytes, both signed, which
//! are multiplied apart: a group's sum is `256 * upper + lower`. It is exact in i32 as in [`Int8`]'s tiles, and scaled
//! and added in the same order, so the results have the same bits as theirs.

use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

use super::activations::{Scratch, Worker, room, round_group};
use super::epilogue::Target;
use super::parallel::{Disjoint, for_units};
use super::simd::avx512::Avx512;
use super::simd::{Kernel, LANES, Simd, prefetch};
use super::tile::{Format, GROUP, GROUP_STEPS, Int8, Line, RowScale};
use super::weights::View;

/// Rows of a tile, outputs of a panel and quads of inputs in half a group.
const SIDE: usize = LANES;

/// Rows below which the vector unit is as fast: memory decides.
pub(crate) const FEWEST_ROWS: usize = 4;

/// Tiles of rows worked on at once: their activations and totals stay in the second-level cache.
const CHUNK_TILES: usize = 12;

/// Panels of a unit of work: one group of their weights stays in the first-level cache.
const UNIT_PANELS: usize = 8;

/// How many products of one byte by one are made in the time in which the vector unit makes one of two bytes by one.
const SPEED: usize = 4;

/// Exists only where the CPU has tiles of bytes and the system lets this process use them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amx(());

impl Amx {
    pub(crate) fn detect() -> Option<Self> {
        static ALLOWED: OnceLock<bool> = OnceLock::new();
        (*ALLOWED.get_or_init(allowed)).then_some(Self(()))
    }
}

/// Whether the CPU has AMX-TILE and AMX-INT8 and Linux grants the tiles' registers, which it keeps from processes
/// that do not ask.
#[cfg(target_os = "linux")]
fn allowed() -> bool {
    const TILES_AND_INT8: u32 = 1 << 24 | 1 << 25;
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    if __cpuid_count(7, 0).edx & TILES_AND_INT8 != TILES_AND_INT8 {
        return false;
    }
    // SAFETY: the call touches no memory; a kernel that does not know it answers with an error.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn allowed() -> bool {
    false
}

/// A row of a tile: 64 inputs of one activation row.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct TileRow([u8; 64]);

impl Default for TileRow {
    fn default() -> Self {
        Self([0; 64])
    }
}

/// A tile of activations.
type Tile = [TileRow; SIDE];

/// A tile of rows, one group of inputs: `[upper, lower][half of the group]`, or the only byte.
type Activations<const BYTES: usize> = [[Tile; 2]; BYTES];

/// A panel, one group of inputs, as packed: the two tiles of its halves. Where inputs end within the group, the next
/// panel's weights are in their place, and are multiplied by zeros.
type Weights = [[u8; 4 * LANES]; GROUP_STEPS];

/// One group's sums: `[upper, lower][row]`, or of the only byte.
type Sums<const BYTES: usize> = [[[i32; LANES]; SIDE]; BYTES];

/// What the calls reuse: the activations of all rows.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    /// One of the bytes of a tile's [`Activations`] after the other.
    bytes: Vec<[Tile; 2]>,
    scales: Vec<[RowScale; SIDE]>,
}

/// `out = epilogue(x W^T + bias)` into the target, for at least one row.
pub(crate) fn linear<const BYTES: usize>(
    (s, granted): (Avx512<true>, Amx),
    x: &[f32],
    inputs: usize,
    view: &View<'_, Int8<BYTES>>,
    target: &Target<'_>,
    scratch: &mut Scratch,
) {
    let rows = x.len() / inputs;
    let row_tiles = rows.div_ceil(SIDE);
    let plan = Plan {
        rows,
        steps: inputs.div_ceil(Int8::<BYTES>::INPUTS),
        groups: inputs.div_ceil(GROUP),
        row_tiles,
        chunks: row_tiles.div_ceil(CHUNK_TILES),
        panels: target.outputs.div_ceil(LANES),
    };
    let threads = scratch.threads_for(rows * inputs * target.outputs * BYTES / SPEED, plan.units());
    let pack_threads = scratch.threads_for(rows * inputs, row_tiles).min(threads);
    let (Packed { bytes, scales }, workers) = scratch.tiles(threads);
    let count = row_tiles * plan.groups;
    let (packed, scales) = (room(bytes, BYTES * count).as_chunks_mut::<BYTES>().0, room(scales, count));
    {
        let (packed, scales) = (Disjoint::new(packed), Disjoint::new(scales));
        for_units(row_tiles, &mut workers[..pack_threads], |tile, _| {
            // SAFETY: each unit has a tile of rows of its own.
            let (packed, scales) =
                unsafe { (packed.part(tile * plan.groups, plan.groups), scales.part(tile * plan.groups, plan.groups)) };
            let rows = SIDE.min(rows - tile * SIDE);
            s.call(Pack { x: &x[tile * SIDE * inputs..][..rows * inputs], inputs, packed, scales });
        });
    }
    for_units(plan.units(), workers, |unit, worker| {
        s.call(Multiply { granted, plan: &plan, packed, scales, view, target, unit, worker });
    });
}

/// The order of one call's work. Nothing here enters the results.
struct Plan {
    rows: usize,
    /// Quads of inputs and groups of a row.
    steps: usize,
    groups: usize,
    row_tiles: usize,
    /// Runs of tiles of rows.
    chunks: usize,
    panels: usize,
}

impl Plan {
    fn units(&self) -> usize {
        self.chunks * self.panels.div_ceil(UNIT_PANELS)
    }

    /// The tiles of rows of a chunk.
    fn chunk(&self, chunk: usize) -> std::ops::Range<usize> {
        self.row_tiles * chunk / self.chunks..self.row_tiles * (chunk + 1) / self.chunks
    }

    /// Rows that are there in a tile of them.
    fn rows_in(&self, tile: usize) -> usize {
        SIDE.min(self.rows - tile * SIDE)
    }
}

/// Rounds a tile of rows, group by group.
struct Pack<'a, const BYTES: usize> {
    x: &'a [f32],
    inputs: usize,
    packed: &'a mut [Activations<BYTES>],
    scales: &'a mut [[RowScale; SIDE]],
}

impl<const BYTES: usize> Kernel for Pack<'_, BYTES> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, inputs, packed, scales } = self;
        for (r, row) in x.chunks(inputs).enumerate() {
            for ((part, packed), scales) in row.chunks(GROUP).zip(&mut *packed).zip(&mut *scales) {
                let (scale, rounded) = round_group::<S, BYTES>(s, part);
                scales[r] = scale;
                for (half, rounded) in rounded.as_chunks::<{ GROUP / 2 }>().0.iter().enumerate() {
                    for (byte, tiles) in packed.iter_mut().enumerate() {
                        tiles[half][r].0 = match BYTES - 1 - byte {
                            0 => rounded.map(|value| value as u8),
                            _ => rounded.map(|value| ((value + 128) >> 8) as u8),
                        };
                    }
                }
            }
        }
    }
}

/// One chunk of rows by one run of panels, over all inputs.
struct Multiply<'a, const BYTES: usize> {
    granted: Amx,
    plan: &'a Plan,
    packed: &'a [Activations<BYTES>],
    scales: &'a [[RowScale; SIDE]],
    view: &'a View<'a, Int8<BYTES>>,
    target: &'a Target<'a>,
    unit: usize,
    worker: &'a mut Worker,
}

impl<const BYTES: usize> Kernel for Multiply<'_, BYTES> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { granted, plan, packed, scales, view, target, unit, worker } = self;
        // Units that share weights come one after the other.
        let (run, chunk) = (unit / plan.chunks, unit % plan.chunks);
        let chunk = plan.chunk(chunk);
        let start = run * UNIT_PANELS;
        let end = (start + UNIT_PANELS).min(plan.panels);
        let panels = end - start;
        let totals = room(&mut worker.tiles, chunk.len() * panels * SIDE);
        // Two, so that one is read while the other is written.
        let mut sums: [Sums<BYTES>; 2] = [[[[0; LANES]; SIDE]; BYTES]; 2];
        let mut tiles = Unit::new(granted);
        for group in 0..plan.groups {
            for (tile, totals) in chunk.clone().zip(totals.chunks_mut(panels * SIDE)) {
                let rows = plan.rows_in(tile);
                let row_scales = &scales[tile * plan.groups + group];
                tiles.load(rows, &packed[tile * plan.groups + group]);
                for p in 0..=panels {
                    if p < panels {
                        let at = (start + p) * plan.steps + group * GROUP_STEPS;
                        let Some(weights) = view.steps[at..].first_chunk::<GROUP_STEPS>() else {
                            unreachable!("behind the last step is room for a group")
                        };
                        // The hardware fetches ahead within a page only.
                        if tile == chunk.start {
                            (0..GROUP_STEPS)
                                .for_each(|step| prefetch(weights.as_ptr().wrapping_add(GROUP_STEPS + step)));
                        }
                        tiles.multiply(weights, &mut sums[p % 2]);
                    }
                    if let Some(p) = p.checked_sub(1) {
                        let at = (start + p) * plan.groups + group;
                        let weight_scales = &view.scales[at];
                        let weight_sums = view.sums.get(at);
                        let totals = &mut totals[p * SIDE..][..rows];
                        add_group(&sums[p % 2], row_scales, weight_scales, weight_sums, group == 0, totals);
                    }
                }
            }
        }
        for (tile, totals) in chunk.zip(totals.chunks(panels * SIDE)) {
            for (panel, totals) in (start..end).zip(totals.chunks(SIDE)) {
                // SAFETY: this unit alone works on these rows of these panels.
                unsafe { target.write(s, &totals[..plan.rows_in(tile)], 1, tile * SIDE, panel) };
            }
        }
    }
}

/// Scales one group's sums and sets or adds them to `totals[row]`.
#[inline(always)]
fn add_group<const BYTES: usize>(
    sums: &Sums<BYTES>,
    row_scales: &[RowScale; SIDE],
    weight_scales: &[f32; LANES],
    weight_sums: Option<&[i32; LANES]>,
    first: bool,
    totals: &mut [Line],
) {
    // SAFETY: 16 numbers lie behind each pointer, no alignment is asked for, and this module runs only where there is
    // AVX-512.
    unsafe {
        let weight_scales = _mm512_loadu_ps(weight_scales.as_ptr());
        let weight_sums = weight_sums.map(|sums| _mm512_loadu_si512(sums.as_ptr().cast()));
        for (r, (line, &RowScale { scale, unbias, zero })) in totals.iter_mut().zip(row_scales).enumerate() {
            let mut sum = _mm512_loadu_si512(sums[0][r].as_ptr().cast());
            for lower in &sums[1..] {
                sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(sum), _mm512_loadu_si512(lower[r].as_ptr().cast()));
            }
            if let Some(weight_sums) = weight_sums {
                sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(weight_sums, _mm512_set1_epi32(zero)));
            }
            let sum = _mm512_cvtepi32_ps(_mm512_add_epi32(sum, _mm512_set1_epi32(unbias)));
            let scaled = _mm512_mul_ps(sum, _mm512_mul_ps(_mm512_set1_ps(scale), weight_scales));
            let total = if first { scaled } else { _mm512_add_ps(_mm512_loadu_ps(line.0.as_ptr()), scaled) };
            _mm512_storeu_ps(line.0.as_mut_ptr(), total);
        }
    }
}

/// The tiles' shapes as the unit is told them: palette 1.
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

/// This thread's tile unit, given back when dropped. Activations stay in `tmm0` to `tmm3` while panels go by.
///
/// The compiler does not use the tile registers by itself, so what one block of assembly leaves there the next finds.
struct Unit {
    rows: usize,
    _granted: Amx,
}

impl Unit {
    fn new(granted: Amx) -> Self {
        Self { rows: 0, _granted: granted }
    }

    /// Takes up to 16 rows of activations.
    #[inline(always)]
    fn load<const BYTES: usize>(&mut self, rows: usize, activations: &Activations<BYTES>) {
        if self.rows != rows {
            self.rows = rows;
            let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
            config.row_bytes[..8].fill(64);
            let (rows, side) = (rows as u8, SIDE as u8);
            config.rows[..8].copy_from_slice(&[rows, rows, rows, rows, side, side, rows, rows]);
            // SAFETY: an `Amx` is only there where the instruction is; the shapes are within palette 1.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        }
        // SAFETY: the tiles have at most 16 rows of 64 bytes, and as many lie behind each address.
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

    /// Sums over one group of a panel.
    #[inline(always)]
    fn multiply<const BYTES: usize>(&self, weights: &Weights, sums: &mut Sums<BYTES>) {
        if BYTES == 1 {
            // SAFETY: as for `load`, and the sums have room for 16 rows of 64 bytes.
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
        // SAFETY: as for `load`, and the sums have room for 16 rows of 64 bytes each.
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

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: as for the others. Tiles without a shape are not saved when another thread takes the core.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
