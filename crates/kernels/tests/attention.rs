//! Attention compared with candle's plain operations, and between batches, caches and implementations.
#![allow(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod common;

use candle_core::{D, DType, Device, Tensor};
use common::{bits, each_implementation, largest_error, normal, tensor, values};
use kernels::cpu::{
    Attention, CacheFormat, Context, Implementation, KeyValueCache, Scratch, attention, attention_i16, available,
    with_implementation,
};

struct Case {
    queries: usize,
    keys: usize,
    heads: usize,
    dim: usize,
    causal_offset: Option<usize>,
}

impl Case {
    fn data(&self, seed: u64) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let width = self.heads * self.dim;
        let keys = |seed| normal(seed, self.keys * width);
        (normal(seed, self.queries * width), keys(seed + 1), keys(seed + 2))
    }

    fn run(&self, data: &(Vec<f32>, Vec<f32>, Vec<f32>)) -> Vec<f32> {
        self.with_job(data, |job| attention(&mut [job], self.heads, self.dim, &mut Scratch::new()))
    }

    /// With products of 16-bit integers.
    fn run_i16(&self, data: &(Vec<f32>, Vec<f32>, Vec<f32>)) -> Vec<f32> {
        self.with_job(data, |job| attention_i16(job, self.heads, self.dim, &mut Scratch::new()))
    }

    fn with_job(&self, (q, k, v): &(Vec<f32>, Vec<f32>, Vec<f32>), run: impl FnOnce(Attention<'_>)) -> Vec<f32> {
        let width = self.heads * self.dim;
        let mut out = vec![f32::NAN; self.queries * width];
        let job = Attention {
            queries: q,
            query_stride: width,
            context: Context::Rows { keys: k, values: v, stride: width },
            key_count: self.keys,
            causal_offset: self.causal_offset,
            out: &mut out,
        };
        run(job);
        out
    }

    fn reference(&self, (q, k, v): &(Vec<f32>, Vec<f32>, Vec<f32>)) -> Vec<f32> {
        let split = |x: &[f32], rows: usize| {
            let x = tensor(x, &[rows, self.heads, self.dim]);
            x.transpose(0, 1).unwrap().contiguous().unwrap()
        };
        let (q, k, v) = (split(q, self.queries), split(k, self.keys), split(v, self.keys));
        let scores = q.matmul(&k.t().unwrap().contiguous().unwrap()).unwrap();
        let mut scores = scores.affine(1.0 / (self.dim as f64).sqrt(), 0.0).unwrap();
        if let Some(offset) = self.causal_offset {
            let mask: Vec<f32> = (0..self.queries * self.keys)
                .map(|at| if at % self.keys <= offset + at / self.keys { 0.0 } else { f32::NEG_INFINITY })
                .collect();
            let mask = Tensor::from_vec(mask, (1, self.queries, self.keys), &Device::Cpu).unwrap();
            scores = scores.broadcast_add(&mask).unwrap();
        }
        let weights = candle_nn::ops::softmax(&scores, D::Minus1).unwrap();
        values(&weights.matmul(&v).unwrap().transpose(0, 1).unwrap().contiguous().unwrap())
    }
}

#[test]
fn attention_equals_candles() {
    let cases = [
        Case { queries: 257, keys: 257, heads: 2, dim: 64, causal_offset: None },
        Case { queries: 71, keys: 71, heads: 3, dim: 64, causal_offset: Some(0) },
        Case { queries: 5, keys: 75, heads: 8, dim: 32, causal_offset: Some(70) },
        Case { queries: 1, keys: 1, heads: 1, dim: 64, causal_offset: Some(0) },
        Case { queries: 1, keys: 64, heads: 4, dim: 64, causal_offset: None },
        Case { queries: 1, keys: 2049, heads: 2, dim: 64, causal_offset: Some(2048) },
        Case { queries: 13, keys: 33, heads: 2, dim: 32, causal_offset: Some(7) },
        Case { queries: 3, keys: 17, heads: 2, dim: 24, causal_offset: None },
        Case { queries: 30, keys: 19, heads: 1, dim: 7, causal_offset: None },
    ];
    for (index, case) in cases.iter().enumerate() {
        let data = case.data(10 * index as u64);
        let reference = case.reference(&data);
        each_implementation(|implementation| {
            let error = largest_error(&case.run(&data), &reference);
            assert!(error < 5e-6, "{implementation:?} case {index}: {error:e}");
        });
    }
}

