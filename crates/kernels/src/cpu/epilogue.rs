//! The epilogue of a matrix product: bias, activation function or residual, and the store.

use super::aligned::F32x16;
use super::math::{gelu, load_partial, quick_gelu, store_partial};
use super::parallel::Disjoint;
use super::simd::{LANES, Simd};

/// How a product `v`, bias included, is written to `out`.
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

/// The output of a product, and its bias and epilogue.
pub(crate) struct Target<'a> {
    pub(crate) out: Disjoint<'a, f32>,
    pub(crate) outputs: usize,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) epilogue: Epilogue,
}

impl Target<'_> {
    /// Writes a finished tile that is `panels` panels wide.
    ///
    /// # Safety
    /// No other thread accesses these elements of `out`.
    #[inline(always)]
    pub(crate) unsafe fn write<S: Simd>(&self, s: S, tile: &[F32x16], panels: usize, row: usize, panel: usize) {
        // SAFETY: guaranteed by the caller, in all arms.
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
        tile: &[F32x16],
        panels: usize,
        row: usize,
        panel: usize,
    ) {
        for p in 0..panels {
            let column = (panel + p) * LANES;
            let width = LANES.min(self.outputs - column);
            let bias = self.bias.map(|bias| load_partial(s, &bias[column..column + width], 0.0));
            for (r, vector) in tile.iter().skip(p).step_by(panels).enumerate() {
                // SAFETY: elements of this tile, which the caller guarantees that no other thread accesses.
                let out = unsafe { self.out.part((row + r) * self.outputs + column, width) };
                let mut value = s.load(&vector.0);
                if let Some(bias) = bias {
                    value = s.add(value, bias);
                }
                value = match EPILOGUE {
                    ADD => s.add(load_partial(s, out, 0.0), value),
                    GELU => gelu(s, value),
                    QUICK_GELU => quick_gelu(s, value),
                    _ => value,
                };
                store_partial(s, value, out);
            }
        }
    }
}

const STORE: usize = Epilogue::Store as usize;
const ADD: usize = Epilogue::Add as usize;
const GELU: usize = Epilogue::Gelu as usize;
const QUICK_GELU: usize = Epilogue::QuickGelu as usize;
