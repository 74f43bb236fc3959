//! Values of settings from a TOML file and from environment variables, with the origin of each.
//!
//! A variable's value is parsed as the type of its setting: `0123` is a number for `worker.slots` and the string `0123`
//! for `s3.access_key`. The type is never guessed from the value.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Separates the parts of a variable's name.
pub(super) const SEPARATOR: &str = "__";
/// Begins the names of all variables.
pub(super) const PREFIX: &str = "GROUNDLING__";

/// An invalid value and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SettingsError {
    origin: Option<String>,
    /// The names of the sections and the key, outermost first.
    key: Vec<String>,
    problem: String,
}

impl SettingsError {
    fn new(problem: impl fmt::Display) -> Self {
        Self { origin: None, key: Vec::new(), problem: problem.to_string() }
    }

    fn at(mut self, origin: &Origin) -> Self {
        self.origin.get_or_insert_with(|| origin.to_string());
        self
    }

    fn within(mut self, name: &str) -> Self {
        self.key.insert(0, name.to_owned());
        self
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
        Self::new(format_args!("unknown setting {field:?}, expected one of {}", expected.join(", ")))
    }
}

/// The origin of a value.
#[derive(Debug, Clone)]
enum Origin {
    File { path: String, line: usize },
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{path} line {line}"),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

#[derive(Debug)]
enum Value {
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Layered>),
    Table(BTreeMap<String, Layered>),
    /// A variable, whose type is determined when it is deserialized.
    Untyped(String),
}

/// A value and its origin. All settings together are a value, a table.
#[derive(Debug)]
pub(super) struct Layered {
    value: Value,
    origin: Origin,
}

impl Layered {
    /// Parses a TOML file.
    pub(super) fn from_toml(path: &Path, text: &str) -> Result<Self, SettingsError> {
        let file = TomlFile { path: path.display().to_string(), text };
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            SettingsError::new(error.message()).at(&file.origin(at))
        })?;
        Ok(Self { origin: file.origin(0), value: file.table(table.into_inner())? })
    }

    /// Overrides values by the variables `GROUNDLING__SECTION__KEY`. Empty variables count as unset.
    pub(super) fn overlay(
        &mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), SettingsError> {
        let ours = variables.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let mut ours: Vec<_> =
            ours.filter(|(name, value)| name.to_uppercase().starts_with(PREFIX) && !value.is_empty()).collect();
        ours.sort();
        for (name, value) in ours {
            let origin = Origin::Variable(name.clone());
            let text = value.into_string().map_err(|_| SettingsError::new("the value is not UTF-8").at(&origin))?;
            let key = name[PREFIX.len()..].to_lowercase();
            let mut place = &mut *self;
            for part in key.split(SEPARATOR) {
                let empty = || Self { value: Value::Table(BTreeMap::new()), origin: origin.clone() };
                let Value::Table(table) = &mut place.value else {
                    let problem =
                        format!("{} sets a section of this key to a plain value: remove one of the two", place.origin);
                    return Err(SettingsError::new(problem).at(&origin));
                };
                place = table.entry(part.to_owned()).or_insert_with(empty);
            }
            *place = Self { value: Value::Untyped(text), origin };
        }
        Ok(())
    }
}

struct TomlFile<'a> {
    path: String,
    text: &'a str,
}

impl TomlFile<'_> {
    fn origin(&self, at: usize) -> Origin {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        Origin::File { path: self.path.clone(), line: 1 + before.iter().filter(|byte| **byte == b'\n').count() }
    }

    fn table(&self, table: DeTable<'_>) -> Result<Value, SettingsError> {
        let entries = table.into_iter().map(|(key, value)| {
            let key = key.into_inner().into_owned();
            self.value(value).map_err(|error| error.within(&key)).map(|value| (key, value))
        });
        Ok(Value::Table(entries.collect::<Result<_, _>>()?))
    }

    fn value(&self, value: Spanned<DeValue<'_>>) -> Result<Layered, SettingsError> {
        let origin = self.origin(value.span().start);
        let value = match value.into_inner() {
            DeValue::Boolean(value) => Value::Boolean(value),
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Array(items) => {
                Value::List(items.into_iter().map(|item| self.value(item)).collect::<Result<_, _>>()?)
            }
            DeValue::Table(table) => self.table(table)?,
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => return Err(SettingsError::new("the number is too large").at(&origin)),
            },
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => Value::Float(number),
                Err(_) => return Err(SettingsError::new("the number cannot be read").at(&origin)),
            },
            DeValue::Datetime(_) => {
                return Err(SettingsError::new("no setting takes a date; put strings in quotes").at(&origin));
            }
        };
        Ok(Layered { value, origin })
    }
}

