//! Every frame in `fixtures/wire` is read, compared with its value, written again and compared byte for byte; every bad
//! frame is refused with its message. The dump in `docs/protocol.md` is that of a real session.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ftx::busy_time::BusyTime;
use ftx::digest::Md5;
use ftx::error_code::ErrorCode;
use ftx::recv::RecvError;
use ftx::relpath::{NamePolicy, RelPath};
use ftx::units::{Metadata, Mode, MtimeNs};
use ftx::wire::classic::{encode_header, parse_header};
use ftx::wire::dialect::detect;
use ftx::wire::id_ranges::IdRanges;
use ftx::wire::message::{
    Entry, EntryKind, ErrorReport, Hello, Hole, Join, KeptParts, KeptRun, Measurable, Measure, Measured,
    Part, Receipt, SessionId, WantedParts,
};
use ftx::wire::receiver::{PartOutcome, ReceiverEvent};
use ftx::wire::{Dialect, FrameBuffer, Framing, Message, ReceiverSession, SenderSession, frame, sender};

const MD5_ABC: &str = "900150983cd24fb0d6963f7d28e17f72";
const MD5_EMPTY: &str = "d41d8cd98f00b204e9800998ecf8427e";
/// The dump must not change with the version of the crate.
const AGENT: &str = "ftx 0.1.0";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/wire")
}

