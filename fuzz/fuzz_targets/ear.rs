//! A sender hears whatever a receiver may say while it announces files: it is never asked for a part that does not
//! exist, and never takes for stored what was not sent.
#![no_main]

use std::collections::{HashMap, HashSet};

use arbitrary::Arbitrary;
use ftx::digest::{Md5, PartLayout};
use ftx::fault::Fault;
use ftx::relpath::{NamePolicy, RelPath};
use ftx::units::Metadata;
use ftx::wire::sender::Event;
use ftx::wire::{MAX_ENTRIES_IN_FLIGHT, SenderSession, SessionId};
use libfuzzer_sys::fuzz_target;

/// One step of either side.
#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Announce { size: u32, parts: u8, sparse: bool },
    AnnounceDir,
    End,
    Work { jobs: u8, holes: u8 },
    Withdraw(u8),
    Busy,
    Welcome { version: u8, streams: bool },
    Want { entries: Runs, parts: Parts },
    Again { entry: u8, part: u8 },
    Stored(Runs),
    Receipt { entries: u8, stored: u8, skipped: u8, failed: u8 },
    HonestReceipt,
    Failed(u8),
    Raw(&'a [u8]),
}

#[derive(Arbitrary, Debug)]
struct Runs(Vec<(u8, u8)>);

impl Runs {
    fn json(&self) -> String {
        let runs: Vec<String> = self.0.iter().map(|(first, last)| format!("[{first},{last}]")).collect();
        format!("[{}]", runs.join(","))
    }
}

#[derive(Arbitrary, Debug)]
enum Parts {
    All,
    None,
    Offers,
    Runs(Runs),
}

impl Parts {
    fn json(&self) -> String {
        match self {
            Parts::All => "\"all\"".into(),
            Parts::None => "\"none\"".into(),
            Parts::Offers => "\"offers\"".into(),
            Parts::Runs(runs) => runs.json(),
        }
    }
}

/// What the sender knows of a file.
struct File {
    layout: PartLayout,
    bodies: HashSet<u64>,
    offers: HashSet<u64>,
    /// What was asked for may be fewer parts than there are.
    asked_runs: bool,
    said_none: bool,
}

