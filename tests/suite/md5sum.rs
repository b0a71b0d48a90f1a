//! `--md5sum` and `--manifest`: both ends list what `md5sum` prints.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{Ended, FTX, Receiver, ftx, names, send};

const PART: u64 = 8 << 20;

fn pseudo_random(bytes: u64, seed: u32) -> Vec<u8> {
    (0..bytes as u32).map(|n| ((n ^ seed).wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Files of all relevant sizes and names.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("sub")).unwrap();
    for (name, bytes) in [
        ("empty", 0),
        ("small", 5),
        ("medium", 300_000),
        ("one part", PART),
        ("a byte more", PART + 1),
        ("sub/three parts", 20 << 20),
        ("sub/other three", 20 << 20),
    ] {
        fs::write(root.join(name), pseudo_random(bytes, name.len() as u32)).unwrap();
    }
    for (name, bytes) in [("sparse", 40 << 20), ("a hole of one part", PART), ("only a hole", 17 << 20)] {
        File::create(root.join(name)).unwrap().set_len(bytes).unwrap();
    }
    File::options().write(true).open(root.join("sparse")).unwrap().write_all_at(b"data", 30 << 20).unwrap();
    for name in [&b"new\nline"[..], b"carriage\rreturn", b"back\\slash", b"caf\xe9", b" space", b"*star"] {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }
}

/// The lines that the real `md5sum` prints for every file below `root`, sorted.
fn md5sum(root: &Path) -> Vec<Vec<u8>> {
    let files = walkdir::WalkDir::new(root).into_iter().map(Result::unwrap);
    let files: Vec<PathBuf> = files
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| entry.path().strip_prefix(root).unwrap().to_owned())
        .collect();
    let output = Command::new("md5sum").current_dir(root).arg("--").args(&files).output().unwrap();
    assert!(output.status.success());
    sorted(&output.stdout)
}

fn sorted(list: &[u8]) -> Vec<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = list.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    lines.sort();
    lines
}

fn shown(lines: &[Vec<u8>]) -> String {
    lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect()
}

/// Asserts that a list has the expected lines in any order.
fn assert_lists(list: &[u8], expected: &[Vec<u8>], what: &str) {
    let lines = sorted(list);
    assert!(lines == expected, "{what}:\n{}instead of\n{}", shown(&lines), shown(expected));
}

/// Asserts that `md5sum -c` accepts the list in `folder`.
fn assert_checks(list: &[u8], folder: &Path) {
    let mut child = Command::new("md5sum")
        .args(["--check", "--strict", "--quiet"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(list).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?} for {}", String::from_utf8_lossy(list));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn lists_of_both_ends_equal_those_of_md5sum() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let (senders, receivers) = (dir.path().join("here.md5"), dir.path().join("there.md5"));
    make_tree(&from.join("t"));
    // Two identical files and a different one exist.
    fs::create_dir_all(to.join("t/sub")).unwrap();
    for same in ["t/small", "t/a byte more", "t/only a hole"] {
        fs::copy(from.join(same), to.join(same)).unwrap();
    }
    for other in ["t/medium", "t/sub/other three"] {
        fs::write(to.join(other), "different").unwrap();
    }
    let args = ["--count", "2", "--allow-odd-names", "--md5sum", "--manifest", text(&receivers)];
    let receiver = Receiver::start(&to, &args);
    let send = || send(&["--md5sum", "--manifest", text(&senders)], &[&from.join("t")], &receiver.host());
    let sent = send();
    assert_eq!(sent.code, 23, "{sent:?}");
    assert!(sent.stderr.contains("checked by MD5"), "the closing line makes way: {}", sent.stderr);
    let mut expected = md5sum(&from);
    expected.retain(|line| !line.ends_with(b"t/medium\n") && !line.ends_with(b"t/sub/other three\n"));
    assert_eq!(expected.len(), 14);
    assert_lists(&sent.stdout_bytes, &expected, "the sender's output");
    assert_lists(&fs::read(&senders).unwrap(), &expected, "the sender's manifest");
    // Now all of them are identical.
    for other in ["t/medium", "t/sub/other three"] {
        fs::copy(from.join(other), to.join(other)).unwrap();
    }
    let again = send();
    assert_eq!(again.code, 0, "{again:?}");
    assert_lists(&again.stdout_bytes, &md5sum(&from), "the sender's second output");
    assert_lists(&fs::read(&senders).unwrap(), &md5sum(&from), "the sender's second manifest");
    let received = receiver.wait();
    assert_eq!(received.code, 23, "{received:?}");
    let mut both = [expected, md5sum(&to)].concat();
    both.sort();
    assert_lists(&received.stdout_bytes, &both, "the receiver's output");
    assert_lists(&fs::read(&receivers).unwrap(), &both, "the receiver's manifest");
    for list in [&fs::read(&senders).unwrap(), &fs::read(&receivers).unwrap()] {
        assert_checks(list, &to);
        assert_checks(list, &from);
    }
    assert_eq!(names(dir.path()).iter().filter(|name| name.contains(".ftx-")).count(), 0);
}

#[test]
fn without_a_list_nothing_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let (file, to) = (dir.path().join("a"), dir.path().join("to"));
    fs::write(&file, "bytes").unwrap();
    let receiver = Receiver::start(&to, &["--once"]);
    let sent = send(&[], &[&file], &receiver.host());
    let received = receiver.wait();
    assert_eq!(
        (sent.stdout.lines().count(), received.stdout.lines().count()),
        (1, 1),
        "{sent:?} {received:?}"
    );
    assert!(sent.stdout.starts_with("Sent 1 file"), "{sent:?}");
}

