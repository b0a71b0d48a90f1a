//! `tests/second/peer.py` was written from `docs/protocol.md` alone and exchanges files with the real program in both
//! directions, which shows that the document is complete and correct.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, SystemTime};

use ftx::digest::Md5;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use walkdir::WalkDir;

/// A process that takes longer is killed.
const LIMIT: Duration = Duration::from_secs(60);
const BIG_BYTES: usize = 20 << 20;

/// A process under a watchdog, with the first line of its output.
struct Watched {
    child: Child,
    stdout: BufReader<Box<dyn Read>>,
    stderr: BufReader<Box<dyn Read>>,
    /// Dropping it stops the watchdog.
    _over: Sender<()>,
}

/// How a process ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Watched {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let pid = Pid::from_child(&child);
        let (over, ended) = mpsc::channel();
        thread::spawn(move || {
            if ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
                // It may have ended already.
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        let stdout: Box<dyn Read> = Box::new(child.stdout.take().expect("piped"));
        let stderr: Box<dyn Read> = Box::new(child.stderr.take().expect("piped"));
        Watched { child, stdout: BufReader::new(stdout), stderr: BufReader::new(stderr), _over: over }
    }

    /// Waits for the end. The outputs fit into a pipe, so one stream can be read after the other.
    fn end(mut self) -> Ended {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        self.stdout.read_to_end(&mut stdout).expect("its output");
        self.stderr.read_to_end(&mut stderr).expect("its errors");
        let code = self.child.wait().expect("its end").code();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ended { code, stdout: text(stdout), stderr: text(stderr) }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // The process still runs only if the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn first_line(stream: &mut impl BufRead) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).expect("a first line");
    line
}

/// `ftx recv`, listening, and its port.
fn ftx_recv(out: &Path) -> (Watched, u16) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftx"));
    command.args(["recv", "--bind", "127.0.0.1", "--port", "0", "--once", "--out"]).arg(out);
    let mut recv = Watched::start(&mut command);
    let line = first_line(&mut recv.stderr);
    let port = line.strip_prefix("Listening on 127.0.0.1:").and_then(|rest| rest.split('.').next());
    let port = port.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("no port in {line:?}"));
    (recv, port)
}

fn ftx_send(path: &Path, port: u16) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftx"));
    command.env("XDG_STATE_HOME", env!("CARGO_TARGET_TMPDIR"));
    Watched::start(command.arg("send").arg(path).arg(format!("127.0.0.1:{port}"))).end()
}

fn peer(words: &[&str]) -> Command {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/second/peer.py");
    let mut command = Command::new("python3");
    command.arg("-B").arg(program).args(words);
    command
}

/// The second implementation, listening, and its port.
fn peer_recv(words: &[&str], out: &Path) -> (Watched, u16) {
    let mut recv = Watched::start(peer(&["recv"]).args(words).arg(out));
    let line = first_line(&mut recv.stdout);
    let port = line.trim_end().parse().unwrap_or_else(|_| panic!("no port in {line:?}"));
    (recv, port)
}

fn peer_send(words: &[&str], path: &Path, port: u16) -> Ended {
    Watched::start(peer(&["send"]).args(words).arg(port.to_string()).arg(path)).end()
}

/// The second implementation sends `path` to ftx, which stores it in `out`.
fn to_ftx(words: &[&str], path: &Path, out: &Path) -> (Ended, Ended) {
    let (recv, port) = ftx_recv(out);
    let sent = peer_send(words, path, port);
    both_fine(sent, recv.end())
}

/// ftx sends `path` to the second implementation, which stores it in `out`.
fn from_ftx(words: &[&str], path: &Path, out: &Path) -> (Ended, Ended) {
    let (recv, port) = peer_recv(words, out);
    let sent = ftx_send(path, port);
    both_fine(sent, recv.end())
}

fn both_fine(sent: Ended, received: Ended) -> (Ended, Ended) {
    assert!(sent.code == Some(0) && received.code == Some(0), "sender: {sent:#?}\nreceiver: {received:#?}");
    (sent, received)
}

/// A tree's entries: names, types, bytes, modes, times.
fn snapshot(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    for entry in WalkDir::new(root).min_depth(1) {
        let entry = entry.expect("a readable tree");
        let metadata = entry.metadata().expect("metadata");
        let mode = metadata.mode() & 0o7777;
        let what = if metadata.is_symlink() {
            format!("link to {:?}", fs::read_link(entry.path()).expect("a target"))
        } else if metadata.is_dir() {
            format!("folder, {mode:o}")
        } else {
            let bytes = fs::read(entry.path()).expect("bytes");
            format!("file, {mode:o}, {} bytes, {}", bytes.len(), Md5::of(&bytes))
        };
        let name = entry.path().strip_prefix(root).expect("below the root").as_os_str().as_bytes().to_vec();
        found.insert(name, format!("{what}, {}.{:09}", metadata.mtime(), metadata.mtime_nsec()));
    }
    found
}

