//! The location of a picture, and its name in results.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use anyhow::anyhow;
use wire::identity::sha256_hex;

/// Extensions of the files and objects that a search finds, in the supported formats.
const EXTENSIONS: [&str; 13] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "avif"];

/// Extensions of pictures in formats that are not supported. A search finds them too, so that they count as failures and
/// not as files that are no pictures.
const UNSUPPORTED: [&str; 43] = [
    "heic", "heif", "hif", "jxl", "jp2", "j2k", "jpf", "jpx", "jxr", "wdp", "psd", "psb", "tga", "exr", "qoi", "ico",
    "icns", "svg", "svgz", "pbm", "pgm", "ppm", "pnm", "pam", "pcx", "dds", "xcf", "bpg", "flif", "dng", "cr2", "cr3",
    "crw", "nef", "nrw", "arw", "srf", "sr2", "raf", "orf", "rw2", "pef", "x3f",
];

/// Maximum length of a component of an output path, in bytes: most file systems allow 255, and a suffix is appended.
const MAX_NAME: usize = 200;
/// Hexadecimal digits of the digest at the end of a name that was too long.
const DIGEST: usize = 16;

/// The location of a picture, or of several.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    File(PathBuf),
    StandardInput,
    /// An object. An empty key, or one that ends in `/`, stands for all objects below it.
    Object {
        bucket: String,
        key: String,
    },
    Web(String),
}

/// A picture to annotate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Input {
    pub(crate) source: Source,
    /// The path of output files for it, relative to the output directory: mirrors the tree of the directory searched.
    pub(crate) mirror: PathBuf,
    /// The object's ETag in the listing that found it, without quotes.
    pub(crate) etag: Option<String>,
    /// Whether it was found by a search although its name has no extension: if it is not a picture, it is skipped.
    pub(crate) is_guess: bool,
}

impl Input {
    /// A picture that an argument names.
    pub(crate) fn named(source: Source) -> Self {
        Self { mirror: source.mirror(), source, etag: None, is_guess: false }
    }
}

impl Source {
    /// Parses an argument. Directories and patterns are not told apart from files and objects.
    ///
    /// # Errors
    /// The argument is empty, or an S3 address without a bucket.
    pub(crate) fn from_argument(argument: &str) -> anyhow::Result<Self> {
        if argument.is_empty() {
            return Err(anyhow!("an argument is empty: name a file, a directory, a pattern or an address"));
        }
        if argument == "-" {
            return Ok(Self::StandardInput);
        }
        if let Some(rest) = argument.strip_prefix("s3://") {
            let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(anyhow!("{argument}: expected s3://bucket/key or s3://bucket/prefix/"));
            }
            return Ok(Self::Object { bucket: bucket.into(), key: key.into() });
        }
        if argument.starts_with("http://") || argument.starts_with("https://") {
            return Ok(Self::Web(argument.into()));
        }
        Ok(Self::File(argument.into()))
    }

    /// Its name in results, different for all sources. Bytes of a path that are not UTF-8 are written as `\xff`, and the
    /// characters `\x` of a path as `\x5cx`.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::File(path) if path.as_os_str() == "-" => "./-".into(),
            Self::File(path) => path_name(path.as_os_str(), |_| false),
            Self::StandardInput => "-".into(),
            Self::Object { bucket, key } => format!("s3://{bucket}/{key}"),
            Self::Web(address) => address.clone(),
        }
    }

    /// The relative path of output files for a picture that an argument names: a relative path as given; for an absolute
    /// path or one with `..`, the file name; bucket and key; host and path.
    pub(super) fn mirror(&self) -> PathBuf {
        match self {
            Self::StandardInput => "stdin".into(),
            Self::File(path) if path.is_absolute() || path.components().any(|part| part == Component::ParentDir) => {
                relative(Path::new(path.file_name().unwrap_or_default()))
            }
            Self::File(path) => relative(path),
            Self::Object { bucket, key } => relative(&Path::new(bucket).join(key.trim_start_matches('/'))),
            Self::Web(address) => {
                let path = address.split(['?', '#']).next().unwrap_or_default();
                relative(Path::new(path.split_once("://").map_or(path, |(_, rest)| rest)))
            }
        }
    }
}

