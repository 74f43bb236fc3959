//! Decodes arbitrary bytes to a picture, or to an error.
#![no_main]

use std::time::{Duration, Instant};

use kosmos2::processor::image::{DecodeOptions, Header, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let options = DecodeOptions {
        max_pixels: 1 << 20,
        max_memory: 64 << 20,
        deadline: Some(Instant::now() + Duration::from_secs(5)),
        ..DecodeOptions::default()
    };
    let Ok(picture) = decode(bytes, &options) else { return };
    let header = Header::read(bytes, &options).expect("the header of a decoded picture is valid");
    let (width, height) = picture.rgb.dimensions();
    assert_eq!(u64::from(width) * u64::from(height), u64::from(header.width) * u64::from(header.height));
    assert!(picture.rgb.as_raw().len() as u64 <= header.memory);
});
