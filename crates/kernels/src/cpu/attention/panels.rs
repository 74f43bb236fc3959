//! The keys and values of one head, packed from rows of tokens into panels that attention reads in order.

use crate::cpu::aligned::F32x16;
use crate::cpu::element::Element;
use crate::cpu::simd::{LANES, prefetch};

/// The columns of one head in rows of keys or values.
#[derive(Clone, Copy)]
pub(super) struct HeadColumns<'a, E = f32> {
    /// Starts at the head's first value of the first row.
    pub(super) values: &'a [E],
    /// Distance from one row to the next.
    pub(super) stride: usize,
    pub(super) dim: usize,
}

impl<'a, E> HeadColumns<'a, E> {
    #[inline(always)]
    fn row(&self, index: usize) -> &'a [E] {
        &self.values[index * self.stride..][..self.dim]
    }
}

/// How many rows ahead of their use keys and values are prefetched: a few hundred nanoseconds of work. Each row is in
/// a page of its own, and the hardware prefetcher does not cross pages.
pub(super) const PREFETCH_ROWS: usize = 4 * LANES;

/// Packs a panel of 16 keys of one head by dimension: `lines[d][key]`. Keys from `visible` on are zeros.
#[inline(always)]
pub(super) fn transpose_keys(keys: HeadColumns<'_>, panel: usize, visible: usize, lines: &mut [F32x16]) {
    let first = panel * LANES;
    let count = LANES.min(visible - first);
    let dim = lines.len();
    let key = |index: usize| keys.row(first + index);
    if count < LANES {
        lines.fill(F32x16::default());
    }
    for index in first + PREFETCH_ROWS..(first + PREFETCH_ROWS + LANES).min(visible) {
        keys.row(index).chunks(LANES).for_each(|line| prefetch(line.as_ptr()));
    }
    for quad in 0..count / 4 {
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
    for index in count / 4 * 4..count {
        lines.iter_mut().zip(key(index)).for_each(|(line, &value)| line.0[index] = value);
    }
}

/// Transposes four rows of four values. Without intrinsics the compiler moves single values.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn transpose(rows: [&[f32; 4]; 4]) -> [[f32; 4]; 4] {
    use std::arch::x86_64::*;
    let mut columns = [[0.0; 4]; 4];
    // SAFETY: every x86-64 CPU has SSE2; four floats are readable at each pointer, and the loads need no alignment.
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

/// Transposes four rows of four values.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn transpose(rows: [&[f32; 4]; 4]) -> [[f32; 4]; 4] {
    std::array::from_fn(|column| rows.map(|row| row[column]))
}

/// Packs the values of one head as panels of 16 dimensions, widened to f32: `lines[dimension / 16][key]`. Dimensions
/// beyond the last are zeros.
#[inline(always)]
pub(super) fn gather_values<E: Element>(values: HeadColumns<'_, E>, visible: usize, lines: &mut [F32x16]) {
    let dim = values.dim;
    for (panel, lines) in lines.chunks_mut(visible).enumerate() {
        let width = LANES.min(dim - panel * LANES);
        for (index, line) in lines.iter_mut().enumerate() {
            let value = &values.row(index)[panel * LANES..][..width];
            if let Some(vector) = value.first_chunk::<LANES>() {
                line.0 = vector.map(E::to_f32);
                continue;
            }
            line.0[..width].iter_mut().zip(value).for_each(|(to, value)| *to = value.to_f32());
            line.0[width..].fill(0.0);
        }
    }
}
