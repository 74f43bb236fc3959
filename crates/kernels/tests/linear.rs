//! Matrix products compared with candle's, and between batches, threads and implementations.
#![allow(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod common;

use common::{FORMATS, bits, each_implementation, largest_error, mean_error, normal, tensor, values};
use kernels::cpu::{
    Epilogue, Implementation, PackedWeights, Scratch, WeightFormat, available, linear, with_implementation,
};

/// (rows, inputs, outputs): the widths of the models, and remainders of every kind.
const SHAPES: [(usize, usize, usize); 13] = [
    (1, 1, 1),
    (1, 7, 17),
    (2, 130, 1),
    (3, 17, 130),
    (7, 192, 576),
    (5, 257, 31),
    (1, 256, 4138),
    (17, 896, 200),
    (130, 130, 130),
    (257, 192, 192),
    (200, 600, 50),
    (1, 2048, 300),
    (8, 2048, 80),
];

fn product(x: &[f32], weights: &PackedWeights) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / weights.inputs() * weights.outputs()];
    linear(x, weights, None, Epilogue::Store, &mut out, &mut Scratch::new());
    out
}

fn unpacked(weights: &PackedWeights) -> Vec<f32> {
    let mut rows = vec![0.0; weights.outputs() * weights.inputs()];
    for (output, row) in rows.chunks_mut(weights.inputs()).enumerate() {
        weights.read_row(output, row);
    }
    rows
}

/// Rounds each group of 128 inputs to multiples of 1/254 of its range, which includes zero.
fn rounded_to_bytes(x: &[f32], inputs: usize) -> Vec<f32> {
    let mut rounded = x.to_vec();
    for group in rounded.chunks_mut(inputs).flat_map(|row| row.chunks_mut(128)) {
        let range = group.iter().fold(0.0_f32, |a, &b| a.max(b)) - group.iter().fold(0.0_f32, |a, &b| a.min(b));
        group.iter_mut().for_each(|value| *value = (*value * (254.0 / range)).round_ties_even() * (range / 254.0));
    }
    rounded
}

fn rounded_to_bf16(x: &[f32]) -> Vec<f32> {
    let rounded = tensor(x, &[x.len()]).to_dtype(candle_core::DType::BF16).unwrap();
    values(&rounded.to_dtype(candle_core::DType::F32).unwrap())
}

#[test]
fn products_equal_candles_over_the_weights_as_stored() {
    for (case, (rows, inputs, outputs)) in SHAPES.into_iter().enumerate() {
        let x = normal(case as u64, rows * inputs);
        let dense = normal(100 + case as u64, outputs * inputs);
        for format in FORMATS {
            let weights = PackedWeights::pack(&dense, outputs, inputs, format);
            let stored = tensor(&unpacked(&weights), &[outputs, inputs]);
            let multiply = |x: &[f32]| values(&tensor(x, &[rows, inputs]).matmul(&stored.t().unwrap()).unwrap());
            let (reference, of_bytes) = (multiply(&x), multiply(&rounded_to_bytes(&x, inputs)));
            let of_bf16 = multiply(&rounded_to_bf16(&x));
            each_implementation(|implementation| {
                // Sums of up to 2048 products in f32. Activations of int8 are rounded to 1/65,278 of the largest in a
                // group: an error of 2.5e-5 on average and about five times that at worst.
                let tolerance = if format == WeightFormat::Int8 { 2e-4 } else { 1e-5 };
                let reference = match format {
                    WeightFormat::W8A8 => &of_bytes,
                    WeightFormat::Bf16 if implementation == Implementation::Avx512Amx => &of_bf16,
                    _ => &reference,
                };
                let error = largest_error(&product(&x, &weights), reference);
                assert!(error < tolerance, "{implementation:?} {format:?} {rows}x{inputs}x{outputs}: {error:e}");
            });
        }
    }
}

