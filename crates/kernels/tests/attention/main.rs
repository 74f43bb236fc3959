//! Attention compared with candle's plain operations, and between batches, caches and implementations.
#![allow(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod cache;
#[path = "../common/mod.rs"]
mod common;

use candle_core::{D, Device, Tensor};
use common::{bits, each_implementation, largest_error, normal, tensor, values};
use kernels::cpu::{
    Attention, Context, Implementation, Scratch, attention, attention_i16, available, with_implementation,
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
