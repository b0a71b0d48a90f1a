//! The receiver's end of a native session, as a state machine: frames in, [`ReceiverEvent`]s and frames out.
//!
//! ```text
//! hello -> welcome
//! entry (file)  -> want all | want offers | error          depends on what exists under that name
//! offer ...     -> want none | want all | error            compared with the existing file; a part + body of a small
//!                                                          file that was sent unasked counts as an offer
//! part + body   -> (again) ... until all parts are verified -> stored
//! entry (dir, link)  waits until every file announced before it is settled, then -> stored
//! end           -> receipt, once everything is settled
//! ```
//!
//! With the feature `measure`, a session without entries can measure instead:
//!
//! ```text
//! measure (+ body)  -> measured
//! end               -> receipt
//! ```

mod announced;
mod entries;
mod event;
mod file;
mod first_frame;
mod replies;
mod resume;

use super::error::WireError;
use super::id_ranges::IdRanges;
use super::limits::{MAX_MEASURE_BYTES, MAX_MEASURES, MAX_TRIES_A_PART, VERSION};
use super::message::{
    Entry, EntryId, ErrorReport, FEATURE_ETAGS, FEATURE_MEASURE, FEATURE_STREAMS, Hello, Hole, Measure,
    Measured, Message, Part, Receipt, SessionId, WantedParts,
};
use crate::busy_time::BusyTime;
use crate::digest::{PART_BYTES, PartDigests};
use crate::error_code::ErrorCode;
use crate::relpath::NamePolicy;
use announced::{AnnouncedEntry, Refusal};
use entries::IncomingEntries;
use file::{IncomingFile, IncomingStage, PartKind};
use replies::Replies;
use resume::kept_runs;

pub use event::{
    FileEntry, HoleHeader, OtherEntry, OtherKind, PartHeader, PartOutcome, ReceiverEvent, RetryDecision,
};
pub use first_frame::{FirstFrame, parse_first_frame};
pub use resume::remaining_ranges;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum ReceivePhase {
    /// No `hello` has arrived.
    Hello,
    /// Entries or stages may arrive.
    Open,
    /// Stages may arrive, and nothing else.
    Measuring,
    /// `end` has arrived.
    Ended,
}

/// The state machine; see the module's documentation.
#[derive(Debug)]
pub struct ReceiverSession {
    policy: NamePolicy,
    id: Option<SessionId>,
    phase: ReceivePhase,
    /// May further connections join?
    takes_streams: bool,
    /// The session has the feature `measure`.
    can_measure: bool,
    /// The session has the feature `etags`.
    sends_etags: bool,
    measures: u32,
    entries: IncomingEntries,
    receipt: Receipt,
    replies: Replies,
    out: Vec<u8>,
}

impl ReceiverSession {
    /// A session that waits for its `hello`.
    pub fn new(policy: NamePolicy) -> Self {
        ReceiverSession {
            policy,
            id: None,
            phase: ReceivePhase::Hello,
            takes_streams: true,
            can_measure: false,
            sends_etags: false,
            measures: 0,
            entries: IncomingEntries::default(),
            receipt: Receipt::default(),
            replies: Replies::default(),
            out: Vec::new(),
        }
    }

    /// Excludes further connections. To be called before the `hello` is handled.
    pub fn disable_streams(&mut self) {
        self.takes_streams = false;
    }

    /// May further connections join?
    pub fn takes_streams(&self) -> bool {
        self.takes_streams
    }

    /// The session's id, known after its `hello`: further connections join by it, and a later session can continue this
    /// one by it.
    pub fn id(&self) -> Option<SessionId> {
        self.id
    }

    /// Handles the JSON of one frame of a connection that joined the session: only frames of parts are allowed there.
    pub fn handle_joined(&mut self, json: &[u8]) -> Result<ReceiverEvent, WireError> {
        match Message::parse(json)? {
            message @ (Message::Part(_) | Message::Offer(_) | Message::Hole(_) | Message::Busy) => {
                self.on_message(message)
            }
            other => Err(WireError::unexpected(&other)),
        }
    }

    /// Handles the JSON of one frame of the session's primary connection.
    pub fn handle(&mut self, json: &[u8]) -> Result<ReceiverEvent, WireError> {
        self.on_message(Message::parse(json)?)
    }

