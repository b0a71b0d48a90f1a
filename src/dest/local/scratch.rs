//! A file without a name, to measure the disk with.

use std::fs::File;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::dir_tree::Dir;
use super::{LocalSession, StoreError};

impl LocalSession {
    /// Makes a private file in the root, without a name: it is gone when it is closed, however this process ends.
    pub fn scratch(&mut self) -> Result<File, StoreError> {
        let root = self.tree.open(b"").map_err(StoreError::io("open the folder"))?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        match rustix::fs::openat(&root, ".", flags | OFlags::TMPFILE, mode) {
            Ok(file) => Ok(file.into()),
            // A file system that cannot make such files.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                unlinked(&root, &self.hidden.next(), flags, mode)
                    .map_err(StoreError::io("create a file without a name"))
            }
            Err(errno) => Err(StoreError::io("create a file without a name")(errno)),
        }
    }

    /// Bytes that a process like this one may still write in the root.
    pub fn available_bytes(&mut self) -> Result<u64, StoreError> {
        let root = self.tree.open(b"");
        let fs = root.and_then(rustix::fs::fstatvfs).map_err(StoreError::io("ask how much room there is"))?;
        Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
    }
}

/// A file whose name is removed at once.
fn unlinked(dir: &Dir, name: &str, flags: OFlags, mode: Mode) -> Result<File, Errno> {
    let file = rustix::fs::openat(dir, name, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
    rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dest::local::{ImplicitDirs, LocalDestination, OnConflict};
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_file_without_a_name_holds_what_is_written_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = LocalDestination::open(dir.path(), OnConflict::Error).unwrap();
        let mut store = root.session(ImplicitDirs::Private).unwrap();
        assert!(store.available_bytes().unwrap() > 0);
        let handle = store.tree.open(b"").unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        for file in [store.scratch().unwrap(), unlinked(&handle, ".ftx-x", OFlags::RDWR, mode).unwrap()] {
            file.write_all_at(b"abc", 0).unwrap();
            let mut back = [0; 3];
            file.read_exact_at(&mut back, 0).unwrap();
            assert_eq!(&back, b"abc");
            assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
        }
    }
}
