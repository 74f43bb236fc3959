//! Random token sequences under the grammar, without it, and with one token changed.

use kosmos2::grounding::markup;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{KIT, STARTS};

/// Checks by counting tags, independently of the grammar and of `is_well_formed`.
fn check_strictly(text: &str) {
    let text = markup::caption(text);
    let count = |what: &str| text.matches(what).count();
    let parsed = markup::parse(text);
    assert_eq!(count("<phrase>"), count("</phrase>"), "{text:?}");
    assert_eq!(count("<object>"), count("</object>"), "{text:?}");
    let named = parsed.entities.iter().filter(|entity| entity.phrase_source.is_some());
    assert_eq!(count("</phrase><object>"), named.clone().count(), "{text:?}");
    assert!(named.clone().all(|entity| !entity.phrase.is_empty() && entity.span.0 < entity.span.1), "{text:?}");
    let boxes: Vec<_> = parsed.entities.iter().flat_map(|entity| &entity.boxes).collect();
    assert_eq!(count("<patch_index_"), 2 * boxes.len(), "{text:?}");
    assert_eq!(count("<object>") + count("</delimiter_of_multi_objects/>"), boxes.len(), "{text:?}");
    assert!(boxes.iter().all(|b| 0.0 <= b.x0 && b.x0 < b.x1 && b.x1 <= 1.0), "{text:?}");
    assert!(boxes.iter().all(|b| 0.0 <= b.y0 && b.y0 < b.y1 && b.y1 <= 1.0), "{text:?}");
    let tags = ["<phrase>", "</phrase>", "<object>", "</object>", "</delimiter_of_multi_objects/>", "<patch_index_"];
    let brackets = tags.iter().map(|tag| count(tag)).sum::<usize>() + usize::from(text.starts_with("<grounding>"));
    assert_eq!((count("<"), count(">")), (brackets, brackets), "{text:?}");
    assert!(!parsed.text.contains(['<', '>']));
}

#[test]
fn random_rows_of_allowed_tokens_always_read_whatever_their_length() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let tags: Vec<u32> = kosmos_tags().iter().map(|tag| KIT.id(tag)).collect();
    let starts = STARTS.map(|(prompt, least)| (KIT.prompt(prompt), least));
    let first_patch = KIT.id("<patch_index_0000>");
    let (mut cut, mut objects, mut bare) = (0, 0, 0);
    for generation in 0..24_000usize {
        let (prompt, least) = starts.choose(&mut random).unwrap();
        let budget = random.random_range((*least).max(1)..=60);
        // All tags, a few patches and a few words, so that all rules are used; the end token is less frequent.
        let mut pool = tags.clone();
        pool.extend((0..12).map(|_| first_patch + random.random_range(0..1024)));
        pool.extend((0..random.random_range(1..12)).map(|_| random.random_range(4..64_000)));
        pool.push(first_patch + 1023);
        if generation % 4 == 0 {
            pool.push(KIT.end);
        }
        let mut state = KIT.grammar.start(prompt, budget);
        let mut row = prompt.clone();
        while row.len() < prompt.len() + budget && (row.len() == prompt.len() || row.last() != Some(&KIT.end)) {
            let allowed: Vec<u32> = pool.iter().copied().filter(|&id| KIT.grammar.allows(&state, id)).collect();
            let token = *allowed.choose(&mut random).expect("something is always allowed");
            KIT.grammar.advance(&mut state, token);
            row.push(token);
        }
        let text = KIT.text(&row);
        assert!(markup::is_well_formed(&text), "{text:?}");
        assert_eq!(text.matches("</image>").count(), 1, "{text:?}");
        check_strictly(&text);
        cut += usize::from(row.last() != Some(&KIT.end));
        objects += text.matches("</phrase><object>").count();
        bare += text.matches("<object>").count() - text.matches("</phrase><object>").count();
    }
    println!("{cut} rows cut, {objects} objects of phrases, {bare} without");
    assert!(cut > 5_000 && objects > 10_000 && bare > 10_000);
}

/// Without the grammar, such sequences are hardly ever well formed, so the test above is not trivial.
#[test]
fn random_rows_of_any_tokens_hardly_ever_read() {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let tags: Vec<u32> = kosmos_tags().iter().map(|tag| KIT.id(tag)).collect();
    let prompt = KIT.prompt("<grounding> An image of");
    let well_formed = |_: &usize| {
        let answer = (0..20).map(|_| *tags.choose(&mut random).unwrap());
        markup::is_well_formed(&KIT.text(&prompt.iter().copied().chain(answer).collect::<Vec<_>>()))
    };
    let found = (0..1000).filter(well_formed).count();
    assert!(found < 10, "{found} of 1000");
}

fn kosmos_tags() -> [&'static str; 17] {
    [
        "<phrase>",
        "<phrase>",
        "</phrase>",
        "<object>",
        "<object>",
        "</object>",
        "</delimiter_of_multi_objects/>",
        "</doc>",
        "<image>",
        "</image>",
        "</chunk>",
        "</line>",
        "<grounding>",
        "<s>",
        "<pad>",
        "<unk>",
        "<mask>",
    ]
}

/// The rules over tokens and those over text must agree on nearly well-formed sequences.
#[test]
fn a_random_row_with_one_token_changed_is_accepted_if_and_only_if_its_text_is_well_formed() {
    let mut random = ChaCha8Rng::seed_from_u64(6);
    let starts = STARTS.map(|(prompt, _)| KIT.prompt(prompt));
    let mut pool: Vec<u32> = kosmos_tags().iter().map(|tag| KIT.id(tag)).collect();
    pool.extend(KIT.ids("the dog > a , <patch_index_0000><patch_index_0044><patch_index_0099><patch_index_1023>"));
    let (mut right, mut wrong) = (0, 0);
    for _ in 0..6_000 {
        let prompt = starts.choose(&mut random).unwrap();
        let budget = random.random_range(3..=30);
        let mut state = KIT.grammar.start(prompt, budget);
        let mut answer = Vec::new();
        while answer.len() < budget {
            let allowed: Vec<u32> = pool.iter().copied().filter(|&id| KIT.grammar.allows(&state, id)).collect();
            answer.push(*allowed.choose(&mut random).unwrap());
            KIT.grammar.advance(&mut state, answer[answer.len() - 1]);
        }
        let (at, other) = (random.random_range(0..budget), *pool.choose(&mut random).unwrap());
        match random.random_range(0..3) {
            0 => drop(answer.remove(at)),
            1 => answer.insert(at, other),
            _ => answer[at] = other,
        }
        let text = KIT.text(&[prompt, &answer[..]].concat());
        let well_formed = markup::is_well_formed(&text);
        assert_eq!(KIT.grammar.accepts(prompt, &answer), well_formed, "{text:?}");
        *if well_formed { &mut right } else { &mut wrong } += 1;
    }
    println!("{right} well formed, {wrong} not");
    assert!(right > 500 && wrong > 500, "{right} {wrong}");
}
