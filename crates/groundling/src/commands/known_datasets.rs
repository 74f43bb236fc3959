//! Names of datasets that may be mistyped.

use anyhow::bail;
use archive::pool::Pool;
use wire::subjects::Dataset;

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
            bail!("nothing is known of the dataset {dataset}");
        }
    }
    Ok(())
}
