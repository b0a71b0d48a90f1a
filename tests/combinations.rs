//! **Promised: what is reported as stored equals the source, byte for byte**, under any combination of damaged parts,
//! holes, resumed files, lost connections, several connections, two sessions with one name, existing names, and sources
//! and directories that change in between.
//!
//! The receiver is the real one, with files in memory. The sender is the real state machine with generated sources and
//! random faults; a case is one output directory and a few sessions. The same seed gives the same case, but the
//! receiver's threads are not repeatable.
//!
//! With the cargo feature `tiny-parts` parts are small, and a minute is enough for thousands of cases.

#[allow(dead_code)] // The other test crate uses the rest.
#[path = "suite/common/mod.rs"]
mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::proofs::{Random, report_figures, rounds, run_parallel};
use ftx::dest::local::{OnConflict, Unfinished};
use ftx::digest::{Md5, PART_BYTES, PartDigests, PartLayout};
use ftx::error_code::ErrorCode;
use ftx::event::{NullReporter, Reporter, Summary};
use ftx::net::{BindTo, Peer};
use ftx::recv::{Observer, Options, RecvError, Server};
use ftx::relpath::{NamePolicy, RelPath};
use ftx::sync::CancelToken;
use ftx::units::{Metadata, Mode, MtimeNs};
use ftx::wire::sender::{Job, SenderEvent};
use ftx::wire::{EntryId, FrameBuffer, Framing, SenderSession, SessionId};
use rustix::fs::{FlockOperation, flock};

const PART: usize = PART_BYTES as usize;
/// Limit of a session; it needs far less.
const WATCHDOG: Duration = Duration::from_secs(150);

/// What a part of a source holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pattern {
    Zeros,
    Filled(u8),
    /// Zeros, with other bytes in the middle.
    Mixed(u8),
}

/// The bytes of a part and their digest, cached.
fn pattern(pattern: Pattern, len: usize) -> (Arc<Vec<u8>>, Md5) {
    type Known = HashMap<(Pattern, usize), (Arc<Vec<u8>>, Md5)>;
    static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap();
    let made = known.get_or_insert_default().entry((pattern, len)).or_insert_with(|| {
        let mut bytes = vec![0; len];
        match pattern {
            Pattern::Zeros => {}
            Pattern::Filled(byte) => bytes.fill(byte),
            Pattern::Mixed(byte) => bytes[len / 3..len.div_ceil(2)].fill(byte),
        }
        let md5 = Md5::of(&bytes);
        (Arc::new(bytes), md5)
    });
    made.clone()
}

/// One version of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    parts: Vec<Pattern>,
    size: usize,
    is_sparse: bool,
    mode: u32,
    mtime_ns: i64,
    state: Md5,
}

impl Version {
    fn draw(random: &mut Random) -> Self {
        let size = match random.below(8) {
            0 => 0,
            1 => 1 + random.below(5000) as usize,
            2 | 3 => PART * (1 + random.below(4) as usize),
            _ => PART * random.below(4) as usize + random.below(PART as u64) as usize,
        };
        let parts = (0..PartLayout::new(size as u64).count())
            .map(|_| match random.below(5) {
                0 | 1 => Pattern::Zeros,
                2 => Pattern::Mixed(1 + random.below(3) as u8),
                _ => Pattern::Filled(1 + random.below(3) as u8),
            })
            .collect();
        let (is_sparse, state) = (random.below(3) > 0, Md5::of(&random.bytes(8)));
        let mode = *random.pick(&[0o644, 0o600, 0o400, 0o777, 0o000, 0o755]);
        Version { parts, size, is_sparse, mode, mtime_ns: random.below(1 << 60) as i64, state }
    }

    fn layout(&self) -> PartLayout {
        PartLayout::new(self.size as u64)
    }

    fn part(&self, index: u64) -> (Arc<Vec<u8>>, Md5) {
        let len = self.layout().range(index).unwrap().len as usize;
        pattern(self.parts[index as usize], len)
    }

    fn metadata(&self) -> Metadata {
        Metadata { mode: Some(Mode::new(self.mode)), mtime: Some(MtimeNs(self.mtime_ns)) }
    }

