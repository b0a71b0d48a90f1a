//! The directories below the root, by path. No symbolic link is followed.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use super::dir::Dir;
use super::dir_cache::DirCache;
use super::dirty_dirs::DirtyDirs;
use super::exact_names::ExactNames;
use crate::dest::error::{EQUIVALENT_NAME, StoreError};
use crate::sync::lock;
use crate::sys::Errno;
use crate::sys::stat::FileId;

/// The mode of a directory that was created for its entries and not announced yet. On a directory that one user alone may
/// write to, the sticky bit has no effect; here it marks that mode and time are still to be set, also for a later session
/// that resumes.
pub const IMPLICIT_DIR_MODE: u32 = 0o1700;
/// The bits that are compared with that mode. Not the setgid bit, which a new directory inherits.
const MARK_BITS: u32 = 0o1777;
/// At most this many directories are remembered whose file system does not store the mark.
const MAX_UNMARKED: usize = 1 << 18;

/// The mode of directories that are created for their entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImplicitDirs {
    /// 0700 and a mark: the sender announces every directory, with its mode, after its entries.
    Private,
    /// 0777 less the umask: the sender announces no directories.
    Umask,
}

/// The directories below a root, by their path; the path of the root is empty. Clones share everything.
#[derive(Clone, Debug)]
pub struct DirTree(Arc<TreeState>);

#[derive(Debug)]
struct TreeState {
    root: Arc<Dir>,
    implicit_dirs: ImplicitDirs,
    implicit_mode: u32,
    cache: Mutex<DirCache>,
    /// A handle on each file system other than the root's. Opened before anything is written there, so that its sync
    /// reports all lost bytes.
    devices: Mutex<BTreeMap<u64, Arc<Dir>>>,
    dirty: Mutex<DirtyDirs>,
    exact_names: Mutex<ExactNames>,
    /// Directories that were created here and not announced yet, on file systems that do not store the mark.
    unmarked: Mutex<HashSet<FileId>>,
}

impl DirTree {
    pub fn new(root: Dir, implicit_dirs: ImplicitDirs) -> Self {
        DirTree(Arc::new(TreeState {
            root: Arc::new(root),
            implicit_dirs,
            implicit_mode: match implicit_dirs {
                ImplicitDirs::Private => IMPLICIT_DIR_MODE,
                ImplicitDirs::Umask => 0o777,
            },
            cache: Mutex::default(),
            devices: Mutex::default(),
            dirty: Mutex::default(),
            exact_names: Mutex::default(),
            unmarked: Mutex::default(),
        }))
    }

    /// The inode number of the root.
    pub fn root_inode(&self) -> u64 {
        self.0.root.id.inode
    }

    /// Opens the directory at `path`; [`EQUIVALENT_NAME`] if it has another spelling.
    pub fn open(&self, path: &[u8]) -> Result<Arc<Dir>, Errno> {
        if path.is_empty() {
            return Ok(Arc::clone(&self.0.root));
        }
        if let Some(dir) = self.cache().get(path) {
            return Ok(dir);
        }
        let handle = self.retry_without_cache(|| self.0.root.handle.open_beneath(path))?;
        let dir = Dir::new(handle)?;
        // This checks the spelling of the parents.
        let (parent_path, name) = split(path);
        let parent = self.open(parent_path)?;
        if !self.is_exact_name(&parent, parent_path, name)? {
            return Err(EQUIVALENT_NAME);
        }
        // Another session, or one that was killed, may have created it without syncing its name.
        lock(&self.0.dirty).add_parent(&parent);
        Ok(self.insert(path, dir))
    }

    fn insert(&self, path: &[u8], dir: Dir) -> Arc<Dir> {
        let dir = Arc::new(dir);
        if dir.id.device != self.0.root.id.device {
            lock(&self.0.devices).entry(dir.id.device).or_insert_with(|| Arc::clone(&dir));
        }
        self.cache().insert(path.into(), Arc::clone(&dir));
        dir
    }