#[test]
fn a_query_alone_equals_the_query_in_its_prompt_bit_for_bit() {
    for (heads, dim) in [(2, 64), (3, 32), (1, 40)] {
        let whole = Case { queries: 71, keys: 71, heads, dim, causal_offset: Some(0) };
        let width = heads * dim;
        let data = whole.data(77);
        each_implementation(|implementation| {
            let in_prompt = bits(&whole.run(&data));
            for (start, count) in [(0, 1), (1, 1), (40, 1), (70, 1), (0, 7), (30, 20), (64, 7)] {
                let keys = start + count;
                let part = Case { queries: count, keys, causal_offset: Some(start), ..whole };
                let part_data = (
                    data.0[start * width..keys * width].to_vec(),
                    data.1[..keys * width].to_vec(),
                    data.2[..keys * width].to_vec(),
                );
                let alone = bits(&part.run(&part_data));
                assert!(
                    alone == in_prompt[start * width..keys * width],
                    "{implementation:?} {start}+{count} {heads}x{dim}"
                );
            }
        });
    }
}

#[test]
fn many_jobs_of_different_lengths_equal_each_alone() {
    let (heads, dim) = (4, 64);
    let width = heads * dim;
    let lengths = [64, 300, 1, 71, 2048, 15, 16, 17];
    let cases: Vec<Case> =
        lengths.iter().map(|&keys| Case { queries: 1, keys, heads, dim, causal_offset: Some(keys - 1) }).collect();
    let data: Vec<_> = cases.iter().enumerate().map(|(index, case)| case.data(1000 + 10 * index as u64)).collect();
    let mut outs = vec![vec![f32::NAN; width]; cases.len()];
    let mut jobs: Vec<Attention<'_>> = outs
        .iter_mut()
        .zip(&data)
        .zip(&lengths)
        .map(|((out, (q, k, v)), &key_count)| Attention {
            queries: q,
            query_stride: width,
            context: Context::Rows { keys: k, values: v, stride: width },
            key_count,
            causal_offset: Some(key_count - 1),
            out,
        })
        .collect();
    attention(&mut jobs, heads, dim, &mut Scratch::new());
    for ((case, data), out) in cases.iter().zip(&data).zip(&outs) {
        assert_eq!(bits(&case.run(data)), bits(out), "{} keys", case.keys);
    }
}

#[test]
fn strides_skip_what_lies_between_rows() {
    let case = Case { queries: 20, keys: 20, heads: 2, dim: 32, causal_offset: Some(0) };
    let data = case.data(5);
    let width = 64;
    // Queries, keys and values interleaved, as a fused projection writes them.
    let mut fused = vec![f32::NAN; 20 * 3 * width];
    for token in 0..20 {
        for (part, source) in [&data.0, &data.1, &data.2].into_iter().enumerate() {
            fused[token * 3 * width + part * width..][..width].copy_from_slice(&source[token * width..][..width]);
        }
    }
    let mut out = vec![f32::NAN; 20 * width];
    let job = Attention {
        queries: &fused,
        query_stride: 3 * width,
        context: Context::Rows { keys: &fused[width..], values: &fused[2 * width..], stride: 3 * width },
        key_count: 20,
        causal_offset: Some(0),
        out: &mut out,
    };
    attention(&mut [job], 2, 32, &mut Scratch::new());
    assert_eq!(bits(&out), bits(&case.run(&data)));
}

/// The result of the queries over the cache.
fn run_in_cache(case: &Case, queries: &[f32], cache: &KeyValueCache) -> Vec<f32> {
    let width = case.heads * case.dim;
    let mut out = vec![f32::NAN; case.queries * width];
    let job = Attention {
        queries,
        query_stride: width,
        context: Context::Cache(cache),
        key_count: case.keys,
        causal_offset: case.causal_offset,
        out: &mut out,
    };
    attention(&mut [job], case.heads, case.dim, &mut Scratch::new());
    out
}

