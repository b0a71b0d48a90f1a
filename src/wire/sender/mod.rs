//! The sender's end of a native session, as a state machine: frames in, [`SenderEvent`]s, [`Job`]s and frames out.
//!
//! The driver announces entries while [`SenderSession::has_room`] permits, without waiting for the welcome, takes [`Job`]s
//! as the receiver requests parts, and ends when it has the receipt. Small files that are announced before the welcome are
//! sent unasked, so that the link is not idle until the first reply. A receiver can only request parts that exist, confirm what
//! was sent, and repeat requests a limited number of times.

mod entries;
mod event;
mod file;
mod wanted;

use std::collections::VecDeque;

use super::error::WireError;
use super::id_ranges::IdRanges;
use super::limits::{SMALL_FILE_BYTES, VERSION};
use super::message::{
    Entry, EntryId, EntryKind, ErrorReport, FEATURE_ETAGS, FEATURE_STREAMS, Hello, Hole, Join, KeptRun,
    Message, Part, Receipt, SessionId, WantedParts,
};
use crate::digest::{Etag, Md5, PartDigests, PartLayout};
use crate::error_code::ErrorCode;
use crate::relpath::RelPath;
use crate::units::Metadata;
use entries::{OutgoingEntries, OutgoingKind};
use file::{OutgoingFile, OutgoingStage};
use wanted::Transition;

pub use event::{Job, SenderEvent};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum SendPhase {
    /// Entries may be announced.
    Open,
    /// `end` is sent.
    Ended,
    /// The receipt has arrived.
    Done,
}

/// The state machine; see the module's documentation.
#[derive(Debug)]
pub struct SenderSession {
    id: SessionId,
    is_welcome: bool,
    /// The session has the feature `etags`.
    compares_etags: bool,
    /// Nothing is sent unasked, because the receiver may have most of it from the session that this one continues.
    waits_for_want: bool,
    phase: SendPhase,
    entries: OutgoingEntries,
    /// Files with requested parts, in the order of the requests.
    queue: VecDeque<EntryId>,
    stored: u64,
    skipped: u64,
    failed: u64,
    out: Vec<u8>,
}

impl SenderSession {
    /// A session whose output is its `hello`. It may continue one whose connection was lost.
    pub fn new(id: SessionId, continues: Option<SessionId>) -> Self {
        let mut out = Vec::new();
        let ours = Hello::ours(&[FEATURE_STREAMS, FEATURE_ETAGS], Some(id));
        Message::Hello(Hello { continues, ..ours }).encode(&mut out);
        SenderSession {
            id,
            is_welcome: false,
            compares_etags: false,
            waits_for_want: continues.is_some(),
            phase: SendPhase::Open,
            entries: OutgoingEntries::default(),
            queue: VecDeque::new(),
            stored: 0,
            skipped: 0,
            failed: 0,
            out,
        }
    }

    /// Its id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The number of announced entries.
    pub fn announced(&self) -> u64 {
        self.entries.announced()
    }

    /// The first frame of a further connection.
    pub fn join_frame(&self) -> Vec<u8> {
        let mut out = Vec::new();
        Message::Join(Join { session: self.id }).encode(&mut out);
        out
    }

    /// May another entry be announced now?
    pub fn has_room(&self) -> bool {
        self.phase == SendPhase::Open && self.entries.have_room()
    }

    /// Announces a file.
    pub fn announce_file(
        &mut self,
        path: &RelPath,
        size_bytes: u64,
        is_sparse: bool,
        source_state: Option<Md5>,
        metadata: Metadata,
    ) -> EntryId {
        let is_unasked = !self.is_welcome && !self.waits_for_want && size_bytes <= SMALL_FILE_BYTES;
        let layout = PartLayout::new(size_bytes);
        let file = if is_unasked { OutgoingFile::unasked(layout) } else { OutgoingFile::new(layout) };
        if is_unasked {
            self.queue.push_back(self.announced());
        }
        let kind = EntryKind::File { size_bytes, is_sparse, state: source_state };
        self.announce(path, kind, metadata, OutgoingKind::File(file))
    }

