//! The JSON of annotations and failures.
//!
//! [`v1::ImageAnnotation`] and [`v1::JobFailure`] with the messages that they contain implement serde's `Serialize` and
//! `Deserialize`. The JSON is that of protobuf, with the field names of the `.proto` files: enum values by name, bytes in
//! base64, durations as `"1.500s"`, timestamps in RFC 3339, numbers that JSON does not have as `"NaN"`, `"Infinity"` and
//! `"-Infinity"`. Fields that are unset are left out. In annotations, fields that cannot be unset are always written, so
//! that a coordinate of 0 is not missing; in failures they are left out if they have their default. 64-bit integers are
//! numbers, which protobuf's parsers accept as well as strings.
//!
//! ```
//! use wire::v1::{ObjectIdentity, PictureFacts};
//!
//! let object = ObjectIdentity { bucket: "b".into(), key: "k".into(), etag: Some("0123".into()), version_id: None };
//! let json = serde_json::to_string(&object)?;
//! assert_eq!(json, r#"{"bucket":"b","key":"k","etag":"0123"}"#);
//! assert_eq!(serde_json::from_str::<ObjectIdentity>(&json)?, object);
//! # Ok::<(), serde_json::Error>(())
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::v1;

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Values of an enum by name.
macro_rules! names {
    ($module:ident, $kind:ty) => {
        pub(crate) mod $module {
            use super::{Deserialize, Deserializer, Error, Serializer, v1};

            pub(crate) fn serialize<S: Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
                match <$kind>::try_from(*value) {
                    Ok(known) => serializer.serialize_str(known.as_str_name()),
                    // Protobuf writes values that it does not know as numbers.
                    Err(_) => serializer.serialize_i32(*value),
                }
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
                #[derive(Deserialize)]
                #[serde(untagged)]
                enum Value {
                    Name(String),
                    Number(i32),
                }
                match Value::deserialize(deserializer)? {
                    Value::Number(number) => Ok(number),
                    Value::Name(name) => match <$kind>::from_str_name(&name) {
                        Some(known) => Ok(known.into()),
                        None => Err(D::Error::custom(format!("unknown value {name:?}"))),
                    },
                }
            }
        }
    };
}

names!(finish_reason, v1::FinishReason);
names!(failure_reason, v1::FailureReason);

/// Durations and timestamps as text.
macro_rules! texts {
    ($module:ident, $kind:ty) => {
        pub(crate) mod $module {
            use super::{Deserialize, Deserializer, Error, Serializer};

            pub(crate) fn serialize<S: Serializer>(value: &Option<$kind>, serializer: S) -> Result<S::Ok, S::Error> {
                match value {
                    Some(value) => serializer.collect_str(value),
                    None => serializer.serialize_none(),
                }
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<$kind>, D::Error> {
                let text = Option::<String>::deserialize(deserializer)?;
                text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
            }
        }
    };
}

texts!(duration, prost_types::Duration);
texts!(timestamp, prost_types::Timestamp);

/// A map in the order of its keys, so that equal messages have equal JSON.
pub(crate) mod sorted {
    use super::{BTreeMap, Deserialize, Deserializer, HashMap, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(map: &HashMap<String, String>, serializer: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<BTreeMap<_, _>>().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HashMap<String, String>, D::Error> {
        HashMap::deserialize(deserializer)
    }
}

/// Bytes in base64.
pub(crate) mod base64 {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use prost::bytes::Bytes;

    use super::{Deserialize, Deserializer, Error, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Bytes::from).map_err(D::Error::custom)
    }
}

/// A floating-point number. Those that JSON does not have are strings.
struct Float<T>(T);

macro_rules! floats {
    ($kind:ty, $serialize:ident) => {
        impl Serialize for Float<$kind> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self.0 {
                    number if number.is_finite() => serializer.$serialize(number),
                    number if number.is_nan() => serializer.serialize_str("NaN"),
                    number if number > 0.0 => serializer.serialize_str("Infinity"),
                    _ => serializer.serialize_str("-Infinity"),
                }
            }
        }

        impl<'de> Deserialize<'de> for Float<$kind> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(FloatVisitor::<$kind>(PhantomData))
            }
        }

        impl Visitor<'_> for FloatVisitor<$kind> {
            type Value = Float<$kind>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, \"NaN\", \"Infinity\" or \"-Infinity\"")
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
                Ok(Float(number as $kind))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Float(number as $kind))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Float(number as $kind))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                let number = match text {
                    "NaN" => Some(<$kind>::NAN),
                    "Infinity" => Some(<$kind>::INFINITY),
                    "-Infinity" => Some(<$kind>::NEG_INFINITY),
                    // Protobuf's parsers accept numbers in quotes.
                    text => text.parse().ok().filter(|number: &$kind| number.is_finite()),
                };
                number.map(Float).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
    };
}

