//! The reference of all settings, generated from their types: JSON schema, TOML file with the defaults, Markdown.

use std::fmt::Write as _;

use anyhow::{Context, anyhow};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use archive::ingest::settings::IngestRule;

use super::Settings;
use super::layers::{PREFIX, SEPARATOR};

/// The flags that override settings.
const FLAGS: [(&str, &str); 8] = [
    ("model.path", "model"),
    ("model.offline", "offline"),
    ("model.device", "device"),
    ("model.dtype", "dtype"),
    ("engine.slots", "batch"),
    ("nats.url", "nats-url"),
    ("s3.endpoint", "s3-endpoint"),
    ("worker.slots", "slots"),
];

/// Settings whose default depends on the machine, with a description of it.
const MACHINE_DEFAULTS: [(&str, &str); 1] = [("worker.decode_threads", "the number of CPUs")];

/// The maximum width of the comments in the TOML file.
const COMMENT_WIDTH: usize = 100;

const INTRODUCTION: &str = "\
<!-- Generated from the settings' types: groundling settings --markdown > docs/configuration.md -->

# Configuration

Settings come from three sources. Later ones override earlier ones:

1. The settings file: the TOML file that `--settings FILE` or the environment variable `GROUNDLING_SETTINGS` names, or else
   `groundling.toml` in the current directory, if it exists.
2. Environment variables: `GROUNDLING__SECTION__KEY`, with two underscores between the parts, such as
   `GROUNDLING__NATS__TLS__CA_FILE` for `ca_file` in `[nats.tls]`. `[[ingest]]` rules can only be in the file.
3. Flags, for the few settings that have one.

A variable's value is read as the type of its setting, without quotes: `0123` is a number for `worker.slots` and a string
for `s3.access_key`. The entries of a list are separated by commas. An empty variable counts as unset, and upper and lower
case of its name are the same. The environment variable `GROUNDLING_MODEL` stands for `--model`, so it
overrides `model.path` from the file and from `GROUNDLING__MODEL__PATH`.

Unknown keys and values of the wrong type are errors, which name the line of the file or the variable. The exit code is
then 2.

Durations are strings with a unit: `\"250ms\"`, `\"30s\"`, `\"1m 30s\"`, `\"6h\"`, `\"7d\"`. Sizes are in bytes.

`groundling settings --defaults` prints a settings file with every key at its default, `groundling settings --schema` a JSON
schema of the file.
";

/// A section of the settings file.
struct Section {
    /// Its name, such as `nats.tls`.
    name: String,
    /// Whether it can be there any number of times.
    is_list: bool,
    description: String,
    keys: Vec<Key>,
}

/// A setting.
struct Key {
    name: String,
    kind: &'static str,
    unit: Option<&'static str>,
    /// As TOML; `None` if the setting is unset by default, or if its default depends on the machine.
    default: Option<String>,
    /// Paragraphs.
    description: String,
}

/// The JSON schema of the settings file.
pub(crate) fn schema() -> Value {
    let mut schema = schemars::schema_for!(Settings).to_value();
    // The defaults of sections repeat those of their keys.
    remove_defaults(&mut schema, |_, default| default.is_object());
    for (name, _) in MACHINE_DEFAULTS {
        let Some((section, key)) = name.split_once('.') else { continue };
        let definition = reference(&schema["properties"][section]).unwrap_or_default().to_owned();
        if let Some(definition) = schema.pointer_mut(&definition) {
            remove_defaults(definition, |name, _| name == key);
        }
    }
    schema
}

/// Removes defaults from the properties of a definition, and of those within it.
fn remove_defaults(definition: &mut Value, is_removed: impl Fn(&str, &Value) -> bool + Copy) {
    for (name, property) in entries(definition, "properties") {
        if property.get("default").is_some_and(|default| is_removed(name, default)) {
            property.as_object_mut().map(|property| property.remove("default"));
        }
    }
    for (_, definition) in entries(definition, "$defs") {
        remove_defaults(definition, is_removed);
    }
}

