//! Manifests and inventories: every row once, from any position on.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use archive::object::{Page, Position, SourceObject};
use archive::source::{Lane, Source};
use bytes::Bytes;
use common::{SyntheticStore, keys, objects, open};
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::basic::Compression as ParquetCompression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

const ROWS: usize = 2500;

fn gzip(text: &str) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap().into()
}

/// As S3 Inventory writes it, compressed with Snappy, in several row groups; each third row is of an old version.
fn inventory_parquet(names: &[String]) -> Bytes {
    let schema = "message s3.inventory {
        required binary bucket (UTF8);
        required binary key (UTF8);
        optional binary version_id (UTF8);
        optional boolean is_latest;
        optional boolean is_delete_marker;
        optional int64 size;
        optional int64 last_modified_date (TIMESTAMP_MILLIS);
        optional binary e_tag (UTF8);
        optional binary storage_class (UTF8);
    }";
    let properties = WriterProperties::builder().set_compression(ParquetCompression::SNAPPY).build();
    let mut writer =
        SerializedFileWriter::new(Vec::new(), Arc::new(parse_message_type(schema).unwrap()), Arc::new(properties))
            .unwrap();
    for names in names.chunks(700) {
        let all = vec![1i16; names.len()];
        let text = |of: &dyn Fn(&String) -> String| -> Vec<ByteArray> {
            names.iter().map(|name| ByteArray::from(of(name).as_str())).collect()
        };
        let mut group = writer.next_row_group().unwrap();
        let mut column = 0;
        while let Some(mut open) = group.next_column().unwrap() {
            match column {
                3 | 4 => {
                    let values: Vec<bool> = (0..names.len()).map(|i| (i % 3 != 0) == (column == 3)).collect();
                    let none = vec![false; names.len()];
                    let values = if column == 3 { &values } else { &none };
                    open.typed::<BoolType>().write_batch(values, Some(&all), None).unwrap();
                }
                5 | 6 => {
                    let value = if column == 5 { 12 } else { 1_795_939_200_000 };
                    open.typed::<Int64Type>().write_batch(&vec![value; names.len()], Some(&all), None).unwrap();
                }
                _ => {
                    let values = match column {
                        0 => text(&|_| "archive".into()),
                        1 => text(&Clone::clone),
                        2 => text(&|name| format!("v-{name}")),
                        7 => text(&|name| format!("e-{name}")),
                        _ => text(&|_| "STANDARD".into()),
                    };
                    let levels = (column > 1).then_some(&all[..]);
                    open.typed::<ByteArrayType>().write_batch(&values, levels, None).unwrap();
                }
            }
            open.close().unwrap();
            column += 1;
        }
        group.close().unwrap();
    }
    writer.into_inner().unwrap().into()
}

fn names(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|i| format!("a b/{i:05}+ä.jpg")).collect()
}

fn encoded(name: &str) -> String {
    name.replace('+', "%2B").replace(' ', "+").replace('ä', "%C3%A4")
}

fn manifest(format: &str, schema: &str, files: &[&str]) -> String {
    let files: Vec<_> = files.iter().map(|key| serde_json::json!({"key": key, "size": 1})).collect();
    serde_json::json!({
        "sourceBucket": "archive", "destinationBucket": "arn:aws:s3:::lists", "fileFormat": format,
        "fileSchema": schema, "files": files,
    })
    .to_string()
}

async fn store() -> SyntheticStore {
    SyntheticStore::start(0, Duration::ZERO).await
}

/// Reads a lane again from the end of each of its pages: nothing is lost or repeated.
async fn check_positions(source: &Source, lane: &Lane, all: &[SourceObject]) {
    let read = async |from: Position| {
        let mut pages = source.pages(lane, from, Default::default());
        let mut read: Vec<Page> = Vec::new();
        while let Some(page) = pages.recv().await {
            read.push(page.unwrap());
        }
        read
    };
    let pages = read(Position::Start).await;
    assert!(pages.len() > 2 && pages.last().unwrap().after == Position::End, "{}", pages.len());
    let mut before = 0;
    for page in &pages[..pages.len() - 1] {
        before += page.objects.len();
        let rest: Vec<_> = read(page.after.clone()).await.into_iter().flat_map(|page| page.objects).collect();
        assert_eq!(rest, all[before..], "after {:?}", page.after);
    }
}

