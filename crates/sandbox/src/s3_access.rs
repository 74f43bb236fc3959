//! Address and credentials of a store.

use std::fmt;

/// The bucket that both stores create at the start.
pub(crate) const BUCKET: &str = "pictures";
/// The stores have no regions, but signatures contain one.
pub(crate) const REGION: &str = "us-east-1";

/// An S3 endpoint, a bucket and keys. Requests must be path-style.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Access {
    /// `http://127.0.0.1:PORT`.
    pub endpoint: String,
    /// The region for signatures.
    pub region: String,
    /// An existing bucket.
    pub bucket: String,
    /// The access key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: String,
}

impl S3Access {
    /// Generates keys, because other users of the machine can connect to a loopback port.
    pub(crate) fn with_new_keys(endpoint: String) -> Self {
        Self {
            endpoint,
            region: REGION.into(),
            bucket: BUCKET.into(),
            access_key: uuid::Uuid::new_v4().simple().to_string(),
            secret_key: uuid::Uuid::new_v4().simple().to_string(),
        }
    }
}

impl fmt::Debug for S3Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Access")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("bucket", &self.bucket)
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}
