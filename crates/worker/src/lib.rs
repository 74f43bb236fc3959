//! The stream worker: jobs from JetStream, pictures from S3, annotations back to JetStream.
//!
//! A job goes one way, and each stage knows only its neighbours: [`intake`] → [`fetch`] → the engine → [`outcomes`] →
//! [`broker::publish`]. Its [`delivery::Delivery`] travels along as a guard, and [`faults`] holds the one table that says what
//! follows from a fault.
//!
//! # The promise
//!
//! **Every job that the jobs stream has acknowledged ends as exactly one annotation or exactly one failure in its
//! stream, whatever dies on the way:** workers, connections, the server or one of three, the S3 store.
//!
//! It stands on four rules.
//!
//! 1. *A job leaves the queue last.* It is acknowledged, and the server's confirmation waited for, only after its stream
//!    has acknowledged the annotation or the failure. Until then its guard gives signs of life every third of `ack_wait`,
//!    for no longer than the job's lease; without them it goes to another worker. `ack_wait` is the consumer's at present,
//!    read again every few seconds.
//! 2. *The first outcome counts.* Before anything is published it is written to the stream of outcomes, on a subject of
//!    the job's own that must be empty. A delivery that finds another's outcome there publishes that one. So two workers
//!    with the same job in hand, or a second try after the picture has gone, cannot end it in two ways.
//! 3. *Ids come out the same on every try*, and streams drop a second message with the same id for as long as
//!    `streams.duplicate_window`. The settings are refused if that is shorter than the longest way back of a job
//!    ([`Settings::longest_redelivery`]), and `groundling setup` tells of streams that differ. An outcome older than
//!    three quarters of it is first looked for in its stream.
//! 4. *No fault is silent.* A permanent error makes the job a failure at once, with its reason. After a temporary one the
//!    job is tried again after growing delays, and the last allowed attempt makes it a failure with the last error. In
//!    between it waits in the stream of retries ([`queue::Queue::Retries`]): a copy is published there before the job
//!    leaves the jobs stream, and the outcome that counts is that of the job, from whichever of the two it is delivered.
//!    Only attempts count that failed for a reason that may be the job's own, or that were started and never ended
//!    ([`attempts`]). What one worker's own settings forbid is left to the others for `worker.release_own_limits_for`
//!    before it becomes a failure. Faults that are not the job's (a full stream, a dead engine, shutdown, no file descriptors left) release it, and never end
//!    it, however often. What the server itself stops delivering, because `streams.max_deliver` was set, is told on a
//!    stream of advisories; a worker records it as a failure with the last known error and removes the job.
//!
//! Ages are measured by the server's clock alone: a worker's may be wrong by any amount.
//!
//! # Fairness
//!
//! New jobs do not wait behind jobs that fail, nor one dataset behind another's store:
//!
//! - Retries have a stream, a consumer and slots of their own: as many as new jobs have, of which they use a quarter while
//!   there are new jobs. A job in its delay holds no slot, and does not count as pending in the jobs stream.
//! - A job whose read takes much longer than most gives its slot back. `worker.max_slow_reads` bounds how many do, and
//!   together they hold half of `worker.max_bytes_in_flight` at most. Where there are more, the longest waiting of the
//!   dataset that has the most moves to the retries, and no attempt is counted. Retries have half as many such reads, and
//!   those of one dataset half of these.
//! - A bucket, or a part of it (`bucket/prefix/`), of which nothing can be read is left alone: its jobs wait with the
//!   retries and no attempts are counted, while single reads find out when it answers. After
//!   `worker.store_outage_wait` its jobs are attempted again, and fail as usual.
//!
//! Measured with half of the jobs spoilt, by objects that stall, come a byte at a time or are refused with 503: good jobs
//! of another dataset kept 100 % of their rate, and of the same dataset 86 to 100 % (`cargo test --workspace --test
//! fairness -- --ignored --nocapture`). What decoding costs is not shared out in this way: pictures that take long to
//! decode slow all datasets down until `worker.decode_timeout`.
//!
//! # Its limits
//!
//! - The stream of jobs is a work queue from which nothing is discarded. `groundling setup` names what else breaks the
//!   promise (another retention, a bound that discards old jobs, an age, a mirror, a sealed stream; for the consumer,
//!   acknowledgements that are not explicit, headers only, an `ack_wait` below 3 s), and no worker starts with it. A
//!   worker that runs takes no more jobs within a few seconds of such a change to the consumer, and within a minute of
//!   one to the stream; what is lost or handed out in between is not undone.
//! - An `ack_wait` that is lowered while jobs are in hand can be over for them before their workers read it. Such a job is
//!   handed out once more for each change. The worker that has it passes it over; another worker does it too, and rule
//!   2 decides. The same holds for a consumer that is made anew.
//! - A job that every worker's settings forbid fails once `worker.release_own_limits_for` has passed and one of them has
//!   it again. In that time the job is handed out some twenty times, to whichever worker comes; where only few workers
//!   may do it, chance can have it miss all of them, so the time must cover the change of most of them.
//! - It holds for jobs that the stream acknowledged. A submission without an acknowledgement may be there or not; submit
//!   again under the same `Nats-Msg-Id`. A job that has failed is submitted again under a new one
//!   ([`wire::identity::resubmission_id`]): it is a new message, and the outcome of the first does not count for it.
//! - It holds as long as the server keeps what it acknowledged. `sync_interval: always` for a single server, or three
//!   copies of each stream; otherwise a machine that loses power may take back its word.
//! - An outcome is forgotten after `streams.outcomes_max_age`, or `streams.duplicate_window` after the end of its job was
//!   confirmed. If the server or all workers are away for longer between an outcome and its acknowledgement, rule 2 does
//!   not hold for the jobs in hand at that moment: they are done anew. A job whose object has changed since may then have
//!   two annotations, with different ids.
//! - A first delivery is only recorded as an attempt if it fails. A job that crashes its workers ends after
//!   `worker.max_deliveries` crashes and one more.
//! - Where the server does not answer while a worker releases a redelivered job, that attempt counts.
//! - A worker that dies between the copy of a job into the stream of retries and the end of the original leaves two, both
//!   of which are attempted; the first outcome counts. Where that happens often, attempts count twice as fast.
//! - 100,000 retries at most are in hand or in their delay, all workers together; more wait in their stream for these.
//! - A process that stands still for longer than the duplicate window, between the look into the stream and its
//!   publication, can publish an id a second time when it goes on. One that stands still earlier notices it by its clocks
//!   and leaves the publication to the job's next delivery; where the whole machine stood still and its clock was not set
//!   since, it cannot notice.
//! - Answers of the store are believed: a 404 or 403, once heard, ends the job.
//! - Streams that somebody edits, purges or bounds with "discard old" keep what they are told to.
//!
//! `tests/soak.sh` holds this against real servers, processes and faults: workers killed at random, at every [`Step`] of
//! a job, frozen and terminated; servers killed, restarted, rolled one after the other and cut off from each other;
//! connections cut, half-closed, truncated, swallowed and throttled; a store that is killed or answers wrongly; and what
//! operators do: restarts in a row, full streams, a storage quota, wrong clocks, consumers that are changed or created
//! again, datasets whose objects stall or drip.
//!
//! # Storage
//!
//! All streams of a NATS account share its storage limit. `groundling setup` bounds the stream of jobs, which then refuses
//! submissions with an error instead of discarding anything, and reserves space for the others
//! (`streams.*_max_bytes`, [`broker::stream_sizes`]). Bytes of one message in its stream, for short names, a caption with three
//! phrases and ids of 64 characters; texts, labels, pictures within jobs and `worker.publish_tokens` come on top:
//!
//! | message | bytes | kept |
//! | --- | --- | --- |
//! | waiting job that names an S3 object | 200 | until it is done |
//! | annotation | 1040 | `streams.annotations_max_age` |
//! | failure | 500, its job included | `streams.failed_max_age` |
//! | outcome, whole | 1110 | `ack_wait` after its job is done; `streams.outcomes_max_age` where it is not replaced |
//! | outcome of a settled job | 160 | `streams.duplicate_window` |
//!
//! With the default settings the outcomes of R jobs a second take R × 350 KB. Every message takes some 50 bytes more on
//! disk, and an outcome up to 350 bytes of the server's memory. With three replicas all of it counts three times.
//!
//! A stream of annotations or failures that is full stops the workers, until its reader removes what it has read or
//! `max_age` does. `/readyz` then answers 503 and names the stream, and so does one line of the log; both end with the
//! first message that the stream takes. The same holds for a stream that is missing, an account or a server without
//! storage, and a stream that acknowledges nothing.
//!
//! # While the broker is away
//!
//! A worker waits for a broker that is not there yet, says so once, and is live but not ready ([`health`]). Credentials
//! that are refused and certificates that are not trusted end it at the start, for they do not pass by themselves; so do
//! streams that are missing. Later the connection is made anew for as long as it takes, and jobs are asked for again at
//! once; what an earlier request should still bring goes straight back. A server of a cluster that says that it will
//! end (lame duck) is left between two pull requests, when no job is on its way; one that is alone is stayed with until
//! it closes the connection. Credentials that the server stops to accept end a worker after `nats.refused_timeout`, with
//! its jobs left to others; a certificate that is no longer trusted is waited out like an unreachable server.
//!
//! At its end a worker tries once to publish an outcome that is written down; if the stream does not take it, another
//! worker publishes it later. An outcome that is not written down yet is waited for, up to `worker.publish_timeout`.
//!
//! # What jobs and stores cannot do
//!
//! - *Sizes.* A job's tasks are counted and measured before any of them is built: 64 of them, 1 MiB together, no text of
//!   more than 64 KiB, 1024 boxes each; a job that is refused costs a pass over its bytes. Encoded pictures, those within
//!   jobs too, are bounded by `worker.max_bytes_in_flight`, decoded ones by `worker.max_decode_bytes`. Jobs in hand are
//!   bounded by `worker.slots`, and each by the server's `max_payload`. One request for jobs brings 8 MiB of them at most,
//!   or a single larger one: a server whose `max_pending` is below that may still close the connection.
//! - *Descriptors.* A worker needs two for each read that it may have open, new jobs' and retries' slots and slow reads
//!   added up, and about a hundred more. It raises its limit of open files to that,
//!   or does not start where the hard limit is lower. The health address holds 32 connections, each for 5 s at most.
//! - *Words.* What a task puts into a sentence cannot act as markup, neither written out nor in characters that the
//!   tokenizer makes alike. Markup of a job's own is taken where `worker.allow_raw_prompts` says so (the default: it is a
//!   kind of task of its own and can spoil only its own answer), and even then without what stands for the picture and
//!   the ends of texts.
//! - *Places.* Buckets and prefixes come from `s3.allow`, endpoint, region and keys from the settings alone: a job's
//!   bucket is a plain name, never an ARN or an address, and redirects are not followed. A prefix covers no key with a
//!   segment `.` or `..`. A store that takes other characters for these (`%2e`, a backslash) after they were encoded is
//!   beyond a worker's reach; SeaweedFS, which the tests ask, is none.
//! - *Secrets.* Passwords, tokens, seeds and keys appear in no log, error or debug text, and settings with an address that
//!   holds one are refused.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod advisories;
mod annotation;
pub mod attempts;
pub mod byte_budget;
mod decoding;
pub mod delivery;
mod descriptors;
pub mod events;
mod failure;
pub mod faults;
pub mod fetch;
pub mod health;
pub mod health_server;
mod in_hand;
pub mod intake;
mod job;
mod ledger;
pub mod model_job;
pub mod outcomes;
mod present;
pub mod queue;
mod releases;
mod retries;
mod roll_up;
pub mod settings;
pub mod settings_check;
mod settle;
pub mod signals;
mod slots;
mod slow_reads;
mod standstill;
mod stores;
pub mod worker;

pub use events::{Events, JobEvent, Step};
pub use settings::Settings;
pub use worker::{WorkerError, WorkerParts, WorkerReport, run};
