//! All problems of a settings file at once, each with its place and the fix.

use std::ffi::OsString;
use std::path::Path;

use kosmos2::compute::DeviceChoice;
use serde::{Deserialize, Serialize};

use super::Settings;
use super::error::{Kind, Origin, SettingsError};
use super::layers::Layered;
use super::reference;

/// A problem of the settings, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FoundProblem {
    /// The settings file, or the environment variable.
    pub(crate) source: String,
    /// In the file, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<usize>,
    /// In characters, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) column: Option<usize>,
    /// What is wrong, and the fix.
    pub(crate) message: String,
}

impl std::fmt::Display for FoundProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { source, line, column, message } = self;
        match (line, column) {
            (Some(line), Some(column)) => write!(f, "{source}:{line}:{column}: {message}"),
            _ => write!(f, "{source}: {message}"),
        }
    }
}

impl FoundProblem {
    fn new(origin: &Origin, message: String) -> Self {
        match origin {
            Origin::File { path, line, column } => {
                Self { source: path.clone(), line: Some(*line), column: Some(*column), message }
            }
            Origin::Variable(name) => Self { source: name.clone(), line: None, column: None, message },
        }
    }
}

/// All problems of the file with this text, overridden by these variables. A worker refuses settings with any of them.
pub(crate) fn problems(
    file: &Path,
    text: &str,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> anyhow::Result<Vec<FoundProblem>> {
    let (mut layers, mut errors) = Layered::from_toml_with_problems(file, text);
    for variable in variables {
        errors.extend(layers.overlay([variable]).err());
    }
    let mut valid = layers.clone();
    let settings = loop {
        let error = match Settings::deserialize(valid.clone()) {
            Ok(settings) => break settings,
            Err(error) => error,
        };
        // The next error shows once the invalid setting is gone.
        let is_removed = valid.remove(&error.path());
        errors.push(error);
        if !is_removed {
            break Settings::default();
        }
    };
    let is_incomplete = errors.iter().any(|error| error.kind == Kind::Syntax);
    let invalid: Vec<String> = errors.iter().map(|error| error.path().join(".")).collect();
    let mut found = Vec::new();
    for error in errors {
        let origin = error.origin.as_deref().unwrap_or_else(|| layers.origin_of([]));
        found.push(FoundProblem::new(origin, with_fix(&error)?));
    }
    for sentence in settings.problems().into_iter().chain(settings.ingest_problems()).chain(device_problem(&settings)) {
        let name = setting_of(&sentence);
        let origin = layers.origin_of(name.split('.'));
        // A setting that was left out above has its default here, and one that is missing may be behind a syntax error.
        let is_left_out = invalid.iter().any(|invalid| invalid == name);
        let may_be_hidden = is_incomplete && origin == layers.origin_of([]);
        if !is_left_out && !may_be_hidden {
            found.push(FoundProblem::new(origin, sentence));
        }
    }
    found.sort_by_key(|problem| (problem.line.is_none(), problem.line, problem.column));
    Ok(found)
}

fn device_problem(settings: &Settings) -> Option<String> {
    let model = &settings.model;
    match model.device.parse::<DeviceChoice>() {
        Ok(device) => device.check_format(model.dtype.as_deref()).err().map(|error| format!("model.dtype: {error}")),
        Err(error) => Some(format!("model.device: {error}")),
    }
}

/// The setting with whose name a sentence begins.
fn setting_of(sentence: &str) -> &str {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    sentence.split(|c| !is_part(c)).next().unwrap_or_default().trim_end_matches('.')
}

/// The problem and the fix.
fn with_fix(error: &SettingsError) -> anyhow::Result<String> {
    let name = error.key.join(".");
    let prefix = if name.is_empty() { String::new() } else { format!("{name}: ") };
    Ok(match (error.kind, &error.unknown) {
        (Kind::Syntax, _) => format!("{}; correct the TOML syntax", error.problem),
        (Kind::UnknownKey { known }, Some(unknown)) => {
            let nearest = known.iter().copied().min_by_key(|known| edit_distance(known, unknown));
            let nearest = nearest.filter(|nearest| edit_distance(nearest, unknown) <= 1 + unknown.len() / 3);
            match nearest {
                Some(nearest) => format!("{prefix}unknown setting {unknown:?}; write {nearest:?}"),
                None => format!("{prefix}unknown setting {unknown:?}; remove it, or write one of {}", known.join(", ")),
            }
        }
        _ => {
            // What serde expected is the name of a Rust type.
            let invalid = error.problem.strip_prefix("invalid ").and_then(|rest| rest.rsplit_once(", expected "));
            match (invalid, reference::example(&name)?) {
                (Some((invalid, _)), Some((kind, example))) => {
                    format!("{prefix}invalid {invalid}; write {} {kind}, for example {example}", article(kind))
                }
                _ => format!("{prefix}{}", error.problem),
            }
        }
    })
}

fn article(kind: &str) -> &'static str {
    if kind.starts_with('i') { "an" } else { "a" }
}

