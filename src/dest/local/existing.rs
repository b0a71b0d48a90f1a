//! What already has the name of an entry.

use std::fs::File;
use std::sync::Arc;

use super::bytes::{self, SyncedFile};
use super::dir::Dir;
use super::dir_tree::DirTree;
use crate::dest::error::{FOLDER, StoreError};
use crate::dest::{Content, Digests};
use crate::digest::{Md5, PartLayout, PartRange, digest_ranges};
use crate::relpath::{NamePolicy, RelPath};
use crate::sys::dir::Access;
use crate::sys::stat::{FileId, FileStamp, FileStat, FileType};
use crate::sys::{self, Errno};
use crate::units::MtimeNs;

/// What has a name.
#[derive(Debug)]
pub enum Existing {
    /// Nothing.
    Nothing,
    /// A regular file.
    File(ExistingFile),
    /// An entry with another name, which the file system treats as equal.
    EquivalentName,
    /// Something else; the text for messages.
    Other(&'static str),
}

impl Existing {
    /// The error for an entry whose name this has. `file` is what a file is called in it.
    pub(super) fn conflict(&self, file: &'static str) -> StoreError {
        match self {
            Existing::EquivalentName => StoreError::EquivalentName,
            Existing::Other(what) => StoreError::Exists { what },
            // It may have been removed meanwhile.
            Existing::File(_) | Existing::Nothing => StoreError::Exists { what: file },
        }
    }
}

/// A regular file that existed before its entry was announced. It is opened for each use and closed again, because
/// thousands of them may be waiting.
#[derive(Clone, Debug)]
pub struct ExistingFile {
    tree: DirTree,
    dir: Box<[u8]>,
    name: Box<[u8]>,
    id: FileId,
    stamp: FileStamp,
    /// Its path, if it was stored beside a name that was taken.
    copy_path: Option<RelPath>,
}

impl ExistingFile {
    /// Its size when it was found.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.stamp.size_bytes
    }

    /// Was it last modified at `mtime`?
    pub(crate) fn is_modified_at(&self, mtime: Option<MtimeNs>) -> bool {
        mtime.is_some() && mtime == MtimeNs::from_parts(self.stamp.mtime.0, self.stamp.mtime.1)
    }

    /// Its path, if an earlier session stored it beside a name that was taken.
    pub(super) fn copy_path(&self) -> Option<&RelPath> {
        self.copy_path.as_ref()
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    /// Its directory.
    pub(super) fn dir(&self) -> Result<Arc<Dir>, StoreError> {
        self.tree.open(&self.dir).map_err(StoreError::io("open its folder"))
    }

    /// Opens it for reading.
    ///
    /// # Errors
    ///
    /// [`StoreError::Changed`] if it was replaced or written to since it was found: what was read of it until then is not
    /// valid.
    pub(crate) fn open(&self) -> Result<File, StoreError> {
        let failed = |errno: Errno| StoreError::Io { doing: "open the existing file", source: errno.into() };
        let dir = self.dir()?;
        let opened = self.tree.retry_without_cache(|| dir.handle.open_file(&*self.name, Access::Read));
        let file = match opened {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Err(StoreError::Changed),
            Err(errno) => return Err(failed(errno)),
        };
        let now = FileStat::of(&file).map_err(failed)?;
        if (now.id, now.stamp) == (self.id, self.stamp) { Ok(file) } else { Err(StoreError::Changed) }
    }

    /// Its content, to be read more than once.
    pub(crate) fn bytes(&self) -> Result<SyncedFile, StoreError> {
        self.open().map(|file| SyncedFile::existing(file, self.stamp.mtime))
    }

    /// The digest of a range.
    pub(crate) fn digest(&self, range: PartRange) -> Result<Md5, StoreError> {
        let file = self.open()?;
        let failed = |source| StoreError::Io { doing: "read the existing file", source };
        let digests =
            digest_ranges(&[range], |_, buffer, offset| sys::file::read_exact_at(&file, buffer, offset));
        digests
            .and_then(|digests| digests.first().copied().ok_or(std::io::ErrorKind::Other.into()))
            .map_err(failed)
    }

    /// Does a range contain only zeros? Holes are not read.
    pub(crate) fn is_zero(&self, range: PartRange) -> Result<bool, StoreError> {
        bytes::is_zero(&self.open()?, range)
            .map_err(|source| StoreError::Io { doing: "read the existing file", source })
    }

    /// Does it have this content?
    pub(super) fn matches(&self, content: &Content) -> bool {
        if self.size_bytes() != content.size_bytes {
            return false;
        }
        let layout = PartLayout::new(content.size_bytes);
        match &content.digests {
            Digests::Whole(md5) => {
                let all = PartRange { offset: 0, len: content.size_bytes };
                self.digest(all).is_ok_and(|digest| digest == *md5)
            }
            Digests::Parts(digests) => {
                let is_same = |(index, md5)| {
                    layout.range(index).is_some_and(|range| self.digest(range).is_ok_and(|own| own == md5))
                };
                let is_hole = |(first, parts)| self.is_zero(layout.run(first, parts)).unwrap_or(false);
                digests.count() == layout.count()
                    && digests.parts().all(is_same)
                    && digests.holes().all(is_hole)
            }
        }
    }

    /// Syncs it: the program that wrote it may not have done so. To be called after the comparison, because it fails if the
    /// file has changed.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.open()?.sync_all().map_err(|source| StoreError::Io { doing: "sync the file", source })
    }
}

