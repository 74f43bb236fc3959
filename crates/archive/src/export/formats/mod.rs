//! The formats of exports, a module for each.

mod coco;
mod cvat;
mod fiftyone;
mod grit;
mod hub;
mod jsonl;
mod label_studio;
mod opensearch;
mod parquet;
mod tar_members;
mod webdataset;
mod yolo;

use serde::{Deserialize, Serialize};

use super::error::ExportError;
use super::shard_writer::{ShardContext, ShardWriter};

/// The format of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Apache Parquet, a row for each picture and task.
    Parquet,
    /// Apache Parquet in the layout of the Hugging Face Hub for object detection.
    ParquetHub,
    /// A line for each annotation, in the JSON form of protobuf.
    Jsonl,
    /// COCO annotations, results and captions.
    Coco,
    /// Tar files with the members of a sample side by side.
    Webdataset,
    /// Tasks with predictions.
    LabelStudio,
    /// The columns of the GRIT dataset, as Parquet.
    Grit,
    /// Tar files with a text file for each picture.
    Yolo,
    /// CVAT for images 1.1.
    Cvat,
    /// Samples of FiftyOne.
    Fiftyone,
    /// Bodies of OpenSearch's bulk API.
    Opensearch,
}

impl Format {
    /// Whether boxes have categories in it.
    pub fn has_categories(self) -> bool {
        matches!(self, Self::ParquetHub | Self::Coco | Self::LabelStudio | Self::Yolo | Self::Cvat | Self::Fiftyone)
    }

    /// Whether categories have numbers in it, which must be the same in all shards.
    pub(crate) fn has_category_numbers(self) -> bool {
        matches!(self, Self::Coco | Self::Yolo)
    }

    /// Whether it can contain pictures.
    pub fn has_pictures(self) -> bool {
        matches!(self, Self::Parquet | Self::ParquetHub | Self::Webdataset | Self::Yolo)
    }

    /// Whether it always contains pictures.
    pub fn needs_pictures(self) -> bool {
        self == Self::ParquetHub
    }

    pub(crate) fn open(self, context: ShardContext) -> Result<Box<dyn ShardWriter>, ExportError> {
        Ok(match self {
            Self::Parquet => Box::new(parquet::Shard::create(&context)?),
            Self::ParquetHub => Box::new(hub::Shard::create(&context)?),
            Self::Jsonl => Box::new(jsonl::Shard::create(&context)?),
            Self::Coco => Box::new(coco::Shard::create(&context)?),
            Self::Webdataset => Box::new(webdataset::Shard::create(context)),
            Self::LabelStudio => Box::new(label_studio::Shard::create(&context)?),
            Self::Grit => Box::new(grit::Shard::create(&context)?),
            Self::Yolo => Box::new(yolo::Shard::create(context)?),
            Self::Cvat => Box::new(cvat::Shard::create(&context)?),
            Self::Fiftyone => Box::new(fiftyone::Shard::create(&context)?),
            Self::Opensearch => Box::new(opensearch::Shard::create(&context)?),
        })
    }

    /// What comes before the number in the names of shards.
    pub(crate) fn stems(self) -> &'static [&'static str] {
        match self {
            Self::Coco => &["annotations", "results", "captions"],
            Self::Cvat => &["annotations"],
            Self::LabelStudio => &["tasks"],
            Self::Opensearch => &["bulk"],
            _ => &["shard"],
        }
    }

    /// Files for the whole export, by name, from the categories of all shards.
    pub(crate) fn common_files(self, categories: &[String]) -> Vec<(&'static str, String)> {
        match self {
            Self::LabelStudio => vec![("label-config.xml", label_studio::config(categories))],
            Self::Yolo => vec![("data.yaml", yolo::data_yaml(categories))],
            Self::Opensearch => vec![("mapping.json", opensearch::mapping())],
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use ::parquet::file::reader::{FileReader, SerializedFileReader};
    use ::parquet::record::Field;
    use bytes::Bytes;
    use wire::v1::{ImageAnnotation, TaskResult};

    use super::*;
    use crate::export::item::Item;
    use crate::export::staged_file::Finished;

    /// The files of a shard with an item without a picture and one with a picture.
    fn write(format: Format, staging: &std::path::Path) -> Vec<Finished> {
        let (dataset, categories) = ("d".to_owned(), Arc::default());
        let context = ShardContext { staging: staging.into(), shard: 0, dataset, pictures: true, categories };
        let mut shard = format.open(context).unwrap();
        let annotation = ImageAnnotation { results: vec![TaskResult::default()], ..ImageAnnotation::default() };
        for picture in [None, Some(Bytes::from_static(b"picture"))] {
            let annotation = annotation.clone();
            shard.add(&Item { sequence: 1, annotation, picture, categories: vec![Vec::new()] }).unwrap();
        }
        shard.finish().unwrap()
    }

    #[test]
    fn a_row_without_a_picture_has_no_path_either() {
        for format in [Format::ParquetHub, Format::Parquet] {
            let dir = tempfile::tempdir().unwrap();
            let files = write(format, dir.path());
            let reader = SerializedFileReader::new(File::open(&files[0].path).unwrap()).unwrap();
            let is_null = |row: ::parquet::errors::Result<::parquet::record::Row>| {
                let row = row.unwrap();
                let (_, image) = row.get_column_iter().find(|(name, _)| *name == "image").unwrap();
                matches!(image, Field::Null)
            };
            let images: Vec<_> = reader.get_row_iter(None).unwrap().map(is_null).collect();
            assert_eq!(images, [true, false], "{format:?}");
        }
    }

    #[test]
    fn samples_without_a_picture_are_left_out_of_tar_files_with_pictures() {
        let dir = tempfile::tempdir().unwrap();
        let files = write(Format::Webdataset, dir.path());
        let names: Vec<_> = files.iter().map(|file| file.record.name.as_str()).collect();
        assert_eq!(names, ["shard-00000000-bin.tar"]);
    }
}
