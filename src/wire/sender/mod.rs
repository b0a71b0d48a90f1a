//! The sender's end of a native session, as a state machine: frames in, [`Event`]s, [`Job`]s and frames out.
//!
//! The driver announces entries as long as there is [`SenderSession::has_room`], without waiting for the receiver's
//! welcome, takes [`Job`]s as the receiver asks for parts, and ends when the receipt is in. Small files that are announced
//! before the welcome are sent unasked, so that the way there is not empty until the first answer. What a hostile receiver can say is bounded: it can ask only for parts
//! that exist, confirm only what was sent, and repeat nothing without end.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use super::id_ranges::IdRanges;
use super::message::{
    Entry, EntryId, EntryKind, ErrorReport, FEATURE_ETAGS, FEATURE_STREAMS, Hello, Hole, Join, Kept,
    KeptParts, Message, Part, Receipt, SessionId, WantedParts,
};
use super::{
    MAX_ENTRIES_IN_FLIGHT, MAX_KEPT_IN_FLIGHT, MAX_NAME_BYTES_IN_FLIGHT, MAX_TRIES_A_PART, SMALL_FILE_BYTES,
    VERSION, WireError,
};
use crate::digest::{Etag, Md5, PART_BYTES, PartDigests, PartLayout, PartRange};
use crate::error_code::ErrorCode;
use crate::relpath::RelPath;
use crate::units::Metadata;

/// What a frame tells the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing.
    Nothing,
    /// The receiver introduced itself; raw text for logs.
    Welcomed {
        /// Can parts be spread over further connections, which [`SenderSession::join_frame`] introduces?
        takes_streams: bool,
    },
    /// There are jobs.
    Wanted,
    /// So many bytes of these files are at the receiver already, from an earlier session; there are jobs for the rest.
    Resumed(Vec<(EntryId, u64)>),
    /// Something like these files is at the receiver: what was sent of them unasked counts as an offer.
    Unneeded(Vec<EntryId>),
    /// These files are at the receiver already, compared by digest.
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
    /// What the receiver kept of an earlier transfer of this file is not this file. Answer with
    /// [`SenderSession::withdraw`]: the receiver then discards it.
    KeptOther(EntryId),
    /// The receiver failed an entry; the rest goes on.
    Failed {
        /// The entry.
        entry: EntryId,
        /// The reason.
        fault: ErrorCode,
        /// The receiver's sentence, raw.
        message: String,
        /// Had the receiver asked for the file?
        was_wanted: bool,
    },
    /// The last word: everything that is not failed is in place.
    Receipt(Receipt),
}

/// A part to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// The file.
    pub entry: EntryId,
    /// The part's index.
    pub part: u64,
    /// Where it lies.
    pub range: PartRange,
    /// Does the receiver want the bytes, or only their digest?
    pub wants_body: bool,
    /// Did nobody ask for it yet? Then it has to take the connection of its entry, behind that.
    pub is_unasked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Stage {
    Open,
    Ended,
    Done,
}

#[derive(Debug)]
enum State {
    /// A folder or link: nothing but `stored` or `error` can come.
    Other,
    File(FileState),
}

#[derive(Debug)]
struct InFlight {
    state: State,
    name_bytes: usize,
}

