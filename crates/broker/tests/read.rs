//! Ranges of a stream on a real NATS server.
#![allow(clippy::unwrap_used, reason = "a panic in a test is the report")]

use std::time::{Duration, Instant};

use async_nats::ServerAddr;
use async_nats::jetstream::Context;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::Config;
use broker::leader::last_sequence;
use broker::read::{Range, StoredMessage, read};
use futures::{StreamExt, TryStreamExt};
use sandbox::{NatsCluster, NatsOptions, NatsServer};

const NONE: [u64; 0] = [];

async fn sequences(jetstream: &Context, range: Range) -> Vec<u64> {
    let stored: Vec<StoredMessage> = read(jetstream, "S", range).await.unwrap().try_collect().await.unwrap();
    stored.into_iter().map(|stored| stored.sequence).collect()
}

/// Tries again for 30 s, as long as an election may take on a busy machine.
async fn retried<T, E: std::fmt::Display>(mut request: impl AsyncFnMut() -> Result<T, E>) -> T {
    let started = Instant::now();
    loop {
        match request().await {
            Ok(answer) => return answer,
            Err(error) => assert!(started.elapsed() < Duration::from_secs(30), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_range_is_read_in_order_without_what_is_gone_or_repeated() {
    let server = NatsServer::start(&NatsOptions::default()).await.unwrap();
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.client_url()).await.unwrap());
    let window = Duration::from_millis(100);
    let config =
        Config { name: "S".into(), subjects: vec!["s.*".into()], duplicate_window: window, ..Default::default() };
    let stream = jetstream.create_stream(config).await.unwrap();
    assert_eq!(sequences(&jetstream, Range::all()).await, NONE);
    for i in 0..300 {
        // The ids of the last hundred are those of the first.
        let message = PublishMessage::build().payload(format!("{i}").into()).message_id(format!("id-{}", i % 200));
        if i == 200 {
            tokio::time::sleep(window * 5).await;
        }
        let subject = if i % 2 == 0 { "s.even" } else { "s.odd" };
        jetstream.send_publish(subject, message).await.unwrap().await.unwrap();
    }
    stream.delete_message(7).await.unwrap();
    stream.delete_message(300).await.unwrap();

    let all: Vec<u64> = (1..=299).filter(|sequence| *sequence != 7).collect();
    let repeated = Range { deduplicate: false, ..Range::all() };
    assert_eq!(sequences(&jetstream, repeated.clone()).await, all);
    let once: Vec<u64> = all.iter().copied().filter(|sequence| *sequence <= 200 || *sequence == 207).collect();
    assert_eq!(sequences(&jetstream, Range::all()).await, once, "207 is the first with its id that is there");
    assert_eq!(sequences(&jetstream, Range { sequences: 5..=9, ..repeated.clone() }).await, [5, 6, 8, 9]);
    assert_eq!(sequences(&jetstream, Range { sequences: 7..=7, ..repeated.clone() }).await, NONE);
    assert_eq!(sequences(&jetstream, Range { sequences: 400..=500, ..repeated.clone() }).await, NONE);
    let odd = Range { subject: "s.odd".into(), sequences: 290..=u64::MAX, ..repeated };
    assert_eq!(sequences(&jetstream, odd).await, [290, 292, 294, 296, 298]);

    let read: Vec<StoredMessage> =
        read(&jetstream, "S", Range { sequences: 3..=3, ..Range::all() }).await.unwrap().try_collect().await.unwrap();
    assert_eq!(
        (read[0].id.as_deref(), read[0].subject.as_str(), &read[0].payload[..]),
        (Some("id-2"), "s.even", &b"2"[..])
    );
}

#[tokio::test]
async fn a_stream_that_is_missing_is_named() {
    let server = NatsServer::start(&NatsOptions::default()).await.unwrap();
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.client_url()).await.unwrap());
    let error = read(&jetstream, "NOWHERE", Range::all()).await.err().unwrap().to_string();
    assert!(error.starts_with("the stream NOWHERE could not be read: ") && error.contains("not found"), "{error}");
}

#[tokio::test]
async fn a_read_begins_once_the_server_answers() {
    let server = NatsServer::start(&NatsOptions::default()).await.unwrap();
    let mut jetstream = async_nats::jetstream::new(async_nats::connect(server.client_url()).await.unwrap());
    let config = Config { name: "S".into(), subjects: vec!["s.*".into()], ..Default::default() };
    jetstream.create_stream(config).await.unwrap();
    for _ in 0..3 {
        jetstream.publish("s.a", "payload".into()).await.unwrap().await.unwrap();
    }
    jetstream.set_timeout(Duration::from_millis(100));
    let id = server.process_id().unwrap().to_string();
    let signal = |signal: &str| {
        assert!(std::process::Command::new("kill").args([signal, id.as_str()]).status().unwrap().success());
    };
    signal("-STOP");
    let resumed = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        signal("-CONT");
    };
    let (read, ()) = tokio::join!(sequences(&jetstream, Range::all()), resumed);
    assert_eq!(read, [1, 2, 3]);
}

