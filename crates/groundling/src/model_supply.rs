//! Gets the model that the settings name: a directory, or a download from the hub or from an S3 store.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use models::{DownloadProgress, Environment, ModelError, ModelErrorKind, ModelSource, Supply};
use tokio::time::{Instant, interval};
use worker::fetch::s3::ObjectStore;
use worker::settings::S3Settings;

use crate::exit::Misuse;
use crate::settings::{ModelSettings, Settings};
use crate::stderr;

const NO_MODEL: &str = "no model given: pass --model MODEL, set GROUNDLING_MODEL, or set model.path in the settings file; a model is a directory, \
    hf://OWNER/NAME@REVISION or s3://BUCKET/PREFIX, for example hf://microsoft/kosmos-2-patch14-224, or the small one for tests in \
    crates/sandbox/demo/kosmos-2-emoji";

/// How often a bar is drawn.
const DRAW: Duration = Duration::from_millis(200);
/// The time between two lines of progress where no bar is shown.
const LINES: Duration = Duration::from_secs(30);

/// Where the given model comes from.
///
/// # Errors
/// If none is given: how to get one. If it is not a source of models: how to write one. If the directory does not exist.
pub(crate) fn source(given: Option<&PathBuf>) -> anyhow::Result<ModelSource> {
    let given = given.filter(|path| !path.as_os_str().is_empty()).ok_or_else(|| Misuse(anyhow!(NO_MODEL)))?;
    let source = ModelSource::parse(given).map_err(misuse)?;
    if let ModelSource::Directory(dir) = &source
        && !dir.is_dir()
    {
        let problem = if dir.exists() { "the model is not a directory" } else { "there is no such model directory" };
        bail!("{}: {problem}: correct --model, GROUNDLING_MODEL or model.path", dir.display());
    }
    Ok(source)
}

/// Access to the model of the settings.
pub(crate) async fn supply(model: &ModelSettings, s3: &S3Settings) -> anyhow::Result<Supply> {
    let source = source(model.path.as_ref())?;
    let environment = Environment::read(|name| std::env::var(name).ok());
    let client = match source {
        ModelSource::S3(_) => Some(ObjectStore::open(s3).await?.client().clone()),
        ModelSource::Directory(_) | ModelSource::Hub(_) => None,
    };
    Supply::new(source, &environment, client, model.offline).map_err(|error| match error.kind() {
        ModelErrorKind::InvalidSource => misuse(error).into(),
        _ => error.into(),
    })
}

fn misuse(error: ModelError) -> Misuse {
    Misuse(error.into())
}

/// The directory of the model. A download shows a bar on a terminal, and otherwise a line from time to time.
pub(crate) async fn directory(model: &ModelSettings, s3: &S3Settings) -> anyhow::Result<PathBuf> {
    let supply = supply(model, s3).await?;
    let bar = ProgressBar::new(0);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} eta {eta} {wide_msg}")
    {
        bar.set_style(style);
    }
    let mut is_shown = false;
    let got = with_progress(&supply, DRAW, |progress, since_line| {
        if bar.is_hidden() {
            let is_due = progress.is_downloading() && since_line >= LINES;
            if is_due {
                stderr::message!("groundling: {progress}");
            }
            return is_due;
        }
        if progress.is_downloading() || is_shown {
            is_shown = true;
            bar.set_length(progress.total());
            bar.set_position(progress.done());
            bar.set_message(progress.to_string());
        }
        false
    });
    let got = got.await;
    bar.finish_and_clear();
    got
}

/// The directory of the model of a flag, for commands that take no other settings. The settings file is read only for a
/// download.
pub(crate) async fn directory_of_flag(model: Option<&PathBuf>, settings: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let ModelSource::Directory(dir) = source(model)? {
        return Ok(dir);
    }
    let settings = Settings::load(settings)?;
    let model = ModelSettings { path: model.cloned(), ..settings.model };
    directory(&model, &settings.s3).await
}

/// The directory of the model. Logs a line from time to time.
pub(crate) async fn directory_with_log(supply: &Supply) -> anyhow::Result<PathBuf> {
    with_progress(supply, LINES, |progress, _| {
        tracing::info!(bytes = progress.done(), total = progress.total(), "{progress}");
        true
    })
    .await
}

/// Calls `show` in this interval, with the time since it last returned `true`.
async fn with_progress(
    supply: &Supply,
    every: Duration,
    mut show: impl FnMut(&DownloadProgress, Duration) -> bool,
) -> anyhow::Result<PathBuf> {
    let (mut ticks, mut last) = (interval(every), Instant::now());
    // The first tick comes at once.
    ticks.tick().await;
    let directory = supply.directory();
    tokio::pin!(directory);
    loop {
        tokio::select! {
            directory = &mut directory => return Ok(directory?),
            _ = ticks.tick() => if show(supply.progress(), last.elapsed()) {
                last = Instant::now();
            },
        }
    }
}