    /// Like [`DirTree::open`], but `NOENT` also for a directory that this session created: all entries in it are the
    /// session's own. So a new directory costs one lookup, and not one for each of its files. Another process may create an
    /// entry there meanwhile; it is found when the name is given.
    pub fn open_if_occupied(&self, path: &[u8]) -> Result<Arc<Dir>, Errno> {
        let mut cache = self.cache();
        if cache.missing.as_deref() == Some(path) || cache.get(path).is_some_and(|dir| dir.is_new) {
            return Err(Errno::NOENT);
        }
        drop(cache);
        self.open(path).inspect_err(|errno| {
            if *errno == Errno::NOENT {
                self.cache().missing = Some(path.into());
            }
        })
    }

    /// Opens the directory at `path`, and creates it and its parents where they are missing.
    pub fn open_or_create(&self, path: &[u8]) -> Result<Arc<Dir>, StoreError> {
        match self.open(path) {
            Ok(dir) => return Ok(dir),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(StoreError::io("open its folder")(errno)),
        }
        let (parent_path, name) = split(path);
        let parent = self.open_or_create(parent_path)?;
        let is_new = match parent.handle.create_dir(name, self.0.implicit_mode) {
            Ok(()) => true,
            // Another process created it meanwhile, and may not have synced its name.
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(StoreError::io("create its folder")(errno)),
        };
        self.mark_dirty(&parent);
        if is_new && parent.may_be_case_insensitive() {
            lock(&self.0.exact_names).insert(parent_path, name);
        }
        let dir = self.open_new(&parent, parent_path, name, is_new);
        let dir = dir.map_err(StoreError::io("open its folder"))?;
        if is_new && self.0.implicit_dirs == ImplicitDirs::Private && !is_marked(dir.mode) {
            let mut unmarked = lock(&self.0.unmarked);
            if unmarked.len() < MAX_UNMARKED {
                unmarked.insert(dir.id);
            }
        }
        Ok(self.insert(path, dir))
    }

    fn open_new(&self, parent: &Dir, parent_path: &[u8], name: &[u8], is_new: bool) -> Result<Dir, Errno> {
        let handle = self.retry_without_cache(|| parent.handle.open_dir(name))?;
        if !is_new && !self.is_exact_name(parent, parent_path, name)? {
            return Err(EQUIVALENT_NAME);
        }
        let mut dir = Dir::new(handle)?;
        dir.is_new = is_new;
        Ok(dir)
    }

    /// Forgets the directory at `path`, which was removed or replaced by another process.
    pub fn invalidate(&self, path: &[u8]) {
        self.cache().remove(path);
    }

    /// Is `dir` still the directory at `path`?
    pub fn has_path(&self, dir: &Dir, path: &[u8]) -> bool {
        let (parent_path, name) = split(path);
        let stat = self.open(parent_path).and_then(|parent| parent.handle.stat_entry(name));
        stat.is_ok_and(|stat| stat.id == dir.id)
    }

    /// An entry was found under `name` in `dir`, the directory at `path`. Is that its name, or an equivalent one? Most file
    /// systems compare bytes; on the others only a listing can tell.
    pub fn is_exact_name(&self, dir: &Dir, path: &[u8], name: &[u8]) -> Result<bool, Errno> {
        if !dir.may_be_case_insensitive() {
            return Ok(true);
        }
        lock(&self.0.exact_names).contains(dir, path, name)
    }

    /// Runs `open`. If there are too many open files, closes the cached directories and runs it once more.
    pub fn retry_without_cache<T>(&self, mut open: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
        match open() {
            Err(Errno::MFILE | Errno::NFILE) => {
                *self.cache() = DirCache::default();
                open()
            }
            done => done,
        }
    }

    /// Does a directory with this mode still have to be announced?
    pub fn is_implicit(&self, dir: &Dir, mode: u32) -> bool {
        self.0.implicit_dirs == ImplicitDirs::Private
            && (is_marked(mode) || lock(&self.0.unmarked).contains(&dir.id))
    }

