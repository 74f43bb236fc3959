//! Whether a bucket can be read, found without knowing one of its objects.

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::RequestPayer;

use super::request_error::reading_error;
use super::s3::ObjectStore;
use super::{FetchError, FetchErrorKind};

/// The key that is read. There should be no such object.
const KEY: &str = "groundling-dry-run";

/// What reading an object that does not exist shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketAccess {
    /// The bucket can be read: the store said that there is no such object.
    Readable,
    /// The store denied access. Stores also do so for objects that do not exist, if the key may not list the bucket.
    Denied,
}

impl ObjectStore {
    /// Reads an object that does not exist, whose key begins with `prefix`.
    ///
    /// # Errors
    /// [`FetchError`], if the bucket does not exist, or the store does not answer or refuses the access key.
    pub async fn probe_bucket(&self, bucket: &str, prefix: &str) -> Result<BucketAccess, FetchError> {
        let key = format!("{prefix}{KEY}");
        let answer = self
            .client
            .get_object()
            .bucket(bucket)
            .key(&key)
            .set_request_payer(self.requester_pays.then_some(RequestPayer::Requester))
            .send()
            .await;
        let Err(error) = answer else { return Ok(BucketAccess::Readable) };
        if error.code() == Some("NoSuchBucket") {
            return Err(no_bucket(bucket));
        }
        let error = reading_error(error, &format!("s3://{bucket}/{key}"), self.requester_pays);
        match error.kind() {
            // Some stores say the same of an object in a bucket that does not exist.
            FetchErrorKind::NotFound if self.is_missing(bucket).await => Err(no_bucket(bucket)),
            FetchErrorKind::NotFound => Ok(BucketAccess::Readable),
            FetchErrorKind::Denied => Ok(BucketAccess::Denied),
            _ => Err(error),
        }
    }
    /// Whether the store says that there is no such bucket. The access key may not be allowed to ask.
    async fn is_missing(&self, bucket: &str) -> bool {
        let answer = self.client.head_bucket().bucket(bucket).send().await;
        let status = answer.err().and_then(|error| error.raw_response().map(|response| response.status().as_u16()));
        status == Some(404)
    }
}

fn no_bucket(bucket: &str) -> FetchError {
    let sentence = format!("the bucket {bucket} does not exist: correct s3.allow, or create the bucket");
    FetchError::new(FetchErrorKind::NotFound, sentence)
}
