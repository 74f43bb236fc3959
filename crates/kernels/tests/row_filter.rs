//! The filters of rows and columns compared with plain sums.
#![allow(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod common;

use common::each_implementation;
use kernels::cpu::{RowFilter, filter_columns};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const BITS: u32 = 22;

fn plainly(source: &[u8], width: usize, targets: &[(usize, Vec<i32>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for row in source.chunks(3 * width) {
        for (first, weights) in targets {
            for channel in 0..3 {
                let products =
                    weights.iter().enumerate().map(|(i, &w)| i64::from(w) * i64::from(row[3 * (first + i) + channel]));
                let sum = products.sum::<i64>() + (1 << (BITS - 1));
                out.push((sum >> BITS).clamp(0, 255) as u8);
            }
        }
    }
    out
}

#[test]
fn rows_are_filtered_as_by_plain_sums() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (width, rows, targets) in [(1, 1, 1), (2, 16, 3), (7, 5, 224), (33, 17, 9), (400, 40, 50), (1001, 3, 7)] {
        let source: Vec<u8> = (0..width * rows * 3).map(|_| rng.random()).collect();
        let targets: Vec<(usize, Vec<i32>)> = (0..targets)
            .map(|_| {
                let first = rng.random_range(0..width);
                let count = rng.random_range(1..=width - first);
                // Of both signs, so that sums exceed the range of a byte on both sides.
                let largest = (1 << 23) / (count as i32).max(4);
                (first, (0..count).map(|_| rng.random_range(-largest / 2..=largest)).collect())
            })
            .collect();
        let filter = RowFilter::new(width, BITS, targets.clone());
        let expected = plainly(&source, width, &targets);
        each_implementation(|implementation| {
            let mut out = vec![0; expected.len()];
            filter.run(&source, &mut out);
            assert!(out == expected, "{implementation:?}: {rows} rows of {width}");
        });
    }
}

#[test]
fn columns_are_filtered_as_by_plain_sums() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for (stride, rows, targets) in [(1, 1, 1), (16, 5, 3), (75, 7, 30), (672, 40, 9), (203, 300, 5)] {
        let source: Vec<u8> = (0..stride * rows).map(|_| rng.random()).collect();
        let taps: Vec<(usize, Vec<i32>)> = (0..targets)
            .map(|_| {
                let first = rng.random_range(0..rows);
                let count = rng.random_range(1..=rows - first);
                let largest = (1 << 23) / (count as i32).max(4);
                (first, (0..count).map(|_| rng.random_range(-largest / 2..=largest)).collect())
            })
            .collect();
        let byte = |(first, weights): &(usize, Vec<i32>), column: usize| {
            let products =
                weights.iter().zip(*first..).map(|(&w, row)| i64::from(w) * i64::from(source[row * stride + column]));
            ((products.sum::<i64>() + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8
        };
        let expected: Vec<u8> = taps.iter().flat_map(|tap| (0..stride).map(move |column| byte(tap, column))).collect();
        each_implementation(|implementation| {
            let mut out = vec![0; expected.len()];
            filter_columns(&source, stride, &taps, BITS, &mut out);
            assert!(out == expected, "{implementation:?}: {rows} rows of {stride}");
        });
    }
}

#[test]
#[should_panic(expected = "within the source")]
fn weights_beyond_the_source_are_refused() {
    filter_columns(&[0; 6], 3, &[(1, vec![1, 2])], BITS, &mut [0; 3]);
}

#[test]
#[should_panic(expected = "within the row")]
fn weights_beyond_the_row_are_refused() {
    RowFilter::new(10, BITS, [(8, vec![1, 2, 3])]);
}