fn write(cache: &mut KeyValueCache, positions: std::ops::Range<usize>, keys: &[f32], values: &[f32]) {
    let width = keys.len() / positions.len();
    for (position, (key, value)) in positions.zip(keys.chunks(width).zip(values.chunks(width))) {
        cache.write(position, key, value);
    }
}

const CACHE_FORMATS: [CacheFormat; 2] = [CacheFormat::F32, CacheFormat::Bf16];

/// The values that a cache holds after they were written.
fn stored(values: &[f32], format: CacheFormat) -> Vec<f32> {
    match format {
        CacheFormat::F32 => values.to_vec(),
        CacheFormat::Bf16 => {
            let rounded = tensor(values, &[values.len()]).to_dtype(DType::BF16).unwrap();
            common::values(&rounded.to_dtype(DType::F32).unwrap())
        }
    }
}

#[test]
fn a_cache_gives_the_bits_that_rows_of_what_it_stores_give() {
    for (queries, keys, heads, dim) in
        [(1, 1, 1, 64), (1, 75, 8, 32), (1, 112, 6, 48), (5, 33, 3, 64), (71, 71, 2, 64), (3, 17, 2, 24), (1, 9, 5, 7)]
    {
        let case = Case { queries, keys, heads, dim, causal_offset: Some(keys - queries) };
        let mut data = case.data(keys as u64);
        // Halfway between two neighbours in bf16.
        let tie = |value: &mut f32| *value = f32::from_bits(value.to_bits() & 0xffff_0000 | 0x8000);
        data.1.iter_mut().chain(&mut data.2).step_by(3).for_each(tie);
        for format in CACHE_FORMATS {
            let mut cache = KeyValueCache::new(keys, heads, dim, format);
            // Leftovers of another sequence must not matter.
            let leftovers = vec![1e30; keys * heads * dim];
            write(&mut cache, 0..keys, &leftovers, &leftovers);
            write(&mut cache, 0..keys, &data.1, &data.2);
            let rows = (data.0.clone(), stored(&data.1, format), stored(&data.2, format));
            each_implementation(|implementation| {
                let found = bits(&run_in_cache(&case, &data.0, &cache));
                let same = found == bits(&case.run(&rows));
                assert!(same, "{implementation:?} {format:?} {queries} of {keys}, {heads}x{dim}");
            });
        }
    }
}

#[test]
fn a_query_over_a_cache_has_the_same_bits_alone_and_in_its_prompt() {
    // Four heads and more are computed at once if there is a single query.
    for (heads, dim) in [(8, 64), (6, 32), (2, 40)] {
        let whole = Case { queries: 71, keys: 71, heads, dim, causal_offset: Some(0) };
        let width = heads * dim;
        let data = whole.data(78);
        for format in CACHE_FORMATS {
            let mut cache = KeyValueCache::new(71, heads, dim, format);
            write(&mut cache, 0..71, &data.1, &data.2);
            each_implementation(|implementation| {
                let in_prompt = bits(&run_in_cache(&whole, &data.0, &cache));
                for (start, count) in [(0, 1), (1, 1), (40, 1), (70, 1), (0, 7), (30, 20), (64, 7)] {
                    let rows = start * width..(start + count) * width;
                    let part = Case { queries: count, keys: start + count, causal_offset: Some(start), ..whole };
                    let alone = bits(&run_in_cache(&part, &data.0[rows.clone()], &cache));
                    assert!(alone == in_prompt[rows], "{implementation:?} {format:?} {start}+{count} {heads}x{dim}");
                }
            });
        }
    }
}

