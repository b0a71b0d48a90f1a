//! Loss of either end during a session, and exit codes of errors outside a transfer.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::proofs::Random;
use crate::common::proxy::{Action, Place, Proxy, Way};
use crate::common::{Receiver, end, fake_receiver, ftx, names, send, start_send, until};
use ftx::digest::PART_BYTES;
use ftx::wire::FrameBuffer;
use ftx::wire::frame::{Framing, encode};

/// A file that is quick to make and long to send: one byte of data in every part, holes around it.
fn make_large(path: &std::path::Path, gibibytes: u64) {
    let file = fs::File::create(path).unwrap();
    file.set_len(gibibytes << 30).unwrap();
    for part in 0..(gibibytes << 30) / PART_BYTES {
        file.write_all_at(b"x", part * PART_BYTES + 5).unwrap();
    }
}

fn large_file(dir: &tempfile::TempDir) -> PathBuf {
    let path = dir.path().join("large.img");
    make_large(&path, 32);
    path
}

fn staged_file_has_bytes(out: &std::path::Path) -> bool {
    let Ok(entries) = fs::read_dir(out) else { return false };
    entries.flatten().any(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 0))
}

#[test]
fn sender_detects_a_killed_receiver_quickly() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (large_file(&dir), dir.path().join("out"));
    let receiver = Receiver::start(&out, &[]);
    let sender = start_send(&[&file], &receiver.host());
    until("bytes at the receiver", || staged_file_has_bytes(&out));
    receiver.kill();
    let killed = Instant::now();
    let sent = end(sender);
    assert!(killed.elapsed() < Duration::from_secs(5), "quickly");
    assert_eq!(sent.code, 10, "{sent:?}");
    assert!(sent.stderr.contains("ftx: the connection to 127.0.0.1:"), "{sent:?}");
    assert!(sent.stderr.contains("was lost\n     send the same again to resume"), "{sent:?}");
    assert!(!out.join("large.img").exists());
}

#[test]
fn next_sender_is_served_after_a_killed_one() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (large_file(&dir), dir.path().join("out"));
    let receiver = Receiver::start(&out, &["--count", "2"]);
    let mut sender = start_send(&[&file], &receiver.host());
    until("bytes at the receiver", || staged_file_has_bytes(&out));
    sender.kill().unwrap();
    sender.wait().unwrap();
    let small = dir.path().join("small");
    fs::write(&small, "small").unwrap();
    assert_eq!(send(&[], &[&small], &receiver.host()).code, 0);
    let ended = receiver.wait();
    assert_eq!(ended.code, 10, "{ended:?}");
    assert!(ended.stderr.contains("the connection was lost in the middle of large.img"), "{ended:?}");
    // A staged file of the large one may be kept for a resume.
    let in_place: Vec<String> =
        names(&out).into_iter().filter(|name| !name.starts_with(".ftx-part-")).collect();
    assert_eq!(in_place, ["small"]);
}

/// Content that is too large to be sent before it is requested, so that no body stands between the frames.
const NOT_UNASKED: &[u8] = &[7; 1 << 20];

const WELCOME: &str = r#"{"ftx":"welcome","version":1}"#;

