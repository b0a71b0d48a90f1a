//! Events that the sender's session returns to its driver.

use crate::digest::PartRange;
use crate::error_code::ErrorCode;
use crate::wire::message::{EntryId, Receipt};

/// What a frame means for the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderEvent {
    /// Nothing.
    Nothing,
    /// The receiver accepted the session.
    Welcomed {
        /// May further connections join, which begin with [`join_frame`](super::SenderSession::join_frame)?
        takes_streams: bool,
    },
    /// There are jobs.
    Wanted,
    /// The receiver has these many bytes of these files from an earlier session; there are jobs for the rest.
    Resumed(Vec<(EntryId, u64)>),
    /// A file of the same name and size exists at the receiver: the part that was sent unasked counts as an offer.
    Unneeded(Vec<EntryId>),
    /// Identical files exist at the receiver, compared by digest.
    AlreadyThere(Vec<EntryId>),
    /// These entries are verified, durable and in place.
    Stored(Vec<EntryId>),
    /// A part arrived damaged; there is a job for it.
    Again {
        /// The file.
        entry: EntryId,
        /// The part's index.
        part: u64,
    },
    /// The receiver's partial file from an earlier session has other content than this file. The driver must
    /// [`withdraw`](super::SenderSession::withdraw) the entry: the receiver then discards the partial file.
    KeptOther(EntryId),
    /// The receiver failed an entry; the session continues.
    Failed {
        /// The entry.
        entry: EntryId,
        /// The reason.
        code: ErrorCode,
        /// The receiver's message for people, raw.
        message: String,
        /// Had the receiver requested the file?
        was_wanted: bool,
    },
    /// The session is complete: every entry that did not fail is in place.
    Receipt(Receipt),
}

/// A part to read and send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// The file.
    pub entry: EntryId,
    /// The part's index.
    pub part: u64,
    /// Its range in the file.
    pub range: PartRange,
    /// Does the receiver need the bytes, or only their digest?
    pub wants_body: bool,
    /// It was not requested yet. Then it must be sent on the primary connection, after its `entry`.
    pub is_unasked: bool,
}
