//! A sender hears whatever a receiver may say while it announces files: it is only asked for parts that exist, a bounded
//! number of times, and takes for stored only what it sent all of that was asked for.
#![no_main]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use ftx::digest::{Md5, PART_BYTES, PartLayout};
use ftx::error_code::ErrorCode;
use ftx::escape::is_unsafe_to_print;
use ftx::relpath::{NamePolicy, RelPath};
use ftx::units::Metadata;
use ftx::wire::message::{KeptParts, Measurable, Measure, WantedParts};
use ftx::wire::sender::{Event, Job};
use ftx::wire::{
    FrameBuffer, Framing, MAX_ENTRIES_IN_FLIGHT, MAX_TRIES_A_PART, MeasureClient, Message, SMALL_FILE_BYTES,
    SenderSession, SessionId, WireError, measure_client,
};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Transfer { continues: bool, is_welcome: bool, steps: Vec<Step<'a>> },
    Bench(Vec<BenchStep<'a>>),
}

/// One step of either side.
#[derive(Arbitrary, Debug)]
enum Step<'a> {
    // What the sender does.
    AnnounceFile {
        tail: u8,
        parts: u8,
        sparse: bool,
        has_state: bool,
    },
    AnnounceDir,
    AnnounceLink,
    End,
    /// Everything that is asked for goes out.
    Work,
    Take {
        jobs: u8,
    },
    Holes {
        job: u8,
        most: u8,
    },
    Send(u8),
    Withdraw(u8),
    Totals,
    // What the receiver says.
    Welcome {
        version: u8,
        streams: bool,
    },
    Busy,
    Want {
        entries: Ids,
        parts: Parts,
    },
    Again {
        entry: u8,
        part: u8,
    },
    Stored(Ids),
    Receipt {
        entries: u8,
        stored: u8,
        skipped: u8,
        failed: u8,
    },
    HonestReceipt,
    Failed {
        entry: u8,
        code: u8,
        message: &'a str,
    },
    GiveUp {
        code: u8,
        message: &'a str,
    },
    Raw(&'a [u8]),
    /// A receiver that tells what it verified and kept.
    WelcomeEtags,
    Kept {
        entry: u8,
        part: u8,
        parts: u8,
        what: KeptWhat,
    },
    /// Stored, with etags of something else.
    StoredOther(Ids),
}

#[derive(Arbitrary, Debug)]
enum KeptWhat {
    /// What this side knows, as far as it does.
    Same,
    Other,
    Zeros,
}

#[derive(Arbitrary, Debug)]
enum BenchStep<'a> {
    Ask { what: u8, size: u8 },
    End,
    Welcome { measure: bool, agent: &'a str },
    Measured { bytes: u8, ns: u8 },
    Receipt(u8),
    Busy,
    Raw(&'a [u8]),
}

static ZEROS: LazyLock<Md5> = LazyLock::new(|| Md5::of(&vec![0; PART_BYTES as usize]));

/// Of so many things one that is there, as a rule: a session that ends at once shows nothing.
fn pick(raw: u8, count: u64) -> u64 {
    if raw >= 0xf0 { raw.into() } else { u64::from(raw) % count.max(1) }
}

/// Runs of numbers.
#[derive(Arbitrary, Debug)]
enum Ids {
    Some(Vec<u8>),
    Any(Vec<(u8, u8)>),
}

impl Ids {
    fn json(&self, count: u64) -> String {
        let runs: Vec<String> = match self {
            Ids::Some(raw) => {
                let ids: BTreeSet<u64> = raw.iter().map(|&raw| pick(raw, count)).collect();
                ids.into_iter().map(|id| format!("[{id},{id}]")).collect()
            }
            Ids::Any(runs) => runs.iter().map(|(first, last)| format!("[{first},{last}]")).collect(),
        };
        format!("[{}]", runs.join(","))
    }
}

#[derive(Arbitrary, Debug)]
enum Parts {
    All,
    None,
    Offers,
    Some(Ids),
    Far(u64),
}

impl Parts {
    fn json(&self) -> String {
        match self {
            Parts::All => "\"all\"".into(),
            Parts::None => "\"none\"".into(),
            Parts::Offers => "\"offers\"".into(),
            // A file has five of them at most.
            Parts::Some(parts) => parts.json(5),
            Parts::Far(last) => format!("[[0,{last}]]"),
        }
    }
}

const CODES: [&str; 6] = ["file-io", "no-space", "exists", "busy", "digest", "of the future"];

fn error(entry: Option<u64>, code: u8, message: &str) -> String {
    let entry = entry.map(|entry| format!(r#""entry":{entry},"#)).unwrap_or_default();
    let code = CODES[usize::from(code) % CODES.len()];
    format!(r#"{{"ftx":"error",{entry}"code":"{code}","message":{}}}"#, serde_json::Value::from(message))
}

/// What the sender knows of a file.
struct File {
    layout: PartLayout,
    /// What the last decision asked for, of bodies or of digests.
    asked: BTreeSet<u64>,
    wants_bodies: bool,
    /// It goes out as if it was wanted, and nothing was heard of it.
    is_unasked: bool,
    /// What of it has not become a job.
    todo: BTreeSet<u64>,
    /// What of it went out since, and not again was asked for.
    sent: BTreeSet<u64>,
    /// What was asked for again since.
    again: BTreeSet<u64>,
    /// Everything that was ever to be read, however often.
    jobs: u64,
    is_there: bool,
    /// What is known of its parts.
    digests: BTreeMap<u64, Md5>,
}

impl File {
    fn new(layout: PartLayout) -> Self {
        File {
            layout,
            asked: BTreeSet::new(),
            wants_bodies: false,
            is_unasked: false,
            todo: BTreeSet::new(),
            sent: BTreeSet::new(),
            again: BTreeSet::new(),
            jobs: 0,
            is_there: false,
            digests: BTreeMap::new(),
        }
    }

    /// As `stored` tells it, where all parts are known.
    fn etag(&self) -> Option<String> {
        if self.digests.len() as u64 != self.layout.count() {
            return None;
        }
        let parts: Vec<[u8; 16]> = self.digests.values().map(|md5| *md5.as_bytes()).collect();
        match parts.len() {
            1 => Some(self.digests[&0].to_string()),
            count => Some(format!("{}-{count}", Md5::of(parts.as_flattened()))),
        }
    }

    fn asked(&mut self, parts: impl Iterator<Item = u64>, wants_bodies: bool) {
        self.asked = parts.collect();
        self.todo = self.asked.clone();
        self.sent.clear();
        self.again.clear();
        self.wants_bodies = wants_bodies;
    }
}

/// A sentence about a peer can be shown to people.
fn refused(error: &WireError) {
    let sentence = error.to_string();
    assert!(!sentence.chars().any(is_unsafe_to_print), "{sentence:?}");
}

/// All that was said is frames of ours.
fn said(output: &[u8]) {
    assert!(output.len() < 64 << 20);
    let mut inbox = FrameBuffer::new();
    let mut given = 0;
    loop {
        given += inbox.push(&output[given..]);
        match inbox.next_frame(Framing::Native) {
            Ok(Some(json)) => drop(Message::parse(json).expect("a message of ours")),
            Ok(None) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(given == output.len() && inbox.is_empty());
}

fn transfer(continues: bool, mut is_welcome: bool, steps: &[Step<'_>]) {
    let lost = continues.then(|| SessionId::new([6; 16]));
    let mut session = SenderSession::new(SessionId::new([7; 16]), lost);
    if is_welcome {
        session.handle(br#"{"ftx":"welcome","version":1}"#).unwrap();
    }
    let mut files: HashMap<u64, File> = HashMap::new();
    let mut hand: Vec<(Job, u64)> = Vec::new();
    let (mut announced, mut open, mut ended, mut settled) = (0u64, HashSet::new(), false, HashSet::new());
    let (mut stored, mut failed, mut skipped) = (0u64, 0u64, 0u64);
    let mut compares = false;
    let path = RelPath::new(b"a", NamePolicy::Strict).unwrap();
    for step in steps.iter().take(400) {
        let json = match step {
            Step::AnnounceFile { tail, parts, sparse, has_state } if session.has_room() => {
                let layout = PartLayout::new(u64::from(tail % 3) + u64::from(parts % 5) * PART_BYTES);
                let state = has_state.then(|| Md5::of(b"state"));
                let id =
                    session.announce_file(&path, layout.size_bytes(), *sparse, state, Metadata::default());
                assert_eq!(id, announced);
                let is_unasked = !is_welcome && !continues && layout.size_bytes() <= SMALL_FILE_BYTES;
                let mut file = File::new(layout);
                if is_unasked {
                    file.asked(0..1, true);
                    file.is_unasked = true;
                }
                files.insert(id, file);
                open.insert(id);
                announced += 1;
                continue;
            }
            Step::AnnounceDir | Step::AnnounceLink if session.has_room() => {
                let metadata = Metadata::default();
                open.insert(match step {
                    Step::AnnounceDir => session.announce_dir(&path, metadata),
                    _ => session.announce_link(&path, b"b", metadata),
                });
                announced += 1;
                continue;
            }
            Step::End if session.has_room() => {
                session.end();
                assert!(!session.has_room());
                ended = true;
                continue;
            }
            Step::Totals => {
                session.totals(announced, 1);
                continue;
            }
            Step::Work => {
                while let Some(job) = take_job(&mut session, &mut files, &open) {
                    hand.push((job, 1));
                }
                hand.drain(..).for_each(|job| send(&mut session, job, &mut files, &open));
                continue;
            }
            Step::Take { jobs } => {
                for _ in 0..jobs % 16 {
                    let Some(job) = take_job(&mut session, &mut files, &open) else { break };
                    assert!(open.contains(&job.entry), "a job of what is settled");
                    hand.push((job, 1));
                }
                continue;
            }
            // The driver has looked at the file by now, and the receiver may have said something else meanwhile.
            Step::Holes { job, most } => {
                let Some(index) = hand.len().checked_sub(1).map(|last| usize::from(*job).min(last)) else {
                    continue;
                };
                let (job, taken @ 1) = &mut hand[index] else { continue };
                let most = pick(*most, 8).max(1);
                *taken = session.take_holes(job, most);
                assert!((1..=most).contains(taken));
                if *taken > 1 {
                    let file = files.get_mut(&job.entry).expect("a file");
                    assert!(open.contains(&job.entry) && file.wants_bodies == job.wants_body);
                    file.jobs += *taken - 1;
                    let is_wanted = (job.part + 1..job.part + *taken).all(|part| file.todo.remove(&part));
                    assert!(is_wanted, "zeros that nobody wants, or not any more");
                }
                continue;
            }
            Step::Send(index) => {
                if !hand.is_empty() {
                    let job = hand.swap_remove(usize::from(*index) % hand.len());
                    send(&mut session, job, &mut files, &open);
                }
                continue;
            }
            Step::Withdraw(entry) => {
                let id = pick(*entry, announced);
                assert_eq!(session.withdraw(id, ErrorCode::SourceChanged, "x"), open.remove(&id));
                if id < announced && settled.insert(id) {
                    failed += 1;
                }
                continue;
            }
            Step::Busy => {
                session.keepalive();
                r#"{"ftx":"busy"}"#.into()
            }
            Step::Welcome { version, streams } => format!(
                r#"{{"ftx":"welcome","version":{},"features":[{}]}}"#,
                if *version < 250 { 1 } else { *version },
                if *streams { "\"streams\"" } else { "" }
            ),
            Step::Want { entries, parts } => {
                format!(r#"{{"ftx":"want","entries":{},"parts":{}}}"#, entries.json(announced), parts.json())
            }
            Step::Again { entry, part } => {
                format!(r#"{{"ftx":"again","entry":{},"part":{}}}"#, pick(*entry, announced), pick(*part, 5))
            }
            Step::Stored(entries) | Step::StoredOther(entries) => {
                let entries = entries.json(announced);
                let honest = matches!(step, Step::Stored(_));
                let etag = |id: u64| match files.get(&id).and_then(File::etag) {
                    Some(etag) if honest => format!("\"{etag}\""),
                    _ if honest => "null".into(),
                    _ => format!("\"{}-7\"", Md5::of(b"other")),
                };
                let runs: Vec<(u64, u64)> = serde_json::from_str(&entries).unwrap();
                let ids = runs.iter().flat_map(|(first, last)| *first..=*last).take(1000);
                let etags: Vec<String> = ids.map(etag).collect();
                let etags =
                    if compares { format!(r#","etags":[{}]"#, etags.join(",")) } else { String::new() };
                format!(r#"{{"ftx":"stored","entries":{entries}{etags}}}"#)
            }
            Step::WelcomeEtags => r#"{"ftx":"welcome","version":1,"features":["streams","etags"]}"#.into(),
            Step::Kept { entry, part, parts, what } => {
                let (id, first, count) = (pick(*entry, announced), pick(*part, 5), pick(*parts, 3));
                let known = |part: u64| files.get(&id).and_then(|file| file.digests.get(&part)).copied();
                let digest = |part: u64| match what {
                    KeptWhat::Same => known(part).unwrap_or(Md5::of(b"kept")),
                    _ => Md5::of(b"other"),
                };
                let digests: Vec<String> =
                    (first..first + count).map(|part| format!("\"{}\"", digest(part))).collect();
                let told = match what {
                    KeptWhat::Zeros => format!(r#""zeros":{count}"#),
                    _ => format!(r#""md5":[{}]"#, digests.join(",")),
                };
                format!(r#"{{"ftx":"kept","entry":{id},"part":{first},{told}}}"#)
            }
            Step::Receipt { entries, stored, skipped, failed } => format!(
                r#"{{"ftx":"receipt","entries":{entries},"stored":{stored},"skipped":{skipped},"failed":{failed},"bytes":0}}"#
            ),
            Step::HonestReceipt => format!(
                r#"{{"ftx":"receipt","entries":{announced},"stored":{stored},"skipped":{skipped},"failed":{failed},"bytes":0}}"#
            ),
            Step::Failed { entry, code, message } => error(Some(pick(*entry, announced)), *code, message),
            Step::GiveUp { code, message } => error(None, *code, message),
            Step::Raw(json) => {
                let _ = session.handle(json).inspect_err(refused);
                return;
            }
            _ => continue,
        };
        let event = match session.handle(json.as_bytes()) {
            Ok(event) => event,
            Err(error) => return refused(&error),
        };
        if let Ok(Message::Kept(kept)) = Message::parse(json.as_bytes()) {
            assert!(compares && kept.entry < announced);
            let file = files.get_mut(&kept.entry).filter(|_| open.contains(&kept.entry));
            if let Some(file) = file {
                let told: Vec<Md5> = match &kept.parts {
                    KeptParts::Digests(digests) => digests.clone(),
                    KeptParts::Zeros(count) => vec![*ZEROS; *count as usize],
                };
                assert!(!told.is_empty() && kept.part + told.len() as u64 <= file.layout.count());
                let differs =
                    |(part, md5): (u64, &Md5)| file.digests.get(&part).is_some_and(|known| known != md5);
                let is_other = (kept.part..).zip(&told).any(differs);
                assert_eq!(event == Event::KeptOther(kept.entry), is_other);
                if !is_other {
                    (kept.part..).zip(told).for_each(|(part, md5)| {
                        file.digests.insert(part, md5);
                    });
                }
            }
        }
        // What an accepted `want` changed.
        if let Ok(Message::Want { entries, parts }) = Message::parse(json.as_bytes()) {
            for id in entries.iter().flatten() {
                let Some(file) = files.get_mut(&id).filter(|_| open.contains(&id)) else { continue };
                if std::mem::take(&mut file.is_unasked) {
                    match &parts {
                        WantedParts::All => continue,
                        WantedParts::Parts(runs) => {
                            assert_eq!(runs.last(), Some(0));
                            continue;
                        }
                        WantedParts::Offers if !file.sent.is_empty() => {
                            // What went out of it was its offer.
                            (file.wants_bodies, file.todo) = (false, BTreeSet::new());
                            continue;
                        }
                        _ => {}
                    }
                }
                match &parts {
                    WantedParts::All => file.asked(0..file.layout.count(), true),
                    WantedParts::Parts(runs) => file.asked(runs.iter().flatten(), true),
                    WantedParts::Offers => file.asked(0..file.layout.count(), false),
                    WantedParts::None => {
                        assert!(!file.wants_bodies && file.sent == file.asked && !file.asked.is_empty());
                        assert!(!file.is_there);
                        file.is_there = true;
                    }
                }
            }
        }
        match event {
            Event::Resumed(rests) => {
                for (id, bytes) in rests {
                    let file = &files[&id];
                    let asked_bytes: u64 =
                        file.asked.iter().map(|part| file.layout.range(*part).expect("a part").len).sum();
                    assert_eq!(bytes + asked_bytes, file.layout.size_bytes());
                }
            }
            Event::AlreadyThere(ids) => {
                assert!(ids.iter().all(|id| files[id].is_there && open.contains(id)));
            }
            Event::Stored(ids) => {
                for id in ids {
                    assert!(open.remove(&id), "stored, but not in flight");
                    assert!(settled.insert(id), "settled twice");
                    stored += 1;
                    let Some(file) = files.get(&id) else { continue };
                    assert!(
                        !compares || !matches!(step, Step::StoredOther(_)) || file.etag().is_none(),
                        "stored as something else"
                    );
                    skipped += u64::from(file.is_there);
                    let is_sent =
                        file.wants_bodies && !file.asked.is_empty() && file.asked.is_subset(&file.sent);
                    assert!(is_sent || file.is_there, "entry {id} stored, but not sent");
                }
            }
            Event::Again { entry, part } => {
                let file = files.get_mut(&entry).expect("a file");
                assert!(file.layout.range(part).is_some() && open.contains(&entry));
                file.sent.remove(&part);
                assert!(file.todo.insert(part) && file.wants_bodies);
                file.again.insert(part);
            }
            Event::Unneeded(ids) => {
                let is_offered = |file: &File| !file.wants_bodies && file.sent == file.asked;
                assert!(ids.iter().all(|id| is_offered(&files[id]) && open.contains(id)));
            }
            Event::Failed { entry, was_wanted, .. } => {
                assert!(open.remove(&entry) && settled.insert(entry));
                let is_wanted = |file: &File| file.wants_bodies && !file.is_unasked;
                assert_eq!(was_wanted, files.get(&entry).is_some_and(is_wanted));
                failed += 1;
            }
            Event::Receipt(receipt) => {
                assert!(ended && open.is_empty(), "a receipt while something is open");
                assert_eq!(receipt.entries, announced);
                assert_eq!((receipt.stored, receipt.skipped, receipt.failed), (stored, skipped, failed));
            }
            Event::Welcomed { .. } => {
                is_welcome = true;
                compares = matches!(step, Step::WelcomeEtags);
            }
            Event::KeptOther(id) => {
                assert!(
                    session.withdraw(id, ErrorCode::Digest, "x") && open.remove(&id) && settled.insert(id)
                );
                failed += 1;
            }
            Event::Nothing | Event::Wanted => {}
        }
        assert!(open.len() <= MAX_ENTRIES_IN_FLIGHT);
        said(&session.take_output());
    }
    // Nothing that is wanted is ever forgotten.
    while let Some(job) = take_job(&mut session, &mut files, &open) {
        hand.push((job, 1));
    }
    hand.into_iter().for_each(|job| send(&mut session, job, &mut files, &open));
    for (_, file) in files.iter().filter(|(id, _)| open.contains(id)) {
        assert!(
            file.todo.is_empty() && file.asked.is_subset(&file.sent),
            "{:?} of {:?}",
            file.sent,
            file.asked
        );
    }
}

fn take_job(session: &mut SenderSession, files: &mut HashMap<u64, File>, open: &HashSet<u64>) -> Option<Job> {
    let job = session.next_job()?;
    let file = files.get_mut(&job.entry).expect("a file");
    assert!(open.contains(&job.entry), "a job of what is settled");
    assert_eq!(file.layout.range(job.part), Some(job.range), "a part that does not exist");
    assert_eq!((job.wants_body, job.is_unasked), (file.wants_bodies, file.is_unasked));
    assert!(file.todo.remove(&job.part), "nobody wants it");
    // Unasked, twice decided upon, and asked for again a few times.
    file.jobs += 1;
    assert!(file.jobs <= file.layout.count() * (3 + u64::from(MAX_TRIES_A_PART)));
    Some(job)
}

fn send(
    session: &mut SenderSession,
    (job, taken): (Job, u64),
    files: &mut HashMap<u64, File>,
    open: &HashSet<u64>,
) {
    let mut out = Vec::new();
    let goes = match taken {
        1 => session.part_frame(&job, Md5::of(b""), &mut out),
        _ => session.hole_frame(&job, taken, &mut out),
    };
    assert_eq!(goes, !out.is_empty());
    said(&out);
    if goes {
        let file = files.get_mut(&job.entry).expect("a file");
        assert!(open.contains(&job.entry) && file.wants_bodies == job.wants_body);
        for part in job.part..job.part + taken {
            file.digests.insert(part, if taken == 1 { Md5::of(b"") } else { *ZEROS });
            let is_new = file.sent.insert(part);
            assert!(
                is_new || file.again.contains(&part),
                "a part twice, of which nobody asked for one again"
            );
        }
    }
}

/// The ear of `ftx bench`.
fn bench(steps: &[BenchStep<'_>]) {
    let mut session = MeasureClient::new();
    let (mut is_ready, mut asked, mut ended) = (false, None, false);
    for step in steps.iter().take(100) {
        let json = match step {
            BenchStep::Ask { what, size } => {
                if is_ready {
                    let what = [Measurable::Md5, Measurable::Write, Measurable::Wire][usize::from(*what) % 3];
                    let measure = Measure { what, size_bytes: (*size).into() };
                    session.ask(measure);
                    asked = Some(measure);
                    is_ready = false;
                }
                continue;
            }
            BenchStep::End => {
                if is_ready {
                    session.end();
                    (is_ready, ended) = (false, true);
                }
                continue;
            }
            BenchStep::Welcome { measure, agent } => format!(
                r#"{{"ftx":"welcome","version":1,"features":[{}],"agent":{}}}"#,
                if *measure { "\"measure\"" } else { "" },
                serde_json::Value::from(*agent)
            ),
            BenchStep::Measured { bytes, ns } => {
                format!(r#"{{"ftx":"measured","bytes":{bytes},"ns":{ns}}}"#)
            }
            BenchStep::Receipt(entries) => format!(
                r#"{{"ftx":"receipt","entries":{entries},"stored":0,"skipped":0,"failed":0,"bytes":0}}"#
            ),
            BenchStep::Busy => r#"{"ftx":"busy"}"#.into(),
            BenchStep::Raw(json) => {
                let _ = session.handle(json).inspect_err(refused);
                return;
            }
        };
        match session.handle(json.as_bytes()) {
            Err(error) => return refused(&error),
            Ok(measure_client::MeasureEvent::Nothing) => {}
            Ok(measure_client::MeasureEvent::Ready) => is_ready = true,
            Ok(measure_client::MeasureEvent::Measured(measured)) => {
                let asked = asked.take().expect("asked for");
                assert!(measured.bytes <= asked.size_bytes && measured.elapsed_ns > 0);
                assert!(asked.what != Measurable::Wire || measured.bytes == asked.size_bytes);
                is_ready = true;
            }
            Ok(measure_client::MeasureEvent::Receipt) => assert!(ended && asked.is_none()),
        }
        said(&session.take_output());
    }
}

fuzz_target!(|input: Input| match input {
    Input::Transfer { continues, is_welcome, steps } => transfer(continues, is_welcome, &steps),
    Input::Bench(steps) => bench(&steps),
});