#[derive(Debug)]
struct FileState {
    layout: PartLayout,
    stage: FileStage,
    /// It is sent as if it was wanted, and the receiver has said nothing of it.
    is_unasked: bool,
    /// Something is there: a job that was taken before that was known must not be done any more.
    is_unasked_void: bool,
    /// Parts asked for and not yet taken as jobs.
    todo: VecDeque<RangeInclusive<u64>>,
    /// Parts sent, or offered, since the last decision.
    sent: u64,
    /// Parts that were asked for in the last decision.
    asked: u64,
    tries: BTreeMap<u64, u32>,
    /// What is known of the parts: hashed here, or said of those that the receiver has kept.
    digests: PartDigests,
    /// How many of the digests the receiver said.
    kept: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileStage {
    Announced,
    Offers,
    Bodies,
    AlreadyThere,
}

/// See the module's page.
#[derive(Debug)]
pub struct SenderSession {
    id: SessionId,
    is_welcome: bool,
    /// Does the receiver tell what it has verified?
    compares_etags: bool,
    /// Digests that the receiver said of files in flight.
    kept: usize,
    /// Is what goes on with a lost session left to be asked for? Much of it may be there.
    waits_for_want: bool,
    stage: Stage,
    next_entry: EntryId,
    entries: BTreeMap<EntryId, InFlight>,
    /// Of the names in `entries`.
    name_bytes: usize,
    /// Files with something to do, in the order in which it was asked for.
    queue: VecDeque<EntryId>,
    stored: u64,
    skipped: u64,
    failed: u64,
    out: Vec<u8>,
}

impl SenderSession {
    /// A session with its `hello` ready to be sent. It may go on where the connection of another one was lost.
    pub fn new(id: SessionId, continues: Option<SessionId>) -> Self {
        let mut out = Vec::new();
        let ours = Hello::ours(&[FEATURE_STREAMS, FEATURE_ETAGS], Some(id));
        Message::Hello(Hello { continues, ..ours }).encode(&mut out);
        SenderSession {
            id,
            is_welcome: false,
            compares_etags: false,
            kept: 0,
            waits_for_want: continues.is_some(),
            stage: Stage::Open,
            next_entry: 0,
            entries: BTreeMap::new(),
            name_bytes: 0,
            queue: VecDeque::new(),
            stored: 0,
            skipped: 0,
            failed: 0,
            out,
        }
    }

    /// Its name.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// How many entries were announced.
    pub fn announced(&self) -> u64 {
        self.next_entry
    }

    /// The first frame of a further connection.
    pub fn join_frame(&self) -> Vec<u8> {
        let mut out = Vec::new();
        Message::Join(Join { session: self.id }).encode(&mut out);
        out
    }

    /// May another entry be announced now?
    pub fn has_room(&self) -> bool {
        self.stage == Stage::Open
            && self.entries.len() < MAX_ENTRIES_IN_FLIGHT
            && self.name_bytes < MAX_NAME_BYTES_IN_FLIGHT
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
        let mut file = FileState {
            layout: PartLayout::new(size_bytes),
            stage: FileStage::Announced,
            is_unasked,
            is_unasked_void: false,
            todo: VecDeque::new(),
            sent: 0,
            asked: 0,
            tries: BTreeMap::new(),
            digests: PartDigests::new(),
            kept: 0,
        };
        if is_unasked {
            (file.stage, file.asked) = (FileStage::Bodies, 1);
            file.todo.push_back(0..=0);
            self.queue.push_back(self.next_entry);
        }
        let kind = EntryKind::File { size_bytes, is_sparse, state: source_state };
        self.announce(path, kind, metadata, State::File(file))
    }

    /// Gives the digests of parts that were hashed before this session, for a file that was just announced.
    pub fn set_digests(&mut self, id: EntryId, digests: PartDigests) {
        if let Some(file) = self.file(id) {
            file.digests = digests;
        }
    }

    /// What is known of the parts of a file in flight, for another session with the same state of the file.
    pub fn take_digests(&mut self, id: EntryId) -> PartDigests {
        self.file(id).map(|file| std::mem::take(&mut file.digests)).unwrap_or_default()
    }

    /// Announces a folder, after everything in it.
    pub fn announce_dir(&mut self, path: &RelPath, metadata: Metadata) -> EntryId {
        self.announce(path, EntryKind::Dir, metadata, State::Other)
    }

    /// Announces a link, after all files.
    pub fn announce_link(&mut self, path: &RelPath, target: &[u8], metadata: Metadata) -> EntryId {
        self.announce(path, EntryKind::Link { target: target.to_vec() }, metadata, State::Other)
    }

    fn announce(&mut self, path: &RelPath, kind: EntryKind, metadata: Metadata, state: State) -> EntryId {
        debug_assert!(self.has_room());
        let id = self.next_entry;
        self.next_entry += 1;
        let name_bytes = kind.name_bytes(path.as_bytes());
        self.name_bytes += name_bytes;
        self.entries.insert(id, InFlight { state, name_bytes });
        Message::Entry(Entry { id, name: path.as_bytes().to_vec(), kind, metadata }).encode(&mut self.out);
        id
    }

    /// Tells what the walk found.
    pub fn totals(&mut self, files: u64, bytes: u64) {
        Message::Totals { files, bytes }.encode(&mut self.out);
    }

