//! Drawings: a PNG file with boxes for each picture and prompt.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use image::RgbImage;
use image::codecs::png::PngEncoder;

use crate::files;
use crate::sources::{Input, Source};

/// The directory of `--draw`. Its tree mirrors that of the pictures: `sub/a.jpg` becomes `sub/a.jpg.png`.
pub(super) struct Drawings {
    dir: PathBuf,
    /// Files that must not be replaced: the pictures, and the drawings so far.
    taken: HashSet<PathBuf>,
}

impl Drawings {
    /// Creates the directory.
    pub(super) fn new(dir: &Path, inputs: &[Input]) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("{}: cannot create the directory", dir.display()))?;
        let files = inputs.iter().filter_map(|input| match &input.source {
            Source::File(path) => entry(path).ok(),
            _ => None,
        });
        Ok(Self { dir: dir.into(), taken: files.collect() })
    }

    /// Writes a drawing, with the number of the prompt if there are several, and returns the file's path.
    pub(super) fn write(&mut self, mirror: &Path, prompt: Option<usize>, drawn: &RgbImage) -> anyhow::Result<PathBuf> {
        let path = self.path(mirror, prompt)?;
        files::replace(&path, |file| Ok(drawn.write_with_encoder(PngEncoder::new(file))?))?;
        Ok(path)
    }

    /// The first free name: `a.jpg.png`, then `a.jpg~2.png`; with the number of a prompt `a.jpg-1.png`.
    fn path(&mut self, mirror: &Path, prompt: Option<usize>) -> anyhow::Result<PathBuf> {
        let parent = self.dir.join(mirror.parent().unwrap_or(Path::new("")));
        std::fs::create_dir_all(&parent)
            .with_context(|| format!("{}: cannot create the directory", parent.display()))?;
        let name = mirror.file_name().unwrap_or(OsStr::new("picture")).to_string_lossy();
        let prompt = prompt.map_or_else(String::new, |number| format!("-{number}"));
        let mut path = parent.join(format!("{name}{prompt}.png"));
        let mut times = 1;
        while !self.taken.insert(entry(&path).with_context(|| path.display().to_string())?) {
            times += 1;
            path = parent.join(format!("{name}{prompt}~{times}.png"));
        }
        Ok(path)
    }
}

/// The file that a rename to `path` would replace: the path with symbolic links in its directory resolved.
fn entry(path: &Path) -> io::Result<PathBuf> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(parent.canonicalize()?.join(path.file_name().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: PathBuf, mirror: &str) -> Input {
        Input { source: Source::File(path), mirror: mirror.into() }
    }

    #[test]
    fn no_drawing_replaces_a_picture_or_another_drawing() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["a.jpg", "a.png", "a~2.png", "a.jpg.png", "A.jpg"];
        let inputs: Vec<_> = names.iter().map(|name| file(dir.path().join(name), name)).collect();
        names.iter().for_each(|name| std::fs::write(dir.path().join(name), *name).unwrap());
        // The folder of the pictures, by another way than theirs.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        let mut drawings = Drawings::new(&link, &inputs).unwrap();
        let drawn = RgbImage::new(2, 2);
        let mut paths = HashSet::new();
        for prompt in [None, Some(1), None] {
            for input in &inputs {
                let path = drawings.write(&input.mirror, prompt, &drawn).unwrap();
                assert!(paths.insert(path.clone()), "{}", path.display());
                assert_eq!(image::open(path).unwrap().into_rgb8(), drawn);
            }
        }
        for name in names {
            assert_eq!(std::fs::read_to_string(dir.path().join(name)).unwrap(), name);
        }
        assert!(paths.contains(&link.join("a.jpg~2.png")), "{paths:?}");
    }

    #[test]
    fn a_later_run_replaces_the_drawings_of_an_earlier_one() {
        let dir = tempfile::tempdir().unwrap();
        for side in [1, 2] {
            let mut drawings = Drawings::new(dir.path(), &[]).unwrap();
            let path = drawings.write(Path::new("sub/a.jpg"), None, &RgbImage::new(side, side)).unwrap();
            assert_eq!(path, dir.path().join("sub/a.jpg.png"));
            assert_eq!(image::open(path).unwrap().width(), side);
        }
        let left: Vec<_> = std::fs::read_dir(dir.path().join("sub")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
