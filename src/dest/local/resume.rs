//! Landings that outlive their session, so that the next one can go on where it was cut.
//!
//! The landing of a file of several parts has a name that follows from the file's and from its state at the sender, and a
//! [`Journal`] beside it. The session that opens it holds a lock on it. A second session that brings the same state of the file
//! meanwhile waits for it: most likely it is the same sender, come again while the first session still brings to the disk
//! what it has. Another state has a landing of its own: what one sender announces neither uses nor removes what is kept
//! for another one. What is not resumed is removed after a time, and only then.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::dir_tree::{Dir, DirTree};
use super::journal::{FileStamp, Header, Journal, JournalContents, SourceVersion};
use super::staged::{self, StagedBytes, StagedFile, TempNames, is_hex};
use super::{LocalSession, StoreError};
use crate::digest::{Md5, PartDigests, PartLayout};
use crate::relpath::RelPath;

/// Landings that can be taken up again, and their journals.
const STAGED_PREFIX: &str = ".ftx-part-";
const DIGEST_DIGITS: usize = 32;
const JOURNAL_SUFFIX: &str = ".journal";
/// Of a journal that is to take the place of another one.
pub const NEW_SUFFIX: &str = ".new";

/// What there is of a file from an earlier session.
#[derive(Debug)]
pub enum Resumable {
    /// Nothing to go on with.
    Nothing,
    /// A landing to be taken up.
    Partial(PartialFile),
    /// A landing of the very same state of the file, which its session has not let go of yet.
    InUse,
}

/// A landing that was left behind.
#[derive(Debug)]
pub struct PartialFile {
    /// The landing.
    pub staged: StagedFile,
    /// Parts that are in it, as far as its journal can be believed.
    pub digests: PartDigests,
    /// Nobody has touched it since its last session closed it: what is recorded need not be read again.
    pub is_trusted: bool,
}

/// Is it a file that this user made, and that has no second name?
pub fn is_safe_to_reuse(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_nlink == 1
        && stat.st_uid == rustix::process::geteuid().as_raw()
}

/// The names of the landing and the journal of one state of a file.
fn names(name: &[u8], origin: SourceVersion) -> (Box<str>, Box<str>) {
    let landing = origin.staged_name(name);
    let journal = format!("{landing}{JOURNAL_SUFFIX}");
    (landing.into(), journal.into())
}

impl SourceVersion {
    /// The name under which a file of this name is collected.
    pub fn staged_name(self, name: &[u8]) -> String {
        let mtime = self.mtime.map_or_else(|| "-".to_owned(), |mtime| mtime.0.to_string());
        let what = format!("{} {} {mtime} {}", hex::encode(name), self.size_bytes, self.state);
        format!("{STAGED_PREFIX}{}", Md5::of(what.as_bytes()))
    }
}

/// A landing's name, looked at.
enum Locked {
    /// One of ours, locked from now on.
    Ours(File, Stat),
    /// One of ours, and somebody else is at work on it.
    InUse,
    /// Nothing, or nothing of ours.
    Nothing,
}

/// Opens what is there under a landing's name and locks it. An error where nobody can tell.
fn open_locked(dir: &Dir, name: &str) -> Result<Locked, Errno> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(dir, name, flags, Mode::empty());
    let Some(file) = absent_or_error(opened)? else { return Ok(Locked::Nothing) };
    let stat = rustix::fs::fstat(&file)?;
    if !is_safe_to_reuse(&stat) {
        return Ok(Locked::Nothing);
    }
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(Locked::InUse),
        // A file system without locks.
        Err(_) => return Ok(Locked::Nothing),
    }
    // Between the opening and the lock it may have got its final name.
    Ok(if is_named(dir, name, &stat) { Locked::Ours(File::from(file), stat) } else { Locked::Nothing })
}

/// Does the file still have this name?
fn is_named(dir: &Dir, name: &str, stat: &Stat) -> bool {
    let now = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    now.is_ok_and(|now| (now.st_dev, now.st_ino) == (stat.st_dev, stat.st_ino))
}

/// Nothing is there, or not for us: that is an answer. What the system is short of, and a disk that fails, is none, and no
/// reason to give up what may be there.
fn absent_or_error<T>(opened: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO | Errno::INTR)) => Err(errno),
        Err(_) => Ok(None),
    }
}

