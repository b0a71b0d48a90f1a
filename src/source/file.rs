//! A file to send: its state when the walk found it, and reads that are valid only in that state.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use super::StateKey;
use crate::digest::{Md5, PartRange};
use crate::error_code::ErrorCode;
use crate::relpath::RelPath;
use crate::sys::stat::{FileId, FileStamp, FileStat};
use crate::sys::{self, Errno};
use crate::units::{Metadata, Mode, MtimeNs};

/// A regular file as the walk found it.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its absolute path.
    pub path: PathBuf,
    /// Its name in the transfer.
    pub name: RelPath,
    /// Its size.
    pub size_bytes: u64,
    /// It occupies fewer bytes than its size: there may be holes.
    pub is_sparse: bool,
    /// Mode and time of modification.
    pub metadata: Metadata,
    state: FileState,
    settles_at: Option<Instant>,
}

/// Identifies one state of one file: any write, truncation or replacement changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileState {
    id: FileId,
    stamp: FileStamp,
}

/// Two ticks of the slowest kernel clock (100 Hz). File systems with timestamps in nanoseconds take them from it.
const FINE_TIMESTAMP_GRAIN: Duration = Duration::from_millis(20);
/// FAT has timestamps of two seconds; ext3, small ext4 file systems, HFS+ and many file servers of one second.
const COARSE_TIMESTAMP_GRAIN: Duration = Duration::from_secs(2);

impl FileState {
    fn of(stat: &FileStat) -> Self {
        FileState { id: stat.id, stamp: stat.stamp }
    }

    /// For how long after `now` a write may still get the same timestamps as the last one, and so stay undetected. `None` if
    /// that time is over. A program can set the nanoseconds of mtime, but not those of ctime: if ctime has nanoseconds, the
    /// file system stores them. A timestamp in the future, of a file server or set by a program, counts as `now`.
    fn unsettled_for(&self, now: SystemTime) -> Option<Duration> {
        let FileStamp { mtime, ctime, .. } = self.stamp;
        let grain = if ctime.1 == 0 { COARSE_TIMESTAMP_GRAIN } else { FINE_TIMESTAMP_GRAIN };
        let nanos = |(seconds, nanos): (i64, i64)| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        let newest = nanos(mtime.max(ctime));
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as i128;
        let left = (newest + grain.as_nanos() as i128 - now).min(grain.as_nanos() as i128);
        (left > 0).then(|| Duration::from_nanos(left as u64))
    }
}

/// Why a file could not be read completely.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not in the announced state any more.
    #[error("the file changed while it was sent")]
    Changed,
    /// It does not exist any more.
    #[error("the file vanished before it was sent")]
    Vanished,
    /// It continues beyond its size, as some files of `/proc` and of FUSE file systems do.
    #[error("the file is longer than its reported size")]
    TooLong,
    /// It ends before its size, and has not changed.
    #[error("the file is shorter than its reported size")]
    TooShort,
    /// A system call failed.
    #[error("cannot read the file: {0}")]
    Io(io::Error),
}

impl ReadError {
    /// The stable code of the error.
    pub fn code(&self) -> ErrorCode {
        match self {
            ReadError::Changed | ReadError::Vanished => ErrorCode::SourceChanged,
            ReadError::TooLong | ReadError::TooShort | ReadError::Io(_) => ErrorCode::FileIo,
        }
    }
}

impl Source {
    /// The file that `stat` was taken of just now. `path` is absolute and leads over no link.
    pub fn new(path: PathBuf, name: RelPath, stat: &FileStat) -> Self {
        let state = FileState::of(stat);
        Source {
            path,
            name,
            size_bytes: stat.stamp.size_bytes,
            is_sparse: stat.allocated_bytes < stat.stamp.size_bytes,
            metadata: portable_metadata(stat),
            state,
            settles_at: state.unsettled_for(SystemTime::now()).map(|left| Instant::now() + left),
        }
    }

    /// How long to wait before the first byte is read. `None` if no wait is needed, which is so unless the file was changed
    /// shortly before the walk found it: its file system may give another change the same timestamp. What is read after the
    /// wait cannot change without a change of the timestamp, which [`OpenSource::check_unchanged`] detects.
    pub fn unsettled_for(&self) -> Option<Duration> {
        self.settles_at?.checked_duration_since(Instant::now())
    }

