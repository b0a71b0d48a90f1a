//! Files that a receiver of this user left: which ones may be used again, and their locks.

use std::fs::File;

use super::dir::Dir;
use crate::sys::dir::Access;
use crate::sys::stat::{FileId, FileStat, FileType};
use crate::sys::{self, Errno};

/// Is it a regular file that this user made, and that has no second name?
pub fn is_safe_to_reuse(stat: &FileStat) -> bool {
    stat.file_type == FileType::File && stat.links == 1 && stat.is_own()
}

/// The result of locking a staged file that was left behind.
pub enum Locked {
    /// The file is locked as long as the handle is open.
    Own(File, FileStat),
    /// A session that has not ended holds the lock.
    InUse,
    /// There is no file that may be used again.
    Absent,
}

/// Opens the file with this name and locks it.
pub fn open_locked(dir: &Dir, name: &str) -> Result<Locked, Errno> {
    let opened = dir.handle.open_file(name, Access::ReadWrite);
    let Some(file) = absent_or_error(opened)? else { return Ok(Locked::Absent) };
    let stat = FileStat::of(&file)?;
    if !is_safe_to_reuse(&stat) {
        return Ok(Locked::Absent);
    }
    match sys::file::try_lock(&file) {
        Ok(true) => {}
        Ok(false) => return Ok(Locked::InUse),
        // A file system without locks.
        Err(_) => return Ok(Locked::Absent),
    }
    // It may have got its final name before it was locked.
    Ok(if has_name(dir, name, stat.id) { Locked::Own(file, stat) } else { Locked::Absent })
}

/// Does the file still have this name?
pub fn has_name(dir: &Dir, name: &str, file: FileId) -> bool {
    dir.handle.stat_entry(name).is_ok_and(|stat| stat.id == file)
}

/// "Absent" and "not usable" become `None`. Resource exhaustion and I/O errors stay errors: they do not show that the file
/// is unusable, and must not cost a resumable file.
pub fn absent_or_error<T>(opened: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO | Errno::INTR)) => Err(errno),
        Err(_) => Ok(None),
    }
}