fn open_journal(dir: &Arc<Dir>, name: &str) -> Result<Option<(Journal, JournalContents)>, Errno> {
    let opened = Journal::open(Arc::clone(dir), name.into());
    let opened = opened.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    absent_or_error(opened).map(Option::flatten)
}

/// What earlier sessions left of this state of the file.
pub fn resume(
    tree: &DirTree,
    path: &RelPath,
    origin: SourceVersion,
    umask: u32,
) -> Result<Resumable, StoreError> {
    let (parent, name) = path.split();
    let dir = match tree.open_if_occupied(parent) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(Resumable::Nothing),
        Err(errno) => return Err(StoreError::io("open the folder it belongs in")(errno)),
    };
    let (landing, journal) = names(name, origin);
    let cannot = StoreError::io("open what is there of it from before");
    let (file, stat) = match tree.retry_without_cache(|| open_locked(&dir, &landing)).map_err(cannot)? {
        Locked::Ours(file, stat) => (file, stat),
        Locked::InUse => return Ok(Resumable::InUse),
        Locked::Nothing => return Ok(Resumable::Nothing),
    };
    let header = Header::new(name, origin, stat.st_ino, tree);
    let cannot = StoreError::io("open the journal of what is there of it from before");
    let opened = tree.retry_without_cache(|| open_journal(&dir, &journal)).map_err(cannot)?;
    let fits = |told: &JournalContents| told.header.is_same_state(&header) && told.digests.count() > 0;
    let Some((journal, told)) = opened.filter(|(_, told)| fits(told)) else {
        // Nothing of it can be believed. Its room is needed.
        let _ = rustix::fs::unlinkat(&*dir, &*landing, AtFlags::empty());
        return Ok(Resumable::Nothing);
    };
    let is_trusted = told.closed == Some(FileStamp::of(&stat));
    if stat.st_size as u64 > origin.size_bytes {
        file.set_len(origin.size_bytes)
            .map_err(|source| StoreError::Io { doing: "cut the file in arrival to its size", source })?;
    }
    let bytes = StagedBytes::new(file);
    let landing = StagedFile::new(tree, dir, landing, path, bytes, None, umask).with_journal(journal, false);
    Ok(Resumable::Partial(PartialFile { staged: landing, digests: told.digests, is_trusted }))
}

/// Makes a landing that can be taken up again; one of a session's own where that is not possible.
pub fn create(
    tree: &DirTree,
    path: &RelPath,
    origin: SourceVersion,
    hidden: &TempNames,
    umask: u32,
) -> Result<StagedFile, StoreError> {
    let create_private = || staged::create(tree, path, hidden, umask, None).inspect(StagedFile::lock);
    let (parent, final_name) = path.split();
    let (name, journal) = names(final_name, origin);
    let dir = tree.open_or_make(parent)?;
    // Nothing of what is there can be believed, or it would have been taken up.
    let cannot = StoreError::io("open what is there of it from before");
    if let Locked::Ours(stale, _) = tree.retry_without_cache(|| open_locked(&dir, &name)).map_err(cannot)? {
        let _ = rustix::fs::unlinkat(&*dir, &*name, AtFlags::empty());
        drop(stale);
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = tree.retry_without_cache(|| rustix::fs::openat(&*dir, &*name, flags, Mode::RUSR | Mode::WUSR));
    let Ok(file) = made else {
        // Another session is at work on it, or somebody put something else there.
        return create_private();
    };
    let stat = rustix::fs::fstat(&file).map_err(StoreError::io("look at the file in arrival"))?;
    // Who looks at it just now has it for a moment only. A file system without locks is no hindrance.
    let _ = rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive));
    if !is_named(&dir, &name, &stat) {
        // Another session looked first, found nothing in it, and removed it.
        return create_private();
    }
    let _ = rustix::fs::unlinkat(&*dir, &*journal, AtFlags::empty());
    let journal = Journal::new(Arc::clone(&dir), journal, Header::new(final_name, origin, stat.st_ino, tree));
    let bytes = StagedBytes::new(file.into());
    let mode = (!dir.has_default_acl()).then_some(0o600 & !umask);
    Ok(StagedFile::new(tree, dir, name, path, bytes, mode, umask).with_journal(journal, true))
}