    /// Says that every entry is announced.
    pub fn end(&mut self) {
        self.stage = Stage::Ended;
        Message::End { entries: self.next_entry }.encode(&mut self.out);
    }

    /// Tells the receiver that the silence means work.
    pub fn keepalive(&mut self) {
        Message::Busy.encode(&mut self.out);
    }

    fn file(&mut self, id: EntryId) -> Option<&mut FileState> {
        match self.entries.get_mut(&id) {
            Some(InFlight { state: State::File(file), .. }) => Some(file),
            _ => None,
        }
    }

    /// The entry is not in flight any more; `false` if it was not before.
    fn settle(&mut self, id: EntryId) -> bool {
        let Some(settled) = self.entries.remove(&id) else { return false };
        self.name_bytes -= settled.name_bytes;
        if let State::File(file) = settled.state {
            self.kept -= file.kept;
        }
        true
    }

    /// Gives up on an entry; `false` if it was settled meanwhile.
    pub fn withdraw(&mut self, entry: EntryId, fault: ErrorCode, reason: &str) -> bool {
        if !self.settle(entry) {
            return false;
        }
        self.failed += 1;
        Message::Error(ErrorReport { entry: Some(entry), fault, message: reason.to_owned() })
            .encode(&mut self.out);
        true
    }

    /// Tells the receiver why the session ends here.
    pub fn give_up(&mut self, fault: ErrorCode, reason: &str) {
        Message::Error(ErrorReport { entry: None, fault, message: reason.to_owned() }).encode(&mut self.out);
    }

    /// The next part to read.
    pub fn next_job(&mut self) -> Option<Job> {
        loop {
            let entry = *self.queue.front()?;
            let Some(file) = self.file(entry) else {
                self.queue.pop_front();
                continue;
            };
            let Some(run) = file.todo.pop_front() else {
                self.queue.pop_front();
                continue;
            };
            let part = *run.start();
            if part < *run.end() {
                file.todo.push_front(part + 1..=*run.end());
            }
            // A `want` is checked against the layout, so the range is there.
            let range = file.layout.range(part)?;
            let wants_body = file.stage == FileStage::Bodies;
            return Some(Job { entry, part, range, wants_body, is_unasked: file.is_unasked });
        }
    }

    /// Appends the dictionary of a part that was read to `out`; `false` if nobody wants it any more.
    /// The body, if wanted, must follow at once on the same connection.
    pub fn part_frame(&mut self, job: &Job, md5: Md5, out: &mut Vec<u8>) -> bool {
        let Some(file) = self.file(job.entry) else {
            return false;
        };
        let stage = if job.wants_body { FileStage::Bodies } else { FileStage::Offers };
        if file.stage != stage || job.is_unasked && file.is_unasked_void {
            return false;
        }
        file.sent += 1;
        file.digests.replace(job.part, md5);
        let part = Part { entry: job.entry, part: job.part, size_bytes: job.range.len, md5 };
        if job.wants_body { Message::Part(part) } else { Message::Offer(part) }.encode(out);
        true
    }

    /// The part of a job and up to `parts` in all, counted from it, hold zeros alone: takes as many of them as are
    /// wanted in a row, and returns how many those are.
    pub fn take_holes(&mut self, job: &Job, parts: u64) -> u64 {
        let stage = if job.wants_body { FileStage::Bodies } else { FileStage::Offers };
        // What is wanted now may be something else than what the job was for.
        let Some(file) = self.file(job.entry).filter(|file| file.stage == stage) else {
            return 1;
        };
        let Some(run) = file.todo.front_mut().filter(|run| *run.start() == job.part + 1) else {
            return 1;
        };
        let more = (parts.max(1) - 1).min(run.end() - run.start() + 1);
        if run.start() + more > *run.end() {
            file.todo.pop_front();
        } else {
            *run = run.start() + more..=*run.end();
        }
        1 + more
    }