    /// Its mode and time have been set.
    pub fn set_announced(&self, dir: &Dir) {
        lock(&self.0.unmarked).remove(&dir.id);
    }

    /// Names were created in a directory, which has to be synced.
    pub fn mark_dirty(&self, dir: &Arc<Dir>) {
        lock(&self.0.dirty).add(dir);
    }

    /// Syncs all names that were created since the last call that succeeded.
    pub fn sync_dirty(&self) -> Result<(), Errno> {
        let dirty = std::mem::take(&mut *lock(&self.0.dirty));
        let synced = (|| {
            dirty.devices().try_for_each(|device| self.sync_device(device))?;
            dirty.dirs().try_for_each(|dir| dir.sync())
        })();
        if synced.is_err() {
            // The names are not durable, and must not be after the next batch either.
            lock(&self.0.dirty).merge(dirty);
        }
        synced
    }

    /// Syncs a whole file system on which something was written.
    pub fn sync_device(&self, device: u64) -> Result<(), Errno> {
        if device == self.0.root.id.device {
            return self.0.root.sync_file_system();
        }
        let dir = lock(&self.0.devices).get(&device).map(Arc::clone);
        dir.map_or(Err(Errno::NODEV), |dir| dir.sync_file_system())
    }

    fn cache(&self) -> MutexGuard<'_, DirCache> {
        lock(&self.0.cache)
    }
}

fn is_marked(mode: u32) -> bool {
    mode & MARK_BITS == IMPLICIT_DIR_MODE
}

/// The path of the parent of a directory that is not the root, and its name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::dir::DirHandle;
    use crate::sys::stat::FileStat;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn tree(root: &Path) -> DirTree {
        DirTree::new(Dir::new(DirHandle::open(root).unwrap()).unwrap(), ImplicitDirs::Private)
    }

    #[test]
    fn cached_dirs_are_closed_if_descriptors_are_short() {
        let root = tempfile::tempdir().unwrap();
        let tree = tree(root.path());
        let cached = Arc::downgrade(&tree.open_or_create(b"x").unwrap());
        // It holds a handle as well until it is synced.
        tree.sync_dirty().unwrap();
        assert!(cached.upgrade().is_some());
        let mut tries = 0;
        let opened = tree.retry_without_cache(|| {
            tries += 1;
            if cached.upgrade().is_some() { Err(Errno::MFILE) } else { Ok(tries) }
        });
        assert_eq!(opened, Ok(2));
        // The second attempt is the last one, and other errors are final.
        assert_eq!(tree.retry_without_cache(|| Err::<(), _>(Errno::MFILE)), Err(Errno::MFILE));
        assert_eq!(tree.retry_without_cache(|| Err::<(), _>(Errno::ACCESS)), Err(Errno::ACCESS));
    }

    #[test]
    fn dirs_are_created_but_never_through_a_link() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tree = tree(root.path());
        tree.open_or_create(b"x/y/z").unwrap();
        assert!(root.path().join("x/y/z").is_dir());
        assert_eq!(lock(&tree.0.dirty).dirs().count(), 3, "each directory with a new name in it");
        symlink(outside.path(), root.path().join("link")).unwrap();
        assert!(matches!(tree.open_or_create(b"link/new"), Err(StoreError::Blocked { .. })));
        assert!(std::fs::read_dir(outside.path()).unwrap().next().is_none());
    }

    #[test]
    fn implicit_dirs_are_known_by_identity_where_the_mark_is_not_stored() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("existing")).unwrap();
        let mut tree = tree(root.path());
        // The mode that such a file system stores.
        Arc::get_mut(&mut tree.0).unwrap().implicit_mode = 0o700;
        let is_implicit = |dir: &Dir| tree.is_implicit(dir, FileStat::of(&dir.handle).unwrap().mode);
        let (new, existing) =
            (tree.open_or_create(b"new").unwrap(), tree.open_or_create(b"existing").unwrap());
        assert!(is_implicit(&new) && !is_implicit(&existing));
        tree.set_announced(&new);
        assert!(!is_implicit(&new), "announced once");
    }
}
