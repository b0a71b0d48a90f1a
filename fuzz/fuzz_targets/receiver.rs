//! The receiver's session with arbitrary frames of a sender on its connections, while its driver answers in any order:
//! its counts and frames are correct, and a file is complete only after all its parts are verified.
#![no_main]

use std::collections::{BTreeSet, HashMap, HashSet};

use arbitrary::Arbitrary;
use ftx::digest::{Md5, PART_BYTES, PartDigests};
use ftx::error_code::ErrorCode;
use ftx::escape::is_unsafe_to_print;
use ftx::relpath::NamePolicy;
use ftx::wire::message::{ErrorReport, Measured, WantedParts};
use ftx::wire::receiver::{
    FileEntry, FirstFrame, HoleHeader, PartHeader, PartOutcome, ReceiverEvent, RetryDecision,
    parse_first_frame,
};
use ftx::wire::{
    FrameBuffer, Framing, MAX_ENTRIES_IN_FLIGHT, MAX_MEASURE_BYTES, MAX_MEASURES, MAX_TRIES_A_PART, Message,
    ReceiverSession, SMALL_FILE_BYTES, SessionId, WireError,
};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    streams: bool,
    session: bool,
    continues: bool,
    streams_allowed: bool,
    allow_odd: bool,
    steps: Vec<Step<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    // Frames of the sender, on the primary connection or on a joined one.
    File { name: u8, tail: u8, parts: u8, sparse: bool, has_state: bool },
    HugeFile { size: u64 },
    Dir(u8),
    Link { name: u8, target: &'a str },
    Part { entry: u8, part: u8, right_size: bool, offer: bool, joined: bool },
    Hole { entry: u8, part: u8, parts: u8, joined: bool },
    FarHole { entry: u8, part: u64, parts: u64 },
    Withdraw { entry: u8, message: &'a str },
    Totals,
    End { right: bool },
    Busy { joined: bool },
    Measure { what: u8, size: u32 },
    Hello,
    Join,
    GiveUp(&'a str),
    Raw { json: &'a [u8], joined: bool },
    // Calls of the driver.
    WantAll(u8),
    WantOffers(u8),
    WantMissing { entry: u8, kept: u8, hole: (u8, u8) },
    Verified(u8),
    HoleVerified(u8),
    Damaged(u8),
    Ready,
    Stored(u8),
    Fail(u8),
    Finish,
}

/// An index below `count`, as a rule: a session that ends at its first frame tests nothing.
fn pick(raw: u8, count: u64) -> u64 {
    if raw >= 0xf0 { raw.into() } else { u64::from(raw) % count.max(1) }
}

const NAMES: [&str; 7] = ["a", "d/b", "../x", "", "d/é", ".ftx-1", "a\\u202e"];
const MD5: &str = "900150983cd24fb0d6963f7d28e17f72";
const WHAT: [&str; 4] = ["md5", "write", "wire", "heat"];

/// Runs of parts (first, count): a huge file has too many parts for a set.
#[derive(Default)]
struct PartRuns(Vec<(u64, u64)>);

impl PartRuns {
    fn has_any(&self, first: u64, parts: u64) -> bool {
        self.0.iter().any(|&(at, len)| at < first + parts && first < at + len)
    }

    fn insert(&mut self, first: u64, parts: u64) {
        assert!(!self.has_any(first, parts), "twice");
        self.0.push((first, parts));
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|(_, parts)| parts).sum()
    }
}

#[derive(Default)]
struct Model {
    files: HashMap<u64, FileEntry>,
    /// Parts of each file that were verified since its last `want`, or were present before it.
    verified: HashMap<u64, PartRuns>,
    /// Files of which offers are requested.
    offers: HashSet<u64>,
    /// Files for which a `want` was sent.
    decided: HashSet<u64>,
    /// Headers that the driver has neither verified nor rejected.
    parts: Vec<PartHeader>,
    holes: Vec<HoleHeader>,
    damaged: HashMap<(u64, u64), u32>,
    others: HashSet<u64>,
    committing: HashSet<u64>,
    settled: HashSet<u64>,
    /// The settled entries for which a frame is expected.
    stored: HashSet<u64>,
    failed: HashSet<u64>,
    skipped: HashSet<u64>,
    /// The entries whose frame was sent.
    stored_sent: HashSet<u64>,
    failed_sent: HashSet<u64>,
    withdrawn: HashSet<u64>,
    entries: u64,
    measures: u32,
}

impl Model {
    fn settle(&mut self, id: u64) {
        assert!(self.settled.insert(id), "settled twice");
        self.committing.remove(&id);
        self.files.remove(&id);
    }

    fn about(&self, id: u64, is_offer: bool) -> bool {
        self.files.contains_key(&id) && self.decided.contains(&id) && self.offers.contains(&id) == is_offer
    }

    fn check_outcome(&mut self, id: u64, is_about: bool, parts: (u64, u64), outcome: PartOutcome) {
        if !is_about {
            assert_eq!(outcome, PartOutcome::Unchanged);
            return;
        }
        let count = self.files[&id].layout.count();
        let verified = self.verified.entry(id).or_default();
        assert!(parts.0 + parts.1 <= count);
        verified.insert(parts.0, parts.1);
        match outcome {
            PartOutcome::Unchanged => panic!("{parts:?} of {id} are not counted"),
            PartOutcome::Partly => assert!(verified.count() < count),
            PartOutcome::Complete(digests) => {
                assert_eq!(verified.count(), count, "complete, but not verified");
                assert_eq!(digests.count(), count);
                self.files.remove(&id);
                if self.offers.contains(&id) {
                    self.skipped.insert(id);
                }
                assert!(self.committing.insert(id));
            }
        }
    }

    /// The output is valid frames that match the model.
    fn check_output(&mut self, output: &[u8]) {
        let mut buffer = FrameBuffer::new();
        let mut pushed = 0;
        loop {
            pushed += buffer.push(&output[pushed..]);
            let Some(json) = buffer.next_frame(Framing::Native).expect("a frame of ours") else { break };
            match Message::parse(json).expect("a message of ours") {
                Message::Stored { entries, .. } => {
                    for id in entries.iter().flatten() {
                        assert!(self.stored.contains(&id) && self.stored_sent.insert(id), "stored {id}");
                    }
                }
                Message::Error(ErrorReport { entry: Some(id), .. }) => {
                    assert!(self.failed.contains(&id) && self.failed_sent.insert(id), "failed {id}");
                }
                Message::Want { entries, parts } => {
                    for id in entries.iter().flatten() {
                        assert!(self.decided.contains(&id), "wanted {id}");
                        let WantedParts::Parts(runs) = &parts else { continue };
                        let Some(file) = self.files.get(&id) else { continue };
                        assert!(runs.last().is_some_and(|last| last < file.layout.count()));
                    }
                }
                Message::Again { entry, part } => {
                    let tries = self.damaged.get(&(entry, part)).copied().unwrap_or(0);
                    assert!((1..MAX_TRIES_A_PART).contains(&tries));
                }
                Message::Receipt(_) | Message::Welcome(_) | Message::Busy | Message::Measured(_) => {}
                other => panic!("{other:?} is not a receiver's"),
            }
        }
        assert!(pushed == output.len() && buffer.is_empty());
    }
}

/// An error's message is safe to print.
fn check_message(error: &WireError) {
    let message = error.to_string();
    assert!(!message.chars().any(is_unsafe_to_print), "{message:?}");
}

fn hello(input: &Input<'_>) -> String {
    let id = |name: &str, digits: &str| format!(r#","{name}":"{}""#, digits.repeat(16));
    format!(
        r#"{{"ftx":"hello","version":1,"features":["measure"{}]{}{}}}"#,
        if input.streams { r#","streams""# } else { "" },
        if input.session { id("session", "aa") } else { String::new() },
        if input.continues { id("continues", "bb") } else { String::new() },
    )
}

fuzz_target!(|input: Input| {
    let policy = if input.allow_odd { NamePolicy::AllowOdd } else { NamePolicy::Strict };
    let mut session = ReceiverSession::new(policy);
    if !input.streams_allowed {
        session.disable_streams();
    }
    let hello = hello(&input);
    let lost = SessionId::new([0xbb; 16]);
    let begins = FirstFrame::Begins {
        session: input.session.then(|| SessionId::new([0xaa; 16])),
        continues: input.continues.then_some(lost),
    };
    assert_eq!(parse_first_frame(hello.as_bytes()), Ok(begins));
    session.handle(hello.as_bytes()).unwrap();
    assert_eq!(session.id().is_some(), input.streams && input.session);
    let mut model = Model::default();
    for step in input.steps.into_iter().take(400) {
        let mut is_joined = false;
        let json = match step {
            Step::File { name, tail, parts, sparse, has_state } => {
                let size = u64::from(tail % 3) + u64::from(parts % 4) * PART_BYTES;
                let name = NAMES[usize::from(name) % NAMES.len()];
                let state = if has_state { format!(r#","state":"{MD5}""#) } else { String::new() };
                format!(
                    r#"{{"ftx":"entry","entry":{},"type":"file","filename":"{name}","size":{size},"sparse":{sparse}{state}}}"#,
                    model.entries
                )
            }
            Step::HugeFile { size } => {
                let size = size | 1 << 62;
                format!(
                    r#"{{"ftx":"entry","entry":{},"type":"file","filename":"huge","size":{size},"sparse":true}}"#,
                    model.entries
                )
            }
            Step::Dir(name) => {
                let name = NAMES[usize::from(name) % NAMES.len()];
                format!(r#"{{"ftx":"entry","entry":{},"type":"dir","filename":"{name}"}}"#, model.entries)
            }
            Step::Link { name, target } => {
                let name = NAMES[usize::from(name) % NAMES.len()];
                let target = serde_json::Value::from(target);
                format!(
                    r#"{{"ftx":"entry","entry":{},"type":"link","filename":"{name}","target":{target}}}"#,
                    model.entries
                )
            }
            Step::Part { entry, part, right_size, offer, joined } => {
                is_joined = joined;
                let entry = pick(entry, model.entries);
                let count = model.files.get(&entry).map_or(1, |file| file.layout.count());
                let part = pick(part, count);
                let range = model.files.get(&entry).and_then(|file| file.layout.range(part));
                let size = range.filter(|_| right_size).map_or(3, |range| range.len);
                let kind = if offer { "offer" } else { "part" };
                format!(r#"{{"ftx":"{kind}","entry":{entry},"part":{part},"size":{size},"md5":"{MD5}"}}"#)
            }
            Step::Hole { entry, part, parts, joined } => {
                is_joined = joined;
                let entry = pick(entry, model.entries);
                let count = model.files.get(&entry).map_or(1, |file| file.layout.count());
                let part = pick(part, count);
                let parts = pick(parts, count.saturating_sub(part) + 1);
                format!(r#"{{"ftx":"hole","entry":{entry},"part":{part},"parts":{parts}}}"#)
            }
            Step::FarHole { entry, part, parts } => {
                let entry = pick(entry, model.entries);
                format!(r#"{{"ftx":"hole","entry":{entry},"part":{part},"parts":{parts}}}"#)
            }
            Step::Withdraw { entry, message } => format!(
                r#"{{"ftx":"error","entry":{},"code":"source-changed","message":{}}}"#,
                pick(entry, model.entries),
                serde_json::Value::from(message)
            ),
            Step::Totals => r#"{"ftx":"totals","files":1,"bytes":1}"#.into(),
            Step::End { right } => {
                format!(r#"{{"ftx":"end","entries":{}}}"#, model.entries + u64::from(!right))
            }
            Step::Busy { joined } => {
                is_joined = joined;
                session.keepalive();
                r#"{"ftx":"busy"}"#.into()
            }
            Step::Measure { what, size } => format!(
                r#"{{"ftx":"measure","what":"{}","size":{}}}"#,
                WHAT[usize::from(what) % WHAT.len()],
                u64::from(size)
            ),
            Step::Hello => hello.clone(),
            Step::Join => format!(r#"{{"ftx":"join","session":"{}"}}"#, "aa".repeat(16)),
            Step::GiveUp(message) => format!(
                r#"{{"ftx":"error","code":"interrupted","message":{}}}"#,
                serde_json::Value::from(message)
            ),
            Step::Raw { json, joined } => {
                let result = if joined { session.handle_joined(json) } else { session.handle(json) };
                let _ = result.inspect_err(check_message);
                let _ = session.take_output();
                return;
            }
            Step::WantAll(entry) => {
                let id = pick(entry, model.entries);
                // A driver decides once, and again after offers.
                if model.files.contains_key(&id)
                    && (!model.decided.contains(&id) || model.offers.contains(&id))
                {
                    session.want_all(id);
                    model.decided.insert(id);
                    model.offers.remove(&id);
                    model.verified.remove(&id);
                }
                continue;
            }
            Step::WantOffers(entry) => {
                let id = pick(entry, model.entries);
                if model.files.contains_key(&id) && model.decided.insert(id) {
                    session.want_offers(id);
                    model.offers.insert(id);
                }
                continue;
            }
            Step::WantMissing { entry, kept, hole } => {
                let id = pick(entry, model.entries);
                let Some(file) = model.files.get(&id) else { continue };
                let layout = file.layout;
                if !(2..64).contains(&layout.count()) || !model.decided.insert(id) {
                    continue;
                }
                // Parts kept from an earlier session: digests, and perhaps one run of zeros.
                let mut digests = PartDigests::new();
                for part in (0..layout.count()).filter(|part| kept & 1 << part != 0) {
                    digests.insert(part, Md5::of(b"abc"));
                }
                let whole = layout.size_bytes() / PART_BYTES;
                let (first, parts) = (pick(hole.0, whole), pick(hole.1, whole + 1));
                if parts > 0 && first + parts <= whole && !digests.contains_any(first, parts) {
                    digests.insert_holes(first, parts);
                }
                let bytes = session.want_missing(id, digests.clone());
                let mut kept: BTreeSet<u64> =
                    (0..layout.count()).filter(|part| digests.contains(*part)).collect();
                if kept.len() as u64 == layout.count() {
                    // A `want` names at least one part: the last one is requested again.
                    kept.remove(&(layout.count() - 1));
                }
                let sizes = kept.iter().map(|part| layout.range(*part).expect("a part").len);
                assert_eq!(bytes, sizes.sum::<u64>());
                model.verified.insert(id, PartRuns(kept.into_iter().map(|part| (part, 1)).collect()));
                continue;
            }
            Step::Verified(index) => {
                if !model.parts.is_empty() {
                    let header = model.parts.swap_remove(usize::from(index) % model.parts.len());
                    let is_about = model.about(header.id, header.is_offer);
                    let outcome = session.part_verified(&header);
                    model.damaged.remove(&(header.id, header.part));
                    model.check_outcome(header.id, is_about, (header.part, 1), outcome);
                }
                continue;
            }
            // Other connections may have delivered overlapping parts since the hole was handled.
            Step::HoleVerified(index) => {
                if !model.holes.is_empty() {
                    let hole = model.holes.swap_remove(usize::from(index) % model.holes.len());
                    let HoleHeader { id, part, parts, is_offer, must_clear, .. } = hole;
                    let is_pending = |header: &PartHeader| {
                        (header.id, header.is_offer) == (id, is_offer)
                            && (part..part + parts).contains(&header.part)
                    };
                    let is_in = model.parts.iter().any(is_pending)
                        || model.verified.get(&id).is_some_and(|verified| verified.has_any(part, parts));
                    // Or a damaged part was written to the range, and the hole does not clear it.
                    let in_hole = |of: &(u64, u64)| of.0 == id && (part..part + parts).contains(&of.1);
                    let is_damaged = !must_clear && model.damaged.keys().any(in_hole);
                    let is_about = model.about(id, is_offer) && !is_in && !is_damaged;
                    if is_about {
                        model.damaged.retain(|of, _| !in_hole(of));
                    }
                    let outcome = session.holes_verified(&hole);
                    model.check_outcome(id, is_about, (part, parts), outcome);
                }
                continue;
            }
            Step::Damaged(index) => {
                // The driver reports damage of bodies only.
                let bodies: Vec<usize> =
                    (0..model.parts.len()).filter(|&at| !model.parts[at].is_offer).collect();
                if !bodies.is_empty() {
                    let header = model.parts.swap_remove(bodies[usize::from(index) % bodies.len()]);
                    let is_open = model.files.contains_key(&header.id);
                    let tries = model.damaged.entry((header.id, header.part)).or_default();
                    *tries += u32::from(is_open);
                    let tries = *tries;
                    if is_open && tries == MAX_TRIES_A_PART {
                        model.settle(header.id);
                        model.failed.insert(header.id);
                    }
                    match session.part_damaged(&header) {
                        RetryDecision::Again => assert!(is_open && tries < MAX_TRIES_A_PART),
                        RetryDecision::GaveUp { remaining_bytes } => {
                            assert!(!is_open && remaining_bytes == 0 || tries == MAX_TRIES_A_PART);
                        }
                    }
                }
                continue;
            }
            Step::Ready => {
                if let Some(other) = session.next_ready() {
                    assert!(model.files.keys().all(|&id| id > other.id), "before a file announced before it");
                    assert!(model.others.remove(&other.id) && model.committing.insert(other.id));
                }
                continue;
            }
            Step::Stored(entry) => {
                let id = pick(entry, model.entries);
                if model.committing.contains(&id) {
                    model.settle(id);
                    model.stored.insert(id);
                }
                session.stored(id);
                continue;
            }
            Step::Fail(entry) => {
                let id = pick(entry, model.entries);
                if model.files.contains_key(&id) || model.committing.contains(&id) {
                    model.settle(id);
                    model.failed.insert(id);
                }
                session.fail(id, ErrorCode::FileIo, "x");
                continue;
            }
            Step::Finish => {
                let is_over =
                    model.files.is_empty() && model.others.is_empty() && model.committing.is_empty();
                assert_eq!(session.is_committing(), !model.committing.is_empty());
                if let Some(receipt) = session.finish() {
                    assert!(is_over, "a receipt while something is open");
                    let count = |ids: &HashSet<u64>| ids.len() as u64;
                    assert_eq!(receipt.entries, model.entries);
                    assert_eq!(receipt.stored, count(&model.stored));
                    assert_eq!(receipt.failed, count(&model.failed) + count(&model.withdrawn));
                    assert_eq!(receipt.skipped, model.skipped.intersection(&model.stored).count() as u64);
                    assert_eq!(receipt.stored + receipt.failed, receipt.entries);
                    model.check_output(&session.take_output());
                    assert_eq!(model.stored_sent, model.stored);
                    assert_eq!(model.failed_sent, model.failed);
                    return;
                }
                continue;
            }
        };
        let is_entry = json.starts_with(r#"{"ftx":"entry""#);
        let result = match is_joined {
            true => session.handle_joined(json.as_bytes()),
            false => session.handle(json.as_bytes()),
        };
        let event = match result {
            Ok(event) => event,
            Err(error) => return check_message(&error),
        };
        model.entries += u64::from(is_entry);
        match event {
            ReceiverEvent::File(file) => {
                assert!(is_entry && file.id == model.entries - 1);
                model.files.insert(file.id, file);
            }
            ReceiverEvent::Nothing if is_entry => {
                model.others.insert(model.entries - 1);
            }
            ReceiverEvent::Refused { .. } => {
                assert!(is_entry && model.settled.insert(model.entries - 1));
                model.failed.insert(model.entries - 1);
            }
            ReceiverEvent::Body(header)
            | ReceiverEvent::Offer(header)
            | ReceiverEvent::OfferAndBody(header) => {
                let file = &model.files[&header.id];
                // An offer with a body is a small file that was sent unasked.
                let has_body = matches!(event, ReceiverEvent::OfferAndBody(_));
                assert!(!has_body || header.is_offer && file.layout.size_bytes() <= SMALL_FILE_BYTES);
                assert_eq!(file.layout.range(header.part), Some(header.range));
                assert!(model.about(header.id, header.is_offer), "it is not requested");
                let tried = model.damaged.get(&(header.id, header.part)).is_some_and(|tries| *tries > 0);
                assert_eq!(header.is_repair, tried);
                let is_verified =
                    model.verified.get(&header.id).is_some_and(|verified| verified.has_any(header.part, 1));
                assert!(!is_verified, "it is verified already");
                model.parts.push(header);
            }
            ReceiverEvent::Discard { bytes } => assert!(bytes <= PART_BYTES),
            ReceiverEvent::Hole(hole) => {
                let file = &model.files[&hole.id];
                assert!(hole.parts > 0 && hole.range.len == hole.parts * PART_BYTES);
                assert!(hole.range.offset + hole.range.len <= file.layout.size_bytes());
                assert!(hole.is_offer || file.is_sparse);
                assert!(model.about(hole.id, hole.is_offer), "it is not requested");
                model.holes.push(hole);
            }
            ReceiverEvent::Withdrawn { id, .. } => {
                model.settle(id);
                model.withdrawn.insert(id);
            }
            ReceiverEvent::Measure(measure) => {
                model.measures += 1;
                assert!(measure.size_bytes <= MAX_MEASURE_BYTES && model.measures <= MAX_MEASURES);
                assert_eq!(model.entries, 0, "a session that transfers does not measure");
                session.measured(Measured { bytes: 0, elapsed_ns: 1, memory: false });
            }
            ReceiverEvent::Nothing | ReceiverEvent::Totals { .. } => {}
        }
        assert!(model.measures == 0 || model.entries == 0);
        assert!(model.files.len() + model.others.len() + model.committing.len() <= MAX_ENTRIES_IN_FLIGHT);
        let output = session.take_output();
        model.check_output(&output);
    }
});
