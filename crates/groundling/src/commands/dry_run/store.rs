//! The S3 store: whether what `s3.allow` lists can be read.

use std::time::{Duration, Instant};

use wire::v1::S3Object;
use worker::fetch::bucket_probe::BucketAccess;
use worker::fetch::s3::ObjectStore;
use worker::settings::S3Settings;

use super::report::Report;
use crate::exit::Misuse;
use crate::sources::input::Source;

/// A worker's reads that take longer than this hold its job slots rather than its engine.
const SLOW_READ: Duration = Duration::from_secs(5);

pub(super) async fn check(settings: &S3Settings, object: Option<&str>, report: &mut Report) -> anyhow::Result<()> {
    let store = match ObjectStore::open(settings).await {
        Ok(store) => store,
        Err(error) => return report.problem("store", error),
    };
    if let Some(address) = object {
        check_object(&store, address, report).await?;
    }
    for entry in &settings.allow {
        if entry == "*" {
            report.ok("store", "s3.allow is \"*\": any bucket may be read, and none is checked")?;
            continue;
        }
        let (bucket, prefix) = entry.split_once('/').unwrap_or((entry, ""));
        match store.probe_bucket(bucket, prefix).await {
            Ok(BucketAccess::Readable) => report.ok("store", format_args!("{entry} can be read"))?,
            Ok(BucketAccess::Denied) if object.is_some() => {
                report.ok("store", format_args!("{entry}: the store does not tell whether objects exist"))?;
            }
            Ok(BucketAccess::Denied) => report.problem(
                "store",
                format_args!("{entry}: the store denied access to an object that does not exist, as it does if the access key may not list the bucket: check the key's permissions, or name an object to read with --object"),
            )?,
            Err(error) => report.problem("store", format_args!("{entry}: {error}"))?,
        }
    }
    Ok(())
}

async fn check_object(store: &ObjectStore, address: &str, report: &mut Report) -> anyhow::Result<()> {
    let Source::Object { bucket, key } = Source::from_argument(address).map_err(Misuse)? else {
        return Err(Misuse(anyhow::anyhow!("--object {address}: expected s3://bucket/key")).into());
    };
    let object = S3Object { bucket, key, ..S3Object::default() };
    let started = Instant::now();
    match store.read(&object).await {
        Ok(fetched) => {
            let (bytes, elapsed) = (fetched.bytes.len(), started.elapsed());
            let seconds = elapsed.as_secs_f64();
            if elapsed > SLOW_READ {
                report.warning("store", format_args!("{address} was read, but slowly: {bytes} bytes in {seconds:.1} s"))
            } else {
                report.ok("store", format_args!("{address} was read: {bytes} bytes in {seconds:.2} s"))
            }
        }
        Err(error) => report.problem("store", error),
    }
}
