//! The MD5 of whole source files, computed beside the transfer.

use std::sync::Arc;

use crate::digest::{Md5, PART_BYTES};
use crate::error_code::ErrorCode;
use crate::md5sum::{self, DigestUnavailable, FileHasher};
use crate::source::{OpenSource, ReadError, Source};
use crate::wire::EntryId;
use crate::wire::sender::Job;

/// A file to hash. It is opened when hashing starts, so that few are open at once.
pub struct SourceFile {
    source: Arc<Source>,
    open: Option<OpenSource>,
}

impl SourceFile {
    fn open(&mut self) -> Result<&OpenSource, DigestUnavailable> {
        let open = match self.open.take() {
            Some(open) => open,
            None => self.source.open().map_err(unavailable)?,
        };
        Ok(self.open.insert(open))
    }
}

impl md5sum::HashInput for SourceFile {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), DigestUnavailable> {
        let open = self.open()?;
        // Checked after each read, so that a file that has changed is not hashed to its end.
        open.read_at(buffer, offset).and_then(|()| open.check_unchanged()).map_err(unavailable)
    }

    fn check_unchanged(&mut self) -> Result<(), DigestUnavailable> {
        self.open()?.check_unchanged().map_err(unavailable)
    }
}

fn unavailable(error: ReadError) -> DigestUnavailable {
    let (code, reason) = (error.code(), error.to_string());
    let reason = match code {
        ErrorCode::SourceChanged => {
            "it was transferred, but changed or vanished before its MD5 was computed".into()
        }
        _ => reason,
    };
    DigestUnavailable { code, reason }
}

/// The hasher of a transfer, as one of its sessions uses it. Each session counts its entries from 0, and the hasher
/// counts those of all sessions.
pub struct SessionHasher<'a> {
    hasher: &'a FileHasher<'a, SourceFile>,
    first_id: u64,
}

impl<'a> SessionHasher<'a> {
    /// `announced_before` is the number of entries of earlier sessions.
    pub fn new(hasher: &'a FileHasher<'a, SourceFile>, announced_before: u64) -> Self {
        SessionHasher { hasher, first_id: announced_before }
    }

    /// Starts to hash the files of several parts among `jobs`. The MD5 of a file of one part is that of the part.
    pub fn start_large(&self, jobs: &[(Job, Arc<Source>)]) {
        for (job, source) in jobs.iter().filter(|(_, source)| source.size_bytes > PART_BYTES) {
            self.start(job.entry, source);
        }
    }

    /// Starts to hash a file of any size; a second call for the same file does nothing.
    pub fn start(&self, id: EntryId, source: &Arc<Source>) {
        let open_later = || SourceFile { source: Arc::clone(source), open: None };
        self.hasher.on_start(self.first_id + id, source.size_bytes, source.size_bytes, open_later);
    }

    /// A file is stored. `there_bytes` is its size if it was there already.
    pub fn on_stored(&self, id: EntryId, path: &[u8], md5: Option<Md5>, there_bytes: Option<u64>) {
        self.hasher.on_stored(self.first_id + id, path, md5, there_bytes);
    }

    /// An entry failed or has to be announced again.
    pub fn on_dropped(&self, id: EntryId) {
        self.hasher.on_dropped(self.first_id + id);
    }

    /// Waits until the hasher accepts more files.
    pub fn wait_for_room(&self) {
        self.hasher.wait_for_capacity();
    }
}