    /// Whether a file has exactly this content.
    fn is_in(&self, path: &Path) -> bool {
        self.found_in(path).is_some()
    }

    /// The metadata of a file with exactly this content, taken from the descriptor that was read.
    fn found_in(&self, path: &Path) -> Option<fs::Metadata> {
        let mut file = fs::File::open(path).ok()?;
        let metadata = file.metadata().unwrap();
        if metadata.len() != self.size as u64 {
            return None;
        }
        let mut buffer = vec![0; self.size.min(PART)];
        let is_whole = (0..self.layout().count()).all(|index| {
            let (bytes, _) = self.part(index);
            let buffer = &mut buffer[..bytes.len()];
            file.read_exact(buffer).unwrap();
            buffer == &bytes[..]
        });
        is_whole.then_some(metadata)
    }

    fn write(&self, path: &Path) {
        let mut file = fs::File::create(path).unwrap();
        (0..self.layout().count()).for_each(|index| file.write_all(&self.part(index).0).unwrap());
    }
}

/// The random faults of a session.
#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    /// One of this many parts is damaged; 0 for none.
    damage: u64,
    /// Bytes of bodies after which all connections are cut.
    cut: Option<usize>,
    streams: usize,
    /// At one of this many parts the file is withdrawn because its source has changed; 0 for none.
    withdraw: u64,
    etags: bool,
}

impl Plan {
    fn draw(random: &mut Random) -> Self {
        let size = 6 * PART as u64;
        Plan {
            seed: random.next(),
            damage: *random.pick(&[0, 2, 3, 6]),
            cut: (random.below(2) == 0).then(|| random.below(size) as usize),
            streams: 1 + random.below(3) as usize,
            withdraw: *random.pick(&[0, 0, 0, 8]),
            etags: random.below(5) > 0,
        }
    }

    fn without_faults(random: &mut Random) -> Self {
        Plan { damage: 0, cut: None, withdraw: 0, etags: true, ..Plan::draw(random) }
    }
}

/// How a session ended.
#[derive(Debug, Default)]
struct Outcome {
    /// Stored files by name, and whether they existed already.
    stored: BTreeMap<String, bool>,
    dirs: BTreeSet<String>,
    failed: BTreeMap<String, (ErrorCode, String)>,
    has_receipt: bool,
    /// The session id, for a reconnect.
    id: Option<SessionId>,
    digests: HashMap<String, PartDigests>,
}

/// A sender's end of one session.
struct Sender<'a> {
    plan: &'a Plan,
    random: Random,
    session: SenderSession,
    streams: Vec<TcpStream>,
    received: mpsc::Receiver<Option<Vec<u8>>>,
    entries: HashMap<EntryId, (String, Option<&'a Version>)>,
    already_there: BTreeSet<EntryId>,
    takes_streams: bool,
    sent_bytes: usize,
    outcome: Outcome,
}

/// The connection was cut by the plan or closed by the receiver.
struct Cut;

fn frames(mut stream: TcpStream, to: &mpsc::Sender<Option<Vec<u8>>>) {
    let mut inbox = FrameBuffer::new();
    loop {
        while let Some(json) = inbox.next_frame(Framing::Native).unwrap() {
            if to.send(Some(json.to_vec())).is_err() {
                return;
            }
        }
        match stream.read(inbox.space()) {
            Ok(count) if count > 0 => inbox.filled(count),
            _ => break,
        }
    }
    let _ = to.send(None);
}

/// Sends `files` and then `dirs` by a plan; with `before`, continues that session.
fn session(
    at: SocketAddr,
    files: &BTreeMap<String, Version>,
    dirs: &BTreeMap<String, u32>,
    plan: &Plan,
    before: Option<&mut Outcome>,
) -> Outcome {
    let mut random = Random::new(plan.seed);
    let id: [u8; 16] = random.bytes(16).try_into().unwrap();
    let (id, continues) = (SessionId::new(id), before.as_ref().and_then(|before| before.id));
    let first = TcpStream::connect(at).unwrap();
    let (to, received) = mpsc::channel();
    let reading = first.try_clone().unwrap();
    thread::spawn(move || frames(reading, &to));
    let mut sender = Sender {
        plan,
        random,
        session: SenderSession::new(id, continues),
        streams: vec![first],
        received,
        entries: HashMap::new(),
        already_there: BTreeSet::new(),
        takes_streams: false,
        sent_bytes: 0,
        outcome: Outcome { id: Some(id), ..Outcome::default() },
    };
    let digests = before.map(|before| std::mem::take(&mut before.digests)).unwrap_or_default();
    let ended = sender.run(files, dirs, digests);
    if ended.is_err() {
        sender.streams.iter().for_each(|stream| {
            let _ = stream.shutdown(Shutdown::Both);
        });
        for (id, (name, _)) in &sender.entries {
            sender.outcome.digests.insert(name.clone(), sender.session.take_digests(*id));
        }
    }
    sender.outcome.has_receipt = ended.is_ok();
    sender.outcome
}

