//! **Promised: a peer cannot control the terminal.** No control character, no bidirectional control and no line break from
//! names, messages, codes, agents, link targets, keys or kinds of a peer, or from names in the sender's own directories,
//! reaches standard output or standard error of either end.
//!
//! If such a text were printed unescaped, a round would find the bytes in the output.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::thread;

use crate::common::proofs::{Random, report_figures, rounds, run_parallel};
use crate::common::{Ended, FTX, Receiver, send};
use ftx::wire::FrameBuffer;
use ftx::wire::frame::{Framing, encode};
use serde_json::{Value, json};

/// Begins the text that an injected line would have.
const MARK: &str = "INJECTED";

/// Texts that control a terminal: 7- and 8-bit control sequences, window title, terminal queries, colours, clearing the
/// screen, line breaks of all kinds, bidirectional controls.
const STEERING: [&str; 22] = [
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x1b[6n",
    "\x1b[31m",
    "\x1bc",
    "\u{9b}31m",
    "\u{9d}0;title\u{9c}",
    "\x1bP+q\x1b\\",
    "\n",
    "\r",
    "\r\n",
    "\x0b",
    "\x0c",
    "\u{85}",
    "\u{2028}",
    "\u{2029}",
    "\x08",
    "\x7f",
    "\x00",
    "\u{202e}",
    "\u{2066}",
    "\t",
];

/// A random mix of those and plain text, with the mark after each.
fn hostile(random: &mut Random) -> String {
    (0..1 + random.below(4)).map(|_| format!("{}{MARK}", random.pick(&STEERING))).collect()
}

/// A short plain text, usually with a hostile part.
fn maybe(random: &mut Random, plain: &str) -> String {
    if random.below(3) == 0 { plain.to_owned() } else { format!("{plain}{}", hostile(random)) }
}

fn assert_safe(who: &str, ended: &Ended, input: &dyn std::fmt::Debug) {
    for output in [&ended.stdout, &ended.stderr] {
        let bad = output.chars().find(|c| {
            (c.is_control() && *c != '\n')
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
        });
        assert_eq!(bad, None, "{who} printed it: {ended:?} after {input:?}");
        let injected = output.lines().find(|line| line.starts_with(MARK));
        assert_eq!(injected, None, "{who} began a line with it: {ended:?} after {input:?}");
    }
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
}

fn frames(form: Framing, jsons: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for json in jsons {
        encode(form, json.to_string().as_bytes(), &mut bytes);
    }
    bytes
}

/// The frames of a hostile sender, sent without reading answers.
fn sender_says(random: &mut Random) -> Vec<u8> {
    let md5 = "900150983cd24fb0d6963f7d28e17f72";
    let mut input = vec![
        json!({"ftx": "hello", "version": 1, "agent": maybe(random, "ftx"), "features": [hostile(random)]}),
    ];
    match random.below(8) {
        0 => {
            let name = maybe(random, "a");
            let mut bytes =
                frames(Framing::Classic, &[json!({"filename": name, "size": 3, "md5": maybe(random, md5)})]);
            bytes.extend_from_slice(b"abc");
            return bytes;
        }
        1 => return frames(Framing::Classic, &[json!({hostile(random): hostile(random)})]),
        2 => return hostile(random).into_bytes(),
        3 => input.push(json!({"ftx": hostile(random)})),
        4 => input.push(json!({"ftx": "error", "code": maybe(random, "other"), "message": hostile(random)})),
        5 => {
            let mut cut =
                json!({"ftx": "entry", "entry": 0, "type": hostile(random), "filename": hostile(random)});
            cut[hostile(random)] = json!(hostile(random));
            input.push(cut);
        }
        kind => {
            // Entries that are refused, stored, or withdrawn by their sender.
            for number in 0..4 {
                let name = maybe(random, "name");
                let hex: String = hostile(random).bytes().map(|byte| format!("{byte:02x}")).collect();
                input.push(match (kind, number) {
                    (6, 0) => json!({"ftx": "entry", "entry": 0, "type": "file", "filename": name, "filename_hex": hex, "size": 3}),
                    (_, 3) => json!({"ftx": "entry", "entry": 3, "type": "link", "filename": name, "target": hostile(random)}),
                    _ => json!({"ftx": "entry", "entry": number, "type": "file", "filename": name, "size": 3}),
                });
                let message = hostile(random);
                input.push(json!({"ftx": "error", "entry": number, "code": maybe(random, "file-io"), "message": message}));
            }
            input.push(json!({"ftx": "end", "entries": 4}));
        }
    }
    frames(Framing::Native, &input)
}

#[test]
fn receiver_escapes_text_of_a_hostile_sender() {
    let mut random = Random::new(15);
    let cases: Vec<(Vec<u8>, bool)> =
        (0..rounds(150)).map(|_| (sender_says(&mut random), random.below(2) == 0)).collect();
    run_parallel(&cases, 4, |(input, allow_odd)| {
        let out = tempfile::tempdir().unwrap();
        let odd: &[&str] = if *allow_odd { &["--allow-odd-names"] } else { &[] };
        let receiver = Receiver::start(out.path(), &[&["--once", "--progress", "always"], odd].concat());
        let mut stream = receiver.connect();
        let _ = stream.write_all(input);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
        assert_safe("the receiver", &receiver.wait_or_end(), &String::from_utf8_lossy(input));
    });
    report_figures(&format!("hostile senders: {} rounds", cases.len()));
}

/// The frames of a hostile receiver after `hello`, and after the first `entry`.
fn receiver_says(random: &mut Random) -> [Vec<u8>; 2] {
    let welcome =
        json!({"ftx": "welcome", "version": 1, "agent": hostile(random), "features": [hostile(random)]});
    let (first, then) = match random.below(7) {
        0 => (json!({"ftx": "error", "code": maybe(random, "refused"), "message": hostile(random)}), vec![]),
        1 => (json!({"ftx": hostile(random)}), vec![]),
        2 => return [hostile(random).into_bytes(), vec![]],
        3 => (json!({"ftx": "welcome", "version": hostile(random)}), vec![]),
        4 => (welcome, vec![json!({"ftx": "want", "entries": [[0, 0]], "parts": hostile(random)})]),
        5 => (
            welcome,
            vec![json!({"ftx": "error", "code": maybe(random, "no-space"), "message": hostile(random)})],
        ),
        _ => {
            let failed = json!({"ftx": "error", "entry": 0, "code": maybe(random, "name"), "message": hostile(random)});
            let receipt =
                json!({"ftx": "receipt", "entries": 1, "stored": 0, "skipped": 0, "failed": 1, "bytes": 0});
            (welcome, vec![failed, receipt])
        }
    };
    [frames(Framing::Native, &[first]), frames(Framing::Native, &then)]
}

/// Reads frames up to one of this kind; `false` if the sender closes first.
fn read_until_kind(stream: &mut TcpStream, inbox: &mut FrameBuffer, kind: &str) -> bool {
    loop {
        while let Some(json) = inbox.next_frame(Framing::Native).unwrap() {
            let frame: Value = serde_json::from_slice(json).unwrap();
            if frame["ftx"] == kind {
                return true;
            }
            if frame["ftx"] == "part" {
                // A body sent before it was requested.
                let size = frame["size"].as_u64().unwrap() as usize;
                let at_hand = inbox.take_body(size).len();
                if stream.read_exact(&mut vec![0; size - at_hand]).is_err() {
                    return false;
                }
            }
        }
        match stream.read(inbox.space()) {
            Ok(0) | Err(_) => return false,
            Ok(count) => inbox.filled(count),
        }
    }
}

#[test]
fn sender_escapes_text_of_a_hostile_receiver() {
    let mut random = Random::new(16);
    let from = tempfile::tempdir().unwrap();
    let file = from.path().join("a");
    fs::write(&file, "bytes").unwrap();
    let cases: Vec<[Vec<u8>; 2]> = (0..rounds(150)).map(|_| receiver_says(&mut random)).collect();
    run_parallel(&cases, 4, |[first, then]| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut inbox = FrameBuffer::new();
                if read_until_kind(&mut stream, &mut inbox, "hello") && stream.write_all(first).is_ok() {
                    // A receipt is valid only after `end`.
                    let is_ready = then.is_empty() || read_until_kind(&mut stream, &mut inbox, "end");
                    if is_ready && stream.write_all(then).is_ok() {
                        let _ = stream.shutdown(Shutdown::Write);
                    }
                }
                let _ = stream.read_to_end(&mut Vec::new());
            });
            let sent = send(&["--retries", "0", "--progress", "always"], &[&file], &host);
            let input = [String::from_utf8_lossy(first), String::from_utf8_lossy(then)];
            assert_ne!(sent.code, 0, "{sent:?} after {input:?}");
            assert_safe("the sender", &sent, &input);
        });
    });
    report_figures(&format!("hostile receivers: {} rounds", cases.len()));
}

