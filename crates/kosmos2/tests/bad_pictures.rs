//! Bad pictures by the hundred: each is refused for the right reason, none ends the process or makes it large.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::panic::catch_unwind;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hostile::pictures::{PictureFault, costly, flipped, refused};
use kosmos2::processor::image::{DecodeOptions, Header, ImageError, PictureFormat, decode};

/// What a worker with little memory allows.
fn strict() -> DecodeOptions {
    DecodeOptions { max_pixels: 16_000_000, max_memory: 256 << 20, ..DecodeOptions::default() }
}

fn fault_of(error: &ImageError) -> Option<PictureFault> {
    match error {
        ImageError::UnknownFormat | ImageError::UnsupportedFormat { .. } | ImageError::Unsupported { .. } => {
            Some(PictureFault::Unknown)
        }
        ImageError::Empty | ImageError::Undecodable { .. } => Some(PictureFault::Damaged),
        ImageError::TimedOut => None,
        _ => Some(PictureFault::TooMuch),
    }
}

/// Memory is the process's own: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_bad_picture_is_refused_for_its_reason_within_little_memory() {
    let all = refused();
    let names: HashSet<&str> = all.iter().map(|picture| picture.name.as_str()).collect();
    assert_eq!(names.len(), all.len());
    assert!(all.len() >= 300, "{}", all.len());
    let _alone = alone();
    let before = forget_peak();
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
    // The files themselves, and what a decoder holds before it finds the fault: about 30 MiB. A decoder that trusted
    // one of these headers would take hundreds.
    assert!(taken < 128 << 20, "{taken} bytes");
}

#[test]
fn pictures_made_to_cost_much_cost_no_more_than_their_headers_were_let_through_with() {
    let (_alone, all) = (alone(), costly());
    let before = forget_peak();
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
    // Here some are decoded to their end, 4000 by 4000 pixels among them.
    assert!(taken < 256 << 20, "{taken} bytes");
}

#[test]
fn a_figure_in_an_error_is_one_that_the_headers_give() {
    let _alone = alone();
    let mut figures = 0;
    for picture in refused() {
        if let Err(error @ ImageError::TooMuchMemory { .. }) = decode(&picture.bytes, &strict()) {
            assert_eq!(Header::read(&picture.bytes, &strict()).err(), Some(error), "{}", picture.name);
            figures += 1;
        }
    }
    assert!(figures > 0);
    // Metadata are not counted to their end, so there is no figure to tell.
    let (_, bytes) = costly().into_iter().find(|(name, _)| name == "png with xmp of 1 GiB").unwrap();
    let error = decode(&bytes, &strict()).unwrap_err();
    assert_eq!(error, ImageError::TooMuchMetadata { format: PictureFormat::Png });
    assert!(!error.to_string().contains(|c: char| c.is_ascii_digit()), "{error}");
}

#[test]
fn flipped_bits_never_end_the_process() {
    let (_alone, mut panicked) = (alone(), Vec::new());
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
    let _alone = alone();
    for base in hostile::pictures::WHOLE {
        let options = DecodeOptions { deadline: Some(Instant::now()), ..strict() };
        assert_eq!(decode(base.bytes, &options).err(), Some(ImageError::TimedOut), "{}", base.name);
    }
}

/// Lets the peak begin anew with what is resident now, of which earlier tests left some. Returns that.
fn forget_peak() -> u64 {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    peak()
}

/// The most memory that this process had resident, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
