//! Both ends of a native session run against each other in memory: a sender's session, a receiver's session, streams that
//! are queues, and a disk that is a map. Frames of different streams overtake each other, bodies are damaged, connections
//! are cut, and everything that takes time at the receiver ends in any order. The same seed is the same run.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::model::{DAMAGED, Disk, Random, Source, Staged, Token, digest, frames, name};
use crate::digest::{Md5, PART_BYTES, PartDigests};
use crate::error_code::ErrorCode;
use crate::relpath::NamePolicy;
use crate::units::Metadata;
use crate::wire::receiver::{self, FileEntry, PartOutcome, ReceiverEvent, ReceiverSession, RetryDecision};
use crate::wire::sender::{Job, SenderEvent, SenderSession};
use crate::wire::{EntryId, SessionId, WireError};

/// Something in transit on a stream.
enum StreamItem {
    Frame(Vec<u8>),
    Body(Token),
}

/// Work of the receiver that ends at some time.
enum Work {
    Verify(receiver::PartHeader),
    Commit(EntryId),
}

/// The faults of a session: each happens once in so many cases, never if 0.
struct Faults {
    damage: usize,
    cut: usize,
    withdraw: usize,
    /// The number of streams over which parts overtake each other.
    streams: usize,
}

impl Faults {
    fn draw(random: &mut Random, is_last: bool) -> Self {
        let mut odds = |numbers: &[usize]| if is_last { 0 } else { numbers[random.below(numbers.len())] };
        let (damage, cut, withdraw) = (odds(&[0, 2, 3, 5]), odds(&[0, 10, 40, 200]), odds(&[0, 0, 10]));
        Faults { damage, cut, withdraw, streams: 1 + random.below(4) }
    }
}

/// What can happen next.
#[derive(Clone, Copy)]
enum Action {
    DeliverToReceiver { stream: usize },
    DeliverToSender,
    Send,
    FinishWork { index: usize },
}

struct Pair<'a> {
    random: &'a mut Random,
    faults: Faults,
    sender: SenderSession,
    receiver: ReceiverSession,
    sources: Vec<Source>,
    to_receiver: Vec<VecDeque<StreamItem>>,
    to_sender: VecDeque<Vec<u8>>,
    /// A header whose body comes next on its stream.
    expected: Vec<Option<ReceiverEvent>>,
    entries: HashMap<EntryId, FileEntry>,
    work: Vec<Work>,
    disk: &'a mut Disk,
    is_overwriting: bool,
    stored: Vec<EntryId>,
    failed: BTreeMap<EntryId, ErrorCode>,
    has_receipt: bool,
    /// The receiver has sent its receipt.
    is_finished: bool,
}

impl<'a> Pair<'a> {
    fn new(random: &'a mut Random, disk: &'a mut Disk, faults: Faults, sender: SenderSession) -> Self {
        let mut receiver = ReceiverSession::new(NamePolicy::Strict);
        if random.below(2) == 0 {
            receiver.disable_streams();
        }
        let streams = if receiver.takes_streams() { faults.streams } else { 1 };
        Pair {
            random,
            faults: Faults { streams, ..faults },
            sender,
            receiver,
            sources: Vec::new(),
            to_receiver: (0..streams).map(|_| VecDeque::new()).collect(),
            to_sender: VecDeque::new(),
            expected: (0..streams).map(|_| None).collect(),
            entries: HashMap::new(),
            work: Vec::new(),
            disk,
            is_overwriting: false,
            stored: Vec::new(),
            failed: BTreeMap::new(),
            has_receipt: false,
            is_finished: false,
        }
    }

    /// Runs until the sender has its receipt or the session is cut.
    fn run(&mut self) {
        self.move_output();
        loop {
            let has_moved = self.step().unwrap_or_else(|error| panic!("{error}"));
            assert!(has_moved, "both wait for each other");
            let is_cut = self.random.is_one_of(self.faults.cut);
            if self.has_receipt || is_cut {
                return;
            }
        }
    }

    fn move_output(&mut self) {
        let output = self.sender.take_output();
        self.to_receiver[0].extend(frames(&output).into_iter().map(StreamItem::Frame));
        let output = self.receiver.take_output();
        self.to_sender.extend(frames(&output));
    }

    fn announce(&mut self, known: &mut HashMap<usize, PartDigests>) {
        for (number, source) in self.sources.iter().enumerate() {
            let state = (source.size > PART_BYTES).then_some(source.state);
            let metadata = Metadata::default();
            let id = self.sender.announce_file(&name(number), source.size, source.is_sparse, state, metadata);
            assert_eq!(id, number as u64);
            if let Some(digests) = known.remove(&number) {
                self.sender.set_digests(id, digests);
            }
        }
        self.sender.end();
    }

