//! **Promised: Ctrl-C and SIGTERM end either side within a second** with exit code 130 or 143: the other side is notified,
//! stored files stay and are counted, and no final name holds an incomplete file. A second Ctrl-C ends at once.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::proofs::{assert_absent_or_complete, contents, is_staged, not_run};
use crate::common::{Ended, FTX, Receiver, end, names, pid, send, until};
use ftx::digest::PART_BYTES;
use ftx::wire::frame::{Framing, encode};
use rustix::process::{Pid, Signal, kill_process};

/// The signals and their exit codes.
const BOTH: [(Signal, i32); 2] = [(Signal::INT, 130), (Signal::TERM, 143)];

/// The promise is one second; the rest allows for a loaded machine.
const IN_TIME: Duration = Duration::from_millis(2500);

/// `ftx` with default signal handling, also if the tests run in the background.
fn ftx() -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=INT,TERM", FTX]);
    command
}

fn receiver(out: &Path, args: &[&str]) -> Receiver {
    // Files of an earlier round would look like the start of this one.
    let _ = fs::remove_dir_all(out);
    Receiver::spawn(ftx(), "127.0.0.1", out, args)
}

fn start_send(args: &[&str], path: &Path, host: &str) -> Child {
    let mut command = ftx();
    command.arg("send").args(args).arg(path).arg(host);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Sends a signal and asserts that the program ends in time.
fn ended_by(signal: Signal, code: i32, child: Child) -> Ended {
    let start = Instant::now();
    kill_process(pid(&child), signal).unwrap();
    let ended = end(child);
    check(start, code, &ended);
    ended
}

fn receiver_ended_by(signal: Signal, code: i32, receiver: Receiver) -> Ended {
    let start = Instant::now();
    kill_process(receiver.pid(), signal).unwrap();
    let ended = receiver.wait();
    check(start, code, &ended);
    ended
}

fn check(start: Instant, code: i32, ended: &Ended) {
    assert!(start.elapsed() < IN_TIME, "it took {:?}: {ended:?}", start.elapsed());
    assert_eq!(ended.code, code, "{ended:?}");
    assert!(!ended.stderr.contains("panicked") && !ended.stderr.contains("ended without"), "{ended:?}");
}

/// A file that is quick to make and long to send: one byte of data in every part, holes around it.
fn large_file(dir: &Path) -> PathBuf {
    let path = dir.join("large.img");
    let file = fs::File::create(&path).unwrap();
    file.set_len(32 << 30).unwrap();
    for part in 0..(32 << 30) / PART_BYTES {
        file.write_all_at(b"x", part * PART_BYTES + 5).unwrap();
    }
    path
}

fn small_files(dir: &Path, count: usize) -> PathBuf {
    let tree = dir.join("t");
    for number in 0..count {
        let folder = tree.join(format!("{}", number / 500));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(number.to_string()), number.to_string().repeat(50)).unwrap();
    }
    tree
}

fn frames(json: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    json.iter().for_each(|json| encode(Framing::Native, json.as_bytes(), &mut bytes));
    bytes
}

const WELCOME: &str = r#"{"ftx":"welcome","version":1}"#;
const WANT: &str = r#"{"ftx":"want","entries":[[0,0]],"parts":"all"}"#;

/// Sends `welcome`, and `want` once the file is announced.
fn want(peer: &mut TcpStream) {
    peer.write_all(&frames(&[WELCOME])).unwrap();
    read_until(peer, r#""ftx":"entry""#);
    peer.write_all(&frames(&[WANT])).unwrap();
    read_until(peer, r#""ftx":"part""#);
}

/// Reads up to `words` and not beyond, so that the next call sees what follows.
fn read_until(stream: &mut TcpStream, words: &str) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 1]);
    while !bytes.ends_with(words.as_bytes()) {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "closed before {words}: {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buffer[..count]);
    }
}

