//! What is there already under the name of an entry.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::StoreError;
use super::beneath::Beneath;
use super::commit::{Content, Digests};
use crate::digest::{Hasher, Md5, PartLayout, PartRange};
use crate::relpath::RelPath;

/// What lies under a name.
#[derive(Debug)]
pub enum Occupant {
    /// Nothing.
    Nothing,
    /// A regular file, open for comparing.
    File(ExistingFile),
    /// Something else; the words say what.
    Other(&'static str),
}

/// A regular file that was there before.
#[derive(Debug)]
pub struct ExistingFile {
    file: File,
    size_bytes: u64,
}

/// Bytes read at a time when hashing; small enough to stay in a core's cache.
const CHUNK_BYTES: usize = 256 << 10;

impl ExistingFile {
    /// Its size when it was opened.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The digest of one range of it.
    pub fn digest(&self, range: PartRange) -> io::Result<Md5> {
        let mut buffer = vec![0; range.len.min(CHUNK_BYTES as u64) as usize];
        let mut hasher = Hasher::new();
        let (mut offset, end) = (range.offset, range.offset + range.len);
        while offset < end {
            let chunk = &mut buffer[..(end - offset).min(CHUNK_BYTES as u64) as usize];
            self.file.read_exact_at(chunk, offset)?;
            hasher.update(chunk);
            offset += chunk.len() as u64;
        }
        Ok(hasher.finish())
    }

    /// Does a range hold zeros alone? Holes of it need not be read.
    pub fn is_zero(&self, range: PartRange) -> io::Result<bool> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let (mut offset, end) = (range.offset, range.offset + range.len);
        while offset < end {
            match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
                Ok(data) if data >= end => return Ok(true),
                Ok(data) => offset = data,
                Err(Errno::NXIO) => return Ok(true),
                // A file system without holes.
                Err(_) => {}
            }
            let chunk = &mut buffer[..(end - offset).min(CHUNK_BYTES as u64) as usize];
            self.file.read_exact_at(chunk, offset)?;
            if chunk.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            offset += chunk.len() as u64;
        }
        Ok(true)
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
            Digests::Parts(digests) => (0..layout.count()).all(|index| {
                let digest = layout.range(index).and_then(|range| self.digest(range).ok());
                digest.is_some() && digest == digests.get(index)
            }),
        }
    }

    /// Brings it to stable storage: whoever wrote it may not have done so.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        rustix::fs::fsync(&self.file).map_err(StoreError::io("bring the file to stable storage"))
    }
}

/// Looks at what is under `path`, without following a link there or on the way.
pub fn look(beneath: &mut Beneath, path: &RelPath) -> Result<Occupant, StoreError> {
    let (parent, name) = path.split();
    let dir = match beneath.open(parent) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(Occupant::Nothing),
        Err(errno) => return Err(StoreError::io("open the folder it belongs in")(errno)),
    };
    let stat = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Occupant::Nothing),
        Err(errno) => return Err(StoreError::io("look at what is there")(errno)),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Ok(Occupant::Other("a folder")),
        FileType::Symlink => return Ok(Occupant::Other("a symbolic link")),
        _ => return Ok(Occupant::Other("a device, FIFO or socket")),
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(&dir, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(Occupant::Nothing),
        Err(errno) => return Err(StoreError::io("read the file that is there")(errno)),
    };
    let metadata =
        file.metadata().map_err(|source| StoreError::Io { doing: "look at what is there", source })?;
    if !metadata.is_file() {
        return Ok(Occupant::Other("a device, FIFO or socket"));
    }
    Ok(Occupant::File(ExistingFile { file, size_bytes: metadata.size() }))
}
