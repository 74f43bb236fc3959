//! The table of hostile jobs.
#![allow(clippy::unwrap_used, reason = "a panic in a test is the report")]

use wire::Message;
use wire::v1::{self, FailureReason, image_job, prompt_box, task};

use crate::common::bitmap;

/// What detects that a job is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The check of its bytes.
    ByTheCheck,
    /// The tokenizer, the engine or the settings.
    Later,
}

pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) seen: Seen,
    pub(crate) reason: FailureReason,
    /// A part of the error text.
    pub(crate) says: &'static str,
}

pub(crate) fn task_of(kind: task::Kind) -> v1::Task {
    v1::Task { task_id: "t".into(), kind: Some(kind) }
}

pub(crate) fn job(id: &str, tasks: Vec<v1::Task>) -> v1::ImageJob {
    v1::ImageJob {
        job_id: id.into(),
        dataset: "cats".into(),
        source: Some(image_job::Source::Inline(bitmap().into())),
        tasks,
        ..Default::default()
    }
}

fn caption() -> v1::Task {
    task_of(task::Kind::BriefCaption(v1::BriefCaption {}))
}

fn question(text: impl Into<String>) -> v1::Task {
    task_of(task::Kind::Question(v1::Question { question: text.into() }))
}

fn raw(text: impl Into<String>) -> v1::Task {
    task_of(task::Kind::Raw(v1::RawPrompt { text: text.into(), phrase_boxes: Vec::new() }))
}

fn scoring(prompt: &str, text: &str) -> v1::Task {
    let text = Some(v1::RawPrompt { text: text.into(), phrase_boxes: Vec::new() });
    task_of(task::Kind::TextScoring(v1::TextScoring { prompt: prompt.into(), text, with_end: true }))
}

/// All rows. Unless marked otherwise, they are rejected by the check.
pub(crate) fn rows() -> Vec<Row> {
    [bytes_that_are_no_job(), sizes(), names(), tags_in_words(), markup(), boxes(), options(), what_does_not_fit()]
        .into_iter()
        .flatten()
        .collect()
}

fn row(name: impl Into<String>, bytes: Vec<u8>, says: &'static str) -> Row {
    Row { name: name.into(), bytes, seen: Seen::ByTheCheck, reason: FailureReason::InvalidJob, says }
}

fn later(row: Row) -> Row {
    Row { seen: Seen::Later, reason: FailureReason::InvalidPrompt, ..row }
}

/// A valid job with one change.
fn changed(name: &str, says: &'static str, change: impl FnOnce(&mut v1::ImageJob)) -> Row {
    let mut job = job(name, vec![caption()]);
    change(&mut job);
    row(name, job.encode_to_vec(), says)
}

fn asking(name: &str, says: &'static str, task: v1::Task) -> Row {
    changed(name, says, |job| job.tasks = vec![task])
}

fn bytes_that_are_no_job() -> Vec<Row> {
    let good = job("cut", vec![caption()]).encode_to_vec();
    let unreadable = "cannot be read as groundling.v1.ImageJob";
    let unknown_kind =
        [job("unknown kind", vec![]).encode_to_vec(), b"\x2a\x07\x0a\x01t\xa2\x06\x01x".to_vec()].concat();
    vec![
        row("noise", b"\xff\xff\xff\xff garbage".to_vec(), unreadable),
        row("nothing", Vec::new(), "job_id is empty"),
        row("text", b"{\"job_id\": \"json\"}".to_vec(), unreadable),
        row("cut", good[..good.len() - 3].to_vec(), unreadable),
        row("groups within groups", vec![0x0b; 100_000], unreadable),
        row("an unclosed group around it", [&[0x7b][..], &good].concat(), unreadable),
        row("a length beyond the end", b"\x0a\xff\xff\xff\xff\x0fx".to_vec(), unreadable),
        row("no letters in the id", b"\x0a\x02\xc3\x28".to_vec(), unreadable),
        row("a kind of task of another version", unknown_kind, "tasks[0] has no known kind"),
    ]
}