fuzz_target!(|steps: Vec<Step>| {
    let mut session = SenderSession::new(SessionId::new([7; 16]), None);
    let mut files: HashMap<u64, File> = HashMap::new();
    let (mut announced, mut open, mut ended, mut settled) = (0u64, HashSet::new(), false, HashSet::new());
    let (mut stored, mut failed, mut skipped) = (0u64, 0u64, 0u64);
    let path = RelPath::new(b"a", NamePolicy::Strict).unwrap();
    for step in steps.into_iter().take(400) {
        let json = match step {
            Step::Announce { size, parts, sparse } if session.has_room() && !ended => {
                let size = u64::from(size % 3) + u64::from(parts % 5) * ftx::digest::PART_BYTES;
                let id = session.announce_file(&path, size, sparse, None, Metadata::default());
                assert_eq!(id, announced);
                let layout = PartLayout::new(size);
                let (bodies, offers) = Default::default();
                files.insert(id, File { layout, bodies, offers, asked_runs: false, said_none: false });
                open.insert(id);
                announced += 1;
                continue;
            }
            Step::AnnounceDir if session.has_room() && !ended => {
                open.insert(session.announce_dir(&path, Metadata::default()));
                announced += 1;
                continue;
            }
            Step::End if session.has_room() && !ended => {
                session.end();
                ended = true;
                continue;
            }
            Step::Work { jobs, holes } => {
                for _ in 0..jobs % 16 {
                    let Some(job) = session.next_job() else { break };
                    let file = &files[&job.entry];
                    assert!(open.contains(&job.entry), "a job of what is settled");
                    assert_eq!(file.layout.range(job.part), Some(job.range), "a part that does not exist");
                    let wanted = if holes > 0 { u64::from(holes) } else { 1 };
                    let taken = session.take_holes(&job, wanted);
                    assert!((1..=wanted).contains(&taken) && job.part + taken <= file.layout.count());
                    let mut out = Vec::new();
                    let goes = match taken {
                        1 => session.part_frame(&job, Md5::of(b""), &mut out),
                        _ => session.hole_frame(&job, taken, &mut out),
                    };
                    assert_eq!(goes, !out.is_empty());
                    if goes {
                        let file = files.get_mut(&job.entry).unwrap();
                        let sent = if job.wants_body { &mut file.bodies } else { &mut file.offers };
                        sent.extend(job.part..job.part + taken);
                    }
                }
                continue;
            }
            Step::Withdraw(entry) => {
                if session.withdraw(u64::from(entry), Fault::SourceChanged, "x") {
                    assert!(open.remove(&u64::from(entry)));
                    settled.insert(u64::from(entry));
                    failed += 1;
                }
                continue;
            }
            Step::Busy => {
                session.busy();
                r#"{"ftx":"busy"}"#.into()
            }
            Step::Welcome { version, streams } => format!(
                r#"{{"ftx":"welcome","version":{},"features":[{}]}}"#,
                if version < 250 { 1 } else { version },
                if streams { "\"streams\"" } else { "" }
            ),
            Step::Want { entries, parts } => {
                format!(r#"{{"ftx":"want","entries":{},"parts":{}}}"#, entries.json(), parts.json())
            }
            Step::Again { entry, part } => format!(r#"{{"ftx":"again","entry":{entry},"part":{part}}}"#),
            Step::Stored(entries) => format!(r#"{{"ftx":"stored","entries":{}}}"#, entries.json()),
            Step::Receipt { entries, stored, skipped, failed } => format!(
                r#"{{"ftx":"receipt","entries":{entries},"stored":{stored},"skipped":{skipped},"failed":{failed},"bytes":0}}"#
            ),
            Step::HonestReceipt => format!(
                r#"{{"ftx":"receipt","entries":{announced},"stored":{stored},"skipped":{skipped},"failed":{failed},"bytes":0}}"#
            ),
            Step::Failed(entry) => {
                format!(r#"{{"ftx":"error","entry":{entry},"code":"file-io","message":"x"}}"#)
            }
            Step::Raw(json) => {
                let _ = session.handle(json);
                return;
            }
            _ => continue,
        };
        let asks_for_runs = json.contains(r#""want""#) && json.contains(r#""parts":["#);
        let Ok(event) = session.handle(json.as_bytes()) else {
            return;
        };
        match event {
            Event::Resumed(rests) => {
                assert!(asks_for_runs);
                for (id, bytes) in rests {
                    let file = files.get_mut(&id).expect("a file");
                    assert!(bytes <= file.layout.size_bytes());
                    file.asked_runs = true;
                }
            }
            Event::AlreadyThere(ids) => {
                for id in ids {
                    let file = files.get_mut(&id).expect("a file");
                    assert_eq!(file.offers.len() as u64, file.layout.count(), "none, before all offers");
                    file.said_none = true;
                }
            }
            Event::Stored(ids) => {
                for id in ids {
                    assert!(open.remove(&id), "stored, but not in flight");
                    assert!(settled.insert(id), "settled twice");
                    stored += 1;
                    let Some(file) = files.get(&id) else { continue };
                    skipped += u64::from(file.said_none);
                    let whole = file.bodies.len() as u64 == file.layout.count();
                    assert!(
                        whole || file.said_none || (file.asked_runs && !file.bodies.is_empty()),
                        "entry {id} stored, but not sent"
                    );
                }
            }
            Event::Again { entry, part } => {
                let file = &files[&entry];
                assert!(file.layout.range(part).is_some());
            }
            Event::Failed { entry, .. } => {
                assert!(open.remove(&entry) && settled.insert(entry));
                failed += 1;
            }
            Event::Receipt(receipt) => {
                assert!(ended && open.is_empty(), "a receipt while something is open");
                assert_eq!(receipt.entries, announced);
                assert_eq!((receipt.stored, receipt.skipped, receipt.failed), (stored, skipped, failed));
            }
            Event::Nothing | Event::Welcomed { .. } | Event::Wanted => {}
        }
        assert!(open.len() <= MAX_ENTRIES_IN_FLIGHT);
        assert!(session.take_output().len() < 64 << 20);
    }
});