/// Bytes that differ from part to part.
fn big() -> Vec<u8> {
    (0..BIG_BYTES as u32 / 4).flat_map(|index| index.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

fn write(path: &Path, bytes: &[u8], mode: u32) {
    fs::write(path, bytes).expect("a file written");
    touch(path, mode);
}

/// Sets the mode, and an old time with nanoseconds.
fn touch(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000 + u64::from(mode), 123_456_789);
    File::open(path).and_then(|file| file.set_modified(time)).expect("a time");
}

/// A temporary directory with `from` for the source and an empty `to`.
fn work_dir() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder to work in");
    fs::create_dir(dir.path().join("from")).expect("a folder");
    fs::create_dir(dir.path().join("to")).expect("a folder");
    dir
}

/// Creates a tree with an entry of each kind in `from/tree`.
fn everything(from: &Path) {
    let tree = from.join("tree");
    fs::create_dir_all(tree.join("sub/empty folder")).expect("folders");
    write(&tree.join("empty"), b"", 0o600);
    write(&tree.join("three"), b"abc", 0o644);
    write(&tree.join("big"), &big(), 0o755);
    write(&tree.join("ä ö.txt"), b"umlauts", 0o640);
    write(&tree.join(OsStr::from_bytes(b"caf\xe9.txt")), b"not UTF-8", 0o644);
    write(&tree.join("sub/read-only"), b"r", 0o444);
    symlink("../three", tree.join("sub/link")).expect("a link");
    symlink(OsStr::from_bytes(b"nowhere\xff"), tree.join("sub/dangling")).expect("a link");
    touch(&tree.join("sub/empty folder"), 0o700);
    touch(&tree.join("sub"), 0o750);
    touch(&tree, 0o755);
}

#[test]
fn second_implementation_sends_to_ftx() {
    let dir = work_dir();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    everything(&from);
    let (sent, _) = to_ftx(&[], &from.join("tree"), &to);
    assert!(sent.stdout.contains("receipt: 11 entries, 11 stored, 0 skipped, 0 failed"), "{sent:#?}");
    assert_eq!(snapshot(&from), snapshot(&to));
}

#[test]
fn ftx_sends_to_the_second_implementation() {
    let dir = work_dir();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    everything(&from);
    let (_, received) = from_ftx(&[], &from.join("tree"), &to);
    assert!(received.stdout.contains("receipt: 11 entries, 11 stored, 0 skipped, 0 failed"), "{received:#?}");
    assert_eq!(snapshot(&from), snapshot(&to));
}

#[test]
fn parts_can_be_wanted_by_runs() {
    let dir = work_dir();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    everything(&from);
    from_ftx(&["--runs"], &from.join("tree"), &to);
    assert_eq!(snapshot(&from), snapshot(&to));
}

#[test]
fn ftx_sends_a_part_again_when_it_is_asked_to() {
    let dir = work_dir();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    write(&from.join("big"), &big(), 0o644);
    let (sent, received) = from_ftx(&["--again", "1"], &from.join("big"), &to);
    assert!(received.stdout.contains("asked again for part 0 of entry 0"), "{received:#?}");
    assert!(sent.stderr.contains("big: part 0 arrived damaged and is fetched again"), "{sent:#?}");
    assert_eq!(snapshot(&from), snapshot(&to));
}

#[test]
fn ftx_asks_again_for_a_part_that_arrived_damaged() {
    let dir = work_dir();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    write(&from.join("big"), &big(), 0o644);
    let (sent, received) = to_ftx(&["--damage", "1"], &from.join("big"), &to);
    assert!(sent.stdout.contains("damaged part 0 of entry 0"), "{sent:#?}");
    assert!(sent.stdout.contains("again part 0 of entry 0"), "{sent:#?}");
    assert!(received.stderr.contains("big: part 0 arrived damaged and is fetched again"), "{received:#?}");
    assert_eq!(snapshot(&from), snapshot(&to));
}

