//! Limits and delays of the machine fail the file or session concerned, with a message and a stable code. The receiver
//! and its other sessions continue.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::proofs::{Strace, can_trace};
use crate::common::raw::{Entry, Raw};
use crate::common::{Ended, FTX, Receiver, listing, names, send, until};
use ftx::digest::{Md5, PART_BYTES};
use ftx::error_code::ErrorCode;
use ftx::wire::Message;
use ftx::wire::message::WantedParts;
use rustix::process::{Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::json;

const HELLO: &str = r#"{"ftx":"hello","version":1}"#;
const MIB: u64 = 1 << 20;

/// Sets a resource limit of a running receiver.
fn limit(receiver: &Receiver, resource: Resource, most: u64) {
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    prlimit(Some(receiver.pid()), resource, limit).unwrap();
}

fn make(path: &Path, bytes: u64) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, vec![7; bytes as usize]).unwrap();
}

/// Asserts that both ends report the entry with this text.
fn both_report(sent: &Ended, received: &Ended, text: &str) {
    for ended in [sent, received] {
        let line = ended.stderr.lines().find(|line| line.starts_with("not transferred: "));
        assert!(line.is_some_and(|line| line.contains(text)), "no {text:?} in {ended:?}");
    }
}

#[test]
fn file_above_the_size_limit_is_refused_before_its_first_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, out) = (dir.path().join("t"), dir.path().join("out"));
    make(&tree.join("large"), 4 * MIB + 1);
    make(&tree.join("fits"), 4 * MIB);
    let sparse = fs::File::create(tree.join("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    let receiver = Receiver::start(&out, &["--once"]);
    limit(&receiver, Resource::Fsize, 4 * MIB);
    let sent = send(&[], &[&tree], &receiver.host());
    let received = receiver.wait();
    assert_eq!((sent.code, received.code), (42, 42), "{sent:?} {received:?}");
    both_report(&sent, &received, "cannot create the file: the file size limit is exceeded");
    assert!(sent.stdout.contains("2 entries were NOT transferred"), "{sent:?}");
    assert_eq!(names(&out), ["t", "t/fits"]);
}

#[test]
fn file_that_exceeds_the_size_limit_while_written_fails_alone() {
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(out.path(), &["--count", "2"]);
    let (large, small) = (vec![7; PART_BYTES as usize + 1], b"small".to_vec());
    let entries = [Entry::file("large", &large), Entry::file("small", &small)];
    let mut raw = Raw::connect(&receiver, HELLO);
    let mut other = Raw::connect(&receiver, HELLO);
    raw.send_json(&entries[0].clone().with("entry", 0).json.to_string());
    while !matches!(raw.next_message(), Some(Message::Want { .. })) {}
    // The limit did not exist when the file was announced.
    limit(&receiver, Resource::Fsize, MIB);
    raw.answer(0, &large, &WantedParts::All);
    let failure = loop {
        match raw.next_message().expect("an error for the file") {
            Message::Error(failure) => break failure,
            message => assert!(!matches!(message, Message::Stored { .. }), "{message:?}"),
        }
    };
    assert_eq!((failure.entry, failure.code), (Some(0), ErrorCode::NoSpace), "{failure:?}");
    // Both sessions continue, each with a file that fits.
    raw.send_json(&entries[1].clone().with("entry", 1).json.to_string());
    raw.answer(1, &small, &WantedParts::All);
    raw.send_json(&json!({"ftx": "end", "entries": 2}).to_string());
    other.send_json(&Entry::file("other", &small).with("entry", 0).json.to_string());
    other.answer(0, &small, &WantedParts::All);
    other.send_json(&json!({"ftx": "end", "entries": 1}).to_string());
    for (session, stored) in [(&mut raw, 1), (&mut other, 1)] {
        let receipt = loop {
            if let Message::Receipt(receipt) = session.next_message().expect("a receipt") {
                break receipt;
            }
        };
        assert_eq!(receipt.stored, stored);
    }
    let received = receiver.wait();
    assert_eq!(received.code, 42, "{received:?}");
    assert_eq!(names(out.path()), ["other", "small"]);
}

/// Arguments of strace that fail the nth thread each thread starts; strace counts per thread.
fn fail_thread(nth: u32) -> [String; 4] {
    let calls = "clone,clone3";
    ["-e".into(), format!("trace={calls}"), "-e".into(), format!("inject={calls}:error=EAGAIN:when={nth}")]
}

#[test]
fn receiver_without_threads_refuses_sessions_until_it_has_some() {
    if !can_trace("a receiver without threads") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("a"), dir.path().join("out"));
    make(&file, 20 * MIB);
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", FTX]);
    let receiver = Receiver::spawn(command, "127.0.0.1", &out, &[]);
    let mut refused = 0;
    for nth in 1..=3 {
        let traced = Strace::attach(receiver.pid(), &fail_thread(nth), &dir.path().join("trace"));
        // The first thread of all is that of the connection, which is closed before its dialect is known.
        let retries = if nth == 1 { "1" } else { "0" };
        let sent = send(&["--retries", retries], &[&file], &receiver.host());
        traced.detach();
        assert_eq!(sent.code, 41, "thread {nth}: {sent:?}");
        refused += u32::from(sent.stderr.contains("the receiver cannot start a thread for another session"));
    }
    assert_eq!(refused, 3, "the sender gets the reason");
    let sent = send(&[], &[&file], &receiver.host());
    assert_eq!(sent.code, 0, "{sent:?}");
    kill_process(receiver.pid(), Signal::INT).unwrap();
    let received = receiver.wait();
    assert_eq!(received.code, 130, "{received:?}");
    assert!(!received.stderr.contains("panicked"), "{received:?}");
}