/// Parses `true`, `false` and their usual synonyms.
fn boolean(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

impl Value {
    fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingsError> {
        match self {
            Self::Boolean(value) => visitor.visit_bool(value),
            Self::Integer(number) => visitor.visit_i64(number),
            Self::Float(number) => visitor.visit_f64(number),
            Self::Text(text) | Self::Untyped(text) => visitor.visit_string(text),
            Self::List(items) => visitor.visit_seq(Items(items.into_iter())),
            Self::Table(table) => visitor.visit_map(Entries { entries: table.into_iter(), value: None }),
        }
    }

    /// Parses a variable as a number or a boolean.
    fn visit_parsed<'de, V: Visitor<'de>, T>(
        self,
        visitor: V,
        parse: impl FnOnce(&str) -> Option<T>,
        visit: impl FnOnce(V, T) -> Result<V::Value, SettingsError>,
    ) -> Result<V::Value, SettingsError> {
        match self {
            Self::Untyped(text) => match parse(text.trim()) {
                Some(parsed) => visit(visitor, parsed),
                None => Err(de::Error::invalid_value(Unexpected::Str(&text), &visitor)),
            },
            value => value.visit(visitor),
        }
    }
}

macro_rules! deserialize_integers {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingsError> {
            self.value.visit_parsed(visitor, |text| text.parse().ok(), V::visit_i64).map_err(|e| e.at(&self.origin))
        }
    )* };
}

macro_rules! deserialize_floats {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingsError> {
            self.value.visit_parsed(visitor, |text| text.parse().ok(), V::visit_f64).map_err(|e| e.at(&self.origin))
        }
    )* };
}

impl<'de> Deserializer<'de> for Layered {
    type Error = SettingsError;

    deserialize_integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    deserialize_floats! { deserialize_f32 deserialize_f64 }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingsError> {
        self.value.visit(visitor).map_err(|error| error.at(&self.origin))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingsError> {
        self.value.visit_parsed(visitor, boolean, V::visit_bool).map_err(|error| error.at(&self.origin))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingsError> {
        visitor.visit_some(self)
    }

    /// In a variable, the entries of a list are separated by commas.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingsError> {
        let origin = self.origin;
        let value = match self.value {
            Value::Untyped(text) => {
                let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
                let entry = |entry: &str| Self { value: Value::Untyped(entry.to_owned()), origin: origin.clone() };
                Value::List(entries.map(entry).collect())
            }
            value => value,
        };
        value.visit(visitor).map_err(|error| error.at(&origin))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, SettingsError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SettingsError> {
        let read = match self.value {
            Value::Text(text) | Value::Untyped(text) => {
                let text: StrDeserializer<'_, SettingsError> = text.as_str().into_deserializer();
                text.deserialize_enum(name, variants, visitor)
            }
            Value::Table(table) => {
                let entries = Entries { entries: table.into_iter(), value: None };
                MapAccessDeserializer::new(entries).deserialize_enum(name, variants, visitor)
            }
            value => value.visit(visitor),
        };
        read.map_err(|error| error.at(&self.origin))
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items(std::vec::IntoIter<Layered>);

impl<'de> SeqAccess<'de> for Items {
    type Error = SettingsError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, SettingsError> {
        self.0.next().map(|item| seed.deserialize(item)).transpose()
    }
}

struct Entries {
    entries: std::collections::btree_map::IntoIter<String, Layered>,
    value: Option<(String, Layered)>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = SettingsError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, SettingsError> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        let name: StrDeserializer<'_, SettingsError> = key.as_str().into_deserializer();
        let read = seed.deserialize(name).map_err(|error| error.at(&value.origin))?;
        self.value = Some((key, value));
        Ok(Some(read))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, SettingsError> {
        let (key, value) =
            self.value.take().ok_or_else(|| SettingsError::new("a value was requested before its key"))?;
        let origin = value.origin.clone();
        seed.deserialize(value).map_err(|error| error.at(&origin).within(&key))
    }
}