impl<'a> Sender<'a> {
    fn run(
        &mut self,
        files: &'a BTreeMap<String, Version>,
        dirs: &BTreeMap<String, u32>,
        mut digests: HashMap<String, PartDigests>,
    ) -> Result<(), Cut> {
        for (name, version) in files {
            let path = RelPath::new(name.as_bytes(), NamePolicy::Strict).unwrap();
            let state = (version.size > PART).then_some(version.state);
            let size_bytes = version.size as u64;
            let id =
                self.session.announce_file(&path, size_bytes, version.is_sparse, state, version.metadata());
            if let Some(digests) = digests.remove(name) {
                self.session.set_digests(id, digests);
            }
            self.entries.insert(id, (name.clone(), Some(version)));
        }
        for (name, mode) in dirs {
            let path = RelPath::new(name.as_bytes(), NamePolicy::Strict).unwrap();
            let metadata = Metadata { mode: Some(Mode::new(*mode)), mtime: Some(MtimeNs(5)) };
            let id = self.session.announce_dir(&path, metadata);
            self.entries.insert(id, (name.clone(), None));
        }
        self.session.end();
        let start = Instant::now();
        loop {
            self.flush_output()?;
            let next = if self.session.has_job() {
                self.received.try_recv().ok()
            } else {
                Some(self.received.recv_timeout(WATCHDOG).expect("the receiver sends a frame"))
            };
            assert!(start.elapsed() < WATCHDOG, "the session hangs");
            match next {
                Some(Some(json)) => {
                    if self.take(&json) {
                        return Ok(());
                    }
                }
                Some(None) => return Err(Cut),
                None => {
                    if let Some(job) = self.session.next_job() {
                        self.send(&job)?;
                    }
                }
            }
        }
    }