    /// Appends the frame for `parts` parts of zeros that [`SenderSession::take_holes`] gave, from that of `job` on;
    /// `false` if nobody wants them any more.
    pub fn hole_frame(&mut self, job: &Job, parts: u64, out: &mut Vec<u8>) -> bool {
        let stage = if job.wants_body { FileStage::Bodies } else { FileStage::Offers };
        let Some(file) = self.file(job.entry) else {
            return false;
        };
        if file.stage != stage {
            return false;
        }
        file.sent += parts;
        file.digests.replace_holes(job.part, parts);
        let is_offer = !job.wants_body;
        Message::Hole(Hole { entry: job.entry, part: job.part, parts, is_offer }).encode(out);
        true
    }

    /// Takes the JSON of one frame.
    pub fn handle(&mut self, json: &[u8]) -> Result<Event, WireError> {
        let message = Message::parse(json)?;
        match (self.stage, message) {
            (_, Message::Error(ErrorReport { entry: None, fault, message })) => {
                Err(WireError::PeerGaveUp { fault, message })
            }
            (_, Message::Welcome(welcome)) if !self.is_welcome => {
                if welcome.version != VERSION {
                    return Err(WireError::Version { theirs: welcome.version });
                }
                self.is_welcome = true;
                self.compares_etags = welcome.has(FEATURE_ETAGS);
                Ok(Event::Welcomed { takes_streams: welcome.has(FEATURE_STREAMS) })
            }
            (_, other) if !self.is_welcome => Err(WireError::out_of_place(&other)),
            (Stage::Done, other) => Err(WireError::out_of_place(&other)),
            (_, Message::Busy) => Ok(Event::Nothing),
            (_, Message::Want { entries, parts }) => self.wanted(&entries, &parts),
            (_, Message::Again { entry, part }) => self.again(entry, part),
            (_, Message::Kept(kept)) if self.compares_etags => self.kept(kept),
            (_, Message::Stored { entries, etags }) => self.stored(&entries, etags.as_deref()),
            (_, Message::Error(ErrorReport { entry: Some(entry), fault, message })) => {
                self.known(&IdRanges::one(entry))?;
                let was_wanted =
                    self.file(entry).is_some_and(|file| file.stage == FileStage::Bodies && !file.is_unasked);
                if !self.settle(entry) {
                    return Ok(Event::Nothing);
                }
                self.failed += 1;
                Ok(Event::Failed { entry, fault, message, was_wanted })
            }
            (Stage::Ended, Message::Receipt(receipt)) => self.receipt(receipt),
            (_, other) => Err(WireError::out_of_place(&other)),
        }
    }

    /// Every id in `runs` was announced, and there are not more of them than can be in flight.
    fn known(&self, runs: &IdRanges) -> Result<(), WireError> {
        if runs.last().is_some_and(|last| last >= self.next_entry) {
            return Err(WireError::protocol("the receiver speaks of an entry that was never announced"));
        }
        if runs.count() > MAX_ENTRIES_IN_FLIGHT as u64 {
            return Err(WireError::protocol("the receiver speaks of more entries than are in flight"));
        }
        Ok(())
    }

