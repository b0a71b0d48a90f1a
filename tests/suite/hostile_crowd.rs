//! Floods of connections: a real sender is served beside them in bounded memory, and no thread or descriptor stays behind.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::raw::Raw;
use crate::common::{Receiver, end, listing, send, start_send_with, until};
use ftx::digest::{Md5, PART_BYTES};
use ftx::wire::frame::{Framing, encode};
use ftx::wire::{FrameBuffer, Message};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use socket2::{Domain, Socket, Type};

const REFUSED: i32 = 41;
const TIMEOUT: i32 = 30;

/// The memory that a receiver may take with one session of one stream.
const BUDGET_KIB: u64 = (64 + 4) << 10;

/// Raises the soft limit of descriptors to the hard one: this process holds one end of a thousand connections. The limit
/// is that of the whole process; a higher one does not affect other tests.
fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

fn frame(json: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(Framing::Native, json.as_bytes(), &mut bytes);
    bytes
}

fn hello() -> Vec<u8> {
    frame(r#"{"ftx":"hello","version":1}"#)
}

/// A connection from one of this machine's addresses; `None` if it is not established in time.
fn connect_from(ip: [u8; 4], port: u16) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    socket.connect_timeout(&to.into(), Duration::from_secs(20)).ok()?;
    Some(socket.into())
}

