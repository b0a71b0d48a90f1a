//! The page cache, and whether a disk is behind a file: what the measurement of a disk needs.

use std::fs::File;
use std::io::IoSliceMut;

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags};

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