#[tokio::test]
async fn an_inventory_of_csv_parts_leaves_out_delete_markers_and_old_versions() {
    let store = store().await;
    let row = |name: &String, version: &str, latest: &str, deleted: &str| {
        format!("\"archive\",\"{}\",\"{version}\",\"{latest}\",\"{deleted}\",\"12\",\"e-{version}\"\n", encoded(name))
    };
    for (part, names) in [names(0, ROWS), names(ROWS, ROWS + 10)].iter().enumerate() {
        let rows = names.iter().map(|name| {
            row(name, "v2", "true", "false") + &row(name, "v1", "false", "false") + &row(name, "v3", "true", "true")
        });
        store.put(&format!("lists/p/{part}.csv.gz"), gzip(&rows.collect::<String>()));
    }
    let schema = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, ETag";
    store.put("lists/manifest.json", manifest("CSV", schema, &["p/0.csv.gz", "p/1.csv.gz"]));
    let source = open(&store.endpoint, "s3://lists/manifest.json", None).await.unwrap();
    let lanes = source.lanes(16).await.unwrap();
    assert_eq!(lanes, [Lane::Files { first: 0, step: 2 }, Lane::Files { first: 1, step: 2 }]);
    let found = objects(&source, 1).await;
    assert_eq!(keys(&found), names(0, ROWS + 10));
    assert!(found.iter().all(|object| object.bucket == "archive" && object.version.as_deref() == Some("v2")));
    assert!(found.iter().all(|object| object.etag.as_deref() == Some("e-v2") && object.size == Some(12)));
    check_positions(&source, &Lane::Files { first: 0, step: 1 }, &found).await;
}

#[tokio::test]
async fn an_inventory_of_parquet_parts_is_read_from_any_row_on() {
    let store = store().await;
    store.put("lists/p/0.parquet", inventory_parquet(&names(0, ROWS)));
    store.put("lists/p/1.parquet", inventory_parquet(&names(ROWS, 2 * ROWS)));
    store.put("lists/x/manifest.json", manifest("Parquet", "message s3.inventory {}", &["p/0.parquet", "p/1.parquet"]));
    let source = open(&store.endpoint, "s3://lists/x/manifest.json", None).await.unwrap();
    let found = objects(&source, 1).await;
    let is_latest = |i: &usize| !(i % ROWS % 700).is_multiple_of(3);
    let wanted: Vec<_> = names(0, 2 * ROWS).into_iter().enumerate().filter(|(i, _)| is_latest(i)).collect();
    assert_eq!(keys(&found), wanted.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>());
    let first = SourceObject {
        bucket: "archive".into(),
        key: wanted[0].1.clone(),
        size: Some(12),
        etag: Some(format!("e-{}", wanted[0].1)),
        version: Some(format!("v-{}", wanted[0].1)),
        last_modified: Some(1_795_939_200),
    };
    assert_eq!(found[0], first);
    check_positions(&source, &Lane::Files { first: 0, step: 1 }, &found).await;
}

#[tokio::test]
async fn manifests_are_read_in_each_form_from_s3_and_from_a_file() {
    let (store, names) = (store().await, names(0, ROWS));
    let csv =
        format!("KEY,note,Size\n{}", names.iter().map(|name| format!("\"{name}\",\"a\nb\",5\n")).collect::<String>());
    let jsonl =
        names.iter().map(|name| format!("{{\"key\":\"{name}\",\"size\":5,\"tags\":[1]}}\n")).collect::<String>();
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("k.csv", Bytes::from(csv.clone())),
        ("k.csv.gz", gzip(&csv)),
        ("k.jsonl", jsonl.clone().into()),
        ("k.jsonl.gz", gzip(&jsonl)),
        ("k.parquet", inventory_parquet(&names)),
    ] {
        std::fs::write(dir.path().join(name), &bytes).unwrap();
        store.put(&format!("lists/{name}"), bytes);
        for address in [format!("s3://lists/{name}"), dir.path().join(name).display().to_string()] {
            let source = open(&store.endpoint, &address, Some("archive")).await.unwrap();
            assert!(!source.identity().is_empty());
            let found = objects(&source, 16).await;
            assert!(found.iter().all(|object| object.bucket == "archive" && object.size.is_some()), "{address}");
            if name != "k.parquet" {
                assert_eq!(keys(&found), names, "{address}");
            }
            check_positions(&source, &Lane::Files { first: 0, step: 1 }, &found).await;
        }
    }
}

