//! `config.json` as Hugging Face writes it for KOSMOS-2.
//!
//! Missing keys have the defaults of transformers' `Kosmos2Config`, which are the values of
//! `microsoft/kosmos-2-patch14-224`. Keys that concern only training (dropout, initialization) are ignored.

use std::path::Path;

use serde::Deserialize;

use crate::small_file;

/// Why a configuration is unusable. Each message names the file, what was found and what is expected.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}: cannot be read: {cause}")]
    Read {
        /// Path of the file.
        file: String,
        /// The I/O error.
        cause: std::io::Error,
    },
    /// The file is not JSON, or a value has the wrong type.
    #[error("{file}: is not a KOSMOS-2 configuration: {cause}")]
    Parse {
        /// Path of the file.
        file: String,
        /// The JSON error.
        cause: serde_json::Error,
    },
    /// A value is invalid or not supported.
    #[error("{file}: {key} is {found}, but {expected} is expected")]
    Value {
        /// Path of the file.
        file: String,
        /// The key, with its section.
        key: &'static str,
        /// The value found.
        found: String,
        /// The expected value.
        expected: String,
    },
}

/// The configuration of a model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    /// `kosmos-2`.
    pub model_type: Option<String>,
    /// The decoder.
    #[serde(default)]
    pub text_config: TextConfig,
    /// The vision tower.
    #[serde(default)]
    pub vision_config: VisionConfig,
    /// Rows of an image embedding, which is also the number of image placeholders in a prompt.
    #[serde(default = "default_latent_queries")]
    pub latent_query_num: usize,
    /// Whether the output head is the token embedding.
    #[serde(default = "default_true")]
    pub tie_word_embeddings: bool,
}

/// The Magneto decoder.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct TextConfig {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Not used: the position table grows with the sequences.
    pub max_position_embeddings: usize,
    /// Width.
    pub embed_dim: usize,
    /// Number of layers.
    pub layers: usize,
    /// Inner width of the feed-forward block.
    pub ffn_dim: usize,
    /// Attention heads.
    pub attention_heads: usize,
    /// Only `gelu` (exact, erf) is supported.
    pub activation_function: String,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f64,
    /// Multiply the embeddings by sqrt(`embed_dim`).
    pub scale_embedding: bool,
    /// `<pad>`, whose position embedding is zero.
    pub pad_token_id: u32,
    /// `<s>`.
    pub bos_token_id: u32,
    /// `</s>`.
    pub eos_token_id: u32,
}

/// The CLIP vision transformer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct VisionConfig {
    /// Width.
    pub hidden_size: usize,
    /// Inner width of the feed-forward block.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Colour channels; only 3 is supported.
    pub num_channels: usize,
    /// Side of the square picture in pixels.
    pub image_size: usize,
    /// Side of a square patch in pixels.
    pub patch_size: usize,
    /// Only `quick_gelu` is supported.
    pub hidden_act: String,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f64,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 65037,
            max_position_embeddings: 2048,
            embed_dim: 2048,
            layers: 24,
            ffn_dim: 8192,
            attention_heads: 32,
            activation_function: "gelu".into(),
            layer_norm_eps: 1e-5,
            scale_embedding: true,
            pad_token_id: 1,
            bos_token_id: 0,
            eos_token_id: 2,
        }
    }
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 1024,
            intermediate_size: 4096,
            num_hidden_layers: 24,
            num_attention_heads: 16,
            num_channels: 3,
            image_size: 224,
            patch_size: 14,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model_type: Some(MODEL_TYPE.into()),
            text_config: TextConfig::default(),
            vision_config: VisionConfig::default(),
            latent_query_num: default_latent_queries(),
            tie_word_embeddings: true,
        }
    }
}

/// The part of `generation_config.json` that is used: the ids that end a text. As in transformers 5, its other defaults
/// (such as `no_repeat_ngram_size`) are ignored; [`GenerationOptions`](crate::options::GenerationOptions) has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct GenerationConfig {
    eos_token_id: Option<OneOrMore>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(u32),
    More(Vec<u32>),
}