    /// Writes the session's pending output.
    fn flush_output(&mut self) -> Result<(), Cut> {
        let mut output = self.session.take_output();
        if !self.plan.etags
            && let Some(at) = output.windows(8).position(|bytes| bytes == br#","etags""#)
            && self.sent_bytes == 0
        {
            // An older sender: the hello is rewritten without the feature.
            let hello = u32::from_le_bytes(output[..4].try_into().unwrap()) as usize;
            if at < hello {
                let json = [&output[4..at], &output[at + 8..4 + hello]].concat();
                let mut frame = Vec::new();
                ftx::wire::frame::encode(Framing::Native, &json, &mut frame);
                output.splice(..hello + 8, frame);
            }
        }
        self.streams[0].write_all(&output).map_err(|_| Cut)
    }

    fn name(&self, id: EntryId) -> String {
        self.entries[&id].0.clone()
    }

    /// Handles a frame; `true` for the receipt.
    fn take(&mut self, json: &[u8]) -> bool {
        let event = self
            .session
            .handle(json)
            .unwrap_or_else(|error| panic!("{error}: {} in {:?}", String::from_utf8_lossy(json), self.plan));
        match event {
            SenderEvent::Welcomed { takes_streams } => self.takes_streams = takes_streams,
            SenderEvent::AlreadyThere(ids) => self.already_there.extend(ids),
            SenderEvent::Stored(ids) => {
                for id in ids {
                    let name = self.name(id);
                    if self.entries[&id].1.is_some() {
                        self.outcome.stored.insert(name, self.already_there.contains(&id));
                    } else {
                        self.outcome.dirs.insert(name);
                    }
                }
            }
            SenderEvent::Failed { entry, code, message, .. } => {
                self.outcome.failed.insert(self.name(entry), (code, message));
            }
            SenderEvent::KeptOther(id) => {
                panic!("{} is kept with other content: {:?}", self.name(id), self.plan)
            }
            SenderEvent::Receipt(_) => return true,
            _ => {}
        }
        false
    }

    /// A random connection; opens further ones as planned.
    fn stream(&mut self) -> usize {
        if self.takes_streams && self.streams.len() < self.plan.streams {
            let mut stream = TcpStream::connect(self.streams[0].peer_addr().unwrap()).unwrap();
            stream.write_all(&self.session.join_frame()).unwrap();
            self.streams.push(stream);
        }
        self.random.below(self.streams.len() as u64) as usize
    }

    fn is_one_of(&mut self, number: u64) -> bool {
        number > 0 && self.random.below(number) == 0
    }

    fn send(&mut self, job: &Job) -> Result<(), Cut> {
        let version = self.entries[&job.entry].1.expect("only files have parts");
        if !job.is_unasked && self.is_one_of(self.plan.withdraw) {
            if self.session.withdraw(job.entry, ErrorCode::SourceChanged, "changed") {
                let reason = (ErrorCode::SourceChanged, String::new());
                self.outcome.failed.insert(self.name(job.entry), reason);
            }
            return Ok(());
        }
        let stream = if job.is_unasked { 0 } else { self.stream() };
        let mut frame = Vec::new();
        let is_whole_zeros = |part: u64| {
            version.parts.get(part as usize) == Some(&Pattern::Zeros)
                && version.layout().range(part).is_some_and(|range| range.len == PART_BYTES)
        };
        let (bytes, md5) = version.part(job.part);
        if version.is_sparse && is_whole_zeros(job.part) && self.random.below(2) == 0 {
            let parts = (job.part..).take_while(|part| is_whole_zeros(*part)).count() as u64;
            let parts = self.session.take_holes(job, parts);
            self.session.hole_frame(job, parts, &mut frame);
            return self.write(stream, &frame);
        }
        if !self.session.part_frame(job, md5, &mut frame) {
            return Ok(());
        }
        self.write(stream, &frame)?;
        if !job.wants_body {
            return Ok(());
        }
        let damaged = (!bytes.is_empty() && self.is_one_of(self.plan.damage)).then(|| {
            let mut damaged = bytes.to_vec();
            match self.random.below(3) {
                0 => damaged.fill(b'X'),
                _ => damaged[self.random.below(bytes.len() as u64) as usize] ^= 0x10,
            }
            damaged
        });
        let body = damaged.as_ref().unwrap_or(&bytes);
        let rest = self.plan.cut.map_or(usize::MAX, |cut| cut.saturating_sub(self.sent_bytes));
        self.sent_bytes += body.len();
        if rest < body.len() {
            let _ = self.write(stream, &body[..rest]);
            return Err(Cut);
        }
        self.write(stream, body)
    }

    fn write(&mut self, stream: usize, bytes: &[u8]) -> Result<(), Cut> {
        self.streams[stream].write_all(bytes).map_err(|_| Cut)
    }
}

/// Ignores the receiver's reports.
struct NullObserver;

impl Observer for NullObserver {
    fn unfinished(&self, _: &Unfinished) {}
    fn started(&self, _: &Peer) -> Box<dyn Reporter + '_> {
        Box::new(NullReporter)
    }
    fn lost(&self, _: &Peer, _: &RecvError, _: Duration) {}
    fn ended(&self, _: &Peer, _: &Result<Summary, RecvError>) {}
}

/// One case: an output directory and the expected state.
struct Case<'a> {
    out: &'a Path,
    policy: OnConflict,
    at: SocketAddr,
    random: Random,
    files: BTreeMap<String, Version>,
    dirs: BTreeMap<String, u32>,
    /// Directories that existed before.
    foreign_dirs: BTreeMap<String, u32>,
    /// Every version that was ever written or sent under a name.
    offered: BTreeMap<String, Vec<Version>>,
    last: Option<Outcome>,
    /// Versions sent in sessions that were cut.
    cut: BTreeMap<String, Vec<Version>>,
    stored: u64,
}

