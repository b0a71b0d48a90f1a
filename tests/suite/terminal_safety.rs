//! **Promised: a peer cannot steer the terminal.** Whatever it puts into names, messages, codes, agents, link targets,
//! keys or kinds, and whatever lies in the sender's own folders: no control character, no bidirectional control and no
//! line of the peer's choosing reaches standard output or standard error of either end.
//!
//! If one of these texts were printed as it came, the round whose text it is would find the bytes in the output.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::thread;

use crate::common::proofs::{Chance, each, figures, rounds};
use crate::common::{Ended, FTX, Receiver, send};
use ftx::wire::Inbox;
use ftx::wire::frame::{Form, encode};
use serde_json::{Value, json};

/// Begins what an attacker would write on a line of his own.
const MARK: &str = "INJECTED";

/// Texts that steer: control sequences in 7 and 8 bits, the title, an answer on the input, colours, a cleared screen,
/// line ends of all kinds, the order of what is read.
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

/// A few of those, and plain text, in some order; the mark after each, as if it stood on its own line.
fn hostile(chance: &mut Chance) -> String {
    (0..1 + chance.below(4)).map(|_| format!("{}{MARK}", chance.pick(&STEERING))).collect()
}

/// A short plain text, with something hostile in it more often than not.
fn maybe(chance: &mut Chance, plain: &str) -> String {
    if chance.below(3) == 0 { plain.to_owned() } else { format!("{plain}{}", hostile(chance)) }
}

fn assert_safe(who: &str, ended: &Ended, said: &dyn std::fmt::Debug) {
    for output in [&ended.stdout, &ended.stderr] {
        let bad = output.chars().find(|c| {
            (c.is_control() && *c != '\n')
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
        });
        assert_eq!(bad, None, "{who} printed it: {ended:?} after {said:?}");
        let injected = output.lines().find(|line| line.starts_with(MARK));
        assert_eq!(injected, None, "{who} began a line with it: {ended:?} after {said:?}");
    }
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
}

fn frames(form: Form, jsons: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for json in jsons {
        encode(form, json.to_string().as_bytes(), &mut bytes);
    }
    bytes
}

/// What a hostile sender says at once, without listening.
fn sender_says(chance: &mut Chance) -> Vec<u8> {
    let md5 = "900150983cd24fb0d6963f7d28e17f72";
    let mut said = vec![
        json!({"ftx": "hello", "version": 1, "agent": maybe(chance, "ftx"), "features": [hostile(chance)]}),
    ];
    match chance.below(8) {
        0 => {
            let name = maybe(chance, "a");
            let mut bytes =
                frames(Form::Classic, &[json!({"filename": name, "size": 3, "md5": maybe(chance, md5)})]);
            bytes.extend_from_slice(b"abc");
            return bytes;
        }
        1 => return frames(Form::Classic, &[json!({hostile(chance): hostile(chance)})]),
        2 => return hostile(chance).into_bytes(),
        3 => said.push(json!({"ftx": hostile(chance)})),
        4 => said.push(json!({"ftx": "error", "code": maybe(chance, "other"), "message": hostile(chance)})),
        5 => {
            let mut cut =
                json!({"ftx": "entry", "entry": 0, "type": hostile(chance), "filename": hostile(chance)});
            cut[hostile(chance)] = json!(hostile(chance));
            said.push(cut);
        }
        kind => {
            // Entries that are refused, or land, or are given up by their sender.
            for number in 0..4 {
                let name = maybe(chance, "name");
                let hex: String = hostile(chance).bytes().map(|byte| format!("{byte:02x}")).collect();
                said.push(match (kind, number) {
                    (6, 0) => json!({"ftx": "entry", "entry": 0, "type": "file", "filename": name, "filename_hex": hex, "size": 3}),
                    (_, 3) => json!({"ftx": "entry", "entry": 3, "type": "link", "filename": name, "target": hostile(chance)}),
                    _ => json!({"ftx": "entry", "entry": number, "type": "file", "filename": name, "size": 3}),
                });
                let message = hostile(chance);
                said.push(json!({"ftx": "error", "entry": number, "code": maybe(chance, "file-io"), "message": message}));
            }
            said.push(json!({"ftx": "end", "entries": 4}));
        }
    }
    frames(Form::Native, &said)
}

