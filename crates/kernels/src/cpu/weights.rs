//! Weight matrices, packed once into panels of 16 outputs.

use rayon::prelude::*;

use super::element::to_bf16;
use super::key_value_cache::CacheFormat;
use super::microkernel::{self, Format, GROUP, GROUP_STEPS, WEIGHT_BIAS};
use super::packing::Pack;
use super::simd::LANES;
use super::simd::portable::from_bf16;
use super::storage::Storage;

/// How weights are stored and activations are rounded; see the [module](super).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    /// 4 bytes a weight, exact.
    F32,
    /// 2 bytes a weight, 8 bits of precision.
    Bf16,
    /// 1 byte a weight and 4 for each [`GROUP`] of them; activations are rounded to 2 bytes.
    Int8,
    /// The same weights and 4 more bytes for each [`GROUP`]; activations are rounded to 1 byte.
    W8A8,
}

impl WeightFormat {
    /// Whether products are computed in integers.
    pub fn is_integer(self) -> bool {
        matches!(self, Self::Int8 | Self::W8A8)
    }

    /// How a model with such weights stores keys and values: exact beside exact weights. Beside rounded ones, rounding
    /// keys and values to bf16 adds little to the error.
    pub fn cache_format(self) -> CacheFormat {
        match self {
            Self::F32 => CacheFormat::F32,
            Self::Bf16 | Self::Int8 | Self::W8A8 => CacheFormat::Bf16,
        }
    }
}

/// The weights of a linear layer, `[outputs, inputs]`, in the order the kernels read them.
#[derive(Debug)]
pub struct PackedWeights {
    outputs: usize,
    inputs: usize,
    panels: Panels,
}

/// Consecutive panels of 16 outputs. Padding outputs and inputs are zeros.
#[derive(Debug)]
enum Panels {
    F32(Storage<[f32; LANES]>),
    Bf16(Storage<[u16; 2 * LANES]>),
    /// Padded by one group after the last step, for readers of whole groups.
    Int8 {
        steps: Storage<[u8; 4 * LANES]>,
        scales: Storage<[f32; LANES]>,
        /// The sum of each group's rounded weights; present if activations are rounded to one byte.
        sums: Option<Storage<[f32; LANES]>>,
    },
}

/// Panels of a known format.
pub(crate) struct View<'a, F: Format> {
    pub(crate) steps: &'a [F::Step],
    /// `[panels][groups]`; empty if the format has no scales.
    pub(crate) scales: &'a [[f32; LANES]],
    /// `[panels][groups]`; empty if the format needs no sums.
    pub(crate) sums: &'a [[f32; LANES]],
}

