//! A connection that is lost costs what was under way on it and nothing else: the sender opens another one and goes on.
//!
//! It fails if something that was there moves again, if something is left out or doubled, or if the sender gives up
//! although the receiver is back.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::proofs::Chance;
use common::proxy::{Place, Proxy, Then, Way};
use common::raw::Raw;
use common::{Receiver, end, listing, names, send, start_send_with};
use ftx::wire::Message;

const PART: u64 = 8 << 20;

/// Cuts the connection each time when `every` bytes of bodies have passed since the last cut, `times` times; counts the
/// bytes that passed.
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
                return Then::Cut;
            }
            counter.fetch_add(bytes, Ordering::SeqCst);
        }
        Then::Pass
    });
    (proxy, passed)
}

/// Three cuts are three lost connections. Of several connections two may be cut before either end notices the first: then
/// it was one session that was lost.
fn assert_was_lost(stdout: &str, streams: &str) {
    let is_lost = |times: &str| stdout.contains(&format!("The connection was lost {times}"));
    let fewer = streams != "1" && (is_lost("2 times") || is_lost("once"));
    assert!(is_lost("3 times") || fewer, "{stdout}");
}

fn tree(root: &Path) -> u64 {
    let mut random = Chance::new(1);
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
fn a_lost_connection_costs_only_what_was_under_way() {
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

/// Nor is what the same run brought before taken for something that was there.
#[test]
fn what_moved_again_is_not_counted_as_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("disk.img"), dir.path().join("out"));
    fs::write(&source, Chance::new(7).bytes(6 * PART as usize)).unwrap();
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

/// A receiver that is to end after one session does so when all of it is here, on however many connections.
#[test]
fn a_receiver_of_one_session_waits_for_its_sender() {
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
            // What was cut three times was one session.
            assert_eq!(send(&[], &[&source], &receiver.host()).code, 0);
        }
        let ended = receiver.wait();
        assert_eq!(ended.code, 0, "{ended:?}");
        // Unless the sender was back before the receiver had noticed.
        let waits = ended.stderr.matches("Waiting 30 s for the sender to reconnect").count();
        assert!((1..=3).contains(&waits), "{ended:?}");
        assert_eq!(listing(&out.join("tree")), listing(&source));
        fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn a_receiver_of_one_session_waits_for_nobody_else_and_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let (source, other, out) = (dir.path().join("tree"), dir.path().join("other"), dir.path().join("out"));
    tree(&source);
    fs::write(&other, "other").unwrap();
    let mut receiver = Receiver::start(&out, &["--once", "--timeout", "3"]);
    let (proxy, _) = cutting(receiver.port, 9_000_000, 1);
    let sent = send(&["--retries", "0"], &[&source], &proxy.host());
    assert_eq!(sent.code, 10, "{}", sent.stderr);
    receiver.hear("Waiting 3 s for the sender to reconnect");
    let start = std::time::Instant::now();
    // Somebody else has to wait for the end of that, and then nobody is needed any more.
    assert_ne!(send(&["--timeout", "30"], &[&other], &receiver.host()).code, 0);
    let ended = receiver.wait();
    assert!((2..10).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(ended.code, 10, "{ended:?}");
    let lost = "127.0.0.1: the connection was lost in the middle of ";
    assert_eq!(ended.stderr.matches(lost).count(), 1, "{ended:?}");
    assert!(ended.stderr.contains("ftx: 127.0.0.1 did not come back within 3 s\n"), "{ended:?}");
    assert!(!out.join("other").exists());
}

#[test]
fn a_receiver_that_waits_for_its_sender_can_be_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("tree"), dir.path().join("out"));
    tree(&source);
    let mut receiver = Receiver::start(&out, &["--once"]);
    let (proxy, _) = cutting(receiver.port, 9_000_000, 1);
    assert_eq!(send(&["--retries", "0"], &[&source], &proxy.host()).code, 10);
    receiver.hear("Waiting 30 s for the sender to reconnect");
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
    sender.say(r#"{"ftx":"end","entries":0}"#);
    let heard: Vec<_> = std::iter::from_fn(|| sender.hear()).collect();
    assert!(matches!(heard.last(), Some(Message::Receipt(_))), "{heard:?}");
}

/// The sender notices first: the session is taken over while it is still in work, and counts once all the same.
#[test]
fn a_receiver_of_one_session_that_noticed_nothing_goes_on_with_its_sender() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let receiver = Receiver::start(&out, &["--once"]);
    let mut first = Raw::connect(&receiver, &hello("aa", None));
    assert!(first.hear().is_some());
    let mut second = Raw::connect(&receiver, &hello("bb", Some("aa")));
    assert_ends_with_a_receipt(&mut second);
    let ended = receiver.wait();
    assert_eq!(ended.code, 0, "{ended:?}");
    drop(first);
}