#[test]
fn receiver_lists_the_name_under_which_a_file_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (file, to) = (dir.path().join("a.img"), dir.path().join("to"));
    fs::create_dir(&to).unwrap();
    fs::write(to.join("a.img"), "another file").unwrap();
    for (number, classic, bytes) in [(1, false, 10), (2, false, 2 * PART), (3, true, 10)] {
        fs::write(&file, pseudo_random(bytes, number)).unwrap();
        let receiver = Receiver::start(&to, &["--once", "--md5sum", "--on-conflict", "rename"]);
        let sent = send(if classic { &["--classic"] } else { &[] }, &[&file], &receiver.host());
        assert_eq!(sent.code, 0, "{sent:?}");
        let received = receiver.wait();
        assert!(received.stdout.ends_with(&format!("  a ({number}).img\n")), "{received:?}");
        assert_eq!(received.stdout.lines().count(), 1);
        assert_checks(&received.stdout_bytes, &to);
    }
}

#[test]
fn classic_senders_and_receivers_have_lists_too() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let (senders, receivers) = (dir.path().join("here.md5"), dir.path().join("there.md5"));
    fs::create_dir(&from).unwrap();
    for (name, bytes) in [("a", 0), ("b", 100), ("c", PART), ("d", 20 << 20)] {
        fs::write(from.join(name), pseudo_random(bytes, 7)).unwrap();
    }
    let files: Vec<PathBuf> = ["a", "b", "c", "d"].iter().map(|name| from.join(name)).collect();
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    for (how, sessions) in [("--classic", "1"), ("--classic=each", "4")] {
        let _ = fs::remove_dir_all(&to);
        let _ = fs::remove_file(&receivers);
        let args = ["--count", sessions, "--md5sum", "--manifest", text(&receivers)];
        let receiver = Receiver::start(&to, &args);
        let sent = send(&[how, "--md5sum", "--manifest", text(&senders)], &files, &receiver.host());
        let received = receiver.wait();
        assert_eq!((sent.code, received.code), (0, 0), "{sent:?} {received:?}");
        for (what, list) in [
            ("sent", &sent.stdout_bytes),
            ("received", &received.stdout_bytes),
            ("here", &fs::read(&senders).unwrap()),
            ("there", &fs::read(&receivers).unwrap()),
        ] {
            assert_lists(list, &md5sum(&from), what);
            assert_checks(list, &to);
        }
    }
}

#[test]
fn file_refused_in_the_classic_dialect_is_not_listed() {
    let dir = tempfile::tempdir().unwrap();
    let (file, to, list) = (dir.path().join("a"), dir.path().join("to"), dir.path().join("list"));
    fs::create_dir(&to).unwrap();
    fs::write(&file, pseudo_random(5 << 20, 1)).unwrap();
    fs::write(to.join("a"), "different").unwrap();
    let receiver = Receiver::start(&to, &["--once", "--md5sum", "--manifest", text(&list)]);
    let sent = send(&["--classic=each", "--md5sum"], &[&file], &receiver.host());
    let received = receiver.wait();
    assert_ne!(received.code, 0);
    assert_eq!((sent.stdout.as_str(), received.stdout.as_str()), ("", ""), "{sent:?} {received:?}");
    assert_eq!(fs::read_to_string(list).unwrap(), "");
}