/// A number from `/proc/PID/status`.
fn status(receiver: &Receiver, key: &str) -> u64 {
    let pid = receiver.pid().as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn descriptors(receiver: &Receiver) -> usize {
    fs::read_dir(format!("/proc/{}/fd", receiver.pid().as_raw_nonzero())).unwrap().count()
}

/// CPU time of a process in hundredths of a second.
fn cpu_ticks(receiver: &Receiver) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", receiver.pid().as_raw_nonzero())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Bytes that a hostile connection sends first, and bytes that it then sends one by one.
struct Behaviour {
    first: Vec<u8>,
    trickle: Vec<u8>,
}

/// The behaviour of connection `number` of a flood.
fn behaviour(number: usize) -> Behaviour {
    let sends = |first: &[u8], trickle: &[u8]| Behaviour { first: first.to_vec(), trickle: trickle.to_vec() };
    let long = 60_000u32.to_le_bytes();
    match number % 10 {
        0 => sends(b"", b""),
        1 => sends(b"", &long),
        2 => sends(&long, &b"{\"ftx\":\"hello\",".repeat(1000)),
        3 => sends(&hello()[..20], b""),
        4 => sends(&hello(), b""),
        5 => sends(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b""),
        6 => sends(b"GET / HTTP/1.1\r\n\r\n", b""),
        7 => sends(b"SSH-2.0-OpenSSH_9.6\r\n", b""),
        8 => sends(&frame(r#"{"ftx":"join","session":"00000000000000000000000000000000"}"#), b""),
        _ => sends(&hello(), &frame(r#"{"ftx":"busy"}"#).repeat(1000)),
    }
}

/// A flood of connections: its end, and the number of connections so far.
#[derive(Default)]
struct Crowd {
    over: AtomicBool,
    came: AtomicUsize,
}

impl Crowd {
    /// Keeps `size` connections from one address open; a connection that the receiver closes is opened again.
    fn keep_connections(&self, ip: [u8; 4], port: u16, size: usize) {
        let mut members: Vec<Option<(TcpStream, Behaviour, usize)>> = (0..size).map(|_| None).collect();
        while !self.over.load(Ordering::Relaxed) {
            for (number, member) in members.iter_mut().enumerate() {
                if self.over.load(Ordering::Relaxed) {
                    break;
                }
                match member {
                    None => {
                        let Some(mut stream) = connect_from(ip, port) else { continue };
                        stream.set_nonblocking(true).unwrap();
                        let behaviour = behaviour(number);
                        let _ = stream.write_all(&behaviour.first);
                        self.came.fetch_add(1, Ordering::Relaxed);
                        *member = Some((stream, behaviour, 0));
                    }
                    Some((stream, behaviour, sent)) => {
                        let mut buffer = [0; 512];
                        let is_closed = match stream.read(&mut buffer) {
                            Ok(count) => count == 0,
                            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
                        };
                        if let Some(byte) = behaviour.trickle.get(*sent) {
                            *sent += stream.write(&[*byte]).unwrap_or(0);
                        }
                        if is_closed {
                            *member = None;
                        }
                    }
                }
            }
        }
    }

    /// Connects and resets in a loop.
    fn reset(&self, ip: [u8; 4], port: u16) {
        while !self.over.load(Ordering::Relaxed) {
            if let Some(stream) = connect_from(ip, port) {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                self.came.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// The default number of retries.
const RETRIES: &[&str] = &["--retries", "10"];

#[test]
fn thousand_hostile_connections_do_not_block_a_sender() {
    raise_descriptor_limit();
    let dir = tempfile::tempdir().unwrap();
    let (tree, out) = (dir.path().join("tree"), dir.path().join("out"));
    fs::create_dir_all(tree.join("small")).unwrap();
    for number in 0..200u32 {
        fs::write(tree.join(format!("small/{number}")), number.to_le_bytes().repeat(100)).unwrap();
    }
    fs::write(tree.join("large"), vec![7; 20 << 20]).unwrap();
    let receiver = Receiver::start_limited(512, &out, &[]);
    // One transfer first, so that lazily created resources exist.
    let warm = dir.path().join("warm");
    fs::write(&warm, "warm").unwrap();
    assert_eq!(send(&[], &[&warm], &receiver.host()).code, 0);
    until("the end of the first session", || receiver.sockets() == 1);
    let (threads_before, descriptors_before) = (status(&receiver, "Threads"), descriptors(&receiver));

    let crowd = Crowd::default();
    let port = receiver.port;
    thread::scope(|scope| {
        let crowd = &crowd;
        let over = EndOnDrop(crowd);
        for last in 2..=5 {
            scope.spawn(move || crowd.keep_connections([127, 0, 0, last], port, 250));
        }
        scope.spawn(move || crowd.reset([127, 0, 0, 6], port));
        until("a thousand", || crowd.came.load(Ordering::Relaxed) >= 1000);
        let sent = send(RETRIES, &[&tree], &receiver.host());
        assert_eq!(sent.code, 0, "{sent:?}");
        drop(over);
    });
    assert_eq!(listing(&out.join("tree")), listing(&tree));
    let peak_kib = status(&receiver, "VmHWM");
    assert!(peak_kib < BUDGET_KIB, "{peak_kib} KiB of {BUDGET_KIB}, {} connections", crowd.came.into_inner());
    until("the end of all threads", || status(&receiver, "Threads") <= threads_before);
    until("the end of all connections", || descriptors(&receiver) <= descriptors_before);
    assert_eq!(send(&[], &[&warm], &receiver.host()).code, 0, "and the next one is served");
    receiver.kill();
}

struct EndOnDrop<'a>(&'a Crowd);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

#[test]
fn own_address_flood_does_not_block_the_sender() {
    raise_descriptor_limit();
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("a"), dir.path().join("out"));
    fs::write(&file, "bytes").unwrap();
    let receiver = Receiver::start(&out, &[]);
    let silent: Vec<TcpStream> = (0..300).map(|_| receiver.connect()).collect();
    let idle: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut stream = receiver.connect();
            let _ = stream.write_all(&hello());
            stream
        })
        .collect();
    let sent = send(RETRIES, &[&file], &receiver.host());
    assert_eq!(sent.code, 0, "{sent:?}");
    drop((silent, idle));
    receiver.kill();
}

/// A native session that has delivered a byte of its file and is not done.
fn active_session(receiver: &Receiver) -> TcpStream {
    let mut stream = receiver.connect();
    let mut inbox = FrameBuffer::new();
    stream.write_all(&hello()).unwrap();
    stream
        .write_all(&frame(r#"{"ftx":"entry","entry":0,"type":"file","filename":"long","size":2}"#))
        .unwrap();
    read_message(&mut stream, &mut inbox, |message| matches!(message, Message::Want { .. }));
    let part = format!(r#"{{"ftx":"part","entry":0,"part":0,"size":2,"md5":"{}"}}"#, Md5::of(b"ab"));
    stream.write_all(&[&frame(&part)[..], b"a"].concat()).unwrap();
    stream
}

fn read_message(
    stream: &mut TcpStream,
    inbox: &mut FrameBuffer,
    mut is_wanted: impl FnMut(&Message) -> bool,
) -> Message {
    loop {
        while let Some(json) = inbox.next_frame(Framing::Native).unwrap() {
            let message = Message::parse(json).unwrap();
            if is_wanted(&message) {
                return message;
            }
        }
        let count = stream.read(inbox.space()).unwrap();
        assert!(count > 0, "closed");
        inbox.filled(count);
    }
}

/// Sends `frames`, then keepalives until `is_over`. Increments `settled` once the receiver has requested the last entry or
/// has closed the session.
fn hold(mut raw: Raw, frames: &[u8], last: u64, settled: &AtomicUsize, is_over: &AtomicBool) {
    let mut way_out = raw.stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut written = way_out.write_all(frames);
            while written.is_ok() && !is_over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(100));
                written = way_out.write_all(&frame(r#"{"ftx":"busy"}"#));
            }
            let _ = way_out.shutdown(std::net::Shutdown::Both);
        });
        let asks_for_last = |message: &Message| match message {
            Message::Want { entries, .. } => entries.iter().flatten().any(|id| id == last),
            _ => false,
        };
        while raw.next_message().is_some_and(|message| !asks_for_last(&message)) {}
        settled.fetch_add(1, Ordering::Relaxed);
        while raw.next_message().is_some() {}
    });
}

/// Sends a file beside sessions that hold resources, and asserts that it arrives.
fn send_beside(receiver: &Receiver, sessions: &[Vec<u8>], last: u64) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("honest");
    fs::write(&file, vec![7; 10 << 20]).unwrap();
    let (settled, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let _over = SetOnDrop(&is_over);
        for frames in sessions {
            let raw = Raw::connect(receiver, r#"{"ftx":"hello","version":1}"#);
            let (settled, is_over) = (&settled, &is_over);
            scope.spawn(move || hold(raw, frames, last, settled, is_over));
        }
        // Without free descriptors the last sessions stay queued.
        until("all that can to be there", || {
            settled.load(Ordering::Relaxed) == sessions.len() || descriptors(receiver) >= 500
        });
        let sent = send(&["--retries", "10", "--timeout", "5"], &[&file], &receiver.host());
        assert_eq!(sent.code, 0, "{sent:?}");
    });
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn idle_sessions_that_hold_all_descriptors_are_evicted() {
    const LANDINGS: u64 = 64;
    let out = tempfile::tempdir().unwrap();
    // The smallest part of each file, which creates a staged file and a journal.
    let sessions: Vec<Vec<u8>> = (0..5)
        .map(|session| {
            let mut frames = Vec::new();
            for entry in 0..LANDINGS {
                let size = 16 * PART_BYTES + 1;
                let json = json!({
                    "ftx": "entry", "entry": entry, "type": "file", "filename": format!("{session}-{entry}"),
                    "size": size, "sparse": true, "mtime_ns": 5, "state": "ab".repeat(16),
                });
                frames.extend(frame(&json.to_string()));
            }
            for entry in 0..LANDINGS {
                let md5 = Md5::of(b"x");
                let part = format!(r#"{{"ftx":"part","entry":{entry},"part":16,"size":1,"md5":"{md5}"}}"#);
                frames.extend([&frame(&part)[..], b"x"].concat());
            }
            frames
        })
        .collect();
    let receiver = Receiver::start_limited(512, out.path(), &["--timeout", "2"]);
    send_beside(&receiver, &sessions, LANDINGS - 1);
    receiver.kill();
}

#[test]
fn sessions_that_only_announce_use_bounded_memory() {
    const ENTRIES: u64 = 16_000;
    /// For all sessions together; without a bound each takes 18 MiB. The allocator keeps some freed memory.
    const BOUND_KIB: u64 = 256 << 10;
    let out = tempfile::tempdir().unwrap();
    let mut frames = Vec::new();
    for entry in 0..ENTRIES {
        let json = format!(
            r#"{{"ftx":"entry","entry":{entry},"type":"file","filename":"{entry:0100}","size":300000}}"#
        );
        frames.extend(frame(&json));
    }
    let receiver = Receiver::start(out.path(), &[]);
    send_beside(&receiver, &vec![frames; 24], ENTRIES - 1);
    let peak_kib = status(&receiver, "VmHWM");
    assert!(peak_kib < BOUND_KIB, "{peak_kib} KiB of {BOUND_KIB}");
    receiver.kill();
}

#[test]
fn lost_sessions_hold_no_thread_and_no_connection() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("a"), dir.path().join("out"));
    fs::write(&file, "bytes").unwrap();
    let mut receiver = Receiver::start(&out, &["--count", "1000"]);
    assert_eq!(send(&[], &[&file], &receiver.host()).code, 0);
    until("the end of the first session", || receiver.sockets() == 1);
    let threads = status(&receiver, "Threads");
    for number in 0..150 {
        let hello = format!(r#"{{"ftx":"hello","version":1,"session":"{number:032x}"}}"#);
        let mut raw = Raw::connect(&receiver, &hello);
        assert!(matches!(raw.next_message(), Some(Message::Welcome(_))));
        drop(raw);
        receiver.wait_for("Waiting 30 s for the sender to reconnect");
        receiver.clear_output();
    }
    let start = Instant::now();
    until("the end of their threads", || status(&receiver, "Threads") <= threads);
    until("the end of their connections", || receiver.sockets() == 1);
    assert!(start.elapsed() < Duration::from_secs(15), "long before their senders are given up");
    assert_eq!(send(&[], &[&file], &receiver.host()).code, 0, "another session has a place");
    receiver.kill();
}

#[test]
fn evicted_session_that_does_not_read_is_closed_soon() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("a"), dir.path().join("out"));
    fs::write(&file, "bytes").unwrap();
    // With so few descriptors an address gets one slot.
    let receiver = Receiver::start_limited(60, &out, &[]);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, receiver.port)).into()).unwrap();
    let mut stream: TcpStream = socket.into();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    // Each entry is refused with a message, and no message is read: the receiver's socket buffer fills and it stops reading.
    let mut written = stream.write_all(&hello());
    let name = "x".repeat(3000);
    for entry in 0..100_000 {
        let json = format!(r#"{{"ftx":"entry","entry":{entry},"type":"dir","filename":"../{name}"}}"#);
        written = written.and_then(|()| stream.write_all(&frame(&json)));
        if written.is_err() {
            break;
        }
    }
    assert!(written.is_err(), "the receiver waits until its messages are read");
    let start = Instant::now();
    assert_eq!(send(RETRIES, &[&file], &receiver.host()).code, 0);
    until("the end of the session", || receiver.sockets() == 1);
    assert!(start.elapsed() < Duration::from_secs(20), "a third of the silence that ends a session");
    drop(stream);
    receiver.kill();
}

