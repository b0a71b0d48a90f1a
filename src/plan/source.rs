//! A file to send: what it was when the walk saw it, and reading it while it stays that.

use std::fs::{File, Metadata as FsMetadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::StateKey;
use crate::digest::{Md5, PartRange};
use crate::fault::Fault;
use crate::relpath::RelPath;
use crate::units::{Metadata, Mode, MtimeNs};

/// A regular file, as the walk saw it.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it is.
    pub path: PathBuf,
    /// Its name in the transfer.
    pub name: RelPath,
    /// Its size.
    pub size_bytes: u64,
    /// It takes less room on the disk than its size: there may be holes.
    pub is_sparse: bool,
    /// What travels with it.
    pub metadata: Metadata,
    state: State,
}

/// What tells one state of a file from another: any write, truncation or replacement changes one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    size_bytes: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

/// The unit of `st_blocks`, whatever the file system's own blocks are (stat(2)).
const STAT_BLOCK_BYTES: u64 = 512;

impl State {
    fn of(metadata: &FsMetadata) -> Self {
        State {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.size(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Why a source could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is no longer what was announced.
    #[error("the file changed while it was sent")]
    Changed,
    /// It is gone.
    #[error("the file vanished before it was sent")]
    Vanished,
    /// The system could not read it.
    #[error("cannot read the file: {0}")]
    Io(io::Error),
}

impl ReadError {
    /// The stable reason.
    pub fn fault(&self) -> Fault {
        match self {
            ReadError::Changed | ReadError::Vanished => Fault::SourceChanged,
            ReadError::Io(_) => Fault::FileIo,
        }
    }
}

impl Source {
    /// Notes what `metadata`, fresh from `lstat`, says of the file.
    pub fn new(path: PathBuf, name: RelPath, metadata: &FsMetadata) -> Self {
        Source {
            path,
            name,
            size_bytes: metadata.size(),
            is_sparse: metadata.blocks() * STAT_BLOCK_BYTES < metadata.size(),
            metadata: travelling(metadata),
            state: State::of(metadata),
        }
    }

    /// Equal for two looks at a file only if it did not change in between: a keyed digest of where it is and what its last
    /// changes were. `tell` as for [`StateKey::digest`].
    pub fn state_digest(&self, key: &StateKey, tell: impl FnOnce(&str)) -> Md5 {
        let State { device, inode, size_bytes, mtime, ctime } = self.state;
        key.digest(&format!("{device} {inode} {size_bytes} {mtime:?} {ctime:?}"), tell)
    }

    /// Opens it for reading, never through a link and never waiting for a FIFO's writer. What was read counts only
    /// after [`OpenSource::check_unchanged`].
    pub fn open(&self) -> Result<OpenSource, ReadError> {
        let open = self.open_unchecked()?;
        open.check_unchanged()?;
        Ok(open)
    }

    /// Reads all of it, if it is still what the walk saw. One look at its state, after the last byte, is enough here.
    /// `buffer` has its size.
    pub fn read_whole(&self, buffer: &mut [u8]) -> Result<(), ReadError> {
        let open = self.open_unchecked()?;
        let read = open.read_at(buffer, 0);
        // That it changed explains why it could not be read.
        open.check_unchanged().and(read)
    }

    fn open_unchecked(&self) -> Result<OpenSource, ReadError> {
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let opened = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(&self.path);
        let file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ReadError::Vanished,
            _ if Errno::from_io_error(&error) == Some(Errno::LOOP) => ReadError::Changed,
            _ => ReadError::Io(error),
        })?;
        Ok(OpenSource { file, state: self.state })
    }
}

/// What travels of a file beside its bytes.
pub fn travelling(metadata: &FsMetadata) -> Metadata {
    Metadata {
        mode: Some(Mode::new(metadata.mode())),
        mtime: MtimeNs::from_parts(metadata.mtime(), metadata.mtime_nsec()),
    }
}

/// A source that is open.
#[derive(Debug)]
pub struct OpenSource {
    file: File,
    state: State,
}

impl OpenSource {
    /// Fills `buffer` with the bytes of `range`.
    pub fn read(&self, range: PartRange, buffer: &mut Vec<u8>) -> Result<(), ReadError> {
        buffer.resize(range.len as usize, 0);
        self.read_at(buffer, range.offset)
    }

    /// Fills `buffer` from an offset.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        self.file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ReadError::Changed,
            _ => ReadError::Io(error),
        })
    }

    /// The open file, for the kernel to read from.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// How many bytes from `offset` on are a hole, as far as the file system knows; 0 where there is data.
    pub fn hole_bytes(&self, offset: u64) -> u64 {
        match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) => data - offset,
            // Nothing but a hole to the end.
            Err(Errno::NXIO) => self.state.size_bytes.saturating_sub(offset),
            Err(_) => 0,
        }
    }

    /// Tells the kernel that `range` is read soon, so that it comes off the disk in one go.
    pub fn will_need(&self, range: PartRange) {
        // Only a hint: a file system that cannot take it reads as it likes.
        let len = std::num::NonZeroU64::new(range.len);
        let _ = rustix::fs::fadvise(&self.file, range.offset, len, rustix::fs::Advice::WillNeed);
    }

    /// Is the file still in the state in which the walk saw it?
    pub fn check_unchanged(&self) -> Result<(), ReadError> {
        let now = State::of(&self.file.metadata().map_err(ReadError::Io)?);
        if now == self.state { Ok(()) } else { Err(ReadError::Changed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::PartLayout;
    use crate::relpath::NamePolicy;
    use std::fs;

    fn source(path: &std::path::Path) -> Source {
        let name = RelPath::new(b"a", NamePolicy::Strict).unwrap();
        Source::new(path.to_owned(), name, &fs::symlink_metadata(path).unwrap())
    }

    #[test]
    fn a_source_that_moves_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let other = dir.path().join("b");
        type Change = fn(&std::path::Path, &std::path::Path);
        let changes: [(&str, Change); 6] = [
            ("grown", |path, _| fs::write(path, "longer than before").unwrap()),
            ("shrunk", |path, _| fs::write(path, "").unwrap()),
            ("replaced", |path, other| fs::rename(other, path).unwrap()),
            ("a link now", |path, other| {
                fs::remove_file(path).unwrap();
                std::os::unix::fs::symlink(other, path).unwrap();
            }),
            ("vanished", |path, _| fs::remove_file(path).unwrap()),
            ("a FIFO now", |path, _| {
                fs::remove_file(path).unwrap();
                rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
                    .unwrap();
            }),
        ];
        for (what, change) in changes {
            let _ = fs::remove_file(&path);
            fs::write(&path, "bytes").unwrap();
            fs::write(&other, "bytes").unwrap();
            let seen = source(&path);
            let mut buffer = Vec::new();
            let range = PartLayout::new(5).range(0).unwrap();
            let open = seen.open().unwrap();
            open.read(range, &mut buffer).and_then(|()| open.check_unchanged()).unwrap();
            assert_eq!(buffer, b"bytes");
            change(&path, &other);
            let again = seen.open().and_then(|open| {
                open.read(range, &mut buffer)?;
                open.check_unchanged()
            });
            assert!(matches!(again, Err(ReadError::Changed | ReadError::Vanished)), "{what}: {again:?}");
        }
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "bytes").unwrap();
        let open = source(&path).open().unwrap();
        fs::write(&path, "by").unwrap();
        let range = PartLayout::new(5).range(0).unwrap();
        assert!(matches!(open.read(range, &mut Vec::new()), Err(ReadError::Changed)));
    }
}
