//! What became of a record of an event in `groundling ingest`, and why, and how requests with events were answered.

use crate::attributes::words;

words! {
    /// What became of a record of an event.
    IngestOutcome {
        /// The jobs stream has stored its job.
        Submitted = "submitted",
        /// The jobs stream had its job already.
        Duplicate = "duplicate",
        /// It asks for no job.
        Skipped = "skipped",
        /// It cannot become a job, and is given up.
        Failed = "failed",
        /// Its job could not be stored: the event was nacked, or answered with 503.
        SentBack = "sent_back",
    }
}

words! {
    /// Why a record of an event became no job, or not yet.
    IngestReason {
        /// A message with which the store tests its configuration.
        TestEvent = "test_event",
        /// The topic of a message asks to be confirmed.
        Confirmation = "confirmation",
        /// An object or version was deleted, or a delete marker was created.
        Delete = "delete",
        /// A directory was created.
        Directory = "directory",
        /// A part of a multipart upload was stored.
        UploadPart = "upload_part",
        /// Only metadata has changed.
        Metadata = "metadata",
        /// The object has no bytes.
        Empty = "empty",
        /// The object is outside of all buckets.
        Outside = "outside",
        /// The event's name is none of the rule's `events`.
        EventName = "event_name",
        /// The bucket is not the rule's.
        Bucket = "bucket",
        /// The key does not begin with the rule's `prefix`.
        Prefix = "prefix",
        /// The key ends with none of the rule's `suffixes`.
        Suffix = "suffix",
        /// The object has more bytes than the rule's `max_size`.
        TooLarge = "too_large",
        /// The message is not in the rule's format.
        Unreadable = "unreadable",
        /// The key cannot be decoded, or is longer than a key can be.
        InvalidKey = "invalid_key",
        /// The job has more bytes than the jobs stream accepts.
        JobTooLarge = "job_too_large",
        /// No rule of this process has the message's subject.
        NoRule = "no_rule",
        /// The jobs stream is full.
        StreamFull = "stream_full",
        /// The jobs stream did not answer.
        Unavailable = "unavailable",
        /// The process is shutting down.
        ShuttingDown = "shutting_down",
    }
}

words! {
    /// The status of an answer of the webhook server.
    IngestStatus {
        /// All jobs of the event are stored.
        Ok = "200",
        /// The event cannot be read.
        BadRequest = "400",
        /// The credentials are missing or wrong.
        Unauthorized = "401",
        /// No rule has the path.
        NotFound = "404",
        /// The method is neither POST nor PUT.
        MethodNotAllowed = "405",
        /// The body took too long to arrive.
        RequestTimeout = "408",
        /// The body is too large.
        PayloadTooLarge = "413",
        /// The event was not handled.
        InternalServerError = "500",
        /// The jobs could not be stored in time.
        ServiceUnavailable = "503",
    }
}

impl IngestStatus {
    /// That of an HTTP status. The webhook server has no others than these.
    pub fn of(status: u16) -> Self {
        match status {
            200 => Self::Ok,
            400 => Self::BadRequest,
            401 => Self::Unauthorized,
            404 => Self::NotFound,
            405 => Self::MethodNotAllowed,
            408 => Self::RequestTimeout,
            413 => Self::PayloadTooLarge,
            503 => Self::ServiceUnavailable,
            _ => Self::InternalServerError,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_its_own_word() {
        for status in IngestStatus::ALL {
            assert_eq!(IngestStatus::of(status.as_str().parse().unwrap()), *status);
        }
        assert_eq!(IngestStatus::of(599), IngestStatus::InternalServerError);
    }
}
