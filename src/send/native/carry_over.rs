//! What a transfer takes from a lost session to the next one.

use super::entry::InFlightEntry;
use super::walk::WalkEvent;
use crate::event::Summary;
use crate::wire::SessionId;

#[derive(Default)]
pub struct CarryOver {
    pub summary: Summary,
    /// Entries to announce again, in the order of their first announcement.
    pub unsettled: Vec<InFlightEntry>,
    /// An event of the walk that no session handled.
    pub next: Option<WalkEvent>,
    /// Files found by the walk so far, and their bytes.
    pub files: u64,
    pub bytes: u64,
    pub is_plan_complete: bool,
    /// The number of entries that earlier sessions announced.
    pub announced_before: u64,
    pub last_session: Option<SessionId>,
    /// Bytes of partial files that the receiver was found to have; a file counts again only by what exceeds its
    /// maximum.
    pub kept_bytes: u64,
    /// Has the receiver sent a frame in any session?
    pub was_answered: bool,
}

impl CarryOver {
    /// Puts entries of a lost session before those that it did not announce.
    pub fn put_back(&mut self, unsettled: impl Iterator<Item = InFlightEntry>) {
        let unannounced = std::mem::take(&mut self.unsettled);
        self.unsettled = unsettled.chain(unannounced).collect();
    }

    /// A value that changes when an entry is stored or fails, or the receiver is found to have more of a file. Bytes
    /// sent are not progress: a receiver that crashes on one file receives bytes of it in each session.
    pub fn progress(&self) -> (u64, u64, u64) {
        (self.summary.files + self.summary.others, self.summary.failed(), self.kept_bytes)
    }
}
