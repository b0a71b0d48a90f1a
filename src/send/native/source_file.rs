//! A source that is read from its start to its end for its MD5, beside the transfer.

use std::sync::Arc;

use super::state::SessionShared;
use crate::digest::PART_BYTES;
use crate::error_code::ErrorCode;
use crate::md5sum::{self, DigestUnavailable};
use crate::source::{OpenSource, ReadError, Source};
use crate::wire::EntryId;
use crate::wire::sender::Job;

/// The file; opened when its turn comes, so that few are open at once.
pub struct SourceFile {
    source: Arc<Source>,
    open: Option<OpenSource>,
}

impl SourceFile {
    fn open(&mut self) -> Result<&OpenSource, DigestUnavailable> {
        let open = match self.open.take() {
            Some(open) => open,
            None => self.source.open().map_err(unread)?,
        };
        Ok(self.open.insert(open))
    }
}

impl md5sum::HashInput for SourceFile {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), DigestUnavailable> {
        let open = self.open()?;
        // Asked each time, so that nobody waits for the digest of something that has changed long ago.
        open.read_at(buffer, offset).and_then(|()| open.check_unchanged()).map_err(unread)
    }

    fn check_unchanged(&mut self) -> Result<(), DigestUnavailable> {
        self.open()?.check_unchanged().map_err(unread)
    }
}

fn unread(error: ReadError) -> DigestUnavailable {
    let (fault, reason) = (error.fault(), error.to_string());
    let reason = match fault {
        ErrorCode::SourceChanged => {
            "it arrived as it was, but changed or vanished before its MD5 was taken".into()
        }
        _ => reason,
    };
    DigestUnavailable { fault, reason }
}

/// Larger files than one part are hashed as a whole from the time when their first part is loaded.
pub fn start_hashing(shared: &SessionShared<'_>, jobs: &[(Job, Arc<Source>)]) {
    for (job, source) in jobs.iter().filter(|(_, source)| source.size_bytes > PART_BYTES) {
        start_hashing_one(shared, job.entry, source);
    }
}

/// Hashes one file, whatever its size.
pub fn start_hashing_one(shared: &SessionShared<'_>, id: EntryId, source: &Arc<Source>) {
    shared.list_begin(id, source.size_bytes, || SourceFile { source: Arc::clone(source), open: None });
}
