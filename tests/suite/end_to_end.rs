//! Parts that a receiver kept of an earlier session are compared with the source as far as the sender has hashed it, and
//! one receiver cannot plant parts at another one for a sender to resume.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;

use crate::common::raw::Raw;
use crate::common::{Receiver, names, send, until};
use ftx::digest::{Md5, PART_BYTES};
use ftx::wire::frame::{Framing, encode};
use ftx::wire::message::{EntryKind, WantedParts};
use ftx::wire::{FrameBuffer, Message};
use serde_json::json;

const PART: usize = PART_BYTES as usize;

/// A receiver whose frames the test chooses.
struct FakeReceiver {
    stream: TcpStream,
    inbox: FrameBuffer,
}

impl FakeReceiver {
    /// Accepts a connection and reads up to its only entry.
    fn accept(listener: &TcpListener) -> (Self, Message) {
        let mut fake = FakeReceiver { stream: listener.accept().unwrap().0, inbox: FrameBuffer::new() };
        assert!(matches!(fake.next(), Message::Hello(_)));
        fake.send_json(&json!({"ftx": "welcome", "version": 1, "features": ["etags"]}));
        let entry = fake.next();
        assert!(matches!(entry, Message::Entry(_)), "{entry:?}");
        (fake, entry)
    }

    fn send_json(&mut self, json: &serde_json::Value) {
        let mut bytes = Vec::new();
        encode(Framing::Native, json.to_string().as_bytes(), &mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next message; keepalives are skipped.
    fn next(&mut self) -> Message {
        loop {
            if let Some(json) = self.inbox.next_frame(Framing::Native).unwrap() {
                match Message::parse(json).unwrap() {
                    Message::Busy => continue,
                    message => return message,
                }
            }
            match self.stream.read(self.inbox.space()).unwrap() {
                0 => panic!("the sender closed"),
                count => self.inbox.filled(count),
            }
        }
    }

    fn skip_body(&mut self, len: usize) {
        let here = self.inbox.take_body(len).len();
        let rest = (len - here) as u64;
        assert_eq!(std::io::copy(&mut (&self.stream).take(rest), &mut std::io::sink()).unwrap(), rest);
    }
}

/// A file of `parts` parts, each filled with another byte.
fn file(dir: &Path, parts: u8) -> PathBuf {
    let path = dir.join("disk.img");
    fs::write(&path, (0..parts).flat_map(|part| vec![part + 1; PART]).collect::<Vec<_>>()).unwrap();
    path
}

#[test]
fn kept_part_that_differs_from_the_source_fails_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), 2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let sender = thread::spawn(move || send(&["--retries", "3"], &[&path], &host));
    let (mut first, _) = FakeReceiver::accept(&listener);
    first.send_json(&json!({"ftx": "want", "entries": [[0, 0]], "parts": "all"}));
    // Part 0 is sent, and the connection is lost.
    while !matches!(first.next(), Message::Part(part) if part.part == 0) {}
    first.skip_body(PART);
    drop(first);
    let (mut second, _) = FakeReceiver::accept(&listener);
    second.send_json(
        &json!({"ftx": "kept", "entry": 0, "part": 0, "md5": [Md5::of(b"something else").to_string()]}),
    );
    second.send_json(&json!({"ftx": "want", "entries": [[0, 0]], "parts": [[1, 1]]}));
    let withdrawn = loop {
        match second.next() {
            Message::Part(part) => second.skip_body(part.size_bytes as usize),
            Message::Error(failure) => break failure,
            _ => {}
        }
    };
    assert_eq!((withdrawn.entry, withdrawn.code.as_str()), (Some(0), "digest"));
    second.send_json(
        &json!({"ftx": "receipt", "entries": 1, "stored": 0, "skipped": 0, "failed": 1, "bytes": 0}),
    );
    let sent = sender.join().unwrap();
    assert_eq!(sent.code, 40, "{sent:?}");
    assert!(
        sent.stderr.contains("disk.img: the receiver's partial file from an earlier transfer"),
        "{sent:?}"
    );
}

