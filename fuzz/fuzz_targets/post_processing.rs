//! Raw generated text to plain text and entities.
#![no_main]

use kosmos2::grounding::markup;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|raw: &str| {
    let raw = markup::caption(raw);
    let read = markup::parse(raw);
    for entity in &read.entities {
        // What an entity was read from is a part of the text, at the bounds of characters.
        let sources = entity.phrase_source.iter().chain(&entity.box_sources);
        assert!(sources.into_iter().all(|source| raw.get(source.clone()).is_some()), "{entity:?}");
        assert_eq!(entity.boxes.len(), entity.box_sources.len());
        let sides = entity.boxes.iter().flat_map(|place| [place.x0, place.y0, place.x1, place.y1]);
        assert!(sides.into_iter().all(f64::is_finite), "{entity:?}");
    }
    if markup::is_well_formed(raw) {
        let points = read.text.chars().count() as i64;
        for entity in &read.entities {
            let (start, end) = entity.span;
            assert!(0 <= start && start <= end && end <= points, "{entity:?} in {points} characters");
            for place in &entity.boxes {
                assert!(0.0 <= place.x0 && place.x0 < place.x1 && place.x1 <= 1.0, "{place:?}");
                assert!(0.0 <= place.y0 && place.y0 < place.y1 && place.y1 <= 1.0, "{place:?}");
            }
        }
    }
});