/// The number of characters to insert, remove or replace to turn one word into the other.
fn edit_distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.chars().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Vec<String> {
        let found = problems(Path::new("g.toml"), text, []).unwrap();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_problem_of_a_file_comes_at_once_with_its_place_and_the_fix() {
        let text = "\
[nats]
url = \"ws://host\"
ulr = \"nats://host\"

[worker]
slots = true
 job_timeout = \"15\"
max_deliveries = 0

[s3]
allow = [\"imgs\"]
region = 1
[engin]
slots = 3
[streams]
replicas = 2
";
        let found = check(text);
        let expected = [
            ("g.toml:2:1: nats.url: ", "WebSocket"),
            ("g.toml:3:1: nats: unknown setting \"ulr\"; write \"url\"", ""),
            ("g.toml:6:9: worker.slots: ", "; write an integer, for example 8"),
            ("g.toml:7:16: worker.job_timeout: ", "; write a duration, for example \"15m\""),
            ("g.toml:8:1: worker.max_deliveries is 0: set at least 1", ""),
            ("g.toml:12:10: s3.region: ", "; write a string, for example \"us-east-1\""),
            ("g.toml:13:2: unknown setting \"engin\"; write \"engine\"", ""),
            ("g.toml:16:1: streams.replicas is 2: take 1, 3 or 5", ""),
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, (start, end)) in found.iter().zip(expected) {
            assert!(
                found.starts_with(start) && found.ends_with(end) || !end.is_empty() && found.contains(end),
                "{found}"
            );
        }
    }

    #[test]
    fn a_setting_that_is_missing_is_reported_at_its_section() {
        assert!(check("").concat().starts_with("g.toml:1:1: s3.allow is empty"));
        assert!(check("# x\n[s3]\nregion = \"eu\"\n").concat().starts_with("g.toml:2:2: s3.allow is empty"));
        assert_eq!(check("[s3]\nallow = [\"*\"]\n"), Vec::<String>::new());
    }

    #[test]
    fn a_syntax_error_does_not_hide_the_other_problems() {
        let found = check("[s3]\nallow = [\"*\"]\n[worker]\nslots = \nmax_deliveries = 0\n");
        assert!(found.iter().any(|problem| problem.starts_with("g.toml:4:") && problem.contains("TOML")), "{found:?}");
        assert!(found.iter().any(|problem| problem.starts_with("g.toml:5:1: worker.max_deliveries")), "{found:?}");
        // The section of s3.allow may be there.
        let found = check("[s3\nallow = [\"*\"]\n[worker]\nmax_deliveries = 0\n");
        assert!(found.len() == 2 && found[1].starts_with("g.toml:4:1: worker.max_deliveries"), "{found:?}");
    }

    #[test]
    fn values_from_variables_are_reported_by_the_names_of_these() {
        let variables = [("GROUNDLING__WORKER__SLOTS", "many"), ("GROUNDLING__STREAMS__REPLICAS", "2")];
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let found = problems(Path::new("g.toml"), "[s3]\nallow = [\"*\"]\n", variables).unwrap();
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().any(|line| line.starts_with("GROUNDLING__WORKER__SLOTS: worker.slots: ")), "{found:?}");
        assert!(
            found.iter().any(|line| line.starts_with("GROUNDLING__STREAMS__REPLICAS: streams.replicas")),
            "{found:?}"
        );
    }

    #[test]
    fn a_format_must_be_one_of_the_device() {
        for (device, dtype, expected) in [
            ("auto", "fp16", "g.toml:5:1: model.dtype: dtype \"fp16\" is not known; expected f32"),
            ("cuda", "int8", "g.toml:5:1: model.dtype: dtype int8 is not supported on CUDA"),
            ("cpu", "f16", "g.toml:5:1: model.dtype: dtype f16 is not supported on the CPU"),
            ("tpu", "f16", "g.toml:4:1: model.device: device \"tpu\" is not known"),
            ("cuda:1", "bf16-kv8", ""),
            ("auto", "int8", ""),
        ] {
            let text = format!("[s3]\nallow = [\"*\"]\n[model]\ndevice = {device:?}\ndtype = {dtype:?}\n");
            let found = check(&text);
            assert_eq!(found.len(), usize::from(!expected.is_empty()), "{found:?}");
            assert!(found.concat().starts_with(expected), "{found:?}");
        }
    }

    #[test]
    fn columns_count_characters() {
        let found = check("[s3]\nallow = [\"*\"]\n[worker]\nid = \"ä\" \n\"ö\" = 1\n");
        assert!(found.concat().starts_with("g.toml:5:1: worker: unknown setting \"ö\""), "{found:?}");
    }

    #[test]
    fn edits_are_counted() {
        for (a, b, distance) in [("slots", "slots", 0), ("slotz", "slots", 1), ("", "abc", 3), ("ulr", "url", 2)] {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        }
    }
}