    /// A keyed digest of the file's identity and state: equal at two times only if the file did not change in between.
    /// `report` as for [`StateKey::digest`].
    pub fn state_digest(&self, key: &StateKey, report: impl FnOnce(&str)) -> Md5 {
        let FileId { device, inode } = self.state.id;
        let FileStamp { size_bytes, mtime, ctime } = self.state.stamp;
        key.digest(&format!("{device} {inode} {size_bytes} {mtime:?} {ctime:?}"), report)
    }

    /// Opens it for reading, over no link, and without waiting for a FIFO's writer. What is read is valid only after
    /// [`OpenSource::check_unchanged`].
    pub fn open(&self) -> Result<OpenSource, ReadError> {
        let open = self.open_unchecked()?;
        open.check_unchanged()?;
        Ok(open)
    }

    /// Reads all of it, if it is in the state that the walk found. One check, after the last byte, is enough here. `buffer`
    /// has one byte more than the file, which must stay unused: it shows that the file ends there.
    pub fn read_whole(&self, buffer: &mut [u8]) -> Result<(), ReadError> {
        let open = self.open_unchecked()?;
        let read = open.read_to_end(buffer);
        // A change explains why it could not be read.
        open.check_unchanged().and(read)
    }

    fn open_unchecked(&self) -> Result<OpenSource, ReadError> {
        let file = sys::dir::open_file_without_links(&self.path).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => ReadError::Vanished,
            Errno::LOOP => ReadError::Changed,
            errno => ReadError::Io(errno.into()),
        })?;
        Ok(OpenSource { file, state: self.state })
    }
}

/// The metadata that is transferred.
pub fn portable_metadata(stat: &FileStat) -> Metadata {
    let (seconds, nanoseconds) = stat.stamp.mtime;
    Metadata { mode: Some(Mode::new(stat.mode)), mtime: MtimeNs::from_parts(seconds, nanoseconds) }
}

/// An open source.
#[derive(Debug)]
pub struct OpenSource {
    file: File,
    state: FileState,
}

impl OpenSource {
    /// Fills `buffer` with the bytes of `range`.
    pub fn read(&self, range: PartRange, buffer: &mut Vec<u8>) -> Result<(), ReadError> {
        buffer.resize(range.len as usize, 0);
        self.read_at(buffer, range.offset)
    }

