//! Folders whose names have to be synced.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustix::io::Errno;

use super::commit::MAX_SYNCED_ONE_BY_ONE;
use super::dir_tree::{Dir, DirTree};

/// Folders above those in which names are made, once for each: most of them have nothing to be synced. More than this lie
/// on the way to few files only where somebody means to make work of it.
const MAX_ABOVE: usize = 16;

/// Each folder by itself, in the order in which they came, while they are few; beyond that their file systems, which are
/// then synced as a whole.
#[derive(Debug, Default)]
pub struct DirtyDirs {
    above: Vec<Arc<Dir>>,
    changed: Vec<Arc<Dir>>,
    devices: BTreeSet<u64>,
}

fn has(folders: &[Arc<Dir>], folder: &Dir) -> bool {
    folders.iter().any(|other| other.identity() == folder.identity())
}

impl DirtyDirs {
    /// Names were made in a folder.
    pub fn add(&mut self, folder: &Arc<Dir>) {
        if has(&self.changed, folder) || self.devices.contains(&folder.device) {
        } else if self.changed.len() < MAX_SYNCED_ONE_BY_ONE {
            self.above.retain(|other| other.identity() != folder.identity());
            self.changed.push(Arc::clone(folder));
        } else {
            self.add_device(folder.device);
        }
    }

    /// A folder was opened in this one, and somebody else may have made it without syncing its name.
    pub fn add_above(&mut self, folder: &Arc<Dir>) {
        if has(&self.changed, folder) || has(&self.above, folder) || self.devices.contains(&folder.device) {
        } else if self.above.len() < MAX_ABOVE {
            self.above.push(Arc::clone(folder));
        } else {
            self.add_device(folder.device);
        }
    }

    fn add_device(&mut self, device: u64) {
        self.devices.insert(device);
        for folders in [&mut self.above, &mut self.changed] {
            folders.retain(|folder| folder.device != device);
        }
    }

    /// All of this has to be synced, too.
    pub fn merge(&mut self, other: DirtyDirs) {
        other.devices.into_iter().for_each(|device| self.add_device(device));
        other.changed.iter().for_each(|folder| self.add(folder));
        other.above.iter().for_each(|folder| self.add_above(folder));
    }

    /// Brings the names to stable storage.
    pub fn sync(&self, tree: &DirTree) -> Result<(), Errno> {
        self.devices.iter().try_for_each(|device| tree.sync_device(*device))?;
        self.above.iter().chain(&self.changed).try_for_each(|folder| folder.sync())
    }

    /// How many are synced one by one.
    #[cfg(test)]
    pub fn few(&self) -> usize {
        self.above.len() + self.changed.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};

    fn folder(path: &std::path::Path) -> Arc<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Arc::new(Dir::new(rustix::fs::open(path, flags, Mode::empty()).unwrap()).unwrap())
    }

    #[test]
    fn few_folders_are_synced_by_themselves_and_many_hold_no_handle() {
        let dir = tempfile::tempdir().unwrap();
        let here: Vec<_> = (0..MAX_SYNCED_ONE_BY_ONE + 1)
            .map(|number| {
                let path = dir.path().join(number.to_string());
                std::fs::create_dir(&path).unwrap();
                folder(&path)
            })
            .collect();
        let mut dirty = DirtyDirs::default();
        for _ in 0..2 {
            here[1..].iter().for_each(|folder| dirty.add(folder));
        }
        assert_eq!(dirty.few(), MAX_SYNCED_ONE_BY_ONE);
        let mut again = DirtyDirs::default();
        again.merge(dirty);
        assert_eq!(again.few(), MAX_SYNCED_ONE_BY_ONE);
        again.add(&here[0]);
        again.add(&folder(std::path::Path::new("/proc")));
        assert_eq!((again.devices.len(), again.few()), (1, 1), "one file system, and a folder of another");
        assert!(here.iter().all(|folder| Arc::strong_count(folder) == 1));
        let mut more = DirtyDirs::default();
        more.add(&here[0]);
        more.merge(again);
        assert_eq!((more.devices.len(), more.few()), (1, 1));
    }

    #[test]
    fn folders_above_do_not_make_many_of_few() {
        let dir = tempfile::tempdir().unwrap();
        let folders: Vec<_> = (0..=MAX_ABOVE)
            .map(|number| {
                let path = dir.path().join(number.to_string());
                std::fs::create_dir(&path).unwrap();
                folder(&path)
            })
            .collect();
        let mut dirty = DirtyDirs::default();
        for _ in 0..2 {
            folders[1..].iter().for_each(|folder| dirty.add_above(folder));
        }
        dirty.add(&folders[1]);
        assert_eq!((dirty.above.len(), dirty.changed.len()), (MAX_ABOVE - 1, 1), "once each");
        folders[..2].iter().for_each(|folder| dirty.add_above(folder));
        assert_eq!((dirty.few(), dirty.devices.len()), (MAX_ABOVE + 1, 0));
        dirty.add_above(&folder(dir.path()));
        assert_eq!((dirty.few(), dirty.devices.len()), (0, 1));
    }
}
