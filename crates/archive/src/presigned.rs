//! Presigned URLs.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::presigning::PresigningConfig;
use broker::causes::causes;
use wire::v1::ObjectIdentity;

/// The longest time for which S3 accepts such an address.
pub const MAX_EXPIRY: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// An address could not be made.
#[derive(Debug, thiserror::Error)]
#[error("no presigned link to s3://{bucket}/{key} can be made: {cause}")]
pub struct PresignError {
    bucket: String,
    key: String,
    cause: String,
}

/// An address of the object that expires after `expiry`, at most [`MAX_EXPIRY`]. Sends no request: it is not known whether
/// the object exists.
///
/// # Errors
/// [`PresignError`] if there are no credentials, or the time is too long.
pub async fn presign_url(client: &Client, object: &ObjectIdentity, expiry: Duration) -> Result<String, PresignError> {
    let failed = |cause: String| PresignError { bucket: object.bucket.clone(), key: object.key.clone(), cause };
    let config = PresigningConfig::expires_in(expiry).map_err(|error| failed(causes(&error)))?;
    let get = client.get_object().bucket(&object.bucket).key(&object.key).set_version_id(object.version_id.clone());
    let request = get.presigned(config).await.map_err(|error| failed(causes(&error)))?;
    Ok(request.uri().to_owned())
}