#[test]
fn sender_is_refused_at_capacity_and_served_later() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("a"), dir.path().join("out"));
    fs::write(&file, "bytes").unwrap();
    // With so few descriptors an address gets one slot.
    let receiver = Receiver::start_limited(60, &out, &[]);
    let busy = active_session(&receiver);
    // Until the receiver has seen the session's first bytes, it may still evict it.
    let send_once = || send(&[], &[&file], &receiver.host());
    until("the place to be taken", || send_once().code == REFUSED);
    let sent = send_once();
    assert_eq!(sent.code, REFUSED, "{sent:?}");
    assert!(sent.stderr.contains("too many connections"), "{sent:?}");
    assert!(sent.stderr.contains("send it again later"), "{sent:?}");
    let mut patient = start_send_with(RETRIES, &[&file], &receiver.host());
    let mut stderr = BufReader::new(patient.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("Trying again in") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it reports the next attempt");
    }
    drop(busy);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(end(patient).code, 0, "{rest}");
    let ended = receiver.kill_and_wait();
    assert!(ended.stderr.contains("too many connections"), "{ended:?}");
}

#[test]
fn receiver_without_descriptors_does_not_spin() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("a"), dir.path().join("out"));
    fs::write(&file, "bytes").unwrap();
    let receiver = Receiver::start_limited(64, &out, &[]);
    // A transfer first, so that the receiver is fully started.
    assert_eq!(send(&[], &[&file], &receiver.host()).code, 0);
    let limit = |current| {
        let limit = Rlimit { current: Some(current), maximum: Some(64) };
        rustix::process::prlimit(Some(receiver.pid()), Resource::Nofile, limit).unwrap();
    };
    // More descriptors are open than the limit allows: no connection can be accepted.
    limit(3);
    let crowd: Vec<TcpStream> = (0..8).map(|_| receiver.connect()).collect();
    let looks = || status(&receiver, "voluntary_ctxt_switches");
    let (looked, spent, start) = (looks(), cpu_ticks(&receiver), Instant::now());
    until("it to look again, a few times", || looks() >= looked + 5);
    let seconds = start.elapsed().as_secs_f64();
    // Each attempt waits for a connection, fails to accept it, and pauses for 200 ms.
    assert!(seconds > 0.3, "{} looks in {seconds} s", looks() - looked);
    let spent = cpu_ticks(&receiver) - spent;
    assert!(spent as f64 <= 10.0 + 20.0 * seconds, "{spent} hundredths of a second in {seconds} s");
    limit(64);
    until("a transfer", || send(&[], &[&file], &receiver.host()).code == 0);
    drop(crowd);
    receiver.kill();
}

