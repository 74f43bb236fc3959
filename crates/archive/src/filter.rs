//! Selects the objects of a source that jobs are created for.

use std::collections::BinaryHeap;

use glob::{MatchOptions, Pattern};
use serde::{Deserialize, Serialize};

use crate::digest::sha256_u128;
use crate::object::SourceObject;

/// Conditions on objects. An object without a known size or time does not meet conditions on them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// The key ends with one of these, ignoring case. Empty for any key.
    pub suffixes: Vec<String>,
    /// Minimum size in bytes.
    pub min_size: Option<u64>,
    /// Maximum size in bytes.
    pub max_size: Option<u64>,
    /// Modified at or after this time, in seconds since 1970.
    pub modified_after: Option<i64>,
    /// Modified before this time, in seconds since 1970.
    pub modified_before: Option<i64>,
    /// The key matches this pattern: `*` within a path component, `**` across components, `?`, `[a-z]`.
    pub glob: Option<String>,
}

/// The pattern of a filter is invalid.
#[derive(Debug, thiserror::Error)]
#[error("the pattern {pattern:?} is invalid: {cause}")]
pub struct FilterError {
    pattern: String,
    cause: glob::PatternError,
}

/// A compiled filter, with the rule of the sample if there is one.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    filter: Filter,
    suffixes: Vec<String>,
    glob: Option<Pattern>,
    sample: Option<SampleRule>,
}

/// The rule of a sample: it contains the objects whose hash is at most a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleRule {
    /// The seed of the hash.
    pub seed: u64,
    /// The largest hash in the sample.
    pub threshold: u64,
}

impl Selection {
    /// Compiles a filter.
    ///
    /// # Errors
    /// [`FilterError`] if the pattern is invalid.
    pub fn new(filter: Filter, sample: Option<SampleRule>) -> Result<Self, FilterError> {
        let pattern = |text: &String| Pattern::new(text).map_err(|cause| FilterError { pattern: text.clone(), cause });
        let glob = filter.glob.as_ref().map(pattern).transpose()?;
        let suffixes = filter.suffixes.iter().map(|suffix| suffix.to_lowercase()).collect();
        Ok(Self { filter, suffixes, glob, sample })
    }

    /// Whether a job is created for the object. Keys that end with `/` are placeholders of folders, and are skipped.
    pub fn selects(&self, object: &SourceObject) -> bool {
        !object.key.ends_with('/')
            && self.matches_key(&object.key)
            && within(object.size, self.filter.min_size, self.filter.max_size)
            && self.filter.modified_after.is_none_or(|after| object.last_modified.is_some_and(|at| at >= after))
            && self.filter.modified_before.is_none_or(|before| object.last_modified.is_some_and(|at| at < before))
            && self.sample.is_none_or(|sample| sample_hash(sample.seed, object) <= sample.threshold)
    }

    fn matches_key(&self, key: &str) -> bool {
        let options =
            MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };
        self.glob.as_ref().is_none_or(|glob| glob.matches_with(key, options))
            && (self.suffixes.is_empty() || {
                let key = key.to_lowercase();
                self.suffixes.iter().any(|suffix| key.ends_with(suffix))
            })
    }
}

fn within(size: Option<u64>, min: Option<u64>, max: Option<u64>) -> bool {
    min.is_none_or(|min| size.is_some_and(|size| size >= min))
        && max.is_none_or(|max| size.is_some_and(|size| size <= max))
}

fn sample_hash(seed: u64, object: &SourceObject) -> u64 {
    uniform_hash(seed, &format!("{}\n{}", object.bucket, object.key))
}

/// A uniform hash, which is the same in every run.
pub(crate) fn uniform_hash(seed: u64, text: &str) -> u64 {
    (sha256_u128(format!("{seed}\n{text}").as_bytes()) >> 64) as u64
}

/// Finds the threshold of a sample of a given size, in one pass over the source.
#[derive(Debug)]
pub struct Sampler {
    seed: u64,
    size: usize,
    smallest: BinaryHeap<u64>,
}

