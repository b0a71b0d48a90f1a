//! Replies that are collected and sent for many entries in one frame.

use crate::digest::Etag;
use crate::wire::id_ranges::IdRanges;
use crate::wire::limits::MAX_ETAGS_A_FRAME;
use crate::wire::message::{EntryId, Message, WantedParts};

/// Collected replies.
#[derive(Debug, Default)]
pub struct Replies {
    /// Files of which all parts are requested.
    pub wants: Vec<EntryId>,
    /// Stored entries, with the etags of files.
    pub stored: Vec<(EntryId, Option<Etag>)>,
}

impl Replies {
    /// Appends the frames of all collected replies to `out`.
    pub fn flush(&mut self, sends_etags: bool, out: &mut Vec<u8>) {
        for entries in IdRanges::pack(std::mem::take(&mut self.wants)) {
            Message::Want { entries, parts: WantedParts::All }.encode(out);
        }
        let mut stored = std::mem::take(&mut self.stored);
        stored.sort_unstable_by_key(|(id, _)| *id);
        let most = if sends_etags { MAX_ETAGS_A_FRAME } else { usize::MAX };
        for stored in stored.chunks(most) {
            let etags = sends_etags.then(|| stored.iter().map(|(_, etag)| *etag).collect());
            for entries in IdRanges::pack(stored.iter().map(|(id, _)| *id).collect()) {
                Message::Stored { entries, etags: etags.clone() }.encode(out);
            }
        }
    }
}
