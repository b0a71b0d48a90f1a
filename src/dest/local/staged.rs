//! The private file in which an entry is received.

use std::io;
use std::sync::Arc;

use super::bytes::{StagedBytes, SyncedFile};
use super::dir::Dir;
use super::dir_tree::DirTree;
use super::journal_file::Journal;
use super::temp_names::TempNames;
use crate::dest::error::StoreError;
use crate::digest::PART_BYTES;
use crate::relpath::RelPath;
use crate::sys::dir::Access;
use crate::sys::{self, AsHandle, Errno};
use crate::units::{Metadata, Mode, MtimeNs};

const OWNER_READS: u32 = 0o400;
pub const PRIVATE_MODE: u32 = 0o600;
/// Larger files stay open and are synced one by one; smaller ones wait for their batch without a handle. A file of several
/// parts stays open, because the handle holds the lock that shows other sessions that the file is in use.
pub const KEEP_HANDLE_BYTES: u64 = if PART_BYTES < 1 << 20 { PART_BYTES } else { 1 << 20 };

/// A hidden and private file. It is removed if it is dropped before it was committed, unless its journal has records.
#[derive(Debug)]
pub struct StagedFile {
    tree: DirTree,
    /// Its directory, as long as the file is open.
    dir: Option<Arc<Dir>>,
    device: u64,
    name: Box<str>,
    path: RelPath,
    bytes: Option<Arc<StagedBytes>>,
    /// Its mode, if known.
    mode: Option<u32>,
    /// The mode of a file that comes without one.
    default_mode: u32,
    is_sealed: bool,
    is_committed: bool,
    /// `None` if the file is not resumable.
    journal: Option<Arc<Journal>>,
    is_zero_filled: bool,
}

/// Creates a staged file for `path` in its final directory: private, or with its final mode.
pub fn create(
    tree: &DirTree,
    path: &RelPath,
    names: &TempNames,
    umask: u32,
    mode: Option<Mode>,
) -> Result<StagedFile, StoreError> {
    let (parent, _) = path.split();
    let mode = mode.map_or(PRIVATE_MODE, Mode::bits);
    let mut has_retried = false;
    loop {
        let dir = tree.open_or_create(parent)?;
        let name = names.next();
        match tree.retry_without_cache(|| dir.handle.create_file(&*name, mode)) {
            Ok(file) => {
                let mode = mode_of_new_file(&dir, mode, umask);
                return Ok(StagedFile::new(tree, dir, name, path, StagedBytes::new(file), mode, umask));
            }
            Err(Errno::EXIST) => {}
            // The cached directory was removed by another process.
            Err(Errno::NOENT) if !has_retried => {
                tree.invalidate(parent);
                has_retried = true;
            }
            Err(errno) => return Err(StoreError::io("create the file")(errno)),
        }
    }
}

/// The mode of a file that was created with `mode`; `None` if an access control list decides.
pub fn mode_of_new_file(dir: &Dir, mode: u32, umask: u32) -> Option<u32> {
    (!dir.has_default_acl()).then_some(mode & !umask)
}

impl StagedFile {
    pub(super) fn new(
        tree: &DirTree,
        dir: Arc<Dir>,
        name: Box<str>,
        path: &RelPath,
        bytes: StagedBytes,
        mode: Option<u32>,
        umask: u32,
    ) -> Self {
        StagedFile {
            tree: tree.clone(),
            device: dir.id.device,
            dir: Some(dir),
            name,
            path: path.clone(),
            bytes: Some(Arc::new(bytes)),
            mode,
            default_mode: 0o666 & !umask,
            is_sealed: false,
            is_committed: false,
            journal: None,
            is_zero_filled: true,
        }
    }

    /// Makes it resumable. `is_new` if the file is new, and not left by an earlier session.
    pub(super) fn with_journal(mut self, journal: Journal, is_new: bool) -> Self {
        self.journal = Some(Arc::new(journal));
        self.is_zero_filled = is_new;
        self
    }

    /// Records its parts; `None` if it is not resumable.
    pub fn journal(&self) -> Option<Arc<Journal>> {
        self.journal.clone()
    }

    /// Do all ranges that were not written contain zeros?
    pub(crate) fn is_zero_filled(&self) -> bool {
        self.is_zero_filled
    }

    /// Removes it and its journal.
    pub(crate) fn discard(mut self) {
        if let Some(journal) = self.journal.take() {
            journal.remove();
        }
    }