#[test]
fn bad_answers_of_a_receiver_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, NOT_UNASKED).unwrap();
    let until_closed = |mut stream: TcpStream| drop(stream.read_to_end(&mut Vec::new()));
    for (answer, code, line) in [
        (
            vec![],
            10,
            "closed the connection without a reply\n     is `ftx recv` listening there, and is the port correct?",
        ),
        (vec![WELCOME], 10, "was lost\n     send the same again"),
        (vec![r#"{"ftx":"welcome","version":99}"#], 12, "protocol version 99 is not supported"),
        (vec![WELCOME, r#"{"ftx":"stored","entries":[[7,7]]}"#], 12, "never announced"),
        (vec![WELCOME, r#"{"ftx":"want","entries":[[7,7]],"parts":"all"}"#], 12, "never announced"),
        (
            vec![WELCOME, r#"{"ftx":"receipt","entries":0,"stored":0,"skipped":0,"failed":0,"bytes":0}"#],
            12,
            // Unexpected, or of another number of entries than announced by then.
            "receipt",
        ),
        (
            vec![WELCOME, r#"{"ftx":"error","code":"no-space","message":"full \u001b[31m\nup"}"#],
            42,
            r"full \x1b[31m\nup",
        ),
        (vec![WELCOME, r#"{"ftx":"error","code":"refused","message":"not today"}"#], 41, "not today"),
        (vec!["[]"], 12, "not a JSON object"),
    ] {
        // Closes the connection only where the answer does not end the session.
        let (host, thread) = fake_receiver(&answer, if code == 10 { drop } else { until_closed });
        let sent = send(&["--retries", "0"], &[&file], &host);
        thread.join().unwrap();
        assert_eq!(sent.code, code, "{answer:?}: {sent:?}");
        assert!(sent.stderr.contains(line), "{answer:?}: {sent:?}");
        assert!(sent.stdout.is_empty() && !sent.stderr.contains('\u{1b}'), "{answer:?}: {sent:?}");
    }
}

/// Reads frames of a sender up to one of this kind.
fn read_until_kind(stream: &mut TcpStream, kind: &str, mut meanwhile: impl FnMut(&mut TcpStream)) {
    let mut inbox = FrameBuffer::new();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let start = Instant::now();
    loop {
        while let Some(json) = inbox.next_frame(Framing::Native).unwrap() {
            if json.starts_with(format!(r#"{{"ftx":"{kind}""#).as_bytes()) {
                return;
            }
        }
        assert!(start.elapsed() < Duration::from_secs(30), "no {kind}");
        match stream.read(inbox.space()) {
            Ok(0) => panic!("closed without {kind}"),
            Ok(count) => inbox.filled(count),
            Err(_) => meanwhile(stream),
        }
    }
}

#[test]
fn sender_sends_keepalives_while_it_receives_frames() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, NOT_UNASKED).unwrap();
    let (host, thread) = fake_receiver(&[WELCOME], |mut stream| {
        let mut busy = Vec::new();
        encode(Framing::Native, br#"{"ftx":"busy"}"#, &mut busy);
        read_until_kind(&mut stream, "busy", |stream| stream.write_all(&busy).unwrap());
    });
    assert_eq!(send(&[], &[&file], &host).code, 10);
    thread.join().unwrap();
}

#[test]
fn incomplete_frame_of_a_receiver_times_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, "bytes").unwrap();
    let (host, thread) = fake_receiver(&[WELCOME], |mut stream| {
        stream.write_all(&60_000u32.to_le_bytes()).unwrap();
        let mut written = 0;
        until("the end of the sender", || {
            written += 1;
            assert!(written < 50_000, "the frame must not be complete");
            stream.write_all(b" ").is_err()
        });
    });
    let sent = send(&["--timeout", "1"], &[&file], &host);
    thread.join().unwrap();
    assert_eq!(sent.code, 30, "{sent:?}");
    assert!(sent.stderr.contains("incomplete frame from the receiver after 1 seconds"), "{sent:?}");
}

#[test]
fn sender_reports_a_protocol_error_to_the_receiver() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, NOT_UNASKED).unwrap();
    let (host, thread) = fake_receiver(&[WELCOME, r#"{"ftx":"stored","entries":[[0,0]]}"#], |mut stream| {
        read_until_kind(&mut stream, "error", |_| {});
    });
    assert_eq!(send(&[], &[&file], &host).code, 12);
    thread.join().unwrap();
}

#[test]
fn silent_receiver_times_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, "bytes").unwrap();
    let (host, thread) = fake_receiver(&[WELCOME], |mut stream| drop(stream.read_to_end(&mut Vec::new())));
    let sent = send(&["--timeout", "1"], &[&file], &host);
    assert_eq!(sent.code, 30, "{sent:?}");
    assert!(sent.stderr.contains("no data from the receiver for 1 seconds"), "{sent:?}");
    thread.join().unwrap();
}

#[test]
fn other_services_on_the_port_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, "bytes").unwrap();
    let greeting = |bytes: &'static [u8]| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(bytes).unwrap();
            drop(stream.read_to_end(&mut Vec::new()));
        });
        let sent = send(&["--timeout", "1"], &[&file], &host);
        thread.join().unwrap();
        (host, sent)
    };
    for (bytes, shown) in [
        (&b"SSH-2.0-OpenSSH_9.6\r\n"[..], "SSH-2.0-Open"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1.1 400"),
        (b"\xff\xfd\x1b[31m", r"\xff\xfd\x1b[31m"),
    ] {
        let (host, sent) = greeting(bytes);
        assert_eq!(sent.code, 12, "{sent:?}");
        let words = format!(
            "ftx: the program at {host} is not ftx (its reply begins \"{shown}\")\n     is the port correct?\n"
        );
        assert_eq!(sent.stderr, words);
    }
    let (host, sent) = greeting(b"");
    assert_eq!(sent.code, 30, "{sent:?}");
    let words = format!(
        "ftx: no answer from {host} for 1 seconds\n     is `ftx recv` listening there, and is the port correct?"
    );
    assert!(sent.stderr.starts_with(&words), "{sent:?}");
}