fn entries<'a>(definition: &'a mut Value, key: &str) -> impl Iterator<Item = (&'a String, &'a mut Value)> {
    definition.get_mut(key).and_then(Value::as_object_mut).into_iter().flatten()
}

/// A settings file with every key at its default. Keys without one are commented out.
pub(crate) fn toml() -> anyhow::Result<String> {
    let mut text = comment(
        "Settings of Groundling with their defaults. Keys that are commented out are unset by default, or their default depends on the machine.",
    );
    for Section { name, is_list, description, keys } in sections()? {
        let header = if is_list { format!("# [[{name}]]") } else { format!("[{name}]") };
        let _ = write!(text, "\n{}{header}\n", comment(&description));
        for key in keys {
            text.push('\n');
            text += &comment(&key.description);
            let _ = match &key.default {
                Some(default) if is_list => writeln!(text, "# {} = {default}", key.name),
                Some(default) => writeln!(text, "{} = {default}", key.name),
                None => writeln!(text, "# {} = <{}>", key.name, key.kind),
            };
        }
    }
    Ok(text)
}

/// The reference as Markdown, docs/configuration.md.
pub(crate) fn markdown() -> anyhow::Result<String> {
    let mut text = INTRODUCTION.to_owned();
    for Section { name: section, is_list, description, keys } in sections()? {
        let header = if is_list { format!("[[{section}]]") } else { format!("[{section}]") };
        let _ = write!(text, "\n## `{header}`\n\n{description}\n");
        for key in keys {
            let name = format!("{section}.{}", key.name);
            let variable = format!("{PREFIX}{}", name.replace('.', SEPARATOR).to_uppercase());
            let unit = key.unit.map(|unit| format!(" ({unit})")).unwrap_or_default();
            let machine = MACHINE_DEFAULTS.iter().find(|(known, _)| *known == name).map(|(_, default)| *default);
            let default = match (&key.default, machine) {
                (Some(default), _) => format!("`{default}`"),
                (None, Some(machine)) => machine.to_owned(),
                (None, None) => "unset".to_owned(),
            };
            let _ = write!(text, "\n### `{name}`\n\n- Type: {}{unit}\n- Default: {default}\n", key.kind);
            if !is_list {
                let _ = writeln!(text, "- Variable: `{variable}`");
            }
            if let Some((_, flag)) = FLAGS.iter().find(|(known, _)| *known == name) {
                let _ = writeln!(text, "- Flag: `--{flag}`");
            }
            let _ = write!(text, "\n{}\n", key.description);
        }
    }
    Ok(text)
}

/// What kind of value a setting takes, and an example as TOML; `None` if there is no such setting.
pub(crate) fn example(name: &str) -> anyhow::Result<Option<(&'static str, String)>> {
    // The number of a section in a list.
    let name: Vec<_> = name.split('.').filter(|part| part.parse::<usize>().is_err()).collect();
    let Some((key, section)) = name.split_last() else { return Ok(None) };
    let section = section.join(".");
    let found = sections()?.into_iter().find(|found| found.name == section);
    let Some(key) = found.and_then(|found| found.keys.into_iter().find(|found| found.name == *key)) else {
        return Ok(None);
    };
    let usual = match key.kind {
        "duration" => "\"30s\"",
        "integer" => "8",
        "number" => "0.5",
        "boolean" => "true",
        "list of strings" => "[\"bucket\"]",
        _ => "\"text\"",
    };
    Ok(Some((key.kind, key.default.filter(|default| default != "[]").unwrap_or_else(|| usual.to_owned()))))
}

