//! Listing, replaying and dropping failures.

use std::collections::HashMap;
use std::time::Duration;

use archive::failures::{Failures, Replay, Replayed, Selection, drop_failures};
use archive::pool::Pool;
use async_nats::jetstream::stream::Config;
use broker::settings::NatsSettings;
use wire::Message;
use wire::identity::resubmission_id;
use wire::subjects::failed_subject_for;
use wire::v1::{FailureReason, JobFailure};

use crate::common::fixtures::{all, dataset, failure, job, keys, pool, publish, publish_failure};
use crate::common::{TestEnv, child, jetstream, random};

#[tokio::test]
async fn failures_are_listed_by_dataset_reason_time_and_number() {
    let env = TestEnv::start().await;
    let pool = pool(&env);
    // More than a page.
    for i in 0..250 {
        let reason = if i % 2 == 0 { FailureReason::ObjectNotFound } else { FailureReason::Internal };
        let name = if i < 200 { "cats" } else { "dogs" };
        publish_failure(&env, &failure(&job(name, &format!("{i:03}")), i + 1, reason)).await;
    }
    // As earlier versions published it.
    let old = failure(&job("cats", "old"), 900, FailureReason::Internal);
    publish(&env, "groundling.failed.cats", "old", old.encode_to_vec()).await;
    assert_eq!(all(&pool, Selection::default()).await.len(), 251);
    let cats = Selection { dataset: Some(dataset("cats")), ..Selection::default() };
    let found = all(&pool, cats.clone()).await;
    assert_eq!((found.len(), keys(&found)[0], keys(&found)[200]), (201, "old", "199"));
    let internal = Selection { reason: Some(FailureReason::Internal), ..cats.clone() };
    assert_eq!(all(&pool, internal.clone()).await.len(), 101);
    assert_eq!(all(&pool, Selection { dataset: None, ..internal.clone() }).await.len(), 126);
    let few = all(&pool, Selection { limit: Some(3), ..internal.clone() }).await;
    assert_eq!(keys(&few), ["old", "001", "003"]);
    let since = found[100].published;
    let recent = all(&pool, Selection { since: Some(since), ..cats.clone() }).await;
    assert_eq!(recent.len(), 101 + 1, "from the hundredth on, and the one of the earlier version");

    let shown = Failures::find(&pool, found[1].sequence).await.unwrap().unwrap();
    assert_eq!(shown, found[1]);
    assert_eq!(shown.address().as_deref(), Some("s3://archive/000"));
    assert_eq!(Failures::find(&pool, 10_000).await.unwrap(), None);

    assert_eq!(drop_failures(&pool, &few).await.unwrap(), 3);
    assert_eq!(drop_failures(&pool, &few).await.unwrap(), 0, "they are gone");
    assert_eq!(all(&pool, internal).await.len(), 98);
}

#[tokio::test]
async fn a_failure_is_replayed_once_under_an_id_of_its_own() {
    let env = TestEnv::start().await;
    let pool = pool(&env);
    let failed = failure(&job("cats", "a"), 7, FailureReason::ObjectNotFound);
    publish_failure(&env, &failed).await;
    let [found] = &all(&pool, Selection::default()).await[..] else { panic!("one failure") };
    let replay = Replay::open(&pool).await.unwrap();
    assert_eq!(replay.replay(found).await.unwrap(), Replayed::Done);
    // A second operator who had read it before.
    assert_eq!(replay.replay(found).await.unwrap(), Replayed::Before);
    assert!(all(&pool, Selection::default()).await.is_empty());
    assert_eq!(env.count("groundling.cursor.cats.*").await, 0, "the marker is removed");
    let jobs = env.jetstream.get_stream(&env.streams.jobs).await.unwrap();
    let stored = jobs.get_last_raw_message_by_subject("groundling.jobs.cats").await.unwrap();
    assert_eq!(stored.payload, failed.job, "exactly this job");
    assert_eq!(stored.headers.get("Nats-Msg-Id").unwrap().as_str(), resubmission_id(&failed));
    assert_eq!(env.drain().await, HashMap::from([("a".to_owned(), 1)]));

    // It fails again: another failure, which is replayed again.
    publish_failure(&env, &JobFailure { stream_sequence: 8, ..failed.clone() }).await;
    let again = all(&pool, Selection::default()).await;
    assert_eq!(replay.replay_all(&again).await.unwrap(), [(again[0].sequence, Replayed::Done)]);
    assert_eq!(env.drain().await, HashMap::from([("a".to_owned(), 1)]));
}