    fn wanted(&mut self, ids: &IdRanges, parts: &WantedParts) -> Result<Event, WireError> {
        self.known(ids)?;
        let mut already_there = Vec::new();
        let mut resumed = Vec::new();
        let mut unneeded = Vec::new();
        let mut is_taken = false;
        for id in ids.iter().flatten() {
            let unexpected =
                |what: &str| Err(WireError::protocol(format!("the receiver wants of entry {id} {what}")));
            let file = match self.entries.get_mut(&id).map(|entry| &mut entry.state) {
                Some(State::File(file)) => file,
                Some(State::Other) => return unexpected("parts, but it is not a file"),
                None => continue, // Given up here while the frame was on its way.
            };
            is_taken = true;
            let last = file.layout.count() - 1;
            if std::mem::take(&mut file.is_unasked) {
                match parts {
                    WantedParts::All => continue,
                    WantedParts::Parts(runs) if runs.last() == Some(0) => continue,
                    // Its digest went out with its body.
                    WantedParts::Offers if file.sent > 0 => {
                        file.stage = FileStage::Offers;
                        unneeded.push(id);
                        continue;
                    }
                    WantedParts::Offers => {
                        file.stage = FileStage::Announced;
                        file.is_unasked_void = true;
                    }
                    _ => return unexpected("what it must not want now"),
                }
            }
            let (stage, todo) = match (file.stage, parts) {
                (FileStage::Announced | FileStage::Offers, WantedParts::All) => {
                    (FileStage::Bodies, VecDeque::from([0..=last]))
                }
                (FileStage::Announced, WantedParts::Offers) => {
                    (FileStage::Offers, VecDeque::from([0..=last]))
                }
                (FileStage::Announced | FileStage::Offers, WantedParts::Parts(runs)) => {
                    if runs.last().is_none_or(|part| part > last) {
                        return unexpected("parts that do not exist");
                    }
                    (FileStage::Bodies, runs.iter().collect())
                }
                (FileStage::Offers, WantedParts::None) if file.sent == file.asked => {
                    (FileStage::AlreadyThere, VecDeque::new())
                }
                _ => return unexpected("what it must not want now"),
            };
            file.stage = stage;
            file.asked = todo.iter().map(|run| run.end() - run.start() + 1).sum();
            file.sent = 0;
            file.todo = todo;
            if stage == FileStage::AlreadyThere {
                already_there.push(id);
            } else {
                if matches!(parts, WantedParts::Parts(_)) {
                    let asked_bytes = file.todo.iter().map(|run| file.layout.bytes(run)).sum::<u64>();
                    resumed.push((id, file.layout.size_bytes() - asked_bytes));
                }
                self.queue.push_back(id);
            }
        }
        // All of them were answered in one way.
        Ok(match (already_there.is_empty(), resumed.is_empty(), unneeded.is_empty()) {
            (false, _, _) => Event::AlreadyThere(already_there),
            (_, false, _) => Event::Resumed(resumed),
            (_, _, false) => Event::Unneeded(unneeded),
            _ if is_taken => Event::Wanted,
            // A receiver that repeats it for settled entries makes no progress.
            _ => Event::Nothing,
        })
    }

    fn again(&mut self, id: EntryId, part: u64) -> Result<Event, WireError> {
        self.known(&IdRanges::one(id))?;
        let file = match self.entries.get_mut(&id).map(|entry| &mut entry.state) {
            Some(State::File(file)) if file.stage == FileStage::Bodies => file,
            None => return Ok(Event::Nothing),
            _ => return Err(WireError::protocol("the receiver asks again for what was not sent")),
        };
        let unsent = file.todo.iter().any(|run| run.contains(&part));
        if file.layout.range(part).is_none() || unsent || file.sent == 0 {
            return Err(WireError::protocol("the receiver asks again for a part that was not sent"));
        }
        let tries = file.tries.entry(part).or_default();
        *tries += 1;
        if *tries >= MAX_TRIES_A_PART {
            return Err(WireError::protocol(format!(
                "the receiver asked for one part {MAX_TRIES_A_PART} times"
            )));
        }
        file.sent -= 1;
        file.todo.push_front(part..=part);
        self.queue.push_front(id);
        Ok(Event::Again { entry: id, part })
    }

    fn kept(&mut self, kept: Kept) -> Result<Event, WireError> {
        let Kept { entry: id, part: first, parts } = kept;
        let wrong =
            |what: &str| Err(WireError::protocol(format!("the receiver has kept {what} of entry {id}")));
        self.known(&IdRanges::one(id))?;
        let mut kept_in_flight = self.kept;
        let file = match self.entries.get_mut(&id).map(|entry| &mut entry.state) {
            Some(State::File(file)) if file.stage == FileStage::Announced => file,
            None => return Ok(Event::Nothing), // Given up here while the frame was on its way.
            Some(_) => return wrong("parts, at a time when it must not say so"),
        };
        let last = parts.count().checked_sub(1).and_then(|more| first.checked_add(more));
        let Some(last) = last.filter(|last| *last < file.layout.count()) else {
            return wrong("parts that do not exist");
        };
        match parts {
            KeptParts::Digests(digests) => {
                // First all of them are compared: what is counted below stays counted until the file is settled.
                let differs =
                    |(part, md5): (u64, &Md5)| file.digests.get(part).is_some_and(|known| known != *md5);
                if (first..).zip(&digests).any(differs) {
                    return Ok(Event::KeptOther(id));
                }
                for (part, md5) in (first..).zip(digests) {
                    if file.digests.get(part).is_none() && kept_in_flight < MAX_KEPT_IN_FLIGHT {
                        file.digests.insert(part, md5);
                        file.kept += 1;
                        kept_in_flight += 1;
                    }
                }
            }
            KeptParts::Zeros(count) => {
                if file.layout.range(last).is_none_or(|range| range.len != PART_BYTES) {
                    return wrong("zeros at the end");
                }
                if file.digests.differs_from_zeros(first, count) {
                    return Ok(Event::KeptOther(id));
                }
                // One run, however long it is.
                if kept_in_flight < MAX_KEPT_IN_FLIGHT {
                    file.digests.replace_holes(first, count);
                    file.kept += 1;
                    kept_in_flight += 1;
                }
            }
        }
        self.kept = kept_in_flight;
        Ok(Event::Nothing)
    }