#[test]
fn a_row_in_a_batch_equals_the_row_alone_bit_for_bit() {
    for (inputs, outputs) in [(192, 576), (600, 130), (2050, 77)] {
        let x = normal(1, 200 * inputs);
        let dense = normal(2, outputs * inputs);
        for format in FORMATS {
            let weights = PackedWeights::pack(&dense, outputs, inputs, format);
            each_implementation(|implementation| {
                let alone: Vec<u32> = x.chunks(inputs).flat_map(|row| bits(&product(row, &weights))).collect();
                for rows in [1, 2, 3, 7, 13, 33, 100, 200] {
                    let batch = bits(&product(&x[..rows * inputs], &weights));
                    assert!(batch == alone[..rows * outputs], "{implementation:?} {format:?} {rows} rows of {inputs}");
                }
            });
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (rows, inputs, outputs) = (40, 600, 1000);
    let x = normal(3, rows * inputs);
    let dense = normal(4, outputs * inputs);
    for format in FORMATS {
        let weights = PackedWeights::pack(&dense, outputs, inputs, format);
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            bits(&pool.install(|| product(&x, &weights)))
        };
        let one = with(1);
        for threads in [2, 3, 8] {
            assert!(with(threads) == one, "{format:?} on {threads} threads");
        }
    }
}

#[test]
fn integer_products_have_the_same_bits_on_every_implementation() {
    // From one row tile to several chunks of them; an odd number of panels; whole groups, halves and remainders.
    let shapes = [(9, 1000, 100), (16, 192, 48), (77, 588, 130), (400, 1100, 170)];
    let formats = [WeightFormat::Int8, WeightFormat::W8A8];
    for ((rows, inputs, outputs), format) in shapes.into_iter().flat_map(|shape| formats.map(|format| (shape, format)))
    {
        let weights = PackedWeights::pack(&normal(6, outputs * inputs), outputs, inputs, format);
        let mut x = normal(5, rows * inputs);
        // Values that are rounded to both ends of the range, and a group of zeros.
        x[..3].copy_from_slice(&[-1e6, 1e6, -1e6]);
        x[inputs..inputs + 128].fill(0.0);
        let portable = with_implementation(Implementation::Portable, || bits(&product(&x, &weights)));
        each_implementation(|implementation| {
            let same = bits(&product(&x, &weights)) == portable;
            assert!(same, "{implementation:?} {format:?} {rows}x{inputs}x{outputs}");
        });
    }
}

#[test]
fn implementations_with_fused_arithmetic_agree_bit_for_bit() {
    let (rows, inputs, outputs) = (9, 1000, 100);
    let (x, dense) = (normal(5, rows * inputs), normal(6, outputs * inputs));
    for format in FORMATS {
        let weights = PackedWeights::pack(&dense, outputs, inputs, format);
        let mut fused = available();
        fused.retain(|&implementation| implementation != Implementation::Portable);
        if format == WeightFormat::Bf16 {
            // Its tiles add in another order, and round the activations.
            fused.retain(|&implementation| implementation != Implementation::Avx512Amx);
        }
        let results: Vec<_> =
            fused.iter().map(|&which| with_implementation(which, || bits(&product(&x, &weights)))).collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{format:?} over {fused:?}");
    }
}

#[test]
fn bias_and_epilogue_equal_candles() {
    for (rows, inputs, outputs) in [(3, 64, 40), (71, 192, 130), (1, 256, 33)] {
        let x = normal(7, rows * inputs);
        let dense = normal(8, outputs * inputs);
        let bias = normal(9, outputs);
        let before = normal(10, rows * outputs);
        let weights = PackedWeights::pack(&dense, outputs, inputs, WeightFormat::F32);
        let plain = tensor(&x, &[rows, inputs])
            .matmul(&tensor(&dense, &[outputs, inputs]).t().unwrap())
            .unwrap()
            .broadcast_add(&tensor(&bias, &[outputs]))
            .unwrap();
        let gate = candle_nn::ops::sigmoid(&plain.affine(1.702, 0.0).unwrap()).unwrap();
        let references = [
            (Epilogue::Store, plain.clone()),
            (Epilogue::Add, plain.add(&tensor(&before, &[rows, outputs])).unwrap()),
            (Epilogue::Gelu, plain.gelu_erf().unwrap()),
            (Epilogue::QuickGelu, plain.mul(&gate).unwrap()),
        ];
        for (epilogue, reference) in references {
            each_implementation(|implementation| {
                let mut out = before.clone();
                linear(&x, &weights, Some(&bias), epilogue, &mut out, &mut Scratch::new());
                let error = largest_error(&out, &values(&reference));
                assert!(error < 5e-6, "{implementation:?} {epilogue:?} {rows}x{inputs}x{outputs}: {error:e}");
            });
        }
    }
}

#[test]
fn scratch_left_over_from_other_shapes_does_no_harm() {
    let mut scratch = Scratch::new();
    for (case, (rows, inputs, outputs)) in SHAPES.into_iter().enumerate() {
        let x = normal(11 + case as u64, rows * inputs);
        let dense = normal(50 + case as u64, outputs * inputs);
        for format in FORMATS {
            let weights = PackedWeights::pack(&dense, outputs, inputs, format);
            let mut out = vec![f32::NAN; rows * outputs];
            linear(&x, &weights, None, Epilogue::Store, &mut out, &mut scratch);
            assert!(bits(&out) == bits(&product(&x, &weights)), "{format:?} {rows}x{inputs}x{outputs}");
        }
    }
}

#[test]
fn bf16_weights_are_candles_rounding() {
    let (outputs, inputs) = (37, 129);
    let mut dense = normal(12, outputs * inputs);
    // Ties in both directions, a carry into the exponent, and the largest values.
    dense[..6].copy_from_slice(&[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.9999999, -3.3895314e38, f32::INFINITY, 1e-40]);
    let weights = PackedWeights::pack(&dense, outputs, inputs, WeightFormat::Bf16);
    let rounded = tensor(&dense, &[outputs, inputs]).to_dtype(candle_core::DType::BF16).unwrap();
    assert_eq!(bits(&unpacked(&weights)), bits(&values(&rounded.to_dtype(candle_core::DType::F32).unwrap())));
    assert_eq!(weights.bytes(), 48 * 130 * 2);
}

#[test]
fn int8_weights_lie_within_half_a_step() {
    let (outputs, inputs) = (19, 300);
    let dense = normal(13, outputs * inputs);
    let weights = PackedWeights::pack(&dense, outputs, inputs, WeightFormat::Int8);
    for (ours, row) in unpacked(&weights).chunks(inputs).zip(dense.chunks(inputs)) {
        for (ours, group) in ours.chunks(128).zip(row.chunks(128)) {
            let step = group.iter().fold(0.0_f32, |largest, w| largest.max(w.abs())) / 127.0;
            assert!(ours.iter().zip(group).all(|(a, b)| (a - b).abs() <= step * 0.5001));
        }
    }
    // Panels, padding after the last of them, scales.
    assert_eq!(weights.bytes(), 32 * 300 + 16 * 128 + 32 * 3 * 4);
}

#[test]
fn int8_products_err_by_the_weights_rounding_alone() {
    let (rows, inputs, outputs) = (16, 2048, 256);
    let dense = normal(14, outputs * inputs);
    let plain = normal(15, rows * inputs);
    // Activations as in transformers: a few inputs are a hundred times as large as the others.
    let mut spiked = plain.clone();
    spiked.chunks_mut(inputs).for_each(|row| [5, 700, 1411].iter().for_each(|&spike| row[spike] *= 100.0));
    for (name, x) in [("normal", plain), ("with outliers", spiked)] {
        let reference = product(&x, &PackedWeights::pack(&dense, outputs, inputs, WeightFormat::F32));
        let int8 = PackedWeights::pack(&dense, outputs, inputs, WeightFormat::Int8);
        let exact = product(&x, &PackedWeights::pack(&unpacked(&int8), outputs, inputs, WeightFormat::F32));
        let ours = product(&x, &int8);
        let w8a8 = product(&x, &PackedWeights::pack(&dense, outputs, inputs, WeightFormat::W8A8));
        let bf16 = product(&x, &PackedWeights::pack(&dense, outputs, inputs, WeightFormat::Bf16));
        let (all, activations) = (mean_error(&ours, &reference), mean_error(&ours, &exact));
        println!(
            "{name}: int8 {all:.2e}, of which activations {activations:.2e}; w8a8 {:.2e}; bf16 {:.2e}",
            mean_error(&w8a8, &reference),
            mean_error(&bf16, &reference)
        );
        assert!(all < 8e-3, "{name}: {all:e}");
        assert!(activations < 1e-4, "{name}: {activations:e}");
    }
}

#[test]
fn what_is_not_a_number_shows_in_the_result() {
    let (inputs, outputs) = (200, 20);
    let dense = normal(16, outputs * inputs);
    for format in FORMATS {
        let weights = PackedWeights::pack(&dense, outputs, inputs, format);
        for poison in [f32::NAN, f32::INFINITY] {
            let mut x = normal(17, inputs);
            x[150] = poison;
            each_implementation(|implementation| {
                let out = product(&x, &weights);
                assert!(out.iter().all(|value| !value.is_finite()), "{implementation:?} {format:?}");
            });
        }
    }
}

#[test]
#[should_panic(expected = "out must hold 2 rows of 3 values, not 5")]
fn an_output_of_the_wrong_size_is_refused() {
    let weights = PackedWeights::pack(&[1.0; 12], 3, 4, WeightFormat::F32);
    linear(&[1.0; 8], &weights, None, Epilogue::Store, &mut [0.0; 5], &mut Scratch::new());
}