#[test]
fn a_receiver_shows_nothing_of_a_hostile_sender_as_it_is() {
    let mut chance = Chance::new(15);
    let cases: Vec<(Vec<u8>, bool)> =
        (0..rounds(150)).map(|_| (sender_says(&mut chance), chance.below(2) == 0)).collect();
    each(&cases, 4, |(said, allow_odd)| {
        let out = tempfile::tempdir().unwrap();
        let odd: &[&str] = if *allow_odd { &["--allow-odd-names"] } else { &[] };
        let receiver = Receiver::start(out.path(), &[&["--once", "--progress", "always"], odd].concat());
        let mut stream = receiver.connect();
        let _ = stream.write_all(said);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
        assert_safe("the receiver", &receiver.wait_or_end(), &String::from_utf8_lossy(said));
    });
    figures(&format!("hostile senders: {} rounds", cases.len()));
}

/// What a hostile receiver says after `hello`, then after the first `entry`.
fn receiver_says(chance: &mut Chance) -> [Vec<u8>; 2] {
    let welcome =
        json!({"ftx": "welcome", "version": 1, "agent": hostile(chance), "features": [hostile(chance)]});
    let (first, then) = match chance.below(7) {
        0 => (json!({"ftx": "error", "code": maybe(chance, "refused"), "message": hostile(chance)}), vec![]),
        1 => (json!({"ftx": hostile(chance)}), vec![]),
        2 => return [hostile(chance).into_bytes(), vec![]],
        3 => (json!({"ftx": "welcome", "version": hostile(chance)}), vec![]),
        4 => (welcome, vec![json!({"ftx": "want", "entries": [[0, 0]], "parts": hostile(chance)})]),
        5 => (
            welcome,
            vec![json!({"ftx": "error", "code": maybe(chance, "no-space"), "message": hostile(chance)})],
        ),
        _ => {
            let failed = json!({"ftx": "error", "entry": 0, "code": maybe(chance, "name"), "message": hostile(chance)});
            let receipt =
                json!({"ftx": "receipt", "entries": 1, "stored": 0, "skipped": 0, "failed": 1, "bytes": 0});
            (welcome, vec![failed, receipt])
        }
    };
    [frames(Form::Native, &[first]), frames(Form::Native, &then)]
}

/// Reads frames until one of this kind; `false` if the sender went away.
fn hear(stream: &mut TcpStream, inbox: &mut Inbox, kind: &str) -> bool {
    loop {
        while let Some(json) = inbox.next_frame(Form::Native).unwrap() {
            let frame: Value = serde_json::from_slice(json).unwrap();
            if frame["ftx"] == kind {
                return true;
            }
            if frame["ftx"] == "part" {
                // Sent before it was asked for.
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
fn a_sender_shows_nothing_of_a_hostile_receiver_as_it_is() {
    let mut chance = Chance::new(16);
    let from = tempfile::tempdir().unwrap();
    let file = from.path().join("a");
    fs::write(&file, "bytes").unwrap();
    let cases: Vec<[Vec<u8>; 2]> = (0..rounds(150)).map(|_| receiver_says(&mut chance)).collect();
    each(&cases, 4, |[first, then]| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut inbox = Inbox::new();
                if hear(&mut stream, &mut inbox, "hello") && stream.write_all(first).is_ok() {
                    // A receipt is only believed after the end.
                    let heard = then.is_empty() || hear(&mut stream, &mut inbox, "end");
                    if heard && stream.write_all(then).is_ok() {
                        let _ = stream.shutdown(Shutdown::Write);
                    }
                }
                let _ = stream.read_to_end(&mut Vec::new());
            });
            let sent = send(&["--retries", "0", "--progress", "always"], &[&file], &host);
            let said = [String::from_utf8_lossy(first), String::from_utf8_lossy(then)];
            assert_ne!(sent.code, 0, "{sent:?} after {said:?}");
            assert_safe("the sender", &sent, &said);
        });
    });
    figures(&format!("hostile receivers: {} rounds", cases.len()));
}

/// A folder that somebody else filled, sent by somebody who does not know: files that land, that are refused, that
/// cannot be read, links that are left out; in both dialects.
#[test]
fn names_on_the_disk_are_shown_by_neither_end_as_they_are() {
    let mut chance = Chance::new(17);
    for round in 0..rounds(6) {
        let dir = tempfile::tempdir().unwrap();
        let (from, out) = (dir.path().join("from"), dir.path().join("out"));
        let folder = from.join(format!("f{}", hostile(&mut chance).replace(['\0', '/'], "")));
        fs::create_dir_all(&folder).unwrap();
        for number in 0..12 {
            let mut name = format!("{number}{}", hostile(&mut chance).replace(['\0', '/'], "")).into_bytes();
            if number % 4 == 0 {
                // The same in bytes that are not UTF-8.
                name.extend_from_slice(b"\x9b31m\xff");
            }
            let path = folder.join(OsStr::from_bytes(&name));
            match number % 3 {
                0 => symlink(format!("/{}", hostile(&mut chance).replace('\0', "")), path).unwrap(),
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
