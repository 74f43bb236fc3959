//! Bad pictures by the hundred: each is refused for the right reason, none ends the process or makes it large.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::panic::catch_unwind;
use std::time::Instant;

use hostile::pictures::{PictureFault, costly, flipped, refused};
use kosmos2::processor::image::{DecodeOptions, Header, ImageError, decode};

/// What a worker with little memory allows.
fn strict() -> DecodeOptions {
    DecodeOptions { max_pixels: 16_000_000, max_memory: 256 << 20, ..DecodeOptions::default() }
}

fn fault_of(error: &ImageError) -> Option<PictureFault> {
    match error {
        ImageError::UnknownFormat => Some(PictureFault::Unknown),
        ImageError::Empty | ImageError::Undecodable { .. } => Some(PictureFault::Damaged),
        ImageError::TimedOut => None,
        _ => Some(PictureFault::TooMuch),
    }
}

#[test]
fn every_bad_picture_is_refused_for_its_reason_within_little_memory() {
    let all = refused();
    let names: HashSet<&str> = all.iter().map(|picture| picture.name.as_str()).collect();
    assert_eq!(names.len(), all.len());
    assert!(all.len() >= 300, "{}", all.len());
    let (before, mut wrong) = (peak(), Vec::new());
    for picture in &all {
        for options in [strict(), DecodeOptions::default()] {
            let refused = catch_unwind(|| decode(&picture.bytes, &options).map(|picture| picture.facts));
            match refused {
                Ok(Err(error)) if fault_of(&error) == Some(picture.fault) => {}
                other => wrong.push(format!("{}: {other:?}", picture.name)),
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
    let taken = peak() - before;
    println!("{} bad pictures refused, peak memory {taken} bytes above that of the start", all.len());
    // What the largest picture allowed by `strict` may take; only a decoder that trusted a header would need more.
    assert!(taken < 256 << 20, "{taken} bytes");
}

#[test]
fn pictures_made_to_cost_much_cost_no_more_than_their_headers_were_let_through_with() {
    let before = peak();
    for (name, bytes) in costly() {
        let decoded = catch_unwind(|| decode(&bytes, &strict()).map(|picture| picture.facts));
        let decoded = decoded.unwrap_or_else(|_| panic!("{name}: the decoder panicked"));
        println!("{name}: {decoded:?}");
        if let Ok(facts) = decoded {
            let header = Header::read(&bytes, &strict()).unwrap();
            assert_eq!((header.width, header.height), (facts.width, facts.height), "{name}");
        }
    }
    assert!(peak() - before < 256 << 20);
}

#[test]
fn flipped_bits_never_end_the_process() {
    let mut panicked = Vec::new();
    for (name, bytes) in flipped(4, 60) {
        if catch_unwind(|| decode(&bytes, &strict()).map(|picture| picture.facts)).is_err() {
            panicked.push(name);
        }
    }
    // Panics of other authors' decoders are caught where pictures are decoded; they are to be known all the same.
    assert!(panicked.is_empty(), "{panicked:?}");
}

#[test]
fn a_picture_whose_time_is_over_is_given_up_in_every_format() {
    for base in hostile::pictures::WHOLE {
        let options = DecodeOptions { deadline: Some(Instant::now()), ..strict() };
        assert_eq!(decode(base.bytes, &options).err(), Some(ImageError::TimedOut), "{}", base.name);
    }
}

/// The most memory that this process ever had resident, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