    /// Performs a random action; `false` if none is possible.
    fn step(&mut self) -> Result<bool, WireError> {
        let mut actions = Vec::new();
        let busy = (0..self.to_receiver.len()).filter(|&stream| !self.to_receiver[stream].is_empty());
        actions.extend(busy.map(|stream| Action::DeliverToReceiver { stream }));
        if !self.to_sender.is_empty() {
            actions.push(Action::DeliverToSender);
        }
        if self.sender.has_job() {
            actions.push(Action::Send);
        }
        actions.extend((0..self.work.len()).map(|index| Action::FinishWork { index }));
        if actions.is_empty() {
            return Ok(false);
        }
        match actions[self.random.below(actions.len())] {
            Action::DeliverToReceiver { stream } => self.deliver_to_receiver(stream)?,
            Action::DeliverToSender => self.deliver_to_sender()?,
            Action::Send => self.send(),
            Action::FinishWork { index } => {
                let work = self.work.swap_remove(index);
                self.finish(work);
            }
        }
        self.is_finished = self.is_finished || self.receiver.finish().is_some();
        self.move_output();
        Ok(true)
    }

    fn send(&mut self) {
        let Some(job) = self.sender.next_job() else { return };
        let id = job.entry as usize;
        if !job.is_unasked && self.random.is_one_of(self.faults.withdraw) {
            if self.sender.withdraw(job.entry, ErrorCode::SourceChanged, "changed") {
                self.failed.insert(job.entry, ErrorCode::SourceChanged);
            }
            return;
        }
        // Only wanted parts may take other streams, which exist after the receiver's `welcome`.
        let stream = if job.is_unasked { 0 } else { self.random.below(self.faults.streams) };
        let source = self.sources[id].clone();
        let mut frame = Vec::new();
        let is_hole = |part: u64| {
            let is_whole = source.layout().range(part).is_some_and(|range| range.len == PART_BYTES);
            is_whole && source.parts[part as usize] == 0
        };
        if source.is_sparse && is_hole(job.part) && self.random.below(2) == 0 {
            let parts = (job.part..).take_while(|part| is_hole(*part)).count() as u64;
            let parts = self.sender.take_holes(&job, parts);
            self.sender.hole_frame(&job, parts, &mut frame);
        } else {
            self.part(&job, source.parts[job.part as usize], &mut frame);
        }
        let items = frames(&frame).into_iter().map(StreamItem::Frame);
        self.to_receiver[stream].extend(items);
        if !frame.is_empty() && job.wants_body && frames(&frame)[0].starts_with(b"{\"ftx\":\"part\"") {
            let token = source.parts[job.part as usize];
            let is_damaged = job.range.len > 0 && self.random.is_one_of(self.faults.damage);
            let token = if is_damaged { DAMAGED + self.random.below(100) as Token } else { token };
            self.to_receiver[stream].push_back(StreamItem::Body(token));
        }
    }

    fn part(&mut self, job: &Job, token: Token, frame: &mut Vec<u8>) {
        self.sender.part_frame(job, digest(token, job.range.len), frame);
    }

    fn deliver_to_receiver(&mut self, stream: usize) -> Result<(), WireError> {
        let json = match self.to_receiver[stream].pop_front().unwrap() {
            StreamItem::Body(token) => {
                let event = self.expected[stream].take().expect("a header before its body");
                self.body(event, token);
                return Ok(());
            }
            StreamItem::Frame(json) => json,
        };
        assert!(self.expected[stream].is_none(), "a body is missing");
        let event = match stream {
            0 => self.receiver.handle(&json)?,
            _ => self.receiver.handle_joined(&json)?,
        };
        match event {
            ReceiverEvent::File(entry) => self.decide(entry),
            ReceiverEvent::Body(_) | ReceiverEvent::Discard { .. } | ReceiverEvent::OfferAndBody(_) => {
                self.expected[stream] = Some(event);
            }
            ReceiverEvent::Offer(header) => self.compare(&header),
            ReceiverEvent::Hole(hole) if hole.is_offer => {
                let path = self.entries[&hole.id].path.as_bytes();
                let is_zero = |(_, parts): &(u64, Vec<Token>)| {
                    (hole.part..hole.part + hole.parts).all(|part| parts[part as usize] == 0)
                };
                if self.disk.files.get(path).is_some_and(is_zero) {
                    let outcome = self.receiver.holes_verified(&hole);
                    self.on_verified(hole.id, outcome, true);
                } else {
                    self.on_difference(hole.id);
                }
            }
            ReceiverEvent::Hole(hole) => {
                let staged = self.staged(hole.id);
                if !staged.is_zero_filled || hole.must_clear {
                    (hole.part..hole.part + hole.parts).for_each(|part| staged.parts[part as usize] = 0);
                }
                let outcome = self.receiver.holes_verified(&hole);
                self.record(hole.id, |recorded| recorded.replace_holes(hole.part, hole.parts));
                self.on_verified(hole.id, outcome, false);
            }
            ReceiverEvent::Withdrawn { path, .. } => {
                self.disk.staged.remove(path.as_bytes());
            }
            ReceiverEvent::Refused { .. } | ReceiverEvent::Measure(_) => {
                panic!("{event:?}")
            }
            ReceiverEvent::Nothing | ReceiverEvent::Totals { .. } => {}
        }
        Ok(())
    }