    /// Fills `buffer` from an offset.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        sys::file::read_exact_at(&self.file, buffer, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.changed_or(ReadError::TooShort),
            _ => ReadError::Io(error),
        })
    }

    /// Fills all of `buffer` but its last byte.
    fn read_to_end(&self, buffer: &mut [u8]) -> Result<(), ReadError> {
        let mut filled = 0;
        while filled + 1 < buffer.len() || filled == 0 {
            match sys::file::read_at(&self.file, &mut buffer[filled..], filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Io(error)),
            }
        }
        match (filled + 1).cmp(&buffer.len()) {
            Ordering::Less => Err(ReadError::TooShort),
            Ordering::Equal => Ok(()),
            Ordering::Greater => Err(ReadError::TooLong),
        }
    }

    /// Checks that the file ends at its size.
    pub fn check_end(&self) -> Result<(), ReadError> {
        let size_bytes = self.state.stamp.size_bytes;
        match sys::file::read_at(&self.file, &mut [0], size_bytes) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.changed_or(ReadError::TooLong)),
            // No file is longer than the largest offset.
            Err(_) if size_bytes == i64::MAX as u64 => Ok(()),
            Err(error) => Err(ReadError::Io(error)),
        }
    }

    /// Checks, after `range` was read, that the file is in the state that the walk found; for the last range also that the
    /// file ends there.
    pub fn check_after(&self, range: PartRange) -> Result<(), ReadError> {
        if range.offset + range.len == self.state.stamp.size_bytes {
            self.check_end()?;
        }
        self.check_unchanged()
    }

    /// `Changed` if the file has changed, which then explains `error`.
    fn changed_or(&self, error: ReadError) -> ReadError {
        self.check_unchanged().err().unwrap_or(error)
    }

    /// The open file, for the kernel to copy from.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// How many bytes from `offset` on are a hole, as far as the file system reports holes; 0 where there is data.
    pub fn hole_bytes(&self, offset: u64) -> u64 {
        match sys::file::next_data(&self.file, offset) {
            Ok(Some(data)) => data - offset,
            Ok(None) => self.state.stamp.size_bytes.saturating_sub(offset),
            Err(_) => 0,
        }
    }

    /// Tells the kernel that `range` will be read soon, so that the disk reads it in one operation.
    pub fn will_need(&self, range: PartRange) {
        sys::file::will_need(&self.file, range.offset, range.len);
    }

    /// Checks that the file is in the state that the walk found.
    pub fn check_unchanged(&self) -> Result<(), ReadError> {
        let stat = FileStat::of(&self.file).map_err(|errno| ReadError::Io(errno.into()))?;
        if FileState::of(&stat) == self.state { Ok(()) } else { Err(ReadError::Changed) }
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
        Source::new(path.to_owned(), name, &FileStat::of_path(path).unwrap())
    }

    #[test]
    fn a_source_that_changes_is_detected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d/a");
        let other = dir.path().join("b");
        type Change = fn(&std::path::Path, &std::path::Path);
        let changes: [(&str, Change); 7] = [
            ("grown", |path, _| fs::write(path, "longer than before").unwrap()),
            ("shrunk", |path, _| fs::write(path, "").unwrap()),
            ("replaced", |path, other| fs::rename(other, path).unwrap()),
            ("a link now", |path, other| {
                fs::remove_file(path).unwrap();
                std::os::unix::fs::symlink(other, path).unwrap();
            }),
            ("vanished", |path, _| fs::remove_file(path).unwrap()),
            ("in a directory that is a link now", |path, _| {
                let parent = path.parent().unwrap();
                let moved = parent.with_extension("moved");
                fs::rename(parent, &moved).unwrap();
                std::os::unix::fs::symlink(&moved, parent).unwrap();
            }),
            ("a FIFO now", |path, _| {
                fs::remove_file(path).unwrap();
                rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
                    .unwrap();
            }),
        ];
        for (what, change) in changes {
            let parent = path.parent().unwrap();
            let _ = fs::remove_dir_all(parent).or_else(|_| fs::remove_file(parent));
            fs::create_dir(parent).unwrap();
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

    /// Both if the state that is compared has the real size, and if it has the wrong one.
    #[test]
    fn a_file_that_does_not_end_at_its_size_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "bytes").unwrap();
        for size in 0..=7 {
            let mut source = source(&path);
            (source.size_bytes, source.state.stamp.size_bytes) = (size, 5);
            let whole = source.read_whole(&mut vec![0; size as usize + 1]);
            let mut open = source.open().unwrap();
            open.state.stamp.size_bytes = size;
            let end = open.check_end();
            match size {
                ..5 => assert!(matches!(whole, Err(ReadError::TooLong)), "{size}: {whole:?}"),
                5 => assert!(whole.is_ok() && end.is_ok()),
                _ => assert!(matches!(whole, Err(ReadError::TooShort)), "{size}: {whole:?}"),
            }
            assert_eq!(end.is_err(), size < 5, "{size}: {end:?}");
        }
    }

    #[test]
    fn timestamps_are_settled_after_a_tick_of_the_file_systems_clock() {
        let unsettled_ms = |mtime, ctime, now_ms| {
            let id = FileId { device: 1, inode: 1 };
            let state = FileState { id, stamp: FileStamp { size_bytes: 1, mtime, ctime } };
            let now = SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms);
            state.unsettled_for(now).map(|left| left.as_millis())
        };
        let fine = (100, 500_000_000);
        assert_eq!(unsettled_ms(fine, fine, 100_500), Some(20));
        assert_eq!(unsettled_ms(fine, fine, 100_519), Some(1));
        assert_eq!(unsettled_ms(fine, fine, 100_520), None);
        // A program can set the nanoseconds of mtime: they do not show what the file system stores.
        assert_eq!(unsettled_ms((90, 7), (100, 0), 100_500), Some(1500));
        assert_eq!(unsettled_ms((90, 7), (100, 0), 102_000), None);
        // A file system without ctime.
        assert_eq!(unsettled_ms((100, 0), (0, 0), 101_000), Some(1000));
        // A timestamp in the future counts as the present.
        assert_eq!(unsettled_ms((i64::MAX, 0), fine, 200_000), Some(20));
        assert_eq!(unsettled_ms((-1, 0), (-1, 0), 0), Some(1000));
    }

    #[test]
    fn a_file_that_was_just_written_is_not_read_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "bytes").unwrap();
        assert!(source(&path).unsettled_for().is_some());
        let settled = || source(&path).unsettled_for().is_none();
        while !settled() {
            std::thread::yield_now();
        }
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        assert!(modified.elapsed().unwrap() >= FINE_TIMESTAMP_GRAIN);
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
