//! Sinusoidal positions by the reference's rule.

/// The row of `<pad>` in the position table. It is zero.
const PAD_POSITION: usize = 1;

/// The positions of tokens, and the table of their embeddings.
#[derive(Debug, Clone)]
pub(super) struct Positions {
    frequencies: Vec<f32>,
    pad: u32,
    /// The first rows of the table, which grows on demand.
    table: Vec<f32>,
}

impl Positions {
    /// Positions with rows of `width` values. `pad` is the id of `<pad>`.
    pub(super) fn new(width: usize, pad: u32) -> Self {
        let n = width / 2;
        let step = (10_000f64.ln() / (n as f64 - 1.0)) as f32;
        Self { frequencies: (0..n).map(|k| (-step * k as f32).exp()).collect(), pad, table: Vec::new() }
    }

    /// Positions of consecutive tokens that follow `preceding_non_pad` tokens other than `<pad>`.
    ///
    /// A token's position is the number of non-pad tokens up to and including it, plus one. `<pad>` has position 1,
    /// whose row is zero. Positions depend on the ids and not on an attention mask, so padding on the left shifts
    /// nothing.
    pub(super) fn of(&self, tokens: &[u32], preceding_non_pad: usize) -> Vec<usize> {
        let mut count = preceding_non_pad;
        let position = |&token: &u32| {
            if token == self.pad {
                return PAD_POSITION;
            }
            count += 1;
            count + 1
        };
        tokens.iter().map(position).collect()
    }

    /// Number of values in a row.
    pub(super) fn width(&self) -> usize {
        2 * self.frequencies.len()
    }

    /// One row of the table: sines, then cosines, computed in f32 as in the reference. Grows the table if necessary.
    pub(super) fn row(&mut self, position: usize) -> &[f32] {
        self.grow_to(position);
        self.cached_row(position)
    }

    /// A row that the table already has.
    ///
    /// # Panics
    /// If the table has not grown to it.
    pub(super) fn cached_row(&self, position: usize) -> &[f32] {
        &self.table[position * self.width()..][..self.width()]
    }

    /// Grows the table up to and including a row.
    pub(super) fn grow_to(&mut self, position: usize) {
        let width = self.width();
        while self.table.len() < (position + 1) * width {
            let next = self.table.len() / width;
            let factor = if next == PAD_POSITION { 0.0 } else { 1.0 };
            let angles = || self.frequencies.iter().map(move |f| next as f32 * f);
            let row: Vec<f32> = angles().map(|a| a.sin() * factor).chain(angles().map(|a| a.cos() * factor)).collect();
            self.table.extend(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_are_not_counted_and_have_the_zero_row() {
        let mut positions = Positions::new(8, 1);
        assert_eq!(positions.of(&[1, 1, 0, 7, 1, 9], 0), [1, 1, 2, 3, 1, 4]);
        assert_eq!(positions.of(&[5], 4), [6]);
        assert_eq!(positions.row(1), [0.0; 8]);
        assert_eq!(positions.row(0), [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(positions.row(2)[0], 2f32.sin());
    }
}
