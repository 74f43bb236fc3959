//! `groundling review`: the page, its links, and the precision of marks.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use serde_json::{Value, json};
use wire::Message;
use wire::identity::sha256_hex;
use wire::v1::{FailureReason, ImageAnnotation, JobFailure};
use worker::fetch::http::WebReader;

use crate::filled_stream::{DATASET, TestEnv};
use crate::support::{groundling, stderr_of};

pub(crate) const HOSTILE: &str =
    "</script></title><script>document.title='run'</script>\"'><img src=x onerror=alert(1)>";

impl TestEnv {
    /// Makes a page, and returns the summary and the HTML.
    pub(crate) async fn review(&self, out: &str, arguments: &[&str]) -> (Value, String) {
        let path = self.path(out);
        let arguments = [&["review", "--dataset", DATASET, "--out", &path, "--format", "json"], arguments].concat();
        let output = self.groundling(&arguments).output().await.unwrap();
        assert!(output.status.success(), "{}", stderr_of(&output));
        (serde_json::from_slice(&output.stdout).unwrap(), std::fs::read_to_string(path).unwrap())
    }

    /// Publishes a failure as a worker does.
    pub(crate) async fn publish_failure(&self, key: Option<&str>, reason: FailureReason, message: &str) {
        let failure = JobFailure {
            subject: format!("groundling.jobs.{DATASET}"),
            job_id: Some(format!("job of {}", key.unwrap_or("nothing"))),
            reason: reason.into(),
            message: message.into(),
            deliveries: 3,
            bucket: key.map(|_| self.s3.access().bucket.clone()),
            key: key.map(str::to_owned),
            ..JobFailure::default()
        };
        let subject = format!("groundling.failed.{DATASET}.{}", reason.token());
        let message = PublishMessage::build().payload(failure.encode_to_vec().into());
        self.jetstream.send_publish(subject, message).await.unwrap().await.unwrap();
    }

    /// An annotation whose texts try to get out of the page.
    pub(crate) async fn publish_hostile(&self, like: &ImageAnnotation) {
        let mut hostile = ImageAnnotation { annotation_id: sha256_hex(b"hostile"), ..like.clone() };
        hostile.job_id = HOSTILE.into();
        if let Some(object) = hostile.picture.as_mut().and_then(|picture| picture.object.as_mut()) {
            object.key = HOSTILE.into();
        }
        for (index, result) in hostile.results.iter_mut().enumerate() {
            result.task_id = format!("{index}{HOSTILE}");
            (result.text, result.prompt) = (HOSTILE.into(), HOSTILE.into());
            result.entities.iter_mut().for_each(|entity| entity.phrase = HOSTILE.into());
        }
        self.publish(&hostile, "").await;
    }
}

