//! A lost connection costs only the data in flight on it: the sender reconnects and continues.
//!
//! These tests fail if stored data is sent again, if an entry is missing or duplicated, or if the sender gives up although
//! the receiver is reachable again.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::proofs::Random;
use crate::common::proxy::{Action, Place, Proxy, Way};
use crate::common::raw::Raw;
use crate::common::{Receiver, end, listing, names, send, start_send_with};
use ftx::wire::Message;

const PART: u64 = 8 << 20;

/// A proxy that cuts the connection after every `every` bytes of bodies, `times` times, and counts the bytes.
fn cutting(port: u16, every: u64, times: u64) -> (Proxy, Arc<AtomicU64>) {
    let passed = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&passed);
    let (mut since, mut left) = (0, times);
    let proxy = Proxy::start(port, move |piece| {
        if piece.way == Way::ToReceiver && piece.place == Place::Body {
            let bytes = piece.bytes.len() as u64;
            since += bytes;
            if left > 0 && since > every {
                (since, left) = (0, left - 1);
                return Action::Cut;
            }
            counter.fetch_add(bytes, Ordering::SeqCst);
        }
        Action::Pass
    });
    (proxy, passed)
}

/// Three cuts are three lost connections. With several connections two may be cut before either end detects the first,
/// which counts as one lost session.
fn assert_was_lost(stdout: &str, streams: &str) {
    let reports_loss = |times: &str| stdout.contains(&format!("The connection was lost {times}"));
    let fewer = streams != "1" && (reports_loss("2 times") || reports_loss("once"));
    assert!(reports_loss("3 times") || fewer, "{stdout}");
}

fn tree(root: &Path) -> u64 {
    let mut random = Random::new(1);
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    for number in 0..400 {
        let size = random.below(60_000) as usize;
        fs::write(root.join(format!("a/b/{number}")), random.bytes(size)).unwrap();
    }
    fs::write(root.join("large"), random.bytes(5 * PART as usize + 123)).unwrap();
    std::os::unix::fs::symlink("large", root.join("link")).unwrap();
    walkdir::WalkDir::new(root)
        .into_iter()
        .map(|entry| entry.unwrap().metadata().unwrap())
        .filter(|m| m.is_file())
        .map(|m| m.len())
        .sum()
}

#[test]
fn lost_connection_resends_only_data_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("tree"), dir.path().join("out"));
    let bytes = tree(&source);
    for streams in ["1", "3"] {
        let receiver = Receiver::start(&out, &[]);
        let (proxy, passed) = cutting(receiver.port, 12_000_000, 3);
        let sent = send(&["--retries", "5", "-j", streams], &[&source], &proxy.host());
        assert_eq!(sent.code, 0, "{}", sent.stderr);
        assert_was_lost(&sent.stdout, streams);
        let words = format!("The connection to {} was lost. Trying again in 0.5 s.", proxy.host());
        assert!(sent.stderr.contains(&words), "{}", sent.stderr);
        let moved = passed.load(Ordering::SeqCst);
        assert!(
            moved < bytes + 3 * 2 * 3 * PART,
            "{moved} bytes moved for {bytes}, with {streams} connections"
        );
        assert_eq!(listing(&out.join("tree")), listing(&source), "{streams} connections");
        assert!(names(&out).iter().all(|name| !name.contains(".ftx-")), "nothing is left behind");
        receiver.kill();
        fs::remove_dir_all(&out).unwrap();
    }
}

/// Data stored earlier in the same run does not count as existing either.
#[test]
fn resent_bytes_are_not_counted_as_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("disk.img"), dir.path().join("out"));
    fs::write(&source, Random::new(7).bytes(6 * PART as usize)).unwrap();
    let receiver = Receiver::start(&out, &["--once"]);
    let (proxy, _) = cutting(receiver.port, 12_000_000, 2);
    let sent = send(&["--retries", "5", "-j", "1"], &[&source], &proxy.host());
    let received = receiver.wait();
    assert_eq!((sent.code, received.code), (0, 0), "{sent:?} {received:?}");
    assert!(sent.stdout.starts_with("Sent 1 file (50.33 MB) in "), "{sent:?}");
    assert!(sent.stdout.contains(" The connection was lost 2 times; "), "{sent:?}");
    assert!(sent.stdout.contains(" MB were transferred again."), "{sent:?}");
    assert!(received.stdout.starts_with("Received 1 file (50.33 MB, of which "), "{received:?}");
    assert!(received.stdout.contains(" MB were received before) in "), "{received:?}");
}

