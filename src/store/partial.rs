//! Landings that outlive their session, so that the next one can go on where it was cut.
//!
//! The landing of a file of several parts has a name that follows from the file's, and a [`Journal`] beside it. Whoever
//! opens it holds a lock on it. A second session that brings the same state of the file meanwhile waits for it: most
//! likely it is the same sender, come again while the first session still brings to the disk what it has. One that
//! brings another state collects it in a landing of its own. What nobody comes back for is removed after a time.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::StoreError;
use super::beneath::{Beneath, Folder};
use super::journal::{Header, Journal, Origin, Stamp, Told};
use super::landing::{self, Bytes, HiddenNames, Landing};
use crate::digest::{Md5, PartDigests, PartLayout};
use crate::relpath::{RESERVED_PREFIX, RelPath};

/// Landings that can be taken up again, and their journals.
pub const LANDING_PREFIX: &str = ".ftx-part-";
pub const JOURNAL_SUFFIX: &str = ".journal";

/// Files of so many parts have their journal from the start, so that a second session can tell that it waits for the
/// same. Smaller ones come again in no time, and most of them are complete before their first record.
const BEGUN_AT_ONCE_PARTS: u64 = 16;

/// What there is of a file from an earlier session.
#[derive(Debug)]
pub enum LeftBehind {
    /// Nothing to go on with.
    Nothing,
    /// A landing to be taken up.
    Kept(Kept),
    /// A landing of the very same state of the file, which its session has not let go of yet.
    InUse,
}

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

/// A landing's name, looked at.
enum Locked {
    /// One of ours, locked from now on.
    Ours(File, Stat),
    /// One of ours, and somebody else is at work on it.
    InUse(Stat),
    /// Nothing, or nothing of ours.
    Nothing,
}

/// Opens what is there under a landing's name and locks it. An error where nobody can tell.
fn open_locked(dir: &Folder, name: &str) -> Result<Locked, Errno> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(dir, name, flags, Mode::empty());
    let Some(file) = unless_it_failed(opened)? else { return Ok(Locked::Nothing) };
    let stat = rustix::fs::fstat(&file)?;
    if !is_ours(&stat) {
        return Ok(Locked::Nothing);
    }
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(Locked::InUse(stat)),
        // A file system without locks.
        Err(_) => return Ok(Locked::Nothing),
    }
    // Between the opening and the lock it may have got its final name.
    Ok(if is_named(dir, name, &stat) { Locked::Ours(File::from(file), stat) } else { Locked::Nothing })
}

/// Does the file still have this name?
fn is_named(dir: &Folder, name: &str, stat: &Stat) -> bool {
    let now = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    now.is_ok_and(|now| (now.st_dev, now.st_ino) == (stat.st_dev, stat.st_ino))
}

fn has_journal_at_once(origin: Origin) -> bool {
    PartLayout::new(origin.size_bytes).count() >= BEGUN_AT_ONCE_PARTS
}

/// Nothing is there, or not for us: that is an answer. What the system is short of, and a disk that fails, is none, and no
/// reason to give up what may be there.
fn unless_it_failed<T>(opened: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO | Errno::INTR)) => Err(errno),
        Err(_) => Ok(None),
    }
}

fn open_journal(dir: &Arc<Folder>, name: &str) -> Result<Option<(Journal, Told)>, Errno> {
    let opened = Journal::open(Arc::clone(dir), name.into());
    let opened = opened.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    unless_it_failed(opened).map(Option::flatten)
}

