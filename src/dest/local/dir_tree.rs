//! Reaching folders below the root without ever following a link.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{Dir as DirStream, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::dirty_dirs::DirtyDirs;
use super::{ImplicitDirs, StoreError};

/// Handles kept open, so that the files of one folder do not walk down to it again and again: so many that were used
/// last, and up to as many that were used before. Fewer where a process may have few descriptors.
const CACHED_DIRS: usize = 64;
const MIN_CACHED_DIRS: usize = 4;
/// One of so many descriptors.
const CACHE_FD_FRACTION: u64 = 16;

const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The kernel has no `openat2` (before 5.6), or a sandbox hides it: walk one component at a time instead.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// The mode of a folder that was made for what is in it and not announced yet. The sticky bit means nothing on a folder
/// that one user alone may write to; here it marks the folder as one whose rights and time are still to come, even for
/// a session that goes on where another one was cut.
pub const IMPLICIT_DIR_MODE: u32 = 0o1700;
/// The bits that tell whether a folder has that mode. Not the setgid bit, which a new folder has from the one above it.
const MARK_BITS: u32 = 0o1777;
/// At most so many folders are remembered whose file system does not keep the mark.
const MAX_UNMARKED: usize = 1 << 18;

/// A folder is there under a name that is spelled otherwise, and this file system takes the two for the same. No system
/// call that is made here fails with this.
pub const EQUIVALENT_NAME: Errno = Errno::NOTUNIQ;

/// File systems that may take names for the same that differ in upper and lower case, or in how a character is composed:
/// FAT, exFAT, NTFS, SMB, 9p (the drives of Windows in WSL), VirtualBox, ZFS, and whatever FUSE leads to. Not HFS+, which
/// lists names in another spelling than the one they were given in.
const CASE_INSENSITIVE_FS: [u32; 9] = [
    0x4d44,
    0x2011_bab0,
    0x7366_746e,
    0xff53_4d42,
    0xfe53_4d42,
    0x0102_1997,
    0x786f_4256,
    0x2fc1_2fc1,
    0x6573_5546,
];
/// `FS_CASEFOLD_FL`: on ext4, f2fs, tmpfs and others each folder tells.
const CASEFOLD_FLAG: u32 = 0x4000_0000;

/// A folder below the root.
#[derive(Debug)]
pub struct Dir {
    handle: OwnedFd,
    /// The file system it is on.
    pub device: u64,
    inode: u64,
    /// The mode it had when it was opened.
    mode: u32,
    has_default_acl: OnceLock<bool>,
    /// It was made here a moment ago: there is nothing in it that this session did not put there.
    is_fresh: bool,
    may_be_case_insensitive: OnceLock<bool>,
    /// Did a sync through this handle fail? The system tells of lost bytes only once, and whoever asks next hears that all
    /// is well.
    sync_failed: Mutex<bool>,
}

