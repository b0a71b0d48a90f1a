//! The entries in flight at the sender.

use std::collections::BTreeMap;

use super::file::{OutgoingFile, OutgoingStage};
use crate::digest::Etag;
use crate::wire::error::WireError;
use crate::wire::id_ranges::IdRanges;
use crate::wire::limits::{MAX_ENTRIES_IN_FLIGHT, MAX_NAME_BYTES_IN_FLIGHT};
use crate::wire::message::EntryId;

/// What an entry is.
#[derive(Debug)]
pub enum OutgoingKind {
    /// A folder or link: only `stored` or `error` is valid.
    Other,
    File(OutgoingFile),
}

#[derive(Debug)]
struct OutgoingEntry {
    kind: OutgoingKind,
    name_bytes: usize,
}

/// The entries that are announced and not settled.
#[derive(Debug, Default)]
pub struct OutgoingEntries {
    entries: BTreeMap<EntryId, OutgoingEntry>,
    announced: u64,
    name_bytes: usize,
    /// Digests and runs from `kept` that are held for the files.
    kept: usize,
}

impl OutgoingEntries {
    /// The number of entries announced so far; the next one has this number.
    pub fn announced(&self) -> u64 {
        self.announced
    }

    /// Do the limits permit another entry?
    pub fn have_room(&self) -> bool {
        self.entries.len() < MAX_ENTRIES_IN_FLIGHT && self.name_bytes < MAX_NAME_BYTES_IN_FLIGHT
    }

    pub fn are_settled(&self) -> bool {
        self.entries.is_empty()
    }

    /// Is every requested part sent?
    pub fn are_sent(&self) -> bool {
        self.entries.values().all(|entry| match &entry.kind {
            OutgoingKind::File(file) => file.stage == OutgoingStage::Identical || file.is_sent(),
            OutgoingKind::Other => true,
        })
    }

    pub fn add(&mut self, kind: OutgoingKind, name_bytes: usize) -> EntryId {
        let id = self.announced;
        self.announced += 1;
        self.name_bytes += name_bytes;
        self.entries.insert(id, OutgoingEntry { kind, name_bytes });
        id
    }

    pub fn get(&self, id: EntryId) -> Option<&OutgoingKind> {
        self.entries.get(&id).map(|entry| &entry.kind)
    }

    pub fn get_mut(&mut self, id: EntryId) -> Option<&mut OutgoingKind> {
        self.entries.get_mut(&id).map(|entry| &mut entry.kind)
    }

    pub fn file(&mut self, id: EntryId) -> Option<&mut OutgoingFile> {
        match self.get_mut(id)? {
            OutgoingKind::File(file) => Some(file),
            OutgoingKind::Other => None,
        }
    }

    #[cfg(test)]
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// A file, and the number of digests and runs from `kept` that are held.
    pub fn file_and_kept(&mut self, id: EntryId) -> Option<(&mut OutgoingFile, &mut usize)> {
        match &mut self.entries.get_mut(&id)?.kind {
            OutgoingKind::File(file) => Some((file, &mut self.kept)),
            OutgoingKind::Other => None,
        }
    }

    /// Removes an entry; `false` if it was settled before.
    pub fn settle(&mut self, id: EntryId) -> bool {
        let Some(settled) = self.entries.remove(&id) else { return false };
        self.name_bytes -= settled.name_bytes;
        if let OutgoingKind::File(file) = settled.kind {
            self.kept -= file.kept;
        }
        true
    }

    /// Every id was announced, and there are not more of them than can be in flight.
    pub fn check_announced(&self, ids: &IdRanges) -> Result<(), WireError> {
        if ids.last().is_some_and(|last| last >= self.announced) {
            return Err(WireError::protocol("the receiver names an entry that was never announced"));
        }
        if ids.count() > MAX_ENTRIES_IN_FLIGHT as u64 {
            return Err(WireError::protocol("the receiver names more entries than can be in flight"));
        }
        Ok(())
    }

    /// Compares the etags of `stored`, one for each of `ids`, with those of what was sent.
    pub fn check_etags(&self, ids: &IdRanges, etags: Option<&[Option<Etag>]>) -> Result<(), WireError> {
        let etags = etags.unwrap_or_default();
        if etags.len() as u64 != ids.count() {
            return Err(WireError::protocol("stored without an etag for each entry"));
        }
        for (entry, theirs) in ids.iter().flatten().zip(etags) {
            let ours = match self.get(entry) {
                Some(OutgoingKind::File(file)) => file.digests.etag(file.layout),
                _ => None,
            };
            match (ours, *theirs) {
                (Some(ours), Some(theirs)) if ours != theirs => {
                    return Err(WireError::Etag { entry, theirs, ours });
                }
                (Some(_), None) => {
                    return Err(WireError::protocol(format!("stored without the etag of entry {entry}")));
                }
                // Without our etag, some kept parts were neither hashed here nor received in `kept`.
                _ => {}
            }
        }
        Ok(())
    }
}
