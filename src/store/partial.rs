//! Landings that outlive their session, so that the next one can go on where it was cut.
//!
//! The landing of a file of several parts has a name that follows from the file's, and a [`Journal`] beside it. Whoever
//! opens it holds a lock on it; a second session that wants the same file meanwhile collects it in a landing of its own.

use std::fs::File;
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::StoreError;
use super::beneath::{Beneath, Folder};
use super::journal::{Header, Journal, Origin, Stamp};
use super::landing::{self, Bytes, HiddenNames, Landing};
use crate::digest::{Md5, PartDigests};
use crate::relpath::RelPath;

/// Landings that can be taken up again, and their journals.
pub const LANDING_PREFIX: &str = ".ftx-part-";
pub const JOURNAL_SUFFIX: &str = ".journal";

/// A landing that was left behind.
#[derive(Debug)]
pub struct Kept {
    /// The landing.
    pub landing: Landing,
    /// Parts that are in it, as far as its journal can be believed.
    pub digests: PartDigests,
    /// Nobody has touched it since its last session closed it: what is recorded need not be read again.
    pub is_trusted: bool,
}

/// Is it a file that this user made, and that has no second name?
pub fn is_ours(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_nlink == 1
        && stat.st_uid == rustix::process::geteuid().as_raw()
}

fn names(name: &[u8]) -> (Box<str>, Box<str>) {
    let landing = format!("{LANDING_PREFIX}{}", Md5::of(name));
    let journal = format!("{landing}{JOURNAL_SUFFIX}");
    (landing.into(), journal.into())
}

/// Opens what is there under a landing's name, if it is one of ours and nobody else is at work on it.
pub fn open_locked(dir: &Folder, name: &str) -> Option<(File, Stat)> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    if !is_ours(&stat) || rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return None;
    }
    // Between the opening and the lock it may have got its final name.
    let now = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    ((now.st_dev, now.st_ino) == (stat.st_dev, stat.st_ino)).then(|| (File::from(file), stat))
}

/// The landing that an earlier session left for this state of the file.
pub fn take_up(
    beneath: &mut Beneath,
    path: &RelPath,
    origin: Origin,
    umask: u32,
) -> Result<Option<Kept>, StoreError> {
    let (parent, name) = path.split();
    let dir = match beneath.open_if_occupied(parent) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(StoreError::io("open the folder it belongs in")(errno)),
    };
    let (landing, journal) = names(name);
    let Some((file, stat)) = open_locked(&dir, &landing) else { return Ok(None) };
    let Ok(Some((journal, told))) = Journal::open(Arc::clone(&dir), journal) else { return Ok(None) };
    let header = Header::new(name, origin, stat.st_ino);
    if !told.header.is_same_state(&header) || told.digests.count() == 0 {
        return Ok(None);
    }
    let is_trusted = told.closed == Some(Stamp::of(&stat));
    if stat.st_size as u64 > origin.size_bytes {
        file.set_len(origin.size_bytes)
            .map_err(|source| StoreError::Io { doing: "cut the file in arrival to its size", source })?;
    }
    let bytes = Bytes { file, sealed: OnceLock::new() };
    let landing = Landing::new(dir, landing, path, bytes, None, umask).with_journal(journal, false);
    Ok(Some(Kept { landing, digests: told.digests, is_trusted }))
}

/// Makes a landing that can be taken up again; one of a session's own where that is not possible.
pub fn create(
    beneath: &mut Beneath,
    path: &RelPath,
    origin: Origin,
    hidden: &HiddenNames,
    umask: u32,
) -> Result<Landing, StoreError> {
    let (parent, final_name) = path.split();
    let (name, journal) = names(final_name);
    let dir = beneath.open_or_make(parent)?;
    // What is there did not fit, or it would have been taken up.
    if let Some(stale) = open_locked(&dir, &name) {
        let _ = rustix::fs::unlinkat(&*dir, &*name, AtFlags::empty());
        drop(stale);
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(&*dir, &*name, flags, Mode::RUSR | Mode::WUSR);
    let Ok(file) = made else {
        // Another session is at work on it, or somebody put something else there.
        return landing::create(beneath, path, hidden, umask, None);
    };
    // Nobody else can have opened it to lock it, unless to find out that it is not theirs.
    let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
    let _ = rustix::fs::unlinkat(&*dir, &*journal, AtFlags::empty());
    let inode = rustix::fs::fstat(&file).map_err(StoreError::io("look at the file in arrival"))?.st_ino;
    let journal = Journal::new(Arc::clone(&dir), journal, Header::new(final_name, origin, inode));
    let bytes = Bytes { file: file.into(), sealed: OnceLock::new() };
    let mode = (!dir.has_default_acl).then_some(0o600 & !umask);
    Ok(Landing::new(dir, name, path, bytes, mode, umask).with_journal(journal, true))
}
