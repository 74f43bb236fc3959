//! The feeder of a run: `groundling enqueue`'s library, in a process that is killed at random times.

use std::path::{Path, PathBuf};
use std::time::Duration;

use archive::feed::{Feed, Progress, Target};
use archive::filter::Filter;
use archive::recipe::{Pin, Recipe};
use archive::source::Source;
use archive::source::address::Address;
use archive::source::store::Store;
use broker::connection;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::process::Child;
use tokio::sync::watch;
use wire::v1::{self, task};
use worker::fetch::s3::ObjectStore;

use crate::child_process;
use crate::stub_worker::{Sections, read_settings};

/// The datasets that are fed, one after the other.
pub const DATASETS: [&str; 4] = ["fed-0", "fed-1", "fed-2", "fed-3"];
/// The number of sources of each dataset. Each is at least one batch.
pub const SOURCES: usize = 12;
/// How often the feeder of a dataset is killed, at most.
const MAX_KILLS: usize = 8;
/// One kill of each dataset's feeder for this many jobs of the run.
const JOBS_PER_KILL: usize = 500;
/// The maximum time after which a feeder is killed, in milliseconds.
const MAX_LIFE_MS: u64 = 900;
/// Delay before a feeder that has ended is started again.
const RESTART_DELAY: Duration = Duration::from_millis(100);

/// The prefix of a dataset's source.
pub fn prefix(dataset: &str, source: usize) -> String {
    format!("{dataset}/{source:02}/")
}

/// The tasks and options of the jobs of a dataset.
///
/// # Errors
/// If the dataset is not a valid name.
pub fn recipe(dataset: &str) -> anyhow::Result<Recipe> {
    let kind = Some(task::Kind::BriefCaption(v1::BriefCaption {}));
    let tasks = vec![v1::Task { task_id: "brief".into(), kind }];
    Ok(Recipe { dataset: dataset.parse()?, tasks, options: None, pin: Pin::Version })
}

/// Feeds a dataset to its end.
///
/// # Errors
/// If the settings, the source or the streams cannot be read.
pub async fn run(settings: &Path, dataset: &str, bucket: &str) -> anyhow::Result<()> {
    let Sections { nats, streams, s3, .. } = read_settings(settings)?;
    let store = Store::new(ObjectStore::open(&s3).await?.client().clone(), false);
    let mut sources = Vec::new();
    for source in 0..SOURCES {
        let address = Address::parse(&format!("s3://{bucket}/{}", prefix(dataset, source)))?;
        sources.push(Source::open(store.clone(), address, None).await?);
    }
    let feed = Feed {
        sources,
        filter: Filter::default(),
        sample: None,
        unique_etag: false,
        missing: false,
        urgent: false,
        recipe: recipe(dataset)?,
        arguments: Default::default(),
        parallel_lanes: 2,
    };
    let client = connection::connect(&nats, "soak feeder").await?;
    let target = Target {
        jetstream: connection::jetstream(&client, &nats),
        streams,
        max_waiting: 100_000,
        max_failure_rate: None,
        timeout: nats.request_timeout,
        feeder: format!("process {}", std::process::id()),
    };
    feed.run(&target, &Progress::default()).await?;
    Ok(())
}

/// How to start feeders.
#[derive(Debug)]
pub struct Feeders {
    /// The `soak` program.
    pub executable: PathBuf,
    /// The settings file.
    pub settings: PathBuf,
    /// The directory of the feeders' logs.
    pub logs: PathBuf,
    /// The bucket of the sources.
    pub bucket: String,
}

impl Feeders {
    /// Feeds each dataset to its end, and kills its feeder at random times. A dataset starts when its share of `jobs` is
    /// allowed. Returns the number of kills.
    ///
    /// # Errors
    /// If a feeder cannot be started.
    pub async fn run(self, jobs: usize, mut allowed: watch::Receiver<usize>, seed: u64) -> anyhow::Result<usize> {
        let (mut random, mut killed) = (ChaCha8Rng::seed_from_u64(seed ^ 0xfeed), 0);
        let max_kills = (jobs / JOBS_PER_KILL).clamp(1, MAX_KILLS);
        for (number, dataset) in DATASETS.into_iter().enumerate() {
            let share = jobs * number / DATASETS.len();
            // Fails only if the run has ended early.
            let _ = allowed.wait_for(|allowed| *allowed >= share).await;
            let mut kills = 0;
            loop {
                let mut feeder = self.spawn(dataset)?;
                let life = match kills < max_kills {
                    true => Duration::from_millis(random.random_range(0..MAX_LIFE_MS)),
                    // Long enough for all faults.
                    false => Duration::from_secs(600),
                };
                match tokio::time::timeout(life, feeder.wait()).await {
                    Ok(status) => {
                        // A feeder also ends if the server does not respond. The next one continues.
                        if status?.success() {
                            break;
                        }
                    }
                    Err(_) => {
                        feeder.kill().await?;
                        kills += 1;
                    }
                }
                tokio::time::sleep(RESTART_DELAY).await;
            }
            killed += kills;
        }
        Ok(killed)
    }

    fn spawn(&self, dataset: &str) -> anyhow::Result<Child> {
        let arguments = ["feeder", "--dataset", dataset, "--bucket", &self.bucket];
        let log = self.logs.join(format!("feeder-{dataset}.log"));
        child_process::spawn(&self.executable, &arguments, &self.settings, &log)
    }
}
