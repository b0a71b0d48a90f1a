//! Reaching folders below the root without ever following a link.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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

/// The mode of a folder that was made for what is in it and not announced yet. The sticky bit means nothing on a folder
/// that one user alone may write to; here it marks the folder as one whose rights and time are still to come, even for
/// a session that goes on where another one was cut.
pub const UNANNOUNCED: u32 = 0o1700;

/// A folder below the root.
#[derive(Debug)]
pub struct Folder {
    handle: OwnedFd,
    /// The file system it is on.
    pub device: u64,
    /// New files in it get the rights that its list of rights says, and not just those they are made with.
    pub has_default_acl: bool,
    /// It was made here a moment ago: there is nothing in it that this session did not put there.
    is_fresh: bool,
}

impl Folder {
    pub fn new(handle: OwnedFd) -> Result<Self, Errno> {
        let device = rustix::fs::fstat(&handle)?.st_dev;
        let mut nothing: [u8; 0] = [];
        let acl = rustix::fs::fgetxattr(&handle, "system.posix_acl_default", &mut nothing);
        Ok(Folder { handle, device, has_default_acl: acl.is_ok(), is_fresh: false })
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Handles by the path of their folder.
pub type Handles = BTreeMap<Box<[u8]>, Arc<Folder>>;

/// Folders below a root, by their path; the root itself is the empty path.
#[derive(Debug)]
pub struct Beneath {
    root: Arc<Folder>,
    /// The mode of folders that are made on the way.
    dir_mode: Mode,
    handles: Handles,
    /// A folder that was not there when it was last looked for.
    missing: Option<Box<[u8]>>,
    /// Folders in which names were made since the last call of [`Beneath::take_touched`], by any view of this root.
    touched: Arc<Mutex<Handles>>,
}

impl Beneath {
    pub fn new(root: Folder, dir_mode: Mode) -> Self {
        let touched = Arc::default();
        Beneath { root: Arc::new(root), dir_mode, handles: Handles::new(), missing: None, touched }
    }

    /// The same root for another thread: handles of its own, but one list of what has to be synced.
    pub fn another(&self) -> Self {
        Beneath {
            root: Arc::clone(&self.root),
            dir_mode: self.dir_mode,
            handles: Handles::new(),
            missing: None,
            touched: Arc::clone(&self.touched),
        }
    }

    /// A handle on the folder `dir`, if it is there.
    pub fn open(&mut self, dir: &[u8]) -> Result<Arc<Folder>, Errno> {
        if dir.is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        if let Some(handle) = self.handles.get(dir) {
            return Ok(Arc::clone(handle));
        }
        let folder = Arc::new(Folder::new(open_beneath(&self.root, dir)?)?);
        self.keep(dir, &folder);
        Ok(folder)
    }

    /// A handle on the folder `dir`, if anything can be in it that this session did not put there. Thousands of files
    /// for a new folder then cost no look at the disk each. What somebody else puts there meanwhile is not lost: a
    /// name that is taken is found when it is to be given.
    pub fn open_if_occupied(&mut self, dir: &[u8]) -> Result<Arc<Folder>, Errno> {
        if self.handles.get(dir).is_some_and(|folder| folder.is_fresh) || self.missing.as_deref() == Some(dir)
        {
            return Err(Errno::NOENT);
        }
        self.open(dir).inspect_err(|errno| {
            if *errno == Errno::NOENT {
                self.missing = Some(dir.into());
            }
        })
    }

    /// A handle on the folder `dir`, which is made, with the folders above it, where it is missing.
    pub fn open_or_make(&mut self, dir: &[u8]) -> Result<Arc<Folder>, StoreError> {
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
        let is_fresh = match rustix::fs::mkdirat(&parent, name, self.dir_mode) {
            Ok(()) => true,
            // Somebody else made it just now, and may not have synced its name.
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(StoreError::io("make the folder it belongs in")(errno)),
        };
        self.touch(above, &parent);
        let handle = rustix::fs::openat(&parent, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty());
        let folder = handle.and_then(Folder::new).map_err(StoreError::io("open the folder it belongs in"))?;
        let folder = Arc::new(Folder { is_fresh, ..folder });
        self.keep(dir, &folder);
        Ok(folder)
    }

    /// Was the folder made for what is in it, and waits for its own rights and time?
    pub fn is_unannounced(&self, folder: &Folder) -> bool {
        self.dir_mode == Mode::from_raw_mode(UNANNOUNCED)
            && rustix::fs::fstat(folder).is_ok_and(|stat| stat.st_mode & 0o7777 == UNANNOUNCED)
    }

    /// Forgets the handle on `dir`: it was removed, or replaced, by somebody else.
    pub fn forget(&mut self, dir: &[u8]) {
        self.handles.remove(dir);
    }

    /// Notes that names were made in a folder, which has to be synced.
    pub fn touch(&self, dir: &[u8], folder: &Arc<Folder>) {
        let mut touched = self.touched();
        if !touched.contains_key(dir) {
            touched.insert(dir.into(), Arc::clone(folder));
        }
    }

    /// The folders noted since the last call.
    pub fn take_touched(&self) -> Handles {
        std::mem::take(&mut *self.touched())
    }

    fn touched(&self) -> MutexGuard<'_, Handles> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&mut self, dir: &[u8], folder: &Arc<Folder>) {
        if self.handles.len() >= MAX_HANDLES {
            self.handles.clear();
        }
        self.handles.insert(dir.into(), Arc::clone(folder));
    }
}

fn open_beneath(root: &Folder, dir: &[u8]) -> Result<OwnedFd, Errno> {
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
    fn folders_are_made_but_never_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let handle = rustix::fs::open(dir.path(), DIR_FLAGS, Mode::empty()).unwrap();
        let mut beneath = Beneath::new(Folder::new(handle).unwrap(), Mode::RWXU);
        beneath.open_or_make(b"x/y/z").unwrap();
        assert!(dir.path().join("x/y/z").is_dir());
        assert_eq!(beneath.take_touched().len(), 3, "each folder that got a new name");
        symlink(outside.path(), dir.path().join("link")).unwrap();
        assert!(matches!(beneath.open_or_make(b"link/new"), Err(StoreError::Blocked { .. })));
        assert!(std::fs::read_dir(outside.path()).unwrap().next().is_none());
    }
}
