//! An invalid setting, with the place where it was set.

use std::fmt;

use serde::de;

/// The origin of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A place in the settings file, counted from 1. Columns count characters.
    File { path: String, line: usize, column: usize },
    /// An environment variable.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, .. } => write!(f, "{path} line {line}"),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// What kind of problem an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The file is not TOML.
    Syntax,
    /// There is no such setting.
    UnknownKey { known: &'static [&'static str] },
    /// The value does not fit its setting.
    Value,
}

/// An invalid value and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SettingsError {
    /// Boxed, because it is large.
    pub(super) origin: Option<Box<Origin>>,
    /// The names of the sections and the key, outermost first. Without the key if that is unknown.
    pub(super) key: Vec<String>,
    pub(super) problem: String,
    pub(super) kind: Kind,
    /// The unknown key.
    pub(super) unknown: Option<String>,
}

impl SettingsError {
    pub(super) fn new(problem: impl fmt::Display) -> Self {
        Self { origin: None, key: Vec::new(), problem: problem.to_string(), kind: Kind::Value, unknown: None }
    }

    pub(super) fn syntax(problem: impl fmt::Display) -> Self {
        Self { kind: Kind::Syntax, ..Self::new(problem) }
    }

    pub(super) fn at(mut self, origin: &Origin) -> Self {
        self.origin.get_or_insert_with(|| Box::new(origin.clone()));
        self
    }

    pub(super) fn within(mut self, name: &str) -> Self {
        self.key.insert(0, name.to_owned());
        self
    }

    /// Names the unknown key.
    pub(super) fn about(mut self, key: &str) -> Self {
        self.unknown.get_or_insert_with(|| key.to_owned());
        self
    }

    /// The names of the sections and the key, also of an unknown one.
    pub(super) fn path(&self) -> Vec<String> {
        self.key.iter().chain(&self.unknown).cloned().collect()
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key.join("."))?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for SettingsError {}

impl de::Error for SettingsError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let problem = format_args!("unknown setting {field:?}, expected one of {}", expected.join(", ")).to_string();
        Self { kind: Kind::UnknownKey { known: expected }, ..Self::new(problem) }
    }
}
