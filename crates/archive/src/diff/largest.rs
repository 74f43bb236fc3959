//! The pictures that differ most.

use super::compare::Difference;

/// A picture of both datasets whose annotations differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Pictured {
    /// `s3://bucket/key`, or `sha256:` and the digest of a picture within its job.
    pub name: String,
    /// The sequences of both annotations in the stream.
    pub sequences: [u64; 2],
    /// What differs.
    pub difference: Difference,
}

/// The pictures with the largest differences so far.
pub(super) struct Largest {
    size: usize,
    pictures: Vec<Pictured>,
}

impl Largest {
    pub(super) fn new(size: usize) -> Self {
        Self { size, pictures: Vec::new() }
    }

    pub(super) fn add(&mut self, picture: Pictured) {
        self.pictures.push(picture);
        if self.pictures.len() > 2 * self.size + 100 {
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        let phrases = |one: &Pictured| one.difference.gained.len() + one.difference.lost.len();
        self.pictures.sort_by(|a, b| {
            let distance = b.difference.distance.total_cmp(&a.difference.distance);
            distance
                .then(phrases(b).cmp(&phrases(a)))
                .then_with(|| a.name.cmp(&b.name))
                .then(a.sequences.cmp(&b.sequences))
        });
        self.pictures.truncate(self.size);
    }

    pub(super) fn into_sorted(mut self) -> Vec<Pictured> {
        self.shrink();
        self.pictures
    }
}