impl Dir {
    pub fn new(handle: OwnedFd) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&handle)?;
        Ok(Dir {
            handle,
            device: stat.st_dev,
            inode: stat.st_ino,
            mode: stat.st_mode,
            has_default_acl: OnceLock::new(),
            is_fresh: false,
            may_be_case_insensitive: OnceLock::new(),
            sync_failed: Mutex::new(false),
        })
    }

    /// Brings the names in it to stable storage, or says that some are lost, however often it is asked.
    pub fn sync(&self) -> Result<(), Errno> {
        self.sticky_error(|| rustix::fs::fsync(self))
    }

    /// Brings everything on its file system to stable storage, or says that something is lost, however often it is asked.
    pub fn sync_file_system(&self) -> Result<(), Errno> {
        self.sticky_error(|| rustix::fs::syncfs(self))
    }

    fn sticky_error(&self, sync: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        let mut sync_failed = self.sync_failed.lock().unwrap_or_else(PoisonError::into_inner);
        let synced = if *sync_failed { Err(Errno::IO) } else { sync() };
        *sync_failed |= synced.is_err();
        synced
    }

    /// What tells it from all other folders.
    pub fn identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Do new files in it get the rights that its list of rights says, and not just those they are made with?
    pub fn has_default_acl(&self) -> bool {
        *self.has_default_acl.get_or_init(|| {
            let mut nothing: [u8; 0] = [];
            rustix::fs::fgetxattr(self, "system.posix_acl_default", &mut nothing).is_ok()
        })
    }

    /// May a name in it find what is there under another spelling?
    fn may_be_case_insensitive(&self) -> bool {
        *self.may_be_case_insensitive.get_or_init(|| {
            // The width of the type differs from machine to machine.
            #[allow(clippy::unnecessary_cast)]
            let is_known_to =
                rustix::fs::fstatfs(self).is_ok_and(|fs| CASE_INSENSITIVE_FS.contains(&(fs.f_type as u32)));
            is_known_to
                || rustix::fs::ioctl_getflags(self).is_ok_and(|flags| flags.bits() & CASEFOLD_FLAG != 0)
        })
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Names that are listed just as they are spelled, by the hash of their path; of folders that may fold names alone.
#[derive(Debug, Default)]
struct ExactNames {
    hasher: RandomState,
    listed: HashSet<u64>,
}

/// With more than this, what was listed before is forgotten, and listed again where it is needed.
const MAX_EXACT_NAMES: usize = 1 << 20;

impl ExactNames {
    fn hash(&self, dir: &[u8], name: &[u8]) -> u64 {
        self.hasher.hash_one((dir, name))
    }

    fn note(&mut self, dir: &[u8], name: &[u8]) {
        self.listed.insert(self.hash(dir, name));
    }
}

/// Folders that are open, and one that is known not to be there.
#[derive(Debug)]
struct DirCache {
    most_recent: usize,
    recent: HashMap<Box<[u8]>, Arc<Dir>>,
    older: HashMap<Box<[u8]>, Arc<Dir>>,
    /// A folder that was not there when it was last looked for.
    missing: Option<Box<[u8]>>,
}

impl Default for DirCache {
    fn default() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most_recent = (descriptors / CACHE_FD_FRACTION).clamp(MIN_CACHED_DIRS as u64, CACHED_DIRS as u64);
        DirCache {
            most_recent: most_recent as usize,
            recent: HashMap::new(),
            older: HashMap::new(),
            missing: None,
        }
    }
}

impl DirCache {
    fn get(&mut self, dir: &[u8]) -> Option<Arc<Dir>> {
        if let Some(folder) = self.recent.get(dir) {
            return Some(Arc::clone(folder));
        }
        let (path, folder) = self.older.remove_entry(dir)?;
        self.insert(path, Arc::clone(&folder));
        Some(folder)
    }

    fn insert(&mut self, dir: Box<[u8]>, folder: Arc<Dir>) {
        if self.recent.len() >= self.most_recent {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(dir, folder);
    }

    fn remove(&mut self, dir: &[u8]) {
        self.recent.remove(dir);
        self.older.remove(dir);
    }
}

/// Folders below a root, by their path; the root itself is the empty path. A copy, as for another thread, is the same.
#[derive(Clone, Debug)]
pub struct DirTree(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    root: Arc<Dir>,
    new_dirs: ImplicitDirs,
    /// The mode of folders that are made on the way.
    dir_mode: Mode,
    cache: Mutex<DirCache>,
    /// A handle on each other file system than the root's, opened before anything is written there: it hears of whatever is
    /// lost.
    devices: Mutex<BTreeMap<u64, Arc<Dir>>>,
    dirty: Mutex<DirtyDirs>,
    exact_names: Mutex<ExactNames>,
    /// Folders that were made here and not announced yet, on file systems that do not keep the mark, by their identity.
    implicit: Mutex<HashSet<(u64, u64)>>,
}

impl DirTree {
    pub fn new(root: Dir, new_dirs: ImplicitDirs) -> Self {
        let dir_mode = match new_dirs {
            ImplicitDirs::Private => IMPLICIT_DIR_MODE,
            ImplicitDirs::Umask => 0o777,
        };
        DirTree(Arc::new(Shared {
            root: Arc::new(root),
            new_dirs,
            dir_mode: Mode::from_raw_mode(dir_mode),
            cache: Mutex::default(),
            devices: Mutex::default(),
            dirty: Mutex::default(),
            exact_names: Mutex::default(),
            implicit: Mutex::default(),
        }))
    }

    /// What tells the root from all other folders of its file system.
    pub fn root_inode(&self) -> u64 {
        self.0.root.inode
    }

