//! Indexes that follow the stream.

use std::time::{Duration, Instant};

use super::databases::{Database, terminate};
use crate::filled_stream::{STREAM, TestEnv, synthetic};
use crate::support::{DEADLINE, Random, stderr_of};

/// Waits until a query returns a number.
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
    let env = TestEnv::start().await;
    env.fill(synthetic(500)).await;
    let mut database = Database::postgres().await;
    let child = database.command(&env, &["--follow"]).spawn().unwrap();
    wait_for(&database, COUNT, 500).await;
    let mut random = Random::from_environment();
    let mut filled = 500;
    for restart in 0..4 {
        env.fill(synthetic(filled + 1000).skip(filled as usize)).await;
        filled += 1000;
        tokio::time::sleep(Duration::from_secs(2).mul_f64(random.fraction())).await;
        let Database::Postgres(server) = &mut database else { panic!("PostgreSQL") };
        // The answers to commits are lost as well.
        if restart % 2 == 0 {
            server.kill();
        }
        server.restart().await.unwrap();
    }
    wait_for(&database, COUNT, filled).await;
    let ended = terminate(child).await;
    assert!(ended.status.success(), "{} {}", ended.status, stderr_of(&ended));
    assert!(stderr_of(&ended).contains("will go on from the cursor"), "{}", stderr_of(&ended));
    assert_eq!(database.number("select count(*) from ~results").await, 3 * filled);
    let whole = database.contents().await;
    let again = Database::sqlite(&env, "again.db");
    again.indexed(&env, &[]).await;
    assert!(whole == again.contents().await, "other rows than without restarts");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_follows_commits_what_it_has_and_ends_when_told_to() {
    let env = TestEnv::start().await;
    let mut other = synthetic(40).skip(30);
    for database in Database::both(&env).await {
        let child = database.command(&env, &["--follow", "--dataset", "scenes"]).spawn().unwrap();
        env.fill(synthetic(30)).await;
        wait_for(&database, COUNT, 30).await;
        // Another dataset moves the end of the stream.
        let mut last = other.next().unwrap();
        last.dataset = "other".into();
        let sequence = env.publish(&last, "").await;
        let ended = terminate(child).await;
        assert!(ended.status.success(), "{}", stderr_of(&ended));
        let summary: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
        assert_eq!(summary["annotations"], 30, "{summary}");
        let cursor = database.number("select sequence from ~cursors").await;
        assert!((30..=sequence).contains(&cursor), "{cursor}");
        env.jetstream.get_stream(STREAM).await.unwrap().purge().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_created_again_is_read_from_its_beginning() {
    let env = TestEnv::start().await;
    env.fill(synthetic(20)).await;
    let databases = Database::both(&env).await;
    let following = databases[1].command(&env, &["--follow"]).spawn().unwrap();
    databases[0].indexed(&env, &[]).await;
    wait_for(&databases[1], COUNT, 20).await;
    env.jetstream.delete_stream(STREAM).await.unwrap();
    assert!(env.groundling(&["setup"]).output().await.unwrap().status.success());
    // Fewer than before, five of them the same.
    env.fill(synthetic(25).skip(15)).await;
    wait_for(&databases[1], COUNT, 25).await;
    let ended = terminate(following).await;
    assert!(ended.status.success(), "{}", stderr_of(&ended));
    let output = databases[0].index(&env, &[]).await;
    for output in [&ended, &output] {
        assert!(stderr_of(output).contains("was created again at"), "{}", stderr_of(output));
    }
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((summary["annotations"].as_u64(), summary["repeats"].as_u64()), (Some(5), Some(5)), "{summary}");
    for database in &databases {
        let streams = database.rows("select count(*), count(distinct created) from ~streams").await;
        assert_eq!((database.number(COUNT).await, &streams[0][..]), (25, &["2".to_owned(), "2".to_owned()][..]));
    }
    // A stream that does not exist is an error, unless it was there before.
    env.jetstream.delete_stream(STREAM).await.unwrap();
    let output = databases[1].index(&env, &["--follow"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr_of(&output).contains("run `groundling setup`"), "{}", stderr_of(&output));
}