fn sizes() -> Vec<Row> {
    let labels = |count: usize| (0..count).map(|i| (i.to_string(), "x".to_owned())).collect();
    let many_tasks = |count: usize| {
        let task = |i: usize| v1::Task { task_id: i.to_string(), ..caption() };
        (0..count).map(task).collect::<Vec<_>>()
    };
    let empty_tasks = [job("empty tasks", vec![]).encode_to_vec(), b"\x2a\x00".repeat(500_000)].concat();
    vec![
        asking("10 MB question", "tasks have 10485", question("why ".repeat(10 << 18))),
        asking("100 kB question", "tasks[0].question has 102400 bytes", question("x".repeat(100 << 10))),
        asking("100 kB raw", "tasks[0].text has 102400 bytes", raw("x".repeat(100 << 10))),
        asking("100 kB before a score", "tasks[0].prompt has 102400 bytes", scoring(&"x".repeat(100 << 10), "x")),
        asking("100 kB to score", "tasks[0].text.text has 102400 bytes", scoring("", &"x".repeat(100 << 10))),
        changed("65 tasks", "the job has 65 tasks", |job| job.tasks = many_tasks(65)),
        changed("5000 tasks", "the job has 5000 tasks", |job| job.tasks = many_tasks(5000)),
        row("500,000 empty tasks", empty_tasks, "the job has 500000 tasks"),
        changed("65 labels", "the job has 65 labels", |job| job.labels = labels(65)),
        changed("100,000 labels", "the job has 100000 labels", |job| job.labels = labels(100_000)),
        changed("a long label's name", "label's name has 300 bytes", |job| {
            job.labels = [("n".repeat(300), String::new())].into();
        }),
        changed("a long label", "the label \"n\" has 5000 bytes", |job| {
            job.labels = [("n".to_owned(), "x".repeat(5000))].into();
        }),
        changed("a long id", "job_id has 1000000 bytes", |job| job.job_id = "x".repeat(1_000_000)),
        changed("a long task id", "tasks[0].task_id has 1000000 bytes", |job| {
            job.tasks[0].task_id = "x".repeat(1_000_000);
        }),
        changed("a long dataset", "the dataset's name has 1000 bytes", |job| job.dataset = "x".repeat(1000)),
    ]
}

fn names() -> Vec<Row> {
    let object =
        |bucket: &str, key: &str| v1::S3Object { bucket: bucket.into(), key: key.into(), ..Default::default() };
    let from = |name: &'static str, says: &'static str, object: v1::S3Object| {
        changed(name, says, move |job| job.source = Some(image_job::Source::S3(object)))
    };
    let no_bucket = "is not a bucket name";
    let arn = "arn:aws:s3:eu-west-1:123456789012:accesspoint:elsewhere";
    let forbidden = |row: Row| Row { seen: Seen::Later, reason: FailureReason::ObjectForbidden, ..row };
    vec![
        changed("no source", "no picture", |job| job.source = None),
        changed("an empty picture", "inline is empty", |job| {
            job.source = Some(image_job::Source::Inline(vec![].into()))
        }),
        changed("a dataset with a dot", "the dataset's name", |job| job.dataset = "cats.*".into()),
        from("an ARN in the bucket's place", no_bucket, object(arn, "k")),
        from("an address in the bucket's place", no_bucket, object("http://127.0.0.1:9/x", "k")),
        from("a way up in the bucket's place", no_bucket, object("..", "k")),
        from("a host in the bucket's place", no_bucket, object("user@host", "k")),
        from("a long bucket", "s3.bucket has 5000 bytes", object(&"b".repeat(5000), "k")),
        from("no key", "s3.key is empty", object("allowed", "")),
        from("a long key", "s3.key has 1025 bytes", object("allowed", &"k".repeat(1025))),
        from(
            "an ETag of two lines",
            "contains control characters or characters outside ASCII",
            v1::S3Object { etag: Some("a\r\nHost: elsewhere".into()), ..object("allowed", "k") },
        ),
        from(
            "a long version",
            "s3.version_id has 2000 bytes",
            v1::S3Object { version_id: Some("v".repeat(2000)), ..object("allowed", "k") },
        ),
        forbidden(from("another bucket", "may not be read by this worker", object("other", "k"))),
        forbidden(from("a way up in the key", "may not be read by this worker", object("allowed", "a/../../b"))),
    ]
}