    fn on_message(&mut self, message: Message) -> Result<ReceiverEvent, WireError> {
        use ReceivePhase::{Hello, Measuring, Open};
        match (self.phase, message) {
            (Hello, Message::Hello(hello)) => self.on_hello(&hello),
            (_, Message::Error(ErrorReport { entry: None, code, message })) => {
                Err(WireError::PeerAborted { code, message })
            }
            (Hello, _) => Err(WireError::protocol("the first frame is not a hello")),
            (_, Message::Busy) => Ok(ReceiverEvent::Nothing),
            (Open, Message::Entry(entry)) => self.on_entry(entry),
            (Open, Message::Totals { files, bytes }) => Ok(ReceiverEvent::Totals { files, bytes }),
            (Open | Measuring, Message::End { entries }) => self.on_end(entries),
            (Open | Measuring, Message::Measure(measure)) if self.can_measure => self.on_measure(measure),
            (_, Message::Part(part)) => self.on_part(part, PartKind::Body),
            (_, Message::Offer(part)) => self.on_part(part, PartKind::Offer),
            (_, Message::Hole(hole)) => self.on_hole(hole),
            (_, Message::Error(ErrorReport { entry: Some(id), code, message })) => {
                self.on_withdrawn(id, code, message)
            }
            (_, other) => Err(WireError::unexpected(&other)),
        }
    }

    fn on_hello(&mut self, hello: &Hello) -> Result<ReceiverEvent, WireError> {
        if hello.version < VERSION {
            return Err(WireError::Version { theirs: hello.version });
        }
        self.phase = ReceivePhase::Open;
        self.can_measure = hello.has(FEATURE_MEASURE);
        self.sends_etags = hello.has(FEATURE_ETAGS);
        let has_streams = hello.has(FEATURE_STREAMS);
        let features = [
            (FEATURE_STREAMS, has_streams && self.takes_streams),
            (FEATURE_ETAGS, self.sends_etags),
            (FEATURE_MEASURE, self.can_measure),
        ];
        let features: Vec<&str> = features.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
        self.id = hello.session.filter(|_| has_streams);
        Message::Welcome(Hello::ours(&features, None)).encode(&mut self.out);
        Ok(ReceiverEvent::Nothing)
    }

    fn on_measure(&mut self, measure: Measure) -> Result<ReceiverEvent, WireError> {
        if self.receipt.entries > 0 {
            return Err(WireError::protocol("a session with entries cannot measure"));
        }
        if measure.size_bytes > MAX_MEASURE_BYTES {
            let size = measure.size_bytes;
            let what = format!("a measure of {size} bytes, the limit is {MAX_MEASURE_BYTES}");
            return Err(WireError::Protocol(what));
        }
        if self.measures >= MAX_MEASURES {
            return Err(WireError::protocol(format!("more than {MAX_MEASURES} measurements")));
        }
        self.measures += 1;
        self.phase = ReceivePhase::Measuring;
        Ok(ReceiverEvent::Measure(measure))
    }

    /// Sends the result of a stage.
    pub fn measured(&mut self, measured: Measured) {
        Message::Measured(measured).encode(&mut self.out);
    }

    fn on_entry(&mut self, entry: Entry) -> Result<ReceiverEvent, WireError> {
        let expected = self.receipt.entries;
        if entry.id != expected {
            return Err(WireError::protocol(format!("entry {} announced, {expected} expected", entry.id)));
        }
        self.entries.check_room()?;
        self.receipt.entries += 1;
        match announced::validate(&entry, self.policy) {
            Ok(AnnouncedEntry::File(file)) => {
                self.entries.add_file(file.clone());
                Ok(ReceiverEvent::File(file))
            }
            Ok(AnnouncedEntry::Other(other)) => {
                self.entries.add_other(other);
                Ok(ReceiverEvent::Nothing)
            }
            Err(Refusal { code, reason }) => {
                self.receipt.failed += 1;
                self.send_error(Some(entry.id), code, &reason);
                Ok(ReceiverEvent::Refused { name: entry.name, code, reason })
            }
        }
    }

    fn send_error(&mut self, entry: Option<EntryId>, code: ErrorCode, reason: &str) {
        Message::Error(ErrorReport { entry, code, message: reason.to_owned() }).encode(&mut self.out);
    }

    fn on_end(&mut self, entries: u64) -> Result<ReceiverEvent, WireError> {
        let announced = self.receipt.entries;
        if entries != announced {
            return Err(WireError::protocol(format!(
                "end has {entries} entries, {announced} were announced"
            )));
        }
        self.phase = ReceivePhase::Ended;
        Ok(ReceiverEvent::Nothing)
    }