#[test]
fn concurrent_and_later_sessions_append_to_one_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let (to, list) = (dir.path().join("to"), dir.path().join("list.md5"));
    let files: Vec<PathBuf> = (0..6).map(|number| dir.path().join(format!("file {number}"))).collect();
    for (number, file) in (0..).zip(&files) {
        fs::write(file, pseudo_random(3 * PART + u64::from(number), number)).unwrap();
    }
    let receiver = Receiver::start(&to, &["--count", "5", "--manifest", text(&list)]);
    let children: Vec<_> =
        files[..5].iter().map(|file| crate::common::start_send(&[file], &receiver.host())).collect();
    for child in children {
        assert_eq!(crate::common::end(child).code, 0);
    }
    assert_eq!(receiver.wait().code, 0);
    assert_lists(&fs::read(&list).unwrap(), &md5sum(&to), "five at the same time");
    // A restarted receiver appends to the same list.
    let receiver = Receiver::start(&to, &["--once", "--manifest", text(&list)]);
    assert_eq!(send(&[], &[&files[5]], &receiver.host()).code, 0);
    assert_eq!(receiver.wait().code, 0);
    assert_lists(&fs::read(&list).unwrap(), &md5sum(&to), "and one more");
}

#[test]
fn files_stored_before_a_lost_connection_are_in_the_receivers_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let (to, list) = (dir.path().join("to"), dir.path().join("list.md5"));
    let receiver = Receiver::start(&to, &["--once", "--md5sum", "--manifest", text(&list)]);
    let mut peer = receiver.connect();
    let header = |name: &str, size: usize, md5: &str| {
        let json = format!(r#"{{"filename":"{name}","size":{size},"md5":"{md5}"}}"#);
        [&(json.len() as u32).to_le_bytes()[..], json.as_bytes()].concat()
    };
    peer.write_all(&header("abc", 3, "900150983cd24fb0d6963f7d28e17f72")).unwrap();
    peer.write_all(b"abc").unwrap();
    peer.write_all(&header("cut", 1000, "900150983cd24fb0d6963f7d28e17f72")).unwrap();
    peer.write_all(b"cut").unwrap();
    drop(peer);
    let received = receiver.wait();
    assert_eq!(received.code, 10, "{received:?}");
    assert_eq!(received.stdout, "900150983cd24fb0d6963f7d28e17f72  abc\n");
    assert_eq!(fs::read_to_string(list).unwrap(), received.stdout);
}

#[test]
fn unwritable_manifest_is_reported_before_the_transfer() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, "bytes").unwrap();
    // A connection would be pending here.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let host = listener.local_addr().unwrap().to_string();
    for bad in [dir.path(), &dir.path().join("no such folder/list"), Path::new("/dev/null")] {
        let sent = send(&["--manifest", text(bad)], &[&file], &host);
        assert_eq!(sent.code, 11, "{sent:?}");
        assert!(sent.stderr.starts_with("ftx: cannot write the list "), "{sent:?}");
        let out = dir.path().join("out");
        let received = ftx(&["recv", "--port", "0", "--out", text(&out), "--manifest", text(bad)]);
        assert_eq!(received.code, 11, "{received:?}");
        assert!(received.stderr.starts_with("ftx: cannot write the list "), "{received:?}");
    }
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(names(dir.path()), ["a"], "nothing is left of the tries");
}

#[test]
fn senders_manifest_is_replaced_only_by_a_complete_session() {
    let dir = tempfile::tempdir().unwrap();
    let (file, list) = (dir.path().join("a"), dir.path().join("list"));
    fs::write(&file, "bytes").unwrap();
    fs::write(&list, "of last week\n").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let sent = send(&["--retries", "0", "--manifest", text(&list)], &[&file], &closed);
    assert_eq!(sent.code, 35, "{sent:?}");
    assert!(sent.stderr.contains("the list was not written"), "{sent:?}");
    assert_eq!(fs::read_to_string(&list).unwrap(), "of last week\n");
    let receiver = Receiver::start(&dir.path().join("to"), &["--count", "2"]);
    assert_eq!(send(&["--manifest", text(&list)], &[&file], &receiver.host()).code, 0);
    assert_checks(&fs::read(&list).unwrap(), dir.path());
    // A session that stored nothing has an empty list.
    fs::write(&file, "other").unwrap();
    assert_eq!(send(&["--manifest", text(&list)], &[&file], &receiver.host()).code, 23);
    assert_eq!(fs::read_to_string(&list).unwrap(), "");
    receiver.wait();
}