    /// A handle on the folder `dir`, if it is there, in this spelling.
    pub fn open(&self, dir: &[u8]) -> Result<Arc<Dir>, Errno> {
        if dir.is_empty() {
            return Ok(Arc::clone(&self.0.root));
        }
        if let Some(folder) = self.handles().get(dir) {
            return Ok(folder);
        }
        let handle = self.retry_without_cache(|| open_beneath(&self.0.root, dir))?;
        let folder = Dir::new(handle)?;
        // The folders above it are looked at when they are opened.
        let (above, name) = split(dir);
        let parent = self.open(above)?;
        if !self.is_exact_name(&parent, above, name)? {
            return Err(EQUIVALENT_NAME);
        }
        // Another session, or one that was killed, may have made it and not synced its name.
        self.dirty().add_above(&parent);
        Ok(self.keep(dir, folder))
    }

    fn keep(&self, dir: &[u8], folder: Dir) -> Arc<Dir> {
        let folder = Arc::new(folder);
        if folder.device != self.0.root.device {
            self.devices().entry(folder.device).or_insert_with(|| Arc::clone(&folder));
        }
        self.handles().insert(dir.into(), Arc::clone(&folder));
        folder
    }

    /// Is `folder` what is under the name `dir` now?
    pub fn is_named(&self, folder: &Dir, dir: &[u8]) -> bool {
        let (above, name) = split(dir);
        let stat = self
            .open(above)
            .and_then(|parent| rustix::fs::statat(&parent, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW));
        stat.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == folder.identity())
    }

    /// Brings everything on a file system that was written to to stable storage.
    pub fn sync_device(&self, device: u64) -> Result<(), Errno> {
        if device == self.0.root.device {
            return self.0.root.sync_file_system();
        }
        let folder = self.devices().get(&device).map(Arc::clone);
        folder.map_or(Err(Errno::NODEV), |folder| folder.sync_file_system())
    }

    /// Opens something, and once more without the handles that are only kept for speed if there are too many.
    pub fn retry_without_cache<T>(&self, mut open: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
        match open() {
            Err(Errno::MFILE | Errno::NFILE) => {
                *self.handles() = DirCache::default();
                open()
            }
            done => done,
        }
    }

    /// Something was found under a name in `folder`, which is `dir`: is that its name, or only the same to the file
    /// system? Listing the folder is the only way to know; most file systems leave no doubt without it.
    pub fn is_exact_name(&self, folder: &Dir, dir: &[u8], name: &[u8]) -> Result<bool, Errno> {
        if !folder.may_be_case_insensitive() {
            return Ok(true);
        }
        let mut spellings = self.0.exact_names.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = spellings.hash(dir, name);
        if spellings.listed.contains(&wanted) {
            return Ok(true);
        }
        if spellings.listed.len() > MAX_EXACT_NAMES {
            spellings.listed.clear();
        }
        for entry in DirStream::read_from(folder)? {
            spellings.note(dir, entry?.file_name().to_bytes());
        }
        Ok(spellings.listed.contains(&wanted))
    }

    /// A handle on the folder `dir`, if anything can be in it that this session did not put there. Thousands of files
    /// for a new folder then cost no look at the disk each. What somebody else puts there meanwhile is not lost: a
    /// name that is taken is found when it is to be given.
    pub fn open_if_occupied(&self, dir: &[u8]) -> Result<Arc<Dir>, Errno> {
        let mut handles = self.handles();
        if handles.missing.as_deref() == Some(dir) || handles.get(dir).is_some_and(|folder| folder.is_fresh) {
            return Err(Errno::NOENT);
        }
        drop(handles);
        self.open(dir).inspect_err(|errno| {
            if *errno == Errno::NOENT {
                self.handles().missing = Some(dir.into());
            }
        })
    }

