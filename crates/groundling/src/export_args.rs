//! The arguments of `groundling export`. The comments are the program's own help.
#![allow(rustdoc::invalid_html_tags, reason = "the comments are shown as help")]

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use time::OffsetDateTime;

use crate::args::{Format, StoreArgs};

pub(crate) const EXPORT_EXAMPLES: &str = "\
Examples:
  groundling export --dataset holiday --format parquet --out holiday/
  groundling export --dataset holiday --format coco --categories names.txt --out s3://exports/holiday/coco
  groundling export --dataset holiday --format webdataset --pictures --shard-size 1000 --out tars/
  groundling export --dataset holiday --format jsonl --follow --trim --out s3://exports/holiday/jsonl

An export that was stopped, or killed, continues where it was when the same command is given again.";

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Dataset whose annotations are exported.
    #[arg(long, value_name = "NAME")]
    pub(crate) dataset: String,
    /// Format of the files.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) format: ExportFormat,
    /// Directory or s3://bucket/prefix for the files: empty, or with this export.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: String,
    /// Sequences of the stream in one shard. Sequences of other datasets count.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) shard_size: u64,
    /// Export annotations that were published at this time or later, such as 2026-11-29 or 2026-11-29T08:00:00Z.
    #[arg(long, value_name = "TIME", conflicts_with = "sequence", value_parser = archive::source::row::time)]
    pub(crate) since: Option<OffsetDateTime>,
    /// Export the sequences from A up to B, without B; A.. for all from A on.
    #[arg(long, value_name = "A..B", value_parser = sequences)]
    pub(crate) sequence: Option<(u64, Option<u64>)>,
    /// Export the results of these tasks only. Can be repeated, or separated by commas [default: all tasks].
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub(crate) task: Vec<String>,
    /// Include the pictures (parquet, webdataset, yolo).
    #[arg(long)]
    pub(crate) pictures: bool,
    /// Layout of parquet: a row for each picture and task with all fields, or that of the Hugging Face Hub for object
    /// detection, which includes the pictures.
    #[arg(long, value_enum, default_value_t = Layout::Full)]
    pub(crate) layout: Layout,
    /// File with a category in each line: a name, or a name, "=" and the phrases and nouns that belong to it, separated by
    /// commas; lines that begin with # are comments [default: the noun of each phrase is its category].
    #[arg(long, value_name = "FILE")]
    pub(crate) categories: Option<PathBuf>,
    /// Continue with annotations that arrive later, as soon as they fill a shard, until SIGTERM or Ctrl-C.
    #[arg(long)]
    pub(crate) follow: bool,
    /// Remove the annotations of full shards from the stream, after all of their files were read back and compared with
    /// their checksums.
    #[arg(long)]
    pub(crate) trim: bool,
    #[command(flatten)]
    pub(crate) stores: StoreArgs,
    /// Format of the summary on stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) summary: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// Apache Parquet.
    Parquet,
    /// JSON lines: an annotation in each, in the JSON form of protobuf.
    Jsonl,
    /// COCO: annotations, detection results and captions.
    Coco,
    /// WebDataset: tar files of samples.
    Webdataset,
    /// Label Studio: tasks with predictions.
    LabelStudio,
    /// The columns of the GRIT dataset, as Parquet.
    Grit,
    /// YOLO: tar files of label files, and data.yaml.
    Yolo,
    /// CVAT for images 1.1 (XML).
    Cvat,
    /// FiftyOne: a folder with samples for each shard.
    Fiftyone,
    /// OpenSearch: bodies for its bulk API.
    Opensearch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// All fields.
    Full,
    /// Pictures, boxes and categories as the Hub shows them.
    Hub,
}

fn sequences(text: &str) -> Result<(u64, Option<u64>), String> {
    let parse = || {
        let (first, end) = text.split_once("..")?;
        let end = if end.is_empty() { None } else { Some(end.parse().ok()?) };
        Some((first.parse().ok()?, end))
    };
    let found: (u64, Option<u64>) = parse().ok_or("expected two sequences such as 1000..2000, or 1000..")?;
    match found.1 {
        Some(end) if end <= found.0 => Err("the range is empty: the second sequence must be larger".to_owned()),
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_sequences_may_be_open() {
        assert_eq!(sequences("5..10"), Ok((5, Some(10))));
        assert_eq!(sequences("5.."), Ok((5, None)));
        for bad in ["5", "..5", "10..5", "5..5", "a..b", "-1..5", ""] {
            assert!(sequences(bad).is_err(), "{bad}");
        }
    }
}