    /// Its final path.
    pub(crate) fn path(&self) -> &RelPath {
        &self.path
    }

    /// Writes bytes at an offset.
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        self.written().ok_or_else(sealed)?.write_at(bytes, offset)
    }

    /// Extends it to this size by a hole.
    pub(crate) fn make_sparse(&self, size_bytes: u64) -> Result<(), StoreError> {
        let bytes = self.bytes.as_ref().ok_or_else(sealed)?;
        bytes
            .file
            .set_len(size_bytes)
            .map_err(|source| StoreError::Io { doing: "extend the file to its size", source })
    }

    /// Its content; `None` once a small file is sealed.
    pub fn written(&self) -> Option<SyncedFile> {
        self.bytes.clone().map(SyncedFile::new)
    }

    /// Sets mode and time of modification, after all bytes were written. A small file is closed, so that thousands can wait
    /// for their batch. A second call does nothing.
    pub(crate) fn seal(&mut self, metadata: Metadata, size_bytes: u64) -> Result<(), StoreError> {
        if self.is_sealed {
            return Ok(());
        }
        let bytes = self.bytes.as_ref().ok_or_else(sealed)?;
        let mode = metadata.mode.unwrap_or(Mode::new(self.default_mode));
        // Most files are created with their final mode.
        let new_mode = Some(mode.bits()).filter(|mode| Some(*mode) != self.mode);
        set_metadata(&bytes.file, new_mode, metadata.mtime)?;
        self.mode = Some(mode.bits());
        self.is_sealed = true;
        // A file that its owner cannot read could not be opened again to be synced.
        if size_bytes <= KEEP_HANDLE_BYTES && mode.bits() & OWNER_READS != 0 {
            (self.bytes, self.dir) = (None, None);
        } else {
            bytes.seal()?;
        }
        Ok(())
    }

    /// Syncs data and metadata.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        if let Some(bytes) = &self.bytes {
            return bytes.sync();
        }
        let dir = self.dir()?;
        let reopened = self.tree.retry_without_cache(|| dir.handle.open_file(&*self.name, Access::Read));
        reopened.and_then(|file| sys::file::sync(&file)).map_err(StoreError::io("sync the file"))
    }

    /// Is it still open, to be synced by itself?
    pub(super) fn is_open(&self) -> bool {
        self.bytes.is_some()
    }

    /// Locks it as long as it is open, so that no other receiver removes it, whatever its clock shows. Small files need no
    /// lock: they are committed soon. Without effect on a file system without locks.
    pub(super) fn lock(&self) {
        if let Some(bytes) = &self.bytes {
            // Another session holds the lock only while it examines the file.
            let _ = sys::file::lock(&bytes.file);
        }
    }

    pub(super) fn device(&self) -> u64 {
        self.device
    }

    /// Its directory. If it was opened again, it may be another directory by now, without this file.
    pub(super) fn dir(&self) -> Result<Arc<Dir>, StoreError> {
        match &self.dir {
            Some(dir) => Ok(Arc::clone(dir)),
            None => self.tree.open(self.path.split().0).map_err(StoreError::io("open its folder")),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// It has its final name: its drop removes nothing.
    pub(super) fn mark_committed(&mut self) {
        self.is_committed = true;
        if let Some(journal) = self.journal.take() {
            journal.remove();
        }
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        let is_resumable = self.journal.as_ref().is_some_and(|journal| journal.has_records());
        if !self.is_committed && !is_resumable {
            self.journal.iter().for_each(|journal| journal.remove());
            // A file that cannot be removed now is removed by a later sweep, by its name.
            let _ = self.dir().map(|dir| dir.handle.remove_file(&*self.name));
        }
    }
}

/// Sets mode and time of modification of a file or directory, as far as they are given.
pub fn set_metadata(
    handle: impl AsHandle,
    mode: Option<u32>,
    mtime: Option<MtimeNs>,
) -> Result<(), StoreError> {
    if let Some(mode) = mode {
        sys::file::set_mode(&handle, mode).map_err(StoreError::io("set the mode"))?;
    }
    if let Some(mtime) = mtime {
        sys::file::set_mtime(&handle, mtime).map_err(StoreError::io("set the time of modification"))?;
    }
    Ok(())
}

fn sealed() -> StoreError {
    StoreError::Io { doing: "write the file", source: io::Error::other("it is complete") }
}
