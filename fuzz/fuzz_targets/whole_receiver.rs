//! The complete receiver with real files, and senders of both dialects on several connections, some of which are lost: no
//! file appears outside the destination folder, a final name holds what was announced or nothing, and every `stored` is
//! true.
#![no_main]

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use ftx::dest::local::{OnConflict, Unfinished};
use ftx::digest::{Md5, PART_BYTES, PartLayout};
use ftx::event::{Event, Reporter, Summary};
use ftx::net::{BindTo, Peer};
use ftx::recv::{Observer, Options, RecvError, Server};
use ftx::relpath::NamePolicy;
use ftx::sync::CancelToken;
use ftx::wire::frame::{Framing, encode};
use ftx::wire::id_ranges::IdRanges;
use ftx::wire::message::{ErrorReport, WantedParts};
use ftx::wire::{FrameBuffer, Message};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    is_classic: bool,
    policy: u8,
    /// Files that exist before the session: name and content.
    before: Vec<(u8, u8)>,
    steps: Vec<Step<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    File {
        name: u8,
        content: u8,
        sparse: bool,
        has_state: bool,
    },
    /// A file under an arbitrary name.
    OddFile {
        name: &'a str,
        content: u8,
    },
    /// A sparse file that is larger than any disk.
    Huge {
        has_state: bool,
    },
    Dir(u8),
    Link {
        name: u8,
        target: u8,
    },
    Body {
        entry: u8,
        part: u8,
        honest: bool,
    },
    Offer {
        entry: u8,
        part: u8,
        honest: bool,
    },
    Hole {
        entry: u8,
        part: u8,
        parts: u8,
    },
    /// One hole for all whole parts, or for all but the last.
    Holes {
        entry: u8,
        skip_last: u8,
    },
    Withdraw(u8),
    Measure {
        what: u8,
        size: u16,
    },
    Totals,
    Classic {
        name: u8,
        content: u8,
        honest: bool,
    },
    End,
    Busy,
    /// Waits until the receiver has replied about every file.
    AwaitReplies,
    /// The same, then sends the parts that are requested.
    SendRequested,
    /// A file of several parts, and its first part.
    FirstPart(u8),
    /// The same file, and all parts that are requested of it.
    AllParts(u8),
    /// Another connection, with the session's id or an unknown one; the next steps use it.
    Join {
        right: bool,
    },
    /// The next steps use another connection of the session.
    Switch(u8),
    /// The connections are lost, either closed or left open, and a new session begins.
    Lose {
        noticed: bool,
        continues: bool,
    },
    /// A bit of a kept partial file or its journal flips, or its end is cut off.
    Damage {
        journal: bool,
        at: u32,
        bit: u8,
    },
    Raw(&'a [u8]),
}

/// An index below `count`, as a rule: a session that ends at its first frame tests nothing.
fn pick(raw: u8, count: usize) -> u64 {
    if raw >= 0xf0 { raw.into() } else { u64::from(raw) % count.max(1) as u64 }
}

const NAMES: [&str; 13] =
    ["a", "b", "long", "d/a", "d/e/f", "d", "../out", "/etc/x", "l/a", "l", "d/../../x", ".ftx-0", "\u{e9}"];
const TARGETS: [&str; 6] = ["a", "d", "..", "../..", "/etc", "d/e/../../.."];
const STATE: &str = "00112233445566778899aabbccddeeff";
const HUGE_BYTES: u64 = 1 << 62;

/// Two parts, the first of zeros.
static LONG: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut content = vec![0; PART_BYTES as usize];
    content.extend_from_slice(b"tail");
    content
});

fn content(index: u8) -> &'static [u8] {
    match index % 6 {
        0 => b"",
        1 => b"abc",
        2 => &[0; 5000],
        3 => &[7; 200_000],
        _ => &LONG,
    }
}

/// The MD5 of one of those contents, or of a part of it, cached.
fn md5(bytes: &'static [u8]) -> Md5 {
    static KNOWN: LazyLock<Mutex<HashMap<(usize, usize), Md5>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap();
    *known.entry((bytes.as_ptr() as usize, bytes.len())).or_insert_with(|| Md5::of(bytes))
}