#[test]
fn manifest_may_be_inside_the_sent_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("t"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::write(from.join("a"), "a").unwrap();
    let list = from.join("list.md5");
    let receiver = Receiver::start(&to, &["--count", "2", "--on-conflict", "overwrite"]);
    let first = send(&["--manifest", text(&list)], &[&from], &receiver.host());
    assert_eq!(first.code, 0, "{first:?}");
    assert_eq!(names(&to), ["t", "t/a"], "the list was not there yet");
    assert_lists(&fs::read(&list).unwrap(), &md5sum(&to), "the first list");
    let old = fs::read(&list).unwrap();
    let second = send(&["--manifest", text(&list)], &[&from], &receiver.host());
    assert_eq!(second.code, 0, "{second:?}");
    assert_eq!(
        fs::read(to.join("t/list.md5")).unwrap(),
        old,
        "the list that was there is a file like others"
    );
    assert_lists(&fs::read(&list).unwrap(), &md5sum(&to), "the second list");
    assert_eq!(names(&from), ["a", "list.md5"]);
    receiver.wait();
}

/// Runs `ftx send --md5sum` with standard output going to `stdout`.
fn send_into(stdout: Stdio, path: &Path, host: &str) -> Ended {
    let mut command = Command::new(FTX);
    command.args(["send", "--md5sum"]).arg(path).arg(host).stdout(stdout).stderr(Stdio::piped());
    crate::common::end(command.spawn().unwrap())
}

#[test]
fn closed_pipe_is_ignored_and_a_full_disk_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("t"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    for number in 0..300 {
        fs::write(from.join(number.to_string()), number.to_string()).unwrap();
    }
    let receiver = Receiver::start(&to, &["--count", "2"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let sent = send_into(writer.into(), &from, &receiver.host());
    assert_eq!(sent.code, 0, "{sent:?}");
    assert_eq!(sent.stderr.lines().count(), 1, "only the closing line: {}", sent.stderr);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let sent = send_into(full.into(), &from, &receiver.host());
    assert_eq!(sent.code, 11, "{sent:?}");
    assert!(sent.stderr.contains("cannot write the list to standard output"), "{sent:?}");
    assert_eq!(sent.stderr.lines().count(), 2, "it is reported once: {}", sent.stderr);
    receiver.wait();
    assert_eq!(names(&to).len(), 301, "the transfer is not to blame");
}

#[test]
fn slow_reader_gets_every_line() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("t"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    // More than a pipe holds.
    let name = |number: u32| format!("{number:04} {}", "x".repeat(100));
    for number in 0..2500 {
        fs::write(from.join(name(number)), name(number)).unwrap();
    }
    let receiver = Receiver::start(&to, &["--once"]);
    let mut child = crate::common::start_send_with(&["--md5sum"], &[&from], &receiver.host());
    // Files arrive while nothing is read.
    crate::common::until("files", || names(&to).len() > 1000);
    let mut list = Vec::new();
    let stdout = child.stdout.take().unwrap();
    std::io::copy(&mut BufReader::new(stdout), &mut list).unwrap();
    assert_eq!(crate::common::end(child).code, 0);
    assert_eq!(receiver.wait().code, 0);
    assert_lists(&list, &md5sum(&to), "what was read late");
}

#[test]
fn source_that_changes_before_it_is_hashed_is_not_listed() {
    let dir = tempfile::tempdir().unwrap();
    let (file, list) = (dir.path().join("a.img"), dir.path().join("list"));
    // Fast to send and slow to hash.
    let hole = File::create(&file).unwrap();
    hole.set_len(3 << 30).unwrap();
    let receiver = Receiver::start(&dir.path().join("to"), &["--once"]);
    let mut child =
        crate::common::start_send_with(&["--md5sum", "--manifest", text(&list)], &[&file], &receiver.host());
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("hashing the remaining"), "{line}");
    hole.write_all_at(b"x", 0).unwrap();
    std::io::copy(&mut stderr, &mut std::io::sink()).unwrap();
    let sent = crate::common::end(child);
    assert_eq!((sent.code, sent.stdout.as_str()), (24, ""), "{sent:?}");
    assert_eq!(fs::read_to_string(list).unwrap(), "");
    assert_eq!(receiver.wait().code, 0, "what arrived is whole");
}
