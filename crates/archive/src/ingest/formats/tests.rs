//! The messages of each sender, as its documentation has them, and what was recorded of SeaweedFS.

use std::path::{Path, PathBuf};

use telemetry::ingest_attributes::IngestReason;

use super::*;
use crate::ingest::record::{ObjectRecord, decode_key};
use crate::ingest::settings::KeyEncoding;

const ETAG: &str = "d41d8cd98f00b204e9800998ecf84272";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/events").join(name)
}

fn decoded(format: Format, name: &str) -> Result<Decoded, DecodeError> {
    decode(format, &EventHeaders::default(), &std::fs::read(fixture(&format!("{name}.json"))).unwrap())
}

/// What matters of a record, in one line: event, bucket and decoded key, size, ETag, version; or the reason.
fn line(record: &Record) -> String {
    match record {
        Record::Other { reason, .. } => reason.as_str().to_owned(),
        Record::Object(object) => {
            let ObjectRecord { event, bucket, size, etag, version, is_key_encoded, .. } = object;
            let encoding = if *is_key_encoded { KeyEncoding::Form } else { KeyEncoding::Raw };
            let key = decode_key(&object.key, encoding).unwrap();
            let of = |text: &Option<String>| text.clone().unwrap_or("-".to_owned()).replace(ETAG, "ETAG");
            let size = size.map_or("-".to_owned(), |size| size.to_string());
            format!("{event} {bucket}/{key} {size} {} {}", of(etag), of(version))
        }
    }
}

fn lines(format: Format, name: &str) -> Vec<String> {
    decoded(format, name).unwrap_or_else(|error| panic!("{name}: {error}")).records.iter().map(line).collect()
}

#[test]
fn each_senders_messages_are_read_alike_by_their_format_and_by_recognition() {
    let cases: [(Format, &str, &[&str]); 24] = [
        (Format::S3, "aws-put-2.1", &["ObjectCreated:Put pictures/2026/a b+c#%.jpg 1024 ETAG 3HL4kqtJlcpXroDTDmJ"]),
        (
            Format::S3,
            "aws-multipart-2.2-copy-2.3",
            &[
                "ObjectCreated:CompleteMultipartUpload pictures/größe.jpg 6012345 ef019a8d35915c7f882bc8d4f199ea22-2 -",
                "ObjectCreated:Copy pictures/copy.jpg 10 ETAG -",
            ],
        ),
        (Format::S3, "aws-restore-2.6", &["ObjectRestore:Completed pictures/old.jpg 10 ETAG -"]),
        (Format::S3, "aws-delete-marker-2.1", &["ObjectRemoved:DeleteMarkerCreated pictures/gone.jpg - ETAG v2"]),
        (Format::S3, "aws-test-event", &["test_event"]),
        (Format::S3, "aws-sns-notification", &["ObjectCreated:Put pictures/sns.jpg 10 ETAG -"]),
        (Format::S3, "aws-sns-confirmation", &["confirmation"]),
        (Format::S3, "aws-sqs-pipes", &["ObjectCreated:Put pictures/in/a b.jpg 10 ETAG -"]),
        (
            Format::S3,
            "aws-sqs-pipes-batch",
            &[
                "ObjectCreated:Put pictures/sns.jpg 10 ETAG -",
                "unreadable",
                "ObjectCreated:Put pictures/two.jpg 10 ETAG -",
            ],
        ),
        (Format::S3, "aws-sqs-lambda", &["ObjectCreated:Put pictures/one.jpg 10 ETAG -", "test_event"]),
        (
            Format::EventBridge,
            "aws-sqs-eventbridge",
            &["ObjectCreated:Put pictures/a+b %20#ö.jpg 5 ETAG IYV3p45BT0ac8hjHg1houSdS1a.Mro8e"],
        ),
        (Format::S3, "minio-put", &["ObjectCreated:Put pictures/in/a b+c#%.jpg 10 ETAG -"]),
        (Format::S3, "minio-versioned-delete", &["ObjectRemoved:DeleteMarkerCreated pictures/a.jpg 0 ETAG 4f1b"]),
        (Format::S3, "rustfs-put", &["ObjectCreated:Put pictures/a.jpg 10 ETAG -"]),
        (Format::S3, "ceph-put", &["ObjectCreated:Put pictures/a+b %20#ö.jpg 1024 ETAG -"]),
        (Format::S3, "ceph-multipart-begun", &["ObjectCreated:Post pictures/a+b %20#ö.jpg 0 - -"]),
        (
            Format::EventBridge,
            "eventbridge-created",
            &["ObjectCreated:Put pictures/a+b %20#ö.jpg 5 ETAG IYV3p45BT0ac8hjHg1houSdS1a.Mro8e"],
        ),
        (
            Format::EventBridge,
            "eventbridge-deleted",
            &["ObjectRemoved:Delete pictures/a+b %20#ö.jpg 5 ETAG IYV3p45BT0ac8hjHg1houSdS1a.Mro8e"],
        ),
        (Format::EventBridge, "eventbridge-tags", &["event_name"]),
        (Format::CloudEvents, "cloudevents-structured", &["ObjectCreated:Put pictures/a b.jpg 10 ETAG -"]),
        (
            Format::CloudEvents,
            "cloudevents-eventbridge-detail",
            &["ObjectCreated:Put pictures/a+b %20#ö.jpg 5 ETAG IYV3p45BT0ac8hjHg1houSdS1a.Mro8e"],
        ),
        (Format::CloudEvents, "cloudevents-base64", &["ObjectCreated:Put pictures/b64.jpg 10 ETAG -"]),
        (
            Format::CloudEvents,
            "cloudevents-batch",
            &[
                "ObjectCreated:Put pictures/one.jpg 10 ETAG -",
                "unreadable",
                "ObjectCreated:Put pictures/two.jpg 10 ETAG -",
            ],
        ),
        // It does not encode keys, which nothing in the message tells: its rule says so.
        (Format::S3, "versitygw-put", &["ObjectCreated:Put pictures/a b c#.jpg 10 ETAG -"]),
    ];
    let mut files = 0;
    for (format, name, expected) in cases {
        assert_eq!(lines(format, name), expected, "{name}");
        assert_eq!(lines(Format::Auto, name), expected, "{name}, recognized");
        files += 1;
    }
    let all = std::fs::read_dir(fixture(""))
        .unwrap()
        .filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|end| end == "json"));
    assert_eq!(all.count(), files, "every fixture is a case");
}