/// All sections, in the order of their fields.
fn sections() -> anyhow::Result<Vec<Section>> {
    let schema = schema();
    let Fields(defaults) = serde_json::from_str(&serde_json::to_string(&Settings::default())?)?;
    let mut found = Vec::new();
    for (name, default) in defaults {
        let place = schema.pointer(&format!("/properties/{name}")).context("a section is not in the schema")?;
        match default {
            Field::Section(fields) => add_section(&mut found, &schema, name, place, fields)?,
            // The only section that can be repeated.
            Field::Value(_) => {
                let fields = serde_json::from_str(&serde_json::to_string(&IngestRule::default())?)?;
                let first = found.len();
                add_section(&mut found, &schema, name, &place["items"], fields)?;
                found[first..].iter_mut().for_each(|section| section.is_list = true);
            }
        }
    }
    Ok(found)
}

/// Adds a section, then the sections within it.
fn add_section(
    found: &mut Vec<Section>,
    schema: &Value,
    name: String,
    place: &Value,
    Fields(fields): Fields,
) -> anyhow::Result<()> {
    let definition = resolve(schema, place)?;
    let (mut keys, mut inner) = (Vec::new(), Vec::new());
    for (key, field) in fields {
        let property = definition.pointer(&format!("/properties/{key}"));
        let property = property.with_context(|| format!("{name}.{key} is not in the schema"))?;
        match field {
            Field::Section(fields) => inner.push((format!("{name}.{key}"), property, fields)),
            Field::Value(_) => keys.push(setting(schema, key, property)?),
        }
    }
    let description = if place["description"].is_string() { place } else { definition };
    found.push(Section { name, is_list: false, description: paragraphs(description), keys });
    inner.into_iter().try_for_each(|(name, place, fields)| add_section(found, schema, name, place, fields))
}

/// The setting that a property of the schema describes.
fn setting(schema: &Value, name: String, property: &Value) -> anyhow::Result<Key> {
    let definition = resolve(schema, property)?;
    let types = match &definition["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        kind => kind.as_str(),
    };
    let kind = match types {
        Some("string") if reference(property) == Some("/$defs/Duration") => "duration",
        Some("string") => "string",
        Some("integer") => "integer",
        Some("boolean") => "boolean",
        Some("number") => "number",
        Some("array") => "list of strings",
        // One of several words, each described.
        None if definition["oneOf"].is_array() => "string",
        other => return Err(anyhow!("{name}: a setting of the type {other:?} cannot be described")),
    };
    let unit = match name.as_str() {
        _ if kind != "integer" => None,
        name if name.contains("bytes") => Some("bytes"),
        name if name.ends_with("_pixels") || name.ends_with("_side") => Some("pixels"),
        name if name.ends_with("_tokens") => Some("tokens"),
        _ => None,
    };
    // JSON writes these values as TOML does.
    let default = property.get("default").filter(|default| !default.is_null()).map(Value::to_string);
    Ok(Key { name, kind, unit, default, description: paragraphs(property) })
}

/// The definition that a property refers to, or the property itself.
fn resolve<'a>(schema: &'a Value, property: &'a Value) -> anyhow::Result<&'a Value> {
    let Some(pointer) = reference(property) else { return Ok(property) };
    schema.pointer(pointer).with_context(|| format!("{pointer} is not in the schema"))
}

/// The JSON pointer to the definition that a property refers to. Optional properties are `anyOf` it and null.
fn reference(property: &Value) -> Option<&str> {
    let choices = property["anyOf"].as_array().into_iter().flatten();
    let reference = choices.chain([property]).find_map(|choice| choice["$ref"].as_str());
    reference.map(|reference| reference.trim_start_matches('#'))
}

/// A description with each paragraph on one line.
fn paragraphs(described: &Value) -> String {
    let text = described["description"].as_str().unwrap_or_default();
    let paragraphs = text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

/// A text as lines of a TOML comment.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        let mut line = String::from("#");
        for word in paragraph.split_whitespace() {
            if line.len() > 1 && line.chars().count() + 1 + word.chars().count() > COMMENT_WIDTH {
                lines += &line;
                lines.push('\n');
                line.truncate(1);
            }
            line.push(' ');
            line += word;
        }
        lines += &line;
        lines.push('\n');
    }
    lines
}

