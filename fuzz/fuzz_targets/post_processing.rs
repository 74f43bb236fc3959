//! Parses raw generated text to plain text and entities.
#![no_main]

use kosmos2::grounding::markup;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|raw: &str| {
    let raw = markup::caption(raw);
    let read = markup::parse(raw);
    for entity in &read.entities {
        // The source ranges of an entity are within the text, at character boundaries.
        let sources = entity.phrase_source.iter().chain(&entity.box_sources);
        assert!(sources.into_iter().all(|source| raw.get(source.clone()).is_some()), "{entity:?}");
        assert_eq!(entity.boxes.len(), entity.box_sources.len());
        let sides = entity.boxes.iter().flat_map(|one| [one.x0, one.y0, one.x1, one.y1]);
        assert!(sides.into_iter().all(f64::is_finite), "{entity:?}");
    }
    if markup::is_well_formed(raw) {
        let points = read.text.chars().count() as i64;
        for entity in &read.entities {
            let (start, end) = entity.span;
            assert!(0 <= start && start <= end && end <= points, "{entity:?} in {points} characters");
            for one in &entity.boxes {
                assert!(0.0 <= one.x0 && one.x0 < one.x1 && one.x1 <= 1.0, "{one:?}");
                assert!(0.0 <= one.y0 && one.y0 < one.y1 && one.y1 <= 1.0, "{one:?}");
            }
        }
    }
});
