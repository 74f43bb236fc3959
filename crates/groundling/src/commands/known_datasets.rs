//! Names of datasets that may be mistyped.

use anyhow::bail;
use archive::pool::Pool;
use wire::subjects::Dataset;

use crate::stderr;

/// How to find the right name.
pub(super) const HINT: &str = "`groundling status` shows all datasets";

/// Checks that each of the datasets has a plan, jobs, annotations or failures.
///
/// # Errors
/// The first one that has none of them.
pub(super) async fn check_known<'a>(
    pool: &Pool,
    datasets: impl IntoIterator<Item = &'a Dataset>,
) -> anyhow::Result<()> {
    for dataset in datasets {
        if !pool.knows(dataset).await? {
            bail!("nothing is known of the dataset {dataset} ({HINT})");
        }
    }
    Ok(())
}

/// Says on stderr which of these datasets have no annotations in the stream. If the server does not answer, the command
/// itself tells why.
pub(super) async fn report(pool: &Pool, datasets: &[Dataset]) {
    for dataset in datasets {
        if matches!(pool.count_annotations(dataset).await, Ok(0)) {
            stderr::message!("groundling: {}", sentence(pool, dataset));
        }
    }
}

/// What is said about a dataset without annotations.
pub(super) fn sentence(pool: &Pool, dataset: &Dataset) -> String {
    format!("no annotations of the dataset {dataset} in the stream {} ({HINT})", pool.annotations_stream())
}
