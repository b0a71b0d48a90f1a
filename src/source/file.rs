//! A file to send: what it was when the walk saw it, and reading it while it stays that.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::{StateKey, no_links};
use crate::digest::{Md5, PartRange};
use crate::error_code::ErrorCode;
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
    state: FileStamp,
    settles_at: Option<Instant>,
}

/// What tells one state of a file from another: any write, truncation or replacement changes one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    size_bytes: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

/// Twice the tick of the slowest kernel clock (100 a second), by which file systems date changes that store nanoseconds.
const FINE_TIMESTAMP_GRAIN: Duration = Duration::from_millis(20);
/// FAT dates changes to two seconds, ext3, small ext4 file systems, HFS+ and many file servers to one.
const COARSE_TIMESTAMP_GRAIN: Duration = Duration::from_secs(2);

/// The unit of `st_blocks`, whatever the file system's own blocks are (stat(2)).
const STAT_BLOCK_BYTES: u64 = 512;

impl FileStamp {
    fn of(stat: &Stat) -> Self {
        FileStamp {
            device: stat.st_dev,
            inode: stat.st_ino,
            size_bytes: stat.st_size as u64,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime: (stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }

    /// How much longer than `now` a write may still be dated like the last one, so that it would change nothing here.
    /// A program can set the nanoseconds of mtime, but not those of ctime: where there are some, the file system stores them.
    /// A date in the future, a file server's or one that was set, is waited for no longer than one in the present.
    fn unsettled_for(&self, now: SystemTime) -> Option<Duration> {
        let clock = if self.ctime.1 == 0 { COARSE_TIMESTAMP_GRAIN } else { FINE_TIMESTAMP_GRAIN };
        let nanos = |(seconds, nanos): (i64, i64)| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        let newest = nanos(self.mtime.max(self.ctime));
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as i128;
        let left = (newest + clock.as_nanos() as i128 - now).min(clock.as_nanos() as i128);
        (left > 0).then(|| Duration::from_nanos(left as u64))
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
    /// It goes on behind the size that it has, as some files of `/proc` and of file systems in user space do.
    #[error("the file has more bytes than its size tells")]
    TooLong,
    /// It ends before the size that it has, and has not changed.
    #[error("the file has fewer bytes than its size tells")]
    TooShort,
    /// The system could not read it.
    #[error("cannot read the file: {0}")]
    Io(io::Error),
}

impl ReadError {
    /// The stable reason.
    pub fn fault(&self) -> ErrorCode {
        match self {
            ReadError::Changed | ReadError::Vanished => ErrorCode::SourceChanged,
            ReadError::TooLong | ReadError::TooShort | ReadError::Io(_) => ErrorCode::FileIo,
        }
    }
}

impl Source {
    /// Notes what `stat`, which was taken just now, tells of the file. `path` is absolute, and no link is on it.
    pub fn new(path: PathBuf, name: RelPath, stat: &Stat) -> Self {
        let state = FileStamp::of(stat);
        Source {
            path,
            name,
            size_bytes: state.size_bytes,
            is_sparse: (stat.st_blocks as u64).saturating_mul(STAT_BLOCK_BYTES) < state.size_bytes,
            metadata: portable_metadata(stat),
            state,
            settles_at: state.unsettled_for(SystemTime::now()).map(|left| Instant::now() + left),
        }
    }

    /// How long to wait before the first byte is read; `None` if there is no need to. The file was changed so short a time
    /// before the walk saw it that its file system may give another change the same date. What is read after that time
    /// cannot change without a change of the date, which [`OpenSource::check_unchanged`] finds.
    pub fn unsettled_for(&self) -> Option<Duration> {
        self.settles_at?.checked_duration_since(Instant::now())
    }

    /// Equal for two looks at a file only if it did not change in between: a keyed digest of where it is and what its last
    /// changes were. `tell` as for [`StateKey::digest`].
    pub fn state_digest(&self, key: &StateKey, tell: impl FnOnce(&str)) -> Md5 {
        let FileStamp { device, inode, size_bytes, mtime, ctime } = self.state;
        key.digest(&format!("{device} {inode} {size_bytes} {mtime:?} {ctime:?}"), tell)
    }

    /// Opens it for reading, through no link on its path and never waiting for a FIFO's writer. What was read counts only
    /// after [`OpenSource::check_unchanged`].
    pub fn open(&self) -> Result<OpenSource, ReadError> {
        let open = self.open_unchecked()?;
        open.check_unchanged()?;
        Ok(open)
    }

    /// Reads all of it, if it is still what the walk saw. One look at its state, after the last byte, is enough here.
    /// `buffer` has its size and one byte more, which must stay unused: it shows that the file ends there.
    pub fn read_whole(&self, buffer: &mut [u8]) -> Result<(), ReadError> {
        let open = self.open_unchecked()?;
        let read = open.read_to_end(buffer);
        // That it changed explains why it could not be read.
        open.check_unchanged().and(read)
    }

    fn open_unchecked(&self) -> Result<OpenSource, ReadError> {
        let opened = no_links::open(&self.path, OFlags::RDONLY | OFlags::NONBLOCK);
        let file = opened.map(File::from).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => ReadError::Vanished,
            Errno::LOOP => ReadError::Changed,
            errno => ReadError::Io(errno.into()),
        })?;
        Ok(OpenSource { file, state: self.state })
    }
}

/// What travels of a file beside its bytes.
pub fn portable_metadata(stat: &Stat) -> Metadata {
    Metadata {
        mode: Some(Mode::new(stat.st_mode)),
        mtime: MtimeNs::from_parts(stat.st_mtime, stat.st_mtime_nsec as i64),
    }
}

/// A source that is open.
#[derive(Debug)]
pub struct OpenSource {
    file: File,
    state: FileStamp,
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
            io::ErrorKind::UnexpectedEof => self.changed_or(ReadError::TooShort),
            _ => ReadError::Io(error),
        })
    }

    /// Fills all of `buffer` but its last byte.
    fn read_to_end(&self, buffer: &mut [u8]) -> Result<(), ReadError> {
        let mut filled = 0;
        while filled + 1 < buffer.len() || filled == 0 {
            match self.file.read_at(&mut buffer[filled..], filled as u64) {
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

    /// Does the file end where its size tells?
    pub fn check_end(&self) -> Result<(), ReadError> {
        match self.file.read_at(&mut [0], self.state.size_bytes) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.changed_or(ReadError::TooLong)),
            // No file goes on behind the last offset that there is.
            Err(_) if self.state.size_bytes == i64::MAX as u64 => Ok(()),
            Err(error) => Err(ReadError::Io(error)),
        }
    }

    /// Was all of `range` read out of the file that the walk saw? Behind its last bytes the file has to end.
    pub fn check_after(&self, range: PartRange) -> Result<(), ReadError> {
        if range.offset + range.len == self.state.size_bytes {
            self.check_end()?;
        }
        self.check_unchanged()
    }

    /// That a file changed explains what is wrong with it.
    fn changed_or(&self, error: ReadError) -> ReadError {
        self.check_unchanged().err().unwrap_or(error)
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
        let stat = rustix::fs::fstat(&self.file).map_err(|errno| ReadError::Io(errno.into()))?;
        let now = FileStamp::of(&stat);
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
        Source::new(path.to_owned(), name, &rustix::fs::lstat(path).unwrap())
    }

    #[test]
    fn a_source_that_moves_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder/a");
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
            ("in a folder that is a link now", |path, _| {
                let (folder, moved) =
                    (path.parent().unwrap(), path.parent().unwrap().with_extension("moved"));
                fs::rename(folder, &moved).unwrap();
                std::os::unix::fs::symlink(&moved, folder).unwrap();
            }),
            ("a FIFO now", |path, _| {
                fs::remove_file(path).unwrap();
                rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
                    .unwrap();
            }),
        ];
        for (what, change) in changes {
            let folder = path.parent().unwrap();
            let _ = fs::remove_dir_all(folder).or_else(|_| fs::remove_file(folder));
            fs::create_dir(folder).unwrap();
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

    /// Where the state that is compared has the size that the file really has, and where it has the wrong one, too.
    #[test]
    fn a_file_that_does_not_end_where_its_size_tells_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "bytes").unwrap();
        for size in 0..=7 {
            let mut source = source(&path);
            (source.size_bytes, source.state.size_bytes) = (size, 5);
            let whole = source.read_whole(&mut vec![0; size as usize + 1]);
            let mut open = source.open().unwrap();
            open.state.size_bytes = size;
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
    fn a_change_is_dated_for_certain_only_after_a_tick_of_the_file_systems_clock() {
        let unsettled_ms = |mtime, ctime, now_ms| {
            let state = FileStamp { device: 1, inode: 1, size_bytes: 1, mtime, ctime };
            let now = SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms);
            state.unsettled_for(now).map(|left| left.as_millis())
        };
        let fine = (100, 500_000_000);
        assert_eq!(unsettled_ms(fine, fine, 100_500), Some(20));
        assert_eq!(unsettled_ms(fine, fine, 100_519), Some(1));
        assert_eq!(unsettled_ms(fine, fine, 100_520), None);
        // Nanoseconds of mtime can be set by a program: they tell nothing of the file system.
        assert_eq!(unsettled_ms((90, 7), (100, 0), 100_500), Some(1500));
        assert_eq!(unsettled_ms((90, 7), (100, 0), 102_000), None);
        // Where ctime is not kept, mtime is all there is.
        assert_eq!(unsettled_ms((100, 0), (0, 0), 101_000), Some(1000));
        // A date in the future is not waited for.
        assert_eq!(unsettled_ms((i64::MAX, 0), fine, 200_000), Some(20));
        assert_eq!(unsettled_ms((-1, 0), (-1, 0), 0), Some(1000));
    }

    #[test]
    fn a_file_that_was_written_just_now_is_not_read_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "bytes").unwrap();
        assert!(source(&path).unsettled_for().is_some());
        let settled = || source(&path).unsettled_for().is_none();
        while !settled() {
            std::thread::yield_now();
        }
        let changed = fs::metadata(&path).unwrap().modified().unwrap();
        assert!(changed.elapsed().unwrap() >= FINE_TIMESTAMP_GRAIN);
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
