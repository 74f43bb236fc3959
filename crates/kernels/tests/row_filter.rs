//! The filter of rows against the same sums one by one.
#![allow(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod common;

use common::each_implementation;
use kernels::cpu::RowFilter;
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
                // Of both signs, so that sums leave the range of a byte on both sides.
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
#[should_panic(expected = "within the row")]
fn weights_beyond_the_row_are_refused() {
    RowFilter::new(10, BITS, [(8, vec![1, 2, 3])]);
}
