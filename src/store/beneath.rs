//! Reaching folders below the root without ever following a link.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::StoreError;

/// Handles kept open, so that the files of one folder do not walk down to it again and again.
const MAX_HANDLES: usize = 64;

const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The kernel has no `openat2` (before 5.6), or a sandbox hides it: walk one component at a time instead.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// Handles by the path of their folder.
pub type Handles = BTreeMap<Box<[u8]>, Arc<OwnedFd>>;

/// Folders below a root, by their path; the root itself is the empty path.
#[derive(Debug)]
pub struct Beneath {
    root: Arc<OwnedFd>,
    /// The mode of folders that are made on the way.
    dir_mode: Mode,
    handles: Handles,
    /// Folders in which names were made since the last call of [`Beneath::take_touched`], by any view of this root.
    touched: Arc<Mutex<Handles>>,
    /// Folders that were made here and not announced yet.
    made: Arc<Mutex<BTreeSet<Box<[u8]>>>>,
}

impl Beneath {
    pub fn new(root: Arc<OwnedFd>, dir_mode: Mode) -> Self {
        Beneath { root, dir_mode, handles: Handles::new(), touched: Arc::default(), made: Arc::default() }
    }

    /// The same root for another thread: handles of its own, but one list of what has to be synced.
    pub fn another(&self) -> Self {
        Beneath {
            root: Arc::clone(&self.root),
            dir_mode: self.dir_mode,
            handles: Handles::new(),
            touched: Arc::clone(&self.touched),
            made: Arc::clone(&self.made),
        }
    }

    /// A handle on the folder `dir`, if it is there.
    pub fn open(&mut self, dir: &[u8]) -> Result<Arc<OwnedFd>, Errno> {
        if dir.is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        if let Some(handle) = self.handles.get(dir) {
            return Ok(Arc::clone(handle));
        }
        let handle = Arc::new(open_beneath(&self.root, dir)?);
        self.keep(dir, &handle);
        Ok(handle)
    }

    /// A handle on the folder `dir`, which is made, with the folders above it, where it is missing.
    pub fn open_or_make(&mut self, dir: &[u8]) -> Result<Arc<OwnedFd>, StoreError> {
        match self.open(dir) {
            Ok(handle) => return Ok(handle),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(StoreError::io("open the folder it belongs in")(errno)),
        }
        let (above, name) = match dir.iter().rposition(|&b| b == b'/') {
            Some(slash) => (&dir[..slash], &dir[slash + 1..]),
            None => (&[][..], dir),
        };
        let parent = self.open_or_make(above)?;
        match rustix::fs::mkdirat(&parent, name, self.dir_mode) {
            Ok(()) => drop(self.made().insert(dir.into())),
            // Somebody else made it just now, and may not have synced its name.
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(StoreError::io("make the folder it belongs in")(errno)),
        }
        self.touch(above, &parent);
        let handle = rustix::fs::openat(&parent, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty());
        let handle = Arc::new(handle.map_err(StoreError::io("open the folder it belongs in"))?);
        self.keep(dir, &handle);
        Ok(handle)
    }

    /// Was the folder made here? Asked once, when it is announced with its metadata.
    pub fn take_made(&self, dir: &[u8]) -> bool {
        self.made().remove(dir)
    }

    fn made(&self) -> MutexGuard<'_, BTreeSet<Box<[u8]>>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the handle on `dir`: it was removed, or replaced, by somebody else.
    pub fn forget(&mut self, dir: &[u8]) {
        self.handles.remove(dir);
    }

    /// Notes that names were made in a folder, which has to be synced.
    pub fn touch(&self, dir: &[u8], handle: &Arc<OwnedFd>) {
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        touched.entry(dir.into()).or_insert_with(|| Arc::clone(handle));
    }

    /// The folders noted since the last call.
    pub fn take_touched(&self) -> Handles {
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *touched)
    }

    fn keep(&mut self, dir: &[u8], handle: &Arc<OwnedFd>) {
        if self.handles.len() >= MAX_HANDLES {
            self.handles.clear();
        }
        self.handles.insert(dir.into(), Arc::clone(handle));
    }
}

fn open_beneath(root: &OwnedFd, dir: &[u8]) -> Result<OwnedFd, Errno> {
    if !NO_OPENAT2.load(Ordering::Relaxed) {
        match openat2(root, dir) {
            Err(Errno::NOSYS | Errno::PERM) => NO_OPENAT2.store(true, Ordering::Relaxed),
            done => return done,
        }
    }
    open_by_component(root, dir)
}

fn openat2(root: &OwnedFd, dir: &[u8]) -> Result<OwnedFd, Errno> {
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
fn open_by_component(root: &OwnedFd, dir: &[u8]) -> Result<OwnedFd, Errno> {
    let mut handle: Option<OwnedFd> = None;
    for component in dir.split(|&b| b == b'/') {
        let from = handle.as_ref().unwrap_or(root);
        let next = rustix::fs::openat(from, component, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty());
        // With O_DIRECTORY a link is "not a directory"; say what it is.
        handle = Some(next.map_err(|errno| if is_link(from, component) { Errno::LOOP } else { errno })?);
    }
    handle.ok_or(Errno::NOENT)
}

fn is_link(dir: &OwnedFd, name: &[u8]) -> bool {
    rustix::fs::readlinkat(dir, name, Vec::new()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    type Open = fn(&OwnedFd, &[u8]) -> Result<OwnedFd, Errno>;

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
            assert!(open(&handle, b"a/b").is_ok());
            assert_eq!(open(&handle, b"gone").unwrap_err(), Errno::NOENT);
            assert_eq!(open(&handle, b"file").unwrap_err(), Errno::NOTDIR);
            for link in [&b"out"[..], b"a/inside", b"magic", b"out/deeper", b"a/inside/deeper"] {
                assert_eq!(open(&handle, link).unwrap_err(), Errno::LOOP, "{link:?}");
            }
        }
        assert!(openat2(&handle, b"a/../../outside").is_err(), "the kernel guards even what RelPath refuses");
    }

    #[test]
    fn folders_are_made_but_never_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let handle = rustix::fs::open(dir.path(), DIR_FLAGS, Mode::empty()).unwrap();
        let mut beneath = Beneath::new(Arc::new(handle), Mode::RWXU);
        beneath.open_or_make(b"x/y/z").unwrap();
        assert!(dir.path().join("x/y/z").is_dir());
        assert_eq!(beneath.take_touched().len(), 3, "each folder that got a new name");
        symlink(outside.path(), dir.path().join("link")).unwrap();
        assert!(matches!(beneath.open_or_make(b"link/new"), Err(StoreError::Blocked { .. })));
        assert!(std::fs::read_dir(outside.path()).unwrap().next().is_none());
    }
}
