//! Decodes messages of object stores, and applies a rule to their records.
#![no_main]

use archive::ingest::EventHeaders;
use archive::ingest::formats::decode;
use archive::ingest::record::Record;
use archive::ingest::rule::{Rule, Selected};
use archive::ingest::settings::{Format, IngestRule, KeyEncoding};
use libfuzzer_sys::fuzz_target;
use wire::v1::{self, image_job, task};

const FORMATS: [Format; 5] = [Format::Auto, Format::S3, Format::CloudEvents, Format::EventBridge, Format::SeaweedFs];

fn rule(key_encoding: Option<KeyEncoding>) -> Rule {
    let settings = IngestRule {
        name: "fuzz".into(),
        path: Some("/fuzz".into()),
        key_encoding,
        prefix: "p".into(),
        suffixes: vec![".JPG".into(), "g".into()],
        events: vec!["*".into()],
        dataset: "fuzz".into(),
        max_size: Some(1000),
        ..IngestRule::default()
    };
    let kind = Some(task::Kind::BriefCaption(v1::BriefCaption {}));
    Rule::new(&settings, vec![v1::Task { task_id: "brief".into(), kind }]).expect("the rule is valid")
}

// The first byte selects the format, and whether the message has the headers of a CloudEvent; the rest is the message.
fuzz_target!(|bytes: &[u8]| {
    let Some((first, body)) = bytes.split_first() else { return };
    let format = FORMATS[usize::from(*first) % FORMATS.len()];
    let binary = [("ce-specversion", "1.0"), ("Ce-Type", "x"), ("traceparent", "00-0-0-01")];
    let headers = EventHeaders::new(if first & 0x80 == 0 { [].to_vec() } else { binary.to_vec() });
    let Ok(decoded) = decode(format, &headers, body) else { return };
    assert_eq!(decode(format, &headers, body).as_ref(), Ok(&decoded));
    for record in &decoded.records {
        let Record::Object(object) = record else { continue };
        assert!(!object.bucket.is_empty() && !object.key.is_empty());
        for encoding in [None, Some(KeyEncoding::Form), Some(KeyEncoding::Raw)] {
            match rule(encoding).select(object) {
                Selected::Job(job) => {
                    assert_eq!(rule(encoding).select(object), Selected::Job(job.clone()));
                    assert!(!object.event.starts_with("ObjectRemoved:"));
                    let Some(image_job::Source::S3(found)) = job.source else { panic!("a job without an object") };
                    assert!(found.key.starts_with('p') && found.key.len() <= 1024 && job.job_id.len() == 64);
                    assert!(object.size.is_none_or(|size| (1..=1000).contains(&size)));
                }
                Selected::Skipped(_) => {}
                Selected::Failed(_, problem) => assert!(!problem.is_empty()),
            }
        }
    }
});