impl Sampler {
    /// A sample of `size` objects, at least one.
    pub fn new(size: usize, seed: u64) -> Self {
        Self { seed, size: size.max(1), smallest: BinaryHeap::new() }
    }

    /// Takes an object into account.
    pub fn add(&mut self, object: &SourceObject) {
        let hash = sample_hash(self.seed, object);
        if self.smallest.len() < self.size {
            self.smallest.push(hash);
        } else if self.smallest.peek().is_some_and(|largest| hash < *largest) {
            self.smallest.pop();
            self.smallest.push(hash);
        }
    }

    /// The rule of the sample of the objects so far.
    pub fn rule(&self) -> SampleRule {
        let threshold =
            if self.smallest.len() < self.size { u64::MAX } else { self.smallest.peek().copied().unwrap_or(0) };
        SampleRule { seed: self.seed, threshold }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str) -> SourceObject {
        SourceObject { bucket: "b".into(), key: key.into(), ..SourceObject::default() }
    }

    fn selects(filter: Filter, object: &SourceObject) -> bool {
        Selection::new(filter, None).unwrap().selects(object)
    }

    #[test]
    fn a_key_is_selected_by_its_ending_and_by_a_pattern() {
        let suffixes = || Filter { suffixes: vec![".jpg".into(), ".PNG".into()], ..Filter::default() };
        assert!(selects(suffixes(), &object("a/b.JPG")) && selects(suffixes(), &object("b.png")));
        assert!(!selects(suffixes(), &object("b.jpg.txt")));
        let glob = |pattern: &str| Filter { glob: Some(pattern.into()), ..Filter::default() };
        assert!(selects(glob("a/*.jpg"), &object("a/b.jpg")) && !selects(glob("a/*.jpg"), &object("a/c/b.jpg")));
        assert!(
            selects(glob("a/**/*.jpg"), &object("a/c/d/b.jpg")) && selects(glob("a/[0-9]?.jpg"), &object("a/1x.jpg"))
        );
        assert!(!selects(Filter::default(), &object("folder/")));
        assert!(Selection::new(glob("a[").clone(), None).unwrap_err().to_string().contains("\"a[\""));
    }

    #[test]
    fn size_and_time_are_bounds_and_unknown_ones_fail_them() {
        let small = Filter { min_size: Some(10), max_size: Some(20), ..Filter::default() };
        let sized = |size| SourceObject { size: Some(size), ..object("k") };
        let taken: Vec<u64> =
            [9, 10, 20, 21].into_iter().filter(|size| selects(small.clone(), &sized(*size))).collect();
        assert_eq!(taken, [10, 20]);
        assert!(!selects(small, &object("k")));
        let between = Filter { modified_after: Some(100), modified_before: Some(200), ..Filter::default() };
        let at = |time| SourceObject { last_modified: Some(time), ..object("k") };
        let taken: Vec<i64> =
            [99, 100, 199, 200].into_iter().filter(|time| selects(between.clone(), &at(*time))).collect();
        assert_eq!(taken, [100, 199]);
        assert!(!selects(between, &object("k")));
    }

    #[test]
    fn a_sample_has_exactly_its_size_and_depends_on_the_seed_alone() {
        let objects: Vec<_> = (0..5000).map(|i| object(&format!("{i:05}.jpg"))).collect();
        let sample = |seed, order: Vec<&SourceObject>| -> Vec<String> {
            let mut sampler = Sampler::new(100, seed);
            order.into_iter().for_each(|object| sampler.add(object));
            let selection = Selection::new(Filter::default(), Some(sampler.rule())).unwrap();
            objects.iter().filter(|object| selection.selects(object)).map(|object| object.key.clone()).collect()
        };
        let first = sample(7, objects.iter().collect());
        assert_eq!(first.len(), 100);
        assert_eq!(first, sample(7, objects.iter().rev().collect()));
        assert_ne!(first, sample(8, objects.iter().collect()));
        assert!(first.iter().filter(|key| key.as_str() < "02500").count() > 25, "from all of the archive");
        assert_eq!(Sampler::new(10, 1).rule().threshold, u64::MAX, "a sample larger than the archive is all of it");
    }
}
