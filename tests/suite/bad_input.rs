//! Input of hostile or broken senders to `ftx recv`. Each ends with one clear line and a documented exit code, leaves no
//! file and no staged file, and the next sender is served.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::Path;

use crate::common::{Receiver, names, send};
use ftx::wire::frame::{Framing, encode};
use ftx::wire::{FrameBuffer, Message};

/// Exit codes, as documented.
const CONNECTION: i32 = 10;
const NO_SPACE: i32 = 42;
const PROTOCOL: i32 = 12;
const PARTIAL: i32 = 23;
const TIMEOUT: i32 = 30;
const DIGEST: i32 = 40;

/// No frame of a known dialect is complete: it is reported, and does not use up `--once`.
const NO_SESSION: i32 = -1;

const MD5_OF_ABC: &str = "900150983cd24fb0d6963f7d28e17f72";

fn classic(json: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(Framing::Classic, json.as_bytes(), &mut bytes);
    bytes
}

fn classic_file(name: &str, size: &str, md5: &str, body: &[u8]) -> Vec<u8> {
    let name = serde_json::Value::from(name);
    [classic(&format!(r#"{{"filename":{name},"size":{size},"md5":"{md5}"}}"#)), body.to_vec()].concat()
}

const HELLO: &str = r#"{"ftx":"hello","version":1}"#;
/// With length and CRC.
const HELLO_BYTES: usize = 4 + HELLO.len() + 4;

fn native(jsons: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(Framing::Native, HELLO.as_bytes(), &mut bytes);
    for json in jsons {
        encode(Framing::Native, json.as_bytes(), &mut bytes);
    }
    bytes
}

/// The frames of a client that benchmarks.
fn measuring(jsons: &[&str], body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(Framing::Native, br#"{"ftx":"hello","version":1,"features":["measure"]}"#, &mut bytes);
    for json in jsons {
        encode(Framing::Native, json.as_bytes(), &mut bytes);
    }
    [bytes, body.to_vec()].concat()
}

fn native_entry(name: &str) -> String {
    serde_json::json!({"ftx":"entry","entry":0,"type":"file","filename":name,"size":3}).to_string()
}

/// Sends `bytes` to a running receiver, closes, and waits until the receiver has closed.
fn send_and_close(receiver: &Receiver, bytes: &[u8]) {
    let mut stream = receiver.connect();
    // The receiver may close before it has read all of it.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// (what, bytes, exit code with `--once`, part of the line that is shown)
fn cases() -> Vec<(String, Vec<u8>, i32, &'static str)> {
    let mut cases: Vec<(String, Vec<u8>, i32, &'static str)> = Vec::new();
    let mut add = |what: &str, bytes: Vec<u8>, code, line| cases.push((what.to_owned(), bytes, code, line));
    let after_length = br#"{"filename":"a","size":3,"md5":"900150983cd24fb0d6963f7d28e17f72"}abc"#;
    for (what, length, line) in [
        ("length 0", 0u32, "invalid frame length 0 "),
        ("length -1", u32::MAX, "invalid frame length 4294967295 "),
        ("length 65,537", 65_537, "invalid frame length 65537 "),
        ("length big-endian", 66u32.swap_bytes(), "sent big-endian?"),
    ] {
        add(what, [&length.to_le_bytes()[..], after_length].concat(), NO_SESSION, line);
    }
    let deep = format!(
        r#"{{"filename":"a","size":3,"md5":"{MD5_OF_ABC}","x":{}{}}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    for (what, json, line) in [
        ("an array", "[1,2]".to_owned(), "not a JSON object"),
        ("an array for a dictionary", "[null,1,null]".to_owned(), "not a JSON object"),
        ("a number", "7".to_owned(), "not a JSON object"),
        ("no JSON", "{filename}".to_owned(), "not a JSON object"),
        ("10,000 deep", deep, "nests deeper"),
        ("neither dialect", r#"{"size":3}"#.to_owned(), "names no file"),
        (
            "a key twice",
            format!(r#"{{"filename":"a","filename":"b","size":3,"md5":"{MD5_OF_ABC}"}}"#),
            "duplicate field",
        ),
        (
            "a size twice",
            format!(r#"{{"filename":"a","size":3,"size":3,"md5":"{MD5_OF_ABC}"}}"#),
            "duplicate field",
        ),
        ("no size", format!(r#"{{"filename":"a","md5":"{MD5_OF_ABC}"}}"#), "no file's size"),
        ("no md5", r#"{"filename":"a","size":3}"#.to_owned(), "no md5"),
    ] {
        add(what, [classic(&json), b"abc".to_vec()].concat(), NO_SESSION, line);
    }
    for size in ["3.0", "\"3\"", "-3", "9223372036854775808", "18446744073709551616", "null"] {
        add(&format!("size {size}"), classic_file("a", size, MD5_OF_ABC, b"abc"), NO_SESSION, "header");
    }
    for digits in [&MD5_OF_ABC[1..], "900150983cd24fb0d6963f7d28e17f720"] {
        add(
            &format!("{} digits", digits.len()),
            classic_file("a", "3", digits, b"abc"),
            NO_SESSION,
            "32 hex digits",
        );
    }
    for (what, name) in bad_names() {
        add(
            &format!("classic, {what}"),
            classic_file(&name, "3", MD5_OF_ABC, b"abc"),
            PARTIAL,
            "refused the name",
        );
        add(
            &format!("native, {what}"),
            native(&[&native_entry(&name), r#"{"ftx":"end","entries":1}"#]),
            PARTIAL,
            "not transferred",
        );
    }
    add(
        "native, absolute",
        native(&[&native_entry("/etc/x"), r#"{"ftx":"end","entries":1}"#]),
        PARTIAL,
        "absolute",
    );
    add(
        "a short body",
        classic_file("a", "4", MD5_OF_ABC, b"abc"),
        CONNECTION,
        "ftx: 127.0.0.1: the connection was lost in the middle of a, 1 bytes before its end\n",
    );
    add("a long body", classic_file("a", "3", MD5_OF_ABC, b"abcdef"), CONNECTION, "middle of a header");
    add("a wrong body", classic_file("a", "3", MD5_OF_ABC, b"abd"), DIGEST, "MD5 mismatch");
    add("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), NO_SESSION, "TLS is not supported");
    add("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), NO_SESSION, "HTTP is not supported");
    add("SSH", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), NO_SESSION, "invalid frame length");
    add(
        "an old version",
        {
            let mut bytes = Vec::new();
            encode(Framing::Native, br#"{"ftx":"hello","version":0}"#, &mut bytes);
            bytes
        },
        PROTOCOL,
        "protocol version 0 is not supported",
    );
    for (what, json) in [
        ("an unknown kind", r#"{"ftx":"dance"}"#),
        ("an end that lies", r#"{"ftx":"end","entries":5}"#),
        (
            "a part of nothing",
            r#"{"ftx":"part","entry":0,"part":0,"size":3,"md5":"900150983cd24fb0d6963f7d28e17f72"}"#,
        ),
        ("a receiver's word", r#"{"ftx":"stored","entries":[[0,0]]}"#),
        ("a skipped number", r#"{"ftx":"entry","entry":1,"type":"file","filename":"a","size":3}"#),
    ] {
        add(what, native(&[json]), PROTOCOL, "ftx: 127.0.0.1: ");
    }
    let entry = native_entry("a");
    // Two parts, the last of three bytes. Without a state key nothing of it is kept.
    let two = r#"{"ftx":"entry","entry":0,"type":"file","filename":"a","size":8388611}"#;
    let sparse = r#"{"ftx":"entry","entry":0,"type":"file","filename":"a","size":8388611,"sparse":true}"#;
    let part = |entry: u64, part: u64, size: u64| {
        format!(r#"{{"ftx":"part","entry":{entry},"part":{part},"size":{size},"md5":"{MD5_OF_ABC}"}}"#)
    };
    let hole = |part: u64, parts: u64| format!(r#"{{"ftx":"hole","entry":0,"part":{part},"parts":{parts}}}"#);
    let end = r#"{"ftx":"end","entries":1}"#.to_owned();
    for (what, first, jsons, line) in [
        ("a part behind the last", two, vec![part(0, 2, 3)], "the file has no such part"),
        ("a part beyond all numbers", two, vec![part(0, u64::MAX, 3)], "the file has no such part"),
        ("a part that reaches over its end", two, vec![part(0, 1, 4)], "4 bytes, 3 expected"),
        (
            "a part that reaches into the next",
            two,
            vec![part(0, 0, 8_388_609)],
            "8388609 bytes, 8388608 expected",
        ),
        ("a part that leaves a gap", two, vec![part(0, 0, 8_388_607)], "8388607 bytes, 8388608 expected"),
        ("a part of everything", two, vec![part(0, 0, 8_388_611)], "8388611 bytes, 8388608 expected"),
        ("a part of an entry that is to come", two, vec![part(1, 0, 3)], "the entry was never announced"),
        ("a part of the last number", two, vec![part(u64::MAX, 0, 3)], "the entry was never announced"),
        ("a hole in a dense file", two, vec![hole(0, 1)], "not announced as sparse"),
        ("a hole over the end", sparse, vec![hole(0, 2)], "not a full-size part"),
        ("a hole of nothing", sparse, vec![hole(0, 0)], "no such parts"),
        ("a hole without end", sparse, vec![hole(0, u64::MAX)], "no such parts"),
        ("a hole twice", sparse, vec![hole(0, 1), hole(0, 1)], "sent twice"),
        ("a hole where a part comes", sparse, vec![hole(0, 1), part(0, 0, 8_388_608)], "sent twice"),
        ("an end of fewer", two, vec![end.replace('1', "0")], "end has 0 entries, 1 were announced"),
        ("an end of more", two, vec![end.replace('1', "2")], "end has 2 entries, 1 were announced"),
        ("an end of the last number", two, vec![end.replace('1', &u64::MAX.to_string())], "1 were announced"),
        ("two ends", two, vec![end.clone(), end.clone()], "unexpected frame: end"),
        (
            "an entry after the end",
            two,
            vec![end.clone(), two.replace("y\":0", "y\":1")],
            "unexpected frame: entry",
        ),
        (
            "totals after the end",
            two,
            vec![end, r#"{"ftx":"totals","files":1,"bytes":1}"#.into()],
            "unexpected frame: totals",
        ),
        ("a number again", two, vec![two.into()], "entry 0 announced, 1 expected"),
        ("a second hello", two, vec![r#"{"ftx":"hello","version":1}"#.into()], "unexpected frame: hello"),
        (
            "a join in a session",
            two,
            vec![format!(r#"{{"ftx":"join","session":"{}"}}"#, "0".repeat(32))],
            "unexpected frame: join",
        ),
        (
            "a withdrawal of what is to come",
            two,
            vec![r#"{"ftx":"error","entry":1,"code":"other"}"#.into()],
            "never announced",
        ),
    ] {
        let all: Vec<&str> = std::iter::once(first).chain(jsons.iter().map(String::as_str)).collect();
        add(what, native(&all), PROTOCOL, line);
    }
    let twice =
        [native(&[two, &part(0, 1, 3)]), b"abc".to_vec(), native(&[&part(0, 1, 3)])[HELLO_BYTES..].to_vec()];
    add("a part twice", twice.concat(), PROTOCOL, "sent twice");
    let refused = native_entry("..");
    add(
        "a body for what was refused, larger than a part",
        native(&[&refused, &part(0, 0, 8_388_609)]),
        PROTOCOL,
        "larger than a part",
    );
    for (what, session) in [("a join of no name", "zz"), ("a join of half a name", "00010203")] {
        let mut bytes = Vec::new();
        encode(Framing::Native, format!(r#"{{"ftx":"join","session":"{session}"}}"#).as_bytes(), &mut bytes);
        add(what, bytes, NO_SESSION, "session");
    }
    let md5 = r#"{"ftx":"measure","what":"md5","size":0}"#;
    add("measuring unasked", native(&[md5]), PROTOCOL, "unexpected frame: measure");
    for (what, jsons, line) in [
        (
            "too much to hash",
            vec![r#"{"ftx":"measure","what":"md5","size":1073741825}"#],
            "the limit is 1073741824",
        ),
        (
            "too much to write",
            vec![r#"{"ftx":"measure","what":"write","size":1073741825}"#],
            "the limit is 1073741824",
        ),
        (
            "too much of the wire",
            vec![r#"{"ftx":"measure","what":"wire","size":18446744073709551615}"#],
            "the limit is 1073741824",
        ),
        ("measuring without end", vec![md5; 17], "more than 16 measurements"),
        ("measuring in a transfer", vec![&entry, md5], "a session with entries cannot measure"),
        ("a transfer while measuring", vec![md5, &entry], "unexpected frame: entry"),
        (
            "totals while measuring",
            vec![md5, r#"{"ftx":"totals","files":0,"bytes":0}"#],
            "unexpected frame: totals",
        ),
    ] {
        add(what, measuring(&jsons, b""), PROTOCOL, line);
    }
    add(
        "a wire that breaks",
        measuring(&[r#"{"ftx":"measure","what":"wire","size":4}"#], b"abc"),
        CONNECTION,
        "the connection was lost in the middle of the body of a measurement\n",
    );
    let mut flipped = native(&[r#"{"ftx":"end","entries":0}"#]);
    let last = flipped.len() - 8;
    flipped[last] ^= 1;
    add("a damaged header", flipped, PROTOCOL, "CRC-32C");
    cases
}

fn bad_names() -> Vec<(&'static str, String)> {
    vec![
        ("empty", String::new()),
        ("dot", ".".into()),
        ("dot dot", "..".into()),
        ("dot dot inside", "a/../b".into()),
        ("NUL", "a\0b".into()),
        ("newline", "a\nb".into()),
        ("ESC", "a\u{1b}[2Jb".into()),
        ("C1", "a\u{9b}b".into()),
        ("bidi", "a\u{202e}b".into()),
        ("a component of 256 bytes", "x".repeat(256)),
        ("more than 4096 bytes", vec!["y".repeat(240); 18].join("/")),
        ("a staged name", ".ftx-0123456789abcdef".into()),
    ]
}

#[test]
fn each_bad_input_ends_with_its_exit_code_and_message() {
    for (what, bytes, code, line) in cases() {
        let out = tempfile::tempdir().unwrap();
        let mut receiver = Receiver::start(out.path(), &["--once"]);
        send_and_close(&receiver, &bytes);
        let ended = if code == NO_SESSION {
            receiver.wait_for(line);
            assert!(!receiver.has_ended(), "{what}");
            receiver.kill_and_wait()
        } else {
            receiver.wait()
        };
        assert_eq!(ended.code, code, "{what}: {ended:?}");
        assert!(ended.stderr.contains(line), "{what}: {:?}", ended.stderr);
        assert!(!ended.stderr.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{what}: escaped");
        assert_eq!(names(out.path()), Vec::<String>::new(), "{what}");
    }
}

#[test]
fn next_sender_is_served_after_all_bad_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("good.txt"), dir.path().join("out"));
    fs::write(&file, "good").unwrap();
    let receiver = Receiver::start(&out, &[]);
    for (_, bytes, _, _) in cases() {
        send_and_close(&receiver, &bytes);
    }
    assert_eq!(send(&[], &[&file], &receiver.host()).code, 0);
    assert_eq!(names(&out), ["good.txt"]);
    receiver.kill();
}

/// Sends every prefix of `bytes` and checks that no file is left.
fn cut_everywhere(bytes: &[u8], step: usize) {
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(out.path(), &[]);
    for end in (0..bytes.len()).step_by(step) {
        send_and_close(&receiver, &bytes[..end]);
        assert_eq!(names(out.path()), Vec::<String>::new(), "cut after {end} bytes");
    }
    send_and_close(&receiver, bytes);
    assert_eq!(names(out.path()), ["a.txt"], "the complete input is stored");
    receiver.kill();
}

#[test]
fn classic_sender_cut_at_any_byte_leaves_no_file() {
    cut_everywhere(&classic_file("a.txt", "3", MD5_OF_ABC, b"abc"), 1);
}

#[test]
fn native_sender_cut_at_any_byte_leaves_no_file() {
    // All frames for one file, sent without waiting for answers.
    let mut bytes = native(&[
        r#"{"ftx":"entry","entry":0,"type":"file","filename":"a.txt","size":3}"#,
        &format!(r#"{{"ftx":"part","entry":0,"part":0,"size":3,"md5":"{MD5_OF_ABC}"}}"#),
    ]);
    bytes.extend_from_slice(b"abc");
    cut_everywhere(&bytes, 1);
}

#[test]
fn odd_names_are_stored_with_allow_odd_names() {
    for (what, name) in
        bad_names().into_iter().filter(|(what, _)| ["newline", "ESC", "C1", "bidi"].contains(what))
    {
        let out = tempfile::tempdir().unwrap();
        let receiver = Receiver::start(out.path(), &["--once", "--allow-odd-names"]);
        send_and_close(&receiver, &classic_file(&name, "3", MD5_OF_ABC, b"abc"));
        let ended = receiver.wait();
        assert_eq!(ended.code, 0, "{what}: {ended:?}");
        assert_eq!(fs::read(out.path().join(&name)).unwrap(), b"abc", "{what}");
        assert!(
            !format!("{}{}", ended.stderr, ended.stdout).contains(['\u{1b}', '\u{9b}', '\u{202e}']),
            "{what}"
        );
    }
    // NUL is refused even then.
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(out.path(), &["--once", "--allow-odd-names"]);
    send_and_close(&receiver, &classic_file("a\0b", "3", MD5_OF_ABC, b"abc"));
    assert_eq!(receiver.wait().code, PARTIAL);
    assert_eq!(names(out.path()), Vec::<String>::new());
}

#[test]
fn uppercase_digest_is_accepted() {
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(out.path(), &["--once"]);
    send_and_close(&receiver, &classic_file("a.txt", "3", &MD5_OF_ABC.to_uppercase(), b"abc"));
    assert_eq!(receiver.wait().code, 0);
    assert_eq!(names(out.path()), ["a.txt"]);
}

#[test]
fn silent_peer_times_out() {
    let silent = "no data from the sender for 1 seconds";
    let unfinished = "incomplete frame from the sender after 1 seconds";
    for (begun, line, code) in [
        (&b""[..], silent, NO_SESSION),
        (b"\x10", unfinished, NO_SESSION),
        (&native(&[]), silent, TIMEOUT),
        (&classic_file("a", "1000", MD5_OF_ABC, b"abc"), silent, TIMEOUT),
    ] {
        let out = tempfile::tempdir().unwrap();
        let mut receiver = Receiver::start(out.path(), &["--once", "--timeout", "1"]);
        let mut stream = receiver.connect();
        stream.write_all(begun).unwrap();
        receiver.wait_for(line);
        let ended = if code == NO_SESSION { receiver.kill_and_wait() } else { receiver.wait() };
        assert_eq!(ended.code, code, "{ended:?}");
        assert_eq!(names(out.path()), Vec::<String>::new());
    }
}

#[test]
fn classic_session_ends_after_silence_between_files() {
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(out.path(), &["--once", "--timeout", "2"]);
    let mut stream = receiver.connect();
    stream.write_all(&classic_file("a.txt", "3", MD5_OF_ABC, b"abc")).unwrap();
    crate::common::until("the file", || out.path().join("a.txt").exists());
    assert_eq!(receiver.wait().code, 0, "silence at a frame boundary is an end like any other");
}

#[test]
fn port_probe_does_not_count_as_a_session() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("good.txt"), dir.path().join("out"));
    fs::write(&file, "good").unwrap();
    let receiver = Receiver::start(&out, &["--once"]);
    drop(receiver.connect());
    assert_eq!(send(&[], &[&file], &receiver.host()).code, 0);
    assert_eq!(receiver.wait().code, 0);
}

#[test]
fn huge_announced_size_allocates_nothing() {
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(out.path(), &["--once"]);
    send_and_close(&receiver, &classic_file("a", "9223372036854775807", MD5_OF_ABC, b"abc"));
    let ended = receiver.wait();
    // Refused where the file system reports reliable free space; elsewhere the body ends early.
    assert!([NO_SPACE, CONNECTION].contains(&ended.code), "{ended:?}");
    assert_eq!(names(out.path()), Vec::<String>::new());
}

/// Sends a file of one part, with the next of `bodies` each time the receiver requests it.
fn converse(out: &Path, bodies: &[&[u8]]) -> crate::common::Ended {
    let receiver = Receiver::start(out, &["--once"]);
    let mut stream = receiver.connect();
    let mut inbox = FrameBuffer::new();
    let mut frames = native(&[
        r#"{"ftx":"entry","entry":0,"type":"file","filename":"a.txt","size":3}"#,
        r#"{"ftx":"end","entries":1}"#,
    ]);
    let mut bodies = bodies.iter();
    loop {
        stream.write_all(&frames).unwrap();
        frames.clear();
        while let Some(json) = inbox.next_frame(Framing::Native).unwrap() {
            match Message::parse(json).unwrap() {
                Message::Want { .. } | Message::Again { .. } => {
                    let part =
                        format!(r#"{{"ftx":"part","entry":0,"part":0,"size":3,"md5":"{MD5_OF_ABC}"}}"#);
                    encode(Framing::Native, part.as_bytes(), &mut frames);
                    frames.extend_from_slice(bodies.next().expect("more requests than bodies"));
                }
                Message::Receipt(_) => return receiver.wait(),
                _ => {}
            }
        }
        if frames.is_empty() {
            let count = stream.read(inbox.space()).unwrap();
            assert!(count > 0, "closed without a receipt");
            inbox.filled(count);
        }
    }
}

#[test]
fn damaged_part_is_retransmitted_in_the_same_session() {
    let out = tempfile::tempdir().unwrap();
    let ended = converse(out.path(), &[b"abX", b"aXc", b"abc"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.contains("2 damaged parts were fetched again"), "{ended:?}");
    assert_eq!(fs::read(out.path().join("a.txt")).unwrap(), b"abc");
}

#[test]
fn part_damaged_three_times_fails_its_file() {
    let out = tempfile::tempdir().unwrap();
    let ended = converse(out.path(), &[b"abX", b"aXc", b"Xbc"]);
    assert_eq!(ended.code, DIGEST, "{ended:?}");
    assert_eq!(names(out.path()), Vec::<String>::new());
}

/// After a damaged length the peer's keepalives are read as the frame's content and must not extend its deadline.
#[test]
fn incomplete_frame_times_out_while_bytes_trickle_in() {
    let mut begun = native(&[]);
    begun.extend_from_slice(&60_000u32.to_le_bytes());
    // In a session, and before there is one.
    for (begun, code) in [(begun, TIMEOUT), (60_000u32.to_le_bytes().to_vec(), NO_SESSION)] {
        let out = tempfile::tempdir().unwrap();
        let mut receiver = Receiver::start(out.path(), &["--once", "--timeout", "1"]);
        let mut stream = receiver.connect();
        stream.write_all(&begun).unwrap();
        let mut written = 0;
        crate::common::until("the end of the connection", || {
            written += usize::from(written < 50_000 && stream.write_all(b" ").is_ok());
            receiver.has_printed("incomplete frame from the sender after 1 seconds")
        });
        let ended = if code == NO_SESSION { receiver.kill_and_wait() } else { receiver.wait() };
        assert_eq!(ended.code, code, "{ended:?}");
    }
}