    fn on_part(&mut self, part: Part, kind: PartKind) -> Result<ReceiverEvent, WireError> {
        let invalid =
            |what: &str| WireError::protocol(format!("part {} of entry {}: {what}", part.part, part.entry));
        if part.entry >= self.receipt.entries {
            return Err(invalid("the entry was never announced"));
        }
        match self.entries.change_file(part.entry, |file| file.on_part(part, kind)) {
            Some(result) => result.map_err(|what| invalid(&what)),
            // The entry is settled; the part was in transit.
            None if kind == PartKind::Offer => Ok(ReceiverEvent::Nothing),
            None if part.size_bytes > PART_BYTES => Err(invalid("larger than a part")),
            None => Ok(ReceiverEvent::Discard { bytes: part.size_bytes }),
        }
    }

    fn on_hole(&mut self, hole: Hole) -> Result<ReceiverEvent, WireError> {
        let invalid = |what: &str| {
            WireError::protocol(format!("a hole at part {} of entry {}: {what}", hole.part, hole.entry))
        };
        if hole.entry >= self.receipt.entries {
            return Err(invalid("the entry was never announced"));
        }
        // The hole of a settled entry was in transit.
        self.entries
            .file(hole.entry)
            .map_or(Ok(ReceiverEvent::Nothing), |file| file.on_hole(hole).map_err(invalid))
    }

    fn on_withdrawn(
        &mut self,
        id: EntryId,
        code: ErrorCode,
        message: String,
    ) -> Result<ReceiverEvent, WireError> {
        if id >= self.receipt.entries {
            return Err(WireError::protocol(format!("entry {id} withdrawn, but never announced")));
        }
        let Some(file) = self.entries.take_file(id) else { return Ok(ReceiverEvent::Nothing) };
        self.receipt.failed += 1;
        let remaining_bytes = file.remaining_bytes();
        Ok(ReceiverEvent::Withdrawn { id, path: file.entry.path, code, message, remaining_bytes })
    }

    /// Is it a file that is announced and neither complete nor failed?
    pub fn is_open(&self, id: EntryId) -> bool {
        self.entries.file(id).is_some()
    }

    /// Requests all parts of a file.
    pub fn want_all(&mut self, id: EntryId) {
        if self.entries.change_file(id, IncomingFile::request_all).is_some() {
            self.replies.wants.push(id);
        }
    }

    /// Requests the parts of a file that are not `present` from an earlier session; returns the bytes that are not requested.
    /// Some present parts may be requested as well, see [`remaining_ranges`].
    pub fn want_missing(&mut self, id: EntryId, present: PartDigests) -> u64 {
        let Some(missing) = self.entries.change_file(id, |file| file.request_missing(present)) else {
            return 0;
        };
        let Some(file) = self.entries.file(id) else { return 0 };
        if self.sends_etags {
            // The sender compares the digests that it has.
            kept_runs(id, &file.verified)
                .into_iter()
                .for_each(|run| Message::Kept(run).encode(&mut self.out));
        }
        let parts = WantedParts::Parts(IdRanges::from_ranges(&missing));
        Message::Want { entries: IdRanges::one(id), parts }.encode(&mut self.out);
        file.entry.layout.size_bytes() - file.remaining_bytes()
    }

    /// Requests the digests of a file, because a file of the same name and size exists.
    pub fn want_offers(&mut self, id: EntryId) {
        if self.entries.change_file(id, IncomingFile::request_offers).is_some() {
            Message::Want { entries: IdRanges::one(id), parts: WantedParts::Offers }.encode(&mut self.out);
        }
    }

    /// The range of a hole contains zeros, in the staged file or in the existing one.
    pub fn holes_verified(&mut self, hole: &HoleHeader) -> PartOutcome {
        let is_counted = self.entries.change_file(hole.id, |file| file.verify_holes(hole));
        self.after_verified(hole.id, hole.range.len, is_counted.unwrap_or(false))
    }

    /// The digest of a part matches: its bytes are received, or the offered digest is that of the existing file.
    pub fn part_verified(&mut self, header: &PartHeader) -> PartOutcome {
        let is_counted = self.entries.change_file(header.id, |file| file.verify_part(header));
        self.after_verified(header.id, header.range.len, is_counted.unwrap_or(false))
    }

