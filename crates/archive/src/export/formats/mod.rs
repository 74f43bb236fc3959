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