/// The contents that were announced for each path.
type Contents = HashMap<PathBuf, Vec<&'static [u8]>>;

/// What the receivers have reported.
#[derive(Default)]
struct Reported {
    active_sessions: usize,
    /// Files in place, and the MD5 of each where it was computed.
    done: Vec<(Vec<u8>, Option<Md5>)>,
}

static REPORTED: Mutex<Reported> = Mutex::new(Reported { active_sessions: 0, done: Vec::new() });

struct Recorder;

impl Observer for Recorder {
    fn unfinished(&self, _: &Unfinished) {}

    fn started(&self, _: &Peer) -> Box<dyn Reporter + '_> {
        REPORTED.lock().unwrap().active_sessions += 1;
        Box::new(Recorder)
    }

    fn lost(&self, _: &Peer, _: &RecvError, _: Duration) {}

    fn ended(&self, _: &Peer, _: &Result<Summary, RecvError>) {
        REPORTED.lock().unwrap().active_sessions -= 1;
    }
}

impl Reporter for Recorder {
    fn report(&self, event: Event<'_>) {
        if let Event::FileDone { path, md5, .. } = event {
            REPORTED.lock().unwrap().done.push((path.to_vec(), md5));
        }
    }
}

/// One receiver for all inputs with a policy; its folder is emptied before each input.
struct World {
    address: SocketAddr,
    policy: OnConflict,
    takes_digests: bool,
    outside: PathBuf,
    inside: PathBuf,
}

static WORLDS: LazyLock<Vec<World>> = LazyLock::new(|| {
    // The folders are not removed here; run.sh does that.
    let given = std::env::var_os("FTX_FUZZ_DIR").map(PathBuf::from);
    let memory = Path::new("/dev/shm");
    let parent =
        given.unwrap_or_else(|| if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() });
    let policies = [OnConflict::SkipSame, OnConflict::Overwrite, OnConflict::Rename, OnConflict::Error];
    let world = |policy| {
        let outside = tempfile::Builder::new().prefix("ftx-fuzz-").tempdir_in(&parent).unwrap().keep();
        let inside = outside.join("one/two/in");
        fs::create_dir_all(&inside).unwrap();
        // The MD5 of a huge file takes long, so only one receiver computes MD5s of complete files.
        let takes_digests = policy == OnConflict::Overwrite;
        let server = Server::start(Options {
            bind: Some(BindTo::Ip([127, 0, 0, 1].into())),
            port: 0,
            out: inside.clone(),
            on_conflict: policy,
            names: NamePolicy::Strict,
            sessions: None,
            timeout: Duration::from_secs(5),
            keep_unfinished: Duration::from_secs(3600),
            whole_digests: takes_digests,
            cancel: CancelToken::new().unwrap(),
        })
        .unwrap();
        let address = server.bound().address().unwrap();
        thread::spawn(move || server.run(&Recorder));
        World { address, policy, takes_digests, outside, inside }
    };
    policies.into_iter().map(world).collect()
});

/// Everything below `root` but folders, links not followed.
fn files(root: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(root).into_iter().flatten();
    entries.filter(|entry| !entry.file_type().is_dir()).map(|entry| entry.into_path()).collect()
}

fn is_hidden(path: &Path) -> bool {
    path.components()
        .any(|part| part.as_os_str().as_encoded_bytes().to_ascii_lowercase().starts_with(b".ftx-"))
}

/// A receiver that takes longer than this for a step hangs.
const HANG_TIMEOUT: Duration = Duration::from_secs(20);
/// After this time without a frame, the receiver waits for the sender.
const QUIET_TIMEOUT: Duration = Duration::from_millis(20);

struct Connection {
    stream: TcpStream,
    /// Bytes to be sent.
    out: Vec<u8>,
    buffer: FrameBuffer,
    is_closed: bool,
}

