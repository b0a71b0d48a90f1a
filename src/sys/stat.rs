//! The result of stat(2).

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType as RawFileType, Stat};
use rustix::io::Errno;

/// The unit of `st_blocks`, whatever the block size of the file system is.
const STAT_BLOCK_BYTES: u64 = 512;

/// The type of a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A device, FIFO or socket.
    Other,
}

impl FileType {
    /// `None` if the file system does not report it.
    pub(super) fn from_raw(raw: RawFileType) -> Option<Self> {
        Some(match raw {
            RawFileType::RegularFile => FileType::File,
            RawFileType::Directory => FileType::Dir,
            RawFileType::Symlink => FileType::Symlink,
            RawFileType::Unknown => return None,
            _ => FileType::Other,
        })
    }
}

/// Identifies a file among all files of this machine while it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The file system it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
}

/// Changes with every write to a file and with every change of its metadata. Times are seconds and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    /// The size.
    pub size_bytes: u64,
    /// The time of the last modification; programs can set it.
    pub mtime: (i64, i64),
    /// The time of the last change of content or metadata; programs cannot set it.
    pub ctime: (i64, i64),
}

/// What stat(2) reports of a file.
#[derive(Clone, Copy, Debug)]
pub struct FileStat {
    /// Which file it is.
    pub id: FileId,
    /// Its version.
    pub stamp: FileStamp,
    /// Its type.
    pub file_type: FileType,
    /// The permission bits with setuid, setgid and sticky: `0o7777`.
    pub mode: u32,
    /// The number of its hard links.
    pub links: u64,
    /// Bytes that it occupies on the disk.
    pub allocated_bytes: u64,
    owner: u32,
}

impl FileStat {
    /// Of an open file or directory.
    pub fn of(handle: impl AsFd) -> Result<Self, Errno> {
        rustix::fs::fstat(handle).map(|stat| Self::from_raw(&stat))
    }

    /// Of an entry of a directory; a symbolic link is not followed.
    pub(super) fn of_entry(dir: impl AsFd, name: impl rustix::path::Arg) -> Result<Self, Errno> {
        rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| Self::from_raw(&stat))
    }

    /// Of the file at a path; a symbolic link at its end is not followed.
    pub fn of_path(path: &Path) -> Result<Self, Errno> {
        rustix::fs::lstat(path).map(|stat| Self::from_raw(&stat))
    }

    // The types of the fields differ between machines.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    fn from_raw(stat: &Stat) -> Self {
        FileStat {
            id: FileId { device: stat.st_dev as u64, inode: stat.st_ino as u64 },
            stamp: FileStamp {
                size_bytes: stat.st_size as u64,
                mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
                ctime: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
            },
            file_type: FileType::from_raw(RawFileType::from_raw_mode(stat.st_mode))
                .unwrap_or(FileType::Other),
            mode: stat.st_mode & 0o7777,
            links: stat.st_nlink as u64,
            allocated_bytes: (stat.st_blocks as u64).saturating_mul(STAT_BLOCK_BYTES),
            owner: stat.st_uid,
        }
    }

    /// Does it belong to the effective user of this process?
    pub fn is_own(&self) -> bool {
        self.owner == rustix::process::geteuid().as_raw()
    }
}
