//! What became of a record of an event in `groundling ingest`, and why.

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
