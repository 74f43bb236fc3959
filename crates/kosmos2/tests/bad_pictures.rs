//! Hundreds of bad pictures: each is refused for the expected reason, and none crashes the process or takes much
//! memory.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::panic::catch_unwind;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hostile::pictures::{PictureFault, costly, flipped, refused};
use kosmos2::processor::image::{DecodeOptions, Header, ImageError, PictureFormat, decode};

/// The limits of a worker with little memory.
fn strict() -> DecodeOptions {
    DecodeOptions { max_pixels: 16_000_000, max_memory: 256 << 20, ..DecodeOptions::default() }
}

fn fault_of(error: &ImageError) -> Option<PictureFault> {
    match error {
        ImageError::UnknownFormat
        | ImageError::UnsupportedFormat { .. }
        | ImageError::NotAPicture { .. }
        | ImageError::Unsupported { .. } => Some(PictureFault::Unsupported),
        ImageError::Empty | ImageError::Undecodable { .. } => Some(PictureFault::Damaged),
        ImageError::TimedOut => None,
        _ => Some(PictureFault::OverLimit),
    }
}

/// Makes tests run one at a time, because they measure the memory of the process.
fn exclusive() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_bad_picture_is_refused_for_its_reason_within_little_memory() {
    let all = refused();
    let names: HashSet<&str> = all.iter().map(|picture| picture.name.as_str()).collect();
    assert_eq!(names.len(), all.len());
    assert!(all.len() >= 300, "{}", all.len());
    let _guard = exclusive();
    let before = reset_peak();
    let mut wrong = Vec::new();
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
    let taken = peak().saturating_sub(before);
    println!("{} bad pictures refused; peak memory {} MiB", all.len(), taken >> 20);
    // The files and what decoders allocate before they find the fault take about 30 MiB. A decoder that trusted one of
    // these headers would take hundreds of MiB.
    assert!(taken < 128 << 20, "{taken} bytes");
}

#[test]
fn pictures_made_to_cost_much_cost_no_more_than_their_headers_were_let_through_with() {
    let (_guard, all) = (exclusive(), costly());
    let before = reset_peak();
    for (name, bytes) in all {
        let decoded = catch_unwind(|| decode(&bytes, &strict()).map(|picture| picture.facts));
        let decoded = decoded.unwrap_or_else(|_| panic!("{name}: the decoder panicked"));
        println!("{name}: {decoded:?}");
        if let Ok(facts) = decoded {
            let header = Header::read(&bytes, &strict()).unwrap();
            assert_eq!((header.width, header.height), (facts.width, facts.height), "{name}");
        }
    }
    let taken = peak().saturating_sub(before);
    println!("peak memory {} MiB", taken >> 20);
    // Some of these are decoded completely, including some of 4000×4000 pixels.
    assert!(taken < 256 << 20, "{taken} bytes");
}

#[test]
fn a_figure_in_an_error_is_one_that_the_headers_give() {
    let _guard = exclusive();
    let mut compared = 0;
    for picture in refused() {
        if let Err(error @ ImageError::TooMuchMemory { .. }) = decode(&picture.bytes, &strict()) {
            assert_eq!(Header::read(&picture.bytes, &strict()).err(), Some(error), "{}", picture.name);
            compared += 1;
        }
    }
    assert!(compared > 0);
    // Metadata is not decompressed to its end, so that its size is not known.
    let (_, bytes) = costly().into_iter().find(|(name, _)| name == "png with xmp of 1 GiB").unwrap();
    let error = decode(&bytes, &strict()).unwrap_err();
    assert_eq!(error, ImageError::TooMuchMetadata { format: PictureFormat::Png });
    assert!(!error.to_string().contains(|c: char| c.is_ascii_digit()), "{error}");
}

#[test]
fn flipped_bits_never_end_the_process() {
    let (_guard, mut panicked) = (exclusive(), Vec::new());
    for (name, bytes) in flipped(4, 60) {
        if catch_unwind(|| decode(&bytes, &strict()).map(|picture| picture.facts)).is_err() {
            panicked.push(name);
        }
    }
    // Callers catch panics of third-party decoders, but none is known.
    assert!(panicked.is_empty(), "{panicked:?}");
}

#[test]
fn a_picture_whose_time_is_over_is_given_up_in_every_format() {
    let _guard = exclusive();
    for picture in hostile::pictures::VALID {
        let options = DecodeOptions { deadline: Some(Instant::now()), ..strict() };
        assert_eq!(decode(picture.bytes, &options).err(), Some(ImageError::TimedOut), "{}", picture.name);
    }
}

/// Resets the peak to the memory that is resident now, and returns it.
fn reset_peak() -> u64 {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    peak()
}

/// Peak resident memory of this process in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