#[test]
fn signal_ends_a_sender_whose_peer_never_answers() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, "bytes").unwrap();
    let silent = |peer: &mut TcpStream| read_until(peer, "hello");
    let welcome = |peer: &mut TcpStream| {
        peer.write_all(&frames(&[WELCOME])).unwrap();
        read_until(peer, r#""ftx":"end""#);
    };
    for (signal, code) in BOTH {
        for answer in [silent, welcome, want] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let host = listener.local_addr().unwrap().to_string();
            let sender = start_send(&[], &file, &host);
            let mut peer = listener.accept().unwrap().0;
            answer(&mut peer);
            let ended = ended_by(signal, code, sender);
            let words = format!(
                "ftx: interrupted. 0 of 1 file is stored at {host}; send the same again to resume.\n"
            );
            // Without an answer the sender may not have looked for files yet.
            let nothing = format!("ftx: interrupted. Nothing was sent to {host} yet.\n");
            assert!([words, nothing].contains(&ended.stderr) && ended.stdout.is_empty(), "{ended:?}");
            read_until(
                &mut peer,
                r#"{"ftx":"error","code":"interrupted","message":"the sender was interrupted"}"#,
            );
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sender = start_send(&["--classic"], &file, &listener.local_addr().unwrap().to_string());
        let mut peer = listener.accept().unwrap().0;
        // The sender waits for this end to close.
        read_until(&mut peer, "bytes");
        let ended = ended_by(signal, code, sender);
        assert!(ended.stderr.contains("was sent to"), "{ended:?}");
    }
}

/// The state of a connection to `port`, as proc_net_tcp(5) of `process` has it: 2 is SYN_SENT.
fn is_connecting(port: u16) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(2).is_some_and(|remote| remote.ends_with(&format!(":{port:04X}"))) && words[3] == "02"
    })
}

#[test]
fn signal_ends_a_sender_that_is_connecting() {
    use socket2::{Domain, Socket, Type};
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, "bytes").unwrap();
    // The accept queue is full.
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap();
    let port = addr.as_socket().unwrap().port();
    let mut queue = Vec::new();
    while !is_connecting(port) {
        let one = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        one.set_nonblocking(true).unwrap();
        let _ = one.connect(&addr);
        queue.push(one);
        assert!(queue.len() < 100, "the queue never fills");
    }
    // Only the sender's own connection may count from here on.
    queue.retain(|one| one.peer_addr().is_ok());
    until("the queue to hold", || !is_connecting(port));
    for (signal, code) in BOTH {
        let sender = start_send(&[], &file, &format!("127.0.0.1:{port}"));
        until("the sender to connect", || is_connecting(port));
        let ended = ended_by(signal, code, sender);
        assert_eq!(ended.stderr, "ftx: interrupted before connecting: nothing was sent\n");
        until("its connection to be gone", || !is_connecting(port));
    }
}

#[test]
fn signal_ends_a_sender_between_attempts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, "bytes").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut sender = start_send(&["--retries", "1000"], &file, &closed);
    let mut line = [0; 12];
    sender.stderr.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"The receiver");
    ended_by(Signal::INT, 130, sender);
}

#[test]
fn signal_ends_a_sender_whose_resolver_does_not_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (file, conf) = (dir.path().join("a"), dir.path().join("resolv.conf"));
    fs::write(&file, "bytes").unwrap();
    fs::write(&conf, "nameserver 127.0.0.1\noptions timeout:30 attempts:3\n").unwrap();
    // A network namespace with a DNS server that does not answer.
    let python = "import fcntl, os, socket, struct, sys
taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
# SIOCSIFFLAGS: lo, up and running
fcntl.ioctl(taken, 0x8914, struct.pack('16sh14x', b'lo', 0x41))
taken.bind(('127.0.0.1', 53))
taken.set_inheritable(True)
os.execvp(sys.argv[1], sys.argv[1:])";
    let script = "mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "sh", "-c", script, "sh"]).arg(&conf).args(["python3", "-c", python]);
    command.args(["env", "--default-signal=INT,TERM", FTX, "send"]).arg(&file).arg("some-host.example");
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut sender) = spawned else { return not_run("a resolver that hangs", "needs unshare") };
    // The query is sent: a socket is connected to port 53 (0x35).
    let asks = format!("/proc/{}/net/udp", sender.id());
    let has_asked = || {
        let table = fs::read_to_string(&asks).unwrap_or_default();
        table
            .lines()
            .any(|line| line.split_whitespace().nth(2).is_some_and(|remote| remote.ends_with(":0035")))
    };
    let mut failed = false;
    until("the question", || {
        failed = sender.try_wait().unwrap().is_some();
        failed || has_asked()
    });
    if failed {
        return not_run("a resolver that hangs", "needs the right to create a network namespace");
    }
    ended_by(Signal::INT, 130, sender);
}

