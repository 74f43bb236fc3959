//! Where a model comes from.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{ModelError, ModelErrorKind};

const HUB: &str = "hf://";
const S3: &str = "s3://";
/// The branch of a hub model without a revision.
const DEFAULT_REVISION: &str = "main";

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A local directory.
    Directory(PathBuf),
    /// A repository of the Hugging Face hub.
    Hub(HubModel),
    /// Objects of an S3 store.
    S3(S3Model),
}

/// `hf://owner/name[@revision][/folder]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubModel {
    /// `owner/name`.
    pub repository: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// The folder of the model in the repository, without slashes at its ends. Empty for the root.
    pub folder: String,
}

/// `s3://bucket/prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Model {
    /// The bucket.
    pub bucket: String,
    /// Keys begin with this and a slash. Empty for the root of the bucket.
    pub prefix: String,
}

impl ModelSource {
    /// Reads a source. What does not begin with `hf://` or `s3://` is a directory.
    ///
    /// # Errors
    /// [`ModelErrorKind::InvalidSource`] for an address of another scheme, or one with an invalid part.
    pub fn parse(given: &Path) -> Result<Self, ModelError> {
        let Some(text) = given.to_str() else { return Ok(Self::Directory(given.to_owned())) };
        if let Some(rest) = text.strip_prefix(HUB) {
            return HubModel::parse(rest).map(Self::Hub).ok_or_else(|| {
                invalid(text, "write hf://OWNER/NAME, with @REVISION and /FOLDER behind it if needed, for example hf://microsoft/kosmos-2-patch14-224@main")
            });
        }
        if let Some(rest) = text.strip_prefix(S3) {
            return S3Model::parse(rest)
                .map(Self::S3)
                .ok_or_else(|| invalid(text, "write s3://BUCKET/PREFIX, for example s3://models/kosmos-2"));
        }
        match text.split_once("://") {
            Some((scheme, _)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                Err(invalid(text, "use a directory, hf://OWNER/NAME@REVISION or s3://BUCKET/PREFIX"))
            }
            _ => Ok(Self::Directory(given.to_owned())),
        }
    }

    /// Whether it must be downloaded.
    pub fn is_remote(&self) -> bool {
        !matches!(self, Self::Directory(_))
    }
}

fn invalid(given: &str, fix: &str) -> ModelError {
    ModelError::new(ModelErrorKind::InvalidSource, format!("{given:?} is not a source of models: {fix}"))
}

impl HubModel {
    fn parse(rest: &str) -> Option<Self> {
        let (owner, rest) = rest.split_once('/')?;
        let end = rest.find(['/', '@']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let (revision, folder) = match rest.strip_prefix('@') {
            None => (DEFAULT_REVISION.to_owned(), rest),
            Some(rest) => split_revision(rest),
        };
        let folder = folder.trim_matches('/');
        let is_valid = is_name(owner)
            && is_name(name)
            && is_revision(&revision)
            && (folder.is_empty() || folder.split('/').all(is_segment));
        is_valid.then(|| Self { repository: format!("{owner}/{name}"), revision, folder: folder.to_owned() })
    }

    /// Whether the revision is a commit, which never changes.
    pub fn is_pinned(&self) -> bool {
        is_commit(&self.revision)
    }
}

/// A revision and the rest behind it. Only revisions of pull requests and conversions have plain slashes; in others they
/// are written `%2F`.
fn split_revision(text: &str) -> (String, &str) {
    let special = ["refs/pr/", "refs/convert/"].into_iter().find(|prefix| text.starts_with(prefix)).map_or(0, str::len);
    let end = text[special..].find('/').map_or(text.len(), |at| special + at);
    let (revision, folder) = text.split_at(end);
    (revision.replace("%2F", "/").replace("%2f", "/"), folder)
}

/// Whether a text is a full commit id.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Names become parts of paths and of addresses.
fn is_name(text: &str) -> bool {
    is_segment(text) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

fn is_revision(text: &str) -> bool {
    text.split('/').all(is_segment)
}

fn is_segment(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && !text.contains(|c: char| c.is_control() || c == '\\')
}

impl S3Model {
    fn parse(rest: &str) -> Option<Self> {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let is_valid = is_name(bucket) && (prefix.is_empty() || prefix.split('/').all(is_segment));
        is_valid.then(|| Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for HubModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HUB}{}@{}", self.repository, self.revision)?;
        if self.folder.is_empty() { Ok(()) } else { write!(f, "/{}", self.folder) }
    }
}

impl fmt::Display for S3Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{S3}{}/{}", self.bucket, self.prefix)
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(dir) => write!(f, "{}", dir.display()),
            Self::Hub(model) => model.fmt(f),
            Self::S3(model) => model.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ModelSource, String> {
        ModelSource::parse(Path::new(text)).map_err(|error| error.to_string())
    }

    fn hub(repository: &str, revision: &str, folder: &str) -> Result<ModelSource, String> {
        let [repository, revision, folder] = [repository, revision, folder].map(str::to_owned);
        Ok(ModelSource::Hub(HubModel { repository, revision, folder }))
    }

    #[test]
    fn sources_are_told_apart_and_read() {
        assert_eq!(read("models/kosmos-2"), Ok(ModelSource::Directory("models/kosmos-2".into())));
        assert_eq!(read("hf:/odd"), Ok(ModelSource::Directory("hf:/odd".into())));
        assert_eq!(read("hf://o/n"), hub("o/n", "main", ""));
        assert_eq!(read("hf://o/n@v1.0"), hub("o/n", "v1.0", ""));
        assert_eq!(read("hf://o/n/a/b/"), hub("o/n", "main", "a/b"));
        assert_eq!(read("hf://o/n@feature%2Fx/a"), hub("o/n", "feature/x", "a"));
        assert_eq!(read("hf://o/n@refs/pr/7/a"), hub("o/n", "refs/pr/7", "a"));
        assert_eq!(read("hf://o/n@refs/convert/parquet"), hub("o/n", "refs/convert/parquet", ""));
        let s3 =
            |bucket: &str, prefix: &str| Ok(ModelSource::S3(S3Model { bucket: bucket.into(), prefix: prefix.into() }));
        assert_eq!(read("s3://b/a/k/"), s3("b", "a/k"));
        assert_eq!(read("s3://b"), s3("b", ""));
    }

    #[test]
    fn invalid_sources_are_refused_with_the_fix() {
        for text in [
            "hf://n",
            "hf:///n",
            "hf://o/",
            "hf://o/n@",
            "hf://o/../x",
            "hf://../n",
            "hf://o/n@../x",
            "hf://o/n/a/../b",
            "hf://o/n o",
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(text) && error.contains("hf://OWNER/NAME"), "{error}");
        }
        for text in ["s3://", "s3:///k", "s3://b/a//k", "s3://b/../k"] {
            assert!(read(text).unwrap_err().contains("s3://BUCKET/PREFIX"), "{text}");
        }
        assert!(read("https://host/model").unwrap_err().contains("hf://OWNER/NAME"));
    }
}
