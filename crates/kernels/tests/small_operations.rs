//! Norms, activation functions and reductions compared with candle's operations and with f64.
#![allow(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod common;

use candle_core::{D, DType, Device, Tensor};
use common::{bits, each_implementation, largest_error, normal, tensor, values};
use kernels::cpu::{
    Epilogue, PackedWeights, Scratch, WeightFormat, argmax, l2_normalize, layer_norm, layer_norm_in_place, linear,
    log_sum_exp,
};

/// Applies an epilogue to single values, with one input and one weight of 1.
fn activation(epilogue: Epilogue, x: &[f32]) -> Vec<f32> {
    let one = PackedWeights::pack(&[1.0], 1, 1, WeightFormat::F32);
    let mut out = vec![f32::NAN; x.len()];
    linear(x, &one, None, epilogue, &mut out, &mut Scratch::new());
    out
}

fn grid() -> Vec<f32> {
    (-200_000..=200_000).map(|step| step as f32 * 1e-4).collect()
}

fn check_against_f64(epilogue: Epilogue, reference: impl Fn(&Tensor) -> Tensor) {
    let x = grid();
    let exact = Tensor::from_slice(&x, x.len(), &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
    let exact: Vec<f64> = reference(&exact).to_vec1().unwrap();
    each_implementation(|implementation| {
        for ((&x, &ours), &exact) in x.iter().zip(&activation(epilogue, &x)).zip(&exact) {
            let error = (f64::from(ours) - exact).abs();
            assert!(error <= 2e-7 * f64::from(x.abs().max(1.0)), "{implementation:?} at {x}: {error:e}");
        }
    });
}

#[test]
fn gelu_is_exact_to_two_parts_in_ten_million() {
    check_against_f64(Epilogue::Gelu, |x| x.gelu_erf().unwrap());
}

#[test]
fn quick_gelu_is_exact_to_two_parts_in_ten_million() {
    check_against_f64(Epilogue::QuickGelu, |x| {
        let fall = x.affine(-1.702, 0.0).unwrap().exp().unwrap();
        x.div(&fall.affine(1.0, 1.0).unwrap()).unwrap()
    });
}

#[test]
fn activations_keep_to_their_limits() {
    let x = [f32::INFINITY, 1e30, -1e30, -100.0, 0.0, f32::NAN];
    each_implementation(|implementation| {
        for epilogue in [Epilogue::Gelu, Epilogue::QuickGelu] {
            let y = activation(epilogue, &x);
            assert_eq!(y[..2], x[..2], "{implementation:?} {epilogue:?}");
            assert!(y[2..5].iter().all(|y| y.abs() < 1e-7), "{implementation:?} {epilogue:?}: {y:?}");
            assert!(y[5].is_nan(), "{implementation:?} {epilogue:?}");
        }
    });
}

#[test]
fn layer_norm_equals_candles() {
    for (rows, width) in [(1, 1024), (257, 192), (3, 7), (71, 8192), (5, 130)] {
        let x: Vec<f32> = normal(1, rows * width).iter().map(|x| 3.0 * x + 2.0).collect();
        let (weight, bias) = (normal(2, width), normal(3, width));
        let (t, w, b) = (tensor(&x, &[rows, width]), tensor(&weight, &[width]), tensor(&bias, &[width]));
        let reference = values(&candle_nn::ops::layer_norm_slow(&t, &w, &b, 1e-5).unwrap());
        each_implementation(|implementation| {
            let mut out = vec![f32::NAN; x.len()];
            layer_norm(&x, &weight, &bias, 1e-5, &mut out);
            let error = largest_error(&out, &reference);
            assert!(error < 5e-6, "{implementation:?} {rows}x{width}: {error:e}");
            let mut in_place = x.clone();
            layer_norm_in_place(&mut in_place, &weight, &bias, 1e-5);
            assert_eq!(bits(&in_place), bits(&out));
            let mut alone = vec![f32::NAN; width];
            layer_norm(&x[..width], &weight, &bias, 1e-5, &mut alone);
            assert_eq!(bits(&alone), bits(&out[..width]));
        });
    }
}

#[test]
fn normalized_rows_have_length_one_and_a_zero_row_stays() {
    let width = 75;
    let mut x = normal(4, 5 * width);
    x[width..2 * width].fill(0.0);
    let t = tensor(&x, &[5, width]);
    let length = t.sqr().unwrap().sum_keepdim(D::Minus1).unwrap().sqrt().unwrap();
    let reference = values(&t.broadcast_div(&length.maximum(1e-12).unwrap()).unwrap());
    each_implementation(|implementation| {
        let mut ours = x.clone();
        l2_normalize(&mut ours, width);
        assert!(largest_error(&ours, &reference) < 1e-6, "{implementation:?}");
    });
}

#[test]
fn argmax_is_the_first_of_the_largest_and_never_a_nan() {
    let mut logits = normal(5, 65_037);
    logits[40_000] = 50.0;
    logits[60_000] = 50.0;
    logits[7] = f32::NAN;
    let low = f32::NEG_INFINITY;
    each_implementation(|implementation| {
        assert_eq!(argmax(&logits), Some(40_000), "{implementation:?}");
        assert_eq!(argmax(&[3.0]), Some(0));
        assert_eq!(argmax(&[f32::NAN, low, low]), Some(1));
        assert_eq!(argmax(&[f32::NAN; 40]), None);
        assert_eq!(argmax(&[]), None);
        assert_eq!(argmax(&[-0.0, 0.0]), Some(0));
    });
}

#[test]
fn log_sum_exp_equals_f64() {
    for (count, scale) in [(1, 1.0), (17, 1.0), (65_037, 5.0), (300, 1000.0)] {
        let x: Vec<f32> = normal(6, count).iter().map(|x| x * scale).collect();
        let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = x.iter().map(|&x| (f64::from(x) - f64::from(largest)).exp()).sum();
        let exact = f64::from(largest) + sum.ln();
        each_implementation(|implementation| {
            let error = (f64::from(log_sum_exp(&x)) - exact).abs();
            assert!(error < 2e-7 * exact.abs().max(1.0), "{implementation:?} {count}: {error:e}");
        });
    }
    assert_eq!(log_sum_exp(&[]), f32::NEG_INFINITY);
    assert_eq!(log_sum_exp(&[f32::NEG_INFINITY, 1.5]), 1.5);
    assert_eq!(log_sum_exp(&[f32::INFINITY, 1.5]), f32::INFINITY);
    assert!(log_sum_exp(&[f32::NAN, f32::INFINITY]).is_nan());
    assert!(log_sum_exp(&[f32::NAN, 1.0]).is_nan());
}
