//! What is there already under the name of an entry.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::StoreError;
use super::beneath::{Beneath, Folder};
use super::commit::{Content, Digests};
use super::journal::Origin;
use super::landing::{self, Written};
use super::partial;
use crate::digest::{Md5, PartLayout, PartRange, digest_ranges};
use crate::relpath::RelPath;

/// What lies under a name.
#[derive(Debug)]
pub enum Occupant {
    /// Nothing.
    Nothing,
    /// A regular file.
    File(ExistingFile),
    /// Something whose name is spelled otherwise, but the same to this file system.
    SpelledOtherwise,
    /// Something else; the words say what.
    Other(&'static str),
}

/// A regular file that was there before. It is opened whenever it is looked at and closed again: thousands of them may
/// wait for their turn.
#[derive(Clone, Debug)]
pub struct ExistingFile {
    beneath: Beneath,
    folder: Box<[u8]>,
    name: Box<[u8]>,
    size_bytes: u64,
    /// Device and inode: the same file each time.
    identity: (u64, u64),
    modified: (i64, i64),
}

impl ExistingFile {
    /// Its size when it was opened.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// A handle on the folder it lies in.
    pub(super) fn dir(&self) -> Result<Arc<Folder>, StoreError> {
        self.beneath.open(&self.folder).map_err(StoreError::io("open the folder it belongs in"))
    }

    /// Opens it for reading; the same file each time.
    pub fn open(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let dir = self.beneath.open(&self.folder)?;
        let open = || rustix::fs::openat(&dir, &*self.name, flags, Mode::empty());
        let file = File::from(self.beneath.sparing(open)?);
        let metadata = file.metadata()?;
        match (metadata.dev(), metadata.ino()) == self.identity && metadata.size() == self.size_bytes {
            true => Ok(file),
            false => Err(io::Error::other("it was replaced meanwhile")),
        }
    }

    /// Its bytes, to be read more than once.
    pub fn bytes(&self) -> Result<Written, StoreError> {
        let opened = self.open().map(|file| Written::before(file, self.modified));
        opened.map_err(|source| StoreError::Io { doing: "open the file that was there", source })
    }

    /// The digest of one range of it.
    pub fn digest(&self, range: PartRange) -> io::Result<Md5> {
        let file = self.open()?;
        let digests = digest_ranges(&[range], |_, buffer, offset| file.read_exact_at(buffer, offset))?;
        digests.first().copied().ok_or_else(|| io::ErrorKind::Other.into())
    }

    /// Does a range hold zeros alone? Holes of it need not be read.
    pub fn is_zero(&self, range: PartRange) -> io::Result<bool> {
        landing::is_zero(&self.open()?, range)
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
    pub(super) fn remove_left_behind(&self, origin: Origin) {
        if let Ok(dir) = self.dir() {
            partial::remove(&dir, &self.name, origin);
        }
    }

    /// Brings it to stable storage: whoever wrote it may not have done so.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let synced = self.open().and_then(|file| file.sync_all());
        synced.map_err(|source| StoreError::Io { doing: "bring the file to stable storage", source })
    }
}

/// Looks at what is under `path`, without following a link there or on the way.
pub fn look(beneath: &Beneath, path: &RelPath) -> Result<Occupant, StoreError> {
    let dir = beneath.open(path.split().0);
    look_in(beneath, dir, path)
}

/// Like [`look`], but takes it that nobody else puts anything into a folder that is new.
pub fn expect(beneath: &Beneath, path: &RelPath) -> Result<Occupant, StoreError> {
    let dir = beneath.open_if_occupied(path.split().0);
    look_in(beneath, dir, path)
}

fn look_in(
    beneath: &Beneath,
    dir: Result<Arc<Folder>, Errno>,
    path: &RelPath,
) -> Result<Occupant, StoreError> {
    let (parent, name) = path.split();
    let dir = match dir {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(Occupant::Nothing),
        Err(errno) => return Err(StoreError::io("open the folder it belongs in")(errno)),
    };
    let stat = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Occupant::Nothing),
        Err(errno) => return Err(StoreError::io("look at what is there")(errno)),
    };
    if !beneath.is_spelled(&dir, parent, name).map_err(StoreError::io("look at what is there"))? {
        return Ok(Occupant::SpelledOtherwise);
    }
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Ok(Occupant::Other("a folder")),
        FileType::Symlink => return Ok(Occupant::Other("a symbolic link")),
        _ => return Ok(Occupant::Other("a device, FIFO or socket")),
    }
    Ok(Occupant::File(ExistingFile {
        beneath: beneath.clone(),
        folder: parent.into(),
        name: name.into(),
        size_bytes: stat.st_size as u64,
        identity: (stat.st_dev, stat.st_ino),
        modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
    }))
}
