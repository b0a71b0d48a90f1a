//! Holes over written bytes: a range announced as a hole must read as zeros in the stored file, whatever was written there.

use std::fs;
use std::io::Write;
use std::net::Shutdown;

use crate::common::raw::Raw;
use crate::common::{Receiver, names, until};
use ftx::digest::{Md5, PART_BYTES};
use ftx::wire::Message;
use ftx::wire::message::WantedParts;
use serde_json::json;

const PART: usize = PART_BYTES as usize;

/// A session that has announced the sparse file `a` of three parts and has received its `want`.
fn announce(receiver: &Receiver) -> (Raw, WantedParts) {
    let mut raw = Raw::connect(receiver, r#"{"ftx":"hello","version":1}"#);
    let entry = json!({"ftx": "entry", "entry": 0, "type": "file", "filename": "a", "size": 3 * PART, "sparse": true,
        "mtime_ns": 5, "state": "ab".repeat(16)});
    raw.send_json(&entry.to_string());
    raw.send_json(r#"{"ftx":"end","entries":1}"#);
    loop {
        match raw.next_message().expect("a want") {
            Message::Want { parts, .. } => return (raw, parts),
            Message::Welcome(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Sends a part whose header has the digest of `promised`, with the body `sent`.
fn part(raw: &mut Raw, part: u64, promised: &[u8], sent: &[u8]) {
    let md5 = Md5::of(promised).to_string();
    raw.send_json(
        &json!({"ftx": "part", "entry": 0, "part": part, "size": promised.len(), "md5": md5}).to_string(),
    );
    raw.stream.write_all(sent).unwrap();
}

fn hole(raw: &mut Raw, part: u64, parts: u64) {
    raw.send_json(&json!({"ftx": "hole", "entry": 0, "part": part, "parts": parts}).to_string());
}

/// Reads up to the receipt and asserts that the file was `stored`.
fn finish(mut raw: Raw) {
    let mut is_stored = false;
    loop {
        match raw.next_message().expect("a receipt") {
            Message::Stored { .. } => is_stored = true,
            Message::Receipt(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(is_stored);
}

fn expect_again(raw: &mut Raw, part: u64) {
    assert_eq!(raw.next_message(), Some(Message::Again { entry: 0, part }));
}

/// A part of zeros with other bytes in the middle.
fn mixed() -> Vec<u8> {
    let mut bytes = vec![0; PART];
    bytes[PART / 2..PART / 2 + 10_000].fill(7);
    bytes
}

#[test]
fn damaged_part_resent_as_a_hole_reads_as_zeros() {
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(out.path(), &[]);
    let (mut raw, wanted) = announce(&receiver);
    assert_eq!(wanted, WantedParts::All);
    part(&mut raw, 0, &vec![0; PART], &vec![b'X'; PART]);
    expect_again(&mut raw, 0);
    hole(&mut raw, 0, 2);
    part(&mut raw, 2, &mixed(), &mixed());
    finish(raw);
    assert!(fs::read(out.path().join("a")).unwrap() == [vec![0; 2 * PART], mixed()].concat());
}

#[test]
fn damaged_part_of_a_sparse_file_is_repaired_including_its_zeros() {
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(out.path(), &[]);
    let (mut raw, _) = announce(&receiver);
    part(&mut raw, 0, &mixed(), &vec![b'X'; PART]);
    expect_again(&mut raw, 0);
    part(&mut raw, 0, &mixed(), &mixed());
    hole(&mut raw, 1, 2);
    finish(raw);
    assert!(fs::read(out.path().join("a")).unwrap() == [mixed(), vec![0; 2 * PART]].concat());
}

#[test]
fn hole_in_a_resumed_file_clears_bytes_of_the_lost_session() {
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(out.path(), &[]);
    let (mut raw, _) = announce(&receiver);
    part(&mut raw, 0, &mixed(), &mixed());
    // Half of a part, then the connection is lost.
    part(&mut raw, 1, &vec![0; PART], &vec![b'X'; PART / 2]);
    raw.stream.shutdown(Shutdown::Both).unwrap();
    let journal = |name: &String| name.ends_with(".journal");
    until("the journal", || {
        let journal = names(out.path()).into_iter().find(journal);
        journal.is_some_and(|name| {
            fs::read_to_string(out.path().join(name)).is_ok_and(|text| text.contains(r#"{"closed":"#))
        })
    });
    let (mut raw, wanted) = announce(&receiver);
    let WantedParts::Parts(runs) = wanted else { panic!("{wanted:?}") };
    assert_eq!(runs.iter().collect::<Vec<_>>(), [1..=2]);
    hole(&mut raw, 1, 1);
    part(&mut raw, 2, &mixed(), &mixed());
    finish(raw);
    assert!(fs::read(out.path().join("a")).unwrap() == [mixed(), vec![0; PART], mixed()].concat());
}
