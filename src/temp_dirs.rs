//! Folders that this program makes for its own use and removes again, even where it is ended in the middle.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;

/// All that there are now. A process ends once, and then nobody is left to hand them to whoever ends it.
static LIVE_DIRS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A folder of our own, removed with everything in it when this is dropped.
#[derive(Debug)]
pub struct TempDirGuard(TempDir);

impl TempDirGuard {
    /// Makes one whose name begins with `prefix`: in `parent`, or where the system wants such things.
    pub fn new(prefix: &str, parent: Option<&Path>) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(prefix);
        let folder = match parent {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        }?;
        folders().push(folder.path().to_owned());
        Ok(TempDirGuard(folder))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for TempDirGuard {
    fn drop(&mut self) {
        folders().retain(|folder| folder != self.0.path());
    }
}

/// Removes all of them, when the process ends without their destructors.
pub fn remove_all() {
    for folder in folders().drain(..) {
        // Whoever still works in it may put something there meanwhile; once more gets that, too.
        if fs::remove_dir_all(&folder).is_err() {
            let _ = fs::remove_dir_all(&folder);
        }
    }
}

fn folders() -> MutexGuard<'static, Vec<PathBuf>> {
    LIVE_DIRS.lock().unwrap_or_else(PoisonError::into_inner)
}
