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
        // SAFETY: by the caller's promise, in all of these.
        unsafe {
            match self.epilogue {
                Epilogue::Store => self.write_as::<S, STORE>(s, tile, panels, row, panel),
                Epilogue::Add => self.write_as::<S, ADD>(s, tile, panels, row, panel),
                Epilogue::Gelu => self.write_as::<S, GELU>(s, tile, panels, row, panel),
                Epilogue::QuickGelu => self.write_as::<S, QUICK_GELU>(s, tile, panels, row, panel),
            }
        }
    }

    /// # Safety
    /// As for [`Self::write`].
    #[inline(always)]
    unsafe fn write_as<S: Simd, const EPILOGUE: usize>(
        &self,
        s: S,
        tile: &[Line],
        panels: usize,
        row: usize,
        panel: usize,
    ) {
        for p in 0..panels {
            let column = (panel + p) * LANES;
            let width = LANES.min(self.outputs - column);
            let bias = self.bias.map(|bias| load_part(s, &bias[column..column + width], 0.0));
            for (r, line) in tile.iter().skip(p).step_by(panels).enumerate() {
                // SAFETY: one tile's elements, which by the caller's promise nobody else works on.
                let out = unsafe { self.out.part((row + r) * self.outputs + column, width) };
                let mut value = s.load(&line.0);
                if let Some(bias) = bias {
                    value = s.add(value, bias);
                }
                value = match EPILOGUE {
                    ADD => s.add(load_part(s, out, 0.0), value),
                    GELU => gelu(s, value),
                    QUICK_GELU => quick_gelu(s, value),
                    _ => value,
                };
                store_part(s, value, out);
            }
        }
    }
}

const STORE: usize = Epilogue::Store as usize;
const ADD: usize = Epilogue::Add as usize;
const GELU: usize = Epilogue::Gelu as usize;
const QUICK_GELU: usize = Epilogue::QuickGelu as usize;