#[test]
fn receiver_without_its_output_directory_reports_it() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("a"), dir.path().join("out"));
    fs::write(&file, "bytes").unwrap();
    let mut receiver = Receiver::start(&out, &[]);
    fs::remove_dir(&out).unwrap();
    let sent = send(&["--retries", "10"], &[&file], &receiver.host());
    assert_eq!(sent.code, 11, "{sent:?}");
    let words = "ftx: the receiver cannot use its folder: it was removed; nothing was stored\n";
    assert_eq!(sent.stderr, words);
    receiver.wait_for("ftx: 127.0.0.1: cannot use the folder ");
    receiver.kill();
}

#[test]
fn existing_file_is_refused_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, out) = (dir.path().join("t"), dir.path().join("out"));
    for (root, content) in [(&tree, "new"), (&out.join("t"), "old")] {
        fs::create_dir_all(root).unwrap();
        (0..3).for_each(|number| fs::write(root.join(number.to_string()), content).unwrap());
    }
    let receiver = Receiver::start(&out, &[]);
    let sent = send(&[], &[&tree], &receiver.host());
    receiver.kill();
    assert_eq!(sent.code, 23, "{sent:?}");
    let words = "start the receiver with --on-conflict overwrite to replace them, or rename to keep both";
    assert_eq!(sent.stderr.matches(words).count(), 1, "{sent:?}");
}

#[test]
fn syntax_of_other_tools_gets_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (big, photos) = (path("big.tif"), path("photos"));
    fs::write(&big, "bytes").unwrap();
    fs::create_dir(&photos).unwrap();
    for (args, code, words) in [
        (&["send", &photos, &big][..], 35, "the host comes last, ftx send PATH... HOST"),
        (&["send", &big, "127.0.0.1:"], 2, "leave the colon away"),
        (&["send", &path("nosuch"), "127.0.0.1"], 11, "nothing was sent"),
        (&["recv", "inbox"], 2, "--out inbox"),
        (&["recv", "--keep-unfinished", "0.5"], 2, "expected a whole number of days, 0 or more"),
        (&["recv", "--timeout", "9223372036854775807"], 2, "is not in 1..=86400"),
        (&["send", &big, "127.0.0.1", "--timeout", "86401"], 2, "is not in 1..=86400"),
        (&["recv", "--out", &big], 11, "big.tif is a file, not a folder\n"),
        (&["recv", "--bind", "192.0.2.1", "--out", &photos], 10, "this machine has no address 192.0.2.1\n"),
    ] {
        let ended = ftx(args);
        assert_eq!(ended.code, code, "{args:?} {ended:?}");
        assert!(ended.stderr.contains(words) && !ended.stderr.contains("os error"), "{args:?} {ended:?}");
    }
}

#[test]
fn file_that_changes_while_sent_fails_with_code_24() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, out) = (dir.path().join("t"), dir.path().join("out"));
    fs::create_dir(&tree).unwrap();
    let large = tree.join("large.img");
    make_large(&large, 4);
    fs::write(tree.join("small"), "small").unwrap();
    let receiver = Receiver::start(&out, &["--once"]);
    let sender = start_send(&[&tree], &receiver.host());
    until("bytes at the receiver", || staged_file_has_bytes(&out.join("t")));
    fs::OpenOptions::new().append(true).open(&large).unwrap().write_all(b"more").unwrap();
    let (sent, received) = (end(sender), receiver.wait());
    assert_eq!((sent.code, received.code), (24, 24), "{sent:?} {received:?}");
    assert!(sent.stderr.contains("the file changed while it was sent"), "{sent:?}");
    assert_eq!(names(&out), ["t", "t/small"]);
}

