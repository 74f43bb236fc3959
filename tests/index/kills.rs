//! An index that is killed and started again.

use std::time::Instant;

use super::databases::Database;
use crate::filled_stream::{Bench, said, synthetic};
use crate::kills::fraction;

/// Kills `groundling index` at random moments until it is done, as often as needed.
async fn kill(bench: &Bench, database: &Database, annotations: u64, kills: u32) {
    let started = Instant::now();
    let summary = database.indexed(bench, &[]).await;
    let whole = started.elapsed();
    assert_eq!((summary["annotations"].as_u64(), summary["repeats"].as_u64()), (Some(annotations), Some(5)));
    let expected = database.contents().await;
    let seed = format!("{:?}", std::time::SystemTime::now());
    let (mut killed, mut moments, mut passes) = (0, 0, 0);
    while killed < kills {
        database.clear().await;
        passes += 1;
        loop {
            let mut child = database.command(bench, &[]).spawn().unwrap();
            moments += 1;
            // Runs that continue are shorter, and the start takes a part of the time.
            let moment = whole.mul_f64(fraction(&seed, moments));
            match tokio::time::timeout(moment, child.wait()).await {
                Ok(ended) => {
                    assert!(ended.unwrap().success(), "seed {seed}");
                    break;
                }
                Err(_) => {
                    child.kill().await.unwrap();
                    killed += 1;
                    is_consistent(database, annotations, &seed).await;
                }
            }
            if killed % 4 == 3 {
                let last = database.index(bench, &[]).await;
                assert!(last.status.success(), "seed {seed}: {}", said(&last));
                break;
            }
        }
        assert!(database.contents().await == expected, "seed {seed}: other rows than without kills");
    }
    println!(
        "{}: {kills} kills, {passes} databases with the rows of the undisturbed one; seed {seed}",
        database.address()
    );
}

/// All annotations up to the cursor are there, and none after it.
async fn is_consistent(database: &Database, annotations: u64, seed: &str) {
    let sql = "select (select coalesce(max(sequence), 0) from ~cursors), (select count(*) from ~annotations),
        (select count(distinct annotation_id) from ~annotations), (select count(*) from ~results)";
    // The tables may not be there yet.
    let Ok(rows) = database.try_rows(sql).await else { return };
    let [cursor, all, distinct, results] = [0, 1, 2, 3].map(|column| rows[0][column].parse::<u64>().unwrap());
    assert_eq!((all, distinct, results), (cursor.min(annotations), all, 3 * all), "seed {seed}");
}

async fn kill_both(annotations: u64, kills: u32) {
    let bench = Bench::start().await;
    bench.fill(synthetic(annotations)).await;
    // Repeats in the same batch and in another one.
    bench.fill(synthetic(annotations).take(3)).await;
    bench.fill(synthetic(annotations).skip(annotations as usize - 2)).await;
    for database in Database::both(&bench).await {
        kill(&bench, &database, annotations, kills).await;
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
    let bench = Bench::start().await;
    bench.fill(synthetic(1500)).await;
    for database in Database::both(&bench).await {
        let (first, second, third) = tokio::join!(
            database.index(&bench, &[]),
            database.index(&bench, &[]),
            database.index(&bench, &["--dataset", "scenes"])
        );
        for output in [first, second, third] {
            assert!(output.status.success(), "{}", said(&output));
        }
        assert_eq!(database.number("select count(*) from ~annotations").await, 1500);
        assert_eq!(database.number("select count(*) from ~results").await, 4500);
        assert_eq!(database.number("select min(sequence) from ~cursors").await, 1500);
    }
}