/// With `--once` the receiver ends when the session is complete, over any number of connections.
#[test]
fn receiver_of_one_session_waits_for_its_sender() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("tree"), dir.path().join("out"));
    tree(&source);
    for (limit, streams) in [(&["--once"][..], "1"), (&["--once"], "3"), (&["--count", "2"], "1")] {
        let receiver = Receiver::start(&out, limit);
        let (proxy, _) = cutting(receiver.port, 12_000_000, 3);
        let sent = send(&["--retries", "5", "-j", streams], &[&source], &proxy.host());
        assert_eq!(sent.code, 0, "{}", sent.stderr);
        assert_was_lost(&sent.stdout, streams);
        if limit.contains(&"2") {
            // The three lost connections were one session.
            assert_eq!(send(&[], &[&source], &receiver.host()).code, 0);
        }
        let ended = receiver.wait();
        assert_eq!(ended.code, 0, "{ended:?}");
        // Fewer than three if the sender reconnects before the receiver detects the loss.
        let waits = ended.stderr.matches("Waiting 30 s for the sender to reconnect").count();
        assert!((1..=3).contains(&waits), "{ended:?}");
        assert_eq!(listing(&out.join("tree")), listing(&source));
        fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn receiver_of_one_session_stops_waiting_and_refuses_other_senders() {
    let dir = tempfile::tempdir().unwrap();
    let (source, other, out) = (dir.path().join("tree"), dir.path().join("other"), dir.path().join("out"));
    tree(&source);
    fs::write(&other, "other").unwrap();
    let mut receiver = Receiver::start(&out, &["--once", "--timeout", "3"]);
    let (proxy, _) = cutting(receiver.port, 9_000_000, 1);
    let sent = send(&["--retries", "0"], &[&source], &proxy.host());
    assert_eq!(sent.code, 10, "{}", sent.stderr);
    receiver.wait_for("Waiting 3 s for the sender to reconnect");
    let start = std::time::Instant::now();
    // Another sender is queued meanwhile, and refused when the receiver ends.
    assert_ne!(send(&["--timeout", "30"], &[&other], &receiver.host()).code, 0);
    let ended = receiver.wait();
    assert!((2..10).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(ended.code, 10, "{ended:?}");
    let lost = "127.0.0.1: the connection was lost in the middle of ";
    assert_eq!(ended.stderr.matches(lost).count(), 1, "{ended:?}");
    assert!(ended.stderr.contains("ftx: 127.0.0.1 did not reconnect within 3 s\n"), "{ended:?}");
    assert!(!out.join("other").exists());
}

#[test]
fn receiver_that_waits_for_its_sender_can_be_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("tree"), dir.path().join("out"));
    tree(&source);
    let mut receiver = Receiver::start(&out, &["--once"]);
    let (proxy, _) = cutting(receiver.port, 9_000_000, 1);
    assert_eq!(send(&["--retries", "0"], &[&source], &proxy.host()).code, 10);
    receiver.wait_for("Waiting 30 s for the sender to reconnect");
    let start = std::time::Instant::now();
    rustix::process::kill_process(receiver.pid(), rustix::process::Signal::TERM).unwrap();
    assert_eq!(receiver.wait().code, 143);
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

fn hello(session: &str, continues: Option<&str>) -> String {
    let continues = continues.map_or(String::new(), |lost| format!(r#","continues":"{}""#, lost.repeat(16)));
    let session = session.repeat(16);
    format!(r#"{{"ftx":"hello","version":1,"features":["streams"],"session":"{session}"{continues}}}"#)
}

fn assert_ends_with_a_receipt(sender: &mut Raw) {
    sender.send_json(r#"{"ftx":"end","entries":0}"#);
    let messages: Vec<_> = std::iter::from_fn(|| sender.next_message()).collect();
    assert!(matches!(messages.last(), Some(Message::Receipt(_))), "{messages:?}");
}

/// The sender detects the loss first: the open session is preempted and counts once.
#[test]
fn once_receiver_resumes_before_it_detects_the_lost_connection() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let receiver = Receiver::start(&out, &["--once"]);
    let mut first = Raw::connect(&receiver, &hello("aa", None));
    assert!(first.next_message().is_some());
    let mut second = Raw::connect(&receiver, &hello("bb", Some("aa")));
    assert_ends_with_a_receipt(&mut second);
    let ended = receiver.wait();
    assert_eq!(ended.code, 0, "{ended:?}");
    drop(first);
}

/// A reconnecting sender precedes the queued ones, however many there are.
#[test]
fn reconnected_sender_precedes_queued_senders() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let receiver = Receiver::start(&out, &["--once"]);
    let mut first = Raw::connect(&receiver, &hello("aa", None));
    assert!(first.next_message().is_some());
    let before = receiver.sockets();
    let mut strangers: Vec<_> = (0..16)
        .map(|_| {
            let mut stranger = Raw::connect(&receiver, r#"{"ftx":"hello","version":1}"#);
            stranger.send_json(r#"{"ftx":"end","entries":0}"#);
            stranger
        })
        .collect();
    crate::common::until("the strangers", || receiver.sockets() >= before + strangers.len());
    // The reconnect arrives after all of them.
    let mut second = Raw::connect(&receiver, &hello("bb", Some("aa")));
    assert!(second.next_message().is_some(), "a welcome");
    assert_ends_with_a_receipt(&mut second);
    let ended = receiver.wait();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ended.stdout.lines().count(), 1, "{ended:?}");
    assert!(strangers.iter_mut().all(|stranger| stranger.next_message().is_none()));
}

/// Reported failures are not announced again, and still count for the exit code.
#[test]
fn failures_before_a_reconnect_are_in_the_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut receiver = Receiver::start(&out, &["--once"]);
    let mut first = Raw::connect(&receiver, &hello("aa", None));
    first.send_json(r#"{"ftx":"entry","entry":0,"type":"dir","filename":"../outside"}"#);
    while !matches!(first.next_message().expect("an error"), Message::Error(failure) if failure.entry == Some(0))
    {
    }
    drop(first);
    receiver.wait_for("Waiting 30 s for the sender to reconnect");
    // Lost once more, without a failure on this connection.
    let mut second = Raw::connect(&receiver, &hello("bb", Some("aa")));
    assert!(second.next_message().is_some(), "a welcome");
    let mut third = Raw::connect(&receiver, &hello("cc", Some("bb")));
    assert_ends_with_a_receipt(&mut third);
    let ended = receiver.wait();
    assert_eq!(ended.code, 23, "{ended:?}");
    assert!(ended.stdout.starts_with("NOT transferred from 127.0.0.1: 1 of 1 entry."), "{ended:?}");
}

#[test]
fn restarted_receiver_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("tree"), dir.path().join("out"));
    tree(&source);
    let first = Receiver::start(&out, &[]);
    // The second receiver listens on the same port.
    let port = first.port;
    let (proxy, _) = cutting(port, 9_000_000, 1);
    let host = proxy.host();
    let sender = std::thread::spawn({
        let source = source.clone();
        move || send(&["--retries", "20"], &[&source], &host)
    });
    crate::common::until("some files", || out.join("tree").is_dir() && names(&out).len() > 20);
    first.kill();
    let second = Receiver::start(&out, &["--port", &port.to_string()]);
    let sent = sender.join().unwrap();
    assert_eq!(sent.code, 0, "{}", sent.stderr);
    // Staged files of the killed receiver may be left.
    let arrived: Vec<String> =
        listing(&out.join("tree")).into_iter().filter(|line| !line.contains(".ftx-")).collect();
    assert_eq!(arrived, listing(&source));
    second.kill();
}

#[test]
fn receiver_that_stays_away_is_a_lost_connection() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("tree"), dir.path().join("out"));
    tree(&source);
    let receiver = Receiver::start(&out, &[]);
    let host = receiver.host();
    // The receiver runs until the first files are stored.
    let mut receiver = Some(receiver);
    let mut peer = crate::common::start_send_with(&["--retries", "2"], &[&source], &host);
    crate::common::until("some files", || out.join("tree").is_dir() && names(&out).len() > 20);
    let has_ended = peer.try_wait().unwrap().is_some();
    receiver.take().unwrap().kill();
    let sent = crate::common::end(peer);
    if has_ended || sent.code == 0 {
        return crate::common::proofs::not_run(
            "a receiver that does not come back",
            "it was faster than this test",
        );
    }
    assert_eq!(sent.code, 10, "{}", sent.stderr);
    let lines: Vec<&str> = sent.stderr.lines().collect();
    assert_eq!(
        lines,
        [
            &format!("The connection to {host} was lost. Trying again in 0.5 s."),
            &format!("Cannot connect to {host}: connection refused. Trying again in 1.0 s."),
            &format!("ftx: the connection to {host} was lost and could not be restored in 2 attempts"),
            "     send the same again to resume: stored files are skipped, partial files continue",
        ]
    );
}