impl GenerationConfig {
    /// Reads the file of a model directory. A missing file is an empty configuration.
    ///
    /// # Errors
    /// [`ConfigError`] if the file cannot be read or is invalid.
    pub fn from_dir(dir: &Path) -> Result<Self, ConfigError> {
        let path = dir.join("generation_config.json");
        let file = path.display().to_string();
        match small_file::read(&path, small_file::MAX_CONFIG) {
            Ok(bytes) => Self::parse(&bytes, file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(cause) => Err(ConfigError::Read { file, cause }),
        }
    }

    fn parse(bytes: &[u8], file: String) -> Result<Self, ConfigError> {
        let config: Self = match serde_json::from_slice(bytes) {
            Ok(config) => config,
            Err(cause) => return Err(ConfigError::Parse { file, cause }),
        };
        let found = config.end_tokens().len();
        if found > MAX_END_TOKENS {
            let (found, expected) = (format!("a list of {found}"), format!("at most {MAX_END_TOKENS} ids"));
            return Err(ConfigError::Value { file, key: "eos_token_id", found, expected });
        }
        Ok(config)
    }

    /// The ids that end a text.
    pub fn end_tokens(&self) -> &[u32] {
        match &self.eos_token_id {
            None => &[],
            Some(OneOrMore::One(id)) => std::slice::from_ref(id),
            Some(OneOrMore::More(ids)) => ids,
        }
    }
}

const MODEL_TYPE: &str = "kosmos-2";

/// Maximum number of end tokens, since every token is compared with them.
const MAX_END_TOKENS: usize = 64;

fn default_latent_queries() -> usize {
    64
}

fn default_true() -> bool {
    true
}

impl VisionConfig {
    /// Number of patches of a picture.
    pub fn patches(&self) -> usize {
        let side = self.image_size / self.patch_size;
        side * side
    }
}

impl Config {
    /// Reads and checks `config.json` of a model directory.
    ///
    /// # Errors
    /// [`ConfigError`] if the file is missing, is not a KOSMOS-2 configuration or has unsupported values.
    pub fn from_dir(dir: &Path) -> Result<Self, ConfigError> {
        let path = dir.join("config.json");
        let file = path.display().to_string();
        let bytes = small_file::read(&path, small_file::MAX_CONFIG)
            .map_err(|cause| ConfigError::Read { file: file.clone(), cause })?;
        Self::parse(&bytes, file)
    }

    fn parse(bytes: &[u8], file: String) -> Result<Self, ConfigError> {
        // The model type first, so that another model's file is refused by its type and not for a missing key.
        #[derive(Deserialize)]
        struct ModelType {
            model_type: Option<String>,
        }
        let parse_error = |cause| ConfigError::Parse { file: file.clone(), cause };
        let found: ModelType = serde_json::from_slice(bytes).map_err(parse_error)?;
        if found.model_type.as_deref() != Some(MODEL_TYPE) {
            return Err(ConfigError::Value {
                file,
                key: "model_type",
                found: found.model_type.map_or("absent".into(), |name| format!("\"{name}\"")),
                expected: format!("\"{MODEL_TYPE}\""),
            });
        }
        let config: Self = serde_json::from_slice(bytes).map_err(parse_error)?;
        config.check_numbers(&file)?;
        config.check_values(&file)?;
        Ok(config)
    }