/// Removes what sessions left of this state of a file, unless one is at work on it.
pub fn remove(dir: &Dir, name: &[u8], origin: SourceVersion) {
    let (landing, journal) = names(name, origin);
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
    /// Where it would land, below the root; where that is not known, the hidden file itself.
    pub path: Vec<u8>,
    /// Its size when it is whole, where that is known.
    pub size_bytes: Option<u64>,
    /// What is here of it, as far as anybody knows.
    pub there_bytes: u64,
    /// Since anybody touched it.
    pub age: Duration,
    /// So long it is kept.
    pub kept_for: Duration,
    /// It was too old and is gone now.
    pub is_removed: bool,
}

/// A staged file without a journal that has not changed for so long is left from a crash.
const ORPHAN_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The forms of the names that a store makes for its own files. Nothing else is ever removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnName<'a> {
    /// Of one session.
    Private,
    /// Of a file of several parts.
    Staged,
    /// A journal, or one that was to take its place, of the staged file with this name.
    Journal(&'a str),
}

impl<'a> OwnName<'a> {
    fn of(name: &'a str) -> Option<Self> {
        if let Some((digest, suffix)) = name
            .strip_prefix(STAGED_PREFIX)
            .and_then(|rest| rest.split_at_checked(DIGEST_DIGITS))
            .filter(|(digest, _)| is_hex(digest))
        {
            return match suffix.strip_prefix(JOURNAL_SUFFIX) {
                None => suffix.is_empty().then_some(OwnName::Staged),
                Some("" | NEW_SUFFIX) => Some(OwnName::Journal(&name[..STAGED_PREFIX.len() + digest.len()])),
                Some(_) => None,
            };
        }
        TempNames::has_form(name).then_some(OwnName::Private)
    }
}

/// Looks through the root for what sessions left behind, removes what is older than `max_age` at `now`, and tells of
/// each removal and of what is kept; until `goes_on` says no. What is in use is left alone, and so is what belongs to
/// another receiver whose root is below this one. Other file systems that are mounted below the root are not looked at.
pub fn sweep(
    store: &LocalSession,
    root: &Path,
    now: SystemTime,
    max_age: Duration,
    goes_on: impl Fn() -> bool,
    mut tell: impl FnMut(Unfinished),
) {
    for entry in walkdir::WalkDir::new(root).same_file_system(true).into_iter().filter_map(Result::ok) {
        if !goes_on() {
            return;
        }
        let Some((name, form)) = entry.file_name().to_str().and_then(|name| Some((name, OwnName::of(name)?)))
        else {
            continue;
        };
        let below = entry.path().parent().and_then(|parent| parent.strip_prefix(root).ok());
        let Some(parent) = below.filter(|_| entry.file_type().is_file()) else { continue };
        // By handle from here on: the path may lead elsewhere by now.
        let parent = parent.as_os_str().as_bytes();
        let Ok(dir) = store.tree.open(parent) else { continue };
        if let Some(told) = (Sweep { store, dir, parent, now, max_age }).visit(name, form) {
            tell(told);
        }
    }
}

/// A look at one folder.
struct Sweep<'a> {
    store: &'a LocalSession,
    dir: Arc<Dir>,
    parent: &'a [u8],
    now: SystemTime,
    max_age: Duration,
}

