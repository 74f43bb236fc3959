//! What the environment says about the hub and the caches: the variables of the hub's own tools.

use std::path::{Path, PathBuf};

use broker::settings::Secret;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// The hub's address and token, and the directories of the caches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// `HF_ENDPOINT`, without a slash at its end.
    pub(crate) endpoint: String,
    /// `HF_TOKEN`.
    pub(crate) token: Option<Secret>,
    /// `HF_HUB_CACHE`, or `hub` in `HF_HOME`.
    pub(crate) hub_cache: Option<PathBuf>,
    /// `groundling/models` in `XDG_CACHE_HOME`.
    pub(crate) s3_cache: Option<PathBuf>,
    /// Whether `HF_HUB_OFFLINE` forbids requests to the hub.
    pub(crate) is_hub_offline: bool,
}

impl Environment {
    /// Reads the variables. Empty ones count as unset.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let value = |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let directory = |name: &str| value(name).map(PathBuf::from);
        let caches = directory("XDG_CACHE_HOME").or_else(|| directory("HOME").map(|home| home.join(".cache")));
        let of_caches = |path: &str| caches.as_deref().map(|caches: &Path| caches.join(path));
        let hub_home = directory("HF_HOME").or_else(|| of_caches("huggingface"));
        let is_true = |text: &str| ["1", "on", "yes", "true"].contains(&text.to_lowercase().as_str());
        Self {
            endpoint: value("HF_ENDPOINT")
                .map_or(DEFAULT_ENDPOINT.to_owned(), |url| url.trim_end_matches('/').to_owned()),
            token: value("HF_TOKEN").map(Secret::new),
            hub_cache: directory("HF_HUB_CACHE").or_else(|| hub_home.map(|home| home.join("hub"))),
            s3_cache: of_caches("groundling/models"),
            is_hub_offline: value("HF_HUB_OFFLINE").is_some_and(|text| is_true(&text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Environment {
        Environment::read(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn caches_are_where_the_hubs_own_tools_have_them() {
        let caches = |variables: &[(&str, &str)]| {
            let Environment { hub_cache, s3_cache, .. } = read(variables);
            [hub_cache, s3_cache].map(|path| path.map(|path| path.to_str().unwrap().to_owned()))
        };
        let paths = |hub: &str, s3: &str| [Some(hub.to_owned()), Some(s3.to_owned())];
        let home = ("HOME", "/h");
        assert_eq!(caches(&[]), [None, None]);
        assert_eq!(caches(&[home]), paths("/h/.cache/huggingface/hub", "/h/.cache/groundling/models"));
        let xdg = ("XDG_CACHE_HOME", "/c");
        assert_eq!(caches(&[home, xdg]), paths("/c/huggingface/hub", "/c/groundling/models"));
        assert_eq!(caches(&[home, xdg, ("HF_HOME", "/hf")]), paths("/hf/hub", "/c/groundling/models"));
        assert_eq!(caches(&[home, ("HF_HUB_CACHE", "/x"), ("HF_HOME", "/hf")])[0].as_deref(), Some("/x"));
        assert_eq!(caches(&[home, ("XDG_CACHE_HOME", " ")]), caches(&[home]));
    }

    #[test]
    fn the_token_is_never_printed_and_offline_is_read_as_the_hubs_tools_do() {
        let environment = read(&[("HF_TOKEN", "hush"), ("HF_ENDPOINT", "http://mirror/")]);
        assert_eq!(
            (environment.token.as_ref().unwrap().expose(), environment.endpoint.as_str()),
            ("hush", "http://mirror")
        );
        assert!(!format!("{environment:?}").contains("hush"));
        for (value, is_offline) in [("1", true), ("True", true), ("yes", true), ("0", false), ("", false)] {
            assert_eq!(read(&[("HF_HUB_OFFLINE", value)]).is_hub_offline, is_offline, "{value}");
        }
    }
}