/// A consumer is on any server of the stream, and has what that server has: with a follower that was just restarted, a
/// fifth of such reads ended too early, many of them without a message.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_is_complete_although_a_server_lags_behind() {
    const MESSAGES: u64 = 2000;
    const READS: usize = 12;
    let mut cluster = NatsCluster::start(3, &NatsOptions::default()).await.unwrap();
    let servers = cluster.nodes.iter().map(|node| node.client_url().parse::<ServerAddr>().unwrap());
    let jetstream = async_nats::jetstream::new(async_nats::connect(servers.collect::<Vec<_>>()).await.unwrap());
    let config = Config { name: "S".into(), subjects: vec!["s.*".into()], num_replicas: 3, ..Default::default() };
    retried(async || jetstream.create_stream(config.clone()).await).await;
    for round in 1..=3 {
        let leader = retried(async || {
            let info = jetstream.get_stream("S").await.map_err(|error| error.to_string())?.cached_info().clone();
            info.cluster.and_then(|cluster| cluster.leader).ok_or("there is no leader".to_owned())
        });
        let leader = leader.await;
        let follower = (0..3).find(|node| format!("n{node}") != leader).unwrap();
        cluster.nodes[follower].kill();
        let publishes = (0..MESSAGES).map(|number| {
            let id = format!("{round}-{number}");
            let jetstream = &jetstream;
            retried(async move || {
                let message = PublishMessage::build().payload(vec![b'x'; 1000].into()).message_id(&id);
                jetstream.send_publish("s.x", message).await?.await
            })
        });
        futures::future::join_all(publishes).await;
        cluster.nodes[follower].restart().await.unwrap();
        let expected: Vec<u64> = (1..=round * MESSAGES).collect();
        let reads = futures::future::join_all((0..READS).map(|_| sequences(&jetstream, Range::all()))).await;
        let counts: Vec<usize> = reads.iter().map(Vec::len).collect();
        assert!(reads.iter().all(|read| *read == expected), "{counts:?} of {}", expected.len());
    }
}

#[tokio::test]
async fn a_range_can_begin_at_a_time() {
    let server = NatsServer::start(&NatsOptions::default()).await.unwrap();
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.client_url()).await.unwrap());
    let config = Config { name: "S".into(), subjects: vec!["s.*".into()], ..Default::default() };
    let stream = jetstream.create_stream(config).await.unwrap();
    for subject in ["s.a", "s.b", "s.a", "s.b"] {
        jetstream.publish(subject, "payload".into()).await.unwrap().await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let time = stream.get_raw_message(3).await.unwrap().time;
    let since = |subject: &str, since| Range { subject: subject.into(), since: Some(since), ..Range::all() };
    assert_eq!(sequences(&jetstream, since("", time)).await, [3, 4]);
    assert_eq!(sequences(&jetstream, since("s.b", time)).await, [4]);
    let later = time + Duration::from_millis(1);
    assert_eq!(sequences(&jetstream, since("s.a", later)).await, NONE);
    let headers = Range { headers_only: true, ..since("s.b", later) };
    let read: Vec<StoredMessage> = read(&jetstream, "S", headers).await.unwrap().try_collect().await.unwrap();
    assert_eq!((read[0].sequence, read[0].payload.len()), (4, 0));
}

/// Passes requests on to the server, and answers the first `wrong` requests for a message as a leader does that could not
/// read it: there is no message.
async fn pass_on(client: async_nats::Client, mut requests: async_nats::Subscriber, wrong: usize) {
    let mut asked = 0;
    while let Some(request) = requests.next().await {
        let (_, rest) = request.subject.split_once('.').unwrap();
        let (subject, reply) = (format!("$JS.API.{rest}"), request.reply.unwrap());
        if rest.starts_with("CONSUMER.MSG.NEXT.") {
            client.publish_with_reply(subject, reply, request.payload).await.unwrap();
            continue;
        }
        asked += usize::from(rest.starts_with("STREAM.MSG.GET."));
        let answer = if rest.starts_with("STREAM.MSG.GET.") && asked <= wrong {
            r#"{"error":{"code":404,"err_code":10037,"description":"no message found"}}"#.into()
        } else {
            client.request(subject, request.payload).await.unwrap().payload
        };
        client.publish(reply, answer).await.unwrap();
    }
}

#[tokio::test]
async fn that_a_leader_finds_no_message_is_believed_only_if_it_counts_none() {
    let server = NatsServer::start(&NatsOptions::default()).await.unwrap();
    let client = async_nats::connect(server.client_url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client.clone());
    let config = Config { name: "S".into(), subjects: vec!["s.*".into()], ..Default::default() };
    jetstream.create_stream(config).await.unwrap();
    for subject in ["s.a", "s.b", "s.a"] {
        jetstream.publish(subject, "".into()).await.unwrap().await.unwrap();
    }
    for (prefix, wrong) in [("NEVER", 0), ("TWICE", 2), ("ALWAYS", usize::MAX)] {
        let requests = client.subscribe(format!("{prefix}.>")).await.unwrap();
        client.flush().await.unwrap();
        let passing = tokio::spawn(pass_on(client.clone(), requests, wrong));
        let through = async_nats::jetstream::with_prefix(client.clone(), prefix);
        let stream = through.get_stream_no_info("S").await.unwrap();
        for (subject, last) in [("", 3), ("s.a", 3), ("s.b", 2), ("s.c", 0)] {
            let found = last_sequence(&stream, subject, None).await;
            match (last, wrong) {
                // Other servers may have the last message of all.
                (1.., usize::MAX) if !subject.is_empty() => {
                    assert!(found.unwrap_err().to_string().contains("cannot read the last one"))
                }
                _ => assert_eq!(found.unwrap(), last, "{prefix} {subject}"),
            }
        }
        assert_eq!(sequences(&through, Range::all()).await, [1, 2, 3], "{prefix}");
        passing.abort();
    }
}