#[test]
fn attributes_of_a_cloud_event_may_be_in_headers_of_any_case() {
    let body = std::fs::read(fixture("ceph-put.json")).unwrap();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = EventHeaders::new([("Ce-Specversion", "1.0"), ("ce-type", "x"), ("Traceparent", parent)]);
    for format in [Format::CloudEvents, Format::Auto] {
        let decoded = decode(format, &headers, &body).unwrap();
        assert_eq!(decoded.records.len(), 1);
        assert_eq!(decoded.trace, Some((parent.to_owned(), None)));
    }
    let old = EventHeaders::new([("ce-specversion", "0.3")]);
    assert!(decode(Format::Auto, &old, &body).unwrap_err().to_string().contains("\"0.3\""));
    let structured = decoded(Format::Auto, "cloudevents-structured").unwrap();
    assert_eq!(structured.trace, Some((parent.to_owned(), None)));
}

#[test]
fn each_change_that_seaweedfs_reports_is_a_new_object_or_has_its_reason() {
    let recorded = std::fs::read_to_string(fixture("seaweedfs-4.48.jsonl")).unwrap();
    let found: Vec<_> = recorded
        .lines()
        .map(|message| {
            let read = |format| decode(format, &EventHeaders::default(), message.as_bytes()).unwrap();
            let [record] = &read(Format::SeaweedFs).records[..] else { panic!("{message}") };
            assert_eq!(read(Format::Auto).records, std::slice::from_ref(record));
            line(record)
        })
        .collect();
    let multipart = "ObjectCreated:CompleteMultipartUpload imgs/multi.jpg 6012345 ef019a8d35915c7f882bc8d4f199ea22-2 -";
    let etag = "536614a9d83993b19e49dffb73ec9232";
    let version = |id: &str| format!("ObjectCreated:Put imgs/v.jpg 12345 {etag} {id}");
    assert_eq!(
        found,
        [
            "upload_part",
            "upload_part",
            "upload_part",
            "upload_part",
            multipart,
            &multipart.replace("multi.jpg", "copied.jpg"),
            "directory",
            &version("6713b08513d6fdc5b620426fb38d7e51"),
            "directory",
            &version("6713b08512e890e47d82414d826efac1"),
            "directory",
            "metadata",
        ]
    );
}

