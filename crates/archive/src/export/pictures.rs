//! Reads the pictures of annotations, for formats that contain them.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::RequestPayer;
use broker::backoff::{Backoff, Delays};
use broker::causes::causes;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use wire::v1::{ObjectIdentity, PictureFacts};

use super::error::ExportError;

/// Attempts to read one picture.
const ATTEMPTS: u32 = 6;
const RETRY_DELAY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));

/// Access to the store of the pictures. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pictures {
    client: Client,
    requester_pays: bool,
}

impl Pictures {
    /// Through this client. With `requester_pays`, the owner of the client's key agrees to pay for the requests.
    pub fn new(client: Client, requester_pays: bool) -> Self {
        Self { client, requester_pays }
    }

    /// The bytes that were annotated; `None` if the object does not exist any more or has other bytes now, and for
    /// pictures that were part of their job.
    pub(crate) async fn read(&self, facts: &PictureFacts) -> Result<Option<Bytes>, ExportError> {
        let Some(object) = &facts.object else { return Ok(None) };
        let mut delays = Delays::of(RETRY_DELAY);
        let mut attempts = 1;
        let bytes = loop {
            match self.get(object).await {
                Ok(found) => break found,
                Err(cause) if attempts == ATTEMPTS => {
                    return Err(ExportError::Picture {
                        object: format!("s3://{}/{}", object.bucket, object.key),
                        cause,
                    });
                }
                Err(_) => tokio::time::sleep(delays.after_failure()).await,
            }
            attempts += 1;
        };
        Ok(bytes.filter(|bytes| hex::encode(Sha256::digest(bytes)) == facts.sha256))
    }

    async fn get(&self, object: &ObjectIdentity) -> Result<Option<Bytes>, String> {
        let get = self.client.get_object().bucket(&object.bucket).key(&object.key);
        let get = get.set_version_id(object.version_id.clone());
        match get.set_request_payer(self.requester_pays.then_some(RequestPayer::Requester)).send().await {
            Ok(found) => Ok(Some(found.body.collect().await.map_err(|error| causes(&error))?.into_bytes())),
            Err(error) if matches!(error.code(), Some("NoSuchKey" | "NoSuchVersion" | "NoSuchBucket")) => Ok(None),
            Err(SdkError::ServiceError(error)) if error.raw().status().as_u16() == 404 => Ok(None),
            Err(error) => Err(causes(&error)),
        }
    }
}
