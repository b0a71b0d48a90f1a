//! A file without a name, to measure the disk.

use std::fs::File;

use super::dir::Dir;
use super::session::LocalSession;
use super::staged::PRIVATE_MODE;
use crate::dest::error::StoreError;
use crate::sys::Errno;

impl LocalSession {
    /// Creates a private file in the root, without a name: it is gone when it is closed, however this process ends.
    pub(crate) fn create_scratch_file(&self) -> Result<File, StoreError> {
        let root = self.tree.open(b"").map_err(StoreError::io("open the folder"))?;
        let created = match root.handle.create_unnamed_file() {
            Ok(Some(file)) => Ok(file),
            Ok(None) => create_unlinked(&root, &self.names.next()),
            Err(errno) => Err(errno),
        };
        created.map_err(StoreError::io("create a file without a name"))
    }

    /// Bytes that any user may still write in the root.
    pub(crate) fn available_bytes(&self) -> Result<u64, StoreError> {
        let root = self.tree.open(b"");
        root.and_then(|root| root.handle.available_bytes())
            .map_err(StoreError::io("determine the free space"))
    }
}

/// A file whose name is removed at once.
fn create_unlinked(dir: &Dir, name: &str) -> Result<File, Errno> {
    let file = dir.handle.create_file(name, PRIVATE_MODE)?;
    dir.handle.remove_file(name)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dest::OnConflict;
    use crate::dest::local::{ImplicitDirs, LocalDestination};
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_file_without_a_name_stores_bytes_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = LocalDestination::open(dir.path(), OnConflict::Error).unwrap();
        let session = root.session(ImplicitDirs::Private).unwrap();
        assert!(session.available_bytes().unwrap() > 0);
        let root = session.tree.open(b"").unwrap();
        for file in [session.create_scratch_file().unwrap(), create_unlinked(&root, ".ftx-x").unwrap()] {
            file.write_all_at(b"abc", 0).unwrap();
            let mut back = [0; 3];
            file.read_exact_at(&mut back, 0).unwrap();
            assert_eq!(&back, b"abc");
            assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
        }
    }
}
