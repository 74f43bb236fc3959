//! Sinusoidal positions by the reference's rule.

/// The row of `<pad>` in the position table: all zero.
const PAD_POSITION: usize = 1;

/// Which position a token has, and the table's rows.
#[derive(Debug, Clone)]
pub struct Positions {
    frequencies: Vec<f32>,
    pad: u32,
    /// Rows 0.. of the table, made on demand.
    table: Vec<f32>,
}

impl Positions {
    /// Positions for rows of `width` values, where `pad` is the id of `<pad>`.
    pub fn new(width: usize, pad: u32) -> Self {
        let n = width / 2;
        let step = (10_000f64.ln() / (n as f64 - 1.0)) as f32;
        Self { frequencies: (0..n).map(|k| (-step * k as f32).exp()).collect(), pad, table: Vec::new() }
    }

    /// Positions of consecutive tokens, after `seen` tokens of the sequence that were not `<pad>`.
    ///
    /// A token's position is the number of non-pad tokens up to and including it, plus one; `<pad>` has the pad row,
    /// 1, which is zero. It goes by ids, not by an attention mask, so padding on the left would shift nothing.
    pub fn of(&self, tokens: &[u32], seen: usize) -> Vec<usize> {
        let mut count = seen;
        let position = |&token: &u32| {
            if token == self.pad {
                return PAD_POSITION;
            }
            count += 1;
            count + 1
        };
        tokens.iter().map(position).collect()
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        2 * self.frequencies.len()
    }

    /// How many of the tokens count for the positions of those behind them.
    pub fn counted(&self, tokens: &[u32]) -> usize {
        tokens.iter().filter(|&&token| token != self.pad).count()
    }

    /// One row of the table, sines and then cosines, computed in f32 as the reference does; grows the table as needed.
    pub fn row(&mut self, position: usize) -> &[f32] {
        self.reach(position);
        self.row_within(position)
    }

    /// A row of those that are there.
    ///
    /// # Panics
    /// If the table has not reached it.
    pub fn row_within(&self, position: usize) -> &[f32] {
        &self.table[position * self.width()..][..self.width()]
    }

    /// Grows the table up to a row.
    pub fn reach(&mut self, position: usize) {
        let width = self.width();
        while self.table.len() < (position + 1) * width {
            let next = self.table.len() / width;
            let alive = if next == PAD_POSITION { 0.0 } else { 1.0 };
            let angles = || self.frequencies.iter().map(move |f| next as f32 * f);
            let row: Vec<f32> = angles().map(|a| a.sin() * alive).chain(angles().map(|a| a.cos() * alive)).collect();
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
        assert_eq!(positions.counted(&[1, 0, 7, 1]), 2);
        assert_eq!(positions.row(1), [0.0; 8]);
        assert_eq!(positions.row(0), [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(positions.row(2)[0], 2f32.sin());
    }
}
