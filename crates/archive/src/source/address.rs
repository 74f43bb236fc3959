//! The address of a source, as it is given on the command line.

use std::path::{Path, PathBuf};

/// The address of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// The keys of a bucket that begin with a prefix.
    Prefix {
        /// Bucket.
        bucket: String,
        /// Prefix; may be empty.
        prefix: String,
    },
    /// The `manifest.json` of an S3 Inventory.
    Inventory(Place),
    /// A manifest: a file with a key in each row.
    Manifest(Place, Format),
}

/// The location of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A local file.
    Local(PathBuf),
    /// An object in S3.
    Object {
        /// Bucket.
        bucket: String,
        /// Key.
        key: String,
    },
}

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values.
    Csv {
        /// Compressed with gzip.
        gzip: bool,
    },
    /// One JSON value per line.
    Jsonl {
        /// Compressed with gzip.
        gzip: bool,
    },
    /// Apache Parquet.
    Parquet,
}

/// A text is not the address of a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// An ORC file.
    #[error("{0}: ORC files are not supported: configure the inventory to write CSV or Parquet")]
    Orc(String),
    /// The bucket is missing.
    #[error("{0}: the bucket is missing: write s3://bucket/prefix")]
    NoBucket(String),
    /// A local file with another suffix.
    #[error(
        "{0}: not a source: give s3://bucket/prefix, the manifest.json of an S3 Inventory, or a file with the suffix .csv, .csv.gz, .jsonl, .jsonl.gz or .parquet"
    )]
    Unknown(String),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Object { bucket, key } => write!(f, "s3://{bucket}/{key}"),
        }
    }
}

impl Address {
    /// Parses an address. An address in S3 is a prefix unless it has the suffix of a file format.
    ///
    /// # Errors
    /// [`AddressError`] if it is none.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (place, name) = match text.strip_prefix("s3://") {
            Some(rest) => {
                let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(AddressError::NoBucket(text.to_owned()));
                }
                (Place::Object { bucket: bucket.to_owned(), key: key.to_owned() }, key.to_owned())
            }
            None => (Place::Local(text.into()), text.to_owned()),
        };
        let file_name = Path::new(&name).file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if file_name.ends_with(".orc") {
            return Err(AddressError::Orc(text.to_owned()));
        }
        if file_name == "manifest.json" {
            return Ok(Self::Inventory(place));
        }
        match (Format::of_name(&file_name), place) {
            (Some(format), place) => Ok(Self::Manifest(place, format)),
            (None, Place::Object { bucket, key }) => Ok(Self::Prefix { bucket, prefix: key }),
            (None, Place::Local(_)) => Err(AddressError::Unknown(text.to_owned())),
        }
    }
}

impl Format {
    /// The format according to the suffix of a file name.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let (name, gzip) = name.strip_suffix(".gz").map_or((name, false), |name| (name, true));
        match name.rsplit_once('.')?.1 {
            "csv" => Some(Self::Csv { gzip }),
            "jsonl" | "ndjson" => Some(Self::Jsonl { gzip }),
            "parquet" if !gzip => Some(Self::Parquet),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart_by_their_form() {
        let object = |key: &str| Place::Object { bucket: "b".into(), key: key.into() };
        let prefix = |prefix: &str| Address::Prefix { bucket: "b".into(), prefix: prefix.into() };
        for (text, address) in [
            ("s3://b", prefix("")),
            ("s3://b/", prefix("")),
            ("s3://b/2024/a", prefix("2024/a")),
            ("s3://b/x/manifest.json", Address::Inventory(object("x/manifest.json"))),
            ("manifest.json", Address::Inventory(Place::Local("manifest.json".into()))),
            ("s3://b/k.CSV.gz", Address::Manifest(object("k.CSV.gz"), Format::Csv { gzip: true })),
            ("a/k.ndjson", Address::Manifest(Place::Local("a/k.ndjson".into()), Format::Jsonl { gzip: false })),
            ("k.parquet", Address::Manifest(Place::Local("k.parquet".into()), Format::Parquet)),
        ] {
            assert_eq!(Address::parse(text).unwrap(), address, "{text}");
        }
        assert!(matches!(Address::parse("k.orc"), Err(AddressError::Orc(_))));
        assert!(matches!(Address::parse("s3:///k"), Err(AddressError::NoBucket(_))));
        assert!(matches!(Address::parse("pictures"), Err(AddressError::Unknown(_))));
    }
}
