//! Decodes bytes of a jobs stream message to a job, or to a list of its problems.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::identity::{PictureOrigin, annotation_id, sha256_hex};
use wire::job::{JobError, Source};
use worker::model_job::ModelJob;

fuzz_target!(|bytes: &[u8]| {
    match ModelJob::from_bytes(bytes::Bytes::copy_from_slice(bytes)) {
        Ok(ModelJob { job, queries }) => {
            assert_eq!(queries.len(), job.tasks.len());
            assert!((1..=64).contains(&job.tasks.len()));
            assert!(!job.job_id.is_empty() && !job.dataset.as_str().is_empty());
            for task in &job.tasks {
                assert!(!task.task_id.is_empty());
            }
            if let Source::Inline(picture) = &job.source {
                let sha256 = sha256_hex(picture);
                let id = |digest| annotation_id(&job, PictureOrigin::Inline { sha256: &sha256 }, digest);
                assert_eq!(id("a"), id("a"));
                assert_ne!(id("a"), id("b"));
            }
        }
        Err(JobError::Invalid { problems, .. }) => assert!(!problems.is_empty()),
        Err(JobError::Unreadable(_)) => {}
    }
});
