//! Measures the matrix products and attention on this machine, next to candle's matrix products: `cargo run --release -p
//! kernels --example rates [ROWS] [REPEATS] [IMPLEMENTATION]`, where ROWS are comma-separated numbers of rows and
//! IMPLEMENTATION is the best one by default.
//!
//! With `RAYON_NUM_THREADS=1` it measures CPU time instead of wall time, so that other programs on the machine disturb it
//! less. With more threads CPU time would include their waiting.

use candle_core::{Device, Tensor};
use kernels::cpu::{
    Attention, CacheFormat, Context, Epilogue, Implementation, KeyValueCache, PackedWeights, Scratch, WeightFormat,
    attention, attention_i16, available, implementation, linear, rates, with_implementation,
};

/// [outputs, inputs] of the full model's layers and of a small model's.
const SHAPES: [(usize, usize); 11] = [
    (2048, 2048),
    (8192, 2048),
    (2048, 8192),
    (1024, 4096),
    (65_037, 2048),
    (192, 192),
    (576, 192),
    (768, 192),
    (896, 256),
    (256, 896),
    (4138, 256),
];

const FORMATS: [WeightFormat; 4] = [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Int8, WeightFormat::W8A8];

fn main() -> candle_core::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rows: Vec<usize> = arguments
        .next()
        .map(|list| list.split(',').filter_map(|rows| rows.parse().ok()).collect())
        .unwrap_or_else(|| vec![1, 8, 16, 71, 257, 568]);
    let repeats = arguments.next().and_then(|repeats| repeats.parse().ok()).unwrap_or(5_usize);
    let Some(name) = arguments.next() else {
        return report(&rows, repeats);
    };
    match available().into_iter().find(|implementation| implementation.name() == name) {
        Some(implementation) => with_implementation(implementation, || report(&rows, repeats)),
        None => candle_core::bail!(
            "this CPU supports {:?}, not {name:?}",
            available().into_iter().map(Implementation::name).collect::<Vec<_>>()
        ),
    }
}

fn report(rows: &[usize], repeats: usize) -> candle_core::Result<()> {
    let threads = rayon::current_num_threads();
    println!(
        "{} on {threads} threads; f32 {:.0} GFLOP/s, i16 dot {:.0} GOP/s, i8 dot {:.0}, memory {:.1} GB/s",
        implementation(),
        rates::fma_gflops(WeightFormat::F32, threads),
        rates::fma_gflops(WeightFormat::Int8, threads),
        rates::fma_gflops(WeightFormat::W8A8, threads),
        rates::read_gb_per_s(threads),
    );
    println!("\nMatrix products, GFLOP/s (in parentheses: GB/s of weights)");
    println!(
        "{:>14} {:>4} {:>16} {:>16} {:>16} {:>16} {:>16}",
        "[out x in]", "rows", "candle f32", "f32", "bf16", "int8", "w8a8"
    );
    for (outputs, inputs) in SHAPES {
        products(outputs, inputs, rows, repeats)?;
    }
    println!("\nAttention, GFLOP/s");
    attentions(repeats);
    Ok(())
}