    /// Sets the digests of parts that were hashed before this session, for a file that was just announced.
    pub fn set_digests(&mut self, id: EntryId, digests: PartDigests) {
        if let Some(file) = self.entries.file(id) {
            file.digests = digests;
        }
    }

    /// Takes the known digests of a file in flight, for another session with the same version of the file.
    pub fn take_digests(&mut self, id: EntryId) -> PartDigests {
        self.entries.file(id).map(|file| std::mem::take(&mut file.digests)).unwrap_or_default()
    }

    /// Announces a folder, after everything in it.
    pub fn announce_dir(&mut self, path: &RelPath, metadata: Metadata) -> EntryId {
        self.announce(path, EntryKind::Dir, metadata, OutgoingKind::Other)
    }

    /// Announces a link, after all files.
    pub fn announce_link(&mut self, path: &RelPath, target: &[u8], metadata: Metadata) -> EntryId {
        self.announce(path, EntryKind::Link { target: target.to_vec() }, metadata, OutgoingKind::Other)
    }

    fn announce(
        &mut self,
        path: &RelPath,
        kind: EntryKind,
        metadata: Metadata,
        outgoing: OutgoingKind,
    ) -> EntryId {
        debug_assert!(self.has_room());
        let id = self.entries.add(outgoing, kind.name_bytes(path.as_bytes()));
        Message::Entry(Entry { id, name: path.as_bytes().to_vec(), kind, metadata }).encode(&mut self.out);
        id
    }

    /// Sends the totals of the walk.
    pub fn totals(&mut self, files: u64, bytes: u64) {
        Message::Totals { files, bytes }.encode(&mut self.out);
    }

    /// Ends the announcement of entries.
    pub fn end(&mut self) {
        self.phase = SendPhase::Ended;
        Message::End { entries: self.announced() }.encode(&mut self.out);
    }

    /// Sends a keepalive.
    pub fn keepalive(&mut self) {
        Message::Busy.encode(&mut self.out);
    }

    /// Fails an entry; `false` if it was settled before.
    pub fn withdraw(&mut self, entry: EntryId, code: ErrorCode, reason: &str) -> bool {
        if !self.entries.settle(entry) {
            return false;
        }
        self.failed += 1;
        Message::Error(ErrorReport { entry: Some(entry), code, message: reason.to_owned() })
            .encode(&mut self.out);
        true
    }

    /// Ends the session with an error.
    pub fn abort(&mut self, code: ErrorCode, reason: &str) {
        Message::Error(ErrorReport { entry: None, code, message: reason.to_owned() }).encode(&mut self.out);
    }

    /// The next part to read.
    pub fn next_job(&mut self) -> Option<Job> {
        loop {
            let entry = *self.queue.front()?;
            if let Some(job) = self.entries.file(entry).and_then(|file| file.next_job(entry)) {
                return Some(job);
            }
            self.queue.pop_front();
        }
    }

    /// Appends the `part` or `offer` of a job to `out`; `false` if it is not requested any more. The body, if wanted, must
    /// follow directly on the same connection.
    pub fn part_frame(&mut self, job: &Job, md5: Md5, out: &mut Vec<u8>) -> bool {
        let Some(file) = self.entries.file(job.entry).filter(|file| file.is_current(job)) else {
            return false;
        };
        file.on_part_sent(job.part, md5);
        let part = Part { entry: job.entry, part: job.part, size_bytes: job.range.len, md5 };
        if job.wants_body { Message::Part(part) } else { Message::Offer(part) }.encode(out);
        true
    }

    /// If `parts` parts, beginning with that of `job`, consist of zeros: takes those that are requested in a row, and
    /// returns their number, including the part of `job`.
    pub fn take_holes(&mut self, job: &Job, parts: u64) -> u64 {
        let more = parts.saturating_sub(1);
        let file = self.entries.file(job.entry).filter(|file| file.is_current(job));
        1 + file.map_or(0, |file| file.take_following(job, more))
    }

