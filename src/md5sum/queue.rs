//! The files that wait to be hashed, and the results that wait to be reported.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::DigestUnavailable;
use super::contiguous::ContiguousPrefix;
use crate::digest::{Md5, Md5Context, lane_count};
use crate::error_code::ErrorCode;

/// Results that may wait to be reported.
pub const MAX_PENDING_RESULTS: usize = 1024;
/// Large files that may be complete and not hashed yet; each may hold a descriptor.
const MAX_PENDING_FILES: usize = 64;

/// Everything that the transfer threads and the hashing thread share. `F` reads a file.
pub struct Queue<F> {
    /// Results to be reported.
    pub results: VecDeque<FileResult>,
    /// Files to be hashed, in the order of their announcement.
    pub files: BTreeMap<u64, PendingFile<F>>,
    /// How many files have no digest, by reason.
    pub unavailable: BTreeMap<ErrorCode, u64>,
    /// When the session ended: nothing is added any more.
    pub closed: Option<Instant>,
    /// The hashing thread has ended.
    pub has_ended: bool,
    /// The program is interrupted: what is not hashed yet is not hashed any more.
    pub is_interrupted: bool,
}

impl<F> Default for Queue<F> {
    fn default() -> Self {
        Queue {
            results: VecDeque::new(),
            files: BTreeMap::new(),
            unavailable: BTreeMap::new(),
            closed: None,
            has_ended: false,
            is_interrupted: false,
        }
    }
}

/// A stored file with its digest.
pub struct FileResult {
    pub stored: StoredFile,
    pub digest: Result<Md5, DigestUnavailable>,
}

pub struct StoredFile {
    pub path: Box<[u8]>,
    pub there_bytes: Option<u64>,
}

/// A file that is not stored yet, or not hashed.
pub struct PendingFile<F> {
    pub size_bytes: u64,
    /// What of it can be read.
    pub available: ContiguousPrefix,
    /// `None` while a slice of the file is being hashed, and when it is hashed.
    pub work: Option<HashWork<F>>,
    pub digest: Option<Result<Md5, DigestUnavailable>>,
    pub stored: Option<StoredFile>,
}

/// The state of the hash of a file.
pub struct HashWork<F> {
    pub input: F,
    pub message: Md5Context,
    pub done_bytes: u64,
}

impl<F> PendingFile<F> {
    /// Are there bytes to be hashed, or is only the digest missing?
    fn is_ready(&self) -> bool {
        self.work.as_ref().is_some_and(|work| {
            work.done_bytes < self.available.bytes() || work.done_bytes == self.size_bytes
        })
    }

    /// Is it complete and not hashed?
    fn is_backlog(&self) -> bool {
        self.digest.is_none() && self.available.bytes() == self.size_bytes
    }

    pub fn remaining_bytes(&self) -> u64 {
        self.work.as_ref().map_or(0, |work| self.size_bytes - work.done_bytes)
    }
}

/// The part of a file that is hashed next.
pub struct HashSlice<F> {
    pub id: u64,
    pub size_bytes: u64,
    pub available_bytes: u64,
    pub work: HashWork<F>,
    pub failure: Option<DigestUnavailable>,
}

impl<F> Queue<F> {
    /// May more be added? After the hashing thread has ended, always: nothing would wake a waiting thread.
    pub fn has_capacity(&self) -> bool {
        self.has_ended
            || self.is_interrupted
            || self.results.len() < MAX_PENDING_RESULTS
                && (self.files.len() < MAX_PENDING_FILES
                    || self.files.values().filter(|file| file.is_backlog()).count() < MAX_PENDING_FILES)
    }

    /// Takes the work of as many files as there are lanes, the oldest first, so that these complete soon.
    pub fn take_slices(&mut self) -> Vec<HashSlice<F>> {
        let ready = self.files.iter_mut().filter(|(_, file)| file.is_ready());
        let slices = ready.take(lane_count()).filter_map(|(id, file)| {
            let (size_bytes, available_bytes) = (file.size_bytes, file.available.bytes());
            Some(HashSlice { id: *id, size_bytes, available_bytes, work: file.work.take()?, failure: None })
        });
        slices.collect()
    }

    /// A file is stored. Its result is complete if it is hashed or `md5` is known.
    pub fn set_stored(&mut self, id: u64, stored: StoredFile, md5: Option<Md5>) {
        match (md5, self.files.get_mut(&id)) {
            (None, Some(file)) => {
                file.stored = Some(stored);
                self.settle(id);
            }
            (Some(md5), _) => {
                self.files.remove(&id);
                self.results.push_back(FileResult { stored, digest: Ok(md5) });
            }
            (None, None) => {
                let reason = "it was not read".into();
                let digest = Err(DigestUnavailable { code: ErrorCode::Other, reason });
                self.results.push_back(FileResult { stored, digest });
            }
        }
    }

    /// A file is hashed, or cannot be.
    pub fn set_digest(&mut self, id: u64, digest: Result<Md5, DigestUnavailable>) {
        if let Some(file) = self.files.get_mut(&id) {
            file.work = None;
            file.digest = Some(digest);
        }
        self.settle(id);
    }

    /// Moves a file that is stored and hashed to the results.
    fn settle(&mut self, id: u64) {
        if self.files.get(&id).is_some_and(|file| file.stored.is_some() && file.digest.is_some())
            && let Some(PendingFile { stored: Some(stored), digest: Some(digest), .. }) =
                self.files.remove(&id)
        {
            self.results.push_back(FileResult { stored, digest });
        }
    }
}
