//! Pictures that exceed limits, in a whole worker: each becomes a failure with a reason, and the next one is processed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::time::Duration;

use common::{PATIENCE, TestEnv, bitmap, job, parts, submit};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wire::v1::FailureReason;
use worker::settings::{S3Settings, WorkerSettings};
use worker::{Events, JobEvent, Settings, WorkerParts};

/// The results of these pictures in a worker with these settings, in any order.
async fn ends(worker: WorkerSettings, pictures: Vec<Vec<u8>>) -> Vec<Result<(), (FailureReason, String)>> {
    let env = TestEnv::ready().await;
    for (number, picture) in pictures.iter().enumerate() {
        submit(&env, &job(&number.to_string(), picture.clone())).await;
    }
    let s3 = S3Settings { allow: vec!["*".into()], anonymous: true, ..Default::default() };
    let settings = Settings { nats: env.nats.clone(), streams: env.streams.clone(), s3, worker };
    let (sender, mut events) = mpsc::channel(100);
    let stop = CancellationToken::new();
    let parts = WorkerParts { events: Events::to(sender), ..parts(settings) };
    let running = tokio::spawn(worker::run(parts, stop.clone()));
    let mut ends = Vec::new();
    for _ in &pictures {
        ends.push(match tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap() {
            JobEvent::Failed { reason, message, .. } => Err((reason, message)),
            JobEvent::Finished { .. } => Ok(()),
            other => panic!("{other:?}"),
        });
    }
    stop.cancel();
    running.await.unwrap().unwrap();
    ends
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_takes_too_long_is_a_dead_letter_with_a_reason_of_its_own() {
    // No picture is decoded within a nanosecond.
    let decode_timeout = Duration::from_nanos(1);
    let worker = WorkerSettings { decode_timeout, release_own_limits_for: Duration::ZERO, ..Default::default() };
    for end in ends(worker, vec![bitmap(); 3]).await {
        let (reason, message) = end.unwrap_err();
        assert_eq!(reason, FailureReason::DecodingTimedOut);
        assert_eq!(message, "the picture was not decoded within 1ns (worker.decode_timeout)");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_claims_more_memory_than_there_is_room_for_is_refused_by_its_header() {
    let worker = WorkerSettings {
        release_own_limits_for: Duration::ZERO,
        max_decode_bytes: 10 << 20,
        max_picture_pixels: 1 << 20,
        decode_threads: 1,
        ..Default::default()
    };
    // With 16 bits per sample the picture needs more memory than the limit, which suffices for 8 bits.
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    png.extend([1024u32.to_be_bytes(), 1024u32.to_be_bytes()].concat());
    png.extend(b"\x10\x06\0\0\0\0\0\0\0");
    let ends = ends(worker, vec![bitmap(), png, bitmap()]).await;
    assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 2);
    let (reason, message) = ends.into_iter().find_map(Result::err).unwrap();
    assert_eq!(reason, FailureReason::PictureTooLarge);
    assert!(message.contains("bytes of memory to decode, more than the limit of 10485760"), "{message}");
}
