//! The sender's session, and that of `ftx bench`, with arbitrary frames of a receiver while files are announced and sent
//! in any order: jobs are only for parts that exist, a bounded number of times, and an entry counts as stored only after
//! everything that was requested of it was sent.
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
use ftx::wire::sender::{Job, SenderEvent};
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
    // Calls of the sender's driver.
    AnnounceFile {
        tail: u8,
        parts: u8,
        sparse: bool,
        has_state: bool,
    },
    AnnounceDir,
    AnnounceLink,
    End,
    /// All jobs are taken and sent.
    SendAll,
    TakeJobs {
        jobs: u8,
    },
    Holes {
        job: u8,
        most: u8,
    },
    Send(u8),
    Withdraw(u8),
    Totals,
    // Frames of the receiver.
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
    /// A receiver with the feature `etags`.
    WelcomeEtags,
    Kept {
        entry: u8,
        part: u8,
        parts: u8,
        what: KeptWhat,
    },
    /// `stored` with etags of other content.
    StoredOther(Ids),
}

#[derive(Arbitrary, Debug)]
enum KeptWhat {
    /// The digests that the sender has, as far as it has them.
    Same,
    Other,
    Zeros,
}

#[derive(Arbitrary, Debug)]
enum BenchStep<'a> {
    Request { what: u8, size: u8 },
    End,
    Welcome { measure: bool, agent: &'a str },
    Measured { bytes: u8, ns: u8 },
    Receipt(u8),
    Busy,
    Raw(&'a [u8]),
}

static ZEROS: LazyLock<Md5> = LazyLock::new(|| Md5::of(&vec![0; PART_BYTES as usize]));

/// An index below `count`, as a rule: a session that ends at its first frame tests nothing.
fn pick(raw: u8, count: u64) -> u64 {
    if raw >= 0xf0 { raw.into() } else { u64::from(raw) % count.max(1) }
}

/// The ranges of entries or parts in a frame.
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
            // A file has at most five parts.
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

/// The model of a file at the sender.
struct File {
    layout: PartLayout,
    /// Parts that the last `want` requested, as bodies or as offers.
    requested: BTreeSet<u64>,
    wants_bodies: bool,
    /// It is sent unasked, and no frame about it has arrived.
    is_unasked: bool,
    /// Requested parts that were not taken as jobs.
    todo: BTreeSet<u64>,
    /// Parts sent since the last `want`, without those that an `again` requested since.
    sent: BTreeSet<u64>,
    /// Parts that an `again` requested since the last `want`.
    again: BTreeSet<u64>,
    /// Jobs taken so far, repetitions included.
    jobs: u64,
    is_present: bool,
    /// Known digests of its parts.
    digests: BTreeMap<u64, Md5>,
}

impl File {
    fn new(layout: PartLayout) -> Self {
        File {
            layout,
            requested: BTreeSet::new(),
            wants_bodies: false,
            is_unasked: false,
            todo: BTreeSet::new(),
            sent: BTreeSet::new(),
            again: BTreeSet::new(),
            jobs: 0,
            is_present: false,
            digests: BTreeMap::new(),
        }
    }

    /// Its etag as in `stored`, if all parts are known.
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

    fn request(&mut self, parts: impl Iterator<Item = u64>, wants_bodies: bool) {
        self.requested = parts.collect();
        self.todo = self.requested.clone();
        self.sent.clear();
        self.again.clear();
        self.wants_bodies = wants_bodies;
    }
}

/// An error's message is safe to print.
fn check_message(error: &WireError) {
    let message = error.to_string();
    assert!(!message.chars().any(is_unsafe_to_print), "{message:?}");
}

/// The output is complete valid frames.
fn check_output(output: &[u8]) {
    assert!(output.len() < 64 << 20);
    let mut buffer = FrameBuffer::new();
    let mut pushed = 0;
    loop {
        pushed += buffer.push(&output[pushed..]);
        match buffer.next_frame(Framing::Native) {
            Ok(Some(json)) => drop(Message::parse(json).expect("a message of ours")),
            Ok(None) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(pushed == output.len() && buffer.is_empty());
}

fn transfer(continues: bool, mut is_welcome: bool, steps: &[Step<'_>]) {
    let lost = continues.then(|| SessionId::new([6; 16]));
    let mut session = SenderSession::new(SessionId::new([7; 16]), lost);
    if is_welcome {
        session.handle(br#"{"ftx":"welcome","version":1}"#).unwrap();
    }
    let mut files: HashMap<u64, File> = HashMap::new();
    let mut taken_jobs: Vec<(Job, u64)> = Vec::new();
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
                    file.request(0..1, true);
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
            Step::SendAll => {
                while let Some(job) = take_job(&mut session, &mut files, &open) {
                    taken_jobs.push((job, 1));
                }
                taken_jobs.drain(..).for_each(|job| send(&mut session, job, &mut files, &open));
                continue;
            }
            Step::TakeJobs { jobs } => {
                for _ in 0..jobs % 16 {
                    let Some(job) = take_job(&mut session, &mut files, &open) else { break };
                    assert!(open.contains(&job.entry), "a job of a settled entry");
                    taken_jobs.push((job, 1));
                }
                continue;
            }
            // Between `next_job` and `take_holes`, frames of the receiver may have changed what is requested.
            Step::Holes { job, most } => {
                let Some(index) = taken_jobs.len().checked_sub(1).map(|last| usize::from(*job).min(last))
                else {
                    continue;
                };
                let (job, taken @ 1) = &mut taken_jobs[index] else { continue };
                let most = pick(*most, 8).max(1);
                *taken = session.take_holes(job, most);
                assert!((1..=most).contains(taken));
                if *taken > 1 {
                    let file = files.get_mut(&job.entry).expect("a file");
                    assert!(open.contains(&job.entry) && file.wants_bodies == job.wants_body);
                    file.jobs += *taken - 1;
                    let is_requested = (job.part + 1..job.part + *taken).all(|part| file.todo.remove(&part));
                    assert!(is_requested, "holes that are not requested");
                }
                continue;
            }
            Step::Send(index) => {
                if !taken_jobs.is_empty() {
                    let job = taken_jobs.swap_remove(usize::from(*index) % taken_jobs.len());
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
                let kept_digests = match what {
                    KeptWhat::Zeros => format!(r#""zeros":{count}"#),
                    _ => format!(r#""md5":[{}]"#, digests.join(",")),
                };
                format!(r#"{{"ftx":"kept","entry":{id},"part":{first},{kept_digests}}}"#)
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
                let _ = session.handle(json).inspect_err(check_message);
                return;
            }
            _ => continue,
        };
        let event = match session.handle(json.as_bytes()) {
            Ok(event) => event,
            Err(error) => return check_message(&error),
        };
        if let Ok(Message::Kept(kept)) = Message::parse(json.as_bytes()) {
            assert!(compares && kept.entry < announced);
            let file = files.get_mut(&kept.entry).filter(|_| open.contains(&kept.entry));
            if let Some(file) = file {
                let kept_digests: Vec<Md5> = match &kept.parts {
                    KeptParts::Digests(digests) => digests.clone(),
                    KeptParts::Zeros(count) => vec![*ZEROS; *count as usize],
                };
                assert!(
                    !kept_digests.is_empty() && kept.part + kept_digests.len() as u64 <= file.layout.count()
                );
                let differs =
                    |(part, md5): (u64, &Md5)| file.digests.get(&part).is_some_and(|known| known != md5);
                let is_other = (kept.part..).zip(&kept_digests).any(differs);
                assert_eq!(event == SenderEvent::KeptOther(kept.entry), is_other);
                if !is_other {
                    (kept.part..).zip(kept_digests).for_each(|(part, md5)| {
                        file.digests.insert(part, md5);
                    });
                }
            }
        }
        // Apply an accepted `want` to the model.
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
                            // The part that was sent counts as its offer.
                            (file.wants_bodies, file.todo) = (false, BTreeSet::new());
                            continue;
                        }
                        _ => {}
                    }
                }
                match &parts {
                    WantedParts::All => file.request(0..file.layout.count(), true),
                    WantedParts::Parts(runs) => file.request(runs.iter().flatten(), true),
                    WantedParts::Offers => file.request(0..file.layout.count(), false),
                    WantedParts::None => {
                        assert!(
                            !file.wants_bodies && file.sent == file.requested && !file.requested.is_empty()
                        );
                        assert!(!file.is_present);
                        file.is_present = true;
                    }
                }
            }
        }
        match event {
            SenderEvent::Resumed(rests) => {
                for (id, bytes) in rests {
                    let file = &files[&id];
                    let asked_bytes: u64 =
                        file.requested.iter().map(|part| file.layout.range(*part).expect("a part").len).sum();
                    assert_eq!(bytes + asked_bytes, file.layout.size_bytes());
                }
            }
            SenderEvent::AlreadyThere(ids) => {
                assert!(ids.iter().all(|id| files[id].is_present && open.contains(id)));
            }
            SenderEvent::Stored(ids) => {
                for id in ids {
                    assert!(open.remove(&id), "stored, but not in flight");
                    assert!(settled.insert(id), "settled twice");
                    stored += 1;
                    let Some(file) = files.get(&id) else { continue };
                    assert!(
                        !compares || !matches!(step, Step::StoredOther(_)) || file.etag().is_none(),
                        "stored as something else"
                    );
                    skipped += u64::from(file.is_present);
                    let is_sent = file.wants_bodies
                        && !file.requested.is_empty()
                        && file.requested.is_subset(&file.sent);
                    assert!(is_sent || file.is_present, "entry {id} stored, but not sent");
                }
            }
            SenderEvent::Again { entry, part } => {
                let file = files.get_mut(&entry).expect("a file");
                assert!(file.layout.range(part).is_some() && open.contains(&entry));
                file.sent.remove(&part);
                assert!(file.todo.insert(part) && file.wants_bodies);
                file.again.insert(part);
            }
            SenderEvent::Unneeded(ids) => {
                let is_offered = |file: &File| !file.wants_bodies && file.sent == file.requested;
                assert!(ids.iter().all(|id| is_offered(&files[id]) && open.contains(id)));
            }
            SenderEvent::Failed { entry, was_wanted, .. } => {
                assert!(open.remove(&entry) && settled.insert(entry));
                let was_requested = |file: &File| file.wants_bodies && !file.is_unasked;
                assert_eq!(was_wanted, files.get(&entry).is_some_and(was_requested));
                failed += 1;
            }
            SenderEvent::Receipt(receipt) => {
                assert!(ended && open.is_empty(), "a receipt while something is open");
                assert_eq!(receipt.entries, announced);
                assert_eq!((receipt.stored, receipt.skipped, receipt.failed), (stored, skipped, failed));
            }
            SenderEvent::Welcomed { .. } => {
                is_welcome = true;
                compares = matches!(step, Step::WelcomeEtags);
            }
            SenderEvent::KeptOther(id) => {
                assert!(
                    session.withdraw(id, ErrorCode::Digest, "x") && open.remove(&id) && settled.insert(id)
                );
                failed += 1;
            }
            SenderEvent::Nothing | SenderEvent::Wanted => {}
        }
        assert!(open.len() <= MAX_ENTRIES_IN_FLIGHT);
        check_output(&session.take_output());
    }
    // Everything that is requested becomes a job.
    while let Some(job) = take_job(&mut session, &mut files, &open) {
        taken_jobs.push((job, 1));
    }
    taken_jobs.into_iter().for_each(|job| send(&mut session, job, &mut files, &open));
    for (_, file) in files.iter().filter(|(id, _)| open.contains(id)) {
        assert!(
            file.todo.is_empty() && file.requested.is_subset(&file.sent),
            "{:?} of {:?}",
            file.sent,
            file.requested
        );
    }
}

fn take_job(session: &mut SenderSession, files: &mut HashMap<u64, File>, open: &HashSet<u64>) -> Option<Job> {
    let job = session.next_job()?;
    let file = files.get_mut(&job.entry).expect("a file");
    assert!(open.contains(&job.entry), "a job of a settled entry");
    assert_eq!(file.layout.range(job.part), Some(job.range), "a part that does not exist");
    assert_eq!((job.wants_body, job.is_unasked), (file.wants_bodies, file.is_unasked));
    assert!(file.todo.remove(&job.part), "it is not requested");
    // Unasked, after each of two `want`, and after each `again`.
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
    let is_sent = match taken {
        1 => session.part_frame(&job, Md5::of(b""), &mut out),
        _ => session.hole_frame(&job, taken, &mut out),
    };
    assert_eq!(is_sent, !out.is_empty());
    check_output(&out);
    if is_sent {
        let file = files.get_mut(&job.entry).expect("a file");
        assert!(open.contains(&job.entry) && file.wants_bodies == job.wants_body);
        for part in job.part..job.part + taken {
            file.digests.insert(part, if taken == 1 { Md5::of(b"") } else { *ZEROS });
            let is_new = file.sent.insert(part);
            assert!(is_new || file.again.contains(&part), "a part twice without an `again`");
        }
    }
}

/// The session of `ftx bench`.
fn bench(steps: &[BenchStep<'_>]) {
    let mut session = MeasureClient::new();
    let (mut is_ready, mut requested, mut ended) = (false, None, false);
    for step in steps.iter().take(100) {
        let json = match step {
            BenchStep::Request { what, size } => {
                if is_ready {
                    let what = [Measurable::Md5, Measurable::Write, Measurable::Wire][usize::from(*what) % 3];
                    let measure = Measure { what, size_bytes: (*size).into() };
                    session.request(measure);
                    requested = Some(measure);
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
                let _ = session.handle(json).inspect_err(check_message);
                return;
            }
        };
        match session.handle(json.as_bytes()) {
            Err(error) => return check_message(&error),
            Ok(measure_client::MeasureEvent::Nothing) => {}
            Ok(measure_client::MeasureEvent::Ready) => is_ready = true,
            Ok(measure_client::MeasureEvent::Measured(measured)) => {
                let requested = requested.take().expect("a request");
                assert!(measured.bytes <= requested.size_bytes && measured.elapsed_ns > 0);
                assert!(requested.what != Measurable::Wire || measured.bytes == requested.size_bytes);
                is_ready = true;
            }
            Ok(measure_client::MeasureEvent::Receipt) => assert!(ended && requested.is_none()),
        }
        check_output(&session.take_output());
    }
}

fuzz_target!(|input: Input| match input {
    Input::Transfer { continues, is_welcome, steps } => transfer(continues, is_welcome, &steps),
    Input::Bench(steps) => bench(&steps),
});