/// A computation that is generic over the weight format; see [`PackedWeights::with_format`].
pub(crate) trait WithFormat {
    fn with<F: Format + Pack>(self, view: View<'_, F>);
}

impl PackedWeights {
    /// Packs a row-major `[outputs, inputs]` matrix.
    ///
    /// # Panics
    /// If `weights` does not hold `outputs * inputs` values, or one of the two is 0.
    pub fn pack(weights: &[f32], outputs: usize, inputs: usize, format: WeightFormat) -> Self {
        assert!(outputs > 0 && inputs > 0, "a weight matrix must have outputs and inputs, not [{outputs}, {inputs}]");
        let count = outputs.saturating_mul(inputs);
        assert!(
            weights.len() == count,
            "a [{outputs}, {inputs}] matrix must hold {count} weights, not {}",
            weights.len()
        );
        let count = outputs.div_ceil(LANES);
        let pairs = inputs.div_ceil(2);
        let panels = match format {
            WeightFormat::F32 => {
                let mut steps = Storage::zeroed(count * inputs);
                fill(&mut steps, inputs, weights, inputs, |panel: &mut [[f32; LANES]], output, row| {
                    panel.iter_mut().zip(row).for_each(|(step, &weight)| step[output] = weight);
                });
                Panels::F32(steps)
            }
            WeightFormat::Bf16 => {
                let mut steps = Storage::zeroed(count * pairs);
                fill(&mut steps, pairs, weights, inputs, |panel: &mut [[u16; 2 * LANES]], output, row| {
                    for (step, pair) in panel.iter_mut().zip(row.chunks(2)) {
                        pair.iter().enumerate().for_each(|(half, &weight)| step[2 * output + half] = to_bf16(weight));
                    }
                });
                Panels::Bf16(steps)
            }
            WeightFormat::Int8 | WeightFormat::W8A8 => {
                let (groups, quads) = (inputs.div_ceil(GROUP), inputs.div_ceil(4));
                let mut scales = Storage::<[f32; LANES]>::zeroed(count * groups);
                let mut sums = Storage::<[f32; LANES]>::zeroed(count * groups);
                let mut steps = Storage::zeroed(count * quads + GROUP_STEPS);
                let has_sums = format == WeightFormat::W8A8;
                let panels = scales.par_chunks_mut(groups).zip(sums.par_chunks_mut(groups));
                let panels = steps.par_chunks_mut(quads).zip(panels).zip(weights.par_chunks(LANES * inputs));
                panels.for_each(|((steps, (scales, sums)), rows)| {
                    for (output, row) in rows.chunks(inputs).enumerate() {
                        let groups = scales.iter_mut().zip(&mut *sums).zip(row.chunks(GROUP));
                        for (steps, ((scales, sums), group)) in steps.chunks_mut(GROUP_STEPS).zip(groups) {
                            let scale = group_scale(group);
                            scales[output] = scale;
                            let sum = pack_group(steps, output, group, scale);
                            // Pages that are never written take no memory.
                            if has_sums {
                                sums[output] = sum as f32 * scale;
                            }
                        }
                    }
                });
                Panels::Int8 { steps, scales, sums: has_sums.then_some(sums) }
            }
        };
        Self { outputs, inputs, panels }
    }

    /// Rows of the matrix.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the matrix.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// How the weights are stored.
    pub fn format(&self) -> WeightFormat {
        match self.panels {
            Panels::F32(_) => WeightFormat::F32,
            Panels::Bf16(_) => WeightFormat::Bf16,
            Panels::Int8 { sums: None, .. } => WeightFormat::Int8,
            Panels::Int8 { sums: Some(_), .. } => WeightFormat::W8A8,
        }
    }

    /// Bytes of memory the weights take, padding and scales included.
    pub fn bytes(&self) -> usize {
        match &self.panels {
            Panels::F32(steps) => steps.bytes(),
            Panels::Bf16(steps) => steps.bytes(),
            Panels::Int8 { steps, scales, sums } => {
                steps.bytes() + scales.bytes() + sums.as_ref().map_or(0, Storage::bytes)
            }
        }
    }

    /// Reads one row back as f32: looks up an embedding in the output head that it is tied to.
    ///
    /// # Panics
    /// If there is no such output, or `into` does not hold one value for each input.
    pub fn read_row(&self, output: usize, into: &mut [f32]) {
        assert!(output < self.outputs, "row {output} of a matrix of {} rows", self.outputs);
        assert!(into.len() == self.inputs, "a row holds {} weights, not {}", self.inputs, into.len());
        let (panel, lane) = (output / LANES, output % LANES);
        let pairs = self.inputs.div_ceil(2);
        match &self.panels {
            Panels::F32(steps) => {
                into.iter_mut().zip(&steps[panel * self.inputs..]).for_each(|(to, step)| *to = step[lane]);
            }
            Panels::Bf16(steps) => {
                for (to, step) in into.chunks_mut(2).zip(&steps[panel * pairs..]) {
                    to.iter_mut().enumerate().for_each(|(half, to)| *to = from_bf16(step[2 * lane + half]));
                }
            }
            Panels::Int8 { steps, scales, .. } => {
                let groups = self.inputs.div_ceil(GROUP);
                let quads = self.inputs.div_ceil(4);
                let panels = steps[panel * quads..].chunks(GROUP_STEPS).zip(&scales[panel * groups..]);
                for (to, (steps, scales)) in into.chunks_mut(GROUP).zip(panels) {
                    for (to, step) in to.chunks_mut(4).zip(steps) {
                        let widen =
                            |index: usize| (f32::from(step[4 * lane + index]) - WEIGHT_BIAS as f32) * scales[lane];
                        to.iter_mut().enumerate().for_each(|(index, to)| *to = widen(index));
                    }
                }
            }
        }
    }