#[test]
fn sender_without_threads_ends_with_a_message() {
    if !can_trace("a sender without threads") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("a"), dir.path().join("out"));
    make(&file, MIB);
    let receiver = Receiver::start(&out, &[]);
    let mut failed = 0;
    for nth in 1..=9 {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o"]).arg(dir.path().join("trace")).args(fail_thread(nth)).args([FTX, "send"]);
        let ended =
            strace.args(["--md5sum", "--streams", "2"]).arg(&file).arg(receiver.host()).output().unwrap();
        let (code, stderr) = (ended.status.code(), String::from_utf8_lossy(&ended.stderr));
        assert!(!stderr.contains("panicked") && !stderr.contains("os error"), "thread {nth}: {stderr}");
        assert!(code == Some(0) || code == Some(1), "thread {nth}: {code:?} {stderr}");
        failed += u32::from(code == Some(1));
    }
    assert!(failed >= 7, "{failed} of nine");
    receiver.kill();
}

#[test]
fn receiver_sends_keepalives_during_a_slow_disk_call() {
    if !can_trace("a slow disk") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("t");
    make(&tree.join("a/1.img"), 20 * MIB);
    make(&tree.join("b/2.img"), 20 * MIB);
    // Each delay exceeds the timeout: creating the second file's directory, locking its staged file, and setting the first
    // file's time. Parts of the first file are verified meanwhile.
    for (call, nth) in [("mkdirat", 3), ("flock", 2), ("utimensat", 1)] {
        let out = dir.path().join(call);
        let receiver = Receiver::start(&out, &["--once", "--timeout", "2"]);
        let delay = format!("inject={call}:delay_enter=5000000:when={nth}");
        let args = ["-e".into(), format!("trace={call}"), "-e".into(), delay];
        let traced = Strace::attach(receiver.pid(), &args, &dir.path().join(format!("{call}.trace")));
        let start = Instant::now();
        let sent = send(&["--timeout", "2"], &[&tree], &receiver.host());
        assert_eq!(sent.code, 0, "{call}: {sent:?}");
        assert!(start.elapsed() > Duration::from_secs(5), "{call} was not delayed");
        assert_eq!(receiver.wait().code, 0);
        traced.end();
        assert_eq!(listing(&out.join("t")), listing(&tree), "{call}");
    }
}

#[test]
fn session_that_waits_for_descriptors_does_not_block_accept() {
    const FILES: u64 = 90;
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start_limited(512, out.path(), &[]);
    let descriptors =
        || fs::read_dir(format!("/proc/{}/fd", receiver.pid().as_raw_nonzero())).unwrap().count() as u64;
    // The holder has delivered a part of each of many files and does not count as idle yet.
    let mut holder = Raw::connect(&receiver, HELLO);
    for id in 0..FILES {
        let size = 16 * PART_BYTES + 1;
        let entry = Entry::file(&id.to_string(), b"").with("entry", id).with("size", size);
        holder.send_json(
            &entry.with("sparse", true).with("mtime_ns", 5).with("state", "ab".repeat(16)).json.to_string(),
        );
    }
    for id in 0..FILES {
        let md5 = Md5::of(b"x").to_string();
        holder.send_json(&json!({"ftx": "part", "entry": id, "part": 16, "size": 1, "md5": md5}).to_string());
        holder.stream.write_all(b"x").unwrap();
    }
    until("its files to be open", || descriptors() >= 2 * FILES);
    limit(&receiver, Resource::Nofile, descriptors() + 6);
    let mut waiting = Raw::connect(&receiver, HELLO);
    let start = Instant::now();
    let mut probe = receiver.connect();
    probe.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = [0; 8];
    probe.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1");
    // A session that holds descriptors is idle after 15 seconds at the earliest.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    drop(holder);
    assert!(
        matches!(waiting.next_message(), Some(Message::Welcome(_))),
        "it begins when there are descriptors"
    );
    receiver.kill();
}
