//! Markup is parsed as by the reference, including malformed text.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common;

use common::{fixtures, json};
use kosmos2::grounding::markup;
use rand::{Rng, SeedableRng};
use serde::Deserialize;

type Entity = (String, (i64, i64), Vec<[f64; 4]>);

#[derive(Deserialize)]
struct Goldens {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    raw: String,
    caption: String,
    entities: Vec<Entity>,
}

fn entities(parsed: &markup::ParsedText) -> Vec<Entity> {
    let corners = |e: &markup::Entity| e.boxes.iter().map(|b| [b.x0, b.y0, b.x1, b.y1]).collect();
    parsed.entities.iter().map(|e| (e.phrase.clone(), e.span, corners(e))).collect()
}

/// Cases of the reference's tests, and random mixtures of tags, blanks and scripts (make_text_fixtures.py).
#[test]
fn every_case_is_read_as_the_reference_reads_it() {
    for (file, least) in [("post.json", 60), ("mixtures.json", 400)] {
        let goldens: Goldens = json(fixtures().join("text").join(file));
        assert!(goldens.cases.len() >= least);
        for case in &goldens.cases {
            let raw = markup::caption(&case.text);
            assert_eq!(raw, case.raw, "{:?}", case.text);
            let parsed = markup::parse(raw);
            assert_eq!(parsed.text, case.caption, "{:?}", case.text);
            assert_eq!(entities(&parsed), case.entities, "{:?}", case.text);
        }
        println!("{file}: {} cases", goldens.cases.len());
    }
}

#[test]
fn every_demo_text_is_read_as_the_reference_reads_it() {
    #[derive(Deserialize)]
    struct Golden {
        markup: String,
        text: String,
        entities: Vec<Entity>,
    }
    let goldens: Vec<Golden> = json(fixtures().join("../../crates/sandbox/demo/scenes/goldens.json"));
    assert_eq!(goldens.len(), 384);
    for golden in goldens {
        let parsed = markup::parse(&golden.markup);
        assert_eq!((&parsed.text, entities(&parsed)), (&golden.text, golden.entities));
    }
}

#[test]
fn sources_point_at_what_was_read() {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(11);
    let pieces = [
        "<phrase>",
        "</phrase>",
        "<object>",
        "</object>",
        "<patch_index_0044>",
        "<patch_index_863>",
        "<patch_index_",
        "</delimiter_of_multi_objects/>",
        "</image>",
        "<",
        ">",
        "\n",
        " ",
        "é",
        "雪",
        "٣",
        "a",
        "<patch_index_٣>",
    ];
    let mut found = 0;
    for _ in 0..50_000 {
        let raw: String =
            (0..random.random_range(0..14)).map(|_| pieces[random.random_range(0..pieces.len())]).collect();
        for entity in markup::parse(&raw).entities {
            found += 1;
            assert_eq!(entity.boxes.len(), entity.box_sources.len());
            if let Some(source) = entity.phrase_source {
                assert!(raw[source].contains(&entity.phrase));
            }
            for source in entity.box_sources {
                assert!(raw[source.clone()].starts_with("<patch_index_") && raw[source].ends_with('>'));
            }
        }
    }
    assert!(found > 0);
}
