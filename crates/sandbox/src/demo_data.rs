//! Locates the demo model and its pictures.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::SandboxError;
use crate::tools::SearchPaths;

/// The demo model and its pictures.
#[derive(Clone, Debug)]
pub struct DemoData {
    /// The checkpoint `kosmos-2-emoji`.
    pub model_dir: PathBuf,
    /// The folder of the pictures, with `truth.json` and `goldens.json`.
    pub scenes_dir: PathBuf,
    /// The pictures, ordered by name.
    pub scenes: Vec<Scene>,
}

/// One picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// The file name, such as `0000.jpg`.
    pub file_name: String,
    /// The path of the file.
    pub path: PathBuf,
}

impl DemoData {
    /// Locates the data in the folder `GROUNDLING_DEMO_DATA`, or in the checkout that contains the current folder or the
    /// program.
    ///
    /// # Errors
    /// [`SandboxError::MissingDemoData`], or an I/O error.
    pub fn locate() -> Result<Self, SandboxError> {
        Self::locate_in(env::var_os("GROUNDLING_DEMO_DATA"), &SearchPaths::from_environment())
    }

    /// Like [`DemoData::locate`], with a given environment.
    ///
    /// # Errors
    /// As for [`DemoData::locate`].
    pub fn locate_in(named: Option<OsString>, search_paths: &SearchPaths) -> Result<Self, SandboxError> {
        let found = match &named {
            Some(folder) => Self::open(Path::new(folder))?,
            None => {
                let mut opened =
                    search_paths.with_ancestors().map(|folder| Self::open(&folder.join("crates/sandbox/demo")));
                opened.find_map(Result::transpose).transpose()?
            }
        };
        found.ok_or_else(|| SandboxError::MissingDemoData {
            searched: match named {
                Some(folder) => format!("{} (GROUNDLING_DEMO_DATA)", Path::new(&folder).display()),
                None => {
                    "crates/sandbox/demo of the current folder, of the program's folder and of the folders above them"
                        .into()
                }
            },
        })
    }

    fn open(folder: &Path) -> Result<Option<Self>, SandboxError> {
        let (model_dir, scenes_dir) = (folder.join("kosmos-2-emoji"), folder.join("scenes"));
        if !model_dir.join("config.json").is_file() || !scenes_dir.is_dir() {
            return Ok(None);
        }
        let read = || SandboxError::io(format!("list the demo pictures in {}", scenes_dir.display()));
        let mut scenes = Vec::new();
        for entry in fs::read_dir(&scenes_dir).map_err(read())? {
            let path = entry.map_err(read())?.path();
            let Some(file_name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if is_picture(&path) {
                scenes.push(Scene { file_name: file_name.into(), path: path.clone() });
            }
        }
        scenes.sort_by(|a, b| a.file_name.cmp(&b.file_name));
        Ok(if scenes.is_empty() { None } else { Some(Self { model_dir, scenes_dir, scenes }) })
    }
}

fn is_picture(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "jpg" || end == "png" || end == "webp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkouts_own_data_is_found_and_complete() {
        let search_paths = SearchPaths { starts: vec![env!("CARGO_MANIFEST_DIR").into()], ..SearchPaths::default() };
        let data = DemoData::locate_in(None, &search_paths).unwrap();
        assert!(data.model_dir.join("model.safetensors").is_file());
        assert!(data.scenes_dir.join("goldens.json").is_file());
        assert_eq!(data.scenes.len(), 48);
        assert_eq!(data.scenes[0].file_name, "0000.jpg");
        let names: Vec<_> = data.scenes.iter().map(|scene| &scene.file_name).collect();
        assert!(names.is_sorted());
    }

    #[test]
    fn every_picture_has_its_truth() {
        let search_paths = SearchPaths { starts: vec![env!("CARGO_MANIFEST_DIR").into()], ..SearchPaths::default() };
        let data = DemoData::locate_in(None, &search_paths).unwrap();
        let truth = fs::read(data.scenes_dir.join("truth.json")).unwrap();
        let truth: serde_json::Value = serde_json::from_slice(&truth).unwrap();
        let told: Vec<_> = truth["scenes"].as_array().unwrap().iter().map(|s| s["file"].as_str().unwrap()).collect();
        let found: Vec<_> = data.scenes.iter().map(|scene| scene.file_name.as_str()).collect();
        assert_eq!(told, found);
    }

    #[test]
    fn missing_data_is_one_sentence_with_the_fix() {
        for named in [None, Some("/nowhere".into())] {
            let error = DemoData::locate_in(named, &SearchPaths::default()).unwrap_err().to_string();
            assert!(error.contains("set GROUNDLING_DEMO_DATA"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