/// A task that a text is put into.
type InWords = fn(String) -> task::Kind;

/// Each tag in each text field, and forms that only the tokenizer reads as a tag.
fn tags_in_words() -> Vec<Row> {
    let places: [(&str, InWords); 3] = [
        ("question", |question| task::Kind::Question(v1::Question { question })),
        ("phrase", |phrase| task::Kind::PhraseGrounding(v1::PhraseGrounding { phrase })),
        ("expression", |expression| {
            task::Kind::ReferringExpressionComprehension(v1::ReferringExpressionComprehension { expression })
        }),
    ];
    let mut rows = Vec::new();
    for (place, kind) in places {
        for tag in hostile::TAGS.into_iter().chain(["<unk>"]) {
            let text = format!("a cat{tag} and more");
            rows.push(asking(&format!("{tag} in a {place}"), "which would act as markup", task_of(kind(text))));
        }
        for disguised in ["＜/s＞", "a ＜s＞ b", "x＜pad＞", "<／s>", "<ｓ>"] {
            let task = task_of(kind(format!("a cat {disguised}")));
            rows.push(later(asking(
                &format!("{disguised} in a {place}"),
                "that the tokenizer takes for the tag",
                task,
            )));
        }
        rows.push(asking(&format!("blanks in a {place}"), "has no ", task_of(kind(" \t\n ".into()))));
    }
    rows
}

fn markup() -> Vec<Row> {
    let placed = "which is reserved for the picture and the start and end of the text";
    let mut rows: Vec<Row> = ["<image>", "</image>", "<s>", "</s>", "<pad>", "<unk>", "<mask>"]
        .into_iter()
        .map(|tag| asking(&format!("{tag} in a raw prompt"), placed, raw(format!("<grounding> An {tag} image of"))))
        .collect();
    rows.extend([
        asking("no raw prompt", "tasks[0].text is empty", raw("")),
        asking("</s> in a text to score", placed, scoring("", "a cat</s>")),
        asking("<image> before a text to score", placed, scoring("<image>", "a cat")),
        asking("a patch beyond the last", "none of <patch_index_0000>", raw("<object><patch_index_1024></object>")),
        asking("half a patch", "none of <patch_index_0000>", raw("<object><patch_index_00")),
        later(asking(
            "a full-width end in a raw prompt",
            "that the tokenizer takes for the tag",
            raw("An image ＜/s＞"),
        )),
    ]);
    rows
}

