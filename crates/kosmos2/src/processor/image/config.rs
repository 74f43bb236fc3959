//! The image processor's configuration: `processor_config.json` or `preprocessor_config.json`.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::small_file;

/// Why the configuration cannot be used. Each message names the file, the key, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
pub enum ProcessorConfigError {
    /// The directory has neither file.
    #[error("{dir}: has neither preprocessor_config.json nor an image_processor in processor_config.json")]
    Missing {
        /// The model directory.
        dir: String,
    },
    /// A file cannot be read.
    #[error("{file}: cannot be read: {cause}")]
    Read {
        /// Path of the file.
        file: String,
        /// The I/O error.
        cause: std::io::Error,
    },
    /// A file is not JSON with the expected fields.
    #[error("{file}: is not an image processor's configuration: {cause}")]
    Parse {
        /// Path of the file.
        file: String,
        /// The JSON parser's error, with its position.
        cause: serde_json::Error,
    },
    /// A key has a value that is not supported.
    #[error("{file}: {key} is {found}, but {expected} is expected")]
    Value {
        /// Path of the file.
        file: String,
        /// The key.
        key: &'static str,
        /// The value found.
        found: String,
        /// What is supported.
        expected: &'static str,
    },
}

/// Converts decoded pictures to pixel values.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessor {
    pub(super) size: usize,
    pub(super) mean: [f32; 3],
    pub(super) std: [f32; 3],
    pub(super) rescale: f32,
}

#[derive(Deserialize)]
struct File {
    size: Value,
    image_mean: [f32; 3],
    image_std: [f32; 3],
    #[serde(default)]
    use_square_size: bool,
    #[serde(default = "bicubic")]
    resample: u32,
    #[serde(default = "default_rescale")]
    rescale_factor: f64,
    #[serde(default = "yes")]
    do_resize: bool,
    #[serde(default = "yes")]
    do_rescale: bool,
    #[serde(default = "yes")]
    do_normalize: bool,
}

/// Pillow's `Resampling.BICUBIC`.
const BICUBIC: u32 = 3;

fn bicubic() -> u32 {
    BICUBIC
}

fn default_rescale() -> f64 {
    1.0 / 255.0
}

fn yes() -> bool {
    true
}

impl ImageProcessor {
    /// Reads the configuration from a model directory: `image_processor` in processor_config.json, where newer versions
    /// of the library write it, or else preprocessor_config.json.
    ///
    /// # Errors
    /// [`ProcessorConfigError`] if neither exists, cannot be read, or has a value that is not supported.
    pub fn from_dir(dir: &Path) -> Result<Self, ProcessorConfigError> {
        let newer = dir.join("processor_config.json");
        if let Some(mut file) = read(&newer)?
            && let Some(section) = file.get_mut("image_processor")
        {
            return Self::from_value(section.take(), &newer);
        }
        let older = dir.join("preprocessor_config.json");
        match read(&older)? {
            Some(value) => Self::from_value(value, &older),
            None => Err(ProcessorConfigError::Missing { dir: dir.display().to_string() }),
        }
    }

    /// Side of the square in pixels.
    pub fn size(&self) -> usize {
        self.size
    }

    fn from_value(value: Value, path: &Path) -> Result<Self, ProcessorConfigError> {
        let name = path.display().to_string();
        let file: File =
            serde_json::from_value(value).map_err(|cause| ProcessorConfigError::Parse { file: name.clone(), cause })?;
        let refuse = |key, found: String, expected| {
            Err(ProcessorConfigError::Value { file: name.clone(), key, found, expected })
        };
        for (key, is_set) in
            [("do_resize", file.do_resize), ("do_rescale", file.do_rescale), ("do_normalize", file.do_normalize)]
        {
            if !is_set {
                return refuse(key, "false".into(), "true");
            }
        }
        if file.resample != BICUBIC {
            return refuse("resample", file.resample.to_string(), "3 (bicubic)");
        }
        // Checked as f32, in which they are used: an f64 in the file may overflow.
        let rescale = file.rescale_factor as f32;
        if !rescale.is_normal() {
            return refuse("rescale_factor", file.rescale_factor.to_string(), "a finite number other than 0");
        }
        if !file.image_mean.iter().all(|mean| mean.is_finite()) {
            return refuse("image_mean", format!("{:?}", file.image_mean), "a list of finite numbers");
        }
        if !file.image_std.iter().all(|deviation| deviation.is_normal()) {
            return refuse("image_std", format!("{:?}", file.image_std), "a list of finite numbers without a zero");
        }
        // do_center_crop is ignored: the published file crops to the same square, which changes nothing.
        let Some(size) = square_size(&file.size, file.use_square_size) else {
            return refuse(
                "size",
                file.size.to_string(),
                "a square: equal height and width, or shortest_edge with use_square_size",
            );
        };
        Ok(Self { size, mean: file.image_mean, std: file.image_std, rescale })
    }
}

fn read(path: &Path) -> Result<Option<Value>, ProcessorConfigError> {
    let file = path.display().to_string();
    match small_file::read(path, small_file::MAX_CONFIG) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(cause) => Err(ProcessorConfigError::Parse { file, cause }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(ProcessorConfigError::Read { file, cause }),
    }
}

fn square_size(size: &Value, use_square_size: bool) -> Option<usize> {
    let side = |key: &str| size.get(key).and_then(Value::as_u64);
    let side = match (side("height"), side("width"), side("shortest_edge")) {
        (Some(height), Some(width), _) if height == width => height,
        (None, None, Some(edge)) if use_square_size => edge,
        // Old files have a plain number.
        (None, None, None) if use_square_size => size.as_u64()?,
        _ => return None,
    };
    (1..=8192).contains(&side).then_some(side as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(change: &str) -> Result<ImageProcessor, ProcessorConfigError> {
        let mut json = serde_json::json!({
            "size": {"shortest_edge": 224}, "use_square_size": true, "resample": 3,
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]
        });
        let change: Value = serde_json::from_str(change).unwrap();
        json.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        ImageProcessor::from_value(json, Path::new("m/preprocessor_config.json"))
    }

    #[test]
    fn both_forms_of_a_square_are_taken() {
        assert_eq!(parse("{}").unwrap().size(), 224);
        let newer = r#"{"size": {"height": 336, "width": 336}, "use_square_size": false}"#;
        assert_eq!(parse(newer).unwrap().size(), 336);
        assert_eq!(parse(r#"{"size": 224}"#).unwrap().size(), 224);
    }

    #[test]
    fn what_is_not_served_is_refused_by_its_key() {
        for (change, sentence) in [
            (r#"{"resample": 2}"#, "resample is 2, but 3 (bicubic) is expected"),
            (r#"{"do_resize": false}"#, "do_resize is false, but true is expected"),
            (r#"{"use_square_size": false}"#, "size is {\"shortest_edge\":224}, but a square"),
            (r#"{"size": {"height": 224, "width": 112}}"#, "size is {\"height\":224,\"width\":112}, but a square"),
            (
                r#"{"image_std": [0.5, 0, 0.5]}"#,
                "image_std is [0.5, 0.0, 0.5], but a list of finite numbers without a zero",
            ),
            (r#"{"image_mean": 7}"#, "is not an image processor's configuration"),
        ] {
            let error = parse(change).unwrap_err().to_string();
            assert!(error.starts_with("m/preprocessor_config.json") && error.contains(sentence), "{error}");
        }
    }
}