    /// Appends the `hole` for the parts of [`SenderSession::take_holes`] to `out`; `false` if they are not requested any
    /// more.
    pub fn hole_frame(&mut self, job: &Job, parts: u64, out: &mut Vec<u8>) -> bool {
        let Some(file) = self.entries.file(job.entry).filter(|file| file.is_current(job)) else {
            return false;
        };
        file.on_holes_sent(job.part, parts);
        Message::Hole(Hole { entry: job.entry, part: job.part, parts, is_offer: !job.wants_body })
            .encode(out);
        true
    }

    /// Handles the JSON of one frame.
    pub fn handle(&mut self, json: &[u8]) -> Result<SenderEvent, WireError> {
        let message = Message::parse(json)?;
        match (self.phase, message) {
            (_, Message::Error(ErrorReport { entry: None, code, message })) => {
                Err(WireError::PeerAborted { code, message })
            }
            (_, Message::Welcome(welcome)) if !self.is_welcome => self.on_welcome(&welcome),
            (_, other) if !self.is_welcome => Err(WireError::unexpected(&other)),
            (SendPhase::Done, other) => Err(WireError::unexpected(&other)),
            (_, Message::Busy) => Ok(SenderEvent::Nothing),
            (_, Message::Want { entries, parts }) => self.on_want(&entries, &parts),
            (_, Message::Again { entry, part }) => self.on_again(entry, part),
            (_, Message::Kept(kept)) if self.compares_etags => self.on_kept(kept),
            (_, Message::Stored { entries, etags }) => self.on_stored(&entries, etags.as_deref()),
            (_, Message::Error(ErrorReport { entry: Some(entry), code, message })) => {
                self.on_failed(entry, code, message)
            }
            (SendPhase::Ended, Message::Receipt(receipt)) => self.on_receipt(receipt),
            (_, other) => Err(WireError::unexpected(&other)),
        }
    }

    fn on_welcome(&mut self, welcome: &Hello) -> Result<SenderEvent, WireError> {
        if welcome.version != VERSION {
            return Err(WireError::Version { theirs: welcome.version });
        }
        self.is_welcome = true;
        self.compares_etags = welcome.has(FEATURE_ETAGS);
        Ok(SenderEvent::Welcomed { takes_streams: welcome.has(FEATURE_STREAMS) })
    }

    fn on_want(&mut self, ids: &IdRanges, parts: &WantedParts) -> Result<SenderEvent, WireError> {
        self.entries.check_announced(ids)?;
        let (mut identical, mut resumed, mut unneeded) = (Vec::new(), Vec::new(), Vec::new());
        let mut event = SenderEvent::Nothing;
        for id in ids.iter().flatten() {
            let invalid = |what: &str| WireError::protocol(format!("invalid want for entry {id}: {what}"));
            let file = match self.entries.get_mut(id) {
                Some(OutgoingKind::File(file)) => file,
                Some(OutgoingKind::Other) => return Err(invalid("not a file")),
                None => continue, // Withdrawn while the frame was in transit.
            };
            let transition = file.transition(parts).map_err(invalid)?;
            match &transition {
                Transition::ConfirmUnasked => {}
                Transition::CountAsOffer => unneeded.push(id),
                Transition::RequestAll(_) => self.queue.push_back(id),
                Transition::RequestRest(runs) => {
                    let rest: u64 = runs.iter().map(|run| file.layout.bytes(run)).sum();
                    resumed.push((id, file.layout.size_bytes() - rest));
                    self.queue.push_back(id);
                }
                Transition::Finish => identical.push(id),
            }
            file.apply(transition);
            // Not for settled entries: a receiver that repeats their `want` makes no progress.
            event = SenderEvent::Wanted;
        }
        if !identical.is_empty() {
            event = SenderEvent::AlreadyThere(identical);
        } else if !resumed.is_empty() {
            event = SenderEvent::Resumed(resumed);
        } else if !unneeded.is_empty() {
            event = SenderEvent::Unneeded(unneeded);
        }
        Ok(event)
    }