/// On a slow link the file is read and hashed long before its last byte is sent.
#[test]
fn any_change_before_the_last_byte_is_sent_is_detected() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 6] = [
        ("grown", |path| open(path).write_all_at(b"more", 16 << 20).unwrap()),
        ("shrunk", |path| open(path).set_len(13 << 20).unwrap()),
        ("rewritten where it has gone", |path| open(path).write_all_at(b"other", 100).unwrap()),
        ("rewritten where it has not gone", |path| open(path).write_all_at(b"other", 15 << 20).unwrap()),
        ("replaced", |path| {
            fs::copy(path, path.with_extension("new")).unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        }),
        ("vanished", |path| fs::remove_file(path).unwrap()),
    ];
    fn open(path: &Path) -> fs::File {
        fs::OpenOptions::new().write(true).open(path).unwrap()
    }
    for (what, change) in changes {
        let dir = tempfile::tempdir().unwrap();
        let (tree, out) = (dir.path().join("t"), dir.path().join("out"));
        fs::create_dir(&tree).unwrap();
        let large = tree.join("large.img");
        fs::write(&large, Random::new(1).bytes(2 * PART_BYTES as usize)).unwrap();
        fs::write(tree.join("small"), "small").unwrap();
        let receiver = Receiver::start(&out, &["--once"]);
        let mut changed = false;
        let proxy = Proxy::start(receiver.port, move |piece| {
            // More is left to send than socket buffers hold.
            if piece.way == Way::ToReceiver && piece.place == Place::Body && piece.bytes.len() > 5 && !changed
            {
                changed = true;
                change(&large);
            }
            Action::Pass
        });
        let sent = send(&[], &[&tree], &proxy.host());
        let received = receiver.wait();
        assert_eq!((sent.code, received.code), (24, 24), "{what}: {sent:?} {received:?}");
        assert!(sent.stderr.contains("not transferred: t/large.img: the file changed"), "{what}: {sent:?}");
        assert!(!format!("{sent:?}{received:?}").contains("damaged"), "{what}: {sent:?} {received:?}");
        assert_eq!(names(&out), ["t", "t/small"], "{what}");
    }
}

#[test]
fn full_disk_is_reported_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("small disk");
    fs::create_dir(&small).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(&small)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        return crate::common::proofs::not_run("a full disk", "needs the right to mount");
    }
    let file = dir.path().join("large.img");
    fs::write(&file, vec![7; 6 << 20]).unwrap();
    let receiver = Receiver::start(&small, &["--once"]);
    let sent = send(&[], &[&file], &receiver.host());
    let received = receiver.wait();
    let left = names(&small);
    std::process::Command::new("umount").arg(&small).status().unwrap();
    assert_eq!((sent.code, received.code), (42, 42), "{sent:?} {received:?}");
    assert!(
        sent.stderr.contains("refused by the receiver: no space left (needs 6.29 MB, 4.19 MB free)"),
        "{sent:?}"
    );
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn exit_codes_are_as_documented() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, "bytes").unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(ftx(&["--version"]).code, 0);
    for usage in [
        &["send"][..],
        &["send", file],
        &["fly"],
        &["recv", "--port", "70000"],
        &["send", file, "bob@host"],
        &["send", file, "host:/path"],
    ] {
        let ended = ftx(usage);
        assert_eq!(ended.code, 2, "{usage:?} {ended:?}");
        assert!(!ended.stderr.is_empty());
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    assert_eq!(ftx(&["send", "--retries", "0", file, &closed]).code, 35);
    let refused = ftx(&["send", "--retries", "1", file, &closed]);
    assert!(refused.code == 35 && refused.stderr.contains("trying again in"), "{refused:?}");
    assert_eq!(ftx(&["send", file, "no-such-host.invalid"]).code, 35);
    assert_eq!(ftx(&["send", "/does/not/exist", "127.0.0.1"]).code, 11);
    assert_eq!(ftx(&["recv", "--out", file]).code, 11);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let bind = ftx(&["recv", "--bind", "127.0.0.1", "--port", &port, "--out", dir.path().to_str().unwrap()]);
    assert_eq!(bind.code, 10, "{bind:?}");
    assert!(bind.stderr.contains("the port is in use"), "{bind:?}");
}

