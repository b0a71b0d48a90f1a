//! A receiver's session hears whatever a sender may say, while its driver answers in any order: what it counts is true,
//! and nothing is complete before all of it is verified.
#![no_main]

use std::collections::{HashMap, HashSet};

use arbitrary::Arbitrary;
use ftx::digest::PART_BYTES;
use ftx::fault::Fault;
use ftx::relpath::NamePolicy;
use ftx::wire::receiver::{Event, FileEntry, HoleHeader, PartHeader, Progressed, Repair};
use ftx::wire::{MAX_ENTRIES_IN_FLIGHT, ReceiverSession};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    // What a sender says.
    File { name: u8, tail: u8, parts: u8, sparse: bool },
    Dir(u8),
    Link { name: u8, target: &'a str },
    Part { entry: u8, part: u8, right_size: bool, offer: bool },
    Hole { entry: u8, part: u8, parts: u8 },
    Withdraw(u8),
    Totals,
    End { right: bool },
    Busy,
    Raw(&'a [u8]),
    // What the driver does.
    WantAll(u8),
    WantOffers(u8),
    Verified(u8),
    Damaged(u8),
    HoleVerified(u8),
    Ready,
    Stored(u8),
    Fail(u8),
    Finish,
}

const NAMES: [&str; 6] = ["a", "d/b", "../x", "", "d/é", ".ftx-1"];
const MD5: &str = "900150983cd24fb0d6963f7d28e17f72";

#[derive(Default)]
struct Model {
    files: HashMap<u64, FileEntry>,
    /// Parts of each file that were verified since the last decision, in bodies or in offers.
    verified: HashMap<u64, HashSet<u64>>,
    offers: HashSet<u64>,
    decided: HashSet<u64>,
    /// Headers that the driver has not judged.
    parts: Vec<PartHeader>,
    holes: Vec<HoleHeader>,
    committing: HashSet<u64>,
    settled: HashSet<u64>,
    entries: u64,
    stored: u64,
    failed: u64,
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

    fn progressed(
        &mut self,
        id: u64,
        is_about: bool,
        parts: impl Iterator<Item = u64>,
        progressed: Progressed,
    ) {
        if !is_about {
            assert_eq!(progressed, Progressed::Partly);
            return;
        }
        let count = self.files[&id].layout.count();
        let verified = self.verified.entry(id).or_default();
        parts.for_each(|part| assert!(part < count && verified.insert(part)));
        match progressed {
            Progressed::Partly => assert!((verified.len() as u64) < count),
            Progressed::Complete(digests) => {
                assert_eq!(verified.len() as u64, count, "complete, but not verified");
                assert_eq!(digests.count(), count);
                self.files.remove(&id);
                assert!(self.committing.insert(id));
            }
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut session = ReceiverSession::new(NamePolicy::Strict);
    session.handle(br#"{"ftx":"hello","version":1,"features":["streams","measure"]}"#).unwrap();
    let mut model = Model::default();
    for step in steps.into_iter().take(400) {
        let json = match step {
            Step::File { name, tail, parts, sparse } => {
                let size = u64::from(tail % 3) + u64::from(parts % 4) * PART_BYTES;
                let name = NAMES[usize::from(name) % NAMES.len()];
                format!(
                    r#"{{"ftx":"entry","entry":{},"type":"file","filename":"{name}","size":{size},"sparse":{sparse}}}"#,
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
            Step::Part { entry, part, right_size, offer } => {
                let (entry, part) = (u64::from(entry), u64::from(part));
                let range = model.files.get(&entry).and_then(|file| file.layout.range(part));
                let size = range.filter(|_| right_size).map_or(3, |range| range.len);
                let kind = if offer { "offer" } else { "part" };
                format!(r#"{{"ftx":"{kind}","entry":{entry},"part":{part},"size":{size},"md5":"{MD5}"}}"#)
            }
            Step::Hole { entry, part, parts } => {
                format!(r#"{{"ftx":"hole","entry":{entry},"part":{part},"parts":{parts}}}"#)
            }
            Step::Withdraw(entry) => format!(r#"{{"ftx":"error","entry":{entry},"code":"source-changed"}}"#),
            Step::Totals => r#"{"ftx":"totals","files":1,"bytes":1}"#.into(),
            Step::End { right } => {
                format!(r#"{{"ftx":"end","entries":{}}}"#, model.entries + u64::from(!right))
            }
            Step::Busy => {
                session.busy();
                r#"{"ftx":"busy"}"#.into()
            }
            Step::Raw(json) => {
                let _ = session.handle(json);
                let _ = session.take_output();
                return;
            }
            Step::WantAll(entry) => {
                let id = u64::from(entry);
                // A driver decides once, and once more after offers.
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
                let id = u64::from(entry);
                if model.files.contains_key(&id) && model.decided.insert(id) {
                    session.want_offers(id);
                    model.offers.insert(id);
                }
                continue;
            }
            Step::Verified(index) => {
                if !model.parts.is_empty() {
                    let header = model.parts.swap_remove(usize::from(index) % model.parts.len());
                    let is_about = model.about(header.id, header.is_offer);
                    let progressed = session.part_verified(&header);
                    model.progressed(header.id, is_about, std::iter::once(header.part), progressed);
                }
                continue;
            }
            Step::Damaged(index) => {
                // Of an offer the driver says nothing of the kind.
                let bodies: Vec<usize> =
                    (0..model.parts.len()).filter(|&at| !model.parts[at].is_offer).collect();
                if !bodies.is_empty() {
                    let header = model.parts.swap_remove(bodies[usize::from(index) % bodies.len()]);
                    match session.part_damaged(&header) {
                        Repair::Again => assert!(model.files.contains_key(&header.id)),
                        Repair::GaveUp { .. } if model.files.contains_key(&header.id) => {
                            model.settle(header.id);
                            model.failed += 1;
                        }
                        Repair::GaveUp { remaining_bytes } => assert_eq!(remaining_bytes, 0),
                    }
                }
                continue;
            }
            Step::HoleVerified(index) => {
                if !model.holes.is_empty() {
                    let hole = model.holes.swap_remove(usize::from(index) % model.holes.len());
                    let is_about = model.about(hole.id, hole.is_offer);
                    let progressed = session.holes_verified(&hole);
                    model.progressed(hole.id, is_about, hole.part..hole.part + hole.parts, progressed);
                }
                continue;
            }
            Step::Ready => {
                if let Some(other) = session.next_ready() {
                    assert!(model.files.keys().all(|&id| id > other.id), "before a file announced before it");
                    assert!(model.committing.insert(other.id));
                }
                continue;
            }
            Step::Stored(entry) => {
                let id = u64::from(entry);
                let in_commit = model.committing.contains(&id);
                session.stored(id);
                if in_commit {
                    model.settle(id);
                    model.stored += 1;
                }
                continue;
            }
            Step::Fail(entry) => {
                let id = u64::from(entry);
                let open = model.files.contains_key(&id) || model.committing.contains(&id);
                session.fail(id, Fault::FileIo, "x");
                if open {
                    model.settle(id);
                    model.failed += 1;
                }
                continue;
            }
            Step::Finish => {
                if let Some(receipt) = session.finish() {
                    assert!(model.files.is_empty() && model.committing.is_empty());
                    assert_eq!(receipt.entries, model.entries);
                    assert_eq!((receipt.stored, receipt.failed), (model.stored, model.failed));
                    assert_eq!(receipt.stored + receipt.failed, receipt.entries);
                    assert!(receipt.skipped <= receipt.stored);
                    return;
                }
                continue;
            }
        };
        let is_entry = json.starts_with(r#"{"ftx":"entry""#);
        let Ok(event) = session.handle(json.as_bytes()) else {
            return;
        };
        model.entries += u64::from(is_entry);
        match event {
            Event::File(file) => drop(model.files.insert(file.id, file)),
            Event::Refused { .. } => {
                assert!(model.settled.insert(model.entries - 1));
                model.failed += 1;
            }
            Event::Body(header) | Event::Offer(header) => {
                let file = &model.files[&header.id];
                assert_eq!(file.layout.range(header.part), Some(header.range));
                assert!(model.about(header.id, header.is_offer), "nobody wanted it");
                model.parts.push(header);
            }
            Event::Discard { bytes } => assert!(bytes <= PART_BYTES),
            Event::Hole(hole) => {
                let file = &model.files[&hole.id];
                assert!(hole.parts > 0 && hole.range.len == hole.parts * PART_BYTES);
                assert!(hole.range.offset + hole.range.len <= file.layout.size_bytes());
                assert!(hole.is_offer || file.is_sparse);
                // The driver judges a hole before it reads on.
                let is_about = model.about(hole.id, hole.is_offer);
                let progressed = session.holes_verified(&hole);
                model.progressed(hole.id, is_about, hole.part..hole.part + hole.parts, progressed);
            }
            Event::Withdrawn { id, .. } => {
                model.settle(id);
                model.failed += 1;
            }
            Event::Measure(measure) => assert!(measure.size_bytes <= 1 << 30),
            Event::Nothing | Event::Totals { .. } => {}
        }
        assert!(model.files.len() + model.committing.len() <= MAX_ENTRIES_IN_FLIGHT);
        assert!(session.take_output().len() < 64 << 20);
    }
});
