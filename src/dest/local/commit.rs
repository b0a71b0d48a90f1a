//! Commits batches of entries: sync the data, give the final names, sync the directories.

use std::collections::BTreeSet;

use super::dirty_dirs::MAX_SYNCED_ONE_BY_ONE;
use super::item::Item;
use super::session::LocalSession;
use crate::dest::Placed;
use crate::dest::error::StoreError;
use crate::sys::Errno;

impl LocalSession {
    /// Brings all items to stable storage under their final names, in order; one result for each. After it returns, every
    /// item with a successful result survives a loss of power.
    pub(crate) fn commit(&mut self, mut items: Vec<Item>) -> Vec<Result<Placed, StoreError>> {
        let synced = self.sync_data(&mut items);
        let placed = items.into_iter().zip(synced).map(|(item, synced)| match (synced, item) {
            (Ok(()), item) => self.place(item),
            (Err(error), Item::File { staged, .. }) => {
                // Its bytes may be lost: the next attempt must not resume it.
                staged.discard();
                Err(error)
            }
            (Err(error), _) => Err(error),
        });
        let mut results: Vec<_> = placed.collect();
        if let Err(errno) = self.tree.sync_dirty() {
            for result in results.iter_mut().filter(|result| result.is_ok()) {
                *result = Err(StoreError::io("sync the folder")(errno));
            }
        }
        results
    }

    /// Sets the metadata of all files and syncs their data: steps 3 and 4.
    fn sync_data(&self, items: &mut [Item]) -> Vec<Result<(), StoreError>> {
        let sealed: Vec<_> = items
            .iter_mut()
            .map(|item| match item {
                Item::File { staged, content, metadata } => staged.seal(*metadata, content.size_bytes),
                _ => Ok(()),
            })
            .collect();
        let synced_devices = self.sync_file_systems(items);
        let sync = |item: &Item| match item {
            Item::File { staged, .. } if !staged.is_open() => match &synced_devices {
                // What was lost on that file system may belong to this file.
                Some(failed) if failed.contains(&staged.device()) => {
                    Err(StoreError::io("sync the file")(Errno::IO))
                }
                Some(_) => Ok(()),
                None => staged.sync(),
            },
            Item::File { staged, .. } => staged.sync(),
            Item::AlreadyThere { file, .. } => file.sync(),
            Item::Dir { .. } | Item::Link { .. } => Ok(()),
        };
        items.iter().zip(sealed).map(|(item, sealed)| sealed.and_then(|()| sync(item))).collect()
    }

    /// Syncs the file systems of all small files if these are many; the devices whose sync failed. Bytes that a failed sync
    /// lost may belong to files of later batches, which were written meanwhile: no later sync of that file system succeeds
    /// in this session.
    fn sync_file_systems(&self, items: &[Item]) -> Option<BTreeSet<u64>> {
        let small = items.iter().filter_map(|item| match item {
            Item::File { staged, .. } if !staged.is_open() => Some(staged.device()),
            _ => None,
        });
        let devices: Vec<u64> = small.collect();
        if devices.len() <= MAX_SYNCED_ONE_BY_ONE {
            return None;
        }
        let devices: BTreeSet<u64> = devices.into_iter().collect();
        Some(devices.into_iter().filter(|device| self.tree.sync_device(*device).is_err()).collect())
    }
}