const NAMES: [&str; 4] = ["a", "b.txt", "d/c", "d/e/f.bin"];
const POLICIES: [OnConflict; 4] =
    [OnConflict::SkipSame, OnConflict::Overwrite, OnConflict::Rename, OnConflict::Error];

impl Case<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    /// The names under which a file may be stored, by the policy.
    fn places(&self, name: &str) -> Vec<PathBuf> {
        let path = self.path(name);
        let mut places = vec![path.clone()];
        if self.policy == OnConflict::Rename {
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let extension =
                path.extension().map_or(String::new(), |text| format!(".{}", text.to_str().unwrap()));
            let numbered = (1..).map(|number| path.with_file_name(format!("{stem} ({number}){extension}")));
            places.extend(numbered.take_while(|path| path.exists()));
        }
        places
    }

    fn version(&mut self, name: &str) -> Version {
        let version = Version::draw(&mut self.random);
        self.offered.entry(name.to_owned()).or_default().push(version.clone());
        version
    }

    /// Creates what exists before the first session.
    fn furnish(&mut self) {
        for name in ["d", "d/e"] {
            if self.random.below(3) == 0 && self.path(name).parent().unwrap().exists() {
                let mode = *self.random.pick(&[0o755, 0o700, 0o2775, 0o1777, 0o2770]);
                fs::create_dir(self.path(name)).unwrap();
                fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
                let mode = fs::metadata(self.path(name)).unwrap().mode();
                self.foreign_dirs.insert(name.to_owned(), mode & 0o7777);
            }
            let mode = *self.random.pick(&[0o755, 0o700, 0o500, 0o777, 0o000]);
            self.dirs.insert(name.to_owned(), mode);
        }
        for name in NAMES {
            if self.random.below(4) > 0 {
                let version = self.version(name);
                if self.random.below(4) == 0 && self.path(name).parent().unwrap().exists() {
                    match self.random.below(2) {
                        0 => version.write(&self.path(name)),
                        _ => self.version(name).write(&self.path(name)),
                    }
                }
                self.files.insert(name.to_owned(), version);
            }
        }
        // Only directories that contain a file are announced.
        self.dirs.retain(|dir, _| self.files.keys().any(|name| name.starts_with(&format!("{dir}/"))));
    }

    /// One round: one session, or two at the same time.
    fn send(&mut self, plan: &Plan) {
        let before = self.contents();
        let mut last = self.last.take().filter(|last| !last.has_receipt && self.random.below(2) == 0);
        let second = self.random.below(4) == 0;
        let mut rivals = BTreeMap::new();
        if second {
            for (name, version) in self.files.clone() {
                let rival = if self.random.below(2) == 0 { version } else { self.version(&name) };
                rivals.insert(name, rival);
            }
        }
        let rival_plan = Plan::draw(&mut self.random);
        let (files, dirs, at) = (&self.files, &self.dirs, self.at);
        let (outcome, rival) = thread::scope(|scope| {
            let rival = second.then(|| scope.spawn(|| session(at, &rivals, dirs, &rival_plan, None)));
            let outcome = session(at, files, dirs, plan, last.as_mut());
            (outcome, rival.map(|rival| rival.join().unwrap()))
        });
        self.check(&outcome, &self.files, &rivals);
        if let Some(rival) = &rival {
            self.check(rival, &rivals, &self.files);
        }
        self.check_names(&before);
        if rival.is_none() && outcome.has_receipt {
            self.check_dirs(&outcome);
        }
        let cut = [
            (!outcome.has_receipt, self.files.clone()),
            (rival.is_some_and(|rival| !rival.has_receipt), rivals),
        ];
        for (name, version) in cut.into_iter().filter(|(is_cut, _)| *is_cut).flat_map(|(_, files)| files) {
            self.cut.entry(name).or_default().push(version);
        }
        self.stored += outcome.stored.len() as u64;
        self.last = Some(outcome);
    }

    /// Checks that files reported as stored exist, unless another session replaced them.
    fn check(
        &self,
        outcome: &Outcome,
        files: &BTreeMap<String, Version>,
        other_files: &BTreeMap<String, Version>,
    ) {
        for (name, was_there) in &outcome.stored {
            let version = &files[name];
            let places = self.places(name);
            let found = places.iter().find_map(|place| version.found_in(place));
            // The other session may have been cut before it received `stored`, and a session cut in an earlier round may
            // still commit its complete files.
            let mut others =
                other_files.get(name).into_iter().chain(self.cut.get(name).into_iter().flatten());
            let is_replaced =
                self.policy == OnConflict::Overwrite && others.any(|other| other.is_in(&self.path(name)));
            let Some(metadata) = found else {
                let names = common::names(self.out);
                assert!(
                    is_replaced,
                    "{name} was stored and is not there ({:?}, {names:?}): {version:?}; {outcome:?}; the other session: {:?}",
                    self.policy,
                    other_files.get(name)
                );
                continue;
            };
            // Two sessions may have sent the same bytes with different modes.
            let digests = |version: &Version| -> Vec<Md5> {
                (0..version.layout().count()).map(|part| version.part(part).1).collect()
            };
            let is_same = |other: &&Version| digests(other) == digests(version);
            let is_alone = self.offered[name].iter().filter(is_same).count() == 1;
            if !was_there && is_alone && !other_files.contains_key(name) {
                let (mode, mtime) = (
                    metadata.mode() & 0o7777,
                    metadata.mtime() as i128 * 1_000_000_000 + metadata.mtime_nsec() as i128,
                );
                assert_eq!((mode, mtime), (version.mode, version.mtime_ns as i128), "{name}");
            }
        }
    }

    /// Checks that every file is a sent version, and that nothing was overwritten against the policy.
    fn check_names(&self, before: &BTreeMap<PathBuf, u64>) {
        for name in NAMES {
            for place in self.places(name).iter().filter(|place| place.exists()) {
                let is_offered = self.offered[name].iter().any(|version| version.is_in(place));
                assert!(is_offered, "{} holds something that was never sent", place.display());
            }
        }
        // The same file is never stored twice.
        for name in NAMES.iter().filter(|_| self.policy == OnConflict::Rename) {
            let places = self.places(name);
            for version in &self.offered[*name] {
                let copies = places.iter().filter(|place| version.is_in(place)).count();
                assert!(copies <= 1, "{copies} copies of {name}: {version:?}");
            }
        }
        for (path, inode) in before.iter().filter(|_| self.policy != OnConflict::Overwrite) {
            assert_eq!(
                fs::metadata(path).map(|file| file.ino()).ok(),
                Some(*inode),
                "{} was replaced",
                path.display()
            );
        }
    }

    fn check_dirs(&self, outcome: &Outcome) {
        for name in &outcome.dirs {
            let mode = fs::metadata(self.path(name)).unwrap().mode() & 0o7777;
            let expected = match self.foreign_dirs.get(name) {
                Some(mode) if self.policy != OnConflict::Overwrite => *mode,
                _ => self.dirs[name],
            };
            // A directory below one with the setgid bit inherits the bit.
            assert_eq!(mode & !0o2000, expected & !0o2000, "{name}");
        }
    }

    /// The existing files with their inodes.
    fn contents(&self) -> BTreeMap<PathBuf, u64> {
        let places = NAMES.iter().flat_map(|name| self.places(name));
        places.filter_map(|place| Some((place.clone(), fs::metadata(&place).ok()?.ino()))).collect()
    }

    /// Random changes between two sessions.
    fn disturb(&mut self) {
        if self.random.below(4) == 0 && !self.files.is_empty() {
            let names: Vec<String> = self.files.keys().cloned().collect();
            let name = self.random.pick(&names).clone();
            let version = self.version(&name);
            // Digests of the old version are not valid for the new one.
            if let Some(last) = &mut self.last {
                last.digests.remove(&name);
            }
            self.files.insert(name, version);
        }
        if self.random.below(3) == 0 {
            self.harm_unfinished();
        }
    }

    /// Corrupts a staged file or a journal, like a failing disk.
    fn harm_unfinished(&mut self) {
        let unfinished: Vec<PathBuf> = walkdir::WalkDir::new(self.out)
            .into_iter()
            .filter_map(|entry| Some(entry.ok()?.into_path()))
            .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(".ftx-part-"))
            .collect();
        if unfinished.is_empty() {
            return;
        }
        let path = self.random.pick(&unfinished).clone();
        let staged = path.to_str().unwrap().trim_end_matches(".journal").to_owned();
        // The lock ensures that the receiver has finished with the file.
        let Ok(file) = fs::File::options().read(true).write(true).open(&staged) else { return };
        if flock(&file, FlockOperation::LockExclusive).is_err() {
            return;
        }
        // The change must get a later timestamp than the file has.
        let probe = tempfile::NamedTempFile::new_in(self.out.parent().unwrap()).unwrap();
        let time = |file: &fs::File| file.metadata().map(|file| (file.ctime(), file.ctime_nsec())).unwrap();
        while time(probe.as_file()) <= time(&file) {
            probe.as_file().set_len(1).unwrap();
            probe.as_file().set_len(0).unwrap();
        }
        let Ok(mut bytes) = fs::read(&path) else { return };
        if bytes.is_empty() {
            return;
        }
        let position = self.random.below(bytes.len() as u64) as usize;
        match self.random.below(3) {
            0 => bytes.truncate(position),
            1 => bytes[position] ^= 1,
            _ => bytes[position..].fill(0),
        }
        // In place: the inode stays the same.
        if let Ok(mut harmed) = fs::File::options().write(true).open(&path) {
            harmed.set_len(0).unwrap();
            harmed.write_all(&bytes).unwrap();
        }
    }
}