    fn on_again(&mut self, id: EntryId, part: u64) -> Result<SenderEvent, WireError> {
        self.entries.check_announced(&IdRanges::one(id))?;
        match self.entries.get_mut(id) {
            Some(OutgoingKind::File(file)) => file.on_again(part).map_err(WireError::Protocol)?,
            Some(OutgoingKind::Other) => return Err(WireError::protocol("again for what is not a file")),
            None => return Ok(SenderEvent::Nothing), // Withdrawn while the frame was in transit.
        }
        self.queue.push_front(id);
        Ok(SenderEvent::Again { entry: id, part })
    }

    fn on_kept(&mut self, kept: KeptRun) -> Result<SenderEvent, WireError> {
        let id = kept.entry;
        let invalid = |what: &str| WireError::protocol(format!("invalid kept for entry {id}: {what}"));
        self.entries.check_announced(&IdRanges::one(id))?;
        if self.entries.get(id).is_none() {
            return Ok(SenderEvent::Nothing); // Withdrawn while the frame was in transit.
        }
        let (file, held) = self.entries.file_and_kept(id).ok_or_else(|| invalid("not a file"))?;
        let is_same = file.on_kept(kept, held).map_err(invalid)?;
        Ok(if is_same { SenderEvent::Nothing } else { SenderEvent::KeptOther(id) })
    }

    fn on_failed(
        &mut self,
        entry: EntryId,
        code: ErrorCode,
        message: String,
    ) -> Result<SenderEvent, WireError> {
        self.entries.check_announced(&IdRanges::one(entry))?;
        let was_wanted = self.entries.file(entry).is_some_and(|file| file.stage == OutgoingStage::Bodies);
        if !self.entries.settle(entry) {
            return Ok(SenderEvent::Nothing);
        }
        self.failed += 1;
        Ok(SenderEvent::Failed { entry, code, message, was_wanted })
    }

    fn on_stored(
        &mut self,
        ids: &IdRanges,
        etags: Option<&[Option<Etag>]>,
    ) -> Result<SenderEvent, WireError> {
        self.entries.check_announced(ids)?;
        if self.compares_etags {
            self.entries.check_etags(ids, etags)?;
        }
        let mut settled = Vec::new();
        for id in ids.iter().flatten() {
            let invalid = |what: &str| WireError::protocol(format!("stored for entry {id}, which {what}"));
            match self.entries.get(id) {
                Some(OutgoingKind::Other) => {}
                Some(OutgoingKind::File(file)) if file.stage == OutgoingStage::Identical => self.skipped += 1,
                Some(OutgoingKind::File(file)) if file.is_sent() => {}
                Some(OutgoingKind::File(_)) => return Err(invalid("was not sent completely")),
                None => return Err(invalid("is not in flight")),
            }
            self.entries.settle(id);
            settled.push(id);
        }
        self.stored += settled.len() as u64;
        Ok(SenderEvent::Stored(settled))
    }

    fn on_receipt(&mut self, receipt: Receipt) -> Result<SenderEvent, WireError> {
        let ours = (self.announced(), self.stored, self.skipped, self.failed);
        let theirs = (receipt.entries, receipt.stored, receipt.skipped, receipt.failed);
        if !self.entries.are_settled() || ours != theirs {
            return Err(WireError::protocol(format!(
                "the receipt does not match: (entries, stored, skipped, failed) are {theirs:?} at the receiver, {ours:?} here"
            )));
        }
        self.phase = SendPhase::Done;
        Ok(SenderEvent::Receipt(receipt))
    }

    /// Is everything announced, and every requested part sent? Then only replies of the receiver are missing.
    pub fn has_sent_all(&self) -> bool {
        self.phase != SendPhase::Open && self.entries.are_sent()
    }

    /// Are there files with requested parts that may not be taken as jobs yet?
    pub fn has_job(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The number of bytes to be sent.
    pub fn output_len(&self) -> usize {
        self.out.len()
    }

    /// Takes the bytes to be sent.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

#[cfg(test)]
mod tests;