fn read(name: &str) -> Vec<u8> {
    let path = folder().join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names, without their endings, of the files in `kind` that end in `ending`.
fn names(kind: &str, ending: &str) -> BTreeSet<String> {
    let files = fs::read_dir(folder().join(kind)).unwrap();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    files.filter_map(|file| file.strip_suffix(ending).map(str::to_owned)).collect()
}

fn md5(digits: &str) -> Md5 {
    digits.parse().unwrap()
}

fn runs(pairs: &[(u64, u64)]) -> IdRanges {
    pairs.to_vec().try_into().unwrap()
}

fn introduction(version: u32, features: &[&str], agent: &str) -> Hello {
    Hello {
        version,
        features: features.iter().map(|&f| f.to_owned()).collect(),
        session: None,
        continues: None,
        agent: agent.to_owned(),
    }
}

fn session() -> SessionId {
    SessionId::new(std::array::from_fn(|index| index as u8))
}

fn metadata(mode: Option<u32>, mtime_ns: Option<i64>) -> Metadata {
    Metadata { mode: mode.map(Mode::new), mtime: mtime_ns.map(MtimeNs) }
}

fn file(id: u64, name: &[u8], size_bytes: u64, metadata: Metadata) -> Message {
    Message::Entry(Entry {
        id,
        name: name.to_vec(),
        kind: EntryKind::File { size_bytes, is_sparse: false, state: None },
        metadata,
    })
}

fn link(id: u64, name: &[u8], target: &[u8], metadata: Metadata) -> Message {
    let kind = EntryKind::Link { target: target.to_vec() };
    Message::Entry(Entry { id, name: name.to_vec(), kind, metadata })
}

fn part(entry: u64, part: u64, size_bytes: u64, digits: &str) -> Part {
    Part { entry, part, size_bytes, md5: md5(digits) }
}

fn want(entries: &[(u64, u64)], parts: WantedParts) -> Message {
    Message::Want { entries: runs(entries), parts }
}

fn failure(entry: Option<u64>, code: ErrorCode, message: &str) -> Message {
    Message::Error(ErrorReport { entry, code, message: message.to_owned() })
}

fn measure(what: Measurable, size_bytes: u64) -> Message {
    Message::Measure(Measure { what, size_bytes })
}

/// The values of the native frames in `good`.
fn native() -> Vec<(&'static str, Message)> {
    let bare = Metadata::default();
    let dir = |id, name: &[u8], metadata| {
        Message::Entry(Entry { id, name: name.to_vec(), kind: EntryKind::Dir, metadata })
    };
    let receipt = Receipt { entries: 8, stored: 7, skipped: 1, failed: 1, bytes: 20_971_526, spent: None };
    let noon = 1_700_000_000_000_000_000;
    vec![
        (
            "hello",
            Message::Hello(Hello {
                session: Some(session()),
                ..introduction(1, &["streams", "etags"], AGENT)
            }),
        ),
        (
            "hello-continues",
            Message::Hello(Hello {
                session: Some(session()),
                continues: Some(SessionId::new([0xab; 16])),
                ..introduction(1, &["streams", "etags"], AGENT)
            }),
        ),
        ("join", Message::Join(Join { session: session() })),
        ("hello-features", Message::Hello(introduction(7, &["resume", "zstd"], "other 2.0"))),
        ("hello-measure", Message::Hello(introduction(1, &["measure"], AGENT))),
        ("welcome", Message::Welcome(introduction(1, &["streams", "etags"], AGENT))),
        ("welcome-measure", Message::Welcome(introduction(1, &["measure"], AGENT))),
        (
            "entry-file",
            file(0, "photos/ä b.jpg".as_bytes(), 20 << 20, metadata(Some(0o644), Some(noon + 123_456_789))),
        ),
        ("entry-file-bare", file(1, b"a", 0, bare)),
        (
            "entry-file-sparse",
            Message::Entry(Entry {
                id: 0,
                name: b"a.txt".to_vec(),
                kind: EntryKind::File {
                    size_bytes: 1_073_741_824_000,
                    is_sparse: true,
                    state: Some(md5(MD5_ABC)),
                },
                metadata: bare,
            }),
        ),
        ("entry-file-before-1970", file(2, b"old", i64::MAX as u64, metadata(Some(0), Some(-1)))),
        ("entry-file-not-utf8", file(3, b"caf\xe9.txt", 3, metadata(Some(0o600), Some(0)))),
        ("entry-dir", dir(4, b"photos", metadata(Some(0o755), Some(noon)))),
        ("entry-link", link(5, b"photos/latest", b"2026/a.jpg", metadata(None, Some(noon)))),
        ("entry-link-not-utf8", link(6, b"photos/\xff", b"caf\xe9", bare)),
        ("part", Message::Part(part(0, 2, 4 << 20, MD5_ABC))),
        ("part-empty", Message::Part(part(1, 0, 0, MD5_EMPTY))),
        ("offer", Message::Offer(part(0, 1, 8 << 20, MD5_ABC))),
        ("hole", Message::Hole(Hole { entry: 0, part: 1, parts: 127_998, is_offer: false })),
        ("hole-offer", Message::Hole(Hole { entry: 3, part: 0, parts: 2, is_offer: true })),
        ("totals", Message::Totals { files: 3, bytes: 20_971_526 }),
        ("end", Message::End { entries: 7 }),
        ("end-of-nothing", Message::End { entries: 0 }),
        ("want-all", want(&[(0, 499), (502, 502)], WantedParts::All)),
        ("want-none", want(&[(3, 3)], WantedParts::None)),
        ("want-offers", want(&[(3, 3)], WantedParts::Offers)),
        ("want-parts", want(&[(0, 0)], WantedParts::Parts(runs(&[(0, 0), (2, 4)])))),
        ("again", Message::Again { entry: 0, part: 2 }),
        ("stored", Message::Stored { entries: runs(&[(0, 5), (7, 7)]), etags: None }),
        (
            "stored-etags",
            Message::Stored {
                entries: runs(&[(0, 1), (3, 3)]),
                etags: Some(vec![
                    Some(MD5_ABC.parse().unwrap()),
                    Some("ee4b078cb6871973042a2af26c6fc93d-2".parse().unwrap()),
                    None,
                ]),
            },
        ),
        (
            "kept",
            Message::Kept(KeptRun {
                entry: 4,
                part: 2,
                parts: KeptParts::Digests(vec![md5(MD5_ABC), md5(MD5_EMPTY)]),
            }),
        ),
        ("kept-zeros", Message::Kept(KeptRun { entry: 4, part: 4, parts: KeptParts::Zeros(1000) })),
        ("receipt", Message::Receipt(receipt)),
        (
            "receipt-spent",
            Message::Receipt(Receipt {
                spent: Some(BusyTime { disk_ms: 710, md5_ms: 60, network_ms: 80 }),
                ..receipt
            }),
        ),
        ("measure-md5", measure(Measurable::Md5, 256 << 20)),
        ("measure-write", measure(Measurable::Write, 1 << 30)),
        ("measure-wire", measure(Measurable::Wire, 256 << 10)),
        ("measured", Message::Measured(Measured { bytes: 256 << 20, elapsed_ns: 26_843_545, memory: false })),
        (
            "measured-memory",
            Message::Measured(Measured { bytes: 64 << 20, elapsed_ns: 2_000_000_001, memory: true }),
        ),
        ("busy", Message::Busy),
        (
            "error-entry",
            failure(Some(6), ErrorCode::Exists, "a different file of that name is there already"),
        ),
        ("error-session", failure(None, ErrorCode::Protocol, "the first frame is not a hello")),
        ("error-interrupted", failure(None, ErrorCode::Interrupted, "the receiver was interrupted")),
    ]
}

/// The classic headers in `good`: fixture, file name, size.
const CLASSIC: [(&str, &str, u64); 9] = [
    ("classic-all-spellings", "ä/b.txt", 3),
    ("classic-md5-in-capitals", "a.txt", 3),
    ("classic-absolute", "a.txt", 3),
    ("classic-filename-size", "a.txt", 3),
    ("classic-filename-total_size", "a.txt", 3),
    ("classic-filename-file_size", "a.txt", 3),
    ("classic-file_name-size", "a.txt", 3),
    ("classic-file_name-total_size", "a.txt", 3),
    ("classic-file_name-file_size", "a.txt", 3),
];

/// The frames in `bad`. The expected messages are in the files.
const BAD: [&str; 117] = [
    "classic-array",
    "classic-array-of-values",
    "classic-key-twice",
    "classic-length-zero",
    "classic-md5-31-digits",
    "classic-md5-33-digits",
    "classic-name-dot-dot",
    "classic-name-dot-dot-last",
    "classic-name-empty",
    "classic-name-nul",
    "classic-name-of-slashes",
    "classic-name-reserved",
    "classic-name-u-202e",
    "classic-no-md5",
    "classic-no-name",
    "classic-no-size",
    "classic-number",
    "classic-size-2-to-the-63",
    "classic-size-2-to-the-64",
    "classic-size-float",
    "classic-size-negative",
    "classic-size-string",
    "classic-two-names",
    "classic-two-sizes",
    "crc-big-endian",
    "crc-flipped",
    "crc-of-another-letter",
    "crc-without-the-length",
    "etag-of-one-part",
    "first-array",
    "first-array-of-values",
    "first-big-endian",
    "first-ftx-null",
    "first-nested-10000-deep",
    "first-no-known-key",
    "first-number",
    "first-ssh",
    "hex-not-hex",
    "hex-of-odd-length",
    "json-and-more",
    "json-array",
    "json-array-of-values",
    "json-byte-order-mark",
    "json-nested-10000-deep",
    "json-nested-33-deep",
    "json-not-utf8",
    "json-null",
    "json-number",
    "json-unclosed",
    "kept-by-the-sender",
    "kept-of-both",
    "kept-of-nothing",
    "key-missing",
    "key-twice",
    "kind-in-capitals",
    "kind-missing",
    "kind-unknown",
    "length-65537",
    "length-big-endian",
    "length-negative",
    "length-zero",
    "md5-31-digits",
    "md5-33-digits",
    "md5-not-hex",
    "measure-size-negative",
    "measure-unasked",
    "measure-unknown",
    "measured-by-the-sender",
    "mode-negative",
    "name-129-components",
    "name-4097",
    "name-absolute",
    "name-component-256",
    "name-del",
    "name-dot",
    "name-dot-dot",
    "name-dot-dot-inside",
    "name-empty",
    "name-empty-component",
    "name-esc",
    "name-in-hex",
    "name-newline",
    "name-nul",
    "name-reserved",
    "name-reserved-folder",
    "name-slash-at-its-end",
    "name-u-009b",
    "name-u-202e",
    "name-u-2066",
    "parts-unknown",
    "runs-backwards",
    "runs-of-numbers",
    "runs-of-one",
    "runs-that-descend",
    "runs-that-overlap",
    "session-missing",
    "session-of-31-digits",
    "session-of-34-digits",
    "size-2-to-the-63",
    "size-2-to-the-64",
    "size-exponent",
    "size-float",
    "size-missing",
    "size-negative",
    "size-string",
    "target-absolute",
    "target-climbs-again",
    "target-climbs-out",
    "target-empty",
    "target-esc",
    "target-missing",
    "target-nul",
    "target-too-long",
    "truncated-in-the-crc",
    "truncated-in-the-json",
    "truncated-in-the-length",
    "type-unknown",
];

fn inbox_with(bytes: &[u8]) -> FrameBuffer {
    let mut inbox = FrameBuffer::new();
    assert_eq!(inbox.push(bytes), bytes.len(), "a fixture fits into the inbox");
    inbox
}

/// The JSON of the one frame in `bytes`.
fn only_frame(bytes: &[u8], form: Framing) -> Vec<u8> {
    let mut inbox = inbox_with(bytes);
    let json = inbox.next_frame(form).unwrap().expect("a whole frame").to_vec();
    assert!(inbox.is_empty(), "nothing after the frame");
    json
}

#[test]
fn every_native_frame_is_read_and_written_unchanged() {
    for (name, expected) in native() {
        let bytes = read(&format!("good/{name}.frame"));
        let message = Message::parse(&only_frame(&bytes, Framing::Native)).unwrap();
        assert_eq!(message, expected, "{name}");
        let mut again = Vec::new();
        message.encode(&mut again);
        assert_eq!(again, bytes, "{name}: {}", String::from_utf8_lossy(&again));
    }
}

#[test]
fn every_classic_header_is_read_unchanged() {
    for (name, path, size_bytes) in CLASSIC {
        let bytes = read(&format!("good/{name}.frame"));
        assert_eq!(detect(&inbox_with(&bytes)), Ok(Some(Dialect::Classic)), "{name}");
        let json = only_frame(&bytes, Framing::Classic);
        let header = parse_header(&json, NamePolicy::Strict).unwrap();
        assert_eq!(header.path.as_bytes(), path.as_bytes(), "{name}");
        assert_eq!((header.size_bytes, header.md5), (size_bytes, md5(MD5_ABC)), "{name}");
        let mut again = Vec::new();
        frame::encode(Framing::Classic, &json, &mut again);
        assert_eq!(again, bytes, "{name}");
    }
}

#[test]
fn the_classic_header_that_is_sent_has_every_spelling() {
    let mut bytes = Vec::new();
    encode_header("ä/b.txt", 3, md5(MD5_ABC), &mut bytes).unwrap();
    assert_eq!(bytes, read("good/classic-all-spellings.frame"), "{}", String::from_utf8_lossy(&bytes));
}

#[test]
fn a_hello_selects_the_native_dialect() {
    for name in ["hello", "hello-features"] {
        assert_eq!(detect(&inbox_with(&read(&format!("good/{name}.frame")))), Ok(Some(Dialect::Native)));
    }
}

/// A session that has received `hello`.
fn open() -> ReceiverSession {
    let mut session = ReceiverSession::new(NamePolicy::Strict);
    session.handle(br#"{"ftx":"hello","version":1}"#).unwrap();
    session.take_output();
    session
}

/// The message with which `bytes` are refused; `None` if they are accepted.
fn refusal(name: &str, bytes: &[u8]) -> Option<String> {
    let mut inbox = inbox_with(bytes);
    if name.starts_with("first-") {
        return detect(&inbox).err().map(|error| error.to_string());
    }
    let form = if name.starts_with("classic-") { Framing::Classic } else { Framing::Native };
    let json = match inbox.next_frame(form) {
        Ok(Some(json)) => json,
        // The connection ends within a frame.
        Ok(None) => return Some(RecvError::Truncated("a header".into()).to_string()),
        Err(error) => return Some(error.to_string()),
    };
    if form == Framing::Classic {
        return parse_header(json, NamePolicy::Strict).err().map(|error| error.to_string());
    }
    let mut session = open();
    match session.handle(json) {
        Err(error) => Some(error.to_string()),
        Ok(ReceiverEvent::Refused { code, reason, .. }) => {
            let mut expected = Vec::new();
            failure(Some(0), code, &reason).encode(&mut expected);
            assert_eq!(session.take_output(), expected, "{name}: the error frame");
            Some(reason)
        }
        Ok(_) => None,
    }
}

#[test]
fn every_bad_frame_is_refused_with_its_message() {
    for name in names("bad", ".frame") {
        let sentence = String::from_utf8(read(&format!("bad/{name}.error"))).unwrap();
        let sentence = sentence.trim_end();
        assert!(!sentence.is_empty(), "{name}");
        let bytes = read(&format!("bad/{name}.frame"));
        let Some(refusal) = refusal(&name, &bytes) else { panic!("{name} is not refused") };
        assert!(refusal.contains(sentence), "{name}\n is refused with: {refusal}\n and not with: {sentence}");
        let is_truncated = refusal.contains("in the middle of a header");
        assert_eq!(is_truncated, name.starts_with("truncated-"), "{name}");
    }
}

#[test]
fn bad_names_and_targets_fail_their_entry_and_not_the_session() {
    for name in names("bad", ".frame") {
        let costs_the_entry =
            name.starts_with("name-") || name.starts_with("target-") || name == "size-2-to-the-63";
        if !costs_the_entry || name == "target-missing" {
            continue;
        }
        let mut session = open();
        let json = only_frame(&read(&format!("bad/{name}.frame")), Framing::Native);
        assert!(matches!(session.handle(&json), Ok(ReceiverEvent::Refused { .. })), "{name}");
        let next = br#"{"ftx":"entry","entry":1,"type":"file","filename":"fine","size":1}"#;
        assert!(matches!(session.handle(next), Ok(ReceiverEvent::File(_))), "{name}");
    }
}

#[test]
fn every_fixture_has_a_check_and_every_check_a_fixture() {
    let native = native();
    let good = native.iter().map(|(name, _)| *name).chain(CLASSIC.iter().map(|(name, ..)| *name));
    let good: BTreeSet<String> = good.map(str::to_owned).collect();
    let bad: BTreeSet<String> = BAD.map(str::to_owned).into();
    for (kind, ending, checked) in
        [("good", ".frame", &good), ("good", ".txt", &good), ("bad", ".frame", &bad), ("bad", ".error", &bad)]
    {
        assert_eq!(&names(kind, ending), checked, "{kind}/*{ending}");
    }
    for kind in ["good", "bad"] {
        let count = fs::read_dir(folder().join(kind)).unwrap().count();
        assert_eq!(count, 2 * names(kind, ".frame").len(), "{kind} holds nothing else");
    }
}

#[test]
fn an_independent_program_makes_the_same_fixtures() {
    let made = Command::new("python3").arg("-B").arg(folder().join("make.py")).arg("--check").output();
    let made = made.expect("python3 is needed for this test");
    assert!(
        made.status.success(),
        "{}{}",
        String::from_utf8_lossy(&made.stdout),
        String::from_utf8_lossy(&made.stderr)
    );
}

/// A frame or body as one end sent it.
struct SentFrame {
    by: &'static str,
    what: String,
    bytes: Vec<u8>,
}

/// Splits `bytes` into frames. The agent is replaced by the one of the document, so that the crate's version does not matter.
fn sent_frames(by: &'static str, bytes: &[u8]) -> Vec<SentFrame> {
    let mut inbox = inbox_with(bytes);
    let mut all = Vec::new();
    while let Some(json) = inbox.next_frame(Framing::Native).unwrap() {
        let what =
            serde_json::from_slice::<serde_json::Value>(json).unwrap()["ftx"].as_str().unwrap().to_owned();
        let mut message = Message::parse(json).unwrap();
        if let Message::Hello(introduction) | Message::Welcome(introduction) = &mut message {
            introduction.agent = AGENT.to_owned();
        }
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        all.push(SentFrame { by, what, bytes });
    }
    assert!(inbox.is_empty());
    all
}

/// Feeds frames to the receiver; returns the event of the last one.
fn receive(receiver: &mut ReceiverSession, frames: &[SentFrame]) -> Option<ReceiverEvent> {
    frames.iter().fold(None, |_, sent| receiver.handle(&only_frame(&sent.bytes, Framing::Native)).ok())
}

/// Feeds frames to the sender; returns the event of the last one.
fn deliver(sender: &mut SenderSession, frames: &[SentFrame]) -> Option<sender::SenderEvent> {
    frames.iter().fold(None, |_, sent| sender.handle(&only_frame(&sent.bytes, Framing::Native)).ok())
}

/// All frames of a session that sends the file `a.txt` with content `abc`.
fn tiny_session() -> Vec<SentFrame> {
    const SENDER: &str = "sender";
    const RECEIVER: &str = "receiver";
    const BODY: &[u8] = b"abc";
    let mut sender = SenderSession::new(session(), None);
    let mut receiver = ReceiverSession::new(NamePolicy::Strict);
    let mut all: Vec<SentFrame> = Vec::new();
    let hello = sent_frames(SENDER, &sender.take_output());
    assert!(matches!(receive(&mut receiver, &hello), Some(ReceiverEvent::Nothing)));
    let welcome = sent_frames(RECEIVER, &receiver.take_output());
    assert!(matches!(deliver(&mut sender, &welcome), Some(sender::SenderEvent::Welcomed { .. })));
    all.extend(hello.into_iter().chain(welcome));

    let path = RelPath::new(b"a.txt", NamePolicy::Strict).unwrap();
    sender.announce_file(
        &path,
        BODY.len() as u64,
        false,
        None,
        metadata(Some(0o644), Some(1_700_000_000_000_000_000)),
    );
    let entry = sent_frames(SENDER, &sender.take_output());
    let Some(ReceiverEvent::File(file)) = receive(&mut receiver, &entry) else {
        panic!("a file is announced")
    };
    receiver.want_all(file.id);
    let want = sent_frames(RECEIVER, &receiver.take_output());
    assert_eq!(deliver(&mut sender, &want), Some(sender::SenderEvent::Wanted));
    all.extend(entry.into_iter().chain(want));

    let job = sender.next_job().unwrap();
    let mut frame = Vec::new();
    assert!(sender.part_frame(&job, Md5::of(BODY), &mut frame));
    let part = sent_frames(SENDER, &frame);
    let Some(ReceiverEvent::Body(header)) = receive(&mut receiver, &part) else { panic!("a body follows") };
    assert_eq!((header.range.len, header.md5), (BODY.len() as u64, Md5::of(BODY)));
    assert!(matches!(receiver.part_verified(&header), PartOutcome::Complete(_)));
    all.extend(part);
    all.push(SentFrame { by: SENDER, what: "the body".into(), bytes: BODY.to_vec() });

    sender.end();
    let end = sent_frames(SENDER, &sender.take_output());
    receive(&mut receiver, &end);
    receiver.stored(file.id);
    assert!(receiver.finish().is_some());
    let last = sent_frames(RECEIVER, &receiver.take_output());
    assert!(matches!(deliver(&mut sender, &last), Some(sender::SenderEvent::Receipt(_))));
    all.extend(end.into_iter().chain(last));
    all
}

/// Formats a session like `hexdump -C`.
fn dump(session: &[SentFrame]) -> String {
    let mut text = String::new();
    for SentFrame { by, what, bytes } in session {
        let _ = writeln!(text, "{by}: {what}, {} bytes", bytes.len());
        for (line, sixteen) in bytes.chunks(16).enumerate() {
            let hex: Vec<String> = sixteen
                .chunks(8)
                .map(|eight| eight.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "))
                .collect();
            let shown: String = sixteen
                .iter()
                .map(|&byte| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '.' })
                .collect();
            let _ = writeln!(text, "{:04x}  {:<48}  |{shown}|", line * 16, hex.join("  "));
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_dump_in_the_protocol_page_is_a_real_session() {
    let session = tiny_session();
    let kinds: Vec<&str> = session.iter().map(|sent| sent.what.as_str()).collect();
    assert_eq!(kinds, ["hello", "welcome", "entry", "want", "part", "the body", "end", "stored", "receipt"]);
    let document =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md")).unwrap();
    let dump = dump(&session);
    assert!(document.contains(dump.trim_end()), "docs/protocol.md must hold this dump:\n{dump}");
}