/// What earlier sessions left of this state of the file.
pub fn take_up(
    beneath: &Beneath,
    path: &RelPath,
    origin: Origin,
    umask: u32,
) -> Result<LeftBehind, StoreError> {
    let (parent, name) = path.split();
    let dir = match beneath.open_if_occupied(parent) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(LeftBehind::Nothing),
        Err(errno) => return Err(StoreError::io("open the folder it belongs in")(errno)),
    };
    let (landing, journal) = names(name);
    let cannot = StoreError::io("open what is there of it from before");
    let (file, stat) = match beneath.sparing(|| open_locked(&dir, &landing)).map_err(cannot)? {
        Locked::Ours(file, stat) => (file, stat),
        Locked::InUse(stat) => {
            let header = Header::new(name, origin, stat.st_ino);
            let is_same = match Header::read(&dir, &journal) {
                Ok(Some(begun)) => begun.is_same_state(&header),
                // It will say soon what it is about.
                _ => has_journal_at_once(origin),
            };
            return Ok(if is_same { LeftBehind::InUse } else { LeftBehind::Nothing });
        }
        Locked::Nothing => return Ok(LeftBehind::Nothing),
    };
    let header = Header::new(name, origin, stat.st_ino);
    let cannot = StoreError::io("open the journal of what is there of it from before");
    let opened = beneath.sparing(|| open_journal(&dir, &journal)).map_err(cannot)?;
    let fits = |told: &Told| told.header.is_same_state(&header) && told.digests.count() > 0;
    let Some((journal, told)) = opened.filter(|(_, told)| fits(told)) else {
        // Of another state of the file, which is the one that counts now. Its room is needed.
        let _ = rustix::fs::unlinkat(&*dir, &*landing, AtFlags::empty());
        return Ok(LeftBehind::Nothing);
    };
    let is_trusted = told.closed == Some(Stamp::of(&stat));
    if stat.st_size as u64 > origin.size_bytes {
        file.set_len(origin.size_bytes)
            .map_err(|source| StoreError::Io { doing: "cut the file in arrival to its size", source })?;
    }
    let bytes = Bytes::new(file);
    let landing = Landing::new(beneath, dir, landing, path, bytes, None, umask).with_journal(journal, false);
    Ok(LeftBehind::Kept(Kept { landing, digests: told.digests, is_trusted }))
}

/// Makes a landing that can be taken up again; one of a session's own where that is not possible.
pub fn create(
    beneath: &Beneath,
    path: &RelPath,
    origin: Origin,
    hidden: &HiddenNames,
    umask: u32,
) -> Result<Landing, StoreError> {
    let (parent, final_name) = path.split();
    let (name, journal) = names(final_name);
    let dir = beneath.open_or_make(parent)?;
    // What is there did not fit, or it would have been taken up.
    let cannot = StoreError::io("open what is there of it from before");
    if let Locked::Ours(stale, _) = beneath.sparing(|| open_locked(&dir, &name)).map_err(cannot)? {
        let _ = rustix::fs::unlinkat(&*dir, &*name, AtFlags::empty());
        drop(stale);
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = beneath.sparing(|| rustix::fs::openat(&*dir, &*name, flags, Mode::RUSR | Mode::WUSR));
    let Ok(file) = made else {
        // Another session is at work on it, or somebody put something else there.
        return landing::create(beneath, path, hidden, umask, None);
    };
    let stat = rustix::fs::fstat(&file).map_err(StoreError::io("look at the file in arrival"))?;
    // Who looks at it just now has it for a moment only. A file system without locks is no hindrance.
    let _ = rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive));
    if !is_named(&dir, &name, &stat) {
        // Another session looked first, found nothing in it, and removed it.
        return landing::create(beneath, path, hidden, umask, None);
    }
    let _ = rustix::fs::unlinkat(&*dir, &*journal, AtFlags::empty());
    let journal = Journal::new(Arc::clone(&dir), journal, Header::new(final_name, origin, stat.st_ino));
    if has_journal_at_once(origin) {
        journal.begin();
    }
    let bytes = Bytes::new(file.into());
    let mode = (!dir.has_default_acl()).then_some(0o600 & !umask);
    Ok(Landing::new(beneath, dir, name, path, bytes, mode, umask).with_journal(journal, true))
}

/// Removes what sessions left of a file, unless one is at work on it.
pub fn remove(dir: &Folder, name: &[u8]) {
    let (landing, journal) = names(name);
    if let Ok(Locked::Ours(_locked, _)) = open_locked(dir, &landing) {
        for name in [landing, journal] {
            // What cannot be removed now goes when it is too old.
            let _ = rustix::fs::unlinkat(dir, &*name, AtFlags::empty());
        }
    }
}