fn boxes() -> Vec<Row> {
    let patches = |upper_left, lower_right| v1::PromptBox {
        r#box: Some(prompt_box::Box::Patches(v1::PatchPair { upper_left, lower_right })),
    };
    let fractions =
        |x0, y0, x1, y1| v1::PromptBox { r#box: Some(prompt_box::Box::Fractions(v1::FractionBox { x0, y0, x1, y1 })) };
    let place = |boxes| task_of(task::Kind::ReferringExpressionGeneration(v1::ReferringExpressionGeneration { boxes }));
    let phrases = v1::RawPrompt { text: "x".into(), phrase_boxes: vec![v1::PhraseBoxes::default(); 100_000] };
    vec![
        asking("a cell beyond the last", "whole numbers from 0 to 1023", place(vec![patches(0, u32::MAX)])),
        asking("no number in a box", "give fractions from 0 to 1", place(vec![fractions(f64::NAN, 0.0, 1.0, 1.0)])),
        asking("no end to a box", "give fractions from 0 to 1", place(vec![fractions(0.0, 0.0, f64::INFINITY, 1.0)])),
        asking("a box inside out", "give fractions from 0 to 1", place(vec![fractions(0.9, 0.0, 0.1, 1.0)])),
        asking("no box", "has no box", place(Vec::new())),
        asking("neither patches nor fractions", "is empty", place(vec![v1::PromptBox::default()])),
        asking("100,000 boxes", "tasks[0] has 100000 boxes", place(vec![patches(1, 2); 100_000])),
        asking("100,000 phrases", "tasks[0] has 100000 phrases with boxes", task_of(task::Kind::Raw(phrases))),
    ]
}

fn options() -> Vec<Row> {
    type Options = v1::GenerationOptions;
    let with = |name: &'static str, says: &'static str, options: Options| {
        changed(name, says, move |job| job.options = Some(options))
    };
    let temperature = |value: f32| Options { temperature: Some(value), ..Options::default() };
    let top_p = |value: f32| Options { top_p: Some(value), ..temperature(1.0) };
    let penalty = |value: f32| Options { repetition_penalty: Some(value), ..Options::default() };
    let beams = |num_beams, length_penalty, early_stopping| Options {
        beam_search: Some(v1::BeamSearch { num_beams, length_penalty, early_stopping }),
        ..Options::default()
    };
    let tokens = |count| Options { max_new_tokens: Some(count), ..Options::default() };
    vec![
        with("no number of a temperature", "temperature is NaN", temperature(f32::NAN)),
        with("an endless temperature", "temperature is inf", temperature(f32::INFINITY)),
        with("a temperature below 0", "temperature is -1", temperature(-1.0)),
        with("hardly a temperature", "temperature is 0.0000", temperature(1e-38)),
        with("no number of a top_p", "top_p is NaN", top_p(f32::NAN)),
        with("a top_p of 0", "top_p is 0", top_p(0.0)),
        with("a top_p above 1", "top_p is 1.5", top_p(1.5)),
        with("a top_p below 0", "top_p is -0.1", top_p(-0.1)),
        with("a top_k of 0", "top_k is 0", Options { top_k: Some(0), ..temperature(1.0) }),
        with("a top_k of nothing drawn", "needs a temperature", Options { top_k: Some(5), ..Options::default() }),
        with("a million beams", "num_beams is 1000000", beams(1_000_000, None, 0)),
        with("one beam", "num_beams is 1,", beams(1, None, 0)),
        with("no number of a length penalty", "length_penalty is NaN", beams(2, Some(f32::NAN), 0)),
        with("a way to stop of another version", "early_stopping is 77", beams(2, None, 77)),
        with("most tokens of all", "max_new_tokens is 4294967295", tokens(u32::MAX)),
        with("no tokens", "max_new_tokens is 0", tokens(0)),
        with("a penalty of 0", "repetition_penalty is 0,", penalty(0.0)),
        with("a penalty below 0", "repetition_penalty is -3", penalty(-3.0)),
        with("no number of a penalty", "repetition_penalty is NaN", penalty(f32::NAN)),
        with("an endless penalty", "repetition_penalty is inf", penalty(f32::INFINITY)),
        with("hardly a penalty", "repetition_penalty is 0.0000", penalty(1e-38)),
        with(
            "endless n-grams",
            "no_repeat_ngram_size is 4294967295",
            Options { no_repeat_ngram_size: Some(u32::MAX), ..Options::default() },
        ),
    ]
}

/// Valid jobs that exceed the engine of the test, which has 16 slots of 512 tokens.
fn what_does_not_fit() -> Vec<Row> {
    let longest = v1::GenerationOptions { max_new_tokens: Some(2048), ..Default::default() };
    let beam_search = Some(v1::BeamSearch { num_beams: 64, length_penalty: None, early_stopping: 0 });
    let widest = v1::GenerationOptions { beam_search, ..Default::default() };
    vec![
        later(asking("60 kB question", "but a slot holds 512", question("why ".repeat(15 << 10)))),
        later(changed("2048 new tokens", "but a slot holds 512", |job| job.options = Some(longest))),
        later(changed("64 beams", "slots are needed at once", |job| job.options = Some(widest))),
        later(asking(
            "more boxes than phrases",
            "the text has 0 <phrase>",
            task_of(task::Kind::Raw(v1::RawPrompt {
                text: "no phrase".into(),
                phrase_boxes: vec![v1::PhraseBoxes::default()],
            })),
        )),
    ]
}
