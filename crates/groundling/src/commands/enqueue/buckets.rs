//! Sources that workers with the same settings would not read.

use archive::source::Source;
use archive::source::address::Address;

use crate::stderr;

/// Warns of sources that `s3.allow` does not cover. It is empty in settings that are not those of a worker.
pub(super) fn warn(allow: &[String], addresses: &[Address], sources: &[Source]) {
    if allow.is_empty() {
        return;
    }
    for (address, source) in addresses.iter().zip(sources) {
        let (bucket, prefix) = match (address, source.bucket()) {
            (Address::Prefix { bucket, prefix }, _) => (bucket.as_str(), prefix.as_str()),
            (_, Some(bucket)) => (bucket, ""),
            // Each row has its own.
            (_, None) => continue,
        };
        if !covers(allow, bucket, prefix) {
            stderr::message!(
                "groundling: warning: s3.allow does not cover s3://{bucket}/{prefix}: workers with these settings would not read its objects"
            );
        }
    }
}

/// Whether an entry covers at least a part of the prefix.
fn covers(allow: &[String], bucket: &str, prefix: &str) -> bool {
    allow.iter().any(|entry| match entry.split_once('/') {
        _ if entry == "*" => true,
        None => entry == bucket,
        Some((allowed, part)) => allowed == bucket && (prefix.starts_with(part) || part.starts_with(prefix)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_covered_by_its_bucket_and_by_prefixes_that_overlap_it() {
        let covered = |entry: &str, bucket: &str, prefix: &str| covers(&["x".into(), entry.into()], bucket, prefix);
        assert!(covered("*", "b", "a/") && covered("b", "b", "a/") && covered("b", "b", ""));
        assert!(covered("b/a/", "b", "a/c/") && covered("b/a/", "b", "") && covered("b/a/", "b", "a/"));
        assert!(!covered("b/a/", "b", "c/") && !covered("b/a/", "c", "a/") && !covered("b", "bb", ""));
    }
}
