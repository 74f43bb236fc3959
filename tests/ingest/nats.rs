//! Events from NATS.

use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use wire::subjects::{EVENTS_STREAM, JOBS_STREAM};

use crate::env::{TestEnv, minio, object};
use crate::support::messages;

const RULES: &str = "[[ingest]]\nname = \"minio\"\nsubject = \"minio.events\"\ndataset = \"pictures\"\nsuffixes = [\".jpg\"]\ntasks = [\"brief\", \"ground=a car\"]\n";

#[tokio::test(flavor = "multi_thread")]
async fn repeated_and_reordered_events_become_one_job_for_each_state() {
    let env = TestEnv::start(RULES).await;
    let ingest = env.ingest().await;
    for keys in
        [&["a+b.jpg", "c%23.jpg"][..], &["d.jpg"], &["c%23.jpg", "a+b.jpg"], &["d.jpg"], &["e.txt", "%2523.jpg"]]
    {
        env.publish("minio.events", minio(keys)).await;
    }
    env.wait_until_events_are_done().await;
    assert_eq!(env.keys().await, ["%23.jpg", "a b.jpg", "c#.jpg", "d.jpg"]);
    let jobs = env.jobs().await;
    for (job, headers) in &jobs {
        let object = object(job);
        assert!(object.etag.as_ref().is_some_and(|etag| etag.starts_with("etag-")), "{object:?}");
        assert_eq!(headers.get("Nats-Msg-Id").unwrap().as_str(), job.job_id);
        let tasks: Vec<_> = job.tasks.iter().map(|task| task.task_id.as_str()).collect();
        assert_eq!((job.dataset.as_str(), tasks), ("pictures", vec!["brief", "ground"]));
    }
    let counts = [
        env.records("minio", "submitted", None).await,
        env.records("minio", "duplicate", None).await,
        env.records("minio", "skipped", Some("suffix")).await,
    ];
    assert_eq!(counts, [4, 3, 1]);
    ingest.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_the_jobs_of_a_message_loses_none_and_repeats_none() {
    let env = TestEnv::start(RULES).await;
    // The first job is stored and the others are refused, so the process dies between them.
    env.bound_jobs(1).await;
    let ingest = env.ingest().await;
    env.publish("minio.events", minio(&["1.jpg", "2.jpg", "3.jpg"])).await;
    env.until("stored", async || messages(&env.jetstream, JOBS_STREAM).await == 1).await;
    ingest.kill().await;
    assert_eq!(
        messages(&env.jetstream, EVENTS_STREAM).await,
        1,
        "the event is acknowledged before its jobs are stored"
    );
    env.bound_jobs(-1).await;
    let ingest = env.ingest().await;
    env.wait_until_events_are_done().await;
    assert_eq!(env.keys().await, ["1.jpg", "2.jpg", "3.jpg"]);
    assert_eq!(env.records("minio", "duplicate", None).await, 1);
    ingest.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_jobs_stream_slows_ingest_and_drops_nothing() {
    let env = TestEnv::start(RULES).await;
    env.bound_jobs(2).await;
    let ingest = env.ingest().await;
    let keys: Vec<_> = (0..6).map(|number| format!("{number}.jpg")).collect();
    for key in &keys {
        env.publish("minio.events", minio(&[key])).await;
    }
    env.until("sent back", async || env.records("minio", "sent_back", Some("stream_full")).await > 0).await;
    assert_eq!(messages(&env.jetstream, JOBS_STREAM).await, 2);
    assert_eq!(messages(&env.jetstream, EVENTS_STREAM).await, 4);
    let metrics = env.health("/metrics").await.unwrap().body;
    assert!(metrics.contains("groundling_streams_refusing{stream=\"GROUNDLING_JOBS\"} 1"), "{metrics}");
    env.bound_jobs(-1).await;
    env.wait_until_events_are_done().await;
    assert_eq!(env.keys().await, keys);
    ingest.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_become_a_job_is_counted_and_terminated_and_holds_nothing_back() {
    let env = TestEnv::start(RULES).await;
    let mut terminated =
        env.jetstream.client().subscribe("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>").await.unwrap();
    let ingest = env.ingest().await;
    env.publish("minio.events", "no json").await;
    env.publish("minio.events", minio(&["bad%zz.jpg", "good.jpg"])).await;
    env.wait_until_events_are_done().await;
    assert_eq!(env.keys().await, ["good.jpg"]);
    assert_eq!(env.records("minio", "failed", Some("unreadable")).await, 1);
    assert_eq!(env.records("minio", "failed", Some("invalid_key")).await, 1);
    for _ in 0..2 {
        use futures::StreamExt;
        terminated.next().await.unwrap();
    }
    ingest.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_without_jetstream_is_captured_with_its_headers_and_its_plain_keys() {
    let rules = "[[ingest]]\nname = \"gateway\"\nsubject = \"gateway.>\"\nkey_encoding = \"raw\"\ndataset = \"d\"\n\
                 [[ingest]]\nname = \"scans\"\nsubject = \"gateway.scans\"\nformat = \"cloudevents\"\nprefix = \"s/\"\ndataset = \"scans\"\n";
    let env = TestEnv::start(rules).await;
    let ingest = env.ingest().await;
    let client = env.jetstream.client();
    // Published before anything reads it, as versitygw does: the stream has captured it.
    client.publish("gateway.uploads", minio(&["a+b%20c#.jpg"]).into()).await.unwrap();
    client.flush().await.unwrap();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut headers = HeaderMap::new();
    for (name, value) in [("ce-specversion", "1.0"), ("ce-type", "x"), ("ce-id", "1"), ("Traceparent", parent)] {
        headers.insert(name, value);
    }
    let event = PublishMessage::build().payload(minio(&["s%2F1.jpg"]).into()).headers(headers);
    env.jetstream.send_publish("gateway.scans", event).await.unwrap().await.unwrap();
    env.until("stored", async || messages(&env.jetstream, JOBS_STREAM).await == 3).await;
    env.wait_until_events_are_done().await;
    // Two rules have the second event, each with its own reading of the key.
    assert_eq!(env.keys().await, ["a+b%20c#.jpg", "s%2F1.jpg", "s/1.jpg"]);
    let jobs = env.jobs().await;
    let (_, headers) = jobs.iter().find(|(job, _)| job.dataset == "scans").unwrap();
    assert_eq!(headers.get("traceparent").unwrap().as_str(), parent);
    ingest.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_creates_the_events_stream_only_for_rules_with_subjects_and_migrates_its_subjects() {
    let env = TestEnv::start("[[ingest]]\nname = \"http\"\npath = \"/e\"\ndataset = \"d\"\n").await;
    let jetstream = &env.jetstream;
    assert!(jetstream.get_stream(EVENTS_STREAM).await.is_err());
    let setup = async |arguments: &[&str]| {
        let output = env.command().arg("setup").args(arguments).output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    env.write_settings(RULES);
    let output = env.command().arg("ingest").output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("the stream GROUNDLING_EVENTS does not exist: run `groundling setup`"), "{said}");
    let (code, created, said) = setup(&[]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(
        created.contains("created stream GROUNDLING_EVENTS\n")
            && created.contains("created consumer groundling-ingest\n"),
        "{created}"
    );
    assert_eq!(setup(&[]).await.0, Some(0), "a second setup finds no difference");
    let config = jetstream.get_stream(EVENTS_STREAM).await.unwrap().cached_info().config.clone();
    assert_eq!(config.subjects, ["minio.events"]);
    assert!(config.max_bytes > 0 && config.retention == jetstream::stream::RetentionPolicy::WorkQueue);
    env.write_settings(&RULES.replace("minio.events", "store.*"));
    let (code, _, said) = setup(&[]).await;
    assert!(code == Some(1) && said.contains("GROUNDLING_EVENTS has the subjects [\"minio.events\"]"), "{said}");
    assert!(said.contains("the settings say [\"store.*\"]: run `groundling setup --migrate`"), "{said}");
    // Nothing arrives for the rule, so the process is not ready until the stream captures its subject.
    let ingest = env.ingest_unready();
    let ready = async || env.health("/readyz").await;
    let says = "does not capture the subject store.*";
    env.until("unready", async || ready().await.is_some_and(|found| found.body.contains(says))).await;
    assert_eq!(ready().await.unwrap().status, 503);
    let (code, changes, said) = setup(&["--migrate"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(changes.contains("migrate stream GROUNDLING_EVENTS: add the subject store.*\n"), "{changes}");
    env.until("ready", async || ready().await.is_some_and(|found| found.status == 200)).await;
    ingest.terminate().await;
    assert!(env.log().contains("run `groundling setup --migrate`"), "{}", env.log());
}
