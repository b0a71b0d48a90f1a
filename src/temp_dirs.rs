//! Temporary folders, removed even if the process is forced to exit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use tempfile::TempDir;

use crate::sync::lock;

/// Every live temporary folder. Static because a forced exit runs no destructors and must still remove them.
static LIVE_DIRS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A temporary folder, removed with its content when this is dropped.
#[derive(Debug)]
pub struct TempDirGuard(TempDir);

impl TempDirGuard {
    /// Creates a folder whose name begins with `prefix`, in `parent` or in the system's folder for temporary files.
    ///
    /// # Errors
    ///
    /// It cannot be created.
    pub fn new(prefix: &str, parent: Option<&Path>) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(prefix);
        let folder = match parent {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        }?;
        live_dirs().push(folder.path().to_owned());
        Ok(TempDirGuard(folder))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for TempDirGuard {
    fn drop(&mut self) {
        live_dirs().retain(|folder| folder != self.0.path());
    }
}

/// Removes all temporary folders, for a process that exits without running destructors.
pub fn remove_all() {
    for folder in live_dirs().drain(..) {
        // Another thread may create a file in it meanwhile: a second attempt removes that too.
        if fs::remove_dir_all(&folder).is_err() {
            let _ = fs::remove_dir_all(&folder);
        }
    }
}

fn live_dirs() -> MutexGuard<'static, Vec<PathBuf>> {
    lock(&LIVE_DIRS)
}