/// A file in arrival whose session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Where it would land, below the root.
    pub path: Vec<u8>,
    /// Its size when it is whole.
    pub size_bytes: u64,
    /// What is here of it, as far as anybody knows.
    pub there_bytes: u64,
    /// Since anybody touched it.
    pub age: Duration,
    /// So long it is kept.
    pub kept_for: Duration,
    /// It was too old and is gone now.
    pub is_removed: bool,
}

/// A landing without a journal that nobody has touched for so long is left from a crash.
const FORGOTTEN: Duration = Duration::from_secs(24 * 60 * 60);

/// Looks through the folder for what sessions left behind, removes what is older than `max_age`, and tells of it; until
/// `goes_on` says no. What is in use is left alone.
pub fn sweep(
    root: &Path,
    beneath: &Beneath,
    max_age: Duration,
    goes_on: impl Fn() -> bool,
    mut tell: impl FnMut(Unfinished),
) {
    for entry in walkdir::WalkDir::new(root).into_iter().filter_map(Result::ok) {
        if !goes_on() {
            return;
        }
        let name = entry.file_name().as_bytes();
        if !entry.file_type().is_file() || !name.starts_with(RESERVED_PREFIX) {
            continue;
        }
        let below = entry.path().parent().and_then(|parent| parent.strip_prefix(root).ok());
        let (Some(parent), Ok(name)) = (below, std::str::from_utf8(name)) else { continue };
        // By handle from here on: the path may lead elsewhere by now.
        let parent = parent.as_os_str().as_bytes();
        let Ok(dir) = beneath.open(parent) else { continue };
        if let Some(told) = sweep_one(&dir, parent, name, max_age) {
            tell(told);
        }
    }
}

fn sweep_one(dir: &Arc<Folder>, parent: &[u8], name: &str, max_age: Duration) -> Option<Unfinished> {
    let remove = || {
        // One that cannot be removed is told of again the next time.
        let _ = rustix::fs::unlinkat(&**dir, name, AtFlags::empty());
    };
    let age_of = |stat: &Stat| {
        let changed = Duration::new(stat.st_ctime.try_into().ok()?, 0);
        SystemTime::now().duration_since(UNIX_EPOCH + changed).ok()
    };
    if let Some(landing) = name.strip_suffix(JOURNAL_SUFFIX) {
        let stat = rustix::fs::statat(&**dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let landing = rustix::fs::statat(&**dir, landing, AtFlags::SYMLINK_NOFOLLOW);
        let is_alone = matches!(landing, Err(Errno::NOENT));
        if is_alone && is_ours(&stat) && age_of(&stat)? >= FORGOTTEN {
            remove();
        }
        return None;
    }
    let Ok(Locked::Ours(_locked, stat)) = open_locked(dir, name) else { return None };
    let age = age_of(&stat)?;
    if !name.starts_with(LANDING_PREFIX) {
        if age >= FORGOTTEN {
            remove();
        }
        return None;
    }
    let (journal, told) = open_journal(dir, &format!("{name}{JOURNAL_SUFFIX}")).ok()?.unzip();
    let told = told.filter(|told| told.header.inode == stat.st_ino && told.digests.count() > 0);
    let is_removed = age >= max_age && (told.is_some() || age >= FORGOTTEN);
    if is_removed {
        remove();
        journal.iter().for_each(Journal::remove);
    }
    let told = told?;
    let layout = PartLayout::new(told.header.size);
    let missing_bytes: u64 = told.digests.missing(layout.count()).iter().map(|run| layout.bytes(run)).sum();
    let name = hex::decode(&told.header.name_hex).ok()?;
    let path = if parent.is_empty() { name } else { [parent, b"/", &name].concat() };
    let there_bytes = layout.size_bytes() - missing_bytes;
    let kept_for = max_age.saturating_sub(age);
    Some(Unfinished { path, size_bytes: layout.size_bytes(), there_bytes, age, kept_for, is_removed })
}
