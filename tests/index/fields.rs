//! Repeats, and fields that databases cannot hold.

use async_nats::jetstream::message::PublishMessage;
use wire::v1::{FractionBox, ImageAnnotation, TaskResult};

use super::databases::Database;
use crate::filled_stream::{SUBJECT, TestEnv, synthetic};
use crate::support::stderr_of;

/// An annotation of everything that databases refuse.
fn hostile() -> ImageAnnotation {
    let mut annotation = synthetic(1).next().unwrap();
    annotation.annotation_id = "long ".repeat(2000);
    annotation.labels.insert("nul\0".into(), "\0".into());
    let result = &mut annotation.results[0];
    result.text = "a\0fox \u{10ffff} '; drop table annotations; --".into();
    result.loss = Some(f32::NEG_INFINITY);
    let entity = &mut result.entities[0];
    entity.phrase = "a\0fox".into();
    entity.score = Some(f32::NAN);
    entity.boxes[0].fractions = Some(FractionBox { x0: f64::NAN, y0: 0.0, x1: 1.0, y1: 1.0 });
    entity.boxes[0].score = Some(f32::INFINITY);
    // More than a tsvector, and than an entry of an index, can hold.
    annotation.results[1].answer = (0..110_000).map(|number| format!("w{number} ")).collect();
    annotation.results[1].entities[0].phrase = "x".repeat(100_000);
    annotation.picture.as_mut().unwrap().object.as_mut().unwrap().key = "k".repeat(5000);
    annotation.finished_at = Some(wire::prost_types::Timestamp { seconds: i64::MAX, nanos: -1 });
    annotation
}

#[tokio::test(flavor = "multi_thread")]
async fn what_databases_cannot_hold_is_replaced_the_same_way_in_both() {
    let env = TestEnv::start().await;
    let message = |annotation: &ImageAnnotation| wire::Message::encode_to_vec(annotation);
    for payload in [message(&hostile()), b"\xff no annotation".to_vec(), message(&ImageAnnotation::default())] {
        let message = PublishMessage::build().payload(payload.into());
        env.jetstream.send_publish(SUBJECT, message).await.unwrap().await.unwrap();
    }
    let databases = Database::both(&env).await;
    for database in &databases {
        let output = database.index(&env, &[]).await;
        // One message is not an annotation.
        assert_eq!(output.status.code(), Some(1), "{}", stderr_of(&output));
        let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((summary["annotations"].as_u64(), summary["unreadable"].as_u64()), (Some(2), Some(1)), "{summary}");
        let texts = database.rows("select text, loss from ~results order by annotation, result").await;
        assert_eq!(texts[0][..], ["a\u{fffd}fox \u{10ffff} '; drop table annotations; --", "null"]);
        let entities = database.rows("select phrase, score from ~entities order by annotation, result, entity").await;
        assert_eq!(entities[0][..], ["a\u{fffd}fox", "null"]);
        let column = if matches!(database, Database::Postgres(_)) { "box" } else { "x0" };
        let boxes = format!("select {column}, score from ~boxes order by annotation, result, entity, number");
        assert_eq!(database.rows(&boxes).await[0][..], ["null", "null"]);
        // The next run has nothing to do.
        assert_eq!(database.indexed(&env, &[]).await["read"], 0);
    }
    let [postgres, sqlite] = databases;
    assert!(postgres.contents().await == sqlite.contents().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_message_of_an_annotation_is_kept() {
    let env = TestEnv::start().await;
    let first = synthetic(1).next().unwrap();
    let repeat = ImageAnnotation {
        results: vec![TaskResult { text: "another text".into(), ..first.results[0].clone() }],
        ..first.clone()
    };
    let databases = Database::both(&env).await;
    env.publish(&first, "").await;
    databases[0].indexed(&env, &[]).await;
    env.publish(&repeat, "-again").await;
    for database in &databases {
        let summary = database.indexed(&env, &[]).await;
        assert_eq!(summary["repeats"], 1, "{summary}");
        let texts = database.rows("select text from ~results").await;
        assert_eq!(texts.len(), 3);
        assert!(texts.iter().all(|text| text[0] != "another text"));
        // Parts follow the annotation, also in the searches.
        database.rows("delete from ~annotations").await;
        let left =
            "select (select count(*) from ~results) + (select count(*) from ~entities) + (select count(*) from ~boxes)";
        assert_eq!(database.number(left).await, 0);
    }
    let search = "select (select count(*) from box_search) + (select count(*) from phrase_search('a'))";
    assert_eq!(databases[1].number(search).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_deleted_with_their_annotation_by_every_program() {
    let env = TestEnv::start().await;
    env.fill(synthetic(5)).await;
    let database = Database::sqlite(&env, "annotations.db");
    database.indexed(&env, &[]).await;
    let connection = rusqlite::Connection::open(env.path("annotations.db")).unwrap();
    // As in `sqlite3` and Python.
    connection.pragma_update(None, "foreign_keys", false).unwrap();
    connection.execute("delete from annotations where sequence > 3", []).unwrap();
    drop(connection);
    assert_eq!(database.number("select count(distinct annotation) from results").await, 3);
    let (boxes, found) = (database.number("select count(*) from boxes").await, "select count(*) from box_search");
    assert_eq!(database.number(found).await, boxes);
    // Keys of the deleted ones are not given to the next ones.
    env.fill(synthetic(7).skip(5)).await;
    let summary = database.indexed(&env, &[]).await;
    assert_eq!(summary["annotations"], 2, "{summary}");
    assert_eq!(database.number("select max(annotation) from annotations").await, 7);
}
