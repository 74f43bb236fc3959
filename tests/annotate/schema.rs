//! A validator for the keywords of JSON Schema that `docs/annotation.schema.json` uses.

use std::collections::BTreeSet;
use std::path::Path;

use regex::Regex;
use serde_json::Value;

pub(crate) struct Schema {
    root: Value,
    /// The properties that a valid row had, as `Message.field`.
    seen: BTreeSet<String>,
}

impl Schema {
    pub(crate) fn read() -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/annotation.schema.json");
        Self { root: serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap(), seen: BTreeSet::new() }
    }

    /// All properties, as `Message.field`.
    pub(crate) fn properties(&self) -> BTreeSet<String> {
        let messages = self.root["$defs"].as_object().unwrap();
        let fields = |(message, schema): (&String, &Value)| {
            let fields = schema["properties"].as_object().unwrap().keys();
            fields.map(|field| format!("{message}.{field}")).collect::<Vec<_>>()
        };
        messages.iter().flat_map(fields).collect()
    }

    pub(crate) fn seen(&self) -> &BTreeSet<String> {
        &self.seen
    }

    /// The problems of a row; none if it is valid.
    pub(crate) fn problems(&mut self, row: &Value) -> Vec<String> {
        let mut problems = Vec::new();
        let choices = self.root["oneOf"].as_array().unwrap().clone();
        let of_choices: Vec<_> = choices.iter().map(|choice| self.check(choice, row, "row", "")).collect();
        if of_choices.iter().filter(|problems| problems.is_empty()).count() != 1 {
            problems.extend(of_choices.concat());
        }
        problems
    }

    fn check(&mut self, schema: &Value, value: &Value, at: &str, message: &str) -> Vec<String> {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.strip_prefix("#/$defs/").unwrap();
            let target = self.root["$defs"][name].clone();
            assert!(target.is_object(), "{reference} does not exist");
            return self.check(&target, value, at, name);
        }
        let mut problems = Vec::new();
        for (keyword, rule) in schema.as_object().unwrap() {
            match keyword.as_str() {
                "description" | "contentEncoding" | "required" | "additionalProperties" | "items" => {}
                "type" => {
                    let is_of = |name: &Value| match name.as_str().unwrap() {
                        "object" => value.is_object(),
                        "array" => value.is_array(),
                        "string" => value.is_string(),
                        "boolean" => value.is_boolean(),
                        "integer" => value.is_i64() || value.is_u64(),
                        "number" => value.is_number(),
                        other => panic!("type {other}"),
                    };
                    if !rule.as_array().map_or_else(|| is_of(rule), |names| names.iter().any(is_of)) {
                        problems.push(format!("{at}: not of type {rule}: {value}"));
                    }
                }
                "enum" if !rule.as_array().unwrap().contains(value) => problems.push(format!("{at}: {value}")),
                "minimum" if value.as_f64() < rule.as_f64() => problems.push(format!("{at}: {value} < {rule}")),
                "maximum" if value.as_f64() > rule.as_f64() => problems.push(format!("{at}: {value} > {rule}")),
                "minItems" if value.as_array().map(|items| items.len() as u64) < rule.as_u64() => {
                    problems.push(format!("{at}: fewer than {rule} items"));
                }
                "pattern" => {
                    let pattern = Regex::new(rule.as_str().unwrap()).unwrap();
                    if value.as_str().is_some_and(|text| !pattern.is_match(text)) {
                        problems.push(format!("{at}: {value} does not match {rule}"));
                    }
                }
                "enum" | "minimum" | "maximum" | "minItems" | "properties" | "format" => {}
                other => panic!("the validator does not know {other}"),
            }
        }
        if let Some(fields) = value.as_object() {
            for required in schema["required"].as_array().into_iter().flatten() {
                if !fields.contains_key(required.as_str().unwrap()) {
                    problems.push(format!("{at}: {required} is missing"));
                }
            }
            for (name, field) in fields {
                let at = format!("{at}.{name}");
                match (&schema["properties"][name], &schema["additionalProperties"]) {
                    (property @ Value::Object(_), _) => {
                        self.seen.insert(format!("{message}.{name}"));
                        problems.extend(self.check(property, field, &at, ""));
                    }
                    (_, any @ Value::Object(_)) => problems.extend(self.check(any, field, &at, "")),
                    (_, rule) => {
                        assert_eq!(rule, &Value::Bool(false), "{message} allows other properties");
                        problems.push(format!("{at}: not in the schema"));
                    }
                }
            }
        }
        if let (Some(items), rule @ Value::Object(_)) = (value.as_array(), &schema["items"]) {
            for (index, item) in items.iter().enumerate() {
                problems.extend(self.check(rule, item, &format!("{at}[{index}]"), ""));
            }
        }
        problems
    }
}
