//! Recognizes formats that are not supported, so that errors can name them.

use std::io::Read;

use flate2::read::GzDecoder;

use super::super::bytes::bytes_at;
use super::super::tiff::Directory;

/// Bytes of a text file that are searched for its first element.
const TEXT_PREFIX: usize = 4 << 10;

/// The names of formats that are not pictures: converting such a file to another format makes no sense.
pub(super) const NOT_PICTURES: [&str; 19] = [
    "a PDF document",
    "a ZIP archive",
    "a 7z archive",
    "a RAR archive",
    "a Zstandard-compressed file",
    "an XZ-compressed file",
    "a bzip2-compressed file",
    "a gzip-compressed file",
    "a Matroska or WebM video",
    "an MPEG video",
    "a Flash video",
    "an Ogg file",
    "a Windows Media file",
    "a QuickTime video",
    "an AVI video",
    "an MP4 video",
    "an HTML page",
    "an XML document",
    "a Git LFS pointer (run `git lfs pull` to get the picture)",
];

/// The name of an unsupported format with its article; `None` if the format is not recognized.
pub(super) fn unsupported_format_name(file: &[u8]) -> Option<&'static str> {
    by_signature(file).or_else(|| by_container(file)).or_else(|| by_text(file)).or_else(|| by_other_content(file))
}

