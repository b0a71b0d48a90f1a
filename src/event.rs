//! What happens during a transfer, as plain events. Everything tells; only `ui` prints.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::busy_time::Bottleneck;
use crate::digest::Md5;
use crate::error_code::ErrorCode;

/// Listens to one session.
pub trait Reporter: Send + Sync {
    /// Something happened.
    fn report(&self, event: Event<'_>);
}

/// One thing that happened in a session. Names are raw bytes of the peer's or the disk's: escape before showing.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// More work is known of.
    Planned {
        /// Files added to the plan.
        files: u64,
        /// Bytes added to the plan.
        bytes: u64,
    },
    /// The plan is complete: the totals will not grow any more.
    PlanComplete,
    /// A file is now in work.
    FileStarted {
        /// Its relative path.
        path: &'a [u8],
        /// Its size.
        size_bytes: u64,
    },
    /// Bytes of a body moved.
    Transferred {
        /// How many.
        bytes: u64,
    },
    /// So many bytes of a file are at the receiver already.
    Resumed {
        /// The file's relative path.
        path: &'a [u8],
        /// How many.
        bytes: u64,
        /// The file's size.
        size_bytes: u64,
    },
    /// A file is in place: verified and durable, or already there and identical.
    FileDone {
        /// Its relative path; at the receiver the one that it really has.
        path: &'a [u8],
        /// The MD5 of all of it, as `md5sum` prints it: where it is known, and always if it was asked for.
        md5: Option<Md5>,
        /// Its size, if it was there already and nothing new was put in place.
        there_bytes: Option<u64>,
    },
    /// A file is in place, but its MD5, which was asked for, could not be taken.
    DigestUnavailable {
        /// Its relative path.
        path: &'a [u8],
        /// The stable reason.
        fault: ErrorCode,
        /// A sentence.
        reason: &'a str,
    },
    /// All that was to move has moved, and the MD5 of large files is still being taken.
    Digesting {
        /// Bytes that are left to hash.
        remaining_bytes: u64,
    },
    /// A file will not arrive; its bytes leave the plan.
    FileDropped {
        /// The bytes that will not move any more.
        remaining_bytes: u64,
    },
    /// An entry failed; the rest goes on.
    Failed {
        /// Its name.
        name: &'a [u8],
        /// The stable reason.
        fault: ErrorCode,
        /// A sentence; may hold a peer's text.
        reason: &'a str,
    },
    /// A file has another name than its own, because that was taken.
    Renamed {
        /// The name it came with.
        from: &'a [u8],
        /// The name it has.
        to: &'a [u8],
    },
    /// Nobody listens at the other end yet; the next try comes after a pause.
    Retrying {
        /// The pause.
        pause: Duration,
    },
    /// The connection is lost; the session goes on with a new one after a pause.
    Lost {
        /// A sentence; may hold a peer's text.
        reason: &'a str,
        /// The pause.
        pause: Duration,
    },
    /// Bytes that moved in vain: they were lost or damaged, or were there already.
    Undone {
        /// How many.
        bytes: u64,
    },
    /// What is cut of this transfer can only be resumed by this process: the key that binds it cannot be kept.
    NoStateKey {
        /// Why.
        reason: &'a str,
    },
    /// A file waits for another session that still has it.
    Waiting {
        /// The file's relative path.
        path: &'a [u8],
    },
    /// A part arrived damaged and is fetched again.
    Repairing {
        /// The file's relative path.
        path: &'a [u8],
        /// The part's index.
        part: u64,
    },
}

/// Listens to nothing.
#[derive(Clone, Copy, Debug)]
pub struct NullReporter;

impl Reporter for NullReporter {
    fn report(&self, _: Event<'_>) {}
}

/// How a session went, once it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files in place at the end, the skipped ones included.
    pub files: u64,
    /// Files among them that were there already, compared byte for byte by digest.
    pub skipped_files: u64,
    /// The size of these.
    pub skipped_bytes: u64,
    /// The size of the others, which came with this session.
    pub new_bytes: u64,
    /// Folders and links in place.
    pub others: u64,
    /// Bytes of bodies that moved, whatever became of them.
    pub moved_bytes: u64,
    /// Bytes of holes, which are there without having moved.
    pub hole_bytes: u64,
    /// How often the connection was lost and the session went on with another one.
    pub reconnects: u32,
    /// Bytes of the new files that were there before this session.
    pub resumed_bytes: u64,
    /// Bytes of the new files that moved once more, because a connection was lost.
    pub repeated_bytes: u64,
    /// Parts that had to be fetched again.
    pub repaired_parts: u64,
    /// Stages that were measured for the peer; such a session moves nothing.
    pub measures: u64,
    /// Entries that did not arrive, by reason.
    pub failures: BTreeMap<ErrorCode, u64>,
    /// Files that are in place, but whose MD5 could not be taken, by reason.
    pub undigested: BTreeMap<ErrorCode, u64>,
    /// From the first frame to the last word.
    pub elapsed: Duration,
    /// What it spent its time on, if it is known.
    pub limit: Option<Bottleneck>,
    /// Does a receipt or a matching digest vouch for every file? A classic sender hears nothing back.
    pub confirmed: bool,
}

impl Summary {
    /// Counts an entry that did not arrive.
    pub fn count_failure(&mut self, fault: ErrorCode) {
        *self.failures.entry(fault).or_default() += 1;
    }

    /// Counts a file in place that came with this session.
    pub fn count_new(&mut self, size_bytes: u64) {
        self.files += 1;
        self.new_bytes = self.new_bytes.saturating_add(size_bytes);
    }

    /// Counts a file that was there already.
    pub fn count_skipped(&mut self, size_bytes: u64) {
        self.files += 1;
        self.skipped_files += 1;
        self.skipped_bytes = self.skipped_bytes.saturating_add(size_bytes);
    }

    /// How many files came with this session.
    pub fn new_files(&self) -> u64 {
        self.files - self.skipped_files
    }

    /// How many entries did not arrive.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}