#[test]
fn copied_places_are_the_others_and_the_rest_stays() {
    let case = Case { queries: 1, keys: 50, heads: 2, dim: 32, causal_offset: None };
    let (mine, other) = (case.data(1), case.data(2));
    let width = 64;
    for format in CACHE_FORMATS {
        for positions in [0..50, 0..16, 16..48, 5..9, 0..37, 31..50, 7..7] {
            let [mut cache, mut source] = [(); 2].map(|()| KeyValueCache::new(50, 2, 32, format));
            write(&mut source, 0..50, &other.1, &other.2);
            write(&mut cache, 0..50, &mine.1, &mine.2);
            cache.copy_from(&source, positions.clone());
            let mut expected = mine.clone();
            let range = positions.start * width..positions.end * width;
            expected.1[range.clone()].copy_from_slice(&other.1[range.clone()]);
            expected.2[range.clone()].copy_from_slice(&other.2[range]);
            let expected = (expected.0, stored(&expected.1, format), stored(&expected.2, format));
            let found = bits(&run_in_cache(&case, &mine.0, &cache));
            assert_eq!(found, bits(&case.run(&expected)), "{format:?} {positions:?}");
        }
    }
}

#[test]
#[should_panic(expected = "both caches must have the same format")]
fn caches_of_different_formats_are_not_copied() {
    let [mut cache, source] = CACHE_FORMATS.map(|format| KeyValueCache::new(16, 1, 16, format));
    cache.copy_from(&source, 0..16);
}

#[test]
fn a_cache_in_bf16_takes_half_the_bytes() {
    // A token of the published size: 24 layers of 32 heads.
    let bytes = |format| 24 * KeyValueCache::bytes(512, 32, 64, format) / 512;
    assert_eq!(CACHE_FORMATS.map(bytes), [393_216, 196_608]);
    // Whole panels of 16 tokens.
    assert_eq!(KeyValueCache::bytes(17, 1, 8, CacheFormat::Bf16), 2 * 32 * 8 * 2);
}

#[test]
fn large_scores_do_not_overflow() {
    let case = Case { queries: 9, keys: 40, heads: 1, dim: 64, causal_offset: None };
    let (q, k, v) = case.data(6);
    let data = (q.iter().map(|x| x * 100.0).collect(), k.iter().map(|x| x * 100.0).collect(), v);
    let error = largest_error(&case.run(&data), &case.reference(&data));
    // Scores of about 10^5 have an error of 10^-2 in the exponent on both sides.
    assert!(error < 0.05, "{error:e}");
}

/// (queries, keys, heads, dimensions) in which every query sees all keys.
const ALL_SEEN: [(usize, usize, usize, usize); 9] = [
    (257, 257, 2, 64),
    (64, 321, 8, 32),
    (257, 257, 6, 32),
    (1, 1, 1, 64),
    (9, 2049, 2, 64),
    (2, 4097, 1, 64),
    (13, 33, 2, 48),
    (3, 17, 2, 24),
    (30, 19, 1, 7),
];

#[test]
fn integers_give_what_floats_give_within_their_rounding() {
    for (index, (queries, keys, heads, dim)) in ALL_SEEN.into_iter().enumerate() {
        let case = Case { queries, keys, heads, dim, causal_offset: None };
        let (q, k, v) = case.data(300 + 10 * index as u64);
        // From a nearly uniform softmax to one that is concentrated on a single key.
        for sharpness in [0.01, 1.0, 6.0] {
            let data = (q.iter().map(|x| x * sharpness).collect(), k.clone(), v.clone());
            let reference = case.reference(&data);
            each_implementation(|implementation| {
                let error = largest_error(&case.run_i16(&data), &reference);
                // The error of values is about 3e-4 of their standard deviation, at worst several times that; of scores
                // 1e-4 of up to sharpness * 10; and of nearly uniform weights less than a step of keys / 522,000 each.
                let tolerance = 3e-3 * f64::from(sharpness.max(1.0)) + keys as f64 / 522_000.0;
                assert!(error < tolerance, "{implementation:?} case {index}, sharpness {sharpness}: {error:e}");
            });
        }
    }
}

