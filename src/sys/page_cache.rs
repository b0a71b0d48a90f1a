//! Positional file access, the page cache, and whether a disk is behind a file: what measuring a disk needs.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags};

/// Reads up to `buffer.len()` bytes at `offset`; 0 at the end of the file.
pub fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(buffer, offset)
}

/// Writes all of `bytes` at `offset`.
pub fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Hints that `len` bytes from `offset` will be read soon. 0 means up to the end of the file.
pub fn will_need(file: &File, offset: u64, len: u64) {
    let _ = fadvise(file, offset, NonZeroU64::new(len), Advice::WillNeed);
}

/// Asks the system to drop a synced file from the page cache. Only a hint: [`is_cached`] tells the effect.
pub fn drop_cached(file: &File) {
    let _ = fadvise(file, 0, None, Advice::DontNeed);
}

/// Whether the byte at `offset` is in the page cache; `None` if the system cannot tell.
pub fn is_cached(file: &File, offset: u64) -> Option<bool> {
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    match rustix::io::preadv2(file, &mut buffers, offset, ReadWriteFlags::NOWAIT) {
        Ok(_) => Some(true),
        Err(Errno::AGAIN) => Some(false),
        Err(_) => None,
    }
}

/// `statfs(2)` types of file systems that live in memory.
const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// Whether the file is on a file system that lives in memory.
pub fn is_in_memory(file: &File) -> bool {
    // The type of the field depends on the architecture.
    #[allow(clippy::unnecessary_cast)]
    rustix::fs::fstatfs(file).is_ok_and(|fs| [TMPFS_MAGIC, RAMFS_MAGIC].contains(&(fs.f_type as i64)))
}