    /// A handle on the folder `dir`, which is made, with the folders above it, where it is missing.
    pub fn open_or_make(&self, dir: &[u8]) -> Result<Arc<Dir>, StoreError> {
        match self.open(dir) {
            Ok(handle) => return Ok(handle),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(StoreError::io("open the folder it belongs in")(errno)),
        }
        let (above, name) = split(dir);
        let parent = self.open_or_make(above)?;
        let is_fresh = match rustix::fs::mkdirat(&parent, name, self.0.dir_mode) {
            Ok(()) => true,
            // Somebody else made it just now, and may not have synced its name.
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(StoreError::io("make the folder it belongs in")(errno)),
        };
        self.mark_dirty(&parent);
        if is_fresh && parent.may_be_case_insensitive() {
            self.0.exact_names.lock().unwrap_or_else(PoisonError::into_inner).note(above, name);
        }
        let flags = DIR_FLAGS | OFlags::NOFOLLOW;
        let handle = self.retry_without_cache(|| rustix::fs::openat(&parent, name, flags, Mode::empty()));
        let handle =
            handle.and_then(|handle| match is_fresh || self.is_exact_name(&parent, above, name)? {
                true => Ok(handle),
                false => Err(EQUIVALENT_NAME),
            });
        let folder = handle.and_then(Dir::new).map_err(StoreError::io("open the folder it belongs in"))?;
        if is_fresh && self.0.new_dirs == ImplicitDirs::Private && !is_marked(folder.mode) {
            let mut unmarked = self.unmarked();
            if unmarked.len() < MAX_UNMARKED {
                unmarked.insert(folder.identity());
            }
        }
        Ok(self.keep(dir, Dir { is_fresh, ..folder }))
    }

    /// Was the folder, which has this mode now, made for what is in it, and waits for its own rights and time?
    pub fn is_implicit(&self, folder: &Dir, mode: u32) -> bool {
        self.0.new_dirs == ImplicitDirs::Private
            && (is_marked(mode) || self.unmarked().contains(&folder.identity()))
    }

    /// It has its rights and time now.
    pub fn set_announced(&self, folder: &Dir) {
        self.unmarked().remove(&folder.identity());
    }

    /// Forgets the handle on `dir`: it was removed, or replaced, by somebody else.
    pub fn invalidate(&self, dir: &[u8]) {
        self.handles().remove(dir);
    }

    /// Notes that names were made in a folder, which has to be synced.
    pub fn mark_dirty(&self, folder: &Arc<Dir>) {
        self.dirty().add(folder);
    }

    /// What has to be synced since the last call.
    pub fn take_dirty(&self) -> DirtyDirs {
        std::mem::take(&mut *self.dirty())
    }

    /// It was taken, and could not be synced.
    pub fn put_back_dirty(&self, dirty: DirtyDirs) {
        self.dirty().merge(dirty);
    }

    fn dirty(&self) -> MutexGuard<'_, DirtyDirs> {
        self.0.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn devices(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Dir>>> {
        self.0.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unmarked(&self) -> MutexGuard<'_, HashSet<(u64, u64)>> {
        self.0.implicit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handles(&self) -> MutexGuard<'_, DirCache> {
        self.0.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_marked(mode: u32) -> bool {
    mode & MARK_BITS == IMPLICIT_DIR_MODE
}

/// The folder above a folder that is not the root, and its name there.
fn split(dir: &[u8]) -> (&[u8], &[u8]) {
    match dir.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&dir[..slash], &dir[slash + 1..]),
        None => (&[], dir),
    }
}

fn open_beneath(root: &Dir, dir: &[u8]) -> Result<OwnedFd, Errno> {
    if !NO_OPENAT2.load(Ordering::Relaxed) {
        match openat2(root.as_fd(), dir) {
            Err(Errno::NOSYS | Errno::PERM) => NO_OPENAT2.store(true, Ordering::Relaxed),
            done => return done,
        }
    }
    open_by_component(root.as_fd(), dir)
}

fn openat2(root: BorrowedFd<'_>, dir: &[u8]) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, dir, DIR_FLAGS, Mode::empty(), resolve) {
            // A rename somewhere raced with the look-up, and the kernel cannot vouch for it: look again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
    }
}

/// `O_NOFOLLOW` guards one component only, so each is opened by itself.
fn open_by_component(root: BorrowedFd<'_>, dir: &[u8]) -> Result<OwnedFd, Errno> {
    let mut handle: Option<OwnedFd> = None;
    for component in dir.split(|&b| b == b'/') {
        let from = handle.as_ref().map_or(root, OwnedFd::as_fd);
        let next = rustix::fs::openat(from, component, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty());
        // With O_DIRECTORY a link is "not a directory"; say what it is.
        handle = Some(next.map_err(|errno| if is_link(from, component) { Errno::LOOP } else { errno })?);
    }
    handle.ok_or(Errno::NOENT)
}

