//! The entries in flight at the receiver.

use std::collections::{BTreeMap, VecDeque};

use super::event::{FileEntry, OtherEntry, OtherKind};
use super::file::IncomingFile;
use crate::digest::Etag;
use crate::wire::error::WireError;
use crate::wire::limits::{MAX_ENTRIES_IN_FLIGHT, MAX_NAME_BYTES_IN_FLIGHT};
use crate::wire::message::EntryId;

/// An entry that the driver commits.
#[derive(Clone, Copy, Debug)]
pub struct Committing {
    /// An identical file existed.
    pub was_present: bool,
    name_bytes: usize,
    /// The etag of a file, if the session has the feature.
    pub etag: Option<Etag>,
}

/// The entries that are announced and not settled. Each is in one of three collections.
#[derive(Debug, Default)]
pub struct IncomingEntries {
    /// Files that are neither complete nor failed.
    files: BTreeMap<EntryId, IncomingFile>,
    /// How many of them have all requested parts here.
    drained_files: usize,
    /// Folders and links that follow one of these files.
    waiting: VecDeque<OtherEntry>,
    /// Entries that the driver commits.
    committing: BTreeMap<EntryId, Committing>,
    /// The bytes of the names of all of them.
    name_bytes: usize,
}

impl IncomingEntries {
    /// The number of entries in flight.
    pub fn in_flight(&self) -> usize {
        self.files.len() + self.waiting.len() + self.committing.len()
    }

    /// Do the limits permit another entry?
    pub fn check_room(&self) -> Result<(), WireError> {
        if self.in_flight() >= MAX_ENTRIES_IN_FLIGHT {
            return Err(WireError::protocol(format!("more than {MAX_ENTRIES_IN_FLIGHT} entries in flight")));
        }
        if self.name_bytes >= MAX_NAME_BYTES_IN_FLIGHT {
            return Err(WireError::protocol(format!(
                "names of more than {MAX_NAME_BYTES_IN_FLIGHT} bytes in flight"
            )));
        }
        Ok(())
    }

    pub fn add_file(&mut self, entry: FileEntry) {
        let (id, file) = (entry.id, IncomingFile::new(entry));
        self.name_bytes += file.name_bytes();
        self.files.insert(id, file);
    }

    pub fn add_other(&mut self, other: OtherEntry) {
        self.name_bytes += name_bytes(&other);
        self.waiting.push_back(other);
    }

    pub fn file(&self, id: EntryId) -> Option<&IncomingFile> {
        self.files.get(&id)
    }

    /// Changes a file, and keeps the count of drained files.
    pub fn change_file<T>(&mut self, id: EntryId, change: impl FnOnce(&mut IncomingFile) -> T) -> Option<T> {
        let file = self.files.get_mut(&id)?;
        self.drained_files -= usize::from(file.is_drained());
        let result = change(file);
        self.drained_files += usize::from(file.is_drained());
        Some(result)
    }

    /// Removes a file from those in flight.
    pub fn take_file(&mut self, id: EntryId) -> Option<IncomingFile> {
        let file = self.files.remove(&id)?;
        self.drained_files -= usize::from(file.is_drained());
        self.name_bytes -= file.name_bytes();
        Some(file)
    }

    /// Moves a complete file to those that the driver commits.
    pub fn complete_file(
        &mut self,
        id: EntryId,
        was_present: bool,
        etag: Option<Etag>,
    ) -> Option<IncomingFile> {
        let file = self.take_file(id)?;
        self.commit(id, Committing { was_present, name_bytes: file.name_bytes(), etag });
        Some(file)
    }

    /// Moves the next folder or link to those that the driver commits, if all files announced before it are complete or
    /// failed.
    pub fn next_ready(&mut self) -> Option<OtherEntry> {
        let first_file = self.files.first_key_value().map_or(u64::MAX, |(id, _)| *id);
        if self.waiting.front()?.id > first_file {
            return None;
        }
        let other = self.waiting.pop_front()?;
        let name_bytes = name_bytes(&other);
        self.name_bytes -= name_bytes;
        self.commit(other.id, Committing { was_present: false, name_bytes, etag: None });
        Some(other)
    }

    fn commit(&mut self, id: EntryId, entry: Committing) {
        self.name_bytes += entry.name_bytes;
        self.committing.insert(id, entry);
    }

    /// Removes a committed entry from those in flight.
    pub fn take_committing(&mut self, id: EntryId) -> Option<Committing> {
        let entry = self.committing.remove(&id)?;
        self.name_bytes -= entry.name_bytes;
        Some(entry)
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Is every entry committed, being committed, or failed?
    pub fn are_received(&self) -> bool {
        self.files.is_empty() && self.waiting.is_empty()
    }

    /// Has every requested part arrived?
    pub fn are_drained(&self) -> bool {
        self.drained_files == self.files.len()
    }

    pub fn is_committing(&self) -> bool {
        !self.committing.is_empty()
    }
}

fn name_bytes(other: &OtherEntry) -> usize {
    let target = if let OtherKind::Link(target) = &other.kind { target.as_bytes().len() } else { 0 };
    other.path.as_bytes().len() + target
}
