//! Small files are sent before the receiver has requested them; those that exist already cost only their bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use crate::common::raw::{Entry, Raw};
use crate::common::{Receiver, end, start_send_with};
use ftx::digest::Md5;
use ftx::wire::frame::{Framing, encode};
use ftx::wire::message::WantedParts;
use ftx::wire::{FrameBuffer, Message, SMALL_FILE_BYTES};
use serde_json::{Value, json};

/// A receiver whose answers the test sends.
struct ScriptedReceiver {
    stream: std::net::TcpStream,
    inbox: FrameBuffer,
    /// Names by entry id, and received bodies by name.
    names: BTreeMap<u64, String>,
    bodies: BTreeMap<String, Vec<u8>>,
}

impl ScriptedReceiver {
    fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        ScriptedReceiver {
            stream,
            inbox: FrameBuffer::new(),
            names: BTreeMap::new(),
            bodies: BTreeMap::new(),
        }
    }

    /// The kind of the next frame that is no keepalive; records entries and bodies.
    fn next_kind(&mut self) -> String {
        loop {
            let frame = self.inbox.next_frame(Framing::Native).unwrap().map(<[u8]>::to_vec);
            let Some(json) = frame else {
                let count = self.stream.read(self.inbox.space()).unwrap();
                assert!(count > 0, "the sender closed");
                self.inbox.filled(count);
                continue;
            };
            let frame: Value = serde_json::from_slice(&json).unwrap();
            match frame["ftx"].as_str().unwrap() {
                "busy" => continue,
                "entry" => {
                    let name = frame["filename"].as_str().unwrap().to_owned();
                    self.names.insert(frame["entry"].as_u64().unwrap(), name);
                }
                "part" => self.take_body(&frame),
                _ => {}
            }
            return frame["ftx"].as_str().unwrap().to_owned();
        }
    }

    fn take_body(&mut self, part: &Value) {
        let size = part["size"].as_u64().unwrap() as usize;
        let mut body = self.inbox.take_body(size).to_vec();
        let at_hand = body.len();
        body.resize(size, 0);
        self.stream.read_exact(&mut body[at_hand..]).unwrap();
        assert_eq!(part["md5"], Md5::of(&body).to_string());
        let name = &self.names[&part["entry"].as_u64().unwrap()];
        let body = std::mem::replace(self.bodies.entry(name.clone()).or_default(), body);
        assert!(body.is_empty(), "{name} twice");
    }

    fn send_json(&mut self, frame: &Value) {
        let mut bytes = Vec::new();
        encode(Framing::Native, frame.to_string().as_bytes(), &mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    fn number(&self, name: &str) -> u64 {
        *self.names.iter().find(|(_, known)| *known == name).unwrap().0
    }
}

fn source(root: &Path) -> Vec<Vec<u8>> {
    fs::create_dir(root).unwrap();
    let bodies = [vec![1; 5], vec![2; SMALL_FILE_BYTES as usize], vec![3; SMALL_FILE_BYTES as usize + 1]];
    for (name, body) in ["a", "b", "c"].iter().zip(&bodies) {
        fs::write(root.join(name), body).unwrap();
    }
    bodies.to_vec()
}

#[test]
fn small_files_are_sent_before_the_first_answer() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("t");
    let bodies = source(&root);
    for is_there in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        let sender = start_send_with(&["--retries", "0"], &[&root], &host);
        let mut receiver = ScriptedReceiver::accept(&listener);
        while receiver.bodies.len() < 2 || receiver.names.len() < 4 {
            receiver.next_kind();
        }
        assert_eq!(receiver.bodies["t/a"], bodies[0]);
        assert_eq!(receiver.bodies["t/b"], bodies[1]);
        assert!(!receiver.bodies.contains_key("t/c"), "larger ones are asked for");
        let [a, b, c] = ["t/a", "t/b", "t/c"].map(|name| receiver.number(name));
        let large = json!({"ftx": "want", "entries": [[c, c]], "parts": "all"});
        receiver.send_json(&json!({"ftx": "welcome", "version": 1}));
        if is_there {
            for small in [a, b] {
                for parts in ["offers", "none"] {
                    receiver.send_json(&json!({"ftx": "want", "entries": [[small, small]], "parts": parts}));
                }
            }
        }
        receiver.send_json(&large);
        while receiver.bodies.len() < 3 {
            receiver.next_kind();
        }
        assert_eq!(receiver.bodies["t/c"], bodies[2]);
        receiver.send_json(&json!({"ftx": "stored", "entries": [[0, 3]]}));
        let skipped = if is_there { 2 } else { 0 };
        receiver
            .send_json(&json!({"ftx": "receipt", "entries": 4, "stored": 4, "skipped": skipped, "failed": 0,
            "bytes": 0}));
        let ended = end(sender);
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_eq!(ended.stdout.contains("; 2 skipped, identical."), is_there, "{ended:?}");
    }
}

#[test]
fn receiver_accepts_unrequested_small_files_and_compares_them() {
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("same"), "same").unwrap();
    fs::write(out.path().join("other"), "mine").unwrap();
    let receiver = Receiver::start(out.path(), &[]);
    let entries = [
        Entry::file("new", b"new"),
        Entry::file("same", b"same"),
        Entry::file("other", b"your"),
        Entry::file("../out", b"x"),
        Entry::file("empty", b""),
    ];
    let mut raw = Raw::connect(&receiver, r#"{"ftx":"hello","version":1}"#);
    for (id, entry) in entries.iter().enumerate() {
        raw.send_json(&entry.clone().with("entry", id).json.to_string());
        raw.answer(id as u64, &entry.content, &WantedParts::All);
    }
    raw.send_json(&json!({"ftx": "end", "entries": entries.len()}).to_string());
    let mut failed = Vec::new();
    let receipt = loop {
        match raw.next_message().expect("a receipt") {
            Message::Error(failure) => failed.push((failure.entry.unwrap(), failure.code.to_string())),
            Message::Receipt(receipt) => break receipt,
            _ => {}
        }
    };
    failed.sort();
    assert_eq!(failed, [(2, "exists".into()), (3, "name".into())]);
    assert_eq!((receipt.stored, receipt.skipped, receipt.failed), (3, 1, 2));
    let contents_of = |name: &str| fs::read_to_string(out.path().join(name)).unwrap();
    assert_eq!(
        [contents_of("new"), contents_of("same"), contents_of("other"), contents_of("empty")],
        ["new", "same", "mine", ""]
    );
    receiver.kill();
}
