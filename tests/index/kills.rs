//! An index that is killed and started again.

use std::time::Instant;

use super::databases::Database;
use crate::filled_stream::{TestEnv, synthetic};
use crate::support::{Random, stderr_of};

/// Kills `groundling index` at random moments until it is done, as often as needed.
async fn kill_indexes(env: &TestEnv, database: &Database, annotations: u64, kills: u32) {
    let started = Instant::now();
    let summary = database.indexed(env, &[]).await;
    let whole = started.elapsed();
    assert_eq!((summary["annotations"].as_u64(), summary["repeats"].as_u64()), (Some(annotations), Some(5)));
    let expected = database.contents().await;
    let mut random = Random::from_environment();
    let (mut killed, mut checked, mut passes) = (0, 0, 0);
    while killed < kills {
        database.clear().await;
        passes += 1;
        loop {
            let mut child = database.command(env, &[]).spawn().unwrap();
            // Runs that continue are shorter, and the start takes a part of the time.
            let moment = whole.mul_f64(random.fraction());
            match tokio::time::timeout(moment, child.wait()).await {
                Ok(ended) => {
                    assert!(ended.unwrap().success());
                    break;
                }
                Err(_) => {
                    child.kill().await.unwrap();
                    killed += 1;
                    checked += u32::from(assert_consistent(database, annotations).await);
                }
            }
            if killed % 4 == 3 {
                let last = database.index(env, &[]).await;
                assert!(last.status.success(), "{}", stderr_of(&last));
                break;
            }
        }
        assert!(database.contents().await == expected, "other rows than without kills");
    }
    assert!(checked > 0, "every kill came before the tables were created, so the test shows nothing");
    println!(
        "{}: {kills} kills, {checked} checks after them, {passes} databases with the rows of the undisturbed one",
        database.address()
    );
}

/// Asserts that all annotations up to the cursor are there, and none after it. Returns whether there was something to
/// check: a run may be killed before it has created the tables.
async fn assert_consistent(database: &Database, annotations: u64) -> bool {
    let sql = "select (select coalesce(max(sequence), 0) from ~cursors), (select count(*) from ~annotations),
        (select count(distinct annotation_id) from ~annotations), (select count(*) from ~results)";
    let rows = match database.try_rows(sql).await {
        Ok(rows) => rows,
        Err(error) => {
            // PostgreSQL says of a column too that it "does not exist", but names only tables relations.
            let is_missing_table = match database {
                Database::Postgres(_) => error.contains("relation ") && error.contains("does not exist"),
                Database::Sqlite(_) => error.contains("no such table") || error.contains("unable to open"),
            };
            assert!(is_missing_table, "{error}");
            return false;
        }
    };
    let [cursor, all, distinct, results] = [0, 1, 2, 3].map(|column| rows[0][column].parse::<u64>().unwrap());
    assert_eq!((all, distinct, results), (cursor.min(annotations), all, 3 * all));
    true
}

async fn kill_both(annotations: u64, kills: u32) {
    let env = TestEnv::start().await;
    env.fill(synthetic(annotations)).await;
    // Repeats in the same batch and in another one.
    env.fill(synthetic(annotations).take(3)).await;
    env.fill(synthetic(annotations).skip(annotations as usize - 2)).await;
    for database in Database::both(&env).await {
        kill_indexes(&env, &database, annotations, kills).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_index_that_goes_on_has_no_row_twice_and_none_missing() {
    kill_both(2500, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn two_hundred_kills() {
    kill_both(6000, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_index_at_once_repeat_nothing() {
    let env = TestEnv::start().await;
    env.fill(synthetic(1500)).await;
    for database in Database::both(&env).await {
        let (first, second, third) = tokio::join!(
            database.index(&env, &[]),
            database.index(&env, &[]),
            database.index(&env, &["--dataset", "scenes"])
        );
        for output in [first, second, third] {
            assert!(output.status.success(), "{}", stderr_of(&output));
        }
        assert_eq!(database.number("select count(*) from ~annotations").await, 1500);
        assert_eq!(database.number("select count(*) from ~results").await, 4500);
        assert_eq!(database.number("select min(sequence) from ~cursors").await, 1500);
    }
}