    fn decide(&mut self, entry: FileEntry) {
        let (id, path, layout) = (entry.id, entry.path.as_bytes().to_vec(), entry.layout);
        let state = entry.state;
        self.entries.insert(id, entry);
        match self.disk.files.get(&path) {
            Some((size, _)) if *size == layout.size_bytes() => return self.receiver.want_offers(id),
            Some(_) if !self.is_overwriting => {
                self.receiver.fail(id, ErrorCode::Exists, "a different file");
                return;
            }
            _ => {}
        }
        let kept = self.disk.staged.get_mut(&path).filter(|staged| Some(staged.source) == state);
        match kept {
            Some(staged) if staged.recorded.count() > 0 => {
                // Recorded parts are present. Later parts may hold anything.
                staged.is_zero_filled = false;
                let mut present = staged.recorded.clone();
                receiver::remaining_ranges(&mut present, layout);
                if present.count() == 0 {
                    self.receiver.want_all(id);
                } else {
                    self.receiver.want_missing(id, present);
                }
            }
            _ => {
                self.disk.staged.remove(&path);
                self.receiver.want_all(id);
            }
        }
    }

    fn staged(&mut self, id: EntryId) -> &mut Staged {
        let entry = &self.entries[&id];
        let is_sparse = entry.is_sparse;
        self.disk.staged.entry(entry.path.as_bytes().to_vec()).or_insert_with(|| Staged {
            source: entry.state.unwrap_or(Md5::of(b"")),
            // What a file holds where nothing was written to it, if it does not begin as zeros.
            parts: vec![if is_sparse { 0 } else { 99 }; entry.layout.count() as usize],
            recorded: PartDigests::new(),
            is_zero_filled: is_sparse,
        })
    }

    fn record(&mut self, id: EntryId, record: impl FnOnce(&mut PartDigests)) {
        let path = self.entries[&id].path.as_bytes();
        if let Some(staged) = self.disk.staged.get_mut(path) {
            record(&mut staged.recorded);
        }
    }

    fn body(&mut self, event: ReceiverEvent, token: Token) {
        match event {
            ReceiverEvent::Body(header) => {
                self.staged(header.id).parts[header.part as usize] = token;
                self.work.push(Work::Verify(header));
            }
            ReceiverEvent::OfferAndBody(header) => self.compare(&header),
            _ => {}
        }
    }

    fn compare(&mut self, header: &receiver::PartHeader) {
        let path = self.entries[&header.id].path.as_bytes();
        let stored = self.disk.files.get(path).map(|(_, parts)| parts[header.part as usize]);
        if stored.is_some_and(|token| digest(token, header.range.len) == header.md5) {
            let outcome = self.receiver.part_verified(header);
            self.on_verified(header.id, outcome, true);
        } else {
            self.on_difference(header.id);
        }
    }

    fn on_difference(&mut self, id: EntryId) {
        if !self.receiver.is_open(id) {
            return;
        }
        if self.is_overwriting {
            // Into a new staged file; the one of an earlier session is not resumed.
            self.disk.staged.remove(self.entries[&id].path.as_bytes());
            self.receiver.want_all(id);
        } else {
            self.receiver.fail(id, ErrorCode::Exists, "a different file");
        }
    }

    fn on_verified(&mut self, id: EntryId, outcome: PartOutcome, was_present: bool) {
        let PartOutcome::Complete(digests) = outcome else { return };
        let entry = &self.entries[&id];
        let path = entry.path.as_bytes().to_vec();
        let layout = entry.layout;
        if !was_present {
            let staged = self.disk.staged.remove(&path).expect("it is complete");
            for (index, token) in (0..).zip(&staged.parts) {
                let len = layout.range(index).unwrap().len;
                assert_eq!(
                    digests.get(index),
                    Some(digest(*token, len)),
                    "part {index} of {id} is not what was verified"
                );
            }
            self.disk.files.insert(path, (layout.size_bytes(), staged.parts));
        }
        self.work.push(Work::Commit(id));
    }