    fn after_verified(&mut self, id: EntryId, bytes: u64, is_counted: bool) -> PartOutcome {
        let Some(file) = self.entries.file(id).filter(|_| is_counted) else {
            return PartOutcome::Unchanged;
        };
        let was_present = file.stage == IncomingStage::Offers;
        if !was_present {
            self.receipt.bytes = self.receipt.bytes.saturating_add(bytes);
        }
        if !file.is_complete() {
            return PartOutcome::Partly;
        }
        let etag = if self.sends_etags { file.verified.etag(file.entry.layout) } else { None };
        let Some(file) = self.entries.complete_file(id, was_present, etag) else {
            return PartOutcome::Unchanged;
        };
        if was_present {
            Message::Want { entries: IdRanges::one(id), parts: WantedParts::None }.encode(&mut self.out);
        }
        PartOutcome::Complete(file.verified)
    }

    /// The digest of a part does not match: requests it again, or fails the entry.
    pub fn part_damaged(&mut self, header: &PartHeader) -> RetryDecision {
        let Some(tries) = self.entries.change_file(header.id, |file| file.on_damaged(header.part)) else {
            return RetryDecision::GaveUp { remaining_bytes: 0 };
        };
        if tries >= MAX_TRIES_A_PART {
            let reason = format!("part {} arrived damaged {MAX_TRIES_A_PART} times in a row", header.part);
            let remaining_bytes = self.fail(header.id, ErrorCode::Digest, &reason);
            return RetryDecision::GaveUp { remaining_bytes };
        }
        Message::Again { entry: header.id, part: header.part }.encode(&mut self.out);
        RetryDecision::Again
    }

    /// The next folder or link to commit: all files announced before it are complete or failed.
    pub fn next_ready(&mut self) -> Option<OtherEntry> {
        self.entries.next_ready()
    }

    /// The entry is verified, durable and in place.
    pub fn stored(&mut self, id: EntryId) {
        if let Some(entry) = self.entries.take_committing(id) {
            self.receipt.stored += 1;
            self.receipt.skipped += u64::from(entry.was_present);
            self.replies.stored.push((id, entry.etag));
        }
    }

    /// Fails an entry. Returns the bytes of it that will not arrive; 0 if another thread has settled it.
    pub fn fail(&mut self, id: EntryId, code: ErrorCode, reason: &str) -> u64 {
        let remaining_bytes = match self.entries.take_committing(id) {
            Some(_) => 0,
            None => match self.entries.take_file(id) {
                Some(file) => file.remaining_bytes(),
                None => return 0,
            },
        };
        self.receipt.failed += 1;
        self.send_error(Some(id), code, reason);
        remaining_bytes
    }

    /// Ends the session with an error, and discards all entries.
    pub fn abort(&mut self, code: ErrorCode, reason: &str) {
        self.entries.clear();
        self.send_error(None, code, reason);
    }

    /// Sends a keepalive.
    pub fn keepalive(&mut self) {
        // The protocol allows no keepalive before the welcome.
        if self.phase > ReceivePhase::Hello {
            Message::Busy.encode(&mut self.out);
        }
    }

    /// Are all entries announced, and each of them handed over for commit or failed?
    pub fn is_all_received(&self) -> bool {
        self.phase == ReceivePhase::Ended && self.entries.are_received()
    }

    /// Are all entries announced, and has every requested part arrived? Then the sender sends nothing until parts are
    /// verified.
    pub fn is_drained(&self) -> bool {
        self.phase == ReceivePhase::Ended && self.entries.are_drained()
    }

    /// Is any entry handed over for commit and not settled?
    pub fn is_committing(&self) -> bool {
        self.entries.is_committing()
    }

    /// Sets the busy time in the receipt.
    pub fn set_spent(&mut self, spent: BusyTime) {
        self.receipt.spent = Some(spent);
    }

    /// Sends the receipt; `None` while an entry is not settled.
    pub fn finish(&mut self) -> Option<Receipt> {
        if !self.is_all_received() || self.is_committing() {
            return None;
        }
        self.replies.flush(self.sends_etags, &mut self.out);
        Message::Receipt(self.receipt).encode(&mut self.out);
        Some(self.receipt)
    }

    /// Takes the bytes to be sent.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.replies.flush(self.sends_etags, &mut self.out);
        std::mem::take(&mut self.out)
    }

    /// The number of entries that are announced and not settled.
    pub fn in_flight(&self) -> usize {
        self.entries.in_flight()
    }
}

#[cfg(test)]
mod tests;
