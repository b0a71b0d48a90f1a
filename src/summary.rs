//! The totals of a session.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::busy_time::Bottleneck;
use crate::error_code::ErrorCode;

/// The totals of a session that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files that are stored, the skipped ones included.
    pub files: u64,
    /// Files that existed with identical content, compared by digest.
    pub skipped_files: u64,
    /// Size of the skipped files.
    pub skipped_bytes: u64,
    /// Size of the files that this session stored.
    pub new_bytes: u64,
    /// Folders and links that are stored.
    pub others: u64,
    /// Body bytes transferred, including those that had to be transferred again.
    pub moved_bytes: u64,
    /// Bytes of holes, which are stored without a transfer.
    pub hole_bytes: u64,
    /// How often the connection was lost and replaced by another one.
    pub reconnects: u32,
    /// Bytes of the new files that an earlier session had stored.
    pub resumed_bytes: u64,
    /// Bytes of the new files that were transferred again because a connection was lost.
    pub repeated_bytes: u64,
    /// Parts that arrived damaged and were fetched again.
    pub repaired_parts: u64,
    /// Stages measured for the peer (`ftx bench`); such a session transfers no entries.
    pub measures: u64,
    /// Number of failed entries by reason.
    pub failures: BTreeMap<ErrorCode, u64>,
    /// Number of stored files whose MD5 could not be computed, by reason.
    pub undigested: BTreeMap<ErrorCode, u64>,
    /// Time from the first frame to the last one.
    pub elapsed: Duration,
    /// The busiest stage, if it is known.
    pub limit: Option<Bottleneck>,
    /// A receipt or a matching digest confirms every file. False for a classic sender, which gets no reply.
    pub confirmed: bool,
}

impl Summary {
    /// Counts a failed entry.
    pub fn count_failure(&mut self, code: ErrorCode) {
        *self.failures.entry(code).or_default() += 1;
    }

    /// Counts a file that this session stored.
    pub fn count_new(&mut self, size_bytes: u64) {
        self.files += 1;
        self.new_bytes = self.new_bytes.saturating_add(size_bytes);
    }

    /// Counts a file that existed with identical content.
    pub fn count_skipped(&mut self, size_bytes: u64) {
        self.files += 1;
        self.skipped_files += 1;
        self.skipped_bytes = self.skipped_bytes.saturating_add(size_bytes);
    }

    /// Number of files that this session stored.
    pub fn new_files(&self) -> u64 {
        self.files - self.skipped_files
    }

    /// Number of failed entries.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}
