//! Locates the executables that `deploy/install-tools.sh` installs.

use std::env;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::SandboxError;

/// Where tools and demo data are searched. Tests can set it without changing the environment.
#[derive(Clone, Debug, Default)]
pub struct SearchPaths {
    /// The folder with `bin/`, from `GROUNDLING_RIG`. If set, nothing else is searched for tools.
    pub tools_dir: Option<OsString>,
    /// Folders that are searched together with all folders above them.
    pub starts: Vec<PathBuf>,
    /// `PATH`, for programs that are installed on the machine.
    pub path: Option<OsString>,
}

impl SearchPaths {
    /// From the environment of this process: `GROUNDLING_RIG`, the current folder, the program's folder and `PATH`.
    pub fn from_environment() -> Self {
        let program = env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
        Self {
            tools_dir: env::var_os("GROUNDLING_RIG"),
            starts: env::current_dir().ok().into_iter().chain(program).collect(),
            path: env::var_os("PATH"),
        }
    }

    /// Locates an executable. Only `nats-server` is also searched in `PATH`: a `weed` there may be any version, and its
    /// options differ between versions.
    ///
    /// # Errors
    /// [`SandboxError::MissingExecutable`].
    pub fn executable(&self, name: &str) -> Result<PathBuf, SandboxError> {
        let found = self.find(name)?;
        // Servers run in folders of their own, so the path must be absolute.
        std::path::absolute(&found).map_err(SandboxError::io(format!("resolve {}", found.display())))
    }

    fn find(&self, name: &str) -> Result<PathBuf, SandboxError> {
        if let Some(tools_dir) = &self.tools_dir {
            let bin = Path::new(tools_dir).join("bin");
            let candidate = bin.join(name);
            return if is_executable(&candidate) {
                Ok(candidate)
            } else {
                Err(missing(name, format!("{} (GROUNDLING_RIG)", bin.display())))
            };
        }
        let path = self.path.as_ref().filter(|_| name == "nats-server");
        let mut searched =
            String::from(".rig/bin of the current folder, of the program's folder and of the folders above them");
        if path.is_some() {
            searched.push_str(", or PATH");
        }
        self.with_ancestors()
            .map(|folder| folder.join(".rig/bin").join(name))
            .chain(path.into_iter().flat_map(env::split_paths).map(|folder| folder.join(name)))
            .find(|candidate| is_executable(candidate))
            .ok_or_else(|| missing(name, searched))
    }

    /// The starting folders, each followed by the folders above it.
    pub(crate) fn with_ancestors(&self) -> impl Iterator<Item = &Path> {
        self.starts.iter().flat_map(|start| start.ancestors())
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn missing(name: &str, searched: String) -> SandboxError {
    SandboxError::MissingExecutable { name: name.into(), searched }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn put_executable(folder: &Path, name: &str) -> PathBuf {
        fs::create_dir_all(folder).unwrap();
        let path = folder.join(name);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_tool_is_found_above_the_current_folder() {
        let root = tempfile::tempdir().unwrap();
        let weed = put_executable(&root.path().join(".rig/bin"), "weed");
        let search_paths = SearchPaths { starts: vec![root.path().join("crates/worker")], ..SearchPaths::default() };
        assert_eq!(search_paths.executable("weed").unwrap(), weed);
    }

    #[test]
    fn a_named_folder_is_the_only_place() {
        let root = tempfile::tempdir().unwrap();
        put_executable(&root.path().join(".rig/bin"), "weed");
        let named = root.path().join("other");
        let search_paths = SearchPaths {
            tools_dir: Some(named.clone().into()),
            starts: vec![root.path().into()],
            path: Some(root.path().join(".rig/bin").into()),
        };
        assert!(search_paths.executable("weed").is_err());
        let weed = put_executable(&named.join("bin"), "weed");
        assert_eq!(search_paths.executable("weed").unwrap(), weed);
    }

    #[test]
    fn only_the_nats_server_is_taken_from_the_search_path() {
        let root = tempfile::tempdir().unwrap();
        let nats = put_executable(root.path(), "nats-server");
        put_executable(root.path(), "weed");
        let search_paths = SearchPaths { path: Some(root.path().into()), ..SearchPaths::default() };
        assert_eq!(search_paths.executable("nats-server").unwrap(), nats);
        assert!(search_paths.executable("weed").is_err());
    }

    #[test]
    fn a_file_that_cannot_be_run_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("nats-server"), "").unwrap();
        let search_paths = SearchPaths { path: Some(root.path().into()), ..SearchPaths::default() };
        assert!(search_paths.executable("nats-server").is_err());
    }

    #[test]
    fn a_missing_tool_is_one_sentence_with_the_fix() {
        let error = SearchPaths::default().executable("nats-server").unwrap_err().to_string();
        assert!(error.starts_with("nats-server was not found in "), "{error}");
        assert!(error.contains("run ./deploy/install-tools.sh"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}
