//! Parsers of arguments.

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, PossibleValue, PossibleValuesParser, TypedValueParser};
use kosmos2::options::EarlyStopping;

pub(crate) fn early_stopping() -> impl TypedValueParser<Value = EarlyStopping> {
    let help = |value| match value {
        EarlyStopping::Yes => "As soon as there are as many finished texts as beams",
        EarlyStopping::No => {
            "When the best unfinished text, at its current length, ranks no higher than the worst finished one"
        }
        EarlyStopping::Never => "When the best unfinished text would rank no higher even at the most favourable length",
    };
    let values = EarlyStopping::NAMES.map(|(name, value)| PossibleValue::new(name).help(help(value)));
    PossibleValuesParser::new(values).try_map(|name| name.parse::<EarlyStopping>())
}

pub(crate) fn lengths(text: &str) -> Result<(usize, usize), String> {
    let bounds = text.split_once('-').and_then(|(min, max)| Some((min.parse().ok()?, max.parse().ok()?)));
    bounds.filter(|&(min, max)| 1 <= min && min <= max).ok_or_else(|| "expected a range such as 8-128".into())
}

/// A path that may be empty, which counts as unset: deployment templates write `VARIABLE=` for a missing value.
pub(crate) fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// The address of a store.
pub(crate) fn endpoint(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match host {
        Some(host) if !host.is_empty() && !host.starts_with('/') => Ok(text.to_owned()),
        _ => Err("expected an address like http://127.0.0.1:8333 or https://host".into()),
    }
}

pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected an integer of at least 1".into()),
        Ok(number) => Ok(number),
    }
}