impl Connection {
    fn open(world: &World) -> Self {
        let stream = TcpStream::connect(world.address).unwrap();
        stream.set_write_timeout(Some(HANG_TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection { stream, out: Vec::new(), buffer: FrameBuffer::new(), is_closed: false }
    }

    fn queue(&mut self, json: &str) {
        encode(Framing::Native, json.as_bytes(), &mut self.out);
    }

    fn flush(&mut self) {
        match self.stream.write_all(&std::mem::take(&mut self.out)) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("the receiver does not read"),
            // A receiver that refuses something closes the connection early.
            Err(_) => self.is_closed = true,
            Ok(()) => {}
        }
    }

    /// The receiver's next message; `None` if there is none within `limit`, or the connection is closed.
    fn next_message(&mut self, limit: Duration) -> Option<Message> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(json) = self.buffer.next_frame(Framing::Native).expect("a frame of a receiver") {
                return Some(Message::parse(json).expect("a message of a receiver"));
            }
            if self.is_closed {
                return None;
            }
            self.stream.set_read_timeout(Some(limit)).unwrap();
            match self.stream.read(&mut buffer) {
                Ok(0) => self.is_closed = true,
                Ok(count) => assert_eq!(self.buffer.push(&buffer[..count]), count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.is_closed = true,
            }
        }
    }
}

