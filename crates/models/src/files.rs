//! Which files of a source the program reads. A repository often has the same weights in several formats, and pictures.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::error::{ModelError, ModelErrorKind};

/// Files besides the weights, and whether a model must have them.
const CONFIGURATION: [(&str, bool); 5] = [
    ("config.json", true),
    ("tokenizer.json", true),
    ("generation_config.json", false),
    ("preprocessor_config.json", false),
    ("processor_config.json", false),
];
/// One of these has the configuration of the image processor.
const IMAGE_PROCESSOR: [&str; 2] = ["preprocessor_config.json", "processor_config.json"];
const WEIGHTS: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
const PICKLE: &str = "pytorch_model.bin";

/// The files that are needed of those with these names, in the order of preference of a model directory. The shards of
/// an index are not among them.
///
/// # Errors
/// [`ModelErrorKind::Incomplete`] names the first missing file.
pub(crate) fn needed(names: &BTreeSet<&str>, source: &str) -> Result<Vec<&'static str>, ModelError> {
    let incomplete = |what: &str| {
        let sentence = format!(
            "{source} has no {what}: name a complete KOSMOS-2 checkpoint, such as hf://microsoft/kosmos-2-patch14-224"
        );
        ModelError::new(ModelErrorKind::Incomplete, sentence)
    };
    if let Some((missing, _)) = CONFIGURATION.iter().find(|(name, must)| *must && !names.contains(name)) {
        return Err(incomplete(missing));
    }
    if !IMAGE_PROCESSOR.iter().any(|name| names.contains(name)) {
        return Err(incomplete("preprocessor_config.json"));
    }
    let weights = [WEIGHTS, INDEX, PICKLE].into_iter().find(|name| names.contains(name));
    let weights = weights.ok_or_else(|| incomplete("weights (model.safetensors, its index, or pytorch_model.bin)"))?;
    let present = CONFIGURATION.iter().map(|(name, _)| *name).filter(|name| names.contains(name));
    Ok(present.chain([weights]).collect())
}

/// The shards that an index names.
///
/// # Errors
/// [`ModelErrorKind::Incomplete`] if the index cannot be read, or names a file that is not there.
pub(crate) fn shards(index: &[u8], names: &BTreeSet<&str>, source: &str) -> Result<BTreeSet<String>, ModelError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::HashMap<String, String>,
    }
    let parsed: Index = serde_json::from_slice(index).map_err(|error| {
        ModelError::new(ModelErrorKind::Incomplete, format!("{source}: {INDEX} cannot be read: {error}"))
    })?;
    let shards: BTreeSet<String> = parsed.weight_map.into_values().collect();
    // Only names of the listing become paths.
    match shards.iter().find(|shard| !names.contains(shard.as_str())) {
        None => Ok(shards),
        Some(missing) => Err(ModelError::new(
            ModelErrorKind::Incomplete,
            format!("{source} has no file {missing:?}, which {INDEX} names: upload the model again"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_are_read_are_needed_and_missing_ones_are_named() {
        let of =
            |names: &[&'static str]| needed(&names.iter().copied().collect(), "hf://o/n").map_err(|e| e.to_string());
        let base = ["config.json", "tokenizer.json", "preprocessor_config.json", "README.md", "pytorch_model.bin"];
        assert_eq!(
            of(&base).unwrap(),
            ["config.json", "tokenizer.json", "preprocessor_config.json", "pytorch_model.bin"]
        );
        let with = |more: &[&'static str]| of(&[&base[..], more].concat()).unwrap().pop();
        assert_eq!(with(&[WEIGHTS, INDEX]), Some(WEIGHTS));
        assert_eq!(with(&[INDEX]), Some(INDEX));
        for (at, missing) in
            [(0, "config.json"), (1, "tokenizer.json"), (2, "preprocessor_config.json"), (4, "weights")]
        {
            let mut names = base.to_vec();
            names.remove(at);
            assert!(of(&names).unwrap_err().contains(&format!("has no {missing}")), "{missing}");
        }
    }

    #[test]
    fn shards_must_be_in_the_listing() {
        let names = BTreeSet::from(["a.safetensors", "b.safetensors"]);
        let of = |text: &str| shards(text.as_bytes(), &names, "hf://o/n").map_err(|error| error.to_string());
        let index = r#"{"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "a.safetensors"}}"#;
        assert_eq!(of(index).unwrap().into_iter().collect::<Vec<_>>(), ["a.safetensors", "b.safetensors"]);
        assert!(of(r#"{"weight_map": {"x": "../../b"}}"#).unwrap_err().contains("../../b"));
        assert!(of("{").unwrap_err().contains(INDEX));
    }
}