#[test]
fn signal_ends_a_sender_blocked_in_a_body() {
    let dir = tempfile::tempdir().unwrap();
    let file = large_file(dir.path());
    for (signal, code) in BOTH {
        for args in [&[][..], &["--classic"]] {
            // The classic dialect hashes the file first, which would take too long for the large one.
            let file = if args.is_empty() { file.clone() } else { dir.path().join("medium") };
            if !args.is_empty() {
                fs::write(&file, vec![7; 64 << 20]).unwrap();
            }
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let sender = start_send(args, &file, &listener.local_addr().unwrap().to_string());
            let mut peer = listener.accept().unwrap().0;
            if args.is_empty() {
                want(&mut peer);
            } else {
                read_until(&mut peer, "filename");
            }
            // Nothing is read: the socket buffers fill.
            until("a full connection", || {
                let waiting = fs::read_to_string("/proc/net/tcp").unwrap();
                let port = format!(":{:04X}", peer.peer_addr().unwrap().port());
                waiting.lines().any(|line| {
                    let words: Vec<&str> = line.split_whitespace().collect();
                    // The sender's end, with unsent bytes in its buffer.
                    words.get(1).is_some_and(|local| local.ends_with(&port))
                        && u64::from_str_radix(words[4].split(':').next().unwrap(), 16).unwrap() > 100_000
                })
            });
            ended_by(signal, code, sender);
            drop(peer);
        }
    }
}

fn staged_file_has_bytes(out: &Path) -> bool {
    let Ok(entries) = fs::read_dir(out) else { return false };
    entries.flatten().any(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 0))
}

#[test]
fn interrupted_sender_notifies_its_receiver() {
    let dir = tempfile::tempdir().unwrap();
    let file = large_file(dir.path());
    for (signal, code) in BOTH {
        for streams in [&[][..], &["--streams", "3"]] {
            let out = dir.path().join("out");
            let receiver = receiver(&out, &["--once"]);
            let sender = start_send(streams, &file, &receiver.host());
            until("bytes at the receiver", || staged_file_has_bytes(&out));
            let sent = ended_by(signal, code, sender);
            assert!(sent.stderr.contains("interrupted. 0 of 1 file is stored at"), "{sent:?}");
            let received = receiver.wait();
            assert_eq!(received.code, 10, "{received:?}");
            let words = "ftx: 127.0.0.1 was interrupted; complete files are stored\n";
            assert!(received.stderr.ends_with(words), "{received:?}");
            assert!(!out.join("large.img").exists());
        }
    }
}

#[test]
fn interrupted_receiver_notifies_its_sender() {
    let dir = tempfile::tempdir().unwrap();
    let file = large_file(dir.path());
    for (signal, code) in BOTH {
        for args in [&[][..], &["--once"], &["--count", "3"]] {
            let out = dir.path().join("out");
            let receiver = receiver(&out, args);
            let sender = start_send(&[], &file, &receiver.host());
            until("bytes at the receiver", || staged_file_has_bytes(&out));
            let received = receiver_ended_by(signal, code, receiver);
            assert!(received.stderr.contains("ftx: interrupted. 0 files were stored in"), "{received:?}");
            let sent = end(sender);
            assert_eq!(sent.code, 10, "{sent:?}");
            assert!(!received.stderr.contains("the receiver was interrupted"), "{received:?}");
            let words = "ftx: the receiver was interrupted\n     send the same again to resume: ";
            assert!(sent.stderr.contains(words), "{sent:?}");
            assert!(!out.join("large.img").exists());
        }
    }
}

/// The number of files in the last line.
fn counted(stderr: &str) -> usize {
    let line = stderr.lines().find_map(|line| line.strip_prefix("ftx: interrupted. ")).unwrap();
    line.split(' ').next().unwrap().replace(',', "").parse().unwrap()
}

/// Whether any file has its final name.
fn has_a_file(out: &Path) -> bool {
    let entries = walkdir::WalkDir::new(out).into_iter().flatten();
    let mut files = entries.filter(|entry| entry.file_type().is_file());
    files.any(|entry| !is_staged(&entry.file_name().to_string_lossy()))
}

fn files_in(out: &Path) -> usize {
    contents(out).values().filter(|what| what.contains("bytes")).count()
}

