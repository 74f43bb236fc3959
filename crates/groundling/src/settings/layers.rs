//! Values of settings from a TOML file and from environment variables, with the origin of each.
//!
//! A variable's value is parsed as the type of its setting: `0123` is a number for `worker.slots` and the string `0123`
//! for `s3.access_key`. The type is never guessed from the value.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Origin, SettingsError};

/// Separates the parts of a variable's name.
pub(super) const SEPARATOR: &str = "__";
/// Begins the names of all variables.
pub(super) const PREFIX: &str = "GROUNDLING__";

#[derive(Debug, Clone)]
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
#[derive(Debug, Clone)]
pub(super) struct Layered {
    value: Value,
    origin: Origin,
    /// The origin of its key; that of the value if it has none.
    key_origin: Origin,
}

impl Layered {
    /// Parses a TOML file.
    ///
    /// # Errors
    /// The first problem.
    pub(super) fn from_toml(path: &Path, text: &str) -> Result<Self, SettingsError> {
        let (read, problems) = Self::from_toml_with_problems(path, text);
        problems.into_iter().next().map_or(Ok(read), Err)
    }

    /// Parses a TOML file as far as possible, and returns all problems.
    pub(super) fn from_toml_with_problems(path: &Path, text: &str) -> (Self, Vec<SettingsError>) {
        let file = TomlFile { path: path.display().to_string(), text };
        let (table, errors) = DeTable::parse_recoverable(text);
        let invalid = |error: toml::de::Error| {
            let at = error.span().map_or(0, |span| span.start);
            SettingsError::syntax(error.message()).at(&file.origin(at))
        };
        let mut problems: Vec<_> = errors.into_iter().map(invalid).collect();
        let value = file.table(table.into_inner(), &[], &mut problems);
        let origin = file.origin(0);
        (Self { key_origin: origin.clone(), origin, value }, problems)
    }

    /// Removes a setting or a section; `false` if there is none with this path. The parts of a list are numbered from 0.
    pub(super) fn remove(&mut self, path: &[String]) -> bool {
        let [parents @ .., last] = path else { return false };
        let mut place = self;
        for part in parents {
            let inner = match &mut place.value {
                Value::Table(table) => table.get_mut(part),
                Value::List(items) => part.parse().ok().and_then(|number: usize| items.get_mut(number)),
                _ => None,
            };
            let Some(inner) = inner else { return false };
            place = inner;
        }
        let Value::Table(table) = &mut place.value else { return false };
        table.remove(last).is_some()
    }

    /// The origin of the setting with this path, or of the innermost section of it that is there.
    pub(super) fn origin_of<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> &Origin {
        let mut place = self;
        for part in path {
            let inner = match &place.value {
                Value::Table(table) => table.get(part),
                Value::List(items) => part.parse().ok().and_then(|number: usize| items.get(number)),
                _ => None,
            };
            let Some(inner) = inner else { break };
            place = inner;
        }
        &place.key_origin
    }

    fn of(value: Value, origin: &Origin) -> Self {
        Self { value, origin: origin.clone(), key_origin: origin.clone() }
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
                let empty = || Self::of(Value::Table(BTreeMap::new()), &origin);
                let Value::Table(table) = &mut place.value else {
                    let problem =
                        format!("{} sets a section of this key to a plain value: remove one of the two", place.origin);
                    return Err(SettingsError::new(problem).at(&origin));
                };
                place = table.entry(part.to_owned()).or_insert_with(empty);
            }
            *place = Self::of(Value::Untyped(text), &origin);
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
        let before = &self.text[..self.text.floor_char_boundary(at)];
        let (line, column) = match before.rsplit_once('\n') {
            Some((lines, rest)) => (2 + lines.matches('\n').count(), rest),
            None => (1, before),
        };
        Origin::File { path: self.path.clone(), line, column: 1 + column.chars().count() }
    }

    /// Adds the problems of values to `problems` and leaves these values out. `path` is that of the table.
    fn table(&self, table: DeTable<'_>, path: &[String], problems: &mut Vec<SettingsError>) -> Value {
        let mut entries = BTreeMap::new();
        for (key, value) in table {
            let key_origin = self.origin(key.span().start);
            let key = key.into_inner().into_owned();
            let path = [path, std::slice::from_ref(&key)].concat();
            if let Some(value) = self.value(value, &path, problems) {
                entries.insert(key, Layered { key_origin, ..value });
            }
        }
        Value::Table(entries)
    }

    fn value(
        &self,
        value: Spanned<DeValue<'_>>,
        path: &[String],
        problems: &mut Vec<SettingsError>,
    ) -> Option<Layered> {
        let origin = self.origin(value.span().start);
        let mut refuse = |problem| {
            let error = SettingsError::new(problem).at(&origin);
            problems.push(path.iter().rev().fold(error, |error, part| error.within(part)));
            None
        };
        let value = match value.into_inner() {
            DeValue::Boolean(value) => Value::Boolean(value),
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Array(items) => {
                Value::List(items.into_iter().filter_map(|item| self.value(item, path, problems)).collect())
            }
            DeValue::Table(table) => self.table(table, path, problems),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => return refuse("the number is too large"),
            },
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => Value::Float(number),
                Err(_) => return refuse("the number cannot be read"),
            },
            DeValue::Datetime(_) => return refuse("no setting takes a date; put strings in quotes"),
        };
        Some(Layered::of(value, &origin))
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
            Self::List(items) => visitor.visit_seq(Items(items.into_iter().enumerate())),
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
                let entry = |entry: &str| Self::of(Value::Untyped(entry.to_owned()), &origin);
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

struct Items(std::iter::Enumerate<std::vec::IntoIter<Layered>>);

impl<'de> SeqAccess<'de> for Items {
    type Error = SettingsError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, SettingsError> {
        let Some((number, item)) = self.0.next() else { return Ok(None) };
        // Sections of a list are told apart by their number; plain values by their place.
        let is_section = matches!(item.value, Value::Table(_));
        let read = seed.deserialize(item);
        read.map(Some).map_err(|error| if is_section { error.within(&number.to_string()) } else { error })
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
        let read = seed.deserialize(name).map_err(|error: SettingsError| error.at(&value.key_origin).about(&key))?;
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