    /// The etags of `stored`, one for each of `ids`. One that is missing or differs is a reason to end the session.
    fn check_etags(&self, ids: &IdRanges, etags: Option<&[Option<Etag>]>) -> Result<(), WireError> {
        let etags = etags.unwrap_or_default();
        if etags.len() as u64 != ids.count() {
            return Err(WireError::protocol("the receiver stored entries and did not tell the etag of each"));
        }
        for (entry, theirs) in ids.iter().flatten().zip(etags) {
            let ours = match self.entries.get(&entry).map(|entry| &entry.state) {
                Some(State::File(file)) => file.digests.etag(file.layout),
                _ => None,
            };
            match (ours, *theirs) {
                (Some(ours), Some(theirs)) if ours != theirs => {
                    return Err(WireError::Etag { entry, theirs, ours });
                }
                (Some(_), None) => {
                    let what = format!("the receiver stored entry {entry} and did not tell its etag");
                    return Err(WireError::protocol(what));
                }
                // Of parts that were kept and of which nothing was said, this side knows nothing.
                _ => {}
            }
        }
        Ok(())
    }

    fn stored(&mut self, ids: &IdRanges, etags: Option<&[Option<Etag>]>) -> Result<Event, WireError> {
        self.known(ids)?;
        if self.compares_etags {
            self.check_etags(ids, etags)?;
        }
        let mut settled = Vec::new();
        for id in ids.iter().flatten() {
            match self.entries.get(&id).map(|entry| &entry.state) {
                Some(State::Other) => {}
                Some(State::File(file)) if file.stage == FileStage::AlreadyThere => self.skipped += 1,
                Some(State::File(file)) if file.stage == FileStage::Bodies && file.sent == file.asked => {}
                Some(State::File(_)) => {
                    return Err(WireError::protocol(format!(
                        "the receiver confirms entry {id}, which was not sent whole"
                    )));
                }
                None => {
                    return Err(WireError::protocol(format!(
                        "the receiver confirms entry {id}, which is not in flight"
                    )));
                }
            }
            self.settle(id);
            settled.push(id);
        }
        self.stored += settled.len() as u64;
        Ok(Event::Stored(settled))
    }

    fn receipt(&mut self, receipt: Receipt) -> Result<Event, WireError> {
        let ours = (self.next_entry, self.stored, self.skipped, self.failed);
        let theirs = (receipt.entries, receipt.stored, receipt.skipped, receipt.failed);
        if !self.entries.is_empty() || ours != theirs {
            return Err(WireError::protocol(format!(
                "the receipt does not match: (entries, stored, skipped, failed) are {theirs:?} there and {ours:?} here"
            )));
        }
        self.stage = Stage::Done;
        Ok(Event::Receipt(receipt))
    }

    /// Was everything announced, and everything sent that the receiver may want? Only its answers are missing then.
    pub fn has_sent_all(&self) -> bool {
        self.stage != Stage::Open
            && self.entries.values().all(|entry| match &entry.state {
                State::File(file) => match file.stage {
                    FileStage::Announced | FileStage::Offers => false,
                    FileStage::Bodies => file.sent == file.asked,
                    FileStage::AlreadyThere => true,
                },
                State::Other => true,
            })
    }

    /// Has the receiver asked for anything that was not taken as a job?
    pub fn has_job(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Bytes that wait to be sent.
    pub fn output_len(&self) -> usize {
        self.out.len()
    }

    /// What is to be sent, and forgets it.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

#[cfg(test)]
mod tests;