#[test]
fn attempts_without_progress_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("tree"), dir.path().join("out"));
    tree(&source);
    let receiver = Receiver::start(&out, &[]);
    // Each connection is cut at the receiver's first frame.
    let proxy = Proxy::start(receiver.port, move |piece| match piece.way {
        Way::ToSender => Action::Cut,
        Way::ToReceiver => Action::Pass,
    });
    let sent = send(&["--retries", "2"], &[&source], &proxy.host());
    assert_eq!(sent.code, 10, "{}", sent.stderr);
    assert_eq!(sent.stderr.matches("Trying again in").count(), 2, "{}", sent.stderr);
    receiver.kill();
    // Small files sent before they were requested may be stored, without an answer to the sender.
    for name in names(&out).iter().filter(|name| out.join(name).is_file() && !name.contains(".ftx-")) {
        let sent = fs::read(dir.path().join(name)).unwrap();
        assert!(fs::read(out.join(name)).unwrap() == sent, "{name}");
    }
}

/// Sent bytes are not progress: a receiver that crashes on a file receives some of it each time.
#[test]
fn unconfirmed_bytes_are_not_progress() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("disk.img"), dir.path().join("out"));
    fs::write(&source, Random::new(3).bytes(2 * PART as usize)).unwrap();
    let receiver = Receiver::start(&out, &[]);
    // Less than a part.
    let (proxy, passed) = cutting(receiver.port, PART / 2, u64::MAX);
    let sent = end(start_send_with(&["--retries", "2", "-j", "1"], &[&source], &proxy.host()));
    receiver.kill();
    assert_eq!(sent.code, 10, "{sent:?}");
    assert!(passed.load(Ordering::SeqCst) > PART, "something left each time");
    assert_eq!(sent.stderr.matches("Trying again in").count(), 2, "{sent:?}");
    assert!(sent.stderr.contains("was lost and could not be restored in 2 attempts"), "{sent:?}");
}

