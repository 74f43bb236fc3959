//! Pictures named on the command line: files, directories, standard input, S3 objects and web addresses.

use std::collections::VecDeque;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use tokio::sync::OnceCell;
use worker::fetch::http::WebReader;
use worker::fetch::s3::ObjectStore;
use worker::settings::S3Settings;

/// File endings that a directory is searched for.
const ENDINGS: [&str; 9] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"];

/// One picture to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    File(PathBuf),
    StandardInput,
    Object { bucket: String, key: String },
    Web(String),
}

impl Source {
    /// Reads an argument; a directory becomes the pictures below it, in order of name.
    pub(crate) fn from_argument(argument: &str) -> anyhow::Result<Vec<Self>> {
        if argument == "-" {
            return Ok(vec![Self::StandardInput]);
        }
        if let Some(rest) = argument.strip_prefix("s3://") {
            let parts = rest.split_once('/').filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty());
            let (bucket, key) = parts.ok_or_else(|| anyhow!("{argument}: an S3 picture is written s3://bucket/key"))?;
            return Ok(vec![Self::Object { bucket: bucket.into(), key: key.into() }]);
        }
        if argument.starts_with("http://") || argument.starts_with("https://") {
            return Ok(vec![Self::Web(argument.into())]);
        }
        let path = Path::new(argument);
        if !path.is_dir() {
            return Ok(vec![Self::File(path.into())]);
        }
        let found = pictures_below(path).with_context(|| format!("{argument}: cannot be searched"))?;
        if found.is_empty() {
            bail!("{argument}: holds no picture; files ending in {} are looked for", ENDINGS.join(", "));
        }
        Ok(found.into_iter().map(Self::File).collect())
    }

    /// What results call it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::StandardInput => "-".into(),
            Self::Object { bucket, key } => format!("s3://{bucket}/{key}"),
            Self::Web(address) => address.clone(),
        }
    }

    /// A name for files made from it, without folders or ending.
    pub(crate) fn stem(&self) -> String {
        let name = self.name();
        let path = name.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        let stem = Path::new(path).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        match stem.as_str() {
            "" | "-" => "picture".into(),
            _ => stem,
        }
    }
}

/// Files with a picture's ending below a directory, in order of path. Links are not followed, so it always ends.
fn pictures_below(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), VecDeque::from([dir.to_path_buf()]));
    while let Some(dir) = open.pop_front() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let path = entry.path();
            let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
            if entry.file_type()?.is_dir() {
                open.push_back(path);
            } else if ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) && path.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Reads sources, each up to a number of bytes.
pub(crate) struct Reader {
    s3: S3Settings,
    /// Both made when first needed: they read certificates and look for credentials.
    store: OnceCell<ObjectStore>,
    web: OnceCell<WebReader>,
    max_bytes: u64,
}

impl Reader {
    pub(crate) fn new(s3: &S3Settings, max_bytes: Option<u64>) -> Self {
        let max_bytes = max_bytes.unwrap_or(s3.max_object_bytes);
        // The allow-list guards against jobs of others; these addresses were typed by whoever holds the keys.
        let s3 = S3Settings { allow: vec!["*".into()], max_object_bytes: max_bytes, ..s3.clone() };
        Self { s3, store: OnceCell::new(), web: OnceCell::new(), max_bytes }
    }

    /// The bytes of one picture.
    pub(crate) async fn read(&self, source: &Source) -> anyhow::Result<Bytes> {
        let limit = self.max_bytes;
        match source {
            Source::Object { bucket, key } => {
                let object = protocol::v1::S3Object { bucket: bucket.clone(), key: key.clone(), ..Default::default() };
                let store = self.store.get_or_init(|| ObjectStore::new(&self.s3)).await;
                Ok(store.read(&object).await?.bytes)
            }
            Source::Web(address) => {
                let made = || async { WebReader::new(limit, self.s3.operation_timeout) };
                Ok(self.web.get_or_try_init(made).await?.read(address).await?)
            }
            Source::StandardInput => {
                let read = move || read_bounded(&mut std::io::stdin().lock(), limit);
                tokio::task::spawn_blocking(read).await?
            }
            Source::File(path) => {
                let path = path.clone();
                let read = move || read_bounded(&mut fs::File::open(path)?, limit);
                tokio::task::spawn_blocking(read).await?
            }
        }
    }
}

fn read_bounded(from: &mut dyn Read, limit: u64) -> anyhow::Result<Bytes> {
    let mut bytes = Vec::new();
    from.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        bail!("has more than {limit} bytes; raise --max-bytes if it is to be read");
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_told_apart_by_their_form() {
        let one = |argument| Source::from_argument(argument).unwrap().remove(0);
        assert_eq!(one("-"), Source::StandardInput);
        assert_eq!(one("s3://b/a/k.jpg"), Source::Object { bucket: "b".into(), key: "a/k.jpg".into() });
        assert_eq!(one("https://h/p.png?x=1"), Source::Web("https://h/p.png?x=1".into()));
        assert_eq!(one("no/such.jpg"), Source::File("no/such.jpg".into()));
        for bad in ["s3://", "s3://b", "s3://b/", "s3:///k"] {
            assert!(Source::from_argument(bad).unwrap_err().to_string().contains("s3://bucket/key"));
        }
    }

    #[test]
    fn names_of_drawn_files_come_from_the_last_part() {
        let stem = |argument| Source::from_argument(argument).unwrap()[0].stem();
        assert_eq!(stem("a/b/c.tar.jpg"), "c.tar");
        assert_eq!(stem("https://h/p.png?x=/y.z"), "p");
        assert_eq!(stem("s3://b/a/k"), "k");
        assert_eq!(stem("-"), "picture");
        assert_eq!(stem("https://host/"), "host");
    }

    #[test]
    fn a_directory_gives_its_pictures_in_order_and_none_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let argument = dir.path().to_str().unwrap();
        assert!(Source::from_argument(argument).unwrap_err().to_string().contains("holds no picture"));
        fs::create_dir(dir.path().join("b")).unwrap();
        for name in ["c.PNG", "a.jpg", "b/d.webp", "e.tif", "f.TIFF", "g.avif", "notes.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let names: Vec<String> = Source::from_argument(argument).unwrap().iter().map(Source::stem).collect();
        assert_eq!(names, ["a", "d", "c", "e", "f", "g"]);
    }

    #[test]
    fn reading_stops_at_the_limit() {
        assert_eq!(read_bounded(&mut &[1u8, 2, 3][..], 3).unwrap().len(), 3);
        assert!(read_bounded(&mut std::io::repeat(0), 3).unwrap_err().to_string().contains("more than 3 bytes"));
    }
}
