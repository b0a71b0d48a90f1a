//! What is there already under the name of an entry.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::StoreError;
use super::commit::{Content, Digests};
use super::dir_tree::{Dir, DirTree};
use super::journal::SourceVersion;
use super::resume;
use super::staged::{self, SyncedFile};
use crate::digest::{Md5, PartLayout, PartRange, digest_ranges};
use crate::relpath::{NamePolicy, RelPath};
use crate::units::MtimeNs;

/// What lies under a name.
#[derive(Debug)]
pub enum Existing {
    /// Nothing.
    Nothing,
    /// A regular file.
    File(ExistingFile),
    /// Something whose name is spelled otherwise, but the same to this file system.
    EquivalentName,
    /// Something else; the words say what.
    Other(&'static str),
}

/// A regular file that was there before. It is opened whenever it is looked at and closed again: thousands of them may
/// wait for their turn.
#[derive(Clone, Debug)]
pub struct ExistingFile {
    tree: DirTree,
    dir: Box<[u8]>,
    name: Box<[u8]>,
    size_bytes: u64,
    /// Device and inode: the same file each time.
    identity: (u64, u64),
    modified: (i64, i64),
    /// When anything of it was last changed, its time of modification included.
    changed: (i64, i64),
    /// Its path, where it is a copy that an earlier session put beside a name that was taken.
    copy_of_taken: Option<RelPath>,
}

impl ExistingFile {
    /// Its size when it was opened.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Was it last modified at `mtime`?
    pub fn is_modified_at(&self, mtime: Option<MtimeNs>) -> bool {
        mtime.is_some() && mtime == MtimeNs::from_parts(self.modified.0, self.modified.1)
    }

    /// Its path, where it is a copy that an earlier session put beside a name that was taken.
    pub(super) fn copy_path(&self) -> Option<&RelPath> {
        self.copy_of_taken.as_ref()
    }

    /// A handle on the folder it lies in.
    pub(super) fn dir(&self) -> Result<Arc<Dir>, StoreError> {
        self.tree.open(&self.dir).map_err(StoreError::io("open the folder it belongs in"))
    }

    /// Opens it for reading: the same file each time, as it was when it was found.
    ///
    /// # Errors
    ///
    /// [`StoreError::Changed`] if it was replaced or written to since, whatever was read of it by then.
    pub fn open(&self) -> Result<File, StoreError> {
        let cannot = |source| StoreError::Io { doing: "open the file that was there", source };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let dir = self.dir()?;
        let open = || rustix::fs::openat(&dir, &*self.name, flags, Mode::empty());
        let file = match self.tree.retry_without_cache(open) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Err(StoreError::Changed),
            Err(errno) => return Err(cannot(errno.into())),
        };
        let now = file.metadata().map_err(cannot)?;
        let is_same = (now.dev(), now.ino()) == self.identity
            && now.size() == self.size_bytes
            && (now.mtime(), now.mtime_nsec()) == self.modified
            && (now.ctime(), now.ctime_nsec()) == self.changed;
        if is_same { Ok(file) } else { Err(StoreError::Changed) }
    }

    /// Its bytes, to be read more than once.
    pub fn bytes(&self) -> Result<SyncedFile, StoreError> {
        self.open().map(|file| SyncedFile::before(file, self.modified))
    }

    /// The digest of one range of it.
    pub fn digest(&self, range: PartRange) -> Result<Md5, StoreError> {
        let file = self.open()?;
        let cannot = |source| StoreError::Io { doing: "read what is there", source };
        let digests = digest_ranges(&[range], |_, buffer, offset| file.read_exact_at(buffer, offset));
        digests.and_then(|all| all.first().copied().ok_or(io::ErrorKind::Other.into())).map_err(cannot)
    }

    /// Does a range hold zeros alone? Holes of it need not be read.
    pub fn is_zero(&self, range: PartRange) -> Result<bool, StoreError> {
        let cannot = |source| StoreError::Io { doing: "read what is there", source };
        staged::is_zero(&self.open()?, range).map_err(cannot)
    }

