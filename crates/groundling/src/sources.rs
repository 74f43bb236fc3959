//! Pictures named on the command line: files, directories, standard input, S3 objects and URLs.

use std::collections::VecDeque;
use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use anyhow::{anyhow, bail};
use bytes::Bytes;
use tokio::sync::OnceCell;
use worker::fetch::http::WebReader;
use worker::fetch::s3::ObjectStore;
use worker::settings::S3Settings;

/// Extensions of the files that a search of a directory finds.
const EXTENSIONS: [&str; 9] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"];

/// Maximum length of a component of an output path, in bytes: most file systems allow 255, and a suffix is appended.
const MAX_NAME: usize = 200;

/// The location of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    File(PathBuf),
    StandardInput,
    Object { bucket: String, key: String },
    Web(String),
}

/// A picture to annotate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Input {
    pub(crate) source: Source,
    /// The path of output files for it, relative to the output directory: mirrors the tree of the directory searched.
    pub(crate) mirror: PathBuf,
}

/// The pictures that the command line names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Inputs {
    /// The pictures, in the order of the arguments; those of a directory sorted by path.
    pub(crate) found: Vec<Input>,
    /// Directories that could not be read or contain no pictures, and why.
    pub(crate) problems: Vec<String>,
}

impl Inputs {
    /// Adds the picture that an argument names, or all pictures below a directory, except those below `except`.
    ///
    /// # Errors
    /// See [`Source::from_argument`].
    pub(crate) fn add(&mut self, argument: &str, except: Option<&Path>) -> anyhow::Result<()> {
        let source = Source::from_argument(argument)?;
        match &source {
            Source::File(dir) if dir.is_dir() => self.search(dir, except),
            _ => self.found.push(Input { mirror: source.mirror(), source }),
        }
        Ok(())
    }

    /// Adds the files below a directory that have the extension of a picture. Symbolic links to directories are not
    /// followed, so there are no cycles.
    fn search(&mut self, root: &Path, except: Option<&Path>) {
        let except = except.and_then(|dir| dir.canonicalize().ok());
        let is_excluded = |dir: &Path| dir.canonicalize().ok().is_some_and(|dir| Some(dir) == except);
        let (before, mut files, mut open) = (self.problems.len(), Vec::new(), VecDeque::from([root.to_path_buf()]));
        while let Some(dir) = open.pop_front() {
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(error) => {
                    self.problems.push(format!("{}: directory skipped: {error}", dir.display()));
                    continue;
                }
            };
            for entry in entries {
                let read = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)));
                match read {
                    Ok((path, kind)) if kind.is_dir() => {
                        if !is_excluded(&path) {
                            open.push_back(path);
                        }
                    }
                    Ok((path, _)) if has_picture_extension(&path) && path.is_file() => files.push(path),
                    Ok(_) => {}
                    Err(error) => {
                        self.problems.push(format!("{}: directory entry skipped: {error}", dir.display()));
                    }
                }
            }
        }
        if files.is_empty() && self.problems.len() == before {
            let extensions = EXTENSIONS.join(", ");
            self.problems.push(format!("{}: contains no pictures (files ending in {extensions})", root.display()));
        }
        files.sort();
        self.found.extend(files.into_iter().map(|path| {
            let mirror = relative(path.strip_prefix(root).unwrap_or(&path));
            Input { source: Source::File(path), mirror }
        }));
    }
}

impl Source {
    /// Parses an argument. Directories are not told apart from files.
    ///
    /// # Errors
    /// An S3 address without a bucket or key.
    pub(crate) fn from_argument(argument: &str) -> anyhow::Result<Self> {
        if argument == "-" {
            return Ok(Self::StandardInput);
        }
        if let Some(rest) = argument.strip_prefix("s3://") {
            let parts = rest.split_once('/').filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty());
            let (bucket, key) = parts.ok_or_else(|| anyhow!("{argument}: expected s3://bucket/key"))?;
            return Ok(Self::Object { bucket: bucket.into(), key: key.into() });
        }
        if argument.starts_with("http://") || argument.starts_with("https://") {
            return Ok(Self::Web(argument.into()));
        }
        Ok(Self::File(argument.into()))
    }

    /// Its name in results.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::StandardInput => "-".into(),
            Self::Object { bucket, key } => format!("s3://{bucket}/{key}"),
            Self::Web(address) => address.clone(),
        }
    }

    /// The relative path of output files for a picture that an argument names: a relative path as given; for an absolute
    /// path or one with `..`, the file name; bucket and key; host and path.
    fn mirror(&self) -> PathBuf {
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

/// The path without `.`, `..` and root. Each component is shortened and its control characters are replaced, so that it
/// can be a file name with a suffix.
fn relative(path: &Path) -> PathBuf {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => {
            let name = name.to_string_lossy().replace(char::is_control, "_");
            Some(name[..name.floor_char_boundary(MAX_NAME)].to_owned())
        }
        _ => None,
    };
    let relative: PathBuf = path.components().filter_map(part).collect();
    if relative.as_os_str().is_empty() { "picture".into() } else { relative }
}

