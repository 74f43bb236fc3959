//! A model in an S3 store.

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{ChecksumMode, ChecksumType, ServerSideEncryption};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use broker::causes::causes;
use futures::StreamExt;
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::error::{ModelError, ModelErrorKind};
use crate::remote::{Listing, Opened, RemoteFile};
use crate::source::S3Model;

/// Objects under a prefix.
#[derive(Debug)]
pub(crate) struct Store {
    client: Client,
    model: S3Model,
}

impl Store {
    pub(crate) fn new(client: Client, model: S3Model) -> Self {
        Self { client, model }
    }

    pub(crate) async fn list(&self) -> Result<Listing, ModelError> {
        let S3Model { bucket, prefix } = &self.model;
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let request = self.client.list_objects_v2().bucket(bucket).prefix(&prefix).delimiter("/");
        let (mut pages, mut files) = (request.into_paginator().send(), Vec::new());
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failed("cannot be listed", "s3:ListBucket", &error))?;
            for object in page.contents() {
                let Some(key) = object.key() else { continue };
                let Some(name) = key.strip_prefix(&prefix).filter(|name| !name.is_empty() && !name.contains('/'))
                else {
                    continue;
                };
                let size = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                let etag = object.e_tag().map(|etag| etag.trim_matches('"').to_owned());
                let blob = content_id([format!("{key} {size} {}", etag.as_deref().unwrap_or_default())].iter());
                files.push(RemoteFile { name: name.to_owned(), path: key.to_owned(), size, digest: None, etag, blob });
            }
        }
        if files.is_empty() {
            let sentence =
                format!("{} has no objects: correct the bucket or the prefix, or upload the model", self.model);
            return Err(ModelError::new(ModelErrorKind::NotFound, sentence));
        }
        let commit = content_id(files.iter().map(|file| &file.blob));
        Ok(Listing { commit, files })
    }

    /// The file with the digest that the store states, if there is one.
    pub(crate) async fn file_metadata(&self, file: RemoteFile) -> Result<RemoteFile, ModelError> {
        let request = self.client.head_object().bucket(&self.model.bucket).key(&file.path);
        let found = request.checksum_mode(ChecksumMode::Enabled).send().await;
        let found = found.map_err(|error| self.failed_file("cannot be read", &file, &error))?;
        let is_whole = found.checksum_type() != Some(&ChecksumType::Composite);
        let sha256 = found.checksum_sha256().filter(|_| is_whole).and_then(sha256_of_base64);
        // With keys of a key service or of the client, the ETag is not the MD5 of the contents.
        let is_plain = found.sse_customer_algorithm().is_none()
            && matches!(found.server_side_encryption(), None | Some(ServerSideEncryption::Aes256));
        let md5 = file.etag.as_deref().filter(|etag| is_plain && is_md5(etag)).map(str::to_ascii_lowercase);
        let digest = sha256.map(Digest::Sha256).or(md5.map(Digest::Md5));
        Ok(RemoteFile { digest, ..file })
    }

    /// The bytes of a file from an offset on.
    pub(crate) async fn open(&self, file: &RemoteFile, offset: u64) -> Result<Opened, ModelError> {
        let request = self.client.get_object().bucket(&self.model.bucket).key(&file.path);
        let request = request
            .set_range((offset > 0).then(|| format!("bytes={offset}-")))
            .set_if_match(file.etag.as_deref().map(|etag| format!("\"{etag}\"")));
        let answer = request.send().await.map_err(|error| self.failed_file("cannot be read", file, &error))?;
        let found = answer.e_tag().map(|etag| etag.trim_matches('"'));
        if found.is_some() && found != file.etag.as_deref() {
            return Err(ModelError::unavailable(format!(
                "s3://{}/{} changed while it was read",
                self.model.bucket, file.path
            )));
        }
        // A store that does not know ranges sends the whole object.
        let length = answer.content_length().and_then(|length| u64::try_from(length).ok());
        let offset = if length == Some(file.size) { 0 } else { offset };
        let name = format!("s3://{}/{}", self.model.bucket, file.path);
        let bytes = futures::stream::unfold((answer.body, name), |(mut body, name)| async move {
            let chunk = body.next().await?;
            let chunk = chunk
                .map_err(|error| ModelError::unavailable(format!("reading {name} was interrupted")).because(&error));
            Some((chunk, (body, name)))
        });
        Ok(Opened { offset, bytes: bytes.boxed() })
    }

    fn failed_file<E>(&self, what: &str, file: &RemoteFile, error: &SdkError<E>) -> ModelError
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let of_file = S3Model { bucket: self.model.bucket.clone(), prefix: file.path.clone() };
        Self { client: self.client.clone(), model: of_file }.failed(what, "s3:GetObject", error)
    }

    fn failed<E>(&self, what: &str, permission: &str, error: &SdkError<E>) -> ModelError
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let model = &self.model;
        let status = error.raw_response().map(|response| response.status().as_u16());
        match (error.code(), status) {
            (Some("NoSuchBucket"), _) => ModelError::new(
                ModelErrorKind::NotFound,
                format!("the bucket {} does not exist: correct the address of the model", model.bucket),
            ),
            (_, Some(404)) => ModelError::new(
                ModelErrorKind::NotFound,
                format!("{model} is not there: correct the address of the model"),
            ),
            (_, Some(412)) => ModelError::unavailable(format!("{model} changed while it was read")),
            (_, Some(401 | 403)) => ModelError::new(
                ModelErrorKind::Denied,
                format!(
                    "{model} {what}: the store denies access; check s3.access_key and s3.secret_key, and allow the key {permission}"
                ),
            ),
            _ => ModelError::unavailable(format!("{model} {what}: {}", causes(error))),
        }
    }
}

/// An id of contents, with as many digits as a commit.
fn content_id<'a>(parts: impl Iterator<Item = &'a String>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let mut id = hex::encode(hash.finalize());
    id.truncate(40);
    id
}

/// Whether an ETag has the form of an MD5, which those of uploads in parts have not.
fn is_md5(etag: &str) -> bool {
    etag.len() == 32 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn sha256_of_base64(text: &str) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(text).ok()?;
    (bytes.len() == 32).then(|| hex::encode(bytes))
}
