//! The receiver's end of a native session, as a state machine: frames in, [`Event`]s and frames out.
//!
//! ```text
//! hello -> welcome
//! entry (file)  -> want all | want offers | error          what is there under that name decides
//! offer ...     -> want none | want all | error            compared with what is there; so is a part + body of a small
//!                                                          file that was sent before the welcome was heard
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

mod event;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;

use super::classic::MAX_FILE_BYTES;
use super::id_ranges::{IdRanges, MAX_RANGES};
use super::message::{
    Entry, EntryId, EntryKind, ErrorReport, FEATURE_ETAGS, FEATURE_MEASURE, FEATURE_STREAMS, Hello, Hole,
    Join, Kept, KeptParts, MAX_DIGESTS_A_FRAME, Measure, Measured, Message, Part, Receipt, SessionId,
    WantedParts,
};
use super::{
    MAX_ENTRIES_IN_FLIGHT, MAX_ETAGS_A_FRAME, MAX_KEPT_DIGESTS, MAX_MEASURE_BYTES, MAX_MEASURES,
    MAX_NAME_BYTES_IN_FLIGHT, MAX_TRIES_A_PART, SMALL_FILE_BYTES, VERSION, WireError,
};
use crate::busy_time::BusyTime;
use crate::digest::{Etag, PART_BYTES, PartDigests, PartLayout, PartRange};
use crate::error_code::ErrorCode;
use crate::relpath::{LinkTarget, NamePolicy, RelPath};

