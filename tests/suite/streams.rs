//! Sessions of several connections: parts arrive over any of them, a join of an unknown session is refused, and a protocol
//! error on a joined connection ends its session only.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::common::raw::Raw;
use crate::common::{Receiver, end, listing, names, send, start_send_with};
use ftx::digest::Md5;
use ftx::wire::Message;
use ftx::wire::frame::{Framing, encode};

const CONNECTION: i32 = 10;
const PROTOCOL: i32 = 12;
const SESSION: &str = "000102030405060708090a0b0c0d0e0f";

fn hello() -> String {
    format!(r#"{{"ftx":"hello","version":1,"features":["streams"],"session":"{SESSION}"}}"#)
}

fn join() -> String {
    format!(r#"{{"ftx":"join","session":"{SESSION}"}}"#)
}

/// Opens a session and returns its first connection.
fn open(receiver: &Receiver) -> Raw {
    let mut first = Raw::connect(receiver, &hello());
    let Some(Message::Welcome(welcome)) = first.next_message() else { panic!("no welcome") };
    assert!(welcome.features.iter().any(|feature| feature == "streams"));
    first
}

fn error_text(message: Option<Message>) -> String {
    match message {
        Some(Message::Error(failure)) => failure.message,
        other => panic!("an error was expected: {other:?}"),
    }
}

#[test]
fn tree_arrives_over_any_number_of_connections() {
    let source = tempfile::tempdir().unwrap();
    let tree = source.path().join("tree");
    fs::create_dir_all(tree.join("deep/er")).unwrap();
    for number in 0..300u32 {
        let content = number.to_le_bytes().repeat(number as usize * 7);
        fs::write(tree.join(format!("deep/er/{number}")), content).unwrap();
    }
    let large: Vec<u8> = (0..40_000_000u32).map(|i| (i / 3) as u8).collect();
    fs::write(tree.join("large"), &large).unwrap();
    fs::write(tree.join("also large"), &large[..17 << 20]).unwrap();
    for streams in ["1", "2", "5", "8"] {
        let out = tempfile::tempdir().unwrap();
        let receiver = Receiver::start(out.path(), &["--once"]);
        let sent = send(&["-j", streams], &[&tree], &receiver.host());
        assert_eq!(sent.code, 0, "{streams}: {}", sent.stderr);
        assert_eq!(receiver.wait().code, 0);
        assert_eq!(listing(out.path()), listing(source.path()), "{streams} connections");
    }
    for wrong in ["0", "9", "-1", "two"] {
        assert_eq!(send(&["-j", wrong], &[&tree], "127.0.0.1:1").code, 2, "{wrong}");
    }
}

#[test]
fn body_may_use_any_connection() {
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(out.path(), &["--once"]);
    let mut first = open(&receiver);
    let mut second = Raw::connect(&receiver, &join());
    first.send_json(r#"{"ftx":"entry","entry":0,"type":"file","filename":"a","size":3}"#);
    assert!(matches!(first.next_message(), Some(Message::Want { .. })));
    second.send_json(&format!(r#"{{"ftx":"part","entry":0,"part":0,"size":3,"md5":"{}"}}"#, Md5::of(b"abc")));
    second.stream.write_all(b"abc").unwrap();
    assert!(matches!(first.next_message(), Some(Message::Stored { .. })));
    first.send_json(r#"{"ftx":"end","entries":1}"#);
    assert!(matches!(first.next_message(), Some(Message::Receipt(_))));
    drop((first, second));
    assert_eq!(receiver.wait().code, 0);
    assert_eq!(fs::read(out.path().join("a")).unwrap(), b"abc");
}

#[test]
fn join_of_unknown_session_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(&dir.path().join("out"), &["--once"]);
    let mut stranger = Raw::connect(&receiver, &join());
    assert!(error_text(stranger.next_message()).contains("join of an unknown session"));
    assert_eq!(stranger.next_message(), None);
    // The refused join does not count for `--once`.
    let file = dir.path().join("a");
    fs::write(&file, "x").unwrap();
    assert_eq!(send(&[], &[&file], &receiver.host()).code, 0);
    assert_eq!(receiver.wait().code, 0);
}

#[test]
fn second_session_of_one_id_is_refused() {
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(out.path(), &[]);
    let mut first = open(&receiver);
    let mut thief = Raw::connect(&receiver, &hello());
    let last = std::iter::from_fn(|| thief.next_message()).last();
    assert!(error_text(last).contains("the session id is in use"));
    first.send_json(r#"{"ftx":"end","entries":0}"#);
    assert!(matches!(first.next_message(), Some(Message::Receipt(_))));
    receiver.kill();
}

#[test]
fn number_of_joined_connections_is_limited() {
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(out.path(), &["--once"]);
    let mut first = open(&receiver);
    let mut joined: Vec<Raw> = (0..7).map(|_| Raw::connect(&receiver, &join())).collect();
    // Each of the seven has joined, as it delivers a file.
    for (id, raw) in joined.iter_mut().enumerate() {
        first.send_json(&format!(
            r#"{{"ftx":"entry","entry":{id},"type":"file","filename":"{id}","size":0}}"#
        ));
        assert!(matches!(first.next_message(), Some(Message::Want { .. })));
        raw.send_json(&format!(
            r#"{{"ftx":"part","entry":{id},"part":0,"size":0,"md5":"{}"}}"#,
            Md5::of(b"")
        ));
        assert!(matches!(first.next_message(), Some(Message::Stored { .. })));
    }
    let mut eighth = Raw::connect(&receiver, &join());
    assert!(error_text(eighth.next_message()).contains("the session has no free connections"));
    first.send_json(r#"{"ftx":"end","entries":7}"#);
    assert!(matches!(first.next_message(), Some(Message::Receipt(_))));
    drop((first, joined, eighth));
    assert_eq!(receiver.wait().code, 0);
    assert_eq!(names(out.path()).len(), 7);
}

/// Sends frames on a joined connection; returns the session's exit code and message.
fn end_by(out: &Path, send: impl FnOnce(&mut Raw, &mut Raw)) -> (i32, String) {
    // No sender reconnects here.
    let receiver = Receiver::start(out, &["--once", "--timeout", "2"]);
    let mut first = open(&receiver);
    let mut second = Raw::connect(&receiver, &join());
    first.send_json(r#"{"ftx":"entry","entry":0,"type":"file","filename":"a","size":9000000}"#);
    assert!(matches!(first.next_message(), Some(Message::Want { .. })));
    send(&mut first, &mut second);
    drop(second);
    let last = error_text(first.next_message());
    drop(first);
    let ended = receiver.wait();
    assert_eq!(names(out), Vec::<String>::new(), "{last}");
    (ended.code, last)
}

#[test]
fn protocol_error_on_a_joined_connection_ends_the_session() {
    let out = tempfile::tempdir().unwrap();
    let md5 = Md5::of(b"");
    let part = format!(r#"{{"ftx":"part","entry":0,"part":0,"size":8388608,"md5":"{md5}"}}"#);
    for (what, frame, code, expected) in [
        (
            "an entry",
            r#"{"ftx":"entry","entry":1,"type":"dir","filename":"d"}"#,
            PROTOCOL,
            "unexpected frame: entry",
        ),
        ("the end", r#"{"ftx":"end","entries":1}"#, PROTOCOL, "unexpected frame: end"),
        ("a hello", &hello(), PROTOCOL, "unexpected frame: hello"),
        ("a join", &join(), PROTOCOL, "unexpected frame: join"),
        ("an error", r#"{"ftx":"error","code":"io","message":"x"}"#, PROTOCOL, "unexpected frame: error"),
        ("a part that does not exist", &part.replace(r#""part":0"#, r#""part":2"#), PROTOCOL, "no such part"),
        ("a part of no entry", &part.replace(r#""entry":0"#, r#""entry":5"#), PROTOCOL, "never announced"),
        ("a body that is cut", &part, CONNECTION, "the connection was lost in the middle of "),
    ] {
        let (actual, text) = end_by(out.path(), |_, second| second.send_json(frame));
        assert_eq!(actual, code, "{what}: {text}");
        assert!(text.contains(expected), "{what}: {text}");
    }
    let (code, text) = end_by(out.path(), |_, _| {});
    assert_eq!(code, CONNECTION, "a connection that is lost: {text}");
    let whole = part.replace(&md5.to_string(), &Md5::of(&vec![0; 8 << 20]).to_string());
    let (_, text) = end_by(out.path(), |first, second| {
        for raw in [first, second] {
            raw.send_json(&whole);
            // The session may end before all of it is sent.
            let _ = raw.stream.write_all(&vec![0; 8 << 20]);
        }
    });
    assert!(text.contains("sent twice"), "{text}");
}

/// A further connection may arrive when the session is complete already.
#[test]
fn late_join_does_not_fail_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, "xyzzy").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let sender = start_send_with(&["-j", "2", "--retries", "0"], &[&file], &host);
    let accept_and_read = |expected: &[&str]| {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
        while !expected.iter().all(|word| String::from_utf8_lossy(&received).contains(word)) {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "the sender closed");
            received.extend_from_slice(&buffer[..count]);
        }
        stream
    };
    let send_json = |stream: &mut TcpStream, json: &str| {
        let mut bytes = Vec::new();
        encode(Framing::Native, json.as_bytes(), &mut bytes);
        stream.write_all(&bytes).unwrap();
    };
    let mut first = accept_and_read(&[r#""ftx":"end""#, "xyzzy"]);
    // In one write, so that the sender has received both before it joins.
    let mut frames = Vec::new();
    for json in [
        r#"{"ftx":"welcome","version":1,"features":["streams"]}"#,
        r#"{"ftx":"want","entries":[[0,0]],"parts":"all"}"#,
    ] {
        encode(Framing::Native, json.as_bytes(), &mut frames);
    }
    first.write_all(&frames).unwrap();
    let mut second = accept_and_read(&[r#""ftx":"join""#]);
    send_json(&mut second, r#"{"ftx":"error","code":"protocol","message":"join of an unknown session"}"#);
    drop(second);
    // Time for a sender that treats the refusal as the end of the session; there is nothing to observe otherwise.
    thread::sleep(Duration::from_millis(300));
    for json in [
        r#"{"ftx":"stored","entries":[[0,0]]}"#,
        r#"{"ftx":"receipt","entries":1,"stored":1,"skipped":0,"failed":0,"bytes":5}"#,
    ] {
        send_json(&mut first, json);
    }
    let ended = end(sender);
    assert_eq!(ended.code, 0, "{ended:?}");
}