    /// Does it hold just this?
    pub(super) fn matches(&self, content: &Content) -> bool {
        if self.size_bytes != content.size_bytes {
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

    /// What an earlier session left of this state of the file is of no use any more.
    pub(super) fn remove_left_behind(&self, origin: SourceVersion) {
        if let Ok(dir) = self.dir() {
            resume::remove(&dir, &self.name, origin);
        }
    }

    /// Brings it to stable storage: the program that wrote it may not have done so. After all of it was compared: one that
    /// changed meanwhile is refused.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let cannot = |source| StoreError::Io { doing: "bring the file to stable storage", source };
        self.open()?.sync_all().map_err(cannot)
    }
}

/// Of the names `name (1)`, `name (2)`, ... beside `path`: the first file of this size, or rather the first that was also
/// last modified at `mtime`. It may be what an earlier session made of the same file because its name was taken.
pub fn lookup_copy(
    tree: &DirTree,
    path: &RelPath,
    size_bytes: u64,
    mtime: Option<MtimeNs>,
) -> Result<Option<ExistingFile>, StoreError> {
    let mut found = None;
    for numbered in numbered_names(path) {
        match lookup(tree, &numbered)? {
            Existing::Nothing => break,
            Existing::File(file) if file.size_bytes == size_bytes => {
                let is_likely = file.is_modified_at(mtime);
                let file = ExistingFile { copy_of_taken: Some(numbered), ..file };
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

/// The most names that are tried: `name (1).ext` to `name (9999).ext`.
const MAX_RENAMES: u32 = 9999;

/// `name (1).ext`, `name (2).ext`, ... beside `name.ext`, as far as they are names.
pub fn numbered_names(path: &RelPath) -> impl Iterator<Item = RelPath> + use<> {
    let (parent, name) = path.split();
    let dot = name.iter().rposition(|&b| b == b'.').filter(|&dot| dot > 0).unwrap_or(name.len());
    let (stem, extension) = name.split_at(dot);
    let separator: &[u8] = if parent.is_empty() { b"" } else { b"/" };
    let (before, after) = ([parent, separator, stem].concat(), extension.to_vec());
    (1..=MAX_RENAMES).map_while(move |number| {
        let path = [&before, format!(" ({number})").as_bytes(), &after].concat();
        // The name was accepted once, so odd characters in it were allowed.
        RelPath::new(&path, NamePolicy::AllowOdd).ok()
    })
}

/// Looks at what is under `path`, without following a link there or on the way.
pub fn lookup(tree: &DirTree, path: &RelPath) -> Result<Existing, StoreError> {
    let dir = tree.open(path.split().0);
    lookup_in(tree, dir, path)
}

/// Like [`look`], but takes it that nobody else puts anything into a folder that is new.
pub fn lookup_cached(tree: &DirTree, path: &RelPath) -> Result<Existing, StoreError> {
    let dir = tree.open_if_occupied(path.split().0);
    lookup_in(tree, dir, path)
}

fn lookup_in(tree: &DirTree, dir: Result<Arc<Dir>, Errno>, path: &RelPath) -> Result<Existing, StoreError> {
    let (parent, name) = path.split();
    let dir = match dir {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(Existing::Nothing),
        Err(errno) => return Err(StoreError::io("open the folder it belongs in")(errno)),
    };
    let stat = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Existing::Nothing),
        Err(errno) => return Err(StoreError::io("look at what is there")(errno)),
    };
    if !tree.is_exact_name(&dir, parent, name).map_err(StoreError::io("look at what is there"))? {
        return Ok(Existing::EquivalentName);
    }
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Ok(Existing::Other("a folder")),
        FileType::Symlink => return Ok(Existing::Other("a symbolic link")),
        _ => return Ok(Existing::Other("a device, FIFO or socket")),
    }
    Ok(Existing::File(ExistingFile {
        tree: tree.clone(),
        dir: parent.into(),
        name: name.into(),
        size_bytes: stat.st_size as u64,
        identity: (stat.st_dev, stat.st_ino),
        modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
        changed: (stat.st_ctime, stat.st_ctime_nsec as i64),
        copy_of_taken: None,
    }))
}