/// The session that is taken over is the one that was asked for, however many others wait for its end.
#[test]
fn nobody_takes_the_place_of_a_sender_that_has_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let receiver = Receiver::start(&out, &["--once"]);
    let mut first = Raw::connect(&receiver, &hello("aa", None));
    assert!(first.hear().is_some());
    let before = receiver.sockets();
    let mut strangers: Vec<_> = (0..16)
        .map(|_| {
            let mut stranger = Raw::connect(&receiver, r#"{"ftx":"hello","version":1}"#);
            stranger.say(r#"{"ftx":"end","entries":0}"#);
            stranger
        })
        .collect();
    common::until("the strangers", || receiver.sockets() >= before + strangers.len());
    // It is the last that wants to begin.
    let mut second = Raw::connect(&receiver, &hello("bb", Some("aa")));
    assert!(second.hear().is_some(), "a welcome");
    assert_ends_with_a_receipt(&mut second);
    let ended = receiver.wait();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ended.stdout.lines().count(), 1, "{ended:?}");
    assert!(strangers.iter_mut().all(|stranger| stranger.hear().is_none()));
}

/// What the sender has heard of is not announced again, and yet the session did not go well.
#[test]
fn entries_that_failed_before_the_connection_was_lost_have_failed() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut receiver = Receiver::start(&out, &["--once"]);
    let mut first = Raw::connect(&receiver, &hello("aa", None));
    first.say(r#"{"ftx":"entry","entry":0,"type":"dir","filename":"../outside"}"#);
    while !matches!(first.hear().expect("an error"), Message::Error(failure) if failure.entry == Some(0)) {}
    drop(first);
    receiver.hear("Waiting 30 s for the sender to reconnect");
    // Lost once more, with nothing that failed on it.
    let mut second = Raw::connect(&receiver, &hello("bb", Some("aa")));
    assert!(second.hear().is_some(), "a welcome");
    let mut third = Raw::connect(&receiver, &hello("cc", Some("bb")));
    assert_ends_with_a_receipt(&mut third);
    let ended = receiver.wait();
    assert_eq!(ended.code, 23, "{ended:?}");
    assert!(ended.stdout.starts_with("NOT transferred from 127.0.0.1: 1 of 1 entry."), "{ended:?}");
}

#[test]
fn a_receiver_that_comes_back_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("tree"), dir.path().join("out"));
    tree(&source);
    let first = Receiver::start(&out, &[]);
    // Whoever connects next is led to the receiver of the day.
    let port = first.port;
    let (proxy, _) = cutting(port, 9_000_000, 1);
    let host = proxy.host();
    let sender = std::thread::spawn({
        let source = source.clone();
        move || send(&["--retries", "20"], &[&source], &host)
    });
    common::until("some files", || out.join("tree").is_dir() && names(&out).len() > 20);
    first.kill();
    let second = Receiver::start(&out, &["--port", &port.to_string()]);
    let sent = sender.join().unwrap();
    assert_eq!(sent.code, 0, "{}", sent.stderr);
    // Small files in arrival when the first one was killed may be left under hidden names.
    let arrived: Vec<String> =
        listing(&out.join("tree")).into_iter().filter(|line| !line.contains(".ftx-")).collect();
    assert_eq!(arrived, listing(&source));
    second.kill();
}

#[test]
fn a_receiver_that_does_not_come_back_is_a_lost_connection() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("tree"), dir.path().join("out"));
    tree(&source);
    let receiver = Receiver::start(&out, &[]);
    let host = receiver.host();
    // It is there until the first part is.
    let mut receiver = Some(receiver);
    let mut peer = common::start_send_with(&["--retries", "2"], &[&source], &host);
    common::until("some files", || out.join("tree").is_dir() && names(&out).len() > 20);
    let has_ended = peer.try_wait().unwrap().is_some();
    receiver.take().unwrap().kill();
    let sent = common::end(peer);
    if has_ended || sent.code == 0 {
        return common::proofs::not_run("a receiver that does not come back", "it was faster than this test");
    }
    assert_eq!(sent.code, 10, "{}", sent.stderr);
    let lines: Vec<&str> = sent.stderr.lines().collect();
    assert_eq!(
        lines,
        [
            &format!("The connection to {host} was lost. Trying again in 0.5 s."),
            &format!("Cannot connect to {host}: connection refused. Trying again in 1.0 s."),
            &format!("ftx: the connection to {host} was lost and did not come back in 2 attempts"),
            "     send the same again to resume: stored files are skipped, partial files continue",
        ]
    );
}

