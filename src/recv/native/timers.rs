//! Time that the threads of a session spend on each kind of work.

use std::time::Duration;

use crate::busy_time::{BusyTime, Stopwatch};

/// Stopwatches of one session; each adds up the time of all threads that do this work.
#[derive(Default)]
pub struct PhaseTimers {
    /// Readers: waiting for bytes.
    pub waiting: Stopwatch,
    /// Readers: writing bodies to staged files.
    pub writing: Stopwatch,
    /// Verifier: reading parts back and staging small files.
    pub checking_disk: Stopwatch,
    /// Verifier: computing digests.
    pub md5: Stopwatch,
    /// Committer.
    pub committing: Stopwatch,
}

impl PhaseTimers {
    /// Busy time of each resource, where `readers` threads share the reading.
    pub fn busy_time(&self, readers: u32) -> BusyTime {
        let disk = [self.writing.spent() / readers, self.checking_disk.spent(), self.committing.spent()];
        let ms = |time: Duration| time.as_millis() as u64;
        BusyTime {
            disk_ms: disk.into_iter().map(ms).max().unwrap_or(0),
            md5_ms: ms(self.md5.spent()),
            network_ms: ms(self.waiting.spent() / readers),
        }
    }
}
