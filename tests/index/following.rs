//! Indexes that follow the stream.

use std::time::{Duration, Instant};

use super::databases::{Database, terminate};
use crate::filled_stream::{Bench, STREAM, said, synthetic};
use crate::kills::fraction;
use crate::support::DEADLINE;

/// Waits until a query gives a number.
async fn wait_for(database: &Database, sql: &str, expected: u64) {
    let started = Instant::now();
    loop {
        let found = database.number_or_zero(sql).await;
        if found == expected {
            return;
        }
        assert!(found < expected && started.elapsed() < DEADLINE, "{sql}: {found} instead of {expected}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const COUNT: &str = "select count(*) from ~annotations";

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_follows_survives_restarts_of_the_database_at_random_moments() {
    let bench = Bench::start().await;
    bench.fill(synthetic(500)).await;
    let mut database = Database::postgres().await;
    let child = database.command(&bench, &["--follow"]).spawn().unwrap();
    wait_for(&database, COUNT, 500).await;
    let seed = format!("{:?}", std::time::SystemTime::now());
    let mut filled = 500;
    for restart in 0..4 {
        bench.fill(synthetic(filled + 1000).skip(filled as usize)).await;
        filled += 1000;
        tokio::time::sleep(Duration::from_secs(2).mul_f64(fraction(&seed, restart))).await;
        let Database::Postgres(server) = &mut database else { panic!("PostgreSQL") };
        // The answers to commits are lost as well.
        if restart % 2 == 0 {
            server.kill();
        }
        server.restart().await.unwrap();
    }
    wait_for(&database, COUNT, filled).await;
    let ended = terminate(child).await;
    assert!(ended.status.success(), "seed {seed}: {} {}", ended.status, said(&ended));
    assert!(said(&ended).contains("will go on from the cursor"), "seed {seed}: {}", said(&ended));
    assert_eq!(database.number("select count(*) from ~results").await, 3 * filled);
    let whole = database.contents().await;
    let again = Database::sqlite(&bench, "again.db");
    again.indexed(&bench, &[]).await;
    assert!(whole == again.contents().await, "seed {seed}: other rows than without restarts");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_follows_commits_what_it_has_and_ends_when_told_to() {
    let bench = Bench::start().await;
    let mut other = synthetic(40).skip(30);
    for database in Database::both(&bench).await {
        let child = database.command(&bench, &["--follow", "--dataset", "scenes"]).spawn().unwrap();
        bench.fill(synthetic(30)).await;
        wait_for(&database, COUNT, 30).await;
        // Another dataset moves the end of the stream.
        let mut last = other.next().unwrap();
        last.dataset = "other".into();
        let sequence = bench.publish(&last, "").await;
        let ended = terminate(child).await;
        assert!(ended.status.success(), "{}", said(&ended));
        let summary: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
        assert_eq!(summary["annotations"], 30, "{summary}");
        let cursor = database.number("select sequence from ~cursors").await;
        assert!((30..=sequence).contains(&cursor), "{cursor}");
        bench.jetstream.get_stream(STREAM).await.unwrap().purge().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_created_again_is_read_from_its_beginning() {
    let bench = Bench::start().await;
    bench.fill(synthetic(20)).await;
    let databases = Database::both(&bench).await;
    let following = databases[1].command(&bench, &["--follow"]).spawn().unwrap();
    databases[0].indexed(&bench, &[]).await;
    wait_for(&databases[1], COUNT, 20).await;
    bench.jetstream.delete_stream(STREAM).await.unwrap();
    assert!(bench.groundling(&["setup"]).output().await.unwrap().status.success());
    // Fewer than before, five of them the same.
    bench.fill(synthetic(25).skip(15)).await;
    wait_for(&databases[1], COUNT, 25).await;
    let ended = terminate(following).await;
    assert!(ended.status.success(), "{}", said(&ended));
    let output = databases[0].index(&bench, &[]).await;
    for output in [&ended, &output] {
        assert!(said(output).contains("was created again at"), "{}", said(output));
    }
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((summary["annotations"].as_u64(), summary["repeats"].as_u64()), (Some(5), Some(5)), "{summary}");
    for database in &databases {
        let streams = database.rows("select count(*), count(distinct created) from ~streams").await;
        assert_eq!((database.number(COUNT).await, &streams[0][..]), (25, &["2".to_owned(), "2".to_owned()][..]));
    }
    // A stream that does not exist is an error, unless it was there before.
    bench.jetstream.delete_stream(STREAM).await.unwrap();
    let output = databases[1].index(&bench, &["--follow"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("run `groundling setup`"), "{}", said(&output));
}