/// An object's fields in the order in which they are written: that of the struct. [`Value`] would sort them.
struct Fields(Vec<(String, Field)>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Field {
    Section(Fields),
    Value(#[expect(dead_code, reason = "the schema has the defaults")] Value),
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Vec::new();
        while let Some(entry) = map.next_entry()? {
            fields.push(entry);
        }
        Ok(Fields(fields))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory;

    use super::*;
    use crate::args::Arguments;
    use crate::settings::layers::Layered;

    #[test]
    fn the_documentation_lists_every_setting_as_it_is() {
        let committed = include_str!("../../../../docs/configuration.md");
        assert!(
            markdown().unwrap() == committed,
            "docs/configuration.md is out of date: cargo run -p groundling -- settings --markdown > docs/configuration.md"
        );
    }

    #[test]
    fn the_file_of_defaults_gives_the_defaults() {
        let text = toml().unwrap();
        let layers = Layered::from_toml(Path::new("defaults.toml"), &text).unwrap();
        assert_eq!(Settings::deserialize(layers).unwrap(), Settings::default());
        for Section { name, is_list, keys, .. } in sections().unwrap() {
            let header = if is_list { format!("\n# [[{name}]]\n") } else { format!("\n[{name}]\n") };
            assert!(text.contains(&header), "{name}");
            for key in keys {
                let line = format!("{} = ", key.name);
                assert!(text.lines().any(|found| found.trim_start_matches("# ").starts_with(&line)), "{line}");
            }
        }
    }

    #[test]
    fn every_setting_is_described_and_every_property_of_the_schema_is_listed() {
        let (schema, sections) = (schema(), sections().unwrap());
        let keys = || sections.iter().flat_map(|section| section.keys.iter().map(move |key| (section, key)));
        for (section, key) in keys() {
            assert!(!section.description.is_empty() && !key.description.is_empty(), "{}.{}", section.name, key.name);
        }
        let definitions = schema["$defs"].as_object().unwrap().values();
        let properties: usize = definitions.filter_map(|one| Some(one["properties"].as_object()?.len())).sum();
        // A section within another one is a property, too.
        let inner = sections.iter().filter(|section| section.name.contains('.')).count();
        assert_eq!(properties, keys().count() + inner);
        let names: Vec<_> = keys().map(|(section, key)| format!("{}.{}", section.name, key.name)).collect();
        let special = FLAGS.iter().chain(&MACHINE_DEFAULTS).map(|(name, _)| name.to_string());
        special.for_each(|name| assert!(names.contains(&name), "{name}"));
    }

    #[test]
    fn descriptions_name_only_settings_that_exist() {
        let sections = sections().unwrap();
        let names: Vec<_> = sections.iter().map(|section| section.name.as_str()).collect();
        let has = |section: &str, key: &str| {
            sections.iter().any(|found| found.name == section && found.keys.iter().any(|found| found.name == key))
        };
        let is_legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.".contains(c);
        let is_name = |text: &&str| text.chars().all(is_legal);
        let mut seen = 0;
        for Section { name, description, keys, .. } in &sections {
            for text in keys.iter().map(|key| &key.description).chain([description]) {
                // Every second part is within backticks.
                for word in text.split('`').skip(1).step_by(2).filter(is_name) {
                    let Some((section, key)) = word.rsplit_once('.') else { continue };
                    if names.contains(&section) {
                        assert!(has(section, key) || names.contains(&word), "{name} names `{word}`: it does not exist");
                        seen += 1;
                    }
                }
            }
        }
        assert!(seen > 5, "{seen}");
    }

    #[test]
    fn the_flags_of_the_reference_are_those_of_the_worker() {
        let command = Arguments::command();
        let worker = command.find_subcommand("worker").unwrap();
        let flags: Vec<_> = worker.get_arguments().filter_map(|argument| argument.get_long()).collect();
        assert_eq!(flags.len(), FLAGS.len(), "{flags:?}");
        assert!(FLAGS.iter().all(|(_, flag)| flags.contains(flag)), "{flags:?}");
    }
}
