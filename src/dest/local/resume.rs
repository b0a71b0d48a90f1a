//! Staged files that outlive their session, so that a later session resumes them.
//!
//! The staged file of a file of several parts has a name that follows from the final name and the source version, and a
//! journal beside it. The session that opens it locks it. A second session with the same version waits for it: most likely
//! its sender has reconnected while the first session still syncs what it has. Another version has a staged file of its own:
//! what one sender announces neither uses nor removes what is kept for another. Files that are not resumed are removed after
//! a time, by `sweep.rs` alone.

use std::sync::Arc;

use super::bytes::StagedBytes;
use super::dir::Dir;
use super::dir_tree::DirTree;
use super::journal::{Header, JournalContents};
use super::journal_file::Journal;
use super::own_files::{Locked, absent_or_error, has_name, open_locked};
use super::staged::{self, PRIVATE_MODE, StagedFile, mode_of_new_file};
use super::temp_names::{TempNames, resumable_names};
use crate::dest::SourceVersion;
use crate::dest::error::StoreError;
use crate::digest::PartDigests;
use crate::relpath::RelPath;
use crate::sys::stat::FileStat;
use crate::sys::{self, Errno};

/// What earlier sessions left of a file.
#[derive(Debug)]
pub enum Resumable {
    /// Nothing usable.
    Nothing,
    /// A partial file.
    Partial(PartialFile),
    /// A partial file of the same version, which its session has not closed yet.
    InUse,
}

/// A staged file that an earlier session left.
#[derive(Debug)]
pub struct PartialFile {
    /// The staged file.
    pub staged: StagedFile,
    /// The parts that its journal contains.
    pub digests: PartDigests,
    /// It is unchanged since its last session closed it: the recorded parts need not be read again.
    pub is_trusted: bool,
}

/// Opens the journal with this name.
pub fn open_journal(dir: &Arc<Dir>, name: &str) -> Result<Option<(Journal, JournalContents)>, Errno> {
    let opened = Journal::open(Arc::clone(dir), name.into());
    let opened = opened.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    absent_or_error(opened).map(Option::flatten)
}

/// Opens what earlier sessions left of this version of a file.
pub fn resume(
    tree: &DirTree,
    path: &RelPath,
    version: SourceVersion,
    umask: u32,
) -> Result<Resumable, StoreError> {
    let (parent, final_name) = path.split();
    let dir = match tree.open_if_occupied(parent) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(Resumable::Nothing),
        Err(errno) => return Err(StoreError::io("open its folder")(errno)),
    };
    let (name, journal_name) = resumable_names(final_name, version);
    let locked = tree.retry_without_cache(|| open_locked(&dir, &name));
    let (file, stat) = match locked.map_err(StoreError::io("open the partial file"))? {
        Locked::Own(file, stat) => (file, stat),
        Locked::InUse => return Ok(Resumable::InUse),
        Locked::Absent => return Ok(Resumable::Nothing),
    };
    let header = Header::new(final_name, version, stat.id.inode, tree.root_inode());
    let is_valid =
        |contents: &JournalContents| contents.header.is_same_version(&header) && contents.digests.count() > 0;
    let opened = tree.retry_without_cache(|| open_journal(&dir, &journal_name));
    let opened = opened.map_err(StoreError::io("open the journal of the partial file"))?;
    let Some((journal, contents)) = opened.filter(|(_, contents)| is_valid(contents)) else {
        // Without a journal it is useless, and occupies space.
        let _ = dir.handle.remove_file(&*name);
        return Ok(Resumable::Nothing);
    };
    let is_trusted = contents.closed == Some(stat.stamp.into());
    if stat.stamp.size_bytes > version.size_bytes {
        file.set_len(version.size_bytes)
            .map_err(|source| StoreError::Io { doing: "truncate the staged file", source })?;
    }
    let staged = StagedFile::new(tree, dir, name, path, StagedBytes::new(file), None, umask);
    let staged = staged.with_journal(journal, false);
    Ok(Resumable::Partial(PartialFile { staged, digests: contents.digests, is_trusted }))
}

/// Creates a resumable staged file, or one of this session alone if that is not possible.
pub fn create(
    tree: &DirTree,
    path: &RelPath,
    version: SourceVersion,
    names: &TempNames,
    umask: u32,
) -> Result<StagedFile, StoreError> {
    let create_private = || staged::create(tree, path, names, umask, None).inspect(StagedFile::lock);
    let (parent, final_name) = path.split();
    let (name, journal_name) = resumable_names(final_name, version);
    let dir = tree.open_or_create(parent)?;
    // If the existing one were usable, it would have been resumed.
    let locked = tree.retry_without_cache(|| open_locked(&dir, &name));
    if let Locked::Own(stale, _) = locked.map_err(StoreError::io("open the partial file"))? {
        let _ = dir.handle.remove_file(&*name);
        drop(stale);
    }
    let created = tree.retry_without_cache(|| dir.handle.create_file(&*name, PRIVATE_MODE));
    let Ok(file) = created else {
        // Another session uses the name, or another program.
        return create_private();
    };
    let stat = FileStat::of(&file).map_err(StoreError::io("examine the staged file"))?;
    // Another session holds the lock only while it examines the file. A file system without locks is no error.
    let _ = sys::file::lock(&file);
    if !has_name(&dir, &name, stat.id) {
        // Another session locked it first, found no journal, and removed it.
        return create_private();
    }
    let _ = dir.handle.remove_file(&*journal_name);
    let header = Header::new(final_name, version, stat.id.inode, tree.root_inode());
    let journal = Journal::new(Arc::clone(&dir), journal_name, header);
    let mode = mode_of_new_file(&dir, PRIVATE_MODE, umask);
    let staged = StagedFile::new(tree, dir, name, path, StagedBytes::new(file), mode, umask);
    Ok(staged.with_journal(journal, true))
}

/// Removes what sessions left of this version of a file, unless a session uses it.
pub fn remove(dir: &Dir, final_name: &[u8], version: SourceVersion) {
    let (name, journal_name) = resumable_names(final_name, version);
    if let Ok(Locked::Own(_locked, _)) = open_locked(dir, &name) {
        for name in [name, journal_name] {
            // What cannot be removed now is swept when it is old enough.
            let _ = dir.handle.remove_file(&*name);
        }
    }
}
