//! Events that the receiver's session returns to its driver, and the headers that the driver passes back.

use crate::digest::{Md5, PartDigests, PartLayout, PartRange};
use crate::error_code::ErrorCode;
use crate::relpath::{LinkTarget, RelPath};
use crate::units::Metadata;
use crate::wire::message::{EntryId, Measure};

/// What a frame means for the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiverEvent {
    /// Nothing.
    Nothing,
    /// A file is announced. The driver must call [`want_all`](super::ReceiverSession::want_all),
    /// [`want_missing`](super::ReceiverSession::want_missing), [`want_offers`](super::ReceiverSession::want_offers) or
    /// [`fail`](super::ReceiverSession::fail).
    File(FileEntry),
    /// The session refused an entry and sent the `error`.
    Refused {
        /// Its raw name.
        name: Vec<u8>,
        /// The reason.
        code: ErrorCode,
        /// A message for people.
        reason: String,
    },
    /// A body of `range.len` bytes follows. Then the driver calls
    /// [`part_verified`](super::ReceiverSession::part_verified) or [`part_damaged`](super::ReceiverSession::part_damaged).
    Body(PartHeader),
    /// A body follows that is not needed any more.
    Discard {
        /// Its size.
        bytes: u64,
    },
    /// The digest of a part at the sender, to be compared with the existing file; no body follows.
    Offer(PartHeader),
    /// The same for a small file that was sent unasked: its body follows and is discarded.
    OfferAndBody(PartHeader),
    /// Full-size parts of zeros; no body follows. Then the driver calls
    /// [`holes_verified`](super::ReceiverSession::holes_verified) or [`fail`](super::ReceiverSession::fail).
    Hole(HoleHeader),
    /// The sender failed an entry.
    Withdrawn {
        /// The entry.
        id: EntryId,
        /// Its path.
        path: RelPath,
        /// The reason.
        code: ErrorCode,
        /// The sender's message for people, raw.
        message: String,
        /// Bytes of it that will not arrive.
        remaining_bytes: u64,
    },
    /// A stage to measure; if it is the wire, a body of its size follows. Then the driver calls
    /// [`measured`](super::ReceiverSession::measured).
    Measure(Measure),
    /// The totals of the sender's walk.
    Totals {
        /// Regular files.
        files: u64,
        /// Their bytes.
        bytes: u64,
    },
}

/// An announced file with a valid name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Its number.
    pub id: EntryId,
    /// Its destination path.
    pub path: RelPath,
    /// Its size and division into parts.
    pub layout: PartLayout,
    /// Zeros in it need not be written.
    pub is_sparse: bool,
    /// A key of the file's state at the sender: equal in two sessions only if the file did not change in between.
    pub state: Option<Md5>,
    /// Mode and time of modification.
    pub metadata: Metadata,
}

/// A folder or link that follows only settled entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherEntry {
    /// Its number.
    pub id: EntryId,
    /// Its destination path.
    pub path: RelPath,
    /// What it is.
    pub kind: OtherKind,
    /// Mode and time of modification.
    pub metadata: Metadata,
}

/// The kinds of entries that are not files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtherKind {
    /// A folder.
    Dir,
    /// A symbolic link.
    Link(LinkTarget),
}

/// One part of an announced file, checked against the file's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartHeader {
    /// The file.
    pub id: EntryId,
    /// The part's index.
    pub part: u64,
    /// Its range in the file.
    pub range: PartRange,
    /// The expected digest of its bytes.
    pub md5: Md5,
    /// It arrived damaged before.
    pub is_repair: bool,
    /// It is only compared with the existing file.
    pub is_offer: bool,
}

/// A run of parts that consist of zeros, checked against the file's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoleHeader {
    /// The file.
    pub id: EntryId,
    /// The first part's index.
    pub part: u64,
    /// The number of parts.
    pub parts: u64,
    /// The range of all of them in the file.
    pub range: PartRange,
    /// It is only compared with the existing file.
    pub is_offer: bool,
    /// One of these parts arrived damaged before: the range contains other bytes and must be cleared.
    pub must_clear: bool,
}

/// The effect of a verified part on its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartOutcome {
    /// None: it was verified before, or its file is settled, or the part was requested again in between.
    Unchanged,
    /// Other parts are missing.
    Partly,
    /// All parts are verified. The driver commits the file and calls [`stored`](super::ReceiverSession::stored) or
    /// [`fail`](super::ReceiverSession::fail).
    Complete(PartDigests),
}

/// The effect of a damaged part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// It is requested again.
    Again,
    /// It was damaged [`MAX_TRIES_A_PART`](crate::wire::MAX_TRIES_A_PART) times in a row: the entry failed.
    GaveUp {
        /// Bytes of the file that will not arrive.
        remaining_bytes: u64,
    },
}