fn case(seed: u64) -> u64 {
    let mut random = Random::new(seed);
    let room = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let out = room.path().join("out");
    fs::create_dir(&out).unwrap();
    let policy = *random.pick(&POLICIES);
    let options = Options {
        bind: Some(BindTo::Ip(Ipv4Addr::LOCALHOST.into())),
        port: 0,
        out: out.clone(),
        on_conflict: policy,
        names: NamePolicy::Strict,
        sessions: None,
        timeout: Duration::from_secs(60),
        keep_unfinished: Duration::from_secs(3600),
        whole_digests: false,
        cancel: CancelToken::new().unwrap(),
    };
    let server = Server::start(options).unwrap();
    let mut case = Case {
        out: &out,
        policy,
        at: server.bound().address().unwrap(),
        random,
        files: BTreeMap::new(),
        dirs: BTreeMap::new(),
        foreign_dirs: BTreeMap::new(),
        offered: NAMES.iter().map(|name| ((*name).to_owned(), Vec::new())).collect(),
        last: None,
        cut: BTreeMap::new(),
        stored: 0,
    };
    case.furnish();
    thread::scope(|scope| {
        let serving = scope.spawn(|| server.run(&NullObserver).unwrap());
        let stop = StopOnDrop(server.stop());
        for _ in 0..1 + case.random.below(3) {
            let plan = Plan::draw(&mut case.random);
            case.send(&plan);
            case.disturb();
        }
        let plan = Plan::without_faults(&mut case.random);
        case.send(&plan);
        let last = case.last.as_ref().unwrap();
        assert!(last.has_receipt, "the last session has no faults, and did not end");
        // An existing name is the only possible reason for a failure.
        let codes: BTreeSet<ErrorCode> = last.failed.values().map(|(code, _)| *code).collect();
        assert!(codes.iter().all(|code| *code == ErrorCode::Exists), "{:?}", last.failed);
        drop(stop);
        serving.join().unwrap();
    });
    let left: Vec<String> = common::names(&out);
    let is_temporary = |name: &&String| name.contains(".ftx-") && !name.contains(".ftx-part-");
    assert_eq!(left.iter().find(is_temporary), None, "{left:?}");
    case.stored
}

/// A failing case must stop its receiver, or the other cases would wait for it.
struct StopOnDrop(CancelToken);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[test]
fn random_sessions_store_only_the_source() {
    let stored = AtomicU64::new(0);
    let start = Instant::now();
    let seeds: Vec<u64> = (0..rounds(if PART < 1 << 20 { 400 } else { 60 }) as u64).collect();
    run_parallel(&seeds, 12, |seed| {
        stored.fetch_add(case(*seed), Ordering::Relaxed);
    });
    let (cases, stored, seconds) = (seeds.len(), stored.into_inner(), start.elapsed().as_secs());
    report_figures(&format!("{cases} cases, {stored} files stored and compared, {seconds} s"));
    assert!(stored > cases as u64 / 2, "{stored} files in {cases} cases");
}