#[test]
fn interrupted_small_files_are_absent_or_complete() {
    // In memory: on a disk a single sync may take longer than a second.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let tree = small_files(dir.path(), 20_000);
    let mut whole = contents(&tree);
    whole = whole.into_iter().map(|(name, what)| (format!("t/{name}"), what)).collect();
    whole.insert("t".into(), "folder".into());
    let mut cut = 0;
    for (side, (signal, code)) in
        ["sender", "receiver"].into_iter().flat_map(|side| BOTH.map(|both| (side, both)))
    {
        let out = dir.path().join(format!("out-{side}-{code}"));
        let receiving = receiver(&out, &[]);
        let sender = start_send(&[], &tree, &receiving.host());
        until("the first files", || has_a_file(&out));
        let stored = if side == "sender" {
            kill_process(pid(&sender), signal).unwrap();
            let sent = end(sender);
            if sent.code == 0 {
                // The transfer ended before the signal.
                continue;
            }
            assert_eq!(sent.code, code, "{sent:?}");
            let ended = receiver_ended_by(Signal::TERM, 143, receiving);
            assert!(ended.stderr.contains("127.0.0.1 was interrupted"), "{ended:?}");
            counted(&sent.stderr)
        } else {
            let received = receiver_ended_by(signal, code, receiving);
            let sent = end(sender);
            if sent.code == 0 {
                continue;
            }
            assert_eq!(sent.code, 10, "{sent:?} {received:?}");
            assert_eq!(counted(&received.stderr), files_in(&out), "{received:?}");
            counted(&received.stderr)
        };
        cut += 1;
        assert_eq!(assert_absent_or_complete(&out, &whole, &(side, code)), 0, "staged files are left");
        assert!(stored > 0 && stored <= files_in(&out), "{stored} of {}", files_in(&out));
        let again = receiver(&out, &["--once"]);
        assert_eq!(send(&[], &[&tree], &again.host()).code, 0);
        assert_eq!(again.wait().code, 0);
        assert_eq!(contents(&out), whole);
    }
    assert!(cut > 0, "every transfer was faster than this test");
}

#[test]
fn interrupted_receiver_counts_existing_files_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (out, tree) = (dir.path().join("out"), small_files(dir.path(), 60));
    let receiver = receiver(&out, &[]);
    for _ in 0..2 {
        assert_eq!(end(start_send(&[], &tree, &receiver.host())).code, 0);
    }
    let ended = receiver_ended_by(BOTH[0].0, BOTH[0].1, receiver);
    let words =
        format!("ftx: interrupted. 60 files were stored in {}, 60 skipped as identical.\n", out.display());
    assert!(ended.stderr.ends_with(&words), "{ended:?}");
}

#[test]
fn signal_ends_an_idle_receiver_and_quiet_prints_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for (signal, code) in BOTH {
        for args in [&[][..], &["--once"], &["--count", "7"]] {
            let receiver = receiver(&dir.path().join("out"), args);
            // An open connection is not a session yet.
            let _silent = receiver.connect();
            let ended = receiver_ended_by(signal, code, receiver);
            let words =
                format!("ftx: interrupted. 0 files were stored in {}.\n", dir.path().join("out").display());
            assert!(ended.stderr.ends_with(&words), "{ended:?}");
        }
    }
    let mut command = ftx();
    command.args(["recv", "--bind", "127.0.0.1", "--port", "0", "--quiet", "--out"]).arg(dir.path());
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let listens = format!("/proc/{}/fd", quiet.id());
    until("the receiver to listen", || {
        let links = fs::read_dir(&listens).into_iter().flatten().flatten();
        links
            .filter_map(|link| fs::read_link(link.path()).ok())
            .any(|to| to.to_string_lossy().contains("socket:"))
    });
    assert_eq!(ended_by(Signal::TERM, 143, quiet).stderr, "");
}

#[test]
fn signal_resets_classic_connections() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    for (signal, code) in BOTH {
        let receiver = receiver(&out, &[]);
        let mut sender = receiver.connect();
        let header = format!(r#"{{"filename":"half","size":1000000,"md5":"{}"}}"#, "0".repeat(32));
        sender.write_all(&(header.len() as u32).to_le_bytes()).unwrap();
        sender.write_all(header.as_bytes()).unwrap();
        sender.write_all(&[7; 300_000]).unwrap();
        until("its bytes", || staged_file_has_bytes(&out));
        receiver_ended_by(signal, code, receiver);
        assert!(sender.read(&mut [0; 1]).is_err(), "a reset is all that such a sender can notice");
        assert_eq!(names(&out), Vec::<String>::new());
    }
}

/// A full pipe without a reader.
fn full_pipe() -> (impl AsFd, Stdio) {
    let (out, into) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    rustix::io::ioctl_fionbio(&into, true).unwrap();
    while rustix::io::write(&into, &[b'\n'; 4096]).is_ok() {}
    while rustix::io::write(&into, b"\n").is_ok() {}
    rustix::io::ioctl_fionbio(&into, false).unwrap();
    (out, Stdio::from(into))
}

/// A sender that blocks when it prints its last line, because its output is a full pipe.
fn stuck_sender(file: &Path) -> (Child, TcpStream, impl AsFd) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (unread, stderr) = full_pipe();
    let mut command = ftx();
    command.arg("send").arg(file).arg(listener.local_addr().unwrap().to_string());
    let sender = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
    let mut peer = listener.accept().unwrap().0;
    read_until(&mut peer, "hello");
    (sender, peer, unread)
}