/// Formats with a signature at the start of the file.
fn by_signature(file: &[u8]) -> Option<&'static str> {
    const SIGNATURES: [(&[u8], &str); 57] = [
        (b"\xff\x0a", "a JPEG XL file"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL file"),
        (b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 file"),
        (b"8BPS\0\x01", "a Photoshop (PSD) file"),
        (b"8BPS\0\x02", "a large Photoshop (PSB) file"),
        (b"II\xbc", "a JPEG XR file"),
        (b"BPG\xfb", "a BPG file"),
        (b"FLIF", "a FLIF file"),
        (b"qoif", "a QOI file"),
        (b"DDS ", "a DirectDraw (DDS) file"),
        (b"\xabKTX ", "a KTX texture"),
        (b"\x76\x2f\x31\x01", "an OpenEXR file"),
        (b"#?RADIANCE", "a Radiance HDR file"),
        (b"#?RGBE", "a Radiance HDR file"),
        (b"SIMPLE  =", "a FITS file"),
        (b"gimp xcf", "a GIMP (XCF) file"),
        (b"icns", "an Apple icon (ICNS)"),
        (b"AT&TFORM", "a DjVu file"),
        (b"\x59\xa6\x6a\x95", "a Sun raster file"),
        (b"\x01\xda\0\x01", "an SGI image file"),
        (b"\x01\xda\x01\x01", "an SGI image file"),
        (b"\x0a\x05\x01\x08", "a PCX file"),
        (b"\x8bJNG\r\n\x1a\n", "a JNG file"),
        (b"\x8aMNG\r\n\x1a\n", "an MNG file"),
        (b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)"),
        (b"FUJIFILMCCD-RAW", "a Fujifilm RAF (camera raw) file"),
        (b"IIU\0", "a Panasonic RW2 (camera raw) file"),
        (b"IIRO", "an Olympus ORF (camera raw) file"),
        (b"IIRS", "an Olympus ORF (camera raw) file"),
        (b"MMOR", "an Olympus ORF (camera raw) file"),
        (b"FOVb", "a Sigma X3F (camera raw) file"),
        (b"\0MRM", "a Minolta MRW (camera raw) file"),
        (b"%!PS", "a PostScript or EPS file"),
        (b"\x04%!PS", "a PostScript or EPS file"),
        (b"\xc5\xd0\xd3\xc6", "an EPS file"),
        (b"%PDF-", "a PDF document"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"Rar!\x1a\x07", "a RAR archive"),
        (b"\x28\xb5\x2f\xfd", "a Zstandard-compressed file"),
        (b"\xfd7zXZ\0", "an XZ-compressed file"),
        (b"BZh", "a bzip2-compressed file"),
        (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
        (b"\0\0\x01\xba", "an MPEG video"),
        (b"\0\0\x01\xb3", "an MPEG video"),
        (b"FLV\x01", "a Flash video"),
        (b"OggS", "an Ogg file"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file"),
        (b"P1", "a PNM (PBM) file"),
        (b"P2", "a PNM (PGM) file"),
        (b"P3", "a PNM (PPM) file"),
        (b"P4", "a PNM (PBM) file"),
        (b"P5", "a PNM (PGM) file"),
        (b"P6", "a PNM (PPM) file"),
        (b"P7", "a PNM (PAM) file"),
        (b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull` to get the picture)"),
    ];
    let (signature, name) = SIGNATURES.iter().find(|(signature, _)| file.starts_with(signature))?;
    // Two letters are too weak a signature; in PNM, whitespace follows.
    let is_pnm = signature.len() == 2 && signature.starts_with(b"P");
    (!is_pnm || file.get(2).is_some_and(u8::is_ascii_whitespace)).then_some(name)
}

/// Container formats, whose type follows the first bytes.
fn by_container(file: &[u8]) -> Option<&'static str> {
    match (bytes_at::<4>(file, 0)?, bytes_at::<4>(file, 8)) {
        (_, Some(brand)) if bytes_at(file, 4) == Some(*b"ftyp") => return Some(name_of_brand(file, brand)),
        (_, _) if matches!(bytes_at(file, 4), Some([b'm', b'o', b'o', b'v'] | [b'm', b'd', b'a', b't'])) => {
            return Some("a QuickTime video");
        }
        ([b'R', b'I', b'F', b'F'], Some([b'A', b'V', b'I', b' '])) => return Some("an AVI video"),
        ([0, 0, 1, 0], _) if is_icon(file) => return Some("a Windows icon (ICO)"),
        ([0, 0, 2, 0], _) if is_icon(file) => return Some("a Windows cursor (CUR)"),
        ([1, 0, 0, 0], _) if bytes_at(file, 40) == Some(*b" EMF") => return Some("a Windows metafile (EMF)"),
        _ => {}
    }
    (bytes_at(file, 128) == Some(*b"DICM")).then_some("a DICOM file")
}

/// ISO base media files (ISO/IEC 14496-12): by the major brand or, if it does not name a codec, by the compatible ones.
fn name_of_brand(file: &[u8], brand: [u8; 4]) -> &'static str {
    const HEVC: [&[u8; 4]; 8] = [b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"];
    let length = u32::from_be_bytes(bytes_at(file, 0).unwrap_or_default()) as usize;
    let brands = file.get(16..length.min(file.len())).unwrap_or_default().as_chunks::<4>().0;
    let has = |wanted: &[&[u8; 4]]| wanted.contains(&&brand) || brands.iter().any(|one| wanted.contains(&one));
    match &brand {
        b"crx " => "a Canon CR3 (camera raw) file",
        b"jp2 " | b"jpx " | b"jpm " | b"j2ki" | b"j2is" => "a JPEG 2000 file",
        b"jxl " => "a JPEG XL file",
        b"mif1" | b"msf1" | b"mif2" | b"heif" if !has(&HEVC) => "a HEIF file that is not AVIF",
        _ if HEVC.contains(&&brand) || matches!(&brand, b"mif1" | b"msf1" | b"mif2" | b"heif") => "a HEIC (HEIF) file",
        b"qt  " => "a QuickTime video",
        b"avci" | b"avcs" => "a HEIF file that is not AVIF",
        _ => "an MP4 video",
    }
}

fn is_icon(file: &[u8]) -> bool {
    // At least one image; the reserved byte of its entry is 0.
    bytes_at(file, 4).is_some_and(|count| u16::from_le_bytes(count) > 0) && file.get(9) == Some(&0)
}

/// Text formats.
fn by_text(file: &[u8]) -> Option<&'static str> {
    if file.starts_with(b"\x1f\x8b") {
        let mut start = Vec::new();
        // Whatever was decompressed before an error is enough.
        let _ = GzDecoder::new(file).take(TEXT_PREFIX as u64).read_to_end(&mut start);
        let is_svg = lowercase_text(&start).is_some_and(|text| name_of_text(&text) == Some(SVG));
        return Some(if is_svg { "a compressed SVG drawing (SVGZ)" } else { "a gzip-compressed file" });
    }
    name_of_text(&lowercase_text(file)?)
}

const SVG: &str = "an SVG drawing";

/// The start of a text file in lower case, decoded as UTF-8 or UTF-16; `None` if it does not look like text.
fn lowercase_text(file: &[u8]) -> Option<String> {
    let start = &file[..file.len().min(TEXT_PREFIX)];
    let units = |from: fn([u8; 2]) -> u16| start.as_chunks::<2>().0.iter().skip(1).map(move |pair| from(*pair));
    let text = match start {
        [0xff, 0xfe, ..] => char::decode_utf16(units(u16::from_le_bytes)).map(|one| one.unwrap_or(' ')).collect(),
        [0xfe, 0xff, ..] => char::decode_utf16(units(u16::from_be_bytes)).map(|one| one.unwrap_or(' ')).collect(),
        _ => String::from_utf8_lossy(start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start)).into_owned(),
    };
    let text = text.trim_start();
    text.starts_with(['<', '{', '[', '%', '/']).then(|| text.to_lowercase())
}

/// By the first element of a lower-case text, after comments, processing instructions and the document type.
fn name_of_text(text: &str) -> Option<&'static str> {
    let mut rest = text;
    let mut is_xml = false;
    loop {
        rest = rest.trim_start();
        let end = match rest {
            _ if rest.starts_with("<!--") => "-->",
            _ if rest.starts_with("<?") => {
                is_xml |= rest.starts_with("<?xml");
                "?>"
            }
            _ if rest.starts_with("<!doctype svg") => return Some(SVG),
            _ if rest.starts_with("<!doctype html") => return Some("an HTML page"),
            // An internal subset may contain further declarations.
            _ if rest.starts_with("<!doctype") => ">",
            _ => break,
        };
        let Some((_, after)) = rest.split_once(end) else { break };
        rest = after;
    }
    let element: String = rest.strip_prefix('<')?.chars().take_while(|one| !" \t\r\n>/".contains(*one)).collect();
    let name = element.rsplit(':').next().unwrap_or_default();
    match name {
        "svg" => Some(SVG),
        "html" | "head" | "body" | "title" => Some("an HTML page"),
        _ if is_xml || matches!(name, "error" | "html:html") => Some("an XML document"),
        _ => None,
    }
}

/// Formats without a signature at the start of the file.
fn by_other_content(file: &[u8]) -> Option<&'static str> {
    if file.ends_with(b"TRUEVISION-XFILE.\0") {
        return Some("a TGA file");
    }
    // Some writers put other bytes before the header.
    let start = &file[..file.len().min(1 << 10)];
    start.windows(5).any(|window| window == b"%PDF-").then_some("a PDF document")
}

/// The name of a camera raw format that is based on TIFF. Its first image is a thumbnail or the sensor's samples.
pub(super) fn camera_raw_name(file: &[u8]) -> Option<&'static str> {
    const SUBFILE_TYPE: u16 = 254;
    const MAKE: u16 = 271;
    const SUB_IFDS: u16 = 330;
    const DNG_VERSION: u16 = 50_706;
    if bytes_at(file, 8) == Some(*b"CR\x02\0") {
        return Some("a Canon CR2 (camera raw) file");
    }
    let directory = Directory::first(file).ok()?;
    let has = |tag| directory.get(tag).is_some();
    if has(DNG_VERSION) {
        return Some("a DNG (camera raw) file");
    }
    let is_thumbnail = directory.number(SUBFILE_TYPE, 0) == Some(1);
    (is_thumbnail && has(MAKE) && has(SUB_IFDS)).then_some("a camera raw file (such as NEF or ARW)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawings_are_told_by_their_first_element() {
        let wide: Vec<u8> = "\u{feff}<svg/>".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let drawings: [&[u8]; 7] = [
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"\xef\xbb\xbf\n <?xml version=\"1.0\"?>\n<!-- made <by> hand -->\n<svg>",
            b"<?xml version='1.0'?><!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN' 'x'><svg/>",
            b"<!-- a --><!-- b --><svg:svg xmlns:svg='s'>",
            b"<?xml version='1.0'?><?xml-stylesheet href='a.css'?><SVG>",
            b"<svg>",
            &wide,
        ];
        for bytes in drawings {
            assert_eq!(unsupported_format_name(bytes), Some(SVG), "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(
            unsupported_format_name(b"<?xml version='1.0'?><Error><Code>svg</Code></Error>"),
            Some("an XML document")
        );
        assert_eq!(unsupported_format_name(b"<!-- never closed <svg>"), None);
    }

    #[test]
    fn files_of_boxes_are_told_by_their_brands() {
        let file = |brand: &[u8], more: &[u8]| {
            let length = (16 + more.len()) as u32;
            [&length.to_be_bytes()[..], b"ftyp", brand, &[0; 4], more].concat()
        };
        assert_eq!(unsupported_format_name(&file(b"heic", b"mif1")), Some("a HEIC (HEIF) file"));
        assert_eq!(unsupported_format_name(&file(b"mif1", b"heix")), Some("a HEIC (HEIF) file"));
        assert_eq!(unsupported_format_name(&file(b"mif1", b"j2ki")), Some("a HEIF file that is not AVIF"));
        assert_eq!(unsupported_format_name(&file(b"isom", b"mp42")), Some("an MP4 video"));
        assert_eq!(unsupported_format_name(&file(b"crx ", b"isom")), Some("a Canon CR3 (camera raw) file"));
    }

    #[test]
    fn two_letters_are_no_format() {
        assert_eq!(unsupported_format_name(b"P6 1 1 255\n\0\0\0"), Some("a PNM (PPM) file"));
        assert_eq!(unsupported_format_name(b"P6xyz"), None);
        assert_eq!(unsupported_format_name(b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0"), Some("a Windows icon (ICO)"));
        assert_eq!(unsupported_format_name(b"\0\0\x01\0\0\0"), None);
    }
}