#[test]
fn classic_sender_detects_that_its_only_file_was_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("a"), dir.path().join("out"));
    fs::write(&file, "new").unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(out.join("a"), "old").unwrap();
    let receiver = Receiver::start(&out, &["--once"]);
    let sent = send(&["--classic"], &[&file], &receiver.host());
    assert_eq!(sent.code, 10, "{sent:?}");
    assert_eq!(receiver.wait().code, 23);
    assert_eq!(fs::read_to_string(out.join("a")).unwrap(), "old");
}

/// What the kernel holds for a peer that does not read, by the addresses of the connection: bytes in the send queue.
fn send_queue(from: std::net::SocketAddr, to: std::net::SocketAddr) -> u64 {
    let hex = |address: std::net::SocketAddr| {
        let std::net::IpAddr::V4(ip) = address.ip() else { panic!("IPv4") };
        // The kernel prints the four bytes as a number of this machine.
        #[allow(clippy::host_endian_bytes)]
        let number = u32::from_ne_bytes(ip.octets());
        format!("{number:08X}:{:04X}", address.port())
    };
    let (from, to) = (hex(from), hex(to));
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let line = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = line.into_iter().find(|fields| fields.len() > 4 && fields[1] == from && fields[2] == to);
    line.map_or(0, |fields| u64::from_str_radix(fields[4].split(':').next().unwrap(), 16).unwrap())
}

/// The receiver stores what it receives from a sender that does not read, until its answers are too many to be kept.
#[test]
fn a_sender_that_does_not_read_stalls_neither_verifier_nor_committer() {
    let out = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::start(out.path(), &["--timeout", "3"]);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], receiver.port)).into()).unwrap();
    let mut stream: TcpStream = socket.into();
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    let mut send_frame = |json: &str, body: &[u8]| {
        let mut bytes = Vec::new();
        encode(Framing::Native, json.as_bytes(), &mut bytes);
        stream.write_all(&[&bytes[..], body].concat())
    };
    send_frame(r#"{"ftx":"hello","version":1}"#, b"").unwrap();
    // Each of these entries is refused with a message.
    let mut entry = 0;
    let refused = |send_frame: &mut dyn FnMut(&str, &[u8]) -> std::io::Result<()>, entry: &mut u64| {
        let json = format!(r#"{{"ftx":"entry","entry":{entry},"type":"dir","filename":"../x"}}"#);
        *entry += 1;
        send_frame(&json, b"")
    };
    // Until the socket of the receiver is full: further answers do not make its queue longer.
    let mut queued = 0;
    until("a full socket", || {
        for _ in 0..500 {
            refused(&mut send_frame, &mut entry).unwrap();
        }
        std::thread::sleep(Duration::from_millis(100));
        let before = std::mem::replace(&mut queued, send_queue(remote, local));
        queued > 0 && queued == before
    });
    let full = queued;
    // Small files that are sent unasked are verified and committed all the same.
    for number in 0..3 {
        let md5 = ftx::digest::Md5::of(b"small");
        let json =
            format!(r#"{{"ftx":"entry","entry":{entry},"type":"file","filename":"{number}","size":5}}"#);
        send_frame(&json, b"").unwrap();
        let json = format!(r#"{{"ftx":"part","entry":{entry},"part":0,"size":5,"md5":"{md5}"}}"#);
        send_frame(&json, b"small").unwrap();
        entry += 1;
        until("a stored file", || names(out.path()).contains(&number.to_string()));
    }
    assert_eq!(send_queue(remote, local), full, "the sender has read nothing");
    // With too many answers to keep, the receiver reads no more, and the limit for silence ends the session.
    let start = Instant::now();
    while refused(&mut send_frame, &mut entry).is_ok() && start.elapsed() < Duration::from_secs(60) {}
    receiver.wait_for("for 3 seconds");
    assert!(start.elapsed() < Duration::from_secs(60));
    receiver.kill();
}
