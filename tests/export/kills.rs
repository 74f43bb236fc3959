//! An export that is killed and started again.

use std::path::Path;
use std::time::{Duration, Instant};

use wire::identity::sha256_hex;

use crate::filled_stream::{Bench, files, said, synthetic};

/// Kills exports at random moments until each is done, and compares their files with those of an undisturbed one.
async fn kill(format: &str, annotations: u64, kills: u32) {
    let bench = Bench::start().await;
    bench.fill(synthetic(annotations)).await;
    // A repeat in the same shard and one in another, so that shards are made again.
    bench.fill(synthetic(annotations).take(3)).await;
    bench.fill(synthetic(annotations).skip(annotations as usize - 2)).await;
    let arguments = ["--format", format, "--shard-size", "300"];
    let started = Instant::now();
    let summary = bench.exported("undisturbed", &arguments).await;
    let whole = started.elapsed();
    assert_eq!((summary["annotations"].as_u64(), summary["repeats"].as_u64()), (Some(annotations), Some(5)));
    let expected = files(Path::new(&bench.path("undisturbed")));

    let seed = format!("{:?}", std::time::SystemTime::now());
    let (mut killed, mut exports, mut moments) = (0, 0, 0);
    while killed < kills {
        let out = format!("killed-{exports}");
        exports += 1;
        loop {
            let mut child = bench.export_command(&out, &arguments).stdout(std::process::Stdio::null()).spawn().unwrap();
            moments += 1;
            let moment = whole.mul_f64(fraction(&seed, moments) * 1.1);
            match tokio::time::timeout(moment, child.wait()).await {
                Ok(ended) => {
                    assert!(ended.unwrap().success(), "seed {seed}");
                    break;
                }
                Err(_) => {
                    child.kill().await.unwrap();
                    killed += 1;
                }
            }
            if killed % 4 == 3 {
                // Long enough without a kill that every export ends.
                let last = bench.export(&out, &arguments).await;
                assert!(last.status.success(), "seed {seed}: {} {}", last.status, said(&last));
                break;
            }
        }
        let found = files(Path::new(&bench.path(&out)));
        assert!(found == expected, "seed {seed}: {out} differs in {:?}", differing(&found, &expected));
        std::fs::remove_dir_all(bench.path(&out)).unwrap();
    }
    println!("{format}: {kills} kills, {exports} exports, each with the files of the undisturbed one; seed {seed}");
}

/// A number from 0 to 1.
pub(crate) fn fraction(seed: &str, number: u32) -> f64 {
    let digest = sha256_hex(format!("{seed} {number}").as_bytes());
    u64::from_str_radix(&digest[..8], 16).unwrap() as f64 / f64::from(u32::MAX)
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
    kill("parquet", 2500, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn two_hundred_kills() {
    kill("parquet", 6000, 100).await;
    kill("coco", 6000, 50).await;
    kill("webdataset", 6000, 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_exports_do_not_write_to_one_directory_at_once() {
    let bench = Bench::start().await;
    bench.fill(synthetic(10)).await;
    let mut first = bench.export_command("out", &["--format", "jsonl", "--follow"]).spawn().unwrap();
    let started = Instant::now();
    while !Path::new(&bench.path("out/manifest.json")).exists() {
        assert!(started.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let second = bench.export("out", &["--format", "jsonl"]).await;
    assert_eq!(second.status.code(), Some(1));
    assert!(said(&second).contains("is in use by another export"), "{}", said(&second));
    first.kill().await.unwrap();
    bench.exported("out", &["--format", "jsonl"]).await;
}