    /// The panels, if they hold bf16.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn bf16(&self) -> Option<View<'_, microkernel::Bf16>> {
        match &self.panels {
            Panels::Bf16(steps) => Some(View { steps, scales: &[], sums: &[] }),
            _ => None,
        }
    }

    /// The panels, if they hold integers and activations are rounded to `BYTES` bytes.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn int8<const BYTES: usize>(&self) -> Option<View<'_, microkernel::Int8<BYTES>>> {
        match &self.panels {
            Panels::Int8 { steps, scales, sums } if sums.is_some() == (BYTES == 1) => {
                Some(View { steps, scales, sums: sums.as_deref().unwrap_or(&[]) })
            }
            _ => None,
        }
    }

    /// Calls `work` with the panels and their format as a type.
    pub(crate) fn with_format(&self, work: impl WithFormat) {
        match &self.panels {
            Panels::F32(steps) => work.with::<microkernel::F32>(View { steps, scales: &[], sums: &[] }),
            Panels::Bf16(steps) => work.with::<microkernel::Bf16>(View { steps, scales: &[], sums: &[] }),
            Panels::Int8 { steps, scales, sums: Some(sums) } => {
                work.with::<microkernel::Int8<1>>(View { steps, scales, sums });
            }
            Panels::Int8 { steps, scales, sums: None } => {
                work.with::<microkernel::Int8<2>>(View { steps, scales, sums: &[] });
            }
        }
    }
}

/// Fills panels of `length` steps, each from up to 16 rows of weights, in parallel.
fn fill<T: Send>(
    panels: &mut [T],
    length: usize,
    weights: &[f32],
    inputs: usize,
    row_into: impl Fn(&mut [T], usize, &[f32]) + Sync,
) {
    panels.par_chunks_mut(length).zip(weights.par_chunks(LANES * inputs)).for_each(|(panel, rows)| {
        rows.chunks(inputs).enumerate().for_each(|(output, row)| row_into(panel, output, row));
    });
}

/// The scale with which the largest weight becomes 127.
///
/// Clipping the largest weight for a finer scale does not pay off with 8 bits: a scale 2 % smaller reduces the rounding
/// error of 128 weights by 4 %, and clipping the largest weight alone adds as much again.
fn group_scale(group: &[f32]) -> f32 {
    // One maximum for each lane: a single one would be a chain of dependent operations.
    let mut largest = [0.0_f32; LANES];
    for part in group.chunks(LANES) {
        largest.iter_mut().zip(part).for_each(|(largest, weight)| *largest = largest.max(weight.abs()));
    }
    largest.into_iter().fold(0.0, f32::max) / 127.0
}

/// Packs a group of one output and returns the sum of its weights in multiples of the scale.
fn pack_group(steps: &mut [[u8; 4 * LANES]], output: usize, group: &[f32], scale: f32) -> i32 {
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    // From 2^23 on f32 represents integers only. Adding this constant therefore rounds to nearest, ties to even, without
    // a rounding instruction, and leaves the biased weight in the lowest byte.
    const ROUND_AND_BIAS: f32 = 1.5 * (1 << 23) as f32 + WEIGHT_BIAS as f32;
    let mut bytes = [0; GROUP];
    for (byte, &weight) in bytes.iter_mut().zip(group) {
        *byte = ((weight * inverse).clamp(-127.0, 127.0) + ROUND_AND_BIAS).to_bits() as u8;
    }
    for (step, quad) in steps.iter_mut().zip(bytes.as_chunks::<4>().0) {
        step[4 * output..][..4].copy_from_slice(quad);
    }
    bytes[..group.len()].iter().map(|&byte| i32::from(byte) - WEIGHT_BIAS).sum()
}
