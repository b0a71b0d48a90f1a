//! What a receiver's session hears, says of what it heard, and is told about it.

use crate::digest::{Md5, PartDigests, PartLayout, PartRange};
use crate::error_code::ErrorCode;
use crate::relpath::{LinkTarget, RelPath};
use crate::units::Metadata;
use crate::wire::message::{EntryId, Measure};
#[cfg(doc)]
use crate::wire::{MAX_TRIES_A_PART, receiver::ReceiverSession};

/// What a frame asks the driver to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing.
    Nothing,
    /// A file wants to come. Answer with [`ReceiverSession::want_all`], [`ReceiverSession::want_offers`] or
    /// [`ReceiverSession::fail`].
    File(FileEntry),
    /// An entry was refused by the session itself and answered.
    Refused {
        /// Its raw name.
        name: Vec<u8>,
        /// The reason.
        fault: ErrorCode,
        /// A sentence.
        reason: String,
    },
    /// A body of `range.len` bytes follows. Then say [`ReceiverSession::part_verified`] or
    /// [`ReceiverSession::part_damaged`].
    Body(PartHeader),
    /// A body of so many bytes follows that nobody needs any more.
    Discard {
        /// How many.
        bytes: u64,
    },
    /// The digest that a part has at the sender; no body follows.
    Offer(PartHeader),
    /// The same of a small file that was sent unasked: its body follows, and nobody needs it.
    OfferAndBody(PartHeader),
    /// Whole parts that hold zeros alone; no body follows. Then say [`ReceiverSession::holes_verified`], or
    /// [`ReceiverSession::fail`].
    Hole(HoleHeader),
    /// The sender gave up on an entry.
    Withdrawn {
        /// The entry.
        id: EntryId,
        /// Its path.
        path: RelPath,
        /// The reason.
        fault: ErrorCode,
        /// The sender's sentence, raw.
        message: String,
        /// Bytes of it that will not come any more.
        remaining_bytes: u64,
    },
    /// A stage to measure; of the wire, a body of that size follows. Answer with [`ReceiverSession::measured`].
    Measure(Measure),
    /// What the sender's walk found.
    Totals {
        /// Regular files.
        files: u64,
        /// Their bytes.
        bytes: u64,
    },
}

/// A file as announced, its name checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Its number.
    pub id: EntryId,
    /// Where it lands.
    pub path: RelPath,
    /// Its size and parts.
    pub layout: PartLayout,
    /// Zeros in it need not be written.
    pub is_sparse: bool,
    /// What the sender says of its state: equal in two sessions only if it did not change in between.
    pub state: Option<Md5>,
    /// Mode and time of modification.
    pub metadata: Metadata,
}

/// A folder or link whose turn has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherEntry {
    /// Its number.
    pub id: EntryId,
    /// Where it lands.
    pub path: RelPath,
    /// What it is.
    pub kind: OtherKind,
    /// Mode and time of modification.
    pub metadata: Metadata,
}

/// What is not a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtherKind {
    /// A folder.
    Dir,
    /// A symbolic link.
    Link(LinkTarget),
}

/// One part of a file that was announced: checked against the file's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartHeader {
    /// The file.
    pub id: EntryId,
    /// The part's index.
    pub part: u64,
    /// Where it lies.
    pub range: PartRange,
    /// What its bytes must give.
    pub md5: Md5,
    /// Did it arrive before, damaged?
    pub is_repair: bool,
    /// Is it only to be compared with what is there?
    pub is_offer: bool,
}

/// Parts of a file that hold zeros alone: checked against the file's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoleHeader {
    /// The file.
    pub id: EntryId,
    /// The first part's index.
    pub part: u64,
    /// How many parts.
    pub parts: u64,
    /// Where they lie, all of them together.
    pub range: PartRange,
    /// Is it only to be compared with what is there?
    pub is_offer: bool,
    /// One of these parts arrived damaged before: the range holds bytes that must be cleared, whatever else is known of
    /// the file.
    pub must_clear: bool,
}

/// What became of a file when one more of its parts was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartOutcome {
    /// It counts for nothing: it was verified before, its file is settled, or the part was asked for again meanwhile.
    Unchanged,
    /// More parts are to come.
    Partly,
    /// All parts are verified. The file counts as in commit until [`ReceiverSession::stored`] or
    /// [`ReceiverSession::fail`].
    Complete(PartDigests),
}

/// What to do about a damaged part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// It was asked for again.
    Again,
    /// It was damaged [`MAX_TRIES_A_PART`] times in a row: the entry failed and is answered.
    GaveUp {
        /// Bytes of the file that will not come any more.
        remaining_bytes: u64,
    },
}