#[test]
fn a_seaweedfs_message_without_an_object_has_its_reason() {
    let message = |event: &str, key: &str, message: serde_json::Value| {
        let body = serde_json::json!({"event_type": event, "key": key, "message": message}).to_string();
        let decoded = decode(Format::Auto, &EventHeaders::default(), body.as_bytes()).unwrap();
        line(&decoded.records[0])
    };
    let file = |name: &str| serde_json::json!({"name": name, "attributes": {"file_size": 3, "md5": "1B2M2Y8AsgTpgAmY7PhCfg=="}});
    let there = serde_json::json!({"new_entry": file("a b#+%23.jpg"), "new_parent_path": "/buckets/imgs/x"});
    let plain = "ObjectCreated:Put imgs/x/a b#+%23.jpg 3 d41d8cd98f00b204e9800998ecf8427e -";
    assert_eq!(message("create", "/buckets/imgs/x/a b#+%23.jpg", there.clone()), plain);
    assert_eq!(message("delete", "/buckets/imgs/a", serde_json::json!({"old_entry": file("a")})), "delete");
    for (parent, name) in
        [("/etc", "a"), ("/buckets", "imgs"), ("/buckets/", "imgs"), ("/buckets//imgs", "a"), ("/buckets//", "a")]
    {
        let there = serde_json::json!({"new_entry": file(name), "new_parent_path": parent});
        assert_eq!(message("create", "/buckets/imgs/a", there), "outside", "{parent}");
    }
    assert_eq!(message("create", "/buckets/imgs/", serde_json::json!({"new_entry": file("")})), "outside");
    let renamed = serde_json::json!({"old_entry": file("old"), "new_entry": file("a b#+%23.jpg"), "new_parent_path": "/buckets/imgs/x"});
    assert_eq!(message("rename", "/buckets/imgs/old", renamed), plain);
    let mut marker = file("v_1");
    marker["extended"] =
        serde_json::json!({"Seaweed-X-Amz-Delete-Marker": "dHJ1ZQ==", "Seaweed-X-Amz-Version-Id": "MQ=="});
    let marker = serde_json::json!({"new_entry": marker, "new_parent_path": "/buckets/imgs/a.jpg.versions"});
    assert_eq!(message("create", "/buckets/imgs/a.jpg.versions/v_1", marker), "delete");
    let mut version = file("v_1");
    version["extended"] = serde_json::json!({"Seaweed-X-Amz-Version-Id": "MQ=="});
    let version = serde_json::json!({"new_entry": version, "new_parent_path": "/buckets/imgs/.versions"});
    let whole = "ObjectCreated:Put imgs/.versions/v_1 3 d41d8cd98f00b204e9800998ecf8427e 1";
    assert_eq!(message("create", "/buckets/imgs/.versions/v_1", version), whole);
}

#[test]
fn a_body_of_sqs_may_have_been_parsed_and_taken_out_by_an_input_template() {
    let event: serde_json::Value = serde_json::from_slice(&std::fs::read(fixture("minio-put.json")).unwrap()).unwrap();
    for body in [
        serde_json::json!({"eventSource": "aws:sqs", "body": event}),
        serde_json::json!([{"eventSource": "aws:sqs", "body": event}]),
        serde_json::json!([event]),
    ] {
        let decoded = decode(Format::Auto, &EventHeaders::default(), body.to_string().as_bytes()).unwrap();
        let found: Vec<_> = decoded.records.iter().map(line).collect();
        assert_eq!(found, ["ObjectCreated:Put pictures/in/a b+c#%.jpg 10 ETAG -"], "{body}");
    }
}

#[test]
fn what_is_no_event_is_refused_with_what_is_missing() {
    let refused =
        |format, body: &str| decode(format, &EventHeaders::default(), body.as_bytes()).unwrap_err().to_string();
    assert!(refused(Format::Auto, "no json").contains("not JSON"));
    for body in ["{}", "[]", "7", "null", "{\"Record\": []}"] {
        assert!(refused(Format::Auto, body).contains("format is not recognized"), "{body}");
    }
    assert_eq!(refused(Format::S3, "{}"), "Records is missing");
    assert_eq!(refused(Format::S3, "{\"Records\": 7}"), "Records is not a list");
    assert_eq!(refused(Format::EventBridge, "{\"detail-type\": \"Object Created\"}"), "detail is missing");
    assert_eq!(refused(Format::SeaweedFs, "{\"event_type\": \"create\"}"), "key is missing");
    assert!(refused(Format::CloudEvents, "{}").contains("specversion"));
    let sns =
        |message: &str| serde_json::json!({"Type": "Notification", "TopicArn": "t", "Message": message}).to_string();
    assert!(refused(Format::Auto, &sns("x")).contains("not JSON"));
    assert!(refused(Format::Auto, &sns(&sns(&sns("{}")))).contains("contains another one"));
    let sqs = |body: &str| serde_json::json!({"eventSource": "aws:sqs", "body": body}).to_string();
    assert!(refused(Format::Auto, &sqs("x")).contains("body of the SQS message is not JSON"));
    assert_eq!(refused(Format::S3, "{\"eventSource\": \"aws:sqs\"}"), "body is missing");
    for (nested, problem) in [
        (sqs(&sqs("{}")), "a message of SQS contains another one"),
        (sns(&sqs("{}")), "a message of SNS contains a message of SQS"),
        (sqs(&format!("[{}]", sqs("{}"))), "a message of SQS contains a list"),
        ("[[{}]]".to_owned(), "a list contains another one"),
    ] {
        for format in [Format::Auto, Format::S3, Format::EventBridge] {
            assert_eq!(refused(format, &nested), problem, "{nested}");
        }
    }
    let records = "{\"Records\": [{\"eventName\": \"ObjectCreated:Put\", \"s3\": {\"object\": {\"key\": \"a\"}}}, 7]}";
    let decoded = decode(Format::S3, &EventHeaders::default(), records.as_bytes()).unwrap();
    assert!(decoded.records.iter().all(|record| line(record) == IngestReason::Unreadable.as_str()));
}
