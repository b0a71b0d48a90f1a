//! Both ends of a native session run against each other in memory: a sender's session, a receiver's session, streams that
//! are queues, and a disk that is a map. Frames of different streams overtake each other, bodies are damaged, connections
//! are cut, and everything that takes time at the receiver ends in any order. The same seed is the same run.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::digest::{Md5, PART_BYTES, PartDigests, PartLayout};
use crate::error_code::ErrorCode;
use crate::relpath::{NamePolicy, RelPath};
use crate::units::Metadata;
use crate::wire::receiver::{self, FileEntry, PartOutcome, ReceiverSession, RetryDecision};
use crate::wire::sender::{self, Job, SenderSession};
use crate::wire::{EntryId, FrameBuffer, Framing, SessionId, WireError};

/// What a part holds stands for its bytes: 0 for zeros, [`DAMAGED`] and above for what no source holds.
type Token = u8;
const DAMAGED: Token = 100;

/// SplitMix64 (Steele et al. 2014).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    fn is_one_of(&mut self, number: usize) -> bool {
        number > 0 && self.below(number) == 0
    }
}

/// The digest of a part with this token. That of whole zeros is what a hole stands for.
fn digest(token: Token, len: u64) -> Md5 {
    if token == 0 && len == PART_BYTES {
        let mut zeros = PartDigests::new();
        zeros.insert_holes(0, 1);
        return zeros.get(0).unwrap();
    }
    Md5::of(&[&[token][..], &len.to_le_bytes()].concat())
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    size: u64,
    parts: Vec<Token>,
    is_sparse: bool,
    state: Md5,
}

impl Source {
    fn draw(random: &mut Chance) -> Self {
        let size = match random.below(5) {
            0 => random.below(1000) as u64,
            _ => random.below(4) as u64 * PART_BYTES + random.below(2) as u64 * 5,
        };
        let parts =
            (0..PartLayout::new(size).count()).map(|_| random.below(4).saturating_sub(1) as Token).collect();
        let state = Md5::of(&random.below(usize::MAX).to_le_bytes());
        Source { size, parts, is_sparse: random.below(3) > 0, state }
    }

    fn layout(&self) -> PartLayout {
        PartLayout::new(self.size)
    }
}

/// What is on its way on a stream.
enum Item {
    Frame(Vec<u8>),
    Body(Token),
}

/// A file in arrival, and what of it is recorded for another session.
#[derive(Clone)]
struct Staged {
    source: Md5,
    parts: Vec<Token>,
    recorded: PartDigests,
    /// Nothing was ever written where nothing is verified.
    is_fresh: bool,
}

/// What the receiver has from one session to the next.
#[derive(Default)]
struct Disk {
    files: HashMap<Vec<u8>, (u64, Vec<Token>)>,
    staged: HashMap<Vec<u8>, Staged>,
}

/// Work of the receiver that ends at some time.
enum Work {
    Judge(receiver::PartHeader),
    Commit(EntryId),
}

struct Faults {
    damage: usize,
    cut: usize,
    withdraw: usize,
    streams: usize,
}

struct Pair<'a> {
    random: &'a mut Chance,
    faults: Faults,
    sender: SenderSession,
    receiver: ReceiverSession,
    sources: Vec<Source>,
    to_receiver: Vec<VecDeque<Item>>,
    to_sender: VecDeque<Vec<u8>>,
    /// A header whose body comes next on its stream.
    expected: Vec<Option<receiver::ReceiverEvent>>,
    entries: HashMap<EntryId, FileEntry>,
    work: Vec<Work>,
    disk: &'a mut Disk,
    is_overwriting: bool,
    stored: Vec<EntryId>,
    failed: BTreeMap<EntryId, ErrorCode>,
    has_receipt: bool,
    /// The receipt is on its way.
    has_said_all: bool,
}

