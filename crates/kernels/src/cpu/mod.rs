//! Matrix products, attention and the small operations around them on the CPU, over packed weights.
//!
//! Every kernel is written once over vectors of 16 lanes (the `Simd` trait) and compiled for AVX-512 (with and
//! without VNNI), AVX2 with FMA, and for any CPU; the best the machine has is chosen at run time. Integer products of
//! several rows run on AMX's tile unit where there is one.
//!
//! **A row's result does not depend on its company.** Each output element is computed by one fixed sequence of
//! floating-point operations: inputs in order, in blocks of fixed length, whatever the number of rows, the tile a row
//! falls in or the number of threads. A row in a batch equals the row alone, bit for bit. The lane count is part of
//! the sequence and is the same for every implementation, so AVX2 and AVX-512 give the same bits too. The portable
//! implementation differs from them by rounding where the CPU lacks a fused multiply-add, except in the integer
//! products, which have the same bits everywhere.
//!
//! Weight formats, for activations that are always f32:
//! * [`WeightFormat::F32`]: products and sums in f32.
//! * [`WeightFormat::Bf16`]: weights rounded to nearest even, widened when loaded; products and sums in f32. The
//!   `dpbf16` instructions are not used: they round the activations too, flush denormals, and exist on few CPUs, so
//!   that results would differ from machine to machine.
//! * [`WeightFormat::Int8`]: weights in 8 bits with one f32 scale for each output and group of [`GROUP`] inputs;
//!   activations rounded on the fly to 16 bits with one scale for each row and group. Sums within a group are exact in
//!   i32, and groups are added in f32 in order. What error there is comes from the weights' rounding.
//! * [`WeightFormat::W8A8`]: the same weights; activations rounded to 8 bits between the least and the greatest of a row's
//!   group, so that a product takes one instruction in place of two where the CPU multiplies bytes (VNNI, AMX).
//!
//! Attention is f32; [`attention_in_integers`] makes its products of 16-bit integers, for the two integer formats.

mod activations;
#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod column_filter;
mod columns;
mod dispatch;
mod epilogue;
mod key_values;
mod linear;
mod math;
mod norms;
mod parallel;
pub mod rates;
mod reductions;
mod row_filter;
mod simd;
mod storage;
mod tile;
mod weights;

pub use activations::Scratch;
pub use attention::{Attention, Context, attention, attention_in_integers};
pub use column_filter::filter_columns;
pub use dispatch::{Implementation, available, implementation, multiplies_bytes, with_implementation};
pub use epilogue::Epilogue;
pub use key_values::KeyValueCache;
pub use linear::linear;
pub use norms::{l2_normalize, layer_norm, layer_norm_in_place};
pub use reductions::{argmax, log_sum_exp};
pub use row_filter::RowFilter;
pub use tile::GROUP;
pub use weights::{PackedWeights, WeightFormat};
