//! Compares decoded pictures byte for byte with Pillow and the reference's conversion, lossy formats too.
//!
//! make_image_fixtures.py makes `images/expected`, make_picture_kinds.py makes `images/kinds`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use common::{fixtures, json, reference_model_dir};
use image::{ImageReader, RgbImage};
use kosmos2::processor::image::{DecodeOptions, ImageError, ImageProcessor, PictureFormat, decode};
use sha2::{Digest, Sha256};

fn processor() -> ImageProcessor {
    ImageProcessor::from_dir(reference_model_dir().path()).unwrap()
}

fn square(processor: &ImageProcessor, file: &Path, apply_orientation: bool) -> RgbImage {
    let options = DecodeOptions { apply_orientation, ..DecodeOptions::default() };
    let picture = decode(&fs::read(file).unwrap(), &options).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    processor.square(&picture.rgb)
}

#[test]
fn every_picture_comes_out_as_pillows() {
    let processor = processor();
    let folder = fixtures().join("images");
    let (mut compared, mut turned) = (0, 0);
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let expected = |kind: &str| folder.join(format!("expected/{name}.{kind}.png"));
        let oriented = if expected("oriented").exists() { "oriented" } else { "plain" };
        turned += usize::from(oriented == "oriented");
        for (kind, apply_orientation) in [("plain", false), (oriented, true)] {
            let golden = ImageReader::open(expected(kind)).unwrap().decode().unwrap().into_rgb8();
            let found = square(&processor, &path, apply_orientation);
            let differ = found.as_raw().iter().zip(golden.as_raw()).filter(|(a, b)| a != b).count();
            assert_eq!(differ, 0, "{name} ({kind}): {differ} of {} bytes differ", golden.as_raw().len());
            compared += 1;
        }
    }
    println!("{compared} comparisons without a differing byte, {turned} pictures turned by their EXIF orientation");
    assert!(compared >= 78 && turned >= 7);
}

/// SHA-256 of a picture's resized square in hexadecimal: as stored and, if it differs, upright.
#[derive(serde::Deserialize)]
struct Expected {
    stored: String,
    oriented: Option<String>,
}

#[test]
fn kinds_that_writers_disagree_on_come_out_as_pillows() {
    let (pictures, turned) = compare_kinds("images/kinds");
    assert!(pictures >= 165 && turned >= 60);
}

#[test]
fn tiff_of_all_kinds_comes_out_as_pillows() {
    // Pillow rotates a TIFF when it loads the pixels, so that none has different pixels as stored.
    assert_eq!(compare_kinds("images/tiff"), (147, 0));
}

#[test]
fn avif_of_all_kinds_comes_out_as_pillows() {
    assert_eq!(compare_kinds("images/avif"), (56, 10));
}

