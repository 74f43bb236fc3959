//! Removes the headers of a response that reading an object does not need, before the client parses them.
//!
//! The client rejects a response if any header has an unexpected form: another date format in `Last-Modified`, a count
//! that is not a number, metadata that is not UTF-8. None of these matter for the bytes.

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::http::Headers;

/// Headers whose first value is kept.
const NEEDED: [&str; 5] = ["content-length", "content-type", "date", "etag", "x-amz-version-id"];
const CONTENT_ENCODING: &str = "content-encoding";
/// Checksum headers that the client verifies, with the lengths of their base64 values.
const CHECKSUMS: [(&str, usize); 5] = [
    ("x-amz-checksum-crc32", 8),
    ("x-amz-checksum-crc32c", 8),
    ("x-amz-checksum-crc64nvme", 12),
    ("x-amz-checksum-sha1", 28),
    ("x-amz-checksum-sha256", 44),
];

/// The interceptor of the S3 client.
#[derive(Debug)]
pub(super) struct NeededHeaders;

impl Intercept for NeededHeaders {
    fn name(&self) -> &'static str {
        "NeededHeaders"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let is_read = config.load::<Metadata>().is_some_and(|operation| operation.name() == "GetObject");
        let response = context.response_mut();
        if is_read && response.status().is_success() {
            let kept = needed(response.headers());
            *response.headers_mut() = kept;
        }
        Ok(())
    }
}

fn needed(all: &Headers) -> Headers {
    let mut kept = Headers::new();
    let mut keep = |name: &'static str, value: String| {
        // Does not fail, because the value was a header's value.
        drop(kept.try_insert(name, value));
    };
    for name in NEEDED {
        if let Some(value) = all.get(name) {
            keep(name, value.to_owned());
        }
    }
    // It may be split into several header lines.
    let encodings: Vec<&str> = all.get_all(CONTENT_ENCODING).collect();
    if !encodings.is_empty() {
        keep(CONTENT_ENCODING, encodings.join(", "));
    }
    // A composite checksum covers the checksums of an upload's parts and cannot be computed from the bytes alone.
    let composite = all.get("x-amz-checksum-type").is_some_and(|kind| kind.trim().eq_ignore_ascii_case("composite"));
    for (name, length) in CHECKSUMS {
        match all.get(name) {
            Some(value) if !composite && is_checksum(value, length) => keep(name, value.to_owned()),
            Some(value) => tracing::debug!(name, value, "ignored a checksum that cannot be verified"),
            None => {}
        }
    }
    kept
}

/// Whether a value is base64 of the right length, unlike a checksum with a number of parts (`…-3`).
fn is_checksum(value: &str, length: usize) -> bool {
    value.len() == length && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(all: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let mut headers = Headers::new();
        for (name, value) in all {
            headers.append(*name, *value);
        }
        let mut kept: Vec<_> = needed(&headers).iter().map(|(name, value)| (name.into(), value.into())).collect();
        kept.sort();
        kept
    }

    #[test]
    fn headers_that_say_nothing_about_the_bytes_are_left_out() {
        let all = [
            ("etag", "\"e\""),
            ("last-modified", "2022-10-12 17:50:00"),
            ("expires", "0"),
            ("x-amz-tagging-count", "two"),
            ("x-amz-meta-name", "x"),
            ("content-encoding", "aws-chunked"),
            ("content-encoding", "gzip"),
        ];
        let wanted = [("content-encoding", "aws-chunked, gzip"), ("etag", "\"e\"")];
        assert_eq!(kept(&all), wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn only_checksums_of_the_whole_object_are_kept() {
        let crc32 = "x-amz-checksum-crc32";
        for (all, is_kept) in [
            (&[(crc32, "AAAAAA==")][..], true),
            (&[(crc32, "AAAAAA=="), ("x-amz-checksum-type", "FULL_OBJECT")], true),
            (&[(crc32, "AAAAAA=="), ("x-amz-checksum-type", "COMPOSITE")], false),
            (&[(crc32, "AAAAAA==-3")], false),
            (&[(crc32, "not one!")], false),
            (&[(crc32, "AAAAAAAAAAA=")], false),
        ] {
            assert_eq!(!kept(all).is_empty(), is_kept, "{all:?}");
        }
    }
}
