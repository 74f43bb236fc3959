//! The schema of durations in settings.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// The type of durations in the schema: a string with a unit, such as `"1m 30s"`.
#[derive(Debug, Clone, Copy)]
pub struct DurationText;

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A duration with a unit.",
            "examples": ["250ms", "30s", "1m 30s", "6h", "7d"],
        })
    }
}
