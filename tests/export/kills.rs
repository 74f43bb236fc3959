//! An export that is killed and started again.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::filled_stream::{TestEnv, files, synthetic};
use crate::support::{Random, stderr_of};

/// Kills exports at random moments until each is done, and compares their files with those of an undisturbed one.
async fn kill_exports(format: &str, annotations: u64, kills: u32) {
    let env = TestEnv::start().await;
    env.fill(synthetic(annotations)).await;
    // A repeat in the same shard and one in another, so that shards are made again.
    env.fill(synthetic(annotations).take(3)).await;
    env.fill(synthetic(annotations).skip(annotations as usize - 2)).await;
    let arguments = ["--format", format, "--shard-size", "300"];
    let started = Instant::now();
    let summary = env.exported("undisturbed", &arguments).await;
    let whole = started.elapsed();
    assert_eq!((summary["annotations"].as_u64(), summary["repeats"].as_u64()), (Some(annotations), Some(5)));
    let expected = files(Path::new(&env.path("undisturbed")));

    let mut random = Random::from_environment();
    let (mut killed, mut exports) = (0, 0);
    while killed < kills {
        let out = format!("killed-{exports}");
        exports += 1;
        loop {
            let mut child = env.export_command(&out, &arguments).stdout(std::process::Stdio::null()).spawn().unwrap();
            let moment = whole.mul_f64(random.fraction() * 1.1);
            match tokio::time::timeout(moment, child.wait()).await {
                Ok(ended) => {
                    assert!(ended.unwrap().success());
                    break;
                }
                Err(_) => {
                    child.kill().await.unwrap();
                    killed += 1;
                }
            }
            if killed % 4 == 3 {
                // Long enough without a kill that every export ends.
                let last = env.export(&out, &arguments).await;
                assert!(last.status.success(), "{} {}", last.status, stderr_of(&last));
                break;
            }
        }
        let found = files(Path::new(&env.path(&out)));
        assert!(found == expected, "{out} differs in {:?}", differing(&found, &expected));
        std::fs::remove_dir_all(env.path(&out)).unwrap();
    }
    println!("{format}: {kills} kills, {exports} exports, each with the files of the undisturbed one");
}

fn differing(
    found: &std::collections::BTreeMap<String, Vec<u8>>,
    expected: &std::collections::BTreeMap<String, Vec<u8>>,
) -> Vec<String> {
    let names = found.keys().chain(expected.keys());
    names.filter(|name| found.get(*name) != expected.get(*name)).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_export_that_goes_on_has_the_files_of_an_undisturbed_one() {
    kill_exports("parquet", 2500, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn two_hundred_kills() {
    kill_exports("parquet", 6000, 100).await;
    kill_exports("coco", 6000, 50).await;
    kill_exports("webdataset", 6000, 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_exports_do_not_write_to_one_directory_at_once() {
    let env = TestEnv::start().await;
    env.fill(synthetic(10)).await;
    let mut first = env.export_command("out", &["--format", "jsonl", "--follow"]).spawn().unwrap();
    let started = Instant::now();
    while !Path::new(&env.path("out/manifest.json")).exists() {
        assert!(started.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let second = env.export("out", &["--format", "jsonl"]).await;
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr_of(&second).contains("is in use by another export"), "{}", stderr_of(&second));
    first.kill().await.unwrap();
    env.exported("out", &["--format", "jsonl"]).await;
}