/// Values that are not zero, denormal or all equal.
fn data(count: usize) -> Vec<f32> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// Seconds of CPU time or wall time; see above.
fn now() -> f64 {
    let single_threaded = rayon::current_num_threads() == 1;
    let clock = if single_threaded { libc::CLOCK_PROCESS_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec to the pointer, which is valid.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The median time of each piece of work in seconds. They run in alternation, and a sample of short work is many calls.
fn medians(repeats: usize, work: &mut [Box<dyn FnMut() + '_>]) -> Vec<f64> {
    let mut calls = Vec::new();
    for work in work.iter_mut() {
        work();
        let start = now();
        work();
        calls.push((0.01 / (now() - start).max(1e-7)).ceil() as usize);
    }
    let mut times = vec![Vec::new(); work.len()];
    for _ in 0..repeats {
        for ((work, times), &calls) in work.iter_mut().zip(&mut times).zip(&calls) {
            let start = now();
            (0..calls).for_each(|_| work());
            times.push((now() - start) / calls as f64);
        }
    }
    times.into_iter().map(median).collect()
}

fn products(outputs: usize, inputs: usize, rows: &[usize], repeats: usize) -> candle_core::Result<()> {
    let dense = data(outputs * inputs);
    let packed = FORMATS.map(|format| PackedWeights::pack(&dense, outputs, inputs, format));
    let tensor = Tensor::from_vec(dense, (outputs, inputs), &Device::Cpu)?.t()?;
    for &rows in rows {
        let x = data(rows * inputs);
        let x_tensor = Tensor::from_slice(&x, (rows, inputs), &Device::Cpu)?;
        let mut work: Vec<Box<dyn FnMut()>> = vec![Box::new(|| {
            std::hint::black_box(x_tensor.matmul(&tensor).ok());
        })];
        for weights in &packed {
            let (mut out, mut scratch) = (vec![0.0; rows * outputs], Scratch::new());
            let x = &x;
            work.push(Box::new(move || linear(x, weights, None, Epilogue::Store, &mut out, &mut scratch)));
        }
        let times = medians(repeats, &mut work);
        let flops = 2.0 * (rows * outputs * inputs) as f64;
        let bytes = std::iter::once(outputs * inputs * 4).chain(packed.iter().map(PackedWeights::bytes));
        let cells = times.iter().zip(bytes).map(|(time, bytes)| {
            let bandwidth = if rows <= 16 { format!(" ({:.1})", bytes as f64 / time / 1e9) } else { String::new() };
            format!("{:.1}{bandwidth}", flops / time / 1e9)
        });
        let cells: Vec<String> = cells.map(|cell| format!("{cell:>16}")).collect();
        println!("{:>14} {rows:>4} {}", format!("{outputs} x {inputs}"), cells.join(" "));
    }
    Ok(())
}

fn attentions(repeats: usize) {
    // (name, jobs, queries, keys, heads, head_dim, causal)
    let cases = [
        ("vision 257x257", 1, 257, 257, 16, 64, false),
        ("prefill 71x71", 1, 71, 71, 32, 64, true),
        ("decode 8 x 1x135", 8, 1, 135, 32, 64, true),
        ("decode 8 x 1x2048", 8, 1, 2048, 32, 64, true),
        ("small vision", 1, 257, 257, 6, 32, false),
        ("small decode 8", 8, 1, 135, 8, 32, true),
    ];
    for (name, jobs, queries, keys, heads, dim, causal) in cases {
        let width = heads * dim;
        let inputs: Vec<_> =
            (0..jobs).map(|_| (data(queries * width), data(keys * width), data(keys * width))).collect();
        let mut outs = vec![vec![0.0; queries * width]; jobs];
        let mut scratch = Scratch::new();
        // Causal attention reads a cache, as in the decoder.
        let caches = [CacheFormat::F32, CacheFormat::Bf16].map(|format| {
            let cache = |(_, keys_of, values): &(Vec<f32>, Vec<f32>, Vec<f32>)| {
                let mut cache = KeyValueCache::new(keys, heads, dim, format);
                let rows = keys_of.chunks_exact(width).zip(values.chunks_exact(width)).enumerate();
                rows.for_each(|(position, (key, value))| cache.write(position, key, value));
                cache
            };
            inputs.iter().filter(|_| causal).map(cache).collect::<Vec<_>>()
        });
        let mut run = |kind: &str| {
            let caches = &caches[usize::from(kind == "bf16")];
            let mut list: Vec<Attention<'_>> = outs
                .iter_mut()
                .zip(&inputs)
                .enumerate()
                .map(|(job, (out, (queries_of, keys_of, values)))| Attention {
                    queries: queries_of,
                    query_stride: width,
                    context: match causal {
                        true => Context::Cache(&caches[job]),
                        false => Context::Rows { keys: keys_of, values, stride: width },
                    },
                    key_count: keys,
                    causal_offset: causal.then_some(keys - queries),
                    out,
                })
                .collect();
            if kind == "i16" {
                list.into_iter().for_each(|job| attention_i16(job, heads, dim, &mut scratch));
            } else {
                attention(&mut list, heads, dim, &mut scratch);
            }
        };
        let visible: usize = (0..queries).map(|query| if causal { keys - queries + query + 1 } else { keys }).sum();
        let flops = (4 * jobs * visible * width) as f64;
        let kinds = if causal { &["f32", "bf16"][..] } else { &["f32", "i16"][..] };
        for kind in kinds {
            let time = medians(repeats, &mut [Box::new(|| run(kind))])[0];
            println!("{name:>20} {kind:>8} {:>10.1} GFLOP/s {:>10.1} us", flops / time / 1e9, time * 1e6);
        }
    }
}