#[test]
fn integers_have_the_same_bits_alone_and_on_implementations_with_fused_arithmetic() {
    for (queries, keys, heads, dim) in ALL_SEEN {
        let case = Case { queries, keys, heads, dim, causal_offset: None };
        let data = case.data(keys as u64);
        let width = heads * dim;
        let mut fused = available();
        fused.retain(|&implementation| implementation != Implementation::Portable);
        let results: Vec<_> =
            fused.iter().map(|&which| with_implementation(which, || bits(&case.run_i16(&data)))).collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{queries}x{keys}x{heads}x{dim} over {fused:?}");
        each_implementation(|implementation| {
            let in_batch = bits(&case.run_i16(&data));
            for (row, query) in data.0.chunks(width).enumerate().step_by(7) {
                let alone = Case { queries: 1, ..case };
                let found = bits(&alone.run_i16(&(query.to_vec(), data.1.clone(), data.2.clone())));
                assert!(found == in_batch[row * width..][..width], "{implementation:?} query {row} of {queries}");
            }
        });
    }
}

#[test]
fn sums_of_integers_do_not_overflow() {
    // The largest possible sums: every value is at the end of its range and of one sign, and all weights are equal.
    let case = Case { queries: 8, keys: 4096, heads: 1, dim: 2, causal_offset: None };
    let data = (vec![1.0; 16], vec![-3.0; 2 * case.keys], vec![7.0; 2 * case.keys]);
    each_implementation(|implementation| {
        let out = case.run_i16(&data);
        assert!(out.iter().all(|value| (value - 7.0).abs() < 1e-3), "{implementation:?} {out:?}");
    });
    let case = Case { queries: 9, keys: 40, heads: 1, dim: 256, causal_offset: None };
    let data = (vec![-2.0; 9 * 256], vec![5.0; 40 * 256], vec![-7.0; 40 * 256]);
    each_implementation(|implementation| {
        let out = case.run_i16(&data);
        assert!(out.iter().all(|value| (value + 7.0).abs() < 1e-3), "{implementation:?} {out:?}");
    });
}

#[test]
fn what_is_not_a_number_shows_in_the_result_of_integers() {
    let case = Case { queries: 9, keys: 40, heads: 1, dim: 32, causal_offset: None };
    let (q, k, v) = case.data(8);
    each_implementation(|implementation| {
        for poison in [f32::NAN, f32::INFINITY] {
            let mut data = (q.clone(), k.clone(), v.clone());
            data.0[3 * 32 + 5] = poison;
            let out = case.run_i16(&data);
            assert!(out[3 * 32..4 * 32].iter().all(|value| value.is_nan()), "{implementation:?} {poison}");
            assert!(out[..3 * 32].iter().all(|value| value.is_finite()), "{implementation:?} {poison}");
            let mut data = (q.clone(), k.clone(), v.clone());
            data.1[17 * 32] = poison;
            let out = case.run_i16(&data);
            assert!(out.iter().all(|value| value.is_nan()), "{implementation:?} {poison}");
            let mut data = (q.clone(), k.clone(), v.clone());
            data.2[39 * 32 + 31] = poison;
            let out = case.run_i16(&data);
            let shows = out.iter().enumerate().all(|(at, value)| value.is_nan() == (at % 32 == 31));
            assert!(shows, "{implementation:?} {poison}");
        }
    });
}

#[test]
#[should_panic(expected = "every query must see all keys")]
fn integers_are_not_for_causal_attention() {
    let mut out = vec![0.0; 64];
    let job = Attention {
        queries: &[0.0; 64],
        query_stride: 64,
        context: Context::Rows { keys: &[0.0; 64], values: &[0.0; 64], stride: 64 },
        key_count: 1,
        causal_offset: Some(0),
        out: &mut out,
    };
    attention_i16(job, 1, 64, &mut Scratch::new());
}

#[test]
#[should_panic(expected = "keys must hold 9 rows")]
fn keys_that_are_not_there_are_refused() {
    let (q, k) = (vec![0.0; 64], vec![0.0; 8 * 64]);
    let mut out = vec![0.0; 64];
    let job = Attention {
        queries: &q,
        query_stride: 64,
        context: Context::Rows { keys: &k, values: &k, stride: 64 },
        key_count: 9,
        causal_offset: None,
        out: &mut out,
    };
    attention(&mut [job], 1, 64, &mut Scratch::new());
}
