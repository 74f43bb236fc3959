//! What happens to a product before it is written.

use super::math::{gelu, load_part, quick_gelu, store_part};
use super::parallel::Disjoint;
use super::simd::{LANES, Simd};
use super::tile::Line;

/// What is done with a product (bias included) on its way into `out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// `out = v`
    Store,
    /// `out += v`, a residual connection
    Add,
    /// `out = v Phi(v)`, GELU in its exact (erf) form
    Gelu,
    /// `out = v sigmoid(1.702 v)`, CLIP's GELU
    QuickGelu,
}

/// Where a tile's results go.
pub(crate) struct Target<'a> {
    pub(crate) out: Disjoint<'a, f32>,
    pub(crate) outputs: usize,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) epilogue: Epilogue,
}

impl Target<'_> {
    /// Writes a finished tile of `panels` panels' width.
    ///
    /// # Safety
    /// No other thread works on these elements of `out`.
    #[inline(always)]
    pub(crate) unsafe fn write<S: Simd>(&self, s: S, tile: &[Line], panels: usize, row: usize, panel: usize) {
        for (index, line) in tile.iter().enumerate() {
            let column = (panel + index % panels) * LANES;
            let width = LANES.min(self.outputs - column);
            let start = (row + index / panels) * self.outputs + column;
            // SAFETY: one tile's elements, which by the caller's promise nobody else works on.
            let out = unsafe { self.out.part(start, width) };
            let mut value = s.load(&line.0);
            if let Some(bias) = self.bias {
                value = s.add(value, load_part(s, &bias[column..column + width], 0.0));
            }
            value = match self.epilogue {
                Epilogue::Store => value,
                Epilogue::Add => s.add(load_part(s, out, 0.0), value),
                Epilogue::Gelu => gelu(s, value),
                Epilogue::QuickGelu => quick_gelu(s, value),
            };
            store_part(s, value, out);
        }
    }
}