/// Compares the pictures of a folder with its expected.json. Returns how many there are, and how many of them are
/// rotated by their metadata.
fn compare_kinds(folder: &str) -> (usize, usize) {
    let processor = processor();
    let folder = fixtures().join(folder);
    let expected: BTreeMap<String, Expected> = json(folder.join("expected.json"));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), expected.len() + 1, "expected.json is out of date");
    let (mut wrong, mut turned) = (Vec::new(), 0);
    for (name, Expected { stored, oriented }) in &expected {
        turned += usize::from(oriented.is_some());
        for (hash, apply_orientation) in [(stored, false), (oriented.as_ref().unwrap_or(stored), true)] {
            let found = Sha256::digest(square(&processor, &folder.join(name), apply_orientation).as_raw());
            let found: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
            if found != *hash {
                wrong.push(format!("{name}, oriented: {apply_orientation}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), 2 * expected.len(), wrong.join("\n"));
    println!("{} pictures, {turned} of them turned by their metadata", expected.len());
    (expected.len(), turned)
}

#[test]
fn kinds_that_are_not_read_are_named() {
    let gray = fs::read(fixtures().join("images/gray.jpg")).unwrap();
    let bmp = fs::read(fixtures().join("images/small.bmp")).unwrap();
    let patched = |bytes: &[u8], at: usize, new: u8| {
        let mut patched = bytes.to_vec();
        patched[at] = new;
        patched
    };
    // JPEG: the frame header's marker is at offset 90, its precision at 93. BMP: bits per pixel are at 28, compression
    // at 30.
    for (bytes, kind) in [
        (patched(&gray, 90, 0xc3), "lossless JPEG"),
        (patched(&gray, 90, 0xcb), "lossless JPEG"),
        (patched(&gray, 90, 0xc5), "hierarchical JPEG"),
        (patched(&gray, 93, 12), "JPEG with 12 bits per sample"),
        (patched(&bmp, 14, 16), "BMP with a header of 16 bytes"),
        (patched(&bmp, 28, 2), "BMP with 2 bits per pixel"),
        (patched(&bmp, 30, 1), "run-length encoded BMP with 24 bits per pixel"),
        (patched(&bmp, 30, 4), "BMP that contains a JPEG"),
        (patched(&bmp, 30, 5), "BMP that contains a PNG"),
        (patched(&bmp, 30, 3), "BMP with these colour masks"),
    ] {
        let error = decode(&bytes, &DecodeOptions::default()).unwrap_err();
        assert_eq!(error, ImageError::Unsupported { what: kind.to_owned() });
        assert!(error.to_string().contains(&format!("{kind} is not supported")), "{error}");
    }
}

#[test]
fn formats_that_are_not_read_are_named() {
    let compressed = |text: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    };
    let boxes = |brand: &[u8; 4]| [b"\0\0\0\x18ftyp", &brand[..], b"\0\0\0\0mif1miaf"].concat();
    // A TIFF with one field, DNGVersion.
    let dng = b"II*\0\x08\0\0\0\x01\0\x12\xc6\x01\0\x04\0\0\0\x01\x04\0\0\0\0\0\0".to_vec();
    let drawing = b"<?xml version='1.0'?>\n<!-- a drawing -->\n<svg xmlns='http://www.w3.org/2000/svg'/>";
    for (bytes, name) in [
        (boxes(b"heic"), "a HEIC (HEIF) file"),
        (boxes(b"heix"), "a HEIC (HEIF) file"),
        (boxes(b"jp2 "), "a JPEG 2000 file"),
        (boxes(b"mp42"), "an MP4 video"),
        (b"\xff\x0a\xfa\x7f".to_vec(), "a JPEG XL file"),
        (b"\0\0\0\x0cJXL \r\n\x87\n".to_vec(), "a JPEG XL file"),
        (b"\xff\x4f\xff\x51\0\x2f".to_vec(), "a JPEG 2000 file"),
        (b"\0\0\0\x0cjP  \r\n\x87\n".to_vec(), "a JPEG 2000 file"),
        (drawing.to_vec(), "an SVG drawing"),
        ([b"\xef\xbb\xbf", &drawing[..]].concat(), "an SVG drawing"),
        (compressed(drawing), "a compressed SVG drawing (SVGZ)"),
        (compressed(b"text"), "a gzip-compressed file"),
        (b"8BPS\0\x01\0\0".to_vec(), "a Photoshop (PSD) file"),
        (b"8BPS\0\x02\0\0".to_vec(), "a large Photoshop (PSB) file"),
        (dng, "a DNG (camera raw) file"),
        (b"II*\0\x10\0\0\0CR\x02\0".to_vec(), "a Canon CR2 (camera raw) file"),
        (b"\0\0\x01\0\x01\0\x10\x10\0\0".to_vec(), "a Windows icon (ICO)"),
        (b"<!DOCTYPE html><title>404</title>".to_vec(), "an HTML page"),
        (b"<Error><Code>NoSuchKey</Code></Error>".to_vec(), "an XML document"),
        (b"%PDF-1.7".to_vec(), "a PDF document"),
    ] {
        let error = decode(&bytes, &DecodeOptions::default()).unwrap_err();
        // Converting makes sense for pictures only.
        let (is_picture, sentence) = match error {
            ImageError::UnsupportedFormat { name: found } => {
                assert_eq!(found, name);
                (true, format!("the picture is {name}, which is not supported; convert it to JPEG, PNG"))
            }
            _ => {
                assert_eq!(error, ImageError::NotAPicture { name });
                (false, format!("the file is {name}, not a picture"))
            }
        };
        let others = ["video", "gzip", "HTML", "XML", "PDF"];
        assert_eq!(is_picture, !others.iter().any(|other| name.contains(other)), "{name}");
        assert!(error.to_string().starts_with(&sentence), "{error}");
    }
}

#[test]
fn values_are_normalised_bytes_in_planes() {
    let processor = processor();
    let bytes = fs::read(fixtures().join("images/exact_224.png")).unwrap();
    let picture = decode(&bytes, &DecodeOptions::default()).unwrap();
    let values = processor.pixel_values(&picture);
    assert_eq!((values.size(), values.as_slice().len()), (224, 3 * 224 * 224));
    // CLIP's constants (Radford et al., 2021).
    let mean = [0.48145466f64, 0.4578275, 0.40821073];
    let std = [0.26862954f64, 0.26130258, 0.27577711];
    for (x, y) in [(0, 0), (223, 0), (17, 100), (223, 223)] {
        for channel in 0..3 {
            let byte = f64::from(picture.rgb.get_pixel(x, y).0[channel]);
            let expected = (byte / 255.0 - mean[channel]) / std[channel];
            let found = values.as_slice()[channel * 224 * 224 + y as usize * 224 + x as usize];
            assert!((f64::from(found) - expected).abs() < 1e-6);
        }
    }
}

#[test]
fn facts_tell_the_size_as_shown_and_the_orientation() {
    let bytes = fs::read(fixtures().join("images/exif_rotated.jpg")).unwrap();
    let turned = decode(&bytes, &DecodeOptions::default()).unwrap().facts;
    let plain = decode(&bytes, &DecodeOptions { apply_orientation: false, ..DecodeOptions::default() }).unwrap().facts;
    assert_eq!((turned.format, turned.width, turned.height), (PictureFormat::Jpeg, 150, 260));
    assert_eq!((turned.orientation, turned.orientation_applied), (6, true));
    assert_eq!((plain.width, plain.height, plain.orientation, plain.orientation_applied), (260, 150, 6, false));
    // A TIFF is rotated even without apply_orientation, as in Pillow.
    let bytes = fs::read(fixtures().join("images/tiff/orientation_6.tif")).unwrap();
    let tiff = decode(&bytes, &DecodeOptions { apply_orientation: false, ..DecodeOptions::default() }).unwrap().facts;
    assert_eq!((tiff.width, tiff.height, tiff.orientation, tiff.orientation_applied), (29, 37, 6, true));
}

#[test]
fn what_is_no_whole_picture_is_an_error() {
    let read = |bytes: &[u8]| decode(bytes, &DecodeOptions::default());
    assert_eq!(read(b"").unwrap_err(), ImageError::Empty);
    assert_eq!(read(b"this is no picture").unwrap_err(), ImageError::UnknownFormat);
    for name in [
        "two_dogs.jpg",
        "progressive.jpg",
        "rgba.png",
        "animated.gif",
        "lossy.webp",
        "rgba_lossless.webp",
        "small.bmp",
        "tiff/tiffcp_jpeg_tiles.tif",
        "tiff/pillow_group4.tif",
        "avif/pillow_420.avif",
    ] {
        let whole = fs::read(fixtures().join("images").join(name)).unwrap();
        for percent in [1, 10, 50, 90] {
            // Only the first frame of an animated file is needed.
            let cut = if name == "animated.gif" { whole.len() * percent / 400 } else { whole.len() * percent / 100 };
            let error = read(&whole[..cut]).err();
            assert!(
                matches!(
                    error,
                    Some(
                        ImageError::Undecodable { .. }
                            | ImageError::UnknownFormat
                            | ImageError::UnsupportedFormat { .. }
                            | ImageError::NotAPicture { .. }
                    )
                ),
                "{name} cut to {percent} %: {error:?}"
            );
        }
    }
}

/// Replaces the three code points of the colour description in an AV1 sequence header, which may start at any bit.
fn with_described_colours(avif: &[u8], was: [u8; 3], now: [u8; 3]) -> Vec<u8> {
    let pattern = |colours: [u8; 3]| colours.into_iter().fold(1u64, |bits, number| bits << 8 | u64::from(number));
    let mut changed = avif.to_vec();
    for at in 0..avif.len() - 4 {
        let window = avif[at..at + 5].iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        for shift in 0..8 {
            let (mask, from) = (0x1ff_ffff << shift, pattern(was) << shift);
            // The container's code points do not match, because they have two bytes each.
            if window & mask == from {
                let new = window & !mask | pattern(now) << shift;
                changed[at..at + 5].copy_from_slice(&new.to_be_bytes()[3..]);
                return changed;
            }
        }
    }
    panic!("the file has no colour description");
}

#[test]
fn colours_of_an_avif_stream_are_read_also_where_their_numbers_are_reserved() {
    let read = |bytes: &[u8]| decode(bytes, &DecodeOptions::default()).map(|picture| picture.rgb.into_raw());
    for (name, colours) in [
        ("avifenc_matrix_1", [1, 13, 1]),
        ("avifenc_matrix_1_limited", [1, 13, 1]),
        ("avifenc_matrix_9", [1, 13, 9]),
        ("avifenc_matrix_of_primaries", [12, 13, 12]),
        ("pillow_420", [1, 13, 6]),
        ("pillow_444_limited", [1, 13, 6]),
        ("avifenc_identity", [1, 13, 0]),
    ] {
        let whole = fs::read(fixtures().join(format!("images/avif/{name}.avif"))).unwrap();
        let pixels = read(&whole).unwrap();
        // Without the container's colour description, the stream's is used.
        let at = whole.windows(4).position(|window| window == b"nclx").unwrap();
        let mut bare = whole.clone();
        bare[at..at + 4].copy_from_slice(b"none");
        assert_eq!(read(&bare).unwrap(), pixels, "{name}");
        if colours[2] == 0 {
            continue;
        }
        for reserved in (0..=255).step_by(3) {
            let odd = with_described_colours(&whole, colours, [reserved, colours[1], reserved]);
            assert_eq!(read(&odd).unwrap(), pixels, "{name}: {reserved}");
            // The file is decoded or refused, depending on the code points; it must not panic.
            drop(read(&with_described_colours(&bare, colours, [reserved, colours[1], reserved])));
        }
    }
}

#[test]
fn damaged_bytes_never_panic() {
    use rand::{Rng, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let options = DecodeOptions { max_pixels: 4_000_000, ..DecodeOptions::default() };
    for name in [
        "gray.jpg",
        "cmyk.jpg",
        "palette.png",
        "animated.gif",
        "lossy.webp",
        "rgba_lossless.webp",
        "palette.bmp",
        "tiff/tiffcp_lzw_big_endian.tif",
        "tiff/tiffcp_group3_2d.tif",
        "avif/avifenc_grid_444.avif",
    ] {
        let whole = fs::read(fixtures().join("images").join(name)).unwrap();
        for _ in 0..60 {
            let mut bytes = whole.clone();
            for _ in 0..random.random_range(1..20) {
                let at = random.random_range(0..bytes.len().min(2000));
                bytes[at] = random.random();
            }
            drop(decode(&bytes, &options));
        }
    }
}

#[test]
fn a_header_that_claims_too_many_pixels_is_refused_at_once() {
    let mut png = fs::read(fixtures().join("images/one_pixel.png")).unwrap();
    png[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    let start = std::time::Instant::now();
    let error = decode(&png, &DecodeOptions::default()).unwrap_err();
    assert_eq!(error, ImageError::TooManyPixels { width: 60_000, height: 60_000, limit: 178_956_970 });
    assert!(start.elapsed().as_secs() < 5);
}

/// The CRC of PNG chunks, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}
