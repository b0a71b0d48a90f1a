//! Renaming without replacing, on every file system.

use std::sync::{Mutex, PoisonError};

use super::dir::Dir;
use crate::sys::Errno;

/// Renames an entry of a directory; [`Errno::EXIST`] if the new name is taken.
pub fn rename_new(dir: &Dir, from: &[u8], to: &[u8]) -> Result<(), Errno> {
    match dir.handle.rename_without_replacing(from, to) {
        Err(Errno::INVAL | Errno::NOSYS) => {}
        done => return done,
    }
    // A hard link does not replace either.
    match dir.handle.hard_link(from, to) {
        Ok(()) => return dir.handle.remove_file(from),
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {}
        Err(errno) => return Err(errno),
    }
    // A file system without hard links, such as FAT. The lock excludes other sessions of this process, but another program
    // can create the name between the two calls.
    static RENAME_LOCK: Mutex<()> = Mutex::new(());
    let _guard = RENAME_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    match dir.handle.stat_entry(to) {
        Err(Errno::NOENT) => dir.handle.rename(from, to),
        Ok(_) => Err(Errno::EXIST),
        Err(errno) => Err(errno),
    }
}