#[test]
fn stuck_sender_ends_in_time_and_at_once_on_a_second_signal() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, "bytes").unwrap();
    for (signal, code) in BOTH {
        let (mut sender, _peer, _unread) = stuck_sender(&file);
        let start = Instant::now();
        kill_process(pid(&sender), signal).unwrap();
        let ended = crate::common::wait(&mut sender);
        let alone = start.elapsed();
        assert!(ended == code && alone < IN_TIME, "{ended} after {alone:?}");
        let (mut sender, _peer, _unread) = stuck_sender(&file);
        let start = Instant::now();
        kill_process(pid(&sender), signal).unwrap();
        until("the end", || {
            let ended = sender.try_wait().unwrap();
            if ended.is_none() {
                kill_process(pid(&sender), signal).unwrap();
            }
            ended.is_some()
        });
        let twice = start.elapsed();
        assert!(twice < alone, "{twice:?} with two signals, {alone:?} with one");
        assert_eq!(sender.wait().unwrap().code(), Some(code));
    }
}

#[test]
fn signal_ignored_at_start_stays_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("a"), dir.path().join("out"));
    fs::write(&file, "bytes").unwrap();
    let mut command = Command::new("env");
    command.args(["--ignore-signal=INT", "--default-signal=TERM", FTX]);
    let receiver = Receiver::spawn(command, "127.0.0.1", &out, &[]);
    kill_process(receiver.pid(), Signal::INT).unwrap();
    assert_eq!(send(&[], &[&file], &receiver.host()).code, 0);
    receiver_ended_by(Signal::TERM, 143, receiver);
}

/// Whether the process is stopped, see proc_pid_stat(5).
fn is_stopped(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
    stat.rsplit(')').next().unwrap().starts_with(" T")
}

#[test]
fn transfer_continues_after_stop_and_cont() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, "bytes").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sender = start_send(&[], &file, &listener.local_addr().unwrap().to_string());
    let mut peer = listener.accept().unwrap().0;
    read_until(&mut peer, "hello");
    for _ in 0..3 {
        kill_process(pid(&sender), Signal::STOP).unwrap();
        until("the stop", || is_stopped(pid(&sender)));
        kill_process(pid(&sender), Signal::CONT).unwrap();
        until("the continuation", || !is_stopped(pid(&sender)));
    }
    want(&mut peer);
    ended_by(Signal::INT, 130, sender);
}

#[test]
fn interrupted_bench_and_demo_remove_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let working = |at: &Path| {
        walkdir::WalkDir::new(at).into_iter().flatten().any(|entry| {
            entry.file_type().is_file() && entry.metadata().is_ok_and(|metadata| metadata.len() > 0)
        })
    };
    for (signal, code) in BOTH {
        let mut bench = ftx();
        bench.args(["bench", "--size", "1G", "--dir"]).arg(at);
        let mut demo = ftx();
        demo.arg("demo").env("TMPDIR", at);
        for mut command in [bench, demo] {
            let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let child = child.spawn().unwrap();
            until("something to do", || working(at));
            let start = Instant::now();
            kill_process(pid(&child), signal).unwrap();
            let ended = end(child);
            // The files are removed even if a slow disk delays the end.
            assert!(start.elapsed() < IN_TIME && ended.code == code, "{:?}: {ended:?}", start.elapsed());
            assert!(ended.stderr.contains("ftx: interrupted.\n"), "{ended:?}");
            assert_eq!(names(at), Vec::<String>::new());
        }
    }
}

#[test]
fn interrupted_receiver_notifies_a_benchmark() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = receiver(&dir.path().join("out"), &[]);
    let mut bench = ftx();
    bench.args(["bench", &receiver.host(), "--progress", "always", "--dir"]).arg(dir.path());
    let mut bench = bench.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Once the progress bar of the network stage is shown, bytes are sent for about a second.
    let (mut seen, mut byte) = (String::new(), [0]);
    let stderr = bench.stderr.as_mut().unwrap();
    while !seen.contains("wire") && stderr.read(&mut byte).unwrap() == 1 {
        seen.push(char::from(byte[0]));
    }
    let received = receiver_ended_by(Signal::INT, 130, receiver);
    let ended = end(bench);
    assert_eq!(ended.code, 10, "{ended:?} {received:?}");
    assert!(ended.stderr.contains("the receiver was interrupted"), "{ended:?}");
}