fn is_link(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    rustix::fs::readlinkat(dir, name, Vec::new()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    type Open = fn(BorrowedFd<'_>, &[u8]) -> Result<OwnedFd, Errno>;

    #[test]
    fn both_ways_down_follow_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::create_dir_all(dir.path().join("outside")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        symlink("../outside", root.join("out")).unwrap();
        symlink("b", root.join("a/inside")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        let handle = rustix::fs::open(&root, DIR_FLAGS, Mode::empty()).unwrap();
        for open in [openat2 as Open, open_by_component as Open] {
            let handle = handle.as_fd();
            assert!(open(handle, b"a/b").is_ok());
            assert_eq!(open(handle, b"gone").unwrap_err(), Errno::NOENT);
            assert_eq!(open(handle, b"file").unwrap_err(), Errno::NOTDIR);
            for link in [&b"out"[..], b"a/inside", b"magic", b"out/deeper", b"a/inside/deeper"] {
                assert_eq!(open(handle, link).unwrap_err(), Errno::LOOP, "{link:?}");
            }
        }
        assert!(
            openat2(handle.as_fd(), b"a/../../outside").is_err(),
            "the kernel guards even what RelPath refuses"
        );
    }

    #[test]
    fn where_descriptors_are_short_those_that_are_kept_for_speed_are_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let handle = rustix::fs::open(dir.path(), DIR_FLAGS, Mode::empty()).unwrap();
        let tree = DirTree::new(Dir::new(handle).unwrap(), ImplicitDirs::Private);
        let kept = Arc::downgrade(&tree.open_or_make(b"x").unwrap());
        // It is touched, too, and that has to be synced.
        tree.take_dirty();
        assert!(kept.upgrade().is_some());
        let mut tries = 0;
        let opened = tree.retry_without_cache(|| {
            tries += 1;
            if kept.upgrade().is_some() { Err(Errno::MFILE) } else { Ok(tries) }
        });
        assert_eq!(opened, Ok(2));
        // Nothing is left to let go, and other failures are none of descriptors.
        assert_eq!(tree.retry_without_cache(|| Err::<(), _>(Errno::MFILE)), Err(Errno::MFILE));
        assert_eq!(tree.retry_without_cache(|| Err::<(), _>(Errno::ACCESS)), Err(Errno::ACCESS));
    }

    #[test]
    fn folders_are_made_but_never_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let handle = rustix::fs::open(dir.path(), DIR_FLAGS, Mode::empty()).unwrap();
        let tree = DirTree::new(Dir::new(handle).unwrap(), ImplicitDirs::Private);
        tree.open_or_make(b"x/y/z").unwrap();
        assert!(dir.path().join("x/y/z").is_dir());
        assert_eq!(tree.take_dirty().few(), 3, "each folder that got a new name");
        symlink(outside.path(), dir.path().join("link")).unwrap();
        assert!(matches!(tree.open_or_make(b"link/new"), Err(StoreError::Blocked { .. })));
        assert!(std::fs::read_dir(outside.path()).unwrap().next().is_none());
    }

    #[test]
    fn a_folder_whose_file_system_keeps_no_mark_is_known_by_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("theirs")).unwrap();
        let handle = rustix::fs::open(dir.path(), DIR_FLAGS, Mode::empty()).unwrap();
        let mut tree = DirTree::new(Dir::new(handle).unwrap(), ImplicitDirs::Private);
        // What such a file system makes of the mode.
        Arc::get_mut(&mut tree.0).unwrap().dir_mode = Mode::RWXU;
        let is_unannounced =
            |folder: &Dir| tree.is_implicit(folder, rustix::fs::fstat(folder).unwrap().st_mode);
        let (ours, theirs) = (tree.open_or_make(b"ours").unwrap(), tree.open_or_make(b"theirs").unwrap());
        assert!(is_unannounced(&ours) && !is_unannounced(&theirs));
        tree.set_announced(&ours);
        assert!(!is_unannounced(&ours), "set once");
    }
}
