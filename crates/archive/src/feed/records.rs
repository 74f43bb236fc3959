//! The records about feeding a dataset. They are JSON messages in the jobs stream, on `groundling.cursor.<dataset>.<name>`:
//! `plan` has the arguments and the lanes, `feeder` the feeder that was started last, `state` whether the dataset is
//! paused or cancelled, and each lane has its cursor.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::filter::SampleRule;
use crate::object::Position;
use crate::source::Lane;

/// The lane of repairs. No plan has as many lanes.
pub(crate) const REPAIR_LANE: usize = 999_999;

/// The arguments and lanes of a dataset. Lanes do not change within a pass, because cursors refer to them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The arguments that determine the jobs, by name. Later runs must have the same.
    pub arguments: BTreeMap<String, Value>,
    /// The threshold of the sample.
    pub sample: Option<SampleRule>,
    /// The lanes, each with the index of its source.
    pub lanes: Vec<(usize, Lane)>,
    /// The number of passes over the source before this one. `--missing` starts another pass, and so do other arguments
    /// while no job was stored.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pass: u64,
    /// How many of these passes stored no job.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unused_passes: u64,
}

/// The feeder that was started last. Only this one may move cursors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeederRecord {
    /// The number of feeders that have been started for the dataset.
    pub generation: u64,
    /// The feeder's name: host and process.
    pub name: String,
}

/// The position of a lane, and the counts up to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The feeder that wrote the cursor.
    pub feeder: FeederRecord,
    /// The number of batches that this feeder has stored in the lane.
    pub batches: u64,
    /// The position.
    pub position: Position,
    /// Counts since the start of the lane.
    pub counts: Counts,
    /// The pass that the cursor belongs to.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pass: u64,
}

/// Counts of objects and jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Objects read from the source.
    pub seen: u64,
    /// Jobs created for them.
    pub jobs: u64,
    /// Total size of the objects that have jobs, in bytes, as far as the source contains sizes.
    pub bytes: u64,
}

/// Whether a dataset is being fed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatasetState {
    /// Feeders store jobs.
    #[default]
    Active,
    /// Feeders wait until the dataset is resumed.
    Paused,
    /// Feeders end. Waiting jobs were removed.
    Cancelled,
}

/// What is told about the source of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceState {
    /// It is being read, or can be read on.
    Active,
    /// Feeders wait until the dataset is resumed.
    Paused,
    /// It has been read to its end.
    Complete,
    /// The dataset was cancelled.
    Cancelled,
}

impl SourceState {
    pub(crate) fn new(state: DatasetState, is_complete: bool) -> Self {
        match state {
            DatasetState::Cancelled => Self::Cancelled,
            _ if is_complete => Self::Complete,
            DatasetState::Paused => Self::Paused,
            DatasetState::Active => Self::Active,
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Complete => "complete",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The state of a dataset, and why it was set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRecord {
    /// The state.
    pub state: DatasetState,
    /// Why it was set; `None` if an operator set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.seen += other.seen;
        self.jobs += other.jobs;
        self.bytes += other.bytes;
    }
}

/// The name of the argument that starts another pass.
pub(crate) const MISSING_ARGUMENT: &str = "--missing";
/// The name of the argument that has the identities of manifests.
pub const MANIFESTS_ARGUMENT: &str = "contents of the manifests";

impl Plan {
    /// The names of the arguments that differ from `others`, with both values; empty if there are none. `--missing` and
    /// those in `ignored` are not compared.
    pub(crate) fn differences(&self, others: &BTreeMap<String, Value>, ignored: &[&str]) -> String {
        let names = self.arguments.keys().chain(others.keys().filter(|name| !self.arguments.contains_key(*name)));
        let is_compared = |name: &&String| *name != MISSING_ARGUMENT && !ignored.contains(&name.as_str());
        let differing = names.filter(is_compared).filter_map(|name| {
            let (stored, given) = (self.arguments.get(name), others.get(name));
            let (stored, given) = (stored.unwrap_or(&Value::Null), given.unwrap_or(&Value::Null));
            (stored != given).then(|| format!("{name} was {stored} and is {given}"))
        });
        differing.collect::<Vec<_>>().join("; ")
    }

    /// Whether objects with the same ETag shared one job.
    pub(crate) fn is_unique(&self) -> bool {
        self.arguments.get("--unique").is_some_and(|value| !value.is_null())
    }

    /// Whether this pass only covers objects without annotation.
    pub(crate) fn is_of_missing(&self) -> bool {
        self.arguments.get(MISSING_ARGUMENT).is_some_and(|value| *value == Value::Bool(true))
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_differ_are_named_with_both_values() {
        let arguments = |pairs: &[(&str, &str)]| -> BTreeMap<String, serde_json::Value> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect()
        };
        let plan = Plan { arguments: arguments(&[("pin", "etag"), ("task", "brief")]), ..Plan::default() };
        assert_eq!(plan.differences(&plan.arguments, &[]), "");
        let other = arguments(&[("pin", "none"), ("task", "brief"), ("glob", "*")]);
        assert_eq!(plan.differences(&other, &[]), "pin was \"etag\" and is \"none\"; glob was null and is \"*\"");
        assert_eq!(plan.differences(&other, &["pin"]), "glob was null and is \"*\"");
    }

    #[test]
    fn a_cursor_is_readable_with_other_tools() {
        let cursor = Cursor {
            feeder: FeederRecord { generation: 2, name: "host 7".into() },
            batches: 3,
            position: Position::Key("a/b.jpg".into()),
            counts: Counts { seen: 5, jobs: 4, bytes: 100 },
            pass: 0,
        };
        let text = serde_json::to_string(&cursor).unwrap();
        assert_eq!(
            text,
            r#"{"feeder":{"generation":2,"name":"host 7"},"batches":3,"position":{"key":"a/b.jpg"},"counts":{"seen":5,"jobs":4,"bytes":100}}"#
        );
        assert_eq!(serde_json::from_str::<Cursor>(&text).unwrap(), cursor);
    }
}
