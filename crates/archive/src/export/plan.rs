//! The arguments of an export, kept at its destination so that later runs make the same shards.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wire::v1::ImageAnnotation;

use super::destination::Destination;
use super::error::ExportError;
use super::formats::Format;

/// The file of the plan.
pub(crate) const PLAN: &str = "_export/plan.json";

/// What decides the bytes of shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Version of the layout.
    pub(crate) version: u32,
    pub(crate) dataset: String,
    pub(crate) format: Format,
    pub(crate) stream: String,
    /// When the stream was created: sequences of a stream that was created again have another meaning.
    pub(crate) stream_created: String,
    /// Sequences of a shard.
    pub(crate) shard_size: u64,
    /// The time of `--since`, or [`BEGINNING`].
    #[serde(default = "beginning")]
    pub(crate) since: String,
    /// The first sequence of the export.
    pub(crate) first: u64,
    /// One past the last sequence; `None` for all that come.
    pub(crate) end: Option<u64>,
    pub(crate) pictures: bool,
    /// The tasks whose results are exported, in order. Empty for all.
    #[serde(default)]
    pub(crate) tasks: Vec<String>,
    /// The text of the categories file.
    pub(crate) categories_file: Option<String>,
    /// Head nouns that are categories with numbers, found by a pass over the stream when the export was begun.
    pub(crate) categories: Option<Vec<String>>,
}

/// [`Plan::since`] without a time.
pub(crate) const BEGINNING: &str = "beginning";

fn beginning() -> String {
    BEGINNING.to_owned()
}

impl Plan {
    /// The first sequence of a shard, and one past its last.
    pub(crate) fn bounds(&self, shard: u64) -> (u64, u64) {
        let first = shard.saturating_mul(self.shard_size);
        let end = first.saturating_add(self.shard_size);
        (first.max(self.first), self.end.map_or(end, |last| last.min(end)))
    }

    /// Leaves out the results of other tasks. Whether there is something left to export.
    pub(crate) fn keep_tasks(&self, annotation: &mut ImageAnnotation) -> bool {
        if self.tasks.is_empty() {
            return true;
        }
        annotation.results.retain(|result| self.tasks.contains(&result.task_id));
        !annotation.results.is_empty()
    }

    /// Reads the plan of an earlier run.
    pub(crate) async fn read(destination: &Destination) -> Result<Option<Self>, ExportError> {
        let Some(bytes) = destination.read(PLAN).await? else { return Ok(None) };
        let plan = serde_json::from_slice(&bytes);
        plan.map(Some).map_err(|error| ExportError::file(destination.name_of(PLAN), error))
    }

    /// Checks that `wanted` makes the same shards. What only the first run determines is not compared: categories, and the
    /// first sequence if it comes from a time.
    pub(crate) fn check(&self, wanted: &Self, destination: &Destination) -> Result<(), ExportError> {
        if self.stream == wanted.stream && self.stream_created != wanted.stream_created {
            return Err(ExportError::OtherStream {
                stream: self.stream.clone(),
                found: wanted.stream_created.clone(),
                place: destination.to_string(),
                expected: self.stream_created.clone(),
            });
        }
        let mut wanted = Self { categories: self.categories.clone(), ..wanted.clone() };
        if wanted.since != BEGINNING {
            wanted.first = self.first;
        }
        let differing = differences(self, &wanted);
        if differing.is_empty() {
            return Ok(());
        }
        Err(ExportError::OtherPlan { place: destination.to_string(), differing: differing.join(", ") })
    }
}

fn differences(found: &Plan, wanted: &Plan) -> Vec<String> {
    let (Ok(Value::Object(found)), Ok(Value::Object(wanted))) =
        (serde_json::to_value(found), serde_json::to_value(wanted))
    else {
        return Vec::new();
    };
    let differing = found.iter().filter(|(name, value)| wanted.get(*name) != Some(value));
    differing
        .map(|(name, value)| format!("{name} was {value} and is {}", wanted.get(name).unwrap_or(&Value::Null)))
        .collect()
}

#[cfg(test)]
mod tests {
    use wire::v1::TaskResult;

    use super::*;

    #[test]
    fn a_later_run_must_have_the_same_arguments() {
        let plan = Plan {
            version: 1,
            dataset: "d".into(),
            format: Format::Coco,
            stream: "S".into(),
            stream_created: "then".into(),
            shard_size: 10,
            since: "2026-11-29T08:00:00Z".into(),
            first: 5,
            end: None,
            pictures: false,
            tasks: Vec::new(),
            categories_file: None,
            categories: Some(vec!["dog".into()]),
        };
        let there = Destination::Local("out".into());
        let same = Plan { first: 7, categories: None, ..plan.clone() };
        plan.check(&same, &there).unwrap();
        let refused = |other: Plan| plan.check(&other, &there).unwrap_err().to_string();
        let error = refused(Plan { since: BEGINNING.into(), ..same.clone() });
        assert!(error.contains("first was 5 and is 7"), "{error}");
        assert!(error.contains(r#"since was "2026-11-29T08:00:00Z" and is "beginning""#), "{error}");
        let error = refused(Plan { since: "2026-11-29T08:00:00.5Z".into(), ..plan.clone() });
        assert!(error.contains(r#"is "2026-11-29T08:00:00.5Z""#), "{error}");
        let error = refused(Plan { format: Format::Grit, tasks: vec!["brief".into()], ..plan.clone() });
        assert!(error.contains(r#"format was "coco" and is "grit""#), "{error}");
        assert!(error.contains(r#"tasks was [] and is ["brief"]"#), "{error}");
        let mut annotation = ImageAnnotation {
            results: ["brief", "detailed"].map(|id| TaskResult { task_id: id.into(), ..TaskResult::default() }).into(),
            ..ImageAnnotation::default()
        };
        assert!(plan.keep_tasks(&mut annotation) && annotation.results.len() == 2);
        let brief = Plan { tasks: vec!["brief".into()], ..plan.clone() };
        assert!(brief.keep_tasks(&mut annotation) && annotation.results.len() == 1);
        assert!(!Plan { tasks: vec!["detailed".into()], ..plan.clone() }.keep_tasks(&mut annotation));
        let again = Plan { stream_created: "now".into(), ..plan.clone() };
        assert!(matches!(plan.check(&again, &there), Err(ExportError::OtherStream { .. })));
    }
}
