//! Files of other formats, files of only a signature, and signatures of one format with the content of another.

use super::valid::{BMP, GIF, JPEG, LOSSY_WEBP, PALETTE_PNG, ValidPicture};
use super::{BadPicture, Damaged, OverLimit, Unsupported, bad};

/// Signatures of the supported formats.
const SIGNATURES: [(&str, &[u8]); 7] = [
    ("jpeg", b"\xff\xd8\xff"),
    ("png", b"\x89PNG\r\n\x1a\n"),
    ("gif", b"GIF89a"),
    ("webp", b"RIFF\x10\0\0\0WEBP"),
    ("bmp", b"BM"),
    ("tiff", b"II*\0"),
    ("avif", b"\0\0\0\x10ftypavif\0\0\0\0"),
];

/// Files that are not supported pictures.
const OTHER_FILES: [(&str, &[u8]); 55] = [
    ("text", b"this is no picture"),
    ("zeros", &[0; 64]),
    ("ones", &[255; 64]),
    ("one byte", b"x"),
    ("html", b"<!doctype html><title>404</title>"),
    ("xml error of a store", b"<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code></Error>"),
    ("svg", b"<svg xmlns=\"http://www.w3.org/2000/svg\"><script>while(1);</script></svg>"),
    ("json", b"{\"bytes\": \"/9j/4AAQSkZJRg==\"}"),
    ("pdf", b"%PDF-1.7\n1 0 obj\n<< >>\nendobj"),
    ("elf", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0"),
    ("zip", b"PK\x03\x04\x14\0\0\0\x08\0"),
    ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03"),
    ("icon", b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0\x20\0"),
    ("heif", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
    ("postscript", b"%!PS-Adobe-3.0\n/x {x} def x"),
    ("heif of a general brand", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"),
    ("heif of jpeg 2000", b"\0\0\0\x18ftypmif1\0\0\0\0mif1j2ki"),
    ("heif whose brands extend beyond its end", b"\xff\xff\xff\xffftypmif1\0\0\0\0heic"),
    ("canon cr3", b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom"),
    ("mp4", b"\0\0\0\x18ftypisom\0\0\x02\0isommp42"),
    ("quicktime", b"\0\0\0\x14ftypqt  \0\0\0\0qt  "),
    ("old quicktime", b"\0\0\0\x08moov\0\0\0\0"),
    ("jpeg xl stream", b"\xff\x0a\xfa\x7f\x01\x90"),
    ("jpeg xl container", b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl "),
    ("jpeg 2000 stream", b"\xff\x4f\xff\x51\0\x29"),
    ("jpeg 2000 container", b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 "),
    ("jpeg xr", b"II\xbc\x01\x20\0\0\0"),
    ("svg with a byte order mark", b"\xef\xbb\xbf<?xml version='1.0'?><!-- <html> --><svg/>"),
    ("svg in utf-16", b"\xff\xfe<\0s\0v\0g\0>\0"),
    ("svg with a document type", b"<!DOCTYPE svg PUBLIC \"-//W3C//DTD SVG 1.1//EN\" \"x\"><svg/>"),
    ("svg with an unclosed comment", b"<!-- <svg/>"),
    ("psd", b"8BPS\0\x01\0\0\0\0\0\0\0\x03"),
    ("psb", b"8BPS\0\x02\0\0\0\0\0\0\0\x03"),
    ("cursor", b"\0\0\x02\0\x01\0\x20\x20\0\0\0\0\0\0"),
    ("pnm", b"P6\n2 2\n255\n000000000000"),
    ("exr", b"\x76\x2f\x31\x01\x02\0\0\0"),
    ("hdr", b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n"),
    ("qoi", b"qoif\0\0\0\x02\0\0\0\x02\x03\0"),
    ("dds", b"DDS \x7c\0\0\0"),
    ("bpg", b"BPG\xfb\0\0"),
    ("dicom", DICOM),
    ("fits", b"SIMPLE  =                    T"),
    ("xcf", b"gimp xcf file\0"),
    ("djvu", b"AT&TFORM\0\0\0\0DJVU"),
    ("pcx", b"\x0a\x05\x01\x08\0\0\0\0"),
    ("tga", b"\0\0\x02\0\0\0\0\0TRUEVISION-XFILE.\0"),
    ("raf", b"FUJIFILMCCD-RAW 0201"),
    ("rw2", b"IIU\0\x18\0\0\0"),
    ("orf", b"IIRO\x08\0\0\0"),
    ("eps with a preview", b"\xc5\xd0\xd3\xc6\x20\0\0\0"),
    ("webm", b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81"),
    ("avi", b"RIFF\x10\0\0\0AVI LIST"),
    ("emf", EMF),
    ("git lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
    ("seven letters", b"picture"),
];

/// A preamble of zeros, then the signature.
const DICOM: &[u8] = b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0DICM";
/// The signature follows the bounds and the frame.
const EMF: &[u8] = b"\x01\0\0\0\x6c\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0 EMF";

pub(super) fn refused() -> Vec<BadPicture> {
    let mut all = vec![bad("empty", b"", Damaged)];
    all.extend(OTHER_FILES.map(|(name, bytes)| bad(format!("not a picture but {name}"), bytes, Unsupported)));
    for (format, signature) in SIGNATURES {
        all.push(bad(format!("only the signature of {format}"), signature, Damaged));
        for ValidPicture { name, bytes } in [JPEG, PALETTE_PNG, GIF, LOSSY_WEBP, BMP] {
            if !bytes.starts_with(&signature[..2]) {
                let file = [signature, &bytes[signature.len()..]].concat();
                // In some of these, the other format's bytes state a huge width or height.
                let fault = match format {
                    "bmp" => OverLimit,
                    "gif" if name != LOSSY_WEBP.name => OverLimit,
                    "tiff" if name == LOSSY_WEBP.name => OverLimit,
                    _ => Damaged,
                };
                all.push(bad(format!("signature of {format} before the content of {name}"), file, fault));
            }
        }
    }
    all
}