#[test]
fn receiver_discards_kept_parts_that_the_sender_rejects() {
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(out.path(), &[]);
    let begin = || {
        let mut raw = Raw::connect(&receiver, r#"{"ftx":"hello","version":1,"features":["etags"]}"#);
        let entry = json!({"ftx": "entry", "entry": 0, "type": "file", "filename": "a", "size": 2 * PART,
            "mtime_ns": 5, "state": "ab".repeat(16)});
        raw.send_json(&entry.to_string());
        assert!(matches!(raw.next_message(), Some(Message::Welcome(_))));
        raw
    };
    let mut raw = begin();
    let parts = vec![7; PART];
    assert!(matches!(raw.next_message(), Some(Message::Want { parts: WantedParts::All, .. })));
    raw.send_json(
        &json!({"ftx": "part", "entry": 0, "part": 0, "size": PART, "md5": Md5::of(&parts).to_string()})
            .to_string(),
    );
    raw.stream.write_all(&parts).unwrap();
    drop(raw);
    until("the journal", || names(out.path()).iter().any(|name| name.ends_with(".journal")));
    // The lost session may still hold the lock for a moment; the file waits for it.
    let mut raw = begin();
    let message = raw.next_message().unwrap();
    assert_eq!(
        message,
        Message::parse(
            json!({"ftx": "kept", "entry": 0, "part": 0, "md5": [Md5::of(&parts).to_string()]})
                .to_string()
                .as_bytes()
        )
        .unwrap()
    );
    raw.send_json(r#"{"ftx":"error","entry":0,"code":"digest","message":"no"}"#);
    raw.send_json(r#"{"ftx":"end","entries":1}"#);
    while !matches!(raw.next_message(), Some(Message::Receipt(_))) {}
    assert_eq!(names(out.path()), [""; 0]);
    assert!(
        matches!(begin().next_message(), Some(Message::Want { parts: WantedParts::All, .. })),
        "it begins anew"
    );
}

#[test]
fn state_key_of_one_receiver_is_not_valid_at_another() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = file(dir.path(), 3);
    // The first receiver learns the file's announcement, state key included.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let entry = thread::scope(|scope| {
        let sender = scope.spawn(|| send(&[], &[&path], &host));
        let (fake, entry) = FakeReceiver::accept(&listener);
        drop(fake);
        sender.join().unwrap();
        entry
    });
    let Message::Entry(entry) = entry else { panic!() };
    let EntryKind::File { size_bytes, state: Some(state), .. } = entry.kind else { panic!("{entry:?}") };
    // It plants two parts at the second receiver.
    let receiver = Receiver::start(out.path(), &[]);
    let mut raw = Raw::connect(&receiver, r#"{"ftx":"hello","version":1}"#);
    let planted = json!({"ftx": "entry", "entry": 0, "type": "file", "filename": "disk.img", "size": size_bytes,
        "mode": entry.metadata.mode.unwrap().bits(), "mtime_ns": entry.metadata.mtime.unwrap().0,
        "state": state.to_string()});
    raw.send_json(&planted.to_string());
    assert!(matches!(raw.next_message(), Some(Message::Welcome(_))));
    assert!(matches!(raw.next_message(), Some(Message::Want { .. })));
    let evil = vec![b'X'; PART];
    for part in 0..2 {
        let md5 = Md5::of(&evil).to_string();
        raw.send_json(
            &json!({"ftx": "part", "entry": 0, "part": part, "size": PART, "md5": md5}).to_string(),
        );
        raw.stream.write_all(&evil).unwrap();
    }
    drop(raw);
    until("the journal", || names(out.path()).iter().any(|name| name.ends_with(".journal")));
    let sent = send(&[], &[&path], &format!("localhost:{}", receiver.port));
    assert_eq!(sent.code, 0, "{sent:?}");
    assert!(fs::read(out.path().join("disk.img")).unwrap() == fs::read(&path).unwrap());
}

/// A session that has announced file `a` of two parts, where a file of that name and size exists.
fn offering(receiver: &Receiver) -> Raw {
    let mut raw = Raw::connect(receiver, r#"{"ftx":"hello","version":1}"#);
    let entry = json!({"ftx": "entry", "entry": 0, "type": "file", "filename": "a", "size": 2 * PART});
    raw.send_json(&entry.to_string());
    raw.send_json(r#"{"ftx":"end","entries":1}"#);
    assert!(matches!(raw.next_message(), Some(Message::Welcome(_))));
    assert!(matches!(raw.next_message(), Some(Message::Want { parts: WantedParts::Offers, .. })));
    raw
}

#[test]
fn file_that_changes_during_comparison_is_not_identical() {
    let out = tempfile::tempdir().unwrap();
    let existing = out.path().join("a");
    fs::write(&existing, vec![7; 2 * PART]).unwrap();
    let receiver = Receiver::start(out.path(), &[]);
    let md5 = Md5::of(&vec![7; PART]).to_string();
    let offer =
        |part: u64| json!({"ftx": "offer", "entry": 0, "part": part, "size": PART, "md5": md5}).to_string();
    let last = |mut raw: Raw| loop {
        match raw.next_message().expect("an answer") {
            Message::Stored { .. } => return Ok(()),
            Message::Error(failure) => return Err(failure.message),
            _ => {}
        }
    };
    let mut raw = offering(&receiver);
    raw.send_json(&offer(0));
    raw.send_json(&offer(1));
    assert_eq!(last(raw), Ok(()), "it is identical");
    let mut raw = offering(&receiver);
    raw.send_json(&offer(0));
    // The receiver compares the first part once no more frames arrive.
    let accessed = || fs::read_to_string(format!("/proc/{}/io", receiver.pid().as_raw_nonzero())).unwrap();
    let read = |text: String| {
        text.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse::<u64>().ok()).unwrap()
    };
    let before = read(accessed());
    until("the first part to be compared", || read(accessed()) >= before + PART as u64);
    fs::File::options().write(true).open(&existing).unwrap().write_all(b"other").unwrap();
    raw.send_json(&offer(1));
    assert_eq!(last(raw), Err("a different file with that name exists".into()));
    assert!(fs::read(&existing).unwrap().starts_with(b"other"), "it is as it was left");
}

#[test]
fn renamed_copy_is_found_when_the_file_is_sent_again() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (small, large) = (dir.path().join("f"), file(dir.path(), 2));
    fs::write(&small, "new").unwrap();
    fs::write(out.path().join("f"), "taken").unwrap();
    fs::write(out.path().join("disk.img"), "taken").unwrap();
    let receiver = Receiver::start(out.path(), &["--on-conflict", "rename"]);
    for repeat in 0..3 {
        let sent = send(&[], &[&small, &large], &receiver.host());
        assert_eq!(sent.code, 0, "{sent:?}");
        let skipped = sent.stdout.contains("2 skipped, identical") || sent.stdout.contains("Nothing to send");
        assert_eq!(skipped, repeat > 0, "{sent:?}");
        assert_eq!(names(out.path()), ["disk (1).img", "disk.img", "f", "f (1)"]);
    }
    assert!(fs::read(out.path().join("disk (1).img")).unwrap() == fs::read(&large).unwrap());
}