#[derive(Clone)]
enum AnnouncedEntry {
    File { path: PathBuf, content: &'static [u8] },
    Huge,
    Dir(PathBuf),
    Link { path: PathBuf, target: &'static str },
}

/// The model of a native session at its sender.
struct Session {
    number: u8,
    connections: Vec<Connection>,
    current: usize,
    entries: Vec<AnnouncedEntry>,
    has_ended: bool,
    /// Entries about which any frame has arrived.
    answered: HashSet<u64>,
    stored: HashSet<u64>,
    failed: HashSet<u64>,
    withdrawn: HashSet<u64>,
    receipt: Option<ftx::wire::message::Receipt>,
    /// Requests that were not answered yet.
    wants: Vec<(u64, WantedParts)>,
    /// Bodies of the full part size that were sent: few, because they are slow.
    long_bodies: usize,
    /// Bytes of unknown meaning were sent.
    sent_raw: bool,
}

impl Session {
    fn open(world: &World, number: u8, continues: Option<u8>) -> Self {
        let mut first = Connection::open(world);
        let continues = continues
            .map(|lost| format!(r#","continues":"{}""#, format!("{lost:02x}").repeat(16)))
            .unwrap_or_default();
        let id = format!("{number:02x}").repeat(16);
        first.queue(&format!(
            r#"{{"ftx":"hello","version":1,"features":["streams","measure"],"session":"{id}"{continues}}}"#
        ));
        Session {
            number,
            connections: vec![first],
            current: 0,
            entries: Vec::new(),
            has_ended: false,
            answered: HashSet::new(),
            stored: HashSet::new(),
            failed: HashSet::new(),
            withdrawn: HashSet::new(),
            receipt: None,
            wants: Vec::new(),
            long_bodies: 0,
            sent_raw: false,
        }
    }

    fn connection(&mut self) -> &mut Connection {
        &mut self.connections[self.current]
    }

    /// Announces a file of several parts: 0 dense, 1 sparse, 2 huge and only holes.
    fn announce_long(&mut self, world: &World, which: u8, announced: &mut Contents) {
        let (number, is_sparse) = (self.entries.len(), which != 0);
        let (name, size) = if which == 2 { ("huge", HUGE_BYTES) } else { ("long", LONG.len() as u64) };
        if which == 2 {
            self.entries.push(AnnouncedEntry::Huge);
        } else {
            let path = world.inside.join(name);
            announced.entry(path.clone()).or_default().push(&LONG);
            self.entries.push(AnnouncedEntry::File { path, content: &LONG });
        }
        self.connections[0].queue(&format!(
            r#"{{"ftx":"entry","entry":{number},"type":"file","filename":"{name}","size":{size},"sparse":{is_sparse},"mtime_ns":5,"state":"{STATE}"}}"#
        ));
    }

    /// A valid part of an entry, or its offer.
    fn send_part(&mut self, id: u64, part: u64, is_body: bool) {
        let Some(AnnouncedEntry::File { content, .. }) = self.entries.get(id as usize) else { return };
        let Some(range) = PartLayout::new(content.len() as u64).range(part) else { return };
        let body = &content[range.offset as usize..(range.offset + range.len) as usize];
        let is_long = is_body && range.len == PART_BYTES;
        if is_long && self.long_bodies == 2 {
            return;
        }
        self.long_bodies += usize::from(is_long);
        let kind = if is_body { "part" } else { "offer" };
        let (size, md5) = (body.len(), md5(body));
        let connection = self.connection();
        connection
            .queue(&format!(r#"{{"ftx":"{kind}","entry":{id},"part":{part},"size":{size},"md5":"{md5}"}}"#));
        if is_body {
            connection.out.extend_from_slice(body);
        }
    }

    fn send_holes(&mut self, id: u64, first: u64, parts: u64) {
        self.connection().queue(&format!(r#"{{"ftx":"hole","entry":{id},"part":{first},"parts":{parts}}}"#));
    }

    /// Sends the parts that are requested.
    fn send_requested(&mut self) {
        for (id, wanted) in std::mem::take(&mut self.wants) {
            let (count, is_huge) = match self.entries.get(id as usize) {
                Some(AnnouncedEntry::File { content, .. }) => {
                    (PartLayout::new(content.len() as u64).count(), false)
                }
                Some(AnnouncedEntry::Huge) => (HUGE_BYTES / PART_BYTES, true),
                _ => continue,
            };
            let is_body = wanted != WantedParts::Offers;
            let runs = match wanted {
                WantedParts::All | WantedParts::Offers => vec![0..=count - 1],
                WantedParts::Parts(runs) => runs.iter().collect(),
                WantedParts::None => continue,
            };
            for run in runs {
                if is_huge {
                    self.send_holes(id, *run.start(), run.end() - run.start() + 1);
                } else {
                    run.for_each(|part| self.send_part(id, part, is_body));
                }
            }
        }
    }

    fn flush(&mut self) {
        self.connections.iter_mut().for_each(Connection::flush);
    }

    /// Reads messages on the primary connection until `is_enough`, or until none arrives within `limit`.
    fn read_until(&mut self, limit: Duration, is_enough: impl Fn(&Session) -> bool) {
        while !is_enough(self) {
            let Some(message) = self.connections[0].next_message(limit) else { return };
            match message {
                Message::Want { entries, parts } => {
                    for id in entries.iter().flatten() {
                        assert!((id as usize) < self.entries.len() || self.sent_raw, "entry {id} is wanted");
                        self.answered.insert(id);
                        self.wants.push((id, parts.clone()));
                    }
                }
                // A damaged part of zeros is sent as a part.
                Message::Again { entry, part } => {
                    self.wants.push((entry, WantedParts::Parts(IdRanges::one(part))))
                }
                Message::Stored { entries, .. } => {
                    for id in entries.iter().flatten() {
                        assert!(self.stored.insert(id) && !self.failed.contains(&id), "stored twice: {id}");
                        self.answered.insert(id);
                    }
                }
                Message::Error(ErrorReport { entry: Some(id), .. }) => {
                    assert!(self.failed.insert(id) && !self.stored.contains(&id), "failed twice: {id}");
                    self.answered.insert(id);
                }
                Message::Receipt(receipt) => {
                    assert!(self.receipt.replace(receipt).is_none() && self.has_ended);
                    let count = |ids: &HashSet<u64>| ids.len() as u64;
                    assert_eq!(receipt.stored, count(&self.stored));
                    assert_eq!(receipt.stored + receipt.failed, receipt.entries);
                    assert!(receipt.failed >= count(&self.failed));
                }
                Message::Welcome(_)
                | Message::Measured(_)
                | Message::Busy
                | Message::Error(ErrorReport { entry: None, .. }) => {}
                other => panic!("{other:?} is not a receiver's"),
            }
        }
    }

    fn await_replies(&mut self) {
        self.flush();
        self.read_until(QUIET_TIMEOUT, |now| {
            let is_file =
                |entry: &AnnouncedEntry| matches!(entry, AnnouncedEntry::File { .. } | AnnouncedEntry::Huge);
            (0..).zip(&now.entries).all(|(id, entry)| {
                !is_file(entry) || now.answered.contains(&id) || now.withdrawn.contains(&id)
            })
        });
    }

    /// Completes the session, or ends it.
    fn finish(&mut self) {
        self.flush();
        if self.has_ended {
            self.read_until(QUIET_TIMEOUT, |now| now.receipt.is_some());
        }
        for connection in &self.connections {
            let _ = connection.stream.shutdown(Shutdown::Write);
        }
        self.read_until(HANG_TIMEOUT, |_| false);
        assert!(self.connections[0].is_closed, "the receiver hangs");
        for joined in &mut self.connections[1..] {
            while joined.next_message(HANG_TIMEOUT).is_some() {}
            assert!(joined.is_closed, "the receiver hangs on a connection that joined");
        }
    }
}

fn wait_until_all_ended() {
    let start = Instant::now();
    while REPORTED.lock().unwrap().active_sessions > 0 {
        assert!(start.elapsed() < HANG_TIMEOUT, "a session does not end");
        thread::sleep(Duration::from_micros(50));
    }
}

/// Flips a bit of a kept partial file or of its journal, or truncates it.
fn damage(world: &World, journal: bool, at: u32, bit: u8) {
    let kept = files(&world.inside).into_iter().find(|path| {
        let name = path.file_name().unwrap().as_encoded_bytes();
        name.starts_with(b".ftx-part-") && name.ends_with(b".journal") == journal
    });
    let Some(kept) = kept else { return };
    // In a later tick of the file system's clock, so that the modification time changes.
    thread::sleep(Duration::from_millis(12));
    let file = fs::File::options().read(true).write(true).open(kept).unwrap();
    let len = file.metadata().unwrap().len();
    if bit > 8 {
        file.set_len(u64::from(at) % len.max(1)).unwrap();
    } else if (1..=2 * PART_BYTES).contains(&len) {
        let (mut byte, at) = ([0], u64::from(at) % len);
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << (bit % 8))], at).unwrap();
    }
}

static DESCRIPTORS: AtomicUsize = AtomicUsize::new(0);

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count())
}

/// No session leaks descriptors: after the first inputs their number does not grow.
fn check_descriptors() {
    static INPUTS: AtomicUsize = AtomicUsize::new(0);
    match INPUTS.fetch_add(1, Ordering::Relaxed) {
        64 => DESCRIPTORS.store(descriptors() + 16, Ordering::Relaxed),
        count if count > 64 && count.is_multiple_of(64) => {
            let start = Instant::now();
            while descriptors() > DESCRIPTORS.load(Ordering::Relaxed) {
                assert!(start.elapsed() < HANG_TIMEOUT, "{} descriptors are open", descriptors());
                thread::sleep(Duration::from_millis(1));
            }
        }
        _ => {}
    }
}

fuzz_target!(|input: Input| {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock();
    let world = &WORLDS[usize::from(input.policy) % WORLDS.len()];
    for entry in fs::read_dir(&world.inside).unwrap().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
            .unwrap();
    }
    REPORTED.lock().unwrap().done.clear();
    let mut before: HashMap<PathBuf, &[u8]> = HashMap::new();
    for (name, index) in input.before.iter().take(3) {
        let path = world.inside.join(["a", "b", "d/a", "long"][usize::from(*name) % 4]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content(*index)).unwrap();
        before.insert(path, content(*index));
    }
    // A file may only hold a content that was announced for its name.
    let mut announced = Contents::new();
    let mut sent_raw = false;
    let mut sessions = Vec::new();
    if input.is_classic {
        classic(world, &input.steps, &mut announced, &mut sent_raw);
    } else {
        sessions = native(world, &input.steps, &mut announced, &mut sent_raw);
    }
    // After a reset, the receiver's session can end later than the sender's.
    wait_until_all_ended();
    check_files(world, &before, &announced, sent_raw);
    check_stored(world, &sessions, &before, &announced, sent_raw);
    check_digests(world, &announced, sent_raw);
    check_descriptors();
});

fn native(world: &World, steps: &[Step<'_>], announced: &mut Contents, sent_raw: &mut bool) -> Vec<Session> {
    let mut sessions = vec![Session::open(world, 0, None)];
    for step in steps.iter().take(60) {
        let count = sessions.len();
        let session = sessions.last_mut().unwrap();
        let number = session.entries.len();
        let state = |has_state: bool| match has_state {
            true => format!(r#","mtime_ns":5,"state":"{STATE}""#),
            false => String::new(),
        };
        let announce =
            |announced: &mut Contents, session: &mut Session, entry: AnnouncedEntry, json: String| {
                if let AnnouncedEntry::File { path, content } = &entry {
                    announced.entry(path.clone()).or_default().push(content);
                }
                session.entries.push(entry);
                session.connections[0].queue(&json);
            };
        let send = |session: &mut Session, json: String| {
            let current = session.current;
            session.connections[current].queue(&json);
        };
        match step {
            Step::File { name, content: index, sparse, has_state } => {
                let (name, content) = (NAMES[usize::from(*name) % NAMES.len()], content(*index));
                let (size, state) = (content.len(), state(*has_state));
                let json = format!(
                    r#"{{"ftx":"entry","entry":{number},"type":"file","filename":"{name}","size":{size},"sparse":{sparse}{state}}}"#
                );
                announce(
                    announced,
                    session,
                    AnnouncedEntry::File { path: world.inside.join(name), content },
                    json,
                );
            }
            Step::OddFile { name, content: index } if name.len() < 5000 => {
                let (path, content) = (world.inside.join(name), content(*index));
                let (name, size) = (serde_json::Value::from(*name), content.len());
                let json = format!(
                    r#"{{"ftx":"entry","entry":{number},"type":"file","filename":{name},"size":{size}}}"#
                );
                announce(announced, session, AnnouncedEntry::File { path, content }, json);
            }
            Step::Huge { has_state } if !world.takes_digests => {
                let state = state(*has_state);
                let json = format!(
                    r#"{{"ftx":"entry","entry":{number},"type":"file","filename":"huge","size":{HUGE_BYTES},"sparse":true{state}}}"#
                );
                announce(announced, session, AnnouncedEntry::Huge, json);
            }
            Step::Dir(name) => {
                let name = NAMES[usize::from(*name) % NAMES.len()];
                let json = format!(r#"{{"ftx":"entry","entry":{number},"type":"dir","filename":"{name}"}}"#);
                announce(announced, session, AnnouncedEntry::Dir(world.inside.join(name)), json);
            }
            Step::Link { name, target } => {
                let name = NAMES[usize::from(*name) % NAMES.len()];
                let target = TARGETS[usize::from(*target) % TARGETS.len()];
                let json = format!(
                    r#"{{"ftx":"entry","entry":{number},"type":"link","filename":"{name}","target":"{target}"}}"#
                );
                announce(
                    announced,
                    session,
                    AnnouncedEntry::Link { path: world.inside.join(name), target },
                    json,
                );
            }
            Step::Body { entry, part, honest } | Step::Offer { entry, part, honest } => {
                let entry = pick(*entry, number);
                let Some(AnnouncedEntry::File { content, .. }) = session.entries.get(entry as usize) else {
                    continue;
                };
                let part = pick(*part, 1 + usize::from(content.len() as u64 > PART_BYTES)) % 3;
                let is_body = matches!(step, Step::Body { .. });
                let range = PartLayout::new(content.len() as u64).range(part);
                let body = range.map_or(&b"x"[..], |range| {
                    &content[range.offset as usize..(range.offset + range.len) as usize]
                });
                let is_long = is_body && body.len() as u64 == PART_BYTES;
                if is_long && session.long_bodies == 2 {
                    continue;
                }
                session.long_bodies += usize::from(is_long);
                let kind = if is_body { "part" } else { "offer" };
                let md5 = if *honest { md5(body) } else { md5(b"something else") };
                let size = body.len();
                send(
                    session,
                    format!(
                        r#"{{"ftx":"{kind}","entry":{entry},"part":{part},"size":{size},"md5":"{md5}"}}"#
                    ),
                );
                if is_body {
                    let current = session.current;
                    session.connections[current].out.extend_from_slice(body);
                }
            }
            Step::Hole { entry, part, parts } => {
                let (entry, part, parts) = (pick(*entry, number), pick(*part, 2), pick(*parts, 2));
                send(session, format!(r#"{{"ftx":"hole","entry":{entry},"part":{part},"parts":{parts}}}"#));
            }
            Step::Holes { entry, skip_last } => {
                let entry = pick(*entry, number);
                let bytes = match session.entries.get(entry as usize) {
                    Some(AnnouncedEntry::File { content, .. }) => content.len() as u64,
                    Some(AnnouncedEntry::Huge) => HUGE_BYTES,
                    _ => 0,
                };
                let parts = (bytes / PART_BYTES).saturating_sub(u64::from(*skip_last % 2));
                send(session, format!(r#"{{"ftx":"hole","entry":{entry},"part":0,"parts":{parts}}}"#));
            }
            Step::Withdraw(entry) => {
                let entry = pick(*entry, number);
                session.withdrawn.insert(entry);
                send(session, format!(r#"{{"ftx":"error","entry":{entry},"code":"source-changed"}}"#));
            }
            Step::Measure { what, size } => {
                let what = ["md5", "write", "wire"][usize::from(*what) % 3];
                send(session, format!(r#"{{"ftx":"measure","what":"{what}","size":{size}}}"#));
                if what == "wire" {
                    let current = session.current;
                    session.connections[current].out.extend(std::iter::repeat_n(0, usize::from(*size)));
                }
            }
            Step::Totals => send(session, r#"{"ftx":"totals","files":1,"bytes":1}"#.into()),
            Step::End => {
                session.has_ended = true;
                session.connections[0].queue(&format!(r#"{{"ftx":"end","entries":{number}}}"#));
            }
            Step::Busy => send(session, r#"{"ftx":"busy"}"#.into()),
            Step::AwaitReplies => session.await_replies(),
            Step::SendRequested => {
                session.await_replies();
                session.send_requested();
            }
            Step::FirstPart(which) | Step::AllParts(which) if which % 3 < 2 || !world.takes_digests => {
                session.announce_long(world, which % 3, announced);
                session.await_replies();
                match (step, which % 3) {
                    (Step::AllParts(_), _) => session.send_requested(),
                    (_, 0) => session.send_part(number as u64, 0, true),
                    (_, 1) => session.send_holes(number as u64, 0, 1),
                    _ => session.send_holes(number as u64, 0, HUGE_BYTES / PART_BYTES - 1),
                }
            }
            Step::Join { right } if session.connections.len() < 4 => {
                session.await_replies();
                let id = if *right { session.number } else { 0xff };
                let mut joined = Connection::open(world);
                joined.queue(&format!(r#"{{"ftx":"join","session":"{}"}}"#, format!("{id:02x}").repeat(16)));
                session.connections.push(joined);
                session.current = session.connections.len() - 1;
            }
            Step::Switch(to) => {
                session.await_replies();
                session.current = usize::from(*to) % session.connections.len();
            }
            Step::Lose { noticed, continues } if count < 4 => {
                session.await_replies();
                if *noticed {
                    for connection in &session.connections {
                        let _ = connection.stream.shutdown(Shutdown::Both);
                    }
                }
                let continues = continues.then_some(session.number);
                sessions.push(Session::open(world, count as u8, continues));
            }
            Step::Damage { journal, at, bit } if count < 4 => {
                let lost = session.number;
                sessions.iter_mut().for_each(Session::finish);
                wait_until_all_ended();
                damage(world, *journal, *at, *bit);
                sessions.push(Session::open(world, count as u8, Some(lost)));
            }
            Step::Raw(raw) => {
                *sent_raw = true;
                session.sent_raw = true;
                let current = session.current;
                session.connections[current].out.extend_from_slice(raw);
            }
            _ => {}
        }
    }
    // The last session first: earlier ones may be lost sessions that it continues.
    sessions.iter_mut().rev().for_each(Session::finish);
    sessions
}

fn classic(world: &World, steps: &[Step<'_>], announced: &mut Contents, sent_raw: &mut bool) {
    let mut bytes = Vec::new();
    for step in steps.iter().take(60) {
        match step {
            Step::Classic { name, content: index, honest } => {
                let (name, content) = (NAMES[usize::from(*name) % NAMES.len()], content(*index));
                let last = name.rsplit('/').next().unwrap();
                let stored_name = if name.starts_with('/') { last } else { name };
                announced.entry(world.inside.join(stored_name)).or_default().push(content);
                let md5 = if *honest { md5(content) } else { md5(b"something else") };
                let json = format!(r#"{{"filename":"{name}","size":{},"md5":"{md5}"}}"#, content.len());
                encode(Framing::Classic, json.as_bytes(), &mut bytes);
                bytes.extend_from_slice(content);
                if bytes.len() > 4 * PART_BYTES as usize {
                    break;
                }
            }
            Step::Raw(raw) => {
                *sent_raw = true;
                bytes.extend_from_slice(raw);
            }
            _ => {}
        }
    }
    let mut connection = Connection::open(world);
    connection.out = bytes;
    connection.flush();
    let _ = connection.stream.shutdown(Shutdown::Write);
    connection.stream.set_read_timeout(Some(HANG_TIMEOUT)).unwrap();
    let mut reply = Vec::new();
    match connection.stream.read_to_end(&mut reply) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("the receiver hangs"),
        _ => {}
    }
}

/// Every file is in the destination folder, and has a content that was announced or existed before.
fn check_files(
    world: &World,
    before: &HashMap<PathBuf, &[u8]>,
    announced: &HashMap<PathBuf, Vec<&[u8]>>,
    sent_raw: bool,
) {
    for path in files(&world.outside) {
        let Ok(below) = path.strip_prefix(&world.inside) else { panic!("{} is outside", path.display()) };
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_symlink() || is_hidden(below) {
            continue;
        }
        if metadata.len() > 2 * PART_BYTES {
            assert!(metadata.len() == HUGE_BYTES || sent_raw);
            continue;
        }
        let stored = fs::read(&path).unwrap();
        let known = before.get(&path).is_some_and(|content| *content == stored)
            || announced.get(&path).is_some_and(|contents| contents.contains(&&stored[..]))
            || world.policy == OnConflict::Rename
                && announced.values().flatten().any(|content| **content == stored);
        assert!(known || sent_raw, "{} holds {} bytes that were not announced", path.display(), stored.len());
    }
    // An existing file is only overwritten if the policy allows it.
    for (path, content) in before.iter().filter(|_| world.policy != OnConflict::Overwrite) {
        assert!(fs::read(path).unwrap() == *content, "{}", path.display());
    }
}

/// Every entry that was reported as stored is stored.
fn check_stored(
    world: &World,
    sessions: &[Session],
    before: &HashMap<PathBuf, &[u8]>,
    announced: &HashMap<PathBuf, Vec<&[u8]>>,
    sent_raw: bool,
) {
    if sent_raw || world.policy == OnConflict::Rename {
        return;
    }
    for session in sessions {
        for id in &session.stored {
            match &session.entries[*id as usize] {
                AnnouncedEntry::File { path, content } => {
                    let stored = fs::read(path).unwrap();
                    let is_last = world.policy == OnConflict::Overwrite && announced[path].len() > 1;
                    assert!(stored == *content || is_last, "{} was stored", path.display());
                    assert!(world.policy != OnConflict::Error || !before.contains_key(path));
                }
                AnnouncedEntry::Huge => {
                    let huge = fs::symlink_metadata(world.inside.join("huge")).unwrap();
                    assert!(huge.is_file() && huge.len() == HUGE_BYTES);
                }
                AnnouncedEntry::Dir(path) => assert!(fs::symlink_metadata(path).unwrap().is_dir()),
                AnnouncedEntry::Link { path, target } => {
                    let is_replaced = world.policy == OnConflict::Overwrite;
                    assert!(is_replaced || fs::read_link(path).unwrap() == Path::new(target));
                }
            }
        }
    }
}

/// The MD5 reported for a complete file is that of an announced content.
fn check_digests(world: &World, announced: &Contents, sent_raw: bool) {
    for (path, reported) in &REPORTED.lock().unwrap().done {
        let Some(reported) = reported else { continue };
        let path = world.inside.join(String::from_utf8_lossy(path).as_ref());
        let of_one = |contents: &Vec<&'static [u8]>| contents.iter().any(|content| md5(content) == *reported);
        let is_known = match world.policy {
            OnConflict::Rename => announced.values().any(of_one),
            _ => announced.get(&path).is_some_and(of_one),
        };
        assert!(is_known || sent_raw, "{}: {reported}", path.display());
    }
}
