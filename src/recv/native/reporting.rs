//! What a session reports: progress events, and the input of the hasher.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error_code::ErrorCode;
use crate::event::{Event, Reporter};
use crate::md5sum::FileHasher;
use crate::recv::received_file::ReceivedFile;
use crate::wire::receiver::FileEntry;

/// The reporter and the hasher of one session.
pub struct SessionReporter<'a> {
    progress: &'a dyn Reporter,
    pub hasher: &'a FileHasher<'a, ReceivedFile>,
    moved_bytes: AtomicU64,
}

impl<'a> SessionReporter<'a> {
    pub fn new(progress: &'a dyn Reporter, hasher: &'a FileHasher<'a, ReceivedFile>) -> Self {
        SessionReporter { progress, hasher, moved_bytes: AtomicU64::new(0) }
    }

    pub fn report(&self, event: Event<'_>) {
        self.progress.report(event);
    }

    /// Counts bytes of bodies that were received.
    pub fn bytes_received(&self, bytes: u64) {
        self.moved_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.progress.report(Event::Transferred { bytes });
    }

    /// Bytes of bodies received so far.
    pub fn moved_bytes(&self) -> u64 {
        self.moved_bytes.load(Ordering::Relaxed)
    }

    /// The first bytes of a file are at hand.
    pub fn file_started(&self, entry: &FileEntry) {
        let (path, size_bytes) = (entry.path.as_bytes(), entry.layout.size_bytes());
        self.progress.report(Event::FileStarted { path, size_bytes });
    }

    /// A file of which `bytes` were received earlier is resumed.
    pub fn file_resumed(&self, entry: &FileEntry, bytes: u64) {
        let (path, size_bytes) = (entry.path.as_bytes(), entry.layout.size_bytes());
        self.progress.report(Event::Resumed { path, bytes, size_bytes });
    }

    /// A file will not be stored; `remaining_bytes` of it were still expected.
    pub fn file_failed(&self, name: &[u8], code: ErrorCode, reason: &str, remaining_bytes: u64) {
        self.progress.report(Event::FileDropped { remaining_bytes });
        self.progress.report(Event::Failed { name, code, reason });
    }
}
