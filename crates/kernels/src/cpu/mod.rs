//! Matrix products, attention and the small operations around them on the CPU, over packed weights.
//!
//! Every kernel is written once over vectors of 16 lanes (the `Simd` trait) and compiled for AVX-512 (with and
//! without VNNI), for AVX2 with FMA, and for any CPU; the best implementation that the machine supports is chosen at run
//! time. Integer products of several rows, and products in bf16, run on the AMX tile unit if there is one.
//!
//! **The result of a row does not depend on the other rows.** Each output element is computed by one fixed sequence of
//! floating-point operations: inputs in order, in blocks of fixed length, independent of the number of rows, of the
//! tile that contains the row and of the number of threads. A row in a batch is bit-identical to the row alone. The lane
//! count is part of the sequence and is the same for every implementation, so AVX2 and AVX-512 are bit-identical too.
//! The portable implementation differs by rounding where the CPU has no fused multiply-add, except in integer products,
//! which are bit-identical everywhere. Products in bf16 on AMX differ from those of all other CPUs.
//!
//! Weight formats (activations are f32):
//! * [`WeightFormat::F32`]: products and sums in f32.
//! * [`WeightFormat::Bf16`]: weights rounded to nearest even and widened when loaded; products and sums in f32. With AMX,
//!   several times as fast, activations are rounded to bf16 too, and denormals count as zero. The `dpbf16` instructions
//!   of AVX-512 do the same for twice the speed at most, and are not used.
//! * [`WeightFormat::Int8`]: weights in 8 bits with one f32 scale for each output and group of [`GROUP`] inputs;
//!   activations are rounded on the fly to 16 bits with one scale for each row and group. Sums within a group are exact
//!   in i32, and groups are added in f32 in order. Nearly all of the error is from the rounding of the weights.
//! * [`WeightFormat::W8A8`]: the same weights; activations are rounded to 8 bits between the smallest and the largest of
//!   a row's group, so that a product takes one instruction instead of two on CPUs that multiply bytes (VNNI, AMX).
//!
//! [`attention`] is f32, also over the keys and values of a [`KeyValueCache`] in bf16, which are widened when loaded;
//! [`attention_i16`], for the two integer formats, computes its products in 16-bit integers.

mod aligned;
#[cfg(target_arch = "x86_64")]
mod amx_linear;
mod attention;
#[cfg(target_arch = "x86_64")]
mod bf16_tiles;
mod column_filter;
mod dispatch;
mod element;
mod epilogue;
mod key_value_cache;
mod linear;
mod math;
mod microkernel;
mod norms;
mod packing;
mod parallel;
pub mod rates;
mod reductions;
mod rounding;
mod row_filter;
mod scratch;
mod simd;
mod storage;
#[cfg(target_arch = "x86_64")]
mod tile_plan;
mod weights;

pub use attention::{Attention, Context, attention, attention_i16};
pub use column_filter::filter_columns;
pub use dispatch::{Implementation, available, implementation, multiplies_bytes, with_implementation};
pub use epilogue::Epilogue;
pub use key_value_cache::{CacheFormat, KeyValueCache};
pub use linear::linear;
pub use microkernel::GROUP;
pub use norms::{l2_normalize, layer_norm, layer_norm_in_place};
pub use reductions::{argmax, log_sum_exp};
pub use row_filter::RowFilter;
pub use scratch::Scratch;
pub use weights::{PackedWeights, WeightFormat};
