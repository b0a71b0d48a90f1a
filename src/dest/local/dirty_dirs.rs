//! Directories whose names have to be synced.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::dir::Dir;

/// Up to this many files or directories are synced one by one, more of them by one sync of their file system.
pub const MAX_SYNCED_ONE_BY_ONE: usize = 4;
/// Parent directories that are synced once each, although most have nothing to sync. A path leads over more of them than
/// this only if it was made to be expensive.
const MAX_PARENTS: usize = 16;

/// Few directories are kept one by one, in the order in which they were added; many are replaced by their file systems,
/// which are then synced as a whole.
#[derive(Debug, Default)]
pub struct DirtyDirs {
    parents: Vec<Arc<Dir>>,
    changed: Vec<Arc<Dir>>,
    devices: BTreeSet<u64>,
}

fn has(dirs: &[Arc<Dir>], dir: &Dir) -> bool {
    dirs.iter().any(|other| other.id == dir.id)
}

impl DirtyDirs {
    /// Names were created in a directory.
    pub fn add(&mut self, dir: &Arc<Dir>) {
        if has(&self.changed, dir) || self.devices.contains(&dir.id.device) {
        } else if self.changed.len() < MAX_SYNCED_ONE_BY_ONE {
            self.parents.retain(|other| other.id != dir.id);
            self.changed.push(Arc::clone(dir));
        } else {
            self.add_device(dir.id.device);
        }
    }

    /// An existing directory in this one is used. Another process may have created it without syncing its name.
    pub fn add_parent(&mut self, dir: &Arc<Dir>) {
        if has(&self.changed, dir) || has(&self.parents, dir) || self.devices.contains(&dir.id.device) {
        } else if self.parents.len() < MAX_PARENTS {
            self.parents.push(Arc::clone(dir));
        } else {
            self.add_device(dir.id.device);
        }
    }

    fn add_device(&mut self, device: u64) {
        self.devices.insert(device);
        for dirs in [&mut self.parents, &mut self.changed] {
            dirs.retain(|dir| dir.id.device != device);
        }
    }

    /// Adds everything of `other`.
    pub fn merge(&mut self, other: DirtyDirs) {
        other.devices.into_iter().for_each(|device| self.add_device(device));
        other.changed.iter().for_each(|dir| self.add(dir));
        other.parents.iter().for_each(|dir| self.add_parent(dir));
    }

    /// The file systems to be synced as a whole.
    pub fn devices(&self) -> impl Iterator<Item = u64> {
        self.devices.iter().copied()
    }

    /// The directories to be synced one by one.
    pub fn dirs(&self) -> impl Iterator<Item = &Arc<Dir>> {
        self.parents.iter().chain(&self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::dir::DirHandle;
    use std::path::Path;

    fn open(path: &Path) -> Arc<Dir> {
        Arc::new(Dir::new(DirHandle::open(path).unwrap()).unwrap())
    }

    /// So many new directories in `parent`.
    fn dirs(parent: &Path, count: usize) -> Vec<Arc<Dir>> {
        (0..count)
            .map(|number| {
                let path = parent.join(number.to_string());
                std::fs::create_dir(&path).unwrap();
                open(&path)
            })
            .collect()
    }

    /// How many are synced one by one, and how many file systems as a whole.
    fn counts(dirty: &DirtyDirs) -> (usize, usize) {
        (dirty.dirs().count(), dirty.devices().count())
    }

    #[test]
    fn few_dirs_are_synced_one_by_one_and_many_hold_no_handle() {
        let parent = tempfile::tempdir().unwrap();
        let dirs = dirs(parent.path(), MAX_SYNCED_ONE_BY_ONE + 1);
        let mut dirty = DirtyDirs::default();
        for _ in 0..2 {
            dirs[1..].iter().for_each(|dir| dirty.add(dir));
        }
        assert_eq!(counts(&dirty), (MAX_SYNCED_ONE_BY_ONE, 0));
        let mut merged = DirtyDirs::default();
        merged.merge(dirty);
        assert_eq!(counts(&merged), (MAX_SYNCED_ONE_BY_ONE, 0));
        merged.add(&dirs[0]);
        merged.add(&open(Path::new("/proc")));
        assert_eq!(counts(&merged), (1, 1), "one file system, and a directory of another");
        assert!(dirs.iter().all(|dir| Arc::strong_count(dir) == 1));
        let mut more = DirtyDirs::default();
        more.add(&dirs[0]);
        more.merge(merged);
        assert_eq!(counts(&more), (1, 1));
    }

    #[test]
    fn parents_do_not_count_as_changed() {
        let parent = tempfile::tempdir().unwrap();
        let dirs = dirs(parent.path(), MAX_PARENTS + 1);
        let mut dirty = DirtyDirs::default();
        for _ in 0..2 {
            dirs[1..].iter().for_each(|dir| dirty.add_parent(dir));
        }
        dirty.add(&dirs[1]);
        assert_eq!((dirty.parents.len(), dirty.changed.len()), (MAX_PARENTS - 1, 1), "once each");
        dirs[..2].iter().for_each(|dir| dirty.add_parent(dir));
        assert_eq!(counts(&dirty), (MAX_PARENTS + 1, 0));
        dirty.add_parent(&open(parent.path()));
        assert_eq!(counts(&dirty), (0, 1));
    }
}
