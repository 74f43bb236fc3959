//! What `groundling review` and `groundling diff` take. The comments are the program's own help.

use std::path::PathBuf;
use std::time::Duration;

use archive::presigned::MAX_EXPIRY;
use clap::{Args, ValueEnum};
use humantime_serde::re::humantime::{format_duration, parse_duration};

use crate::arg_values::at_least_one;
use crate::args::{Format, StoreArgs};

pub(crate) const REVIEW_EXAMPLES: &str = "\
Examples:
  groundling review --dataset holiday --sample 200 --seed 7 --out holiday.html
  groundling review --dataset holiday --sample 500 --links presigned --expires-in 8h --out holiday.html
  groundling review --judged holiday-marks.json more-marks.json

The page has a button that saves the marks of its boxes as a file for --judged.";

pub(crate) const DIFF_EXAMPLES: &str = "\
Examples:
  groundling diff holiday holiday-new-prompt
  groundling diff holiday holiday-int8 --largest 100 --out differences.html --format json";

#[derive(Debug, Args)]
pub(crate) struct ReviewArgs {
    /// Dataset to look through.
    #[arg(long, value_name = "NAME", requires = "out", required_unless_present = "judged")]
    pub(crate) dataset: Option<String>,
    /// Number of annotations on the page, chosen at random.
    #[arg(long, value_name = "N", default_value = "200", value_parser = at_least_one)]
    pub(crate) sample: usize,
    /// Number that the random choice depends on. The same seed chooses the same annotations.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// File for the page.
    #[arg(long, value_name = "FILE.html", requires = "dataset")]
    pub(crate) out: Option<PathBuf>,
    /// How the page has the pictures.
    #[arg(long, value_enum, default_value_t = Links::Embedded)]
    pub(crate) links: Links,
    /// With --links presigned: time after which the links do not work any more, at most 7 days.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = expiry)]
    pub(crate) expires_in: Duration,
    /// Number of failures on the page, chosen at random; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) failures: usize,
    /// Files of marks that were saved from pages: print the precision of the marked boxes.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["dataset", "out"])]
    pub(crate) judged: Vec<PathBuf>,
    /// With --judged: precision for which the lowest score is searched.
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = target)]
    pub(crate) target: f64,
    /// How the summary is written to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) stores: StoreArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Links {
    /// Thumbnails of at most 640 pixels and 64 KiB within the page.
    Embedded,
    /// Links to the store that expire. Whoever has the page can read the pictures until then.
    Presigned,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The first dataset.
    #[arg(value_name = "DATASET")]
    pub(crate) a: String,
    /// The second dataset: other annotations of the same pictures.
    #[arg(value_name = "DATASET")]
    pub(crate) b: String,
    /// Number of pictures that are listed and shown, those with the largest differences.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) largest: usize,
    /// File for a page that shows these pictures with both annotations side by side.
    #[arg(long, value_name = "FILE.html")]
    pub(crate) out: Option<PathBuf>,
    /// How the differences are written to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) stores: StoreArgs,
}

fn expiry(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(time) if Duration::from_secs(1) <= time && time <= MAX_EXPIRY => Ok(time),
        Ok(_) => Err(format!("expected a time from 1s to {}", format_duration(MAX_EXPIRY))),
        Err(error) => Err(format!("expected a time such as 8h: {error}")),
    }
}

fn target(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(target) if 0.0 < target && target < 1.0 => Ok(target),
        _ => Err("expected a number between 0 and 1, such as 0.95".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_targets_have_bounds() {
        assert_eq!(expiry("8h"), Ok(Duration::from_secs(8 * 3600)));
        assert_eq!(expiry("7d"), Ok(MAX_EXPIRY));
        for bad in ["0s", "8d", "x", ""] {
            assert!(expiry(bad).unwrap_err().starts_with("expected a time"), "{bad}");
        }
        assert_eq!(target("0.9"), Ok(0.9));
        for bad in ["0", "1", "NaN", "95"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }
}
