//! Folders in which names were made, to be synced.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustix::io::Errno;

use super::beneath::Folder;
use super::commit::SYNC_ONE_BY_ONE;

/// Each of them by its path while they are few; beyond that one of each file system, which is then synced as a whole.
#[derive(Debug)]
pub enum Touched {
    Few(BTreeMap<Box<[u8]>, Arc<Folder>>),
    Many(BTreeMap<u64, Arc<Folder>>),
}

impl Default for Touched {
    fn default() -> Self {
        Touched::Few(BTreeMap::new())
    }
}

impl Touched {
    /// Names were made in the folder `dir`.
    pub fn add(&mut self, dir: &[u8], folder: &Arc<Folder>) {
        if let Touched::Few(folders) = self {
            if folders.contains_key(dir) {
                return;
            }
            if folders.len() < SYNC_ONE_BY_ONE {
                folders.insert(dir.into(), Arc::clone(folder));
                return;
            }
        }
        self.by_device().entry(folder.device).or_insert_with(|| Arc::clone(folder));
    }

    /// All of this has to be synced, too.
    pub fn merge(&mut self, other: Touched) {
        match other {
            Touched::Few(folders) => folders.iter().for_each(|(path, folder)| self.add(path, folder)),
            Touched::Many(devices) => {
                let own = self.by_device();
                devices.into_iter().for_each(|(device, folder)| {
                    own.entry(device).or_insert(folder);
                });
            }
        }
    }

    /// Brings the names to stable storage.
    pub fn sync(&self) -> Result<(), Errno> {
        match self {
            Touched::Few(folders) => folders.values().try_for_each(|folder| rustix::fs::fsync(&**folder)),
            Touched::Many(devices) => devices.values().try_for_each(|folder| rustix::fs::syncfs(&**folder)),
        }
    }

    /// Those that are synced one by one.
    #[cfg(test)]
    pub fn few(&self) -> impl Iterator<Item = &[u8]> {
        let folders = match self {
            Touched::Few(folders) => Some(folders),
            Touched::Many(_) => None,
        };
        folders.into_iter().flat_map(|folders| folders.keys().map(|path| &**path))
    }

    fn by_device(&mut self) -> &mut BTreeMap<u64, Arc<Folder>> {
        if let Touched::Few(folders) = self {
            let mut devices = BTreeMap::new();
            for folder in std::mem::take(folders).into_values() {
                devices.entry(folder.device).or_insert(folder);
            }
            *self = Touched::Many(devices);
        }
        match self {
            Touched::Many(devices) => devices,
            Touched::Few(_) => unreachable!("it was made the other one"),
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
    fn many_folders_hold_one_handle_for_each_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let here = folder(dir.path());
        let mut touched = Touched::default();
        for number in 0..100 {
            touched.add(format!("d{number}").as_bytes(), &here);
            touched.add(format!("d{number}").as_bytes(), &here);
        }
        let elsewhere = folder(std::path::Path::new("/proc"));
        touched.add(b"elsewhere", &elsewhere);
        assert_eq!(Arc::strong_count(&here), 2, "one beside our own");
        assert_eq!(Arc::strong_count(&elsewhere), 2);
        let mut again = Touched::default();
        again.add(b"x", &here);
        again.merge(touched);
        assert!(matches!(&again, Touched::Many(devices) if devices.len() == 2));
    }

    #[test]
    fn few_folders_are_kept_each_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let here = folder(dir.path());
        let mut touched = Touched::default();
        (0..SYNC_ONE_BY_ONE).for_each(|number| touched.add(&[number as u8], &here));
        assert_eq!(touched.few().count(), SYNC_ONE_BY_ONE);
        touched.sync().unwrap();
        let mut again = Touched::default();
        again.merge(touched);
        assert_eq!(again.few().count(), SYNC_ONE_BY_ONE);
        again.add(b"one more", &here);
        assert_eq!(again.few().count(), 0);
        again.sync().unwrap();
    }
}
