//! Folders in which names were made, to be synced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustix::io::Errno;

use super::beneath::{Beneath, Folder};
use super::commit::SYNC_ONE_BY_ONE;

/// Each of them by its identity while they are few; beyond that their file systems, which are then synced as a whole.
#[derive(Debug)]
pub enum Touched {
    Few(BTreeMap<(u64, u64), Arc<Folder>>),
    Many(BTreeSet<u64>),
}

impl Default for Touched {
    fn default() -> Self {
        Touched::Few(BTreeMap::new())
    }
}

impl Touched {
    /// Names were made in a folder.
    pub fn add(&mut self, folder: &Arc<Folder>) {
        match self {
            Touched::Few(folders) if folders.contains_key(&folder.identity()) => {}
            Touched::Few(folders) if folders.len() < SYNC_ONE_BY_ONE => {
                folders.insert(folder.identity(), Arc::clone(folder));
            }
            Touched::Few(folders) => {
                let others = folders.keys().map(|(device, _)| *device);
                *self = Touched::Many(others.chain([folder.device]).collect());
            }
            Touched::Many(devices) => {
                devices.insert(folder.device);
            }
        }
    }

    /// All of this has to be synced, too.
    pub fn merge(&mut self, other: Touched) {
        match (&mut *self, other) {
            (_, Touched::Few(folders)) => folders.values().for_each(|folder| self.add(folder)),
            (Touched::Many(own), Touched::Many(devices)) => own.extend(devices),
            (Touched::Few(folders), Touched::Many(mut devices)) => {
                devices.extend(folders.keys().map(|(device, _)| *device));
                *self = Touched::Many(devices);
            }
        }
    }

    /// Brings the names to stable storage.
    pub fn sync(&self, beneath: &Beneath) -> Result<(), Errno> {
        match self {
            Touched::Few(folders) => folders.values().try_for_each(|folder| folder.sync()),
            Touched::Many(devices) => devices.iter().try_for_each(|device| beneath.sync_device(*device)),
        }
    }

    /// How many are synced one by one.
    #[cfg(test)]
    pub fn few(&self) -> usize {
        match self {
            Touched::Few(folders) => folders.len(),
            Touched::Many(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};

    fn folder(path: &std::path::Path) -> Arc<Folder> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Arc::new(Folder::new(rustix::fs::open(path, flags, Mode::empty()).unwrap()).unwrap())
    }

    #[test]
    fn few_folders_are_synced_by_themselves_and_many_hold_no_handle() {
        let dir = tempfile::tempdir().unwrap();
        let here: Vec<_> = (0..SYNC_ONE_BY_ONE + 1)
            .map(|number| {
                let path = dir.path().join(number.to_string());
                std::fs::create_dir(&path).unwrap();
                folder(&path)
            })
            .collect();
        let mut touched = Touched::default();
        for _ in 0..2 {
            here[1..].iter().for_each(|folder| touched.add(folder));
        }
        assert_eq!(touched.few(), SYNC_ONE_BY_ONE);
        let mut again = Touched::default();
        again.merge(touched);
        assert_eq!(again.few(), SYNC_ONE_BY_ONE);
        again.add(&here[0]);
        again.add(&folder(std::path::Path::new("/proc")));
        assert!(matches!(&again, Touched::Many(devices) if devices.len() == 2));
        assert!(here.iter().all(|folder| Arc::strong_count(folder) == 1));
        let mut more = Touched::default();
        more.add(&here[0]);
        more.merge(again);
        assert!(matches!(&more, Touched::Many(devices) if devices.len() == 2));
    }
}