/// Among the names `name (1)`, `name (2)`, ... beside `path`, finds a file that may be an earlier copy of a file with this
/// size and time of modification: the first one that has both, or else the first one that has the size.
pub fn find_copy(
    tree: &DirTree,
    path: &RelPath,
    size_bytes: u64,
    mtime: Option<MtimeNs>,
) -> Result<Option<ExistingFile>, StoreError> {
    let mut found = None;
    for numbered in numbered_names(path) {
        match lookup(tree, &numbered)? {
            Existing::Nothing => break,
            Existing::File(file) if file.size_bytes() == size_bytes => {
                let is_likely = file.is_modified_at(mtime);
                let file = ExistingFile { copy_path: Some(numbered), ..file };
                if is_likely {
                    return Ok(Some(file));
                }
                found.get_or_insert(file);
            }
            Existing::File(_) | Existing::EquivalentName | Existing::Other(_) => {}
        }
    }
    Ok(found)
}

/// The names that are tried: `name (1).ext` to `name (9999).ext`.
const MAX_COPIES: u32 = 9999;

/// `name (1).ext`, `name (2).ext`, ... beside `name.ext`, up to the longest that is valid.
pub fn numbered_names(path: &RelPath) -> impl Iterator<Item = RelPath> + use<> {
    let (parent, name) = path.split();
    let dot = name.iter().rposition(|&b| b == b'.').filter(|&dot| dot > 0).unwrap_or(name.len());
    let (stem, extension) = name.split_at(dot);
    let separator: &[u8] = if parent.is_empty() { b"" } else { b"/" };
    let (before, after) = ([parent, separator, stem].concat(), extension.to_vec());
    (1..=MAX_COPIES).map_while(move |number| {
        let path = [&before, format!(" ({number})").as_bytes(), &after].concat();
        // The policy of the receiver accepted the name without the number.
        RelPath::new(&path, NamePolicy::AllowOdd).ok()
    })
}

/// Finds what is at `path`, following no link.
pub fn lookup(tree: &DirTree, path: &RelPath) -> Result<Existing, StoreError> {
    lookup_in(tree, tree.open(path.split().0), path)
}

/// Like [`lookup`], but assumes that no other program creates entries in a directory of this session.
pub fn lookup_cached(tree: &DirTree, path: &RelPath) -> Result<Existing, StoreError> {
    lookup_in(tree, tree.open_if_occupied(path.split().0), path)
}

fn lookup_in(tree: &DirTree, dir: Result<Arc<Dir>, Errno>, path: &RelPath) -> Result<Existing, StoreError> {
    let (parent, name) = path.split();
    let dir = match dir {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(Existing::Nothing),
        Err(errno) => return Err(StoreError::io("open its folder")(errno)),
    };
    let stat = match dir.handle.stat_entry(name) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Existing::Nothing),
        Err(errno) => return Err(StoreError::io("examine the existing file")(errno)),
    };
    if !tree.is_exact_name(&dir, parent, name).map_err(StoreError::io("examine the existing file"))? {
        return Ok(Existing::EquivalentName);
    }
    Ok(match stat.file_type {
        FileType::Dir => Existing::Other(FOLDER),
        FileType::Symlink => Existing::Other("a symbolic link"),
        FileType::Other => Existing::Other("a device, FIFO or socket"),
        FileType::File => Existing::File(ExistingFile {
            tree: tree.clone(),
            dir: parent.into(),
            name: name.into(),
            id: stat.id,
            stamp: stat.stamp,
            copy_path: None,
        }),
    })
}