struct FloatVisitor<T>(PhantomData<T>);

floats!(f32, serialize_f32);
floats!(f64, serialize_f64);

/// Floating-point numbers: one, an optional one or a list.
pub(crate) mod float {
    use super::{Deserialize, Deserializer, Float, Serialize, Serializer};

    /// The type of a field of floating-point numbers.
    pub(crate) trait Field: Sized {
        fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error>;
        fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
    }

    impl Field for f64 {
        fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            Float(*self).serialize(serializer)
        }

        fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Float::deserialize(deserializer).map(|Float(number)| number)
        }
    }

    impl Field for Option<f32> {
        fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.map(Float).serialize(serializer)
        }

        fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Ok(Option::<Float<f32>>::deserialize(deserializer)?.map(|Float(number)| number))
        }
    }

    impl Field for Vec<f32> {
        fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(self.iter().copied().map(Float))
        }

        fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Ok(Vec::<Float<f32>>::deserialize(deserializer)?.into_iter().map(|Float(number)| number).collect())
        }
    }

    pub(crate) fn serialize<F: Field, S: Serializer>(field: &F, serializer: S) -> Result<S::Ok, S::Error> {
        field.write(serializer)
    }

    pub(crate) fn deserialize<'de, F: Field, D: Deserializer<'de>>(deserializer: D) -> Result<F, D::Error> {
        F::read(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use prost::bytes::Bytes;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_annotation_has_every_field_that_is_set_and_every_coordinate() {
        let boxes = vec![v1::GroundedBox {
            fractions: Some(v1::FractionBox { x0: 0.0, y0: 0.25, x1: 0.5, y1: 1.0 }),
            pixels: Some(v1::PixelBox { x0: 0.0, y0: 1.0, x1: 2.0, y1: 4.0 }),
            score: Some(0.1),
            refined: None,
        }];
        let entity = v1::Entity { phrase: "a fox".into(), boxes, ..v1::Entity::default() };
        let annotation = v1::ImageAnnotation {
            job_id: "j".into(),
            labels: [("b", "2"), ("a", "1")].map(|(name, value)| (name.into(), value.into())).into(),
            results: vec![v1::TaskResult {
                entities: vec![entity],
                finish_reason: v1::FinishReason::Length.into(),
                ..v1::TaskResult::default()
            }],
            timings: Some(v1::StageTimings {
                total: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
                ..v1::StageTimings::default()
            }),
            finished_at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            ..v1::ImageAnnotation::default()
        };
        let json = serde_json::to_value(&annotation).unwrap();
        let expected = json!({
            "annotation_id": "", "job_id": "j", "dataset": "", "labels": {"a": "1", "b": "2"},
            "results": [{
                "task_id": "", "prompt": "", "text": "", "answer": "", "raw_text": "",
                "entities": [{
                    "phrase": "a fox",
                    "boxes": [{
                        "fractions": {"x0": 0.0, "y0": 0.25, "x1": 0.5, "y1": 1.0},
                        "pixels": {"x0": 0.0, "y0": 1.0, "x1": 2.0, "y1": 4.0}, "score": 0.1f32,
                    }],
                }],
                "finish_reason": "FINISH_REASON_LENGTH", "prompt_tokens": 0, "generated_tokens": 0,
                "token_ids": [], "logprobs": [],
            }],
            "timings": {"total": "1.500s"}, "finished_at": "2023-11-14T22:13:20Z",
        });
        assert_eq!(json, expected);
        let line = serde_json::to_string(&annotation).unwrap();
        assert!(line.contains(r#""labels":{"a":"1","b":"2"}"#) && line.contains(r#""score":0.1}"#), "{line}");
        assert_eq!(serde_json::from_str::<v1::ImageAnnotation>(&line).unwrap(), annotation);
    }

    #[test]
    fn a_failure_leaves_out_what_it_does_not_know() {
        let failure = v1::JobFailure {
            job: Bytes::from_static(b"\xffjob"),
            job_id: Some("j".into()),
            reason: v1::FailureReason::ObjectNotFound.into(),
            message: "gone".into(),
            ..v1::JobFailure::default()
        };
        let json = serde_json::to_value(&failure).unwrap();
        let expected =
            json!({"job": "/2pvYg==", "job_id": "j", "reason": "FAILURE_REASON_OBJECT_NOT_FOUND", "message": "gone"});
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<v1::JobFailure>(json).unwrap(), failure);
    }

    #[test]
    fn values_of_a_newer_version_are_kept_as_numbers_and_unknown_names_are_errors() {
        let failure = v1::JobFailure { reason: 99, ..v1::JobFailure::default() };
        let json = serde_json::to_value(&failure).unwrap();
        assert_eq!(json, json!({"reason": 99}));
        assert_eq!(serde_json::from_value::<v1::JobFailure>(json).unwrap(), failure);
        let error = serde_json::from_value::<v1::JobFailure>(json!({"reason": "NO_SUCH"})).unwrap_err();
        assert!(error.to_string().contains("NO_SUCH"), "{error}");
    }
    #[test]
    fn numbers_that_json_does_not_have_are_strings() {
        let result = v1::TaskResult {
            logprobs: vec![-0.1, f32::NEG_INFINITY, f32::INFINITY],
            loss: Some(f32::NAN),
            ..v1::TaskResult::default()
        };
        let line = serde_json::to_string(&result).unwrap();
        assert!(line.contains(r#""logprobs":[-0.1,"-Infinity","Infinity"],"loss":"NaN""#), "{line}");
        let read: v1::TaskResult = serde_json::from_str(&line).unwrap();
        assert_eq!(read.logprobs, result.logprobs);
        assert!(read.loss.unwrap().is_nan());
        let corners = v1::FractionBox { x0: f64::NEG_INFINITY, y0: 0.1, x1: 1.0, y1: 1.0 };
        let line = serde_json::to_string(&corners).unwrap();
        assert_eq!(line, r#"{"x0":"-Infinity","y0":0.1,"x1":1.0,"y1":1.0}"#);
        assert_eq!(serde_json::from_str::<v1::FractionBox>(&line).unwrap(), corners);
        let read: v1::TaskResult = serde_json::from_str(r#"{"loss":"1.5","logprobs":[0,-1]}"#).unwrap();
        assert_eq!((read.loss, read.logprobs), (Some(1.5), vec![0.0, -1.0]));
        assert!(serde_json::from_str::<v1::TaskResult>(r#"{"loss":"inf"}"#).is_err());
    }

    #[test]
    fn times_and_durations_have_the_form_of_protobuf() {
        let time = |seconds, nanos| prost_types::Timestamp { seconds, nanos }.to_string();
        assert_eq!(time(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(time(951_782_400, 250_000_000), "2000-02-29T00:00:00.250Z");
        assert_eq!(time(1_796_027_696, 1), "2026-11-30T08:34:56.000000001Z");
        assert_eq!(time(-1, 0), "1969-12-31T23:59:59Z");
        let duration = |seconds, nanos| prost_types::Duration { seconds, nanos }.to_string();
        assert_eq!(duration(1, 500_000_000), "1.500s");
        assert_eq!(duration(0, 1000), "0.000001s");
        assert_eq!(duration(0, -5), "-0.000000005s");
    }
}
