//! Builds the failure that is published for a job that ends without an annotation.

use std::time::SystemTime;

use bytes::Bytes;
use wire::identity::{failure_id, sha256_hex};
use wire::job::{job_id_from_bytes, object_from_bytes};
use wire::subjects::failed_subject_for;
use wire::v1::{self, FailureReason, Outcome, outcome};

use crate::delivery_info::DeliveryInfo;
use crate::faults::Fault;

/// The failure of a job. `payload` are the job's bytes and `subject` is where they were published.
pub(crate) fn failure_outcome(
    info: &DeliveryInfo,
    subject: &str,
    payload: &Bytes,
    fault: &Fault,
    reason: FailureReason,
    worker: &v1::WorkerIdentity,
) -> Outcome {
    let job_sha256 = sha256_hex(payload);
    let message_id = failure_id(&info.stream, info.sequence, info.published_nanos, &job_sha256);
    let (bucket, key, version_id) = match object_from_bytes(payload) {
        Some(object) => (Some(object.bucket), Some(object.key), object.version_id),
        None => (None, None, None),
    };
    let failure = v1::JobFailure {
        job: payload.clone(),
        subject: subject.to_owned(),
        job_id: fault.job_id().or_else(|| job_id_from_bytes(payload)).map(str::to_owned),
        reason: reason.into(),
        message: fault.message(),
        deliveries: info.deliveries,
        stream_sequence: info.sequence,
        worker: Some(worker.clone()),
        failed_at: Some(SystemTime::now().into()),
        job_sha256,
        job_omitted: false,
        bucket,
        key,
        version_id,
    };
    let record = Some(outcome::Record::Failure(failure));
    Outcome { subject: failed_subject_for(subject, reason), message_id, record }
}
