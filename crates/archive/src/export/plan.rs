//! The arguments of an export, kept at its destination so that later runs make the same shards.

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    /// The first sequence of the export.
    pub(crate) first: u64,
    /// One past the last sequence; `None` for all that come.
    pub(crate) end: Option<u64>,
    pub(crate) pictures: bool,
    /// The text of the categories file.
    pub(crate) categories_file: Option<String>,
    /// Head nouns that are categories with numbers, found by a pass over the stream when the export was begun.
    pub(crate) categories: Option<Vec<String>>,
}

impl Plan {
    /// Reads the plan of an earlier run.
    pub(crate) async fn read(destination: &Destination) -> Result<Option<Self>, ExportError> {
        let Some(bytes) = destination.read(PLAN).await? else { return Ok(None) };
        let plan = serde_json::from_slice(&bytes);
        plan.map(Some).map_err(|error| ExportError::file(destination.name_of(PLAN), error))
    }

    /// Checks that `wanted` makes the same shards. What only the first run determines is not compared: categories, and the
    /// first sequence if it comes from a time.
    pub(crate) fn check(
        &self,
        wanted: &Self,
        first_is_given: bool,
        destination: &Destination,
    ) -> Result<(), ExportError> {
        if self.stream == wanted.stream && self.stream_created != wanted.stream_created {
            return Err(ExportError::OtherStream {
                stream: self.stream.clone(),
                found: wanted.stream_created.clone(),
                place: destination.to_string(),
                expected: self.stream_created.clone(),
            });
        }
        let mut wanted = Self { categories: self.categories.clone(), ..wanted.clone() };
        if !first_is_given {
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
            first: 5,
            end: None,
            pictures: false,
            categories_file: None,
            categories: Some(vec!["dog".into()]),
        };
        let there = Destination::Local("out".into());
        let same = Plan { first: 7, categories: None, ..plan.clone() };
        plan.check(&same, false, &there).unwrap();
        let error = plan.check(&same, true, &there).unwrap_err().to_string();
        assert!(error.contains("first was 5 and is 7"), "{error}");
        let error = plan.check(&Plan { format: Format::Grit, ..plan.clone() }, true, &there).unwrap_err().to_string();
        assert!(error.contains(r#"format was "coco" and is "grit""#), "{error}");
        let again = Plan { stream_created: "now".into(), ..plan.clone() };
        assert!(matches!(plan.check(&again, true, &there), Err(ExportError::OtherStream { .. })));
    }
}