#[test]
fn trickled_input_times_out() {
    let mut body = Vec::new();
    let header = format!(r#"{{"filename":"a","size":100000,"md5":"{}"}}"#, Md5::of(b""));
    encode(Framing::Classic, header.as_bytes(), &mut body);
    let unfinished = "incomplete frame from the sender after 1 seconds";
    for (first, trickle, line, is_session) in [
        (&60_000u32.to_le_bytes()[..], b" ", unfinished, false),
        (&frame(r#"{"ftx":"hello","version":1}"#)[..20], b" ", unfinished, false),
        (&body, b"x", "a body arrived at less than 10 bytes per second for 5 seconds", true),
    ] {
        let out = tempfile::tempdir().unwrap();
        let mut receiver = Receiver::start(out.path(), &["--once", "--timeout", "1"]);
        let mut stream = receiver.connect();
        stream.write_all(first).unwrap();
        until("the end of the connection", || {
            let _ = stream.write(trickle);
            // Five bytes a second: below the minimum rate, and never silent.
            thread::sleep(Duration::from_millis(200));
            receiver.has_printed(line)
        });
        // A connection without a session does not count for `--once`.
        if is_session {
            let ended = receiver.wait();
            assert_eq!(ended.code, TIMEOUT, "{line}: {ended:?}");
        } else {
            receiver.kill();
        }
    }
}

/// A classic sender cannot be told that it was evicted, so its session keeps its slot from the first byte of a body on.
#[test]
fn classic_sessions_without_a_body_do_not_keep_their_slots() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("a"), dir.path().join("out"));
    fs::write(&file, "bytes").unwrap();
    // So few descriptors that there are two slots, one for each address.
    let receiver = Receiver::start_limited(60, &out, &[]);
    let header = format!(r#"{{"filename":"b","size":2,"md5":"{}"}}"#, Md5::of(b"ab"));
    let mut first_frame = Vec::new();
    encode(Framing::Classic, header.as_bytes(), &mut first_frame);
    let held = [[127, 0, 0, 1], [127, 0, 0, 2]].map(|ip| {
        let mut stream = connect_from(ip, receiver.port).unwrap();
        stream.write_all(&first_frame).unwrap();
        stream
    });
    until("the staged files of both", || fs::read_dir(&out).unwrap().count() == 2);
    let start = Instant::now();
    let sent = send(RETRIES, &[&file], &receiver.host());
    assert_eq!(sent.code, 0, "{sent:?}");
    assert!(start.elapsed() < Duration::from_secs(30), "half of the silence that ends a session");
    drop(held);
    receiver.kill();
}

/// Names of the threads of a process, sorted.
fn thread_names(receiver: &Receiver) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", receiver.pid().as_raw_nonzero())).unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    let mut names: Vec<String> = names.map(|name| name.trim_end().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn an_idle_session_has_four_threads_and_each_further_connection_one() {
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(out.path(), &[]);
    let session = "ab".repeat(16);
    let mut expected = vec!["committer", "session", "verifier", "writer"];
    let without_session = |names: Vec<String>| -> Vec<String> {
        let own = ["committer", "session", "stream", "verifier", "writer"];
        names.into_iter().filter(|name| own.contains(&name.as_str())).collect()
    };
    let threads = || without_session(thread_names(&receiver));
    let others = || status(&receiver, "Threads") as usize - threads().len();
    until("the threads of the receiver", || others() >= 4);
    let others_before = others();
    let hello = format!(r#"{{"ftx":"hello","version":1,"features":["streams"],"session":"{session}"}}"#);
    let mut raw = Raw::connect(&receiver, &hello);
    assert!(matches!(raw.next_message(), Some(Message::Welcome(_))));
    until("the threads of the session", || threads() == expected);
    let joined = [(); 2].map(|()| {
        let raw = Raw::connect(&receiver, &format!(r#"{{"ftx":"join","session":"{session}"}}"#));
        expected.insert(2, "stream");
        until("one more thread", || threads() == expected);
        raw
    });
    // No thread without one of these names either.
    assert!(others() <= others_before, "{:?}", thread_names(&receiver));
    drop((raw, joined));
    receiver.kill();
}
