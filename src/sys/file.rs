//! What is done with an open file, beyond `std::fs`.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{
    Advice, FallocateFlags, FlockOperation, Mode, OFlags, SeekFrom, Timespec, Timestamps, UTIME_OMIT,
};
use rustix::io::Errno;

use crate::units::MtimeNs;

/// Opens a file for reading. A symbolic link at the end of the path is not followed, and a FIFO's writer is not waited for.
pub fn open_without_link(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Reads from an offset; returns the number of bytes, 0 at the end of the file.
pub fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(buffer, offset)
}

/// Fills `buffer` from an offset.
pub fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(buffer, offset)
}

/// Writes all bytes at an offset.
pub fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// The first offset from `offset` on where there is data; `None` if there is only a hole up to the end of the file. An error
/// if the file system does not report holes.
pub fn next_data(file: &File, offset: u64) -> Result<Option<u64>, Errno> {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Makes a range of a file a hole. `false` if the file system cannot.
pub fn punch_hole(file: &File, offset: u64, len: u64) -> Result<bool, Errno> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, offset, len) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Tells the kernel that a range will be read soon. A hint: a failure has no effect.
pub fn will_need(file: &File, offset: u64, len: u64) {
    let _ = rustix::fs::fadvise(file, offset, NonZeroU64::new(len), Advice::WillNeed);
}

/// Syncs data and metadata.
pub fn sync(file: &File) -> Result<(), Errno> {
    rustix::fs::fsync(file)
}

/// Syncs the data, and the metadata that is needed to read it.
pub fn sync_data(file: &File) -> Result<(), Errno> {
    rustix::fs::fdatasync(file)
}

/// Waits for an exclusive lock on a file.
pub fn lock(file: &File) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| rustix::fs::flock(file, FlockOperation::LockExclusive))
}

/// Takes an exclusive lock on a file; `false` if another open file description holds it.
pub fn try_lock(file: &File) -> Result<bool, Errno> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Sets the mode of an open file or directory.
pub fn set_mode(handle: impl AsFd, mode: u32) -> Result<(), Errno> {
    rustix::fs::fchmod(handle, Mode::from_raw_mode(mode))
}

/// Sets the time of modification of an open file or directory.
pub fn set_mtime(handle: impl AsFd, mtime: MtimeNs) -> Result<(), Errno> {
    rustix::fs::futimens(handle, &timestamps(mtime))
}

/// For the calls of the `utimens` family: the time of access stays as it is.
pub(super) fn timestamps(mtime: MtimeNs) -> Timestamps {
    let (seconds, nanoseconds) = mtime.to_parts();
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    }
}