/// A name as text. Different names have different texts: bytes that are not UTF-8 and the characters for which `escape` is
/// true become `\xff`, and a `\x` in the name itself `\x5cx`.
fn path_name(name: &OsStr, escape: impl Fn(char) -> bool) -> String {
    let mut text = String::new();
    for chunk in name.as_encoded_bytes().utf8_chunks() {
        let mut rest = chunk.valid().chars().peekable();
        while let Some(character) = rest.next() {
            if escape(character) || (character == '\\' && rest.peek() == Some(&'x')) {
                text.extend(character.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("\\x{byte:02x}")));
            } else {
                text.push(character);
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// The path without `.`, `..` and root. Control characters of each component are escaped and its end is replaced by a
/// digest if it is long, so that it can be a file name with a suffix, different for different names.
pub(super) fn relative(path: &Path) -> PathBuf {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => {
            let name = path_name(name, char::is_control);
            if name.len() <= MAX_NAME {
                return Some(name);
            }
            let digest = sha256_hex(name.as_bytes());
            let kept = name.floor_char_boundary(MAX_NAME - DIGEST - 1);
            Some(format!("{}~{}", &name[..kept], &digest[..DIGEST]))
        }
        _ => None,
    };
    let relative: PathBuf = path.components().filter_map(part).collect();
    if relative.as_os_str().is_empty() { "picture".into() } else { relative }
}

/// What a name says about a file or object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It has the extension of a picture, in a supported format or another one.
    Picture,
    /// It has no extension.
    Unknown,
    /// It has another extension.
    Other,
}

/// What the last component of a path says about the file. An extension has letters, so that `IMG.0001` has none.
pub(super) fn kind_of(path: &Path) -> Kind {
    let Some(extension) = path.extension().map(|extension| extension.to_string_lossy().to_lowercase()) else {
        return Kind::Unknown;
    };
    match extension.as_str() {
        known if EXTENSIONS.contains(&known) || UNSUPPORTED.contains(&known) => Kind::Picture,
        other if other.chars().any(char::is_alphabetic) => Kind::Other,
        _ => Kind::Unknown,
    }
}

/// The extensions of pictures in supported formats, for messages.
pub(super) fn extensions() -> String {
    EXTENSIONS.join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn arguments_are_told_apart_by_their_form() {
        let one = |argument| Source::from_argument(argument).unwrap();
        assert_eq!(one("-"), Source::StandardInput);
        assert_eq!(one("s3://b/a/k.jpg"), Source::Object { bucket: "b".into(), key: "a/k.jpg".into() });
        for bucket in ["s3://b", "s3://b/"] {
            assert_eq!(one(bucket), Source::Object { bucket: "b".into(), key: String::new() });
        }
        assert_eq!(one("https://h/p.png?x=1"), Source::Web("https://h/p.png?x=1".into()));
        assert_eq!(one("no/such.jpg"), Source::File("no/such.jpg".into()));
        for bad in ["s3://", "s3:///k"] {
            assert!(Source::from_argument(bad).unwrap_err().to_string().contains("s3://bucket/key"));
        }
        assert!(Source::from_argument("").unwrap_err().to_string().contains("is empty"));
    }

    #[test]
    fn paths_of_files_made_from_a_picture_stay_below_their_folder() {
        let mirror = |argument: &str| Source::from_argument(argument).unwrap().mirror().display().to_string();
        assert_eq!(mirror("a/./b/c.tar.jpg"), "a/b/c.tar.jpg");
        assert_eq!(mirror("../a/c.jpg"), "c.jpg");
        assert_eq!(mirror("/etc/c.jpg"), "c.jpg");
        assert_eq!(mirror("https://h:80/a/p.png?x=/y.z"), "h:80/a/p.png");
        assert_eq!(mirror("https://host/"), "host");
        assert_eq!(mirror("s3://b/../../k//x\n.jpg"), "b/k/x\\x0a.jpg");
        assert_eq!(mirror("s3://b//etc/passwd"), "b/etc/passwd");
        let long = |end: &str| mirror(&format!("s3://b/{}{end}", "ä".repeat(300)));
        assert!(long("1").len() <= 2 + MAX_NAME && long("1").len() > MAX_NAME - 2);
        assert_ne!(long("1"), long("2"));
        assert_eq!(mirror("-"), "stdin");
        assert_eq!(mirror(".."), "picture");
    }

    #[test]
    fn names_that_are_not_utf_8_stay_different() {
        let name = |bytes: &[u8]| Source::File(OsStr::from_bytes(bytes).into()).name();
        assert_eq!(name(b"a\xffb.jpg"), "a\\xffb.jpg");
        // A name that looks like an escaped one, one that looks like an escaped backslash, and others near them.
        let names: [&[u8]; 7] = [b"a\xff", b"a\xfe", b"a\\xff", b"a\\\xff", b"a\\x5cxff", b"a\\x5c\xff", b"a\\\\xff"];
        let texts: HashSet<_> = names.iter().map(|bytes| name(bytes)).collect();
        assert_eq!(texts.len(), names.len(), "{texts:?}");
        let files: HashSet<_> = names.iter().map(|bytes| relative(Path::new(OsStr::from_bytes(bytes)))).collect();
        assert_eq!(files.len(), names.len(), "{files:?}");
        assert_eq!(name(b"a\\b.jpg"), "a\\b.jpg", "other backslashes stay");
        assert_ne!(name(b"-"), Source::StandardInput.name());
        assert_eq!(name("dä/犬.jpg".as_bytes()), "dä/犬.jpg");
    }

    #[test]
    fn an_extension_tells_pictures_from_other_files_and_digits_tell_nothing() {
        let kind = |name: &str| kind_of(Path::new(name));
        assert_eq!([kind("a.JPG"), kind("b/c.tiff"), kind("a.jfif"), kind("IMG_1.HEIC")], [Kind::Picture; 4]);
        assert_eq!([kind("a"), kind("IMG.0001"), kind("b.txt/c")], [Kind::Unknown; 3]);
        assert_eq!([kind("a.txt"), kind("a.jpg.json"), kind("a.mp4")], [Kind::Other; 3]);
    }
}