    fn finish(&mut self, work: Work) {
        match work {
            Work::Commit(id) => self.receiver.stored(id),
            Work::Verify(header) => {
                let path = self.entries[&header.id].path.as_bytes();
                // The entry may have failed meanwhile.
                let Some(staged) = self.disk.staged.get(path) else { return };
                let token = staged.parts[header.part as usize];
                if digest(token, header.range.len) == header.md5 {
                    let outcome = self.receiver.part_verified(&header);
                    self.record(header.id, |recorded| recorded.replace(header.part, header.md5));
                    self.on_verified(header.id, outcome, false);
                } else if let RetryDecision::GaveUp { .. } = self.receiver.part_damaged(&header) {
                    self.disk.staged.remove(self.entries[&header.id].path.as_bytes());
                }
            }
        }
    }

    fn deliver_to_sender(&mut self) -> Result<(), WireError> {
        let json = self.to_sender.pop_front().unwrap();
        match self.sender.handle(&json)? {
            SenderEvent::Stored(ids) => {
                for id in ids {
                    let source = &self.sources[id as usize];
                    let stored = self.disk.files.get(name(id as usize).as_bytes());
                    assert_eq!(stored, Some(&(source.size, source.parts.clone())), "entry {id} was stored");
                    self.stored.push(id);
                }
            }
            SenderEvent::Failed { entry, code, .. } => {
                self.failed.insert(entry, code);
            }
            SenderEvent::KeptOther(id) => panic!("entry {id} is kept with other content"),
            SenderEvent::Receipt(receipt) => {
                assert_eq!(
                    (receipt.stored, receipt.failed),
                    (self.stored.len() as u64, self.failed.len() as u64)
                );
                self.has_receipt = true;
            }
            _ => {}
        }
        Ok(())
    }
}

/// A receiver's disk and a sender's sources, over several sessions.
struct Scenario {
    random: Random,
    disk: Disk,
    sources: Vec<Source>,
    is_overwriting: bool,
    /// The session that the next one continues, and the digests that its sender kept.
    previous: Option<SessionId>,
    known: HashMap<usize, PartDigests>,
    stored: usize,
}

impl Scenario {
    fn draw(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut disk = Disk::default();
        let sources: Vec<Source> = (0..1 + random.below(4)).map(|_| Source::draw(&mut random)).collect();
        let is_overwriting = random.below(2) == 0;
        for (number, source) in sources.iter().enumerate() {
            if random.below(4) == 0 {
                let existing = if random.below(2) == 0 { source.clone() } else { Source::draw(&mut random) };
                disk.files.insert(name(number).as_bytes().to_vec(), (existing.size, existing.parts));
            }
        }
        Scenario { random, disk, sources, is_overwriting, previous: None, known: HashMap::new(), stored: 0 }
    }

    fn run_session(&mut self, number: usize, is_last: bool) {
        let faults = Faults::draw(&mut self.random, is_last);
        let id = SessionId::new([number as u8; 16]);
        let sender = SenderSession::new(id, self.previous.take());
        let mut pair = Pair::new(&mut self.random, &mut self.disk, faults, sender);
        (pair.sources, pair.is_overwriting) = (self.sources.clone(), self.is_overwriting);
        pair.announce(&mut self.known);
        pair.run();
        self.stored += pair.stored.len();
        if is_last {
            assert_eq!(pair.stored.len() + pair.failed.len(), self.sources.len());
            assert!(pair.failed.values().all(|code| *code == ErrorCode::Exists && !self.is_overwriting));
        }
        if !pair.has_receipt && pair.random.below(2) == 0 {
            self.previous = Some(id);
            let digests = |number| (number, pair.sender.take_digests(number as u64));
            self.known = (0..self.sources.len()).map(digests).collect();
        } else if !is_last && self.random.below(3) == 0 {
            let number = self.random.below(self.sources.len());
            self.sources[number] = Source::draw(&mut self.random);
        }
    }
}

/// Some sessions with one receiver, the last of them without faults. Returns the number of sessions and of stored files.
fn run(seed: u64) -> (usize, usize) {
    let mut scenario = Scenario::draw(seed);
    let sessions = 1 + scenario.random.below(4);
    for number in 1..=sessions {
        scenario.run_session(number, number == sessions);
    }
    (sessions, scenario.stored)
}

#[test]
fn both_ends_agree_under_reordering_damage_and_cuts() {
    let (mut sessions, mut stored) = (0, 0);
    for seed in 0.. {
        let case = std::panic::catch_unwind(|| run(seed));
        let (more, files) = case.unwrap_or_else(|panic| {
            let message = panic.downcast_ref::<String>().cloned();
            panic!("seed {seed}: {}", message.unwrap_or_else(|| "see above".to_owned()))
        });
        (sessions, stored) = (sessions + more, stored + files);
        if sessions >= 10_000 {
            break;
        }
    }
    assert!(stored > sessions, "{stored} files in {sessions} sessions");
}
