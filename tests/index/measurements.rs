//! Rate and memory, to be run with `--ignored --nocapture`.

use std::time::Instant;

use super::databases::Database;
use crate::filled_stream::{TestEnv, synthetic};
use crate::measurements::{bare_rate, most_memory};
use crate::support::stderr_of;

async fn measure(count: u64) {
    let env = TestEnv::start().await;
    env.fill(synthetic(count)).await;
    for database in Database::both(&env).await {
        let bare = bare_rate(&env).await;
        let started = Instant::now();
        let child = database.command(&env, &[]).spawn().unwrap();
        let memory = tokio::spawn(most_memory(child.id().unwrap()));
        let output = child.wait_with_output().await.unwrap();
        assert!(output.status.success(), "{}", stderr_of(&output));
        let seconds = started.elapsed().as_secs_f64();
        let mut rows = 0;
        for table in ["annotations", "results", "entities", "boxes"] {
            rows += database.number(&format!("select count(*) from ~{table}")).await;
        }
        println!(
            "{}: {count} annotations, {rows} rows in {seconds:.1} s: {:.0} annotations/s, {:.0} rows/s, {:.0} % of reading alone ({bare:.0}/s), {:.0} MB",
            database.address(),
            count as f64 / seconds,
            rows as f64 / seconds,
            100.0 * count as f64 / seconds / bare,
            memory.await.unwrap()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn rate_and_memory_of_twenty_thousand() {
    measure(20_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn rate_and_memory_of_one_hundred_thousand() {
    measure(100_000).await;
}