fn has_picture_extension(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

/// Reads pictures of limited size from their sources.
pub(crate) struct Reader {
    s3: S3Settings,
    /// Both are created when first needed: they read certificates and look for credentials.
    store: OnceCell<ObjectStore>,
    web: OnceCell<WebReader>,
    max_bytes: u64,
}

impl Reader {
    pub(crate) fn new(s3: &S3Settings, max_bytes: Option<u64>) -> Self {
        let max_bytes = max_bytes.unwrap_or(s3.max_object_bytes);
        // The allow list restricts other people's jobs; here the owner of the credentials names the objects.
        let s3 = S3Settings { allow: vec!["*".into()], max_object_bytes: max_bytes, ..s3.clone() };
        Self { s3, store: OnceCell::new(), web: OnceCell::new(), max_bytes }
    }

    /// The bytes of one picture.
    pub(crate) async fn read(&self, source: &Source) -> anyhow::Result<Bytes> {
        let limit = self.max_bytes;
        match source {
            Source::Object { bucket, key } => {
                let object = wire::v1::S3Object { bucket: bucket.clone(), key: key.clone(), ..Default::default() };
                let store = self.store.get_or_try_init(|| ObjectStore::open(&self.s3)).await?;
                Ok(store.read(&object).await?.bytes)
            }
            Source::Web(address) => {
                let create = || async { WebReader::new(limit, self.s3.operation_timeout) };
                Ok(self.web.get_or_try_init(create).await?.read(address).await?)
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
        bail!("has more than {limit} bytes; raise --max-bytes to allow it");
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_told_apart_by_their_form() {
        let one = |argument| Source::from_argument(argument).unwrap();
        assert_eq!(one("-"), Source::StandardInput);
        assert_eq!(one("s3://b/a/k.jpg"), Source::Object { bucket: "b".into(), key: "a/k.jpg".into() });
        assert_eq!(one("https://h/p.png?x=1"), Source::Web("https://h/p.png?x=1".into()));
        assert_eq!(one("no/such.jpg"), Source::File("no/such.jpg".into()));
        for bad in ["s3://", "s3://b", "s3://b/", "s3:///k"] {
            assert!(Source::from_argument(bad).unwrap_err().to_string().contains("s3://bucket/key"));
        }
    }

    #[test]
    fn paths_of_files_made_from_a_picture_stay_below_their_folder() {
        let mirror = |argument: &str| Source::from_argument(argument).unwrap().mirror().display().to_string();
        assert_eq!(mirror("a/./b/c.tar.jpg"), "a/b/c.tar.jpg");
        assert_eq!(mirror("../a/c.jpg"), "c.jpg");
        assert_eq!(mirror("/etc/c.jpg"), "c.jpg");
        assert_eq!(mirror("https://h:80/a/p.png?x=/y.z"), "h:80/a/p.png");
        assert_eq!(mirror("https://host/"), "host");
        assert_eq!(mirror("s3://b/../../k//x\n.jpg"), "b/k/x_.jpg");
        assert_eq!(mirror("s3://b//etc/passwd"), "b/etc/passwd");
        assert_eq!(mirror(&format!("s3://b/{}", "ä".repeat(300))).len(), 2 + MAX_NAME);
        assert_eq!(mirror("-"), "stdin");
        assert_eq!(mirror(".."), "picture");
    }

    #[test]
    fn a_directory_gives_its_pictures_in_order_and_none_is_a_problem() {
        let dir = tempfile::tempdir().unwrap();
        let argument = dir.path().to_str().unwrap();
        let read = |except: Option<&Path>| {
            let mut inputs = Inputs::default();
            inputs.add(argument, except).unwrap();
            inputs
        };
        let Inputs { found, problems } = read(None);
        assert!(found.is_empty() && problems[0].contains("contains no pictures"), "{problems:?}");
        fs::create_dir(dir.path().join("b")).unwrap();
        for name in ["c.PNG", "a.jpg", "b/d.webp", "e.tif", "f.TIFF", "g.avif", "notes.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let mirrors = |inputs: &Inputs| -> Vec<String> {
            inputs.found.iter().map(|input| input.mirror.display().to_string()).collect()
        };
        assert_eq!(mirrors(&read(None)), ["a.jpg", "b/d.webp", "c.PNG", "e.tif", "f.TIFF", "g.avif"]);
        assert_eq!(mirrors(&read(Some(&dir.path().join("b")))), ["a.jpg", "c.PNG", "e.tif", "f.TIFF", "g.avif"]);
        assert_eq!(read(Some(dir.path())), read(None), "the folder named is searched");
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_named_and_the_others_are_searched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.jpg"), "").unwrap();
        fs::write(dir.path().join("z.jpg"), "").unwrap();
        // A path that is too long cannot be opened, not even by root.
        let half = |name: &str| dir.path().join(name).join(["d".repeat(250).as_str(); 10].iter().collect::<PathBuf>());
        fs::create_dir_all(half("upper")).unwrap();
        fs::create_dir_all(half("lower")).unwrap();
        fs::rename(dir.path().join("lower"), half("upper").join("lower")).unwrap();
        let mut inputs = Inputs::default();
        inputs.add(dir.path().to_str().unwrap(), None).unwrap();
        assert_eq!(inputs.found.len(), 2);
        assert_eq!(inputs.problems.len(), 1);
        assert!(inputs.problems[0].contains("directory skipped"), "{:?}", inputs.problems);
    }

    #[test]
    fn reading_stops_at_the_limit() {
        assert_eq!(read_bounded(&mut &[1u8, 2, 3][..], 3).unwrap().len(), 3);
        assert!(read_bounded(&mut std::io::repeat(0), 3).unwrap_err().to_string().contains("more than 3 bytes"));
    }
}
