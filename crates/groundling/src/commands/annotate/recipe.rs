//! What is done with each picture, and the rows of the results.

use anyhow::Context;
use kosmos2::options::{GenerationOptions, GroundedText, Sampling};
use wire::identity::{PictureOrigin, annotation_id};
use wire::job::{CheckedJob, Source as JobSource};
use wire::options::{self, Options};
use wire::subjects::Dataset;
use wire::v1;
use worker::annotation::task_result;

use super::failure::Failure;
use crate::sources::input::Source;

/// The dataset of all annotations of the command line.
const DATASET: &str = "local";

/// What is done with each picture. Rows with the same recipe and the same picture are equal.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    job: CheckedJob,
    model: v1::ModelIdentity,
}

impl Recipe {
    /// `labels` name what affects the rows and is not part of a job.
    pub(super) fn new(
        tasks: Vec<v1::Task>,
        options: &GenerationOptions,
        labels: Vec<(&'static str, String)>,
        model: v1::ModelIdentity,
    ) -> anyhow::Result<Self> {
        let dataset: Dataset = DATASET.parse().context("the dataset's name is not valid")?;
        let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let source = JobSource::Inline(bytes::Bytes::new());
        let job = CheckedJob { job_id: String::new(), dataset, source, tasks, options: wire_options(options), labels };
        Ok(Self { job, model })
    }

    /// The id of the annotation of a picture by its name.
    pub(super) fn annotation_id(&self, name: &str, picture: &v1::PictureFacts) -> String {
        let job = CheckedJob { job_id: name.to_owned(), ..self.job.clone() };
        let origin = match &picture.object {
            Some(object) => PictureOrigin::Object(object),
            None => PictureOrigin::Inline { sha256: &picture.sha256 },
        };
        annotation_id(&job, origin, &self.model.digest)
    }

    /// Whether a row was made with this recipe.
    pub(super) fn made(&self, row: &v1::ImageAnnotation) -> bool {
        let picture = row.picture.as_ref();
        row.labels == self.job.labels
            && picture.is_some_and(|picture| self.annotation_id(&row.job_id, picture) == row.annotation_id)
    }

    /// The row of a picture. There is one answer for each task.
    pub(super) fn annotation(
        &self,
        name: &str,
        picture: v1::PictureFacts,
        answers: Vec<GroundedText>,
    ) -> v1::ImageAnnotation {
        let (width, height) = (picture.width, picture.height);
        let tasks = self.job.tasks.iter().zip(answers);
        v1::ImageAnnotation {
            annotation_id: self.annotation_id(name, &picture),
            job_id: name.to_owned(),
            dataset: DATASET.to_owned(),
            labels: self.job.labels.clone(),
            picture: Some(picture),
            model: Some(self.model.clone()),
            results: tasks.map(|(task, answer)| task_result(&task.task_id, answer, width, height, false)).collect(),
            // Left out, so that equal work has equal rows.
            timings: None,
            worker: None,
            finished_at: None,
        }
    }
}

/// The row of a picture that failed.
pub(super) fn failure_row(source: &Source, failure: &Failure) -> v1::JobFailure {
    let (bucket, key) = match source {
        Source::Object { bucket, key } => (Some(bucket.clone()), Some(key.clone())),
        _ => (None, None),
    };
    v1::JobFailure {
        job_id: Some(source.name()),
        reason: failure.reason.into(),
        message: failure.message.clone(),
        bucket,
        key,
        ..v1::JobFailure::default()
    }
}

fn wire_options(options: &GenerationOptions) -> Options {
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Options {
        max_new_tokens: small(options.max_new_tokens),
        sampling: match options.sampling {
            Sampling::Greedy => options::Sampling::Greedy,
            Sampling::Random { temperature, top_k, top_p, seed } => {
                options::Sampling::Random { temperature, top_k: top_k.map(small), top_p, seed }
            }
            Sampling::Beam(beam) => options::Sampling::Beam {
                num_beams: small(beam.num_beams),
                length_penalty: beam.length_penalty,
                early_stopping: match beam.early_stopping {
                    kosmos2::options::EarlyStopping::Yes => v1::EarlyStopping::Yes,
                    kosmos2::options::EarlyStopping::No => v1::EarlyStopping::No,
                    kosmos2::options::EarlyStopping::Never => v1::EarlyStopping::Never,
                },
            },
        },
        no_repeat_ngram_size: small(options.no_repeat_ngram_size),
        repetition_penalty: options.repetition_penalty,
        well_formed: options.well_formed,
    }
}