    /// Checks upper bounds, so that no product of two numbers overflows, and no large memory is allocated for a number
    /// that the weights do not match.
    fn check_numbers(&self, file: &str) -> Result<(), ConfigError> {
        let (text, vision) = (&self.text_config, &self.vision_config);
        for (key, found, max) in [
            ("text_config.vocab_size", text.vocab_size, 1 << 22),
            ("text_config.max_position_embeddings", text.max_position_embeddings, 1 << 24),
            ("text_config.embed_dim", text.embed_dim, 1 << 16),
            ("text_config.layers", text.layers, 1 << 10),
            ("text_config.ffn_dim", text.ffn_dim, 1 << 18),
            ("text_config.attention_heads", text.attention_heads, 1 << 12),
            ("vision_config.hidden_size", vision.hidden_size, 1 << 16),
            ("vision_config.intermediate_size", vision.intermediate_size, 1 << 18),
            ("vision_config.num_hidden_layers", vision.num_hidden_layers, 1 << 10),
            ("vision_config.num_attention_heads", vision.num_attention_heads, 1 << 12),
            ("vision_config.image_size", vision.image_size, 1 << 13),
            ("vision_config.patch_size", vision.patch_size, 1 << 13),
            ("latent_query_num", self.latent_query_num, 1 << 12),
        ] {
            if !(1..=max).contains(&found) {
                let (found, expected) = (found.to_string(), format!("a number from 1 to {max}"));
                return Err(ConfigError::Value { file: file.into(), key, found, expected });
            }
        }
        for (key, found) in [
            ("text_config.layer_norm_eps", text.layer_norm_eps),
            ("vision_config.layer_norm_eps", vision.layer_norm_eps),
        ] {
            // Computations use it in f32.
            if !(f64::from(f32::MIN_POSITIVE)..=1.0).contains(&found) {
                let (found, expected) = (found.to_string(), "a number above 0 and at most 1".into());
                return Err(ConfigError::Value { file: file.into(), key, found, expected });
            }
        }
        Ok(())
    }

    fn check_values(&self, file: &str) -> Result<(), ConfigError> {
        let (text, vision) = (&self.text_config, &self.vision_config);
        let value = |key, found: String, expected: &str| {
            Err(ConfigError::Value { file: file.into(), key, found, expected: expected.into() })
        };
        if text.activation_function != "gelu" {
            return value("text_config.activation_function", format!("\"{}\"", text.activation_function), "\"gelu\"");
        }
        if vision.hidden_act != "quick_gelu" {
            return value("vision_config.hidden_act", format!("\"{}\"", vision.hidden_act), "\"quick_gelu\"");
        }
        if vision.num_channels != 3 {
            return value("vision_config.num_channels", vision.num_channels.to_string(), "3");
        }
        if !vision.image_size.is_multiple_of(vision.patch_size) {
            return value("vision_config.patch_size", vision.patch_size.to_string(), "a divisor of image_size");
        }
        for (key, heads, width) in [
            ("text_config.attention_heads", text.attention_heads, text.embed_dim),
            ("vision_config.num_attention_heads", vision.num_attention_heads, vision.hidden_size),
        ] {
            if !width.is_multiple_of(heads) {
                return value(key, heads.to_string(), &format!("a divisor of the width {width}"));
            }
        }
        // The frequencies of the positions divide by half the width minus one.
        if text.embed_dim < 4 || !text.embed_dim.is_multiple_of(2) {
            return value("text_config.embed_dim", text.embed_dim.to_string(), "an even number of at least 4");
        }
        for (key, id) in [
            ("text_config.pad_token_id", text.pad_token_id),
            ("text_config.bos_token_id", text.bos_token_id),
            ("text_config.eos_token_id", text.eos_token_id),
        ] {
            if id as usize >= text.vocab_size {
                return value(key, id.to_string(), &format!("an id below vocab_size {}", text.vocab_size));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Config, ConfigError> {
        Config::parse(json.as_bytes(), "m/config.json".into())
    }

    #[test]
    fn absent_keys_mean_the_published_checkpoint() {
        assert_eq!(parse(r#"{"model_type": "kosmos-2"}"#).unwrap(), Config::default());
    }

    #[test]
    fn another_models_config_is_refused_by_its_name() {
        let error = parse(r#"{"model_type": "blip-2", "text_config": 7}"#).unwrap_err().to_string();
        assert_eq!(error, "m/config.json: model_type is \"blip-2\", but \"kosmos-2\" is expected");
        assert!(parse("{}").unwrap_err().to_string().contains("model_type is absent"));
        assert!(parse("[1").unwrap_err().to_string().starts_with("m/config.json: is not a KOSMOS-2 configuration"));
    }

    #[test]
    fn heads_that_do_not_divide_the_width_are_refused() {
        let json = r#"{"model_type": "kosmos-2", "text_config": {"embed_dim": 64, "attention_heads": 7}}"#;
        let error = parse(json).unwrap_err().to_string();
        assert_eq!(error, "m/config.json: text_config.attention_heads is 7, but a divisor of the width 64 is expected");
    }
}