#[test]
fn as_long_as_nothing_moves_the_tries_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("tree"), dir.path().join("out"));
    tree(&source);
    let receiver = Receiver::start(&out, &[]);
    // Each connection is cut at its first frame: nothing moves on any of them.
    let proxy = Proxy::start(receiver.port, move |piece| match piece.way {
        Way::ToSender => Then::Cut,
        Way::ToReceiver => Then::Pass,
    });
    let sent = send(&["--retries", "2"], &[&source], &proxy.host());
    assert_eq!(sent.code, 10, "{}", sent.stderr);
    assert_eq!(sent.stderr.matches("Trying again in").count(), 2, "{}", sent.stderr);
    receiver.kill();
    // Small files that left before they were asked for may have come; the sender has not heard of it.
    for name in names(&out).iter().filter(|name| out.join(name).is_file() && !name.contains(".ftx-")) {
        let sent = fs::read(dir.path().join(name)).unwrap();
        assert!(fs::read(out.join(name)).unwrap() == sent, "{name}");
    }
}

/// Bytes that leave are no progress: a receiver that crashes on one file takes some of it each time.
#[test]
fn attempts_are_bounded_however_much_leaves_in_vain() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("disk.img"), dir.path().join("out"));
    fs::write(&source, Chance::new(3).bytes(2 * PART as usize)).unwrap();
    let receiver = Receiver::start(&out, &[]);
    // Never a whole part.
    let (proxy, passed) = cutting(receiver.port, PART / 2, u64::MAX);
    let sent = end(start_send_with(&["--retries", "2", "-j", "1"], &[&source], &proxy.host()));
    receiver.kill();
    assert_eq!(sent.code, 10, "{sent:?}");
    assert!(passed.load(Ordering::SeqCst) > PART, "something left each time");
    assert_eq!(sent.stderr.matches("Trying again in").count(), 2, "{sent:?}");
    assert!(sent.stderr.contains("was lost and did not come back in 2 attempts"), "{sent:?}");
}

/// One attempt in a row is enough for any number of lost connections, as long as more of the file is there each time.
#[test]
fn a_large_file_that_is_cut_again_and_again_arrives_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("disk.img"), dir.path().join("out"));
    fs::write(&source, Chance::new(4).bytes(5 * PART as usize)).unwrap();
    let receiver = Receiver::start(&out, &[]);
    let (proxy, _) = cutting(receiver.port, PART + PART / 2, 3);
    let sent = send(&["--retries", "1", "-j", "1"], &[&source], &proxy.host());
    receiver.kill();
    assert_eq!(sent.code, 0, "{sent:?}");
    assert_was_lost(&sent.stdout, "1");
    assert!(fs::read(out.join("disk.img")).unwrap() == fs::read(&source).unwrap());
}

/// A receiver that has not noticed that the sender is gone still holds the landing: it has to let go of it.
#[test]
fn a_session_is_taken_over_from_one_that_noticed_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    take_over(Receiver::start(&out, &[]), &out);
}

/// So few descriptors that one address has one place, and that is the one it comes back to.
#[test]
fn a_session_is_taken_over_where_there_is_no_place_but_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    take_over(Receiver::start_limited(60, &out, &[]), &out);
}

fn take_over(receiver: Receiver, out: &Path) {
    use ftx::wire::frame::{Framing, encode};
    use std::io::{Read, Write};
    let content = Chance::new(5).bytes(3 * PART as usize);
    let part = |index: usize| &content[index * PART as usize..(index + 1) * PART as usize];
    let open = |session: &str, continues: &str| {
        let mut stream = receiver.connect();
        let mut say = Vec::new();
        let hello = format!(
            r#"{{"ftx":"hello","version":1,"features":["streams"],"session":"{}"{continues}}}"#,
            session.repeat(16)
        );
        encode(Framing::Native, hello.as_bytes(), &mut say);
        let state = "0".repeat(32);
        let entry = format!(
            r#"{{"ftx":"entry","entry":0,"type":"file","filename":"f","size":{},"mtime_ns":5,"state":"{state}"}}"#,
            content.len()
        );
        encode(Framing::Native, entry.as_bytes(), &mut say);
        stream.write_all(&say).unwrap();
        stream
    };
    let mut first = open("aa", "");
    let mut say = Vec::new();
    for index in 0..2 {
        let md5 = ftx::digest::Md5::of(part(index));
        let header = format!(r#"{{"ftx":"part","entry":0,"part":{index},"size":{PART},"md5":"{md5}"}}"#);
        encode(Framing::Native, header.as_bytes(), &mut say);
        say.extend(part(index));
    }
    first.write_all(&say).unwrap();
    common::until("both parts", || {
        names(out).iter().any(|name| fs::metadata(out.join(name)).is_ok_and(|file| file.len() == 2 * PART))
    });
    // The first connection stays open and silent, as if the way had been cut without a word.
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