#[test]
fn a_part_damaged_three_times_fails_its_file_only() {
    let dir = work_dir();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(from.join("tree")).expect("a folder");
    write(&from.join("tree/a"), b"unlucky", 0o644);
    write(&from.join("tree/b"), b"lucky", 0o644);
    let (recv, port) = ftx_recv(&to);
    let sent = peer_send(&["--damage", "3", "--only-entry", "0"], &from.join("tree"), port);
    let received = recv.end();
    assert_eq!((sent.code, received.code), (Some(0), Some(40)), "{sent:#?}\n{received:#?}");
    assert!(sent.stdout.contains("entry 0 failed: digest"), "{sent:#?}");
    assert!(sent.stdout.contains("receipt: 3 entries, 2 stored, 0 skipped, 1 failed"), "{sent:#?}");
    assert_eq!(fs::read_dir(to.join("tree")).expect("the folder").count(), 1, "nothing but the lucky one");
    assert_eq!(fs::read(to.join("tree/b")).expect("the lucky one"), b"lucky");
}

#[test]
fn existing_files_are_compared_by_offers_in_both_directions() {
    let dir = work_dir();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    everything(&from);
    let tree = from.join("tree");
    to_ftx(&[], &tree, &to);
    fs::remove_file(to.join("tree/three")).expect("one file less");
    let (sent, _) = to_ftx(&[], &tree, &to);
    assert!(sent.stdout.contains("receipt: 11 entries, 11 stored, 5 skipped, 0 failed"), "{sent:#?}");
    for link in ["tree/sub/link", "tree/sub/dangling", "tree/three"] {
        fs::remove_file(to.join(link)).expect("one entry less");
    }
    let (_, received) = from_ftx(&[], &tree, &to);
    assert!(received.stdout.contains("receipt: 11 entries, 11 stored, 5 skipped, 0 failed"), "{received:#?}");
    assert_eq!(snapshot(&from), snapshot(&to));
}

#[test]
fn differing_files_are_found_by_offers_and_left_alone() {
    let dir = work_dir();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    write(&from.join("big"), &big(), 0o644);
    let mut other = big();
    other[BIG_BYTES - 1] ^= 1;
    write(&to.join("big"), &other, 0o644);
    let (recv, port) = ftx_recv(&to);
    let sent = peer_send(&[], &from.join("big"), port);
    assert_eq!(recv.end().code, Some(23), "{sent:#?}");
    assert!(sent.stdout.contains("entry 0 failed: exists"), "{sent:#?}");
    let (recv, port) = peer_recv(&[], &to);
    let sent = ftx_send(&from.join("big"), port);
    assert_eq!((sent.code, recv.end().code), (Some(23), Some(0)), "{sent:#?}");
    assert!(fs::read(to.join("big")).expect("the file that was there") == other, "it is as it was");
}

#[test]
fn etags_are_compared_in_both_directions() {
    let dir = work_dir();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    write(&from.join("big"), &big(), 0o644);
    let etag = {
        let parts: Vec<[u8; 16]> = big().chunks(8 << 20).map(|part| *Md5::of(part).as_bytes()).collect();
        format!("{}-{}", Md5::of(parts.as_flattened()), parts.len())
    };
    let (sent, _) = to_ftx(&[], &from.join("big"), &to);
    assert!(sent.stdout.contains(&format!("etag of entry 0: {etag}")), "{sent:#?}");
    let (sent, _) = to_ftx(&[], &from.join("big"), &to);
    assert!(sent.stdout.contains(&format!("etag of entry 0: {etag}")), "of a file that was there: {sent:#?}");
    fs::remove_file(to.join("big")).expect("one file less");
    let (recv, port) = peer_recv(&["--lie"], &to);
    let sent = ftx_send(&from.join("big"), port);
    assert_eq!(sent.code, Some(40), "{sent:#?}");
    assert!(sent.stderr.contains("big: the receiver stored different content"), "{sent:#?}");
    assert!(sent.stderr.contains(&etag), "{sent:#?}");
    drop(recv);
}

#[test]
fn a_cut_file_is_resumed_and_its_kept_parts_are_compared() {
    let dir = work_dir();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    write(&from.join("big"), &big(), 0o644);
    let (recv, port) = ftx_recv(&to);
    let sent = peer_send(&["--cut", "2"], &from.join("big"), port);
    assert_eq!(sent.code, Some(1), "{sent:#?}");
    assert_ne!(recv.end().code, Some(0));
    let (sent, received) = to_ftx(&[], &from.join("big"), &to);
    assert!(sent.stdout.contains("kept 2 parts of entry 0 from part 0 on"), "{sent:#?}");
    assert!(sent.stdout.contains("etag of entry 0: "), "all of it is known: {sent:#?}");
    assert!(received.stderr.contains("big"), "{received:#?}");
    assert_eq!(snapshot(&from), snapshot(&to));
}