fn ids(html: &str) -> BTreeSet<&str> {
    html.split("data-annotation=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_a_sample_and_the_failures_with_their_pictures() {
    let env = TestEnv::start().await;
    let truth = env.fill_with_scenes().await;
    let first = truth.messages.values().next().unwrap();
    // An annotation that the stream has twice is one of the sample.
    env.publish(first, "-again").await;
    let picture = first.picture.as_ref().unwrap().object.as_ref().unwrap().key.clone();
    env.publish_failure(Some(&picture), FailureReason::PictureTooLarge, "too many pixels").await;
    env.publish_failure(Some("lost.jpg"), FailureReason::ObjectNotFound, HOSTILE).await;
    env.publish_failure(None, FailureReason::InvalidJob, "no job").await;

    let (summary, html) = env.review("page.html", &["--sample", "20", "--seed", "3"]).await;
    assert_eq!(
        [&summary["annotations"], &summary["read"], &summary["failures"], &summary["pictures_missing"]],
        [&json!(20), &json!(49), &json!(3), &json!(0)]
    );
    assert_eq!(ids(&html).len(), 20);
    assert_eq!(html.matches("src=\"data:image/jpeg;base64,").count(), 20 + 1, "a picture of a failure is shown too");
    assert!(html.contains("<code>object_not_found</code>") && html.contains("No picture to show."));
    assert_eq!((html.matches("<script>").count(), html.matches("</script>").count()), (1, 1));
    assert!(html.contains("too many pixels") && html.contains("job of nothing"));
    assert!(html.contains("img-src data:; "), "embedded pictures need no store");
    let again = env.review("again.html", &["--sample", "20", "--seed", "3"]).await.1;
    assert_eq!(ids(&again), ids(&html));
    let other = env.review("other.html", &["--sample", "20", "--seed", "4", "--failures", "0"]).await.1;
    assert!(ids(&other) != ids(&html) && !other.contains("id=\"failures\""));
    let all = env.review("all.html", &["--sample", "1000"]).await;
    assert_eq!((ids(&all.1).len(), &all.0["annotations"]), (48, &json!(48)));

    // A picture that was overwritten is not what was annotated.
    std::fs::write(env.objects.path().join(&env.s3.access().bucket).join(&picture), b"other").unwrap();
    let (summary, html) = env.review("changed.html", &["--sample", "1000"]).await;
    assert_eq!((&summary["pictures_missing"], &summary["pictures_changed"]), (&json!(0), &json!(1)));
    assert_eq!(html.matches("The picture is not available.").count(), 1);

    // A store that refuses is not one without pictures.
    let out = env.path("refused.html");
    let mut command = env.groundling(&["review", "--dataset", DATASET, "--sample", "5", "--out", &out]);
    let output = command.env("GROUNDLING__S3__SECRET_KEY", "wrong").output().await.unwrap();
    let told = stderr_of(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("5 pictures left out: the store cannot be reached or refuses to give it: "), "{told}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(": 5 annotations and 3 of 3 failures, ") && text.ends_with("(49 messages read)\n"), "{text}");

    let refused = env.groundling(&["review", "--dataset", DATASET, "--out", "/nowhere/page.html"]).output().await;
    let refused = refused.unwrap();
    assert!(
        refused.status.code() == Some(2) && stderr_of(&refused).contains("--out /nowhere/page.html"),
        "{}",
        stderr_of(&refused)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn presigned_links_give_the_pictures_that_were_annotated() {
    let env = TestEnv::start().await;
    let truth = env.fill_with_scenes().await;
    env.publish_hostile(truth.messages.values().next().unwrap()).await;
    let arguments = ["--sample", "100", "--links", "presigned", "--expires-in", "10m"];
    let (summary, html) = env.review("page.html", &arguments).await;
    let endpoint = &env.s3.access().endpoint;
    assert!(html.contains(&format!("img-src data: {endpoint}; ")), "the store is the only one that may be asked");
    assert_eq!((html.matches("<script>").count(), html.matches("<img ").count()), (1, 49));
    assert!(summary["bytes"].as_u64().unwrap() < 2_000_000, "{summary}");
    let links: Vec<String> =
        html.split("src=\"").skip(1).map(|rest| rest.split('"').next().unwrap().replace("&amp;", "&")).collect();
    assert!(links.iter().all(|link| link.starts_with(endpoint.as_str()) && link.contains("X-Amz-Expires=600")));
    let reader = WebReader::new(1 << 20, Duration::from_secs(30)).unwrap();
    for (link, annotation) in links.iter().zip(truth.messages.values()) {
        let bytes = reader.read(link).await.unwrap();
        assert_eq!(sha256_hex(&bytes), annotation.picture.as_ref().unwrap().sha256, "{link}");
    }
    let mut long = env.groundling(&["review", "--dataset", DATASET, "--out", "x.html", "--expires-in", "8d"]);
    let output = long.output().await.unwrap();
    assert!(
        output.status.code() == Some(2) && stderr_of(&output).contains("from 1s to 7days"),
        "{}",
        stderr_of(&output)
    );
}

fn marks(dataset: &str, boxes: &[(u64, f64, &str)]) -> String {
    let one = |(index, score, verdict): &(u64, f64, &str)| {
        json!({
            "annotation_id": "a", "task_id": "t", "entity": 0, "box": index, "phrase": "a fox",
            "fractions": [0.0, 0.0, 1.0, 1.0], "score": score, "verdict": verdict,
        })
    };
    let boxes: Vec<Value> = boxes.iter().map(one).collect();
    json!({
        "format": "groundling-judgements", "version": 1, "page": "p", "dataset": dataset, "boxes_on_page": 100, "boxes": boxes,
    })
    .to_string()
}

#[tokio::test]
async fn marks_are_summed_up_with_intervals_and_thresholds() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    // 80 right with 0.95, 1 right and 9 wrong with 0.45, as in the unit tests of the intervals; one is disputed.
    let right = (0..80).map(|index| (index, 0.95, "right"));
    let low = (80..90).map(|index| (index, 0.45, if index == 80 { "right" } else { "wrong" }));
    let first: Vec<_> = right.chain(low).chain([(90, 0.99, "right")]).collect();
    let files = [write("a.json", marks("foxes", &first)), write("b.json", marks("foxes", &[(90, 0.99, "wrong")]))];
    let report = async |format: &str, files: &[&Path]| {
        let mut command = groundling();
        command.args(["review", "--format", format, "--judged"]).args(files).output().await.unwrap()
    };
    let both = [files[0].as_path(), files[1].as_path()];
    let output = report("json", &both).await;
    assert!(output.status.success(), "{}", stderr_of(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&found["all"]["boxes"], &found["all"]["right"], &found["disagreements"]),
        (&json!(90), &json!(81), &json!(1))
    );
    assert_eq!((&found["estimated"]["score"], &found["assured"]["score"]), (&json!(0.95), &json!(0.95)));
    assert_eq!((&found["bands"][4]["right"], &found["bands"][9]["right"]), (&json!(1), &json!(80)));
    // 80 / (80 + 1.959964²)
    assert!((found["assured"]["interval"]["low"].as_f64().unwrap() - 0.954_182).abs() < 1e-5, "{found}");
    let text = String::from_utf8(report("text", &both).await.stdout).unwrap();
    assert!(
        text.starts_with(
            "foxes: 81 of 90 boxes right, 90.0 % (82.1 % to 94.6 %)\n1 box left out: the files disagree about it\n"
        ),
        "{text}"
    );
    assert!(
        text.contains("assured: from the score 0.95 on, the lower bound is at least 95 %: 80 of 80 boxes"),
        "{text}"
    );

    let few = write("few.json", marks("foxes", &[(0, 0.5, "right")]));
    let text = String::from_utf8(report("text", &[&few]).await.stdout).unwrap();
    assert!(text.contains("the sample is too small to tell: 1 box with a score marked, at least 73"), "{text}");
    let bad = write("bad.json", "{}".to_owned());
    let output = report("text", &[&bad]).await;
    assert!(
        !output.status.success() && stderr_of(&output).contains("bad.json: not a file of marks"),
        "{}",
        stderr_of(&output)
    );
}
