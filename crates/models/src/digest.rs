//! Digests of files, computed while the bytes pass.

use std::fmt;

use md5::Md5;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// The digest that the source states for a file, in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Digest {
    /// Of the contents: the hub's large files, and checksums of S3 stores.
    Sha256(String),
    /// Git's id of the contents as a blob: the hub's other files.
    GitSha1(String),
    /// Of the contents: most objects of S3 stores.
    Md5(String),
}

impl Digest {
    /// The digest that an ETag of the hub states.
    pub(crate) fn of_hub_etag(etag: &str) -> Option<Self> {
        let bare = etag.trim().trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
        let is_hex = bare.bytes().all(|byte| byte.is_ascii_hexdigit());
        match bare.len() {
            64 if is_hex => Some(Self::Sha256(bare)),
            40 if is_hex => Some(Self::GitSha1(bare)),
            _ => None,
        }
    }

    /// In hexadecimal.
    pub(crate) fn value(&self) -> &str {
        let (Self::Sha256(value) | Self::GitSha1(value) | Self::Md5(value)) = self;
        value
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::GitSha1(_) => "git SHA-1",
            Self::Md5(_) => "MD5",
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), self.value())
    }
}

/// Computes the SHA-256 of a file, and the digest that its source states.
#[derive(Debug, Clone)]
pub(crate) struct Hashes {
    sha256: Sha256,
    other: Option<Other>,
}

#[derive(Debug, Clone)]
enum Other {
    Git(Sha1),
    Md5(Md5),
}

/// What came of hashing a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) sha256: String,
    /// The digest of the stated kind.
    pub(crate) stated: Option<Digest>,
}

impl Hashes {
    /// For a file of this size, whose source states this digest.
    pub(crate) fn new(size: u64, stated: Option<&Digest>) -> Self {
        let other = match stated {
            Some(Digest::GitSha1(_)) => Some(Other::Git(Sha1::new_with_prefix(format!("blob {size}\0")))),
            Some(Digest::Md5(_)) => Some(Other::Md5(Md5::new())),
            Some(Digest::Sha256(_)) | None => None,
        };
        Self { sha256: Sha256::new(), other }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        match &mut self.other {
            Some(Other::Git(hash)) => hash.update(bytes),
            Some(Other::Md5(hash)) => hash.update(bytes),
            None => {}
        }
    }

    pub(crate) fn finish(self, stated: Option<&Digest>) -> Found {
        let sha256 = hex::encode(self.sha256.finalize());
        let other = match self.other {
            Some(Other::Git(hash)) => Some(Digest::GitSha1(hex::encode(hash.finalize()))),
            Some(Other::Md5(hash)) => Some(Digest::Md5(hex::encode(hash.finalize()))),
            None => stated.map(|_| Digest::Sha256(sha256.clone())),
        };
        Found { sha256, stated: other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_git_and_of_the_contents() {
        let of = |stated: Digest| {
            let mut hashes = Hashes::new(12, Some(&stated));
            hashes.update(b"hello ");
            hashes.update(b"world\n");
            hashes.finish(Some(&stated)).stated.unwrap().to_string()
        };
        // printf 'hello world\n' | git hash-object --stdin; sha256sum; md5sum
        assert_eq!(of(Digest::GitSha1(String::new())), "git SHA-1 3b18e512dba79e4c8300dd08aeb37f8e728b8dad");
        let sha256 = "a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447";
        assert_eq!(of(Digest::Sha256(String::new())), format!("SHA-256 {sha256}"));
        assert_eq!(of(Digest::Md5(String::new())), "MD5 6f5902ac237024bdd0c176cb93063dc4");
    }

    #[test]
    fn etags_of_the_hub_are_digests() {
        let (sha1, sha256) = ("a".repeat(40), "b".repeat(64));
        assert_eq!(Digest::of_hub_etag(&format!("\"{sha256}\"")), Some(Digest::Sha256(sha256)));
        assert_eq!(Digest::of_hub_etag(&format!("W/\"{sha1}\"")), Some(Digest::GitSha1(sha1)));
        assert_eq!(Digest::of_hub_etag("\"abc\""), None);
    }
}