#[tokio::test]
async fn a_csv_file_without_a_header_holds_keys_or_buckets_and_keys() {
    let dir = tempfile::tempdir().unwrap();
    let read = async |text: &str| {
        let path = dir.path().join("k.csv");
        std::fs::write(&path, text).unwrap();
        let source = open("http://127.0.0.1:9", path.to_str().unwrap(), None).await.unwrap();
        let mut pages = source.pages(&Lane::Files { first: 0, step: 1 }, Position::Start, Default::default());
        let page = pages.recv().await.unwrap();
        page.map(|page| page.objects.into_iter().map(|o| (o.bucket, o.key, o.version)).collect::<Vec<_>>())
    };
    let object = |bucket: &str, key: &str, version: Option<&str>| {
        (bucket.to_owned(), key.to_owned(), version.map(str::to_owned))
    };
    assert_eq!(
        read("s3://b/x.jpg\ns3://c/y.jpg\n").await.unwrap(),
        [object("b", "x.jpg", None), object("c", "y.jpg", None)]
    );
    assert_eq!(read("b,x.jpg\n").await.unwrap(), [object("b", "x.jpg", None)]);
    assert_eq!(read("b,x.jpg,7\n").await.unwrap(), [object("b", "x.jpg", Some("7"))]);
    assert_eq!(read("").await.unwrap(), []);
    let problem = read("x.jpg\n").await.unwrap_err().to_string();
    assert!(problem.contains("k.csv, row 1: it has no bucket"), "{problem}");
    let problem = read("1,2,3,4\n").await.unwrap_err().to_string();
    assert!(problem.contains("no header"), "{problem}");
    for (text, part) in [
        ("Bucket,Object Key,ETag\nb,x.jpg,e\n", "a header with \"Bucket\" and without \"key\""),
        ("bucket,name\nb,x.jpg\n", "a header with \"bucket\" and without \"key\""),
        ("ETag\nx.jpg\n", "a header with \"ETag\" and without \"key\""),
        ("my pictures,x.jpg\n", "\"my pictures\" in its first row cannot be a bucket"),
        ("2024/x.jpg,12\n", "\"2024/x.jpg\" in its first row cannot be a bucket"),
    ] {
        let problem = read(text).await.unwrap_err().to_string();
        assert!(problem.contains("k.csv cannot be read: ") && problem.contains(part), "{problem}");
    }
}

#[tokio::test]
async fn a_local_file_that_was_changed_has_another_identity() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("k.csv");
    let identity = async |text: &str| {
        std::fs::write(&path, text).unwrap();
        open("http://127.0.0.1:9", path.to_str().unwrap(), None).await.unwrap().identity().to_owned()
    };
    let first = identity("b,x.jpg\n").await;
    assert_ne!(first, identity("b,y.jpg\n").await, "of the same size");
    assert_eq!(first, identity("b,x.jpg\n").await);
}

#[tokio::test]
async fn the_files_of_an_inventory_are_compared_with_their_md5() {
    let store = store().await;
    let file = gzip(&names(0, 10).iter().map(|name| format!("archive,{}\n", encoded(name))).collect::<String>());
    let md5 = hex::encode(<md5::Md5 as md5::Digest>::digest(&file));
    store.put("lists/p/0.csv.gz", file);
    let parquet = inventory_parquet(&names(0, 10));
    let parquet_md5 = hex::encode(<md5::Md5 as md5::Digest>::digest(&parquet));
    store.put("lists/p/0.parquet", parquet);
    let other = "0".repeat(32);
    for (format, schema, key, md5, is_right) in [
        ("CSV", "Bucket, Key", "p/0.csv.gz", &md5, true),
        ("CSV", "Bucket, Key", "p/0.csv.gz", &other, false),
        ("Parquet", "message s3.inventory {}", "p/0.parquet", &parquet_md5, true),
        ("Parquet", "message s3.inventory {}", "p/0.parquet", &other, false),
    ] {
        let manifest = serde_json::json!({
            "sourceBucket": "archive", "destinationBucket": "arn:aws:s3:::lists", "fileFormat": format,
            "fileSchema": schema, "files": [{"key": key, "size": 1, "MD5checksum": md5}],
        });
        store.put("lists/manifest.json", manifest.to_string());
        let source = open(&store.endpoint, "s3://lists/manifest.json", None).await.unwrap();
        let mut pages = source.pages(&Lane::Files { first: 0, step: 1 }, Position::Start, Default::default());
        let first = pages.recv().await.unwrap();
        match is_right {
            true => assert!(!first.unwrap().objects.is_empty()),
            false => {
                let error = first.unwrap_err().to_string();
                assert!(error.contains(key) && error.contains("its MD5 is "), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_named() {
    let store = store().await;
    store.put("lists/o/manifest.json", manifest("ORC", "", &[]));
    let error = open(&store.endpoint, "s3://lists/o/manifest.json", None).await.unwrap_err().to_string();
    assert!(
        error.starts_with("s3://lists/o/manifest.json cannot be read: ORC inventories are not supported"),
        "{error}"
    );
    let error = open(&store.endpoint, "s3://lists/none.csv", None).await.unwrap_err().to_string();
    assert!(error.starts_with("s3://lists/none.csv cannot be read: there is no such object"), "{error}");
    store.put("lists/bad.jsonl", "{\"key\":\"a\"}\n{\"key\":\n");
    let source = open(&store.endpoint, "s3://lists/bad.jsonl", Some("b")).await.unwrap();
    let mut pages = source.pages(&Lane::Files { first: 0, step: 1 }, Position::Start, Default::default());
    let error = pages.recv().await.unwrap().unwrap_err().to_string();
    assert!(error.starts_with("s3://lists/bad.jsonl, row 2 cannot be read: ") && !error.contains("line"), "{error}");
}
