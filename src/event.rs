//! Progress of a session as plain events. The drivers report them; `report` prints them.

use std::time::Duration;

use crate::digest::Md5;
use crate::error_code::ErrorCode;

pub use crate::summary::Summary;

/// Receives the events of one session, from several threads at once.
pub trait Reporter: Send + Sync {
    /// Handles one event. Blocks the transfer for as long as it takes.
    fn report(&self, event: Event<'_>);
}

impl<R: Reporter + ?Sized> Reporter for &R {
    fn report(&self, event: Event<'_>) {
        (**self).report(event);
    }
}

/// One event of a session. Names are raw bytes from the peer or the disk: escape them before printing.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// More work was found.
    Planned {
        /// Files added to the totals.
        files: u64,
        /// Bytes added to the totals.
        bytes: u64,
    },
    /// All work is found: the totals will not grow any more.
    PlanComplete,
    /// The transfer of a file begins.
    FileStarted {
        /// Relative path.
        path: &'a [u8],
        /// Size of the file.
        size_bytes: u64,
    },
    /// Body bytes were transferred.
    Transferred {
        /// Number of bytes.
        bytes: u64,
    },
    /// The receiver has a part of a file from an earlier transfer.
    Resumed {
        /// Relative path.
        path: &'a [u8],
        /// Bytes that are stored already.
        bytes: u64,
        /// Size of the file.
        size_bytes: u64,
    },
    /// A file is stored: verified and durable, or present with identical content.
    FileDone {
        /// Relative path; at the receiver, the final one.
        path: &'a [u8],
        /// MD5 of the whole file, as `md5sum` prints it. Always present if whole digests were requested.
        md5: Option<Md5>,
        /// Size of the file, if it existed with identical content and was skipped.
        there_bytes: Option<u64>,
    },
    /// A file is stored, but its requested MD5 could not be computed.
    DigestUnavailable {
        /// Relative path.
        path: &'a [u8],
        /// Stable reason.
        code: ErrorCode,
        /// Reason as a sentence.
        reason: &'a str,
    },
    /// All bytes are transferred; the MD5 of large files is still being computed.
    Digesting {
        /// Bytes left to hash.
        remaining_bytes: u64,
    },
    /// A file will not be transferred; its bytes leave the totals.
    FileDropped {
        /// Bytes that will not be transferred any more.
        remaining_bytes: u64,
    },
    /// An entry failed; the session continues.
    Failed {
        /// Name of the entry.
        name: &'a [u8],
        /// Stable reason.
        code: ErrorCode,
        /// Reason as a sentence; may contain text from the peer.
        reason: &'a str,
    },
    /// A file was stored under another name, because its own was taken.
    Renamed {
        /// Requested name.
        from: &'a [u8],
        /// Final name.
        to: &'a [u8],
    },
    /// The connection was refused; the next attempt follows after a pause.
    Retrying {
        /// The pause.
        pause: Duration,
    },
    /// The connection was lost; the session reconnects after a pause.
    Lost {
        /// Reason as a sentence; may contain text from the peer.
        reason: &'a str,
        /// The pause.
        pause: Duration,
    },
    /// Transferred bytes do not count any more: they were lost, damaged, or present already.
    Undone {
        /// Number of bytes.
        bytes: u64,
    },
    /// Only this process can resume its partial files: the key that identifies their source cannot be stored.
    NoStateKey {
        /// Reason as a sentence.
        reason: &'a str,
    },
    /// A file waits for another session that is receiving the same file.
    Waiting {
        /// Relative path.
        path: &'a [u8],
    },
    /// A part arrived damaged and is fetched again.
    Repairing {
        /// Relative path.
        path: &'a [u8],
        /// Index of the part.
        part: u64,
    },
}

/// Ignores all events.
#[derive(Clone, Copy, Debug)]
pub struct NullReporter;

impl Reporter for NullReporter {
    fn report(&self, _: Event<'_>) {}
}
