//! A native sender whose frames the test chooses.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use ftx::digest::{Md5, PART_BYTES};
use ftx::wire::frame::{Framing, encode};
use ftx::wire::message::{Receipt, WantedParts};
use ftx::wire::{FrameBuffer, Message};
use serde_json::{Value, json};

use super::Receiver;

/// A connection that sends and receives single frames.
pub struct Raw {
    pub stream: TcpStream,
    inbox: FrameBuffer,
}

impl Raw {
    pub fn connect(receiver: &Receiver, first: &str) -> Self {
        let mut raw = Raw { stream: receiver.connect(), inbox: FrameBuffer::new() };
        raw.send_json(first);
        raw
    }

    pub fn send_json(&mut self, json: &str) {
        let mut bytes = Vec::new();
        encode(Framing::Native, json.as_bytes(), &mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next message; keepalives are skipped; `None` at the end.
    pub fn next_message(&mut self) -> Option<Message> {
        loop {
            if let Some(json) = self.inbox.next_frame(Framing::Native).unwrap() {
                match Message::parse(json).unwrap() {
                    Message::Busy => continue,
                    message => return Some(message),
                }
            }
            match self.stream.read(self.inbox.space()).unwrap_or(0) {
                0 => return None,
                count => self.inbox.filled(count),
            }
        }
    }
}

/// An entry as announced, without its id, and its content.
#[derive(Clone)]
pub struct Entry {
    pub json: Value,
    pub content: Vec<u8>,
}

impl Entry {
    pub fn file(name: &str, content: &[u8]) -> Self {
        let json = json!({"ftx": "entry", "type": "file", "filename": name, "size": content.len()});
        Entry { json, content: content.to_vec() }
    }

    pub fn dir(name: &str) -> Self {
        Entry { json: json!({"ftx": "entry", "type": "dir", "filename": name}), content: Vec::new() }
    }

    pub fn link(name: &str, target: &str) -> Self {
        let json = json!({"ftx": "entry", "type": "link", "filename": name, "target": target});
        Entry { json, content: Vec::new() }
    }

    /// With one more key.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.json[key] = value.into();
        self
    }
}

/// A session's result.
#[derive(Debug)]
pub struct Settled {
    /// For each entry: stored, or the code of its error.
    pub entries: BTreeMap<u64, Result<(), String>>,
    pub receipt: Receipt,
}

/// Announces all entries, sends what is requested, and reads up to the receipt.
pub fn transfer(receiver: &Receiver, entries: &[Entry]) -> Settled {
    let mut raw = Raw::connect(receiver, r#"{"ftx":"hello","version":1}"#);
    for (id, entry) in entries.iter().enumerate() {
        raw.send_json(&entry.clone().with("entry", id).json.to_string());
    }
    raw.send_json(&json!({"ftx": "end", "entries": entries.len()}).to_string());
    let mut settled = BTreeMap::new();
    loop {
        match raw.next_message().expect("a receipt") {
            Message::Want { entries: ids, parts } => {
                for id in ids.iter().flatten() {
                    raw.answer(id, &entries[id as usize].content, &parts);
                }
            }
            Message::Stored { entries, .. } => {
                settled.extend(entries.iter().flatten().map(|id| (id, Ok(()))));
            }
            Message::Error(failure) => {
                let id = failure.entry.unwrap_or_else(|| panic!("the session failed: {failure:?}"));
                settled.insert(id, Err(failure.code.to_string()));
            }
            Message::Receipt(receipt) => return Settled { entries: settled, receipt },
            _ => {}
        }
    }
}

impl Raw {
    /// Sends the requested parts or offers of a file.
    pub fn answer(&mut self, id: u64, content: &[u8], parts: &WantedParts) {
        let all: Vec<&[u8]> =
            if content.is_empty() { vec![content] } else { content.chunks(PART_BYTES as usize).collect() };
        let (kind, indices) = match parts {
            WantedParts::All => ("part", (0..all.len() as u64).collect()),
            WantedParts::Offers => ("offer", (0..all.len() as u64).collect()),
            WantedParts::Parts(runs) => ("part", runs.iter().flatten().collect::<Vec<_>>()),
            WantedParts::None => return,
        };
        for part in indices {
            let bytes = all[part as usize];
            let md5 = Md5::of(bytes).to_string();
            self.send_json(
                &json!({"ftx": kind, "entry": id, "part": part, "size": bytes.len(), "md5": md5}).to_string(),
            );
            if kind == "part" {
                self.stream.write_all(bytes).unwrap();
            }
        }
    }
}
