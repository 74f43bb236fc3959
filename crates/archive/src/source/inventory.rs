//! S3 Inventory: the `manifest.json` and the files that it lists.

use serde::Deserialize;

use super::address::{Format, Place};
use super::error::SourceError;
use super::files::SourceFile;
use super::row::{Column, Layout};
use super::store::Store;

/// Maximum size of a `manifest.json` in bytes. Each of its files takes some hundred bytes.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    source_bucket: String,
    destination_bucket: String,
    file_format: String,
    file_schema: String,
    files: Vec<File>,
}

#[derive(Debug, Deserialize)]
struct File {
    key: String,
    #[serde(rename = "MD5checksum")]
    md5: Option<String>,
}

/// Reads a manifest. Returns its files and the layout of their rows.
pub(crate) async fn open(store: &Store, place: &Place) -> Result<(Vec<SourceFile>, Layout), SourceError> {
    let text = store.read_whole(place, MAX_MANIFEST_BYTES).await?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| SourceError::file(place, format!("it is not a manifest of an S3 Inventory: {error}")))?;
    manifest.read().map_err(|problem| SourceError::file(place, problem))
}

impl Manifest {
    fn read(self) -> Result<(Vec<SourceFile>, Layout), String> {
        let format = match self.file_format.to_uppercase().as_str() {
            "CSV" => Format::Csv { gzip: true },
            "PARQUET" => Format::Parquet,
            "ORC" => {
                return Err(
                    "ORC inventories are not supported: configure the inventory to write CSV or Parquet".to_owned()
                );
            }
            other => return Err(format!("its format {other:?} is not supported: use CSV or Parquet")),
        };
        let is_csv = format != Format::Parquet;
        let columns: Vec<Column> = self.file_schema.split(',').map(Column::of_name).collect();
        if is_csv && !columns.contains(&Column::Key) {
            return Err(format!("its fileSchema {:?} has no column Key", self.file_schema));
        }
        let bucket = self.destination_bucket.rsplit(':').next().unwrap_or_default().to_owned();
        let file = |file: File| {
            let format = if is_csv { Format::of_name(&file.key).unwrap_or(format) } else { format };
            SourceFile { place: Place::Object { bucket: bucket.clone(), key: file.key }, format, md5: file.md5 }
        };
        let files = self.files.into_iter().map(file).collect();
        let columns = is_csv.then_some(columns);
        Ok((files, Layout { columns, encoded_keys: is_csv, bucket: Some(self.source_bucket) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: &str, schema: &str) -> Result<(Vec<SourceFile>, Layout), String> {
        let text = serde_json::json!({
            "sourceBucket": "pictures", "destinationBucket": "arn:aws:s3:::lists", "version": "2016-11-30",
            "creationTimestamp": "1700000000000", "fileFormat": format, "fileSchema": schema,
            "files": [{"key": "x/data/1.csv.gz", "size": 9, "MD5checksum": "0"}],
        });
        serde_json::from_value::<Manifest>(text).unwrap().read()
    }

    #[test]
    fn a_manifest_names_files_columns_and_buckets() {
        let (files, layout) = read("CSV", "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, ETag, X").unwrap();
        let place = Place::Object { bucket: "lists".into(), key: "x/data/1.csv.gz".into() };
        assert_eq!(files, [SourceFile { place, format: Format::Csv { gzip: true }, md5: Some("0".into()) }]);
        assert_eq!(layout.columns.unwrap()[2..5], [Column::Version, Column::IsLatest, Column::IsDeleteMarker]);
        assert!(layout.encoded_keys && layout.bucket.as_deref() == Some("pictures"));
        let (files, layout) = read("Parquet", "message s3.inventory { required binary key (UTF8); }").unwrap();
        assert_eq!((files[0].format, layout.columns, layout.encoded_keys), (Format::Parquet, None, false));
    }

    #[test]
    fn unsupported_inventories_are_rejected_with_a_reason() {
        assert!(read("ORC", "").unwrap_err().contains("ORC inventories are not supported"));
        assert!(read("XML", "").unwrap_err().contains("\"XML\" is not supported"));
        assert!(read("CSV", "Bucket, Size").unwrap_err().contains("has no column Key"));
    }
}