/// A directory with hostile names: files that are stored, refused or unreadable, and links that are skipped; in both
/// dialects.
#[test]
fn both_ends_escape_names_on_the_disk() {
    let mut random = Random::new(17);
    for round in 0..rounds(6) {
        let dir = tempfile::tempdir().unwrap();
        let (from, out) = (dir.path().join("from"), dir.path().join("out"));
        let folder = from.join(format!("f{}", hostile(&mut random).replace(['\0', '/'], "")));
        fs::create_dir_all(&folder).unwrap();
        for number in 0..12 {
            let mut name = format!("{number}{}", hostile(&mut random).replace(['\0', '/'], "")).into_bytes();
            if number % 4 == 0 {
                // The same with bytes that are not UTF-8.
                name.extend_from_slice(b"\x9b31m\xff");
            }
            let path = folder.join(OsStr::from_bytes(&name));
            match number % 3 {
                0 => symlink(format!("/{}", hostile(&mut random).replace('\0', "")), path).unwrap(),
                1 => rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
                    .unwrap(),
                _ => fs::write(path, "bytes").unwrap(),
            }
        }
        for dialect in [&[][..], &["--classic"]] {
            let odd: &[&str] = if round % 2 == 0 { &["--allow-odd-names"] } else { &[] };
            let receiver = Receiver::start(&out, &[&["--once", "--progress", "always"], odd].concat());
            let args = [&["--progress", "always", "--retries", "0"], dialect].concat();
            let sent = send(&args, &[&folder], &receiver.host());
            assert_safe("the sender", &sent, &folder);
            assert_safe("the receiver", &receiver.wait(), &folder);
        }
        let missing = std::process::Command::new(FTX)
            .args(["send"])
            .arg(folder.join("\x1b[2J"))
            .arg("127.0.0.1")
            .output();
        assert!(!missing.unwrap().stderr.contains(&0x1b));
    }
}