pub use event::{
    Event, FileEntry, HoleHeader, OtherEntry, OtherKind, PartHeader, PartOutcome, RetryDecision,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Stage {
    Hello,
    Open,
    /// Open for stages to measure, and for nothing else.
    Measuring,
    Ended,
}

/// Between two runs of zeros lies a part that is not zeros. So many runs may come before those parts, which take longer,
/// but not more: they are held in memory.
const MAX_HOLES_AHEAD: usize = 1024;

#[derive(Debug)]
struct FileState {
    entry: FileEntry,
    stage: FileStage,
    /// Parts that arrived, or were offered, and are not judged yet.
    pending: BTreeSet<u64>,
    verified: PartDigests,
    verified_bytes: u64,
    tries: BTreeMap<u64, u32>,
}

impl OtherEntry {
    fn name_bytes(&self) -> usize {
        let target = if let OtherKind::Link(target) = &self.kind { target.as_bytes().len() } else { 0 };
        self.path.as_bytes().len() + target
    }
}

impl FileState {
    fn name_bytes(&self) -> usize {
        self.entry.path.as_bytes().len()
    }

    /// Has everything arrived that was asked for, though perhaps not all of it been judged?
    fn is_drained(&self) -> bool {
        let arrived = self.pending.len() as u64 + self.verified.count();
        self.stage != FileStage::Undecided && arrived == self.entry.layout.count()
    }

    /// Was this found out about what is asked for now, or about what an earlier decision asked for?
    fn is_about(&self, is_offer: bool) -> bool {
        self.stage == if is_offer { FileStage::Offers } else { FileStage::Bodies }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileStage {
    Undecided,
    Offers,
    Bodies,
}

#[derive(Clone, Copy, Debug)]
struct Committing {
    was_there: bool,
    name_bytes: usize,
    /// What was verified of a file, where the sender wants to know.
    etag: Option<Etag>,
}

/// What the first frame of a connection says of sessions, before it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstFrame {
    /// It joins this one.
    Joins(SessionId),
    /// It begins one, perhaps in place of another whose connection the sender lost.
    Begins {
        /// By which its sender would come back.
        session: Option<SessionId>,
        /// The other one.
        continues: Option<SessionId>,
    },
}

/// Takes from the parts that are there those that have to come all the same, and returns all that have to come: where all
/// are there, the last one; where the gaps are too many to be told, all from one of them on.
pub fn remaining_ranges(there: &mut PartDigests, layout: PartLayout) -> Vec<RangeInclusive<u64>> {
    let last = layout.count() - 1;
    let mut rest = there.missing(layout.count());
    if rest.is_empty() {
        rest.push(last..=last);
    }
    if let Some(first) = rest.get(MAX_RANGES - 1).map(|run| *run.start()) {
        rest.truncate(MAX_RANGES - 1);
        rest.push(first..=last);
    }
    rest.iter().for_each(|run| there.remove(run.clone()));
    rest
}

/// Looks at the first frame of a connection.
pub fn parse_first_frame(json: &[u8]) -> Result<FirstFrame, WireError> {
    Ok(match Message::parse(json)? {
        Message::Join(Join { session }) => FirstFrame::Joins(session),
        Message::Hello(Hello { session, continues, .. }) => FirstFrame::Begins { session, continues },
        Message::Error(ErrorReport { entry: None, fault, message }) => {
            return Err(WireError::PeerGaveUp { fault, message });
        }
        _ => return Err(WireError::protocol("the first header is not a hello")),
    })
}

/// See the module's page.
#[derive(Debug)]
pub struct ReceiverSession {
    policy: NamePolicy,
    id: Option<SessionId>,
    stage: Stage,
    /// May further connections join?
    takes_streams: bool,
    /// Did both ends name the feature?
    can_measure: bool,
    /// Does the sender compare etags?
    sends_etags: bool,
    measures: u32,
    /// Files announced and neither complete nor failed.
    files: BTreeMap<EntryId, FileState>,
    /// How many of them have all their bodies here.
    drained_files: usize,
    /// Folders and links whose turn has not come.
    waiting: VecDeque<OtherEntry>,
    /// Entries handed over to be committed.
    committing: BTreeMap<EntryId, Committing>,
    /// Of the names of all entries in flight.
    name_bytes: usize,
    receipt: Receipt,
    wants: Vec<EntryId>,
    stored: Vec<(EntryId, Option<Etag>)>,
    out: Vec<u8>,
}

impl ReceiverSession {
    /// A session that has heard nothing yet.
    pub fn new(policy: NamePolicy) -> Self {
        ReceiverSession {
            policy,
            id: None,
            stage: Stage::Hello,
            takes_streams: true,
            can_measure: false,
            sends_etags: false,
            measures: 0,
            files: BTreeMap::new(),
            drained_files: 0,
            waiting: VecDeque::new(),
            committing: BTreeMap::new(),
            name_bytes: 0,
            receipt: Receipt::default(),
            wants: Vec::new(),
            stored: Vec::new(),
            out: Vec::new(),
        }
    }

    /// The session gets no further connections. To be told before its `hello`.
    pub fn disable_streams(&mut self) {
        self.takes_streams = false;
    }

    /// May further connections join?
    pub fn takes_streams(&self) -> bool {
        self.takes_streams
    }

    /// What the sender called the session, once it said hello; further connections join by it, and a session that goes
    /// on where this one was lost.
    pub fn id(&self) -> Option<SessionId> {
        self.id
    }

    /// Takes the JSON of one frame of a connection that joined the session: there, only what belongs to the content of
    /// files has a place.
    pub fn handle_joined(&mut self, json: &[u8]) -> Result<Event, WireError> {
        match Message::parse(json)? {
            message @ (Message::Part(_) | Message::Offer(_) | Message::Hole(_) | Message::Busy) => {
                self.take(message)
            }
            other => Err(WireError::out_of_place(&other)),
        }
    }

    /// Takes the JSON of one frame of the session's first connection.
    pub fn handle(&mut self, json: &[u8]) -> Result<Event, WireError> {
        self.take(Message::parse(json)?)
    }

    fn take(&mut self, message: Message) -> Result<Event, WireError> {
        match (self.stage, message) {
            (Stage::Hello, Message::Hello(hello)) => self.welcome(hello),
            (_, Message::Error(ErrorReport { entry: None, fault, message })) => {
                Err(WireError::PeerGaveUp { fault, message })
            }
            (Stage::Hello, _) => Err(WireError::protocol("the first header is not a hello")),
            (_, Message::Busy) => Ok(Event::Nothing),
            (Stage::Open, Message::Entry(entry)) => self.announced(entry),
            (Stage::Open, Message::Totals { files, bytes }) => Ok(Event::Totals { files, bytes }),
            (Stage::Open | Stage::Measuring, Message::End { entries }) => self.end(entries),
            (Stage::Open | Stage::Measuring, Message::Measure(measure)) if self.can_measure => {
                self.measure(measure)
            }
            (_, Message::Part(part)) => self.part(part, FileStage::Bodies),
            (_, Message::Offer(part)) => self.part(part, FileStage::Offers),
            (_, Message::Hole(hole)) => self.hole(hole),
            (_, Message::Error(ErrorReport { entry: Some(id), fault, message })) => {
                self.withdrawn(id, fault, message)
            }
            (_, other) => Err(WireError::out_of_place(&other)),
        }
    }

    fn welcome(&mut self, hello: Hello) -> Result<Event, WireError> {
        if hello.version < VERSION {
            return Err(WireError::Version { theirs: hello.version });
        }
        self.stage = Stage::Open;
        self.can_measure = hello.has(FEATURE_MEASURE);
        let named = hello.has(FEATURE_STREAMS);
        self.sends_etags = hello.has(FEATURE_ETAGS);
        let features = [
            (FEATURE_STREAMS, named && self.takes_streams),
            (FEATURE_ETAGS, self.sends_etags),
            (FEATURE_MEASURE, self.can_measure),
        ];
        let features: Vec<&str> = features.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
        self.id = hello.session.filter(|_| named);
        Message::Welcome(Hello::ours(&features, None)).encode(&mut self.out);
        Ok(Event::Nothing)
    }

    fn measure(&mut self, measure: Measure) -> Result<Event, WireError> {
        if self.receipt.entries > 0 {
            return Err(WireError::protocol("a session that transfers cannot measure"));
        }
        if measure.size_bytes > MAX_MEASURE_BYTES {
            let size = measure.size_bytes;
            return Err(WireError::protocol(format!(
                "{size} bytes to measure with, {MAX_MEASURE_BYTES} are possible"
            )));
        }
        if self.measures >= MAX_MEASURES {
            return Err(WireError::protocol(format!("more than {MAX_MEASURES} measurements")));
        }
        self.measures += 1;
        self.stage = Stage::Measuring;
        Ok(Event::Measure(measure))
    }

    /// Tells how a stage went.
    pub fn measured(&mut self, measured: Measured) {
        Message::Measured(measured).encode(&mut self.out);
    }

    fn announced(&mut self, entry: Entry) -> Result<Event, WireError> {
        if entry.id != self.receipt.entries {
            return Err(WireError::protocol(format!(
                "entry {} announced, {} expected",
                entry.id, self.receipt.entries
            )));
        }
        if self.in_flight() >= MAX_ENTRIES_IN_FLIGHT {
            return Err(WireError::protocol(format!("more than {MAX_ENTRIES_IN_FLIGHT} entries in flight")));
        }
        if self.name_bytes >= MAX_NAME_BYTES_IN_FLIGHT {
            return Err(WireError::protocol(format!(
                "names of more than {MAX_NAME_BYTES_IN_FLIGHT} bytes in flight"
            )));
        }
        self.receipt.entries += 1;
        let id = entry.id;
        let path = match RelPath::new(&entry.name, self.policy) {
            Ok(path) => path,
            Err(error) => return Ok(self.refuse(id, entry.name, ErrorCode::Name, error.to_string())),
        };
        let metadata = entry.metadata;
        match entry.kind {
            EntryKind::File { size_bytes, .. } if size_bytes > MAX_FILE_BYTES => {
                let reason = format!("a size of {size_bytes} bytes is more than a file can hold");
                Ok(self.refuse(id, entry.name, ErrorCode::NoSpace, reason))
            }
            EntryKind::File { size_bytes, is_sparse, state } => {
                let layout = PartLayout::new(size_bytes);
                let entry = FileEntry { id, path, layout, is_sparse, state, metadata };
                let state = FileState {
                    entry: entry.clone(),
                    stage: FileStage::Undecided,
                    pending: BTreeSet::new(),
                    verified: PartDigests::new(),
                    verified_bytes: 0,
                    tries: BTreeMap::new(),
                };
                self.name_bytes += state.name_bytes();
                self.files.insert(id, state);
                Ok(Event::File(entry))
            }
            EntryKind::Dir => Ok(self.wait(OtherEntry { id, path, kind: OtherKind::Dir, metadata })),
            EntryKind::Link { target } => match LinkTarget::new(&target, &path, self.policy) {
                Ok(target) => Ok(self.wait(OtherEntry { id, path, kind: OtherKind::Link(target), metadata })),
                Err(error) => Ok(self.refuse(id, entry.name, ErrorCode::Name, error.to_string())),
            },
        }
    }

    fn wait(&mut self, other: OtherEntry) -> Event {
        self.name_bytes += other.name_bytes();
        self.waiting.push_back(other);
        Event::Nothing
    }

    fn refuse(&mut self, id: EntryId, name: Vec<u8>, fault: ErrorCode, reason: String) -> Event {
        self.receipt.failed += 1;
        Message::Error(ErrorReport { entry: Some(id), fault, message: reason.clone() }).encode(&mut self.out);
        Event::Refused { name, fault, reason }
    }

    fn end(&mut self, entries: u64) -> Result<Event, WireError> {
        if entries != self.receipt.entries {
            return Err(WireError::protocol(format!(
                "the end speaks of {entries} entries, {} were announced",
                self.receipt.entries
            )));
        }
        self.stage = Stage::Ended;
        Ok(Event::Nothing)
    }

    fn part(&mut self, part: Part, stage: FileStage) -> Result<Event, WireError> {
        let unexpected = |what: &str| {
            Err(WireError::protocol(format!("part {} of entry {}: {what}", part.part, part.entry)))
        };
        if part.entry >= self.receipt.entries {
            return unexpected("the entry was never announced");
        }
        let Some(file) = self.files.get_mut(&part.entry) else {
            // The entry failed or was stored, and the sender had not heard of it when it sent this.
            return match stage {
                FileStage::Bodies if part.size_bytes > PART_BYTES => unexpected("larger than a part"),
                FileStage::Bodies => Ok(Event::Discard { bytes: part.size_bytes }),
                _ => Ok(Event::Nothing),
            };
        };
        let is_small = file.entry.layout.size_bytes() <= SMALL_FILE_BYTES;
        // Sent before the sender heard that something is there.
        let is_unasked = stage == FileStage::Bodies && file.stage == FileStage::Offers && is_small;
        if file.stage != stage && !is_unasked {
            if stage == FileStage::Offers {
                // Offers that were on their way when the receiver had seen enough.
                return if file.stage == FileStage::Bodies {
                    Ok(Event::Nothing)
                } else {
                    unexpected("offered unasked")
                };
            }
            return unexpected("sent unasked");
        }
        let Some(range) = file.entry.layout.range(part.part) else {
            return unexpected("the file has no such part");
        };
        if range.len != part.size_bytes {
            return unexpected(&format!("{} bytes, {} expected", part.size_bytes, range.len));
        }
        if file.verified.contains(part.part) || file.pending.contains(&part.part) {
            return unexpected("sent twice");
        }
        file.pending.insert(part.part);
        self.drained_files += usize::from(file.is_drained());
        let is_repair = file.tries.contains_key(&part.part);
        let is_offer = stage == FileStage::Offers || is_unasked;
        let header =
            PartHeader { id: part.entry, part: part.part, range, md5: part.md5, is_repair, is_offer };
        Ok(match stage {
            FileStage::Bodies if is_unasked => Event::OfferAndBody(header),
            FileStage::Bodies => Event::Body(header),
            _ => Event::Offer(header),
        })
    }

    fn hole(&mut self, hole: Hole) -> Result<Event, WireError> {
        let Hole { entry: id, part, parts, is_offer: was_offered } = hole;
        let unexpected =
            |what: &str| Err(WireError::protocol(format!("a hole at part {part} of entry {id}: {what}")));
        if id >= self.receipt.entries {
            return unexpected("the entry was never announced");
        }
        let Some(file) = self.files.get(&id) else {
            return Ok(Event::Nothing);
        };
        let is_offer = match file.stage {
            FileStage::Bodies if was_offered => None,
            // Only the landing of a sparse file begins as zeros.
            FileStage::Bodies if !file.entry.is_sparse => {
                return unexpected("the file was not announced as sparse");
            }
            FileStage::Bodies => Some(false),
            FileStage::Offers => Some(true),
            FileStage::Undecided => return unexpected("sent unasked"),
        };
        let last = parts.checked_sub(1).and_then(|more| part.checked_add(more));
        let last = last.and_then(|last| file.entry.layout.range(last));
        let (Some(first), Some(last)) = (file.entry.layout.range(part), last) else {
            return unexpected("the file has no such parts");
        };
        if last.len != PART_BYTES {
            return unexpected("not a whole part");
        }
        // One that was offered and on its way when the receiver had seen enough.
        let Some(is_offer) = is_offer else { return Ok(Event::Nothing) };
        let is_in = file.pending.range(part..part + parts).next().is_some();
        if is_in || file.verified.contains_any(part, parts) {
            return unexpected("sent twice");
        }
        let (digests, holes) = file.verified.runs();
        if holes > digests + file.pending.len() + MAX_HOLES_AHEAD {
            return unexpected("zeros here and there, with nothing in between");
        }
        let range = PartRange { offset: first.offset, len: last.offset + last.len - first.offset };
        // The damaged bytes of a part that was asked for again are where its zeros belong.
        let must_clear = file.tries.range(part..part + parts).next().is_some();
        Ok(Event::Hole(HoleHeader { id, part, parts, range, is_offer, must_clear }))
    }

    fn withdrawn(&mut self, id: EntryId, fault: ErrorCode, message: String) -> Result<Event, WireError> {
        if id >= self.receipt.entries {
            return Err(WireError::protocol(format!("entry {id} withdrawn, but never announced")));
        }
        Ok(match self.remove_file(id) {
            Some(file) => {
                self.receipt.failed += 1;
                self.name_bytes -= file.name_bytes();
                let remaining_bytes = file.entry.layout.size_bytes() - file.verified_bytes;
                Event::Withdrawn { id, path: file.entry.path, fault, message, remaining_bytes }
            }
            None => Event::Nothing,
        })
    }

    /// Is it a file that is announced and neither complete nor failed?
    pub fn is_open(&self, id: EntryId) -> bool {
        self.files.contains_key(&id)
    }

    /// Asks for all parts of a file.
    pub fn want_all(&mut self, id: EntryId) {
        if let Some(file) = self.files.get_mut(&id) {
            self.drained_files -= usize::from(file.is_drained());
            file.stage = FileStage::Bodies;
            file.pending.clear();
            file.verified = PartDigests::new();
            file.verified_bytes = 0;
            self.wants.push(id);
        }
    }

    /// Asks for the parts of a file that are not among those that an earlier session left here; returns the bytes that
    /// need not come any more. Some of them may have to, see [`take_rest`].
    pub fn want_missing(&mut self, id: EntryId, mut there: PartDigests) -> u64 {
        let Some(file) = self.files.get_mut(&id) else { return 0 };
        let layout = file.entry.layout;
        let missing = remaining_ranges(&mut there, layout);
        file.stage = FileStage::Bodies;
        let verified_bytes = layout.size_bytes() - missing.iter().map(|run| layout.bytes(run)).sum::<u64>();
        (file.verified_bytes, file.verified) = (verified_bytes, there.clone());
        self.send_kept(id, &there);
        let parts = WantedParts::Parts(IdRanges::from_ranges(&missing));
        Message::Want { entries: IdRanges::one(id), parts }.encode(&mut self.out);
        verified_bytes
    }

    /// Asks for the digests of a file first, because something like it is there.
    pub fn want_offers(&mut self, id: EntryId) {
        if let Some(file) = self.files.get_mut(&id) {
            file.stage = FileStage::Offers;
            Message::Want { entries: IdRanges::one(id), parts: WantedParts::Offers }.encode(&mut self.out);
        }
    }

    /// The zeros are in place: in a fresh landing of the file's size, or in what is there already.
    pub fn holes_verified(&mut self, hole: &HoleHeader) -> PartOutcome {
        let Some(file) = self.files.get_mut(&hole.id).filter(|file| file.is_about(hole.is_offer)) else {
            return PartOutcome::Unchanged;
        };
        let range = hole.part..hole.part + hole.parts;
        // On another connection it, or a part in it, may have come at the same time.
        let is_in = file.pending.range(range.clone()).next().is_some();
        if is_in || file.verified.contains_any(hole.part, hole.parts) {
            return PartOutcome::Unchanged;
        }
        // Damaged bytes were written there after the hole was announced; the part was asked for again.
        if !hole.must_clear && file.tries.range(range.clone()).next().is_some() {
            return PartOutcome::Unchanged;
        }
        file.tries.retain(|part, _| !range.contains(part));
        file.verified.insert_holes(hole.part, hole.parts);
        self.drained_files += usize::from(file.is_drained());
        self.verified_more(hole.id, hole.range.len)
    }

    /// A part's digest holds: its bytes are on their way to the disk, or the offered digest matches what is there.
    pub fn part_verified(&mut self, header: &PartHeader) -> PartOutcome {
        // What was found out about an offer says nothing about a body.
        let Some(file) = self.files.get_mut(&header.id).filter(|file| file.is_about(header.is_offer)) else {
            return PartOutcome::Unchanged;
        };
        file.tries.remove(&header.part);
        file.pending.remove(&header.part);
        file.verified.insert(header.part, header.md5);
        self.verified_more(header.id, header.range.len)
    }

    fn verified_more(&mut self, id: EntryId, bytes: u64) -> PartOutcome {
        let Some(file) = self.files.get_mut(&id) else {
            return PartOutcome::Unchanged;
        };
        file.verified_bytes += bytes;
        if file.stage == FileStage::Bodies {
            self.receipt.bytes = self.receipt.bytes.saturating_add(bytes);
        }
        if file.verified.count() < file.entry.layout.count() {
            return PartOutcome::Partly;
        }
        if file.stage == FileStage::Offers {
            Message::Want { entries: IdRanges::one(id), parts: WantedParts::None }.encode(&mut self.out);
        }
        let (was_there, name_bytes) = (file.stage == FileStage::Offers, file.name_bytes());
        let etag = if self.sends_etags { file.verified.etag(file.entry.layout) } else { None };
        self.committing.insert(id, Committing { was_there, name_bytes, etag });
        let verified = file.verified.clone();
        self.remove_file(id);
        PartOutcome::Complete(verified)
    }

    /// A part's digest does not hold: asks for it again, or gives up.
    pub fn part_damaged(&mut self, header: &PartHeader) -> RetryDecision {
        let Some(file) = self.files.get_mut(&header.id) else {
            return RetryDecision::GaveUp { remaining_bytes: 0 };
        };
        self.drained_files -= usize::from(file.is_drained());
        file.pending.remove(&header.part);
        let tries = file.tries.entry(header.part).or_default();
        *tries += 1;
        if *tries >= MAX_TRIES_A_PART {
            let reason = format!("part {} arrived damaged {MAX_TRIES_A_PART} times in a row", header.part);
            let remaining_bytes = self.fail(header.id, ErrorCode::Digest, &reason);
            return RetryDecision::GaveUp { remaining_bytes };
        }
        Message::Again { entry: header.id, part: header.part }.encode(&mut self.out);
        RetryDecision::Again
    }

    /// The next folder or link whose turn has come: all files announced before it are complete or failed.
    pub fn next_ready(&mut self) -> Option<OtherEntry> {
        let first_unsettled = self.files.first_key_value().map_or(u64::MAX, |(id, _)| *id);
        if self.waiting.front()?.id > first_unsettled {
            return None;
        }
        let other = self.waiting.pop_front()?;
        let committing = Committing { was_there: false, name_bytes: other.name_bytes(), etag: None };
        self.committing.insert(other.id, committing);
        Some(other)
    }

    /// The entry is verified, durable and in place.
    pub fn stored(&mut self, id: EntryId) {
        if let Some(done) = self.committing.remove(&id) {
            self.name_bytes -= done.name_bytes;
            self.receipt.stored += 1;
            self.receipt.skipped += u64::from(done.was_there);
            self.stored.push((id, done.etag));
        }
    }

    /// The entry will not arrive; the sender is told. Returns the bytes that will not come any more.
    pub fn fail(&mut self, id: EntryId, fault: ErrorCode, reason: &str) -> u64 {
        let file = self.remove_file(id);
        let committing = self.committing.remove(&id).map(|done| done.name_bytes);
        let Some(name_bytes) = committing.or(file.as_ref().map(FileState::name_bytes)) else {
            // Settled meanwhile, by another thread.
            return 0;
        };
        self.name_bytes -= name_bytes;
        self.receipt.failed += 1;
        Message::Error(ErrorReport { entry: Some(id), fault, message: reason.to_owned() })
            .encode(&mut self.out);
        file.map_or(0, |file| file.entry.layout.size_bytes() - file.verified_bytes)
    }

    fn remove_file(&mut self, id: EntryId) -> Option<FileState> {
        let file = self.files.remove(&id)?;
        self.drained_files -= usize::from(file.is_drained());
        Some(file)
    }

    /// Tells the sender why the session ends here. That may take its time; of entries nothing is known any more.
    pub fn give_up(&mut self, fault: ErrorCode, reason: &str) {
        (self.files, self.waiting, self.committing) = Default::default();
        (self.drained_files, self.name_bytes) = (0, 0);
        Message::Error(ErrorReport { entry: None, fault, message: reason.to_owned() }).encode(&mut self.out);
    }

    /// Tells the sender that the silence means work.
    pub fn keepalive(&mut self) {
        // Before the welcome a sender expects nothing else.
        if self.stage > Stage::Hello {
            Message::Busy.encode(&mut self.out);
        }
    }

    /// All entries were announced and all of them are handed over or failed.
    pub fn is_all_received(&self) -> bool {
        self.stage == Stage::Ended && self.files.is_empty() && self.waiting.is_empty()
    }

    /// All entries were announced and all that was asked for is here: until it is judged, the sender has nothing more to
    /// say.
    pub fn is_drained(&self) -> bool {
        self.stage == Stage::Ended && self.drained_files == self.files.len()
    }

    /// Is anything handed over and not settled?
    pub fn is_committing(&self) -> bool {
        !self.committing.is_empty()
    }

    /// Notes for the receipt what this end was busy with.
    pub fn set_spent(&mut self, spent: BusyTime) {
        self.receipt.spent = Some(spent);
    }

    /// Says the last word; `None` as long as something is not settled.
    pub fn finish(&mut self) -> Option<Receipt> {
        if !self.is_all_received() || self.is_committing() {
            return None;
        }
        self.flush_lists();
        Message::Receipt(self.receipt).encode(&mut self.out);
        Some(self.receipt)
    }

    /// What is to be sent, and forgets it.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.flush_lists();
        std::mem::take(&mut self.out)
    }

    fn flush_lists(&mut self) {
        for entries in IdRanges::pack(std::mem::take(&mut self.wants)) {
            Message::Want { entries, parts: WantedParts::All }.encode(&mut self.out);
        }
        let mut stored = std::mem::take(&mut self.stored);
        stored.sort_unstable_by_key(|(id, _)| *id);
        let most = if self.sends_etags { MAX_ETAGS_A_FRAME } else { usize::MAX };
        for stored in stored.chunks(most) {
            let etags = self.sends_etags.then(|| stored.iter().map(|(_, etag)| *etag).collect());
            for entries in IdRanges::pack(stored.iter().map(|(id, _)| *id).collect()) {
                Message::Stored { entries, etags: etags.clone() }.encode(&mut self.out);
            }
        }
    }

    /// Tells which parts of a file an earlier session left here, so that the sender can compare those that it knows.
    fn send_kept(&mut self, id: EntryId, kept: &PartDigests) {
        let (digests, holes) = kept.runs();
        if !self.sends_etags || digests.max(holes) > MAX_KEPT_DIGESTS {
            return;
        }
        let mut tell = |part, parts| Message::Kept(Kept { entry: id, part, parts }).encode(&mut self.out);
        let (mut first, mut run) = (0, Vec::new());
        for (part, md5) in kept.parts() {
            if part != first + run.len() as u64 || run.len() == MAX_DIGESTS_A_FRAME {
                if !run.is_empty() {
                    tell(first, KeptParts::Digests(std::mem::take(&mut run)));
                }
                first = part;
            }
            run.push(md5);
        }
        if !run.is_empty() {
            tell(first, KeptParts::Digests(run));
        }
        kept.holes().for_each(|(first, parts)| tell(first, KeptParts::Zeros(parts)));
    }

    /// Entries that were announced and are not settled.
    pub fn in_flight(&self) -> usize {
        self.files.len() + self.waiting.len() + self.committing.len()
    }
}

#[cfg(test)]
mod tests;