impl Sweep<'_> {
    fn visit(&self, name: &str, form: OwnName<'_>) -> Option<Unfinished> {
        match form {
            OwnName::Journal(staged) => {
                let stat = self.stat(name).ok().filter(is_safe_to_reuse)?;
                matches!(self.stat(staged), Err(Errno::NOENT)).then(|| self.remove_orphan(name, &stat))?
            }
            OwnName::Private if self.store.hidden.is_live(name) => None,
            OwnName::Private => match open_locked(&self.dir, name) {
                Ok(Locked::Ours(_locked, stat)) => self.remove_orphan(name, &stat),
                _ => None,
            },
            OwnName::Staged => self.staged(name),
        }
    }

    fn stat(&self, name: &str) -> Result<Stat, Errno> {
        rustix::fs::statat(&*self.dir, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn age(&self, stat: &Stat) -> Option<Duration> {
        let changed = Duration::new(stat.st_ctime.try_into().ok()?, 0);
        self.now.duration_since(UNIX_EPOCH + changed).ok()
    }

    fn path(&self, name: &[u8]) -> Vec<u8> {
        if self.parent.is_empty() { name.to_vec() } else { [self.parent, b"/", name].concat() }
    }

    /// One that cannot be removed is looked at again the next time.
    fn remove(&self, name: &str) -> bool {
        rustix::fs::unlinkat(&*self.dir, name, AtFlags::empty()).is_ok()
    }

    /// Nothing can go on with it: it is removed once it is old enough.
    fn remove_orphan(&self, name: &str, stat: &Stat) -> Option<Unfinished> {
        let age = self.age(stat)?;
        (age >= ORPHAN_TTL && self.remove(name)).then(|| Unfinished {
            path: self.path(name.as_bytes()),
            size_bytes: None,
            there_bytes: stat.st_size as u64,
            age,
            kept_for: Duration::ZERO,
            is_removed: true,
        })
    }

    fn staged(&self, name: &str) -> Option<Unfinished> {
        let Ok(Locked::Ours(_locked, stat)) = open_locked(&self.dir, name) else { return None };
        let (journal, told) = open_journal(&self.dir, &format!("{name}{JOURNAL_SUFFIX}")).ok()?.unzip();
        let told = told.filter(|told| told.header.inode == stat.st_ino);
        let root = self.store.tree.root_inode();
        if told.as_ref().is_some_and(|told| told.header.root.is_some_and(|other| other != root)) {
            return None;
        }
        let age = self.age(&stat)?;
        let Some(told) = told.filter(|told| told.digests.count() > 0) else {
            let told = if age >= self.max_age { self.remove_orphan(name, &stat) } else { None };
            if told.is_some() {
                journal.iter().for_each(Journal::remove);
            }
            return told;
        };
        let is_removed = age >= self.max_age && self.remove(name);
        if is_removed {
            journal.iter().for_each(Journal::remove);
        }
        let layout = PartLayout::new(told.header.size);
        let missing_bytes: u64 =
            told.digests.missing(layout.count()).iter().map(|run| layout.bytes(run)).sum();
        Some(Unfinished {
            path: self.path(&hex::decode(&told.header.name_hex).ok()?),
            size_bytes: Some(layout.size_bytes()),
            there_bytes: layout.size_bytes() - missing_bytes,
            age,
            kept_for: self.max_age.saturating_sub(age),
            is_removed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dest::local::{ImplicitDirs, LocalDestination, OnConflict, Record};
    use crate::digest::PART_BYTES;
    use crate::relpath::NamePolicy;
    use crate::units::MtimeNs;
    use std::fs;

    fn origin(state: u8) -> SourceVersion {
        SourceVersion { size_bytes: 3 * PART_BYTES, mtime: None, state: [state; 16].into() }
    }

    fn path(name: &str) -> RelPath {
        RelPath::new(name.as_bytes(), NamePolicy::Strict).unwrap()
    }

    fn open(dir: &Path) -> (LocalDestination, LocalSession) {
        let root = LocalDestination::open(dir, OnConflict::SkipSame).unwrap();
        let store = root.session(ImplicitDirs::Private).unwrap();
        (root, store)
    }

    /// A session that was cut after the first part of a file; returns the name of what is kept.
    fn leave(store: &mut LocalSession, name: &str, origin: SourceVersion) -> String {
        let landing = store.land_parts(&path(name), origin).unwrap();
        let records = [Record::Part(0, Md5::of(b"part"))];
        landing.journal().unwrap().record(&landing.written().unwrap(), &records, true).unwrap();
        landing.name().to_owned()
    }

    /// What a sweep tells that begins so much later, as the clock says, in order.
    fn swept(store: &LocalSession, dir: &Path, later: Duration, max_age: Duration) -> Vec<(String, bool)> {
        let mut told = Vec::new();
        let tell = |left: Unfinished| told.push((String::from_utf8(left.path).unwrap(), left.is_removed));
        sweep(store, dir, SystemTime::now() + later, max_age, || true, tell);
        told.sort();
        told
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    const LATER: Duration = Duration::from_secs(100 * 24 * 60 * 60);

    #[test]
    fn only_names_of_the_very_forms_that_are_made_here_are_removed_and_each_removal_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let digest = "0123456789abcdef0123456789abcdef";
        let theirs = [
            ".ftx-settings".to_owned(),
            ".ftx-".into(),
            ".ftx-part".into(),
            ".ftx-part-".into(),
            ".ftx-0123456789abcdef".into(),
            ".ftx-0123456789abcdef-".into(),
            ".ftx-0123456789abcdef-1x".into(),
            ".ftx-0123456789abcdef-1.txt".into(),
            ".ftx-0123456789ABCDEF-1".into(),
            ".ftx-0123456789abcde-1".into(),
            ".FTX-0123456789abcdef-1".into(),
            "ftx-0123456789abcdef-1".into(),
            format!(".ftx-part-{}", &digest[1..]),
            format!(".ftx-part-{digest}0"),
            format!(".ftx-part-{digest}.journal.old"),
            format!(".ftx-part-{digest}.journal.new.1"),
            format!(".ftx-part-{digest}.txt"),
            format!(".ftx-part-{}.journal", digest.to_uppercase()),
        ];
        let lone = "fedcba9876543210fedcba9876543210";
        let mut ours = [
            ".ftx-0123456789abcdef-0".to_owned(),
            ".ftx-fedcba9876543210-12345".into(),
            format!(".ftx-part-{digest}"),
            format!(".ftx-part-{lone}.journal"),
            format!(".ftx-part-{lone}.journal.new"),
        ];
        for name in theirs.iter().chain(&ours) {
            fs::write(dir.path().join(name), "bytes").unwrap();
        }
        let (_root, store) = open(dir.path());
        assert_eq!(swept(&store, dir.path(), Duration::ZERO, Duration::ZERO), [], "they are not old");
        let told = swept(&store, dir.path(), LATER, Duration::ZERO);
        ours.sort();
        assert_eq!(told, ours.map(|name| (name, true)));
        let mut theirs = theirs.to_vec();
        theirs.sort();
        assert_eq!(names(dir.path()), theirs);
    }

    #[test]
    fn what_is_in_arrival_stays_whatever_the_clock_says() {
        let dir = tempfile::tempdir().unwrap();
        // Another process: it knows what is locked and nothing else.
        let (_other_root, other) = open(dir.path());
        let (sessions_root, mut session) = open(dir.path());
        let (small, large) =
            (session.land(&path("a"), 5).unwrap(), session.land(&path("b"), 2 << 20).unwrap());
        let parts = session.land_parts(&path("c"), origin(7)).unwrap();
        // The name is in use: this one is private.
        let same_parts = session.land_parts(&path("c"), origin(7)).unwrap();
        let (small_name, count) = (small.name().to_owned(), names(dir.path()).len());
        let sweeper = sessions_root.session(ImplicitDirs::Private).unwrap();
        assert_eq!(swept(&sweeper, dir.path(), LATER, Duration::ZERO), []);
        assert_eq!(names(dir.path()).len(), count);
        assert_eq!(swept(&other, dir.path(), LATER, Duration::ZERO), [(small_name, true)]);
        drop((small, large, parts, same_parts));
        // A session that is over has nothing in arrival: what has its name is left from it.
        let left = session.hidden.next();
        fs::write(dir.path().join(&*left), "").unwrap();
        assert_eq!(swept(&sweeper, dir.path(), LATER, Duration::ZERO), []);
        drop(session);
        assert_eq!(swept(&sweeper, dir.path(), LATER, Duration::ZERO), [(left.into(), true)]);
    }

    #[test]
    fn what_is_kept_of_one_state_of_a_file_is_neither_used_nor_removed_by_another() {
        let dir = tempfile::tempdir().unwrap();
        let (_root, mut store) = open(dir.path());
        let first = leave(&mut store, "a", origin(1));
        let others = [
            origin(2),
            SourceVersion { size_bytes: 3 * PART_BYTES - 1, ..origin(1) },
            SourceVersion { mtime: Some(MtimeNs(0)), ..origin(1) },
            SourceVersion { mtime: Some(MtimeNs(-1)), ..origin(1) },
        ];
        for other in others {
            assert!(matches!(store.take_up(&path("a"), other), Ok(Resumable::Nothing)), "{other:?}");
            leave(&mut store, "a", other);
        }
        let again = |store: &mut LocalSession, origin| match store.take_up(&path("a"), origin) {
            Ok(Resumable::Partial(kept)) => kept,
            other => panic!("{other:?}"),
        };
        let kept = again(&mut store, origin(1));
        assert_eq!((kept.staged.name(), kept.digests.count(), kept.is_trusted), (&*first, 1, true));
        assert!(matches!(store.take_up(&path("a"), origin(1)), Ok(Resumable::InUse)));
        assert!(matches!(store.take_up(&path("b"), origin(1)), Ok(Resumable::Nothing)));
        // It is whole: that costs the others nothing.
        kept.staged.discard();
        for other in others {
            again(&mut store, other);
        }
        let told = swept(&store, dir.path(), LATER, 2 * LATER);
        assert_eq!(told, vec![("a".to_owned(), false); 4], "each is told of");
        swept(&store, dir.path(), LATER, Duration::ZERO);
        assert_eq!(names(dir.path()), Vec::<String>::new());
    }

    #[test]
    fn a_file_that_is_begun_is_in_use_for_its_own_state_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (_root, mut store) = open(dir.path());
        let _begun = store.land_parts(&path("a"), origin(1)).unwrap();
        assert!(matches!(store.take_up(&path("a"), origin(1)), Ok(Resumable::InUse)));
        assert!(matches!(store.take_up(&path("a"), origin(2)), Ok(Resumable::Nothing)));
    }

    /// Files of others, and files with another name somewhere else, are nothing to write to or to believe.
    #[test]
    fn what_has_a_second_name_or_belongs_to_somebody_else_is_not_gone_on_with() {
        type Harm = fn(&Path);
        let give_away: Harm = |path| std::os::unix::fs::chown(path, Some(65534), None).unwrap();
        let link: Harm = |path| fs::hard_link(path, path.with_file_name("second name")).unwrap();
        for (what, suffix, harm, needs_root) in [
            ("a staged file with a second name", "", link, false),
            ("a journal with a second name", JOURNAL_SUFFIX, link, false),
            ("somebody else's staged file", "", give_away, true),
            ("somebody else's journal", JOURNAL_SUFFIX, give_away, true),
        ] {
            if needs_root && !rustix::process::geteuid().is_root() {
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            let (_root, mut store) = open(dir.path());
            let staged = leave(&mut store, "a", origin(1));
            harm(&dir.path().join(format!("{staged}{suffix}")));
            let taken = store.take_up(&path("a"), origin(1)).unwrap();
            assert!(matches!(taken, Resumable::Nothing), "{what}: {taken:?}");
            // It comes anew, and not into what lies there.
            let landing = store.land_parts(&path("a"), origin(1)).unwrap();
            landing.write_at(b"new", 0).unwrap();
            for name in names(dir.path()) {
                let stat = fs::metadata(dir.path().join(&name)).unwrap();
                assert!(name == landing.name() || stat.len() != 3, "{what}: {name}");
            }
        }
    }

    #[test]
    fn what_another_receiver_keeps_below_is_left_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let inner_dir = dir.path().join("inner");
        let ((_outer_root, mut outer), (_inner_root, mut inner)) = (open(dir.path()), open(&inner_dir));
        leave(&mut outer, "inner/ours", origin(7));
        leave(&mut inner, "theirs", origin(7));
        let told = swept(&outer, dir.path(), LATER, Duration::ZERO);
        assert_eq!(told, [("inner/ours".to_owned(), true)]);
        assert_eq!(names(&inner_dir).len(), 2, "a staged file and its journal");
        assert_eq!(swept(&inner, &inner_dir, LATER, 2 * LATER), [("theirs".to_owned(), false)]);
        assert_eq!(swept(&inner, &inner_dir, LATER, Duration::ZERO), [("theirs".to_owned(), true)]);
        assert_eq!(names(&inner_dir), Vec::<String>::new());
    }
}