#[tokio::test]
async fn a_failure_that_cannot_be_replayed_stays() {
    let env = TestEnv::start().await;
    let pool = pool(&env);
    let whole = failure(&job("cats", "a"), 7, FailureReason::ObjectNotFound);
    publish_failure(&env, &whole.without_job().unwrap()).await;
    publish_failure(&env, &JobFailure { subject: "elsewhere".into(), stream_sequence: 8, ..whole.clone() }).await;
    let long = format!("groundling.jobs.{}", "x".repeat(200));
    publish_failure(&env, &JobFailure { subject: long, stream_sequence: 9, ..whole }).await;
    let found = all(&pool, Selection::default()).await;
    let replayed = Replay::open(&pool).await.unwrap().replay_all(&found).await.unwrap();
    let reasons: Vec<_> = replayed
        .iter()
        .map(|(_, replayed)| match replayed {
            Replayed::Impossible(why) => why.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(reasons.len(), 3);
    for (why, part) in reasons.iter().zip(["submit the job from its source", "not the subject of a job", "200 bytes"]) {
        assert!(why.contains(part), "{why}");
    }
    assert_eq!(all(&pool, Selection::default()).await.len(), 3);
    assert!(env.drain().await.is_empty());
}

#[tokio::test]
async fn a_replay_needs_streams_of_this_version() {
    let env = TestEnv::start().await;
    let stream = env.jetstream.get_stream(&env.streams.jobs).await.unwrap();
    let subjects = vec!["groundling.jobs.*".to_owned()];
    env.jetstream.update_stream(&Config { subjects, ..stream.cached_info().config.clone() }).await.unwrap();
    let error = Replay::open(&pool(&env)).await.unwrap_err().to_string();
    assert!(error.contains("GROUNDLING_JOBS") && error.contains("setup --migrate"), "{error}");
}

#[tokio::test]
#[ignore = "the other tests of this file start it"]
async fn a_replay() {
    let Some(inputs) = child::inputs() else { return };
    let nats = NatsSettings { url: inputs.nats.clone(), ..NatsSettings::default() };
    let pool = Pool::new(&jetstream(&inputs.nats).await.client(), &nats, Default::default());
    let replay = Replay::open(&pool).await.unwrap();
    let found = all(&pool, Selection::default()).await;
    for failures in found.chunks(100) {
        replay.replay_all(failures).await.unwrap();
    }
}

/// Kills replays until `kills` of them were killed in the middle, and looks whether each job is in the queue once.
async fn kill_replays(kills: u32) {
    const FAILURES: u64 = 600;
    let env = TestEnv::start().await;
    // The stream forgets ids at once, so that they protect from nothing.
    let stream = env.jetstream.get_stream(&env.streams.jobs).await.unwrap();
    let duplicate_window = Duration::from_millis(100);
    let config = Config { duplicate_window, ..stream.cached_info().config.clone() };
    env.jetstream.update_stream(&config).await.unwrap();
    let (mut killed, mut runs) = (0, 0);
    let mut random = random();
    while killed < kills {
        for i in 0..FAILURES {
            let sequence = runs * FAILURES + i + 1;
            let failed = failure(&job("cats", &format!("{i}")), sequence, FailureReason::Internal);
            let payload = failed.encode_to_vec();
            let subject = failed_subject_for(&failed.subject, failed.reason());
            env.jetstream.client().publish(subject, payload.into()).await.unwrap();
        }
        env.jetstream.client().flush().await.unwrap();
        loop {
            let replay = child::spawn("failures::a_replay", &env, "", "cats");
            let time = if killed < kills { Duration::from_millis(20 + random(200)) } else { Duration::MAX };
            if !child::kill_after(replay, time).await {
                break;
            }
            killed += 1;
        }
        assert!(all(&pool(&env), Selection::default()).await.is_empty(), "a failure stayed");
        let found = env.drain().await;
        let twice = found.values().filter(|times| **times > 1).count();
        assert_eq!((found.len() as u64, twice), (FAILURES, 0), "jobs, and jobs twice");
        Replay::open(&pool(&env)).await.unwrap();
        assert_eq!(env.count("groundling.cursor.cats.*").await, 0, "a marker stayed");
        runs += 1;
    }
    eprintln!("{killed} replays killed in {runs} runs over {} failures: lost 0, twice 0", runs * FAILURES);
}

#[tokio::test]
async fn ten_killed_replays_lose_no_job_and_repeat_none() {
    kill_replays(10).await;
}

#[tokio::test]
#[ignore = "takes minutes: cargo test -p archive --test repair -- --ignored --nocapture two_hundred"]
async fn two_hundred_killed_replays_lose_no_job_and_repeat_none() {
    kill_replays(200).await;
}
