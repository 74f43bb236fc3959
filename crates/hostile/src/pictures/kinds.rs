//! Files of other kinds, files of nothing but a first mark, and one format's mark on another's body.

use super::bases::{BMP, Base, GIF, JPEG, LOSSY_WEBP, PALETTE_PNG};
use super::{BadPicture, Damaged, TooMuch, Unknown, bad};

/// How the formats that are read begin.
const MARKS: [(&str, &[u8]); 5] = [
    ("jpeg", b"\xff\xd8\xff"),
    ("png", b"\x89PNG\r\n\x1a\n"),
    ("gif", b"GIF89a"),
    ("webp", b"RIFF\x10\0\0\0WEBP"),
    ("bmp", b"BM"),
];

const OTHERS: [(&str, &[u8]); 16] = [
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
    ("tiff", b"II*\0\x08\0\0\0\0\0\0\0"),
    ("icon", b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0\x20\0"),
    ("heif", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
    ("postscript", b"%!PS-Adobe-3.0\n/x {x} def x"),
];

pub(super) fn refused() -> Vec<BadPicture> {
    let mut all = vec![bad("empty", b"", Damaged)];
    all.extend(OTHERS.map(|(name, bytes)| bad(format!("no picture but {name}"), bytes, Unknown)));
    for (mark, start) in MARKS {
        all.push(bad(format!("nothing but the mark of {mark}"), start, Damaged));
        for Base { name, bytes } in [JPEG, PALETTE_PNG, GIF, LOSSY_WEBP, BMP] {
            if !bytes.starts_with(&start[..2]) {
                let body = [start, &bytes[start.len()..]].concat();
                // Where sides follow at once, or some way behind, another format's bytes make huge ones.
                let fault = match mark {
                    "bmp" => TooMuch,
                    "gif" if name != LOSSY_WEBP.name => TooMuch,
                    _ => Damaged,
                };
                all.push(bad(format!("mark of {mark} on the body of {name}"), body, fault));
            }
        }
    }
    all
}
