//! One head's keys and values, out of rows of tokens into panels that attention reads in order.

use super::simd::{LANES, prefetch};
use super::tile::Line;

/// One head's columns of rows of keys or values.
#[derive(Clone, Copy)]
pub(super) struct Column<'a> {
    /// From the head's first value of the first row on.
    pub(super) from: &'a [f32],
    /// From one row to the next.
    pub(super) stride: usize,
    pub(super) dim: usize,
}

impl<'a> Column<'a> {
    #[inline(always)]
    fn row(&self, index: usize) -> &'a [f32] {
        &self.from[index * self.stride..][..self.dim]
    }
}

/// Keys and values between the one fetched and the one used: some hundred nanoseconds of work. Each lies in a page of
/// its own, where the hardware does not fetch ahead.
pub(super) const AHEAD: usize = 4 * LANES;

/// A panel of 16 keys of one head, dimension by dimension: `lines[d][key]`. Keys past `seen` are zeros.
#[inline(always)]
pub(super) fn transpose_keys(keys: Column<'_>, panel: usize, seen: usize, lines: &mut [Line]) {
    let first = panel * LANES;
    let there = LANES.min(seen - first);
    let dim = lines.len();
    let key = |index: usize| keys.row(first + index);
    if there < LANES {
        lines.fill(Line::default());
    }
    for index in first + AHEAD..(first + AHEAD + LANES).min(seen) {
        keys.row(index).chunks(LANES).for_each(|line| prefetch(line.as_ptr()));
    }
    for quad in 0..there / 4 {
        let keys = [key(4 * quad), key(4 * quad + 1), key(4 * quad + 2), key(4 * quad + 3)];
        let [(a, rest), (b, _), (c, _), (d, _)] = keys.map(|key| key.as_chunks::<4>());
        let (squares, last) = lines.as_chunks_mut::<4>();
        for ((((square, a), b), c), d) in squares.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            let columns = transpose([a, b, c, d]);
            for (line, column) in square.iter_mut().zip(columns) {
                line.0[4 * quad..4 * quad + 4].copy_from_slice(&column);
            }
        }
        for (d, line) in last.iter_mut().enumerate() {
            keys.iter().enumerate().for_each(|(index, key)| line.0[4 * quad + index] = key[dim - rest.len() + d]);
        }
    }
    for index in there / 4 * 4..there {
        lines.iter_mut().zip(key(index)).for_each(|(line, &value)| line.0[index] = value);
    }
}

/// Four rows as four columns. Left to itself the compiler moves single values.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn transpose(rows: [&[f32; 4]; 4]) -> [[f32; 4]; 4] {
    use std::arch::x86_64::*;
    let mut columns = [[0.0; 4]; 4];
    // SAFETY: every x86-64 CPU has SSE2; four floats lie behind each pointer, and no alignment is asked for.
    unsafe {
        let [a, b, c, d] = rows.map(|row| _mm_loadu_ps(row.as_ptr()));
        let (ab_low, ab_high) = (_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
        _mm_storeu_ps(columns[0].as_mut_ptr(), _mm_movelh_ps(ab_low, cd_low));
        _mm_storeu_ps(columns[1].as_mut_ptr(), _mm_movehl_ps(cd_low, ab_low));
        _mm_storeu_ps(columns[2].as_mut_ptr(), _mm_movelh_ps(ab_high, cd_high));
        _mm_storeu_ps(columns[3].as_mut_ptr(), _mm_movehl_ps(cd_high, ab_high));
    }
    columns
}

/// Four rows as four columns.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn transpose(rows: [&[f32; 4]; 4]) -> [[f32; 4]; 4] {
    std::array::from_fn(|column| rows.map(|row| row[column]))
}

/// One head's values as panels of 16 dimensions: `lines[dimension / 16][key]`. Dimensions past the last are zeros.
#[inline(always)]
pub(super) fn gather_values(values: Column<'_>, seen: usize, lines: &mut [Line]) {
    let dim = values.dim;
    for (panel, lines) in lines.chunks_mut(seen).enumerate() {
        let width = LANES.min(dim - panel * LANES);
        for (index, line) in lines.iter_mut().enumerate() {
            let value = &values.row(index)[panel * LANES..][..width];
            if let Some(whole) = value.first_chunk::<LANES>() {
                line.0 = *whole;
                continue;
            }
            line.0[..width].copy_from_slice(value);
            line.0[width..].fill(0.0);
        }
    }
}