fn frames(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut inbox, mut given, mut all) = (FrameBuffer::new(), 0, Vec::new());
    loop {
        given += inbox.push(&bytes[given..]);
        match inbox.next_frame(Framing::Native).unwrap() {
            Some(json) => all.push(json.to_vec()),
            None => break,
        }
    }
    assert!(given == bytes.len() && inbox.is_empty());
    all
}

fn name(id: usize) -> RelPath {
    RelPath::new(format!("f{id}").as_bytes(), NamePolicy::Strict).unwrap()
}

impl Pair<'_> {
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

    /// One thing happens; `false` when nothing can.
    fn step(&mut self) -> Result<bool, WireError> {
        let mut could = Vec::new();
        let busy = (0..self.to_receiver.len()).filter(|&at| !self.to_receiver[at].is_empty());
        could.extend(busy.map(|at| (0, at)));
        if !self.to_sender.is_empty() {
            could.push((1, 0));
        }
        if self.sender.has_job() {
            could.push((2, 0));
        }
        could.extend((0..self.work.len()).map(|at| (3, at)));
        if could.is_empty() {
            return Ok(false);
        }
        let (what, at) = could[self.random.below(could.len())];
        match what {
            0 => self.receive(at)?,
            1 => self.hear()?,
            2 => self.send(),
            _ => {
                let work = self.work.swap_remove(at);
                self.finish(work);
            }
        }
        self.has_said_all = self.has_said_all || self.receiver.finish().is_some();
        let said = self.sender.take_output();
        self.to_receiver[0].extend(frames(&said).into_iter().map(Item::Frame));
        let said = self.receiver.take_output();
        self.to_sender.extend(frames(&said));
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
        // Only wanted parts may take other streams, which exist once the receiver has said welcome.
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
        let items = frames(&frame).into_iter().map(Item::Frame);
        self.to_receiver[stream].extend(items);
        if !frame.is_empty() && job.wants_body && frames(&frame)[0].starts_with(b"{\"ftx\":\"part\"") {
            let token = source.parts[job.part as usize];
            let is_damaged = job.range.len > 0 && self.random.is_one_of(self.faults.damage);
            let token = if is_damaged { DAMAGED + self.random.below(100) as Token } else { token };
            self.to_receiver[stream].push_back(Item::Body(token));
        }
    }

    fn part(&mut self, job: &Job, token: Token, frame: &mut Vec<u8>) {
        self.sender.part_frame(job, digest(token, job.range.len), frame);
    }

    fn receive(&mut self, stream: usize) -> Result<(), WireError> {
        let json = match self.to_receiver[stream].pop_front().unwrap() {
            Item::Body(token) => {
                let event = self.expected[stream].take().expect("a header before its body");
                self.body(event, token);
                return Ok(());
            }
            Item::Frame(json) => json,
        };
        assert!(self.expected[stream].is_none(), "a body is missing");
        let event = match stream {
            0 => self.receiver.handle(&json)?,
            _ => self.receiver.handle_joined(&json)?,
        };
        match event {
            receiver::ReceiverEvent::File(entry) => self.decide(entry),
            receiver::ReceiverEvent::Body(_)
            | receiver::ReceiverEvent::Discard { .. }
            | receiver::ReceiverEvent::OfferAndBody(_) => {
                self.expected[stream] = Some(event);
            }
            receiver::ReceiverEvent::Offer(header) => self.compare(&header),
            receiver::ReceiverEvent::Hole(hole) if hole.is_offer => {
                let path = self.entries[&hole.id].path.as_bytes();
                let is_zero = |(_, parts): &(u64, Vec<Token>)| {
                    (hole.part..hole.part + hole.parts).all(|part| parts[part as usize] == 0)
                };
                if self.disk.files.get(path).is_some_and(is_zero) {
                    let progressed = self.receiver.holes_verified(&hole);
                    self.progressed(hole.id, progressed, true);
                } else {
                    self.differs(hole.id);
                }
            }
            receiver::ReceiverEvent::Hole(hole) => {
                let staged = self.staged(hole.id);
                if !staged.is_fresh || hole.must_clear {
                    (hole.part..hole.part + hole.parts).for_each(|part| staged.parts[part as usize] = 0);
                }
                let progressed = self.receiver.holes_verified(&hole);
                self.record(hole.id, |recorded| recorded.replace_holes(hole.part, hole.parts));
                self.progressed(hole.id, progressed, false);
            }
            receiver::ReceiverEvent::Withdrawn { path, .. } => {
                self.disk.staged.remove(path.as_bytes());
            }
            receiver::ReceiverEvent::Refused { .. } | receiver::ReceiverEvent::Measure(_) => {
                panic!("{event:?}")
            }
            receiver::ReceiverEvent::Nothing | receiver::ReceiverEvent::Totals { .. } => {}
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
                // What is recorded is there. What was written behind it is anything.
                staged.is_fresh = false;
                let mut there = staged.recorded.clone();
                receiver::remaining_ranges(&mut there, layout);
                if there.count() == 0 {
                    self.receiver.want_all(id);
                } else {
                    self.receiver.want_missing(id, there);
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
            is_fresh: is_sparse,
        })
    }

    fn record(&mut self, id: EntryId, record: impl FnOnce(&mut PartDigests)) {
        let path = self.entries[&id].path.as_bytes();
        if let Some(staged) = self.disk.staged.get_mut(path) {
            record(&mut staged.recorded);
        }
    }

    fn body(&mut self, event: receiver::ReceiverEvent, token: Token) {
        match event {
            receiver::ReceiverEvent::Body(header) => {
                self.staged(header.id).parts[header.part as usize] = token;
                self.work.push(Work::Judge(header));
            }
            receiver::ReceiverEvent::OfferAndBody(header) => self.compare(&header),
            _ => {}
        }
    }

    fn compare(&mut self, header: &receiver::PartHeader) {
        let path = self.entries[&header.id].path.as_bytes();
        let there = self.disk.files.get(path).map(|(_, parts)| parts[header.part as usize]);
        if there.is_some_and(|token| digest(token, header.range.len) == header.md5) {
            let progressed = self.receiver.part_verified(header);
            self.progressed(header.id, progressed, true);
        } else {
            self.differs(header.id);
        }
    }

    fn differs(&mut self, id: EntryId) {
        if !self.receiver.is_open(id) {
            return;
        }
        if self.is_overwriting {
            // In a new file: what an earlier session left is not gone on with.
            self.disk.staged.remove(self.entries[&id].path.as_bytes());
            self.receiver.want_all(id);
        } else {
            self.receiver.fail(id, ErrorCode::Exists, "a different file");
        }
    }

    fn progressed(&mut self, id: EntryId, progressed: PartOutcome, was_there: bool) {
        let PartOutcome::Complete(digests) = progressed else { return };
        let entry = &self.entries[&id];
        let path = entry.path.as_bytes().to_vec();
        let layout = entry.layout;
        if !was_there {
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
            Work::Judge(header) => {
                let path = self.entries[&header.id].path.as_bytes();
                // It may have failed meanwhile.
                let Some(staged) = self.disk.staged.get(path) else { return };
                let token = staged.parts[header.part as usize];
                if digest(token, header.range.len) == header.md5 {
                    let progressed = self.receiver.part_verified(&header);
                    self.record(header.id, |recorded| recorded.replace(header.part, header.md5));
                    self.progressed(header.id, progressed, false);
                } else if let RetryDecision::GaveUp { .. } = self.receiver.part_damaged(&header) {
                    self.disk.staged.remove(self.entries[&header.id].path.as_bytes());
                }
            }
        }
    }

    fn hear(&mut self) -> Result<(), WireError> {
        let json = self.to_sender.pop_front().unwrap();
        match self.sender.handle(&json)? {
            sender::SenderEvent::Stored(ids) => {
                for id in ids {
                    let source = &self.sources[id as usize];
                    let there = self.disk.files.get(name(id as usize).as_bytes());
                    assert_eq!(there, Some(&(source.size, source.parts.clone())), "entry {id} was stored");
                    self.stored.push(id);
                }
            }
            sender::SenderEvent::Failed { entry, code, .. } => {
                self.failed.insert(entry, code);
            }
            sender::SenderEvent::KeptOther(id) => panic!("entry {id} is kept with other content"),
            sender::SenderEvent::Receipt(receipt) => {
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

/// Some sessions with one receiver, the last of them without faults.
fn run(seed: u64) -> (usize, usize) {
    let random = &mut Chance(seed);
    let mut disk = Disk::default();
    let mut sources: Vec<Source> = (0..1 + random.below(4)).map(|_| Source::draw(random)).collect();
    let is_overwriting = random.below(2) == 0;
    for (number, source) in sources.iter().enumerate() {
        if random.below(4) == 0 {
            let there = if random.below(2) == 0 { source.clone() } else { Source::draw(random) };
            disk.files.insert(name(number).as_bytes().to_vec(), (there.size, there.parts));
        }
    }
    let (mut last, mut known, mut stored, sessions) = (None, HashMap::new(), 0, 1 + random.below(4));
    for session in 1..=sessions {
        let is_last = session == sessions;
        let of = |random: &mut Chance, numbers: &[usize]| {
            if is_last { 0 } else { numbers[random.below(numbers.len())] }
        };
        let faults = Faults {
            damage: of(random, &[0, 2, 3, 5]),
            cut: of(random, &[0, 10, 40, 200]),
            withdraw: of(random, &[0, 0, 10]),
            streams: 1 + random.below(4),
        };
        let id = SessionId::new([session as u8; 16]);
        let mut receiver = ReceiverSession::new(NamePolicy::Strict);
        if random.below(2) == 0 {
            receiver.disable_streams();
        }
        let streams = if receiver.takes_streams() { faults.streams } else { 1 };
        let mut pair = Pair {
            faults: Faults { streams, ..faults },
            sender: SenderSession::new(id, last),
            receiver,
            sources: sources.clone(),
            to_receiver: (0..streams).map(|_| VecDeque::new()).collect(),
            to_sender: VecDeque::new(),
            expected: (0..streams).map(|_| None).collect(),
            entries: HashMap::new(),
            work: Vec::new(),
            disk: &mut disk,
            is_overwriting,
            stored: Vec::new(),
            failed: BTreeMap::new(),
            has_receipt: false,
            has_said_all: false,
            random,
        };
        pair.announce(&mut known);
        let said = pair.sender.take_output();
        pair.to_receiver[0].extend(frames(&said).into_iter().map(Item::Frame));
        let mut is_cut = false;
        while !pair.has_receipt && !is_cut {
            assert!(pair.step().unwrap_or_else(|error| panic!("{error}")), "both wait for each other");
            is_cut = pair.random.is_one_of(pair.faults.cut);
        }
        stored += pair.stored.len();
        last = None;
        if is_cut && pair.random.below(2) == 0 {
            last = Some(id);
            known =
                (0..sources.len()).map(|number| (number, pair.sender.take_digests(number as u64))).collect();
        }
        if is_last {
            assert_eq!(pair.stored.len() + pair.failed.len(), sources.len());
            assert!(pair.failed.values().all(|code| *code == ErrorCode::Exists && !is_overwriting));
        } else if last.is_none() && random.below(3) == 0 {
            let number = random.below(sources.len());
            sources[number] = Source::draw(random);
        }
    }
    (sessions, stored)
}

#[test]
fn two_ends_that_meet_in_memory_agree_whatever_happens_between_them() {
    let (mut sessions, mut stored) = (0, 0);
    for seed in 0.. {
        let case = std::panic::catch_unwind(|| run(seed));
        let (more, files) = case.unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().cloned();
            panic!("seed {seed}: {}", said.unwrap_or_else(|| "see above".to_owned()))
        });
        (sessions, stored) = (sessions + more, stored + files);
        if sessions >= 10_000 {
            break;
        }
    }
    assert!(stored > sessions, "{stored} files in {sessions} sessions");
}
