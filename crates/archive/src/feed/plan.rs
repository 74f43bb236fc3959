//! What is stored about the feeding of a dataset, in the stream of jobs.
//!
//! On `groundling.cursor.<dataset>.plan`: the arguments and the lanes, written once. On `….feeder`: which feeder was
//! started last. On `….<lane>`: the lane's cursor. All of them are JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::filter::SampleRule;
use crate::object::Position;
use crate::source::Lane;

/// The arguments and lanes of a dataset. Lanes do not change: a cursor belongs to one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What decides which jobs come of the source, by name. A later run must give the same.
    pub arguments: BTreeMap<String, serde_json::Value>,
    /// The threshold of the sample.
    pub sample: Option<SampleRule>,
    /// The lanes, each with the index of its source.
    pub lanes: Vec<(usize, Lane)>,
}

/// Which feeder was started last. It alone may move cursors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeederRecord {
    /// Feeders that were started for the dataset.
    pub generation: u64,
    /// Name of the feeder: host and process.
    pub name: String,
}

/// The position of a lane, and what came of the source until there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The feeder that wrote it.
    pub feeder: FeederRecord,
    /// Batches that this feeder has stored before.
    pub batches: u64,
    /// The position.
    pub position: Position,
    /// Counts since the start of the lane.
    pub counts: Counts,
}

/// What came of a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Objects read.
    pub seen: u64,
    /// Jobs made of them.
    pub jobs: u64,
    /// Bytes of the objects of jobs, as far as the source knows sizes.
    pub bytes: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.seen += other.seen;
        self.jobs += other.jobs;
        self.bytes += other.bytes;
    }
}

impl Plan {
    /// The names of the arguments in which two plans differ, with both values; empty if they are the same.
    pub(crate) fn differences(&self, other: &BTreeMap<String, serde_json::Value>) -> String {
        let null = serde_json::Value::Null;
        let names = self.arguments.keys().chain(other.keys().filter(|name| !self.arguments.contains_key(*name)));
        let differing = names.filter_map(|name| {
            let (was, is) = (self.arguments.get(name).unwrap_or(&null), other.get(name).unwrap_or(&null));
            (was != is).then(|| format!("{name} was {was} and is {is}"))
        });
        differing.collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_differ_are_named_with_both_values() {
        let arguments = |pairs: &[(&str, &str)]| -> BTreeMap<String, serde_json::Value> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect()
        };
        let plan =
            Plan { arguments: arguments(&[("pin", "etag"), ("task", "brief")]), sample: None, lanes: Vec::new() };
        assert_eq!(plan.differences(&plan.arguments), "");
        let other = arguments(&[("pin", "none"), ("task", "brief"), ("glob", "*")]);
        assert_eq!(plan.differences(&other), "pin was \"etag\" and is \"none\"; glob was null and is \"*\"");
    }

    #[test]
    fn a_cursor_is_readable_with_other_tools() {
        let cursor = Cursor {
            feeder: FeederRecord { generation: 2, name: "host 7".into() },
            batches: 3,
            position: Position::Key("a/b.jpg".into()),
            counts: Counts { seen: 5, jobs: 4, bytes: 100 },
        };
        let text = serde_json::to_string(&cursor).unwrap();
        assert_eq!(
            text,
            r#"{"feeder":{"generation":2,"name":"host 7"},"batches":3,"position":{"key":"a/b.jpg"},"counts":{"seen":5,"jobs":4,"bytes":100}}"#
        );
        assert_eq!(serde_json::from_str::<Cursor>(&text).unwrap(), cursor);
    }
}