/// Each connection stores more parts, so one retry in a row suffices for any number of lost connections.
#[test]
fn large_file_arrives_over_repeatedly_lost_connections() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("disk.img"), dir.path().join("out"));
    fs::write(&source, Random::new(4).bytes(5 * PART as usize)).unwrap();
    let receiver = Receiver::start(&out, &[]);
    let (proxy, _) = cutting(receiver.port, PART + PART / 2, 3);
    let sent = send(&["--retries", "1", "-j", "1"], &[&source], &proxy.host());
    receiver.kill();
    assert_eq!(sent.code, 0, "{sent:?}");
    assert_was_lost(&sent.stdout, "1");
    assert!(fs::read(out.join("disk.img")).unwrap() == fs::read(&source).unwrap());
}

/// The old session has not detected the loss and holds the lock of the staged file, which it must release.
#[test]
fn reconnect_preempts_a_session_that_is_still_open() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    assert_preempts(Receiver::start(&out, &[]), &out);
}

/// With so few descriptors an address gets one slot, which the old session holds.
#[test]
fn reconnect_preempts_its_own_session_at_capacity() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    assert_preempts(Receiver::start_limited(60, &out, &[]), &out);
}

fn assert_preempts(receiver: Receiver, out: &Path) {
    use ftx::wire::frame::{Framing, encode};
    use std::io::{Read, Write};
    let content = Random::new(5).bytes(3 * PART as usize);
    let part = |index: usize| &content[index * PART as usize..(index + 1) * PART as usize];
    let open = |session: &str, continues: &str| {
        let mut stream = receiver.connect();
        let mut frames = Vec::new();
        let hello = format!(
            r#"{{"ftx":"hello","version":1,"features":["streams"],"session":"{}"{continues}}}"#,
            session.repeat(16)
        );
        encode(Framing::Native, hello.as_bytes(), &mut frames);
        let state = "0".repeat(32);
        let entry = format!(
            r#"{{"ftx":"entry","entry":0,"type":"file","filename":"f","size":{},"mtime_ns":5,"state":"{state}"}}"#,
            content.len()
        );
        encode(Framing::Native, entry.as_bytes(), &mut frames);
        stream.write_all(&frames).unwrap();
        stream
    };
    let mut first = open("aa", "");
    let mut frames = Vec::new();
    for index in 0..2 {
        let md5 = ftx::digest::Md5::of(part(index));
        let header = format!(r#"{{"ftx":"part","entry":0,"part":{index},"size":{PART},"md5":"{md5}"}}"#);
        encode(Framing::Native, header.as_bytes(), &mut frames);
        frames.extend(part(index));
    }
    first.write_all(&frames).unwrap();
    crate::common::until("both parts", || {
        names(out).iter().any(|name| fs::metadata(out.join(name)).is_ok_and(|file| file.len() == 2 * PART))
    });
    // The first connection stays open and silent, as after a network failure.
    let mut second = open("bb", &format!(r#","continues":"{}""#, "aa".repeat(16)));
    let mut inbox = ftx::wire::FrameBuffer::new();
    let wanted = loop {
        if let Some(json) = inbox.next_frame(Framing::Native).unwrap() {
            if let ftx::wire::Message::Want { parts, .. } = ftx::wire::Message::parse(json).unwrap() {
                break parts;
            }
            continue;
        }
        let count = second.read(inbox.space()).unwrap();
        assert!(count > 0, "the receiver closed");
        inbox.filled(count);
    };
    match wanted {
        ftx::wire::message::WantedParts::Parts(runs) => {
            let runs: Vec<_> = runs.iter().collect();
            assert!(runs == [2..=2] || runs == [1..=2], "only what is missing: {runs:?}");
        }
        other => panic!("not taken up: {other:?}"),
    }
    drop(first);
    receiver.kill();
}
