//! Whole transfers between real processes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::common::{Receiver, ftx, listing, names, send};

/// A tree with every supported type of entry.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::create_dir_all(root.join("empty folder/deeper")).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("one"), "1").unwrap();
    fs::write(root.join("a/name with spaces.txt"), "spaces").unwrap();
    fs::write(root.join("a/b/Ünïcödé 写真 👩‍👩‍👧.jpg"), "any script").unwrap();
    fs::write(root.join("a/b/back\\slash"), "fine here").unwrap();
    fs::write(root.join("a/b/c").join(OsStr::from_bytes(b"caf\xe9.txt")), "not UTF-8").unwrap();
    fs::write(root.join("-rf"), "a name like an option").unwrap();
    // Sizes around one part, and several parts.
    for bytes in [(8 << 20) - 1, 8 << 20, (8 << 20) + 1, 20 << 20] {
        let content: Vec<u8> = (0..bytes).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        fs::write(root.join(format!("a/{bytes}.img")), content).unwrap();
    }
    for number in 0..500 {
        fs::write(root.join(format!("a/b/c/{number}")), format!("file {number}").repeat(number)).unwrap();
    }
    symlink("../one", root.join("a/link")).unwrap();
    symlink("nowhere", root.join("a/dangling")).unwrap();
    symlink("b/c", root.join("a/link to a folder")).unwrap();
    fs::set_permissions(root.join("one"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o400)).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    File::open(root.join("one")).unwrap().set_modified(old).unwrap();
    for folder in ["a/b/c", "a/b", "a", "empty folder"] {
        File::open(root.join(folder))
            .unwrap()
            .set_modified(old - Duration::from_secs(folder.len() as u64))
            .unwrap();
    }
    fs::set_permissions(root.join("empty folder/deeper"), fs::Permissions::from_mode(0o500)).unwrap();
}

#[test]
fn tree_arrives_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    make_tree(&from.join("tree"));
    let receiver = Receiver::start(&to, &["--once"]);
    let sent = send(&[], &[&from.join("tree")], &receiver.host());
    let received = receiver.wait();
    assert_eq!((sent.code, received.code), (0, 0), "{sent:?} {received:?}");
    assert_eq!(listing(&to), listing(&from));
    assert!(sent.stdout.contains("Checked by MD5, durable at the receiver"), "{sent:?}");
    assert!(received.stdout.contains("Received 511 files"), "{received:?}");
    assert!(sent.stderr.is_empty(), "nothing to complain about: {}", sent.stderr);
}

#[test]
fn existing_files_are_compared_and_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    make_tree(&from.join("tree"));
    let receiver = Receiver::start(&to, &["--count", "2"]);
    assert_eq!(send(&[], &[&from.join("tree")], &receiver.host()).code, 0);
    let again = send(&[], &[&from.join("tree")], &receiver.host());
    assert_eq!(again.code, 0, "{again:?}");
    assert!(again.stdout.starts_with("Nothing to send to 127.0.0.1"), "{again:?}");
    assert!(again.stdout.contains(" but folders and links: 511 files ("), "{again:?}");
    assert!(again.stdout.contains(" identical, skipped. Checked by MD5"), "{again:?}");
    assert_eq!(receiver.wait().code, 0);
    assert_eq!(listing(&to), listing(&from));
}

#[test]
fn several_paths_are_stored_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir_all(from.join("d")).unwrap();
    fs::write(from.join("d/x"), "x").unwrap();
    fs::write(from.join("y"), "y").unwrap();
    symlink("../y", from.join("d/link")).unwrap();
    let receiver = Receiver::start(&to, &["--once"]);
    let sent = send(&[], &[&from.join("d"), &from.join("y")], &receiver.host());
    assert_eq!((sent.code, receiver.wait().code), (0, 0), "{sent:?}");
    assert_eq!(listing(&to), listing(&from), "a link from one to the other stays a link");
}

#[test]
fn ipv6_and_names_of_hosts_work() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a");
    fs::write(&file, "bytes").unwrap();
    let six = Receiver::start_on("::1", &dir.path().join("six"), &["--once"]);
    assert_eq!(send(&[], &[&file], &format!("[::1]:{}", six.port)).code, 0);
    assert_eq!(six.wait().code, 0);
    let all = Receiver::start_on("::", &dir.path().join("all"), &["--count", "2"]);
    assert_eq!(send(&[], &[&file], &format!("localhost:{}", all.port)).code, 0);
    assert_eq!(send(&["--port", &all.port.to_string()], &[&file], "127.0.0.1").code, 0);
    assert_eq!(all.wait().code, 0);
}

#[test]
fn each_conflict_policy_works_as_documented() {
    // (policy, exit code for an identical file, exit code for a different file, files in the end)
    for (policy, same, other, left) in [
        ("skip-same", 0, 23, vec![("a.txt", "old")]),
        ("overwrite", 0, 0, vec![("a.txt", "new")]),
        ("rename", 0, 0, vec![("a (1).txt", "new"), ("a.txt", "old")]),
        ("error", 23, 23, vec![("a.txt", "old")]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (file, to) = (dir.path().join("a.txt"), dir.path().join("to"));
        fs::create_dir(&to).unwrap();
        fs::write(to.join("a.txt"), "old").unwrap();
        let receiver = Receiver::start(&to, &["--count", "2", "--on-conflict", policy]);
        fs::write(&file, "old").unwrap();
        assert_eq!(send(&[], &[&file], &receiver.host()).code, same, "{policy}");
        fs::write(&file, "new").unwrap();
        let sent = send(&[], &[&file], &receiver.host());
        assert_eq!(sent.code, other, "{policy}: {sent:?}");
        assert_eq!(sent.stderr.contains("with that name exists"), other != 0, "{sent:?}");
        assert_eq!(receiver.wait().code, if same != 0 { same } else { other }, "{policy}");
        let actual: Vec<_> = names(&to)
            .into_iter()
            .map(|name| (name.clone(), fs::read_to_string(to.join(name)).unwrap()))
            .collect();
        let left: Vec<_> =
            left.into_iter().map(|(name, content)| (name.to_owned(), content.to_owned())).collect();
        assert_eq!(actual, left, "{policy}");
    }
}

#[test]
fn one_different_file_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("t"), dir.path().join("to"));
    fs::create_dir_all(&from).unwrap();
    fs::create_dir_all(to.join("t/is a folder")).unwrap();
    for name in ["different size", "same size!", "fine", "is a folder"] {
        fs::write(from.join(name), "new bytes").unwrap();
    }
    fs::write(to.join("t/different size"), "old").unwrap();
    fs::write(to.join("t/same size!"), "old bytes").unwrap();
    let receiver = Receiver::start(&to, &["--once"]);
    let sent = send(&[], &[&from], &receiver.host());
    let received = receiver.wait();
    assert_eq!((sent.code, received.code), (23, 23), "{sent:?} {received:?}");
    assert!(sent.stdout.contains("3 entries were NOT transferred"), "{sent:?}");
    assert_eq!(
        sent.stderr.lines().filter(|line| line.starts_with("not transferred: ")).count(),
        3,
        "one line each: {}",
        sent.stderr
    );
    assert_eq!(fs::read_to_string(to.join("t/fine")).unwrap(), "new bytes");
    assert_eq!(fs::read_to_string(to.join("t/different size")).unwrap(), "old");
    assert_eq!(fs::read_to_string(to.join("t/same size!")).unwrap(), "old bytes");
    assert_eq!(names(&to).len(), 5, "no staged file is left: {:?}", names(&to));
}

#[test]
fn special_files_are_reported_and_never_opened() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("t"), dir.path().join("to"));
    fs::create_dir_all(&from).unwrap();
    fs::write(from.join("fine"), "fine").unwrap();
    symlink("/etc/passwd", from.join("absolute")).unwrap();
    symlink("../../outside", from.join("outside")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, from.join("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    let receiver = Receiver::start(&to, &["--once"]);
    let sent = send(&[], &[&from], &receiver.host());
    assert_eq!(sent.code, 23, "{sent:?}");
    for name in ["absolute", "outside", "fifo", "socket"] {
        assert!(sent.stderr.lines().any(|line| line.contains(name)), "{name} in {}", sent.stderr);
    }
    assert_eq!(names(&to), ["t", "t/fine"]);
    drop(receiver);
}

#[test]
fn odd_names_need_allow_odd_names() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("t");
    fs::create_dir_all(&from).unwrap();
    for odd in ["new\nline", "escape\u{1b}[31m", "c1\u{9b}x", "bidi\u{202e}gpj.exe"] {
        fs::write(from.join(odd), "odd").unwrap();
    }
    fs::write(from.join("fine"), "fine").unwrap();
    for (args, code) in [(vec!["--once"], 23), (vec!["--once", "--allow-odd-names"], 0)] {
        let to = dir.path().join(format!("to {code}"));
        let receiver = Receiver::start(&to, &args);
        let sent = send(&[], &[&from], &receiver.host());
        let received = receiver.wait();
        assert_eq!((sent.code, received.code), (code, code), "{sent:?} {received:?}");
        assert_eq!(names(&to.join("t")).len(), if code == 0 { 5 } else { 1 });
        for output in [&sent.stderr, &received.stderr] {
            assert!(!output.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "shown escaped: {output:?}");
        }
    }
}

#[test]
fn many_senders_are_served_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    let receiver = Receiver::start(&to, &["--count", "8"]);
    // A silent peer must not take the slot of a sender.
    let _idle = receiver.connect();
    let children: Vec<_> = (0..8)
        .map(|number| {
            let file = dir.path().join(format!("file {number}"));
            fs::write(&file, vec![number; 3 << 20]).unwrap();
            crate::common::start_send(&[&file], &receiver.host())
        })
        .collect();
    for child in children {
        assert_eq!(crate::common::end(child).code, 0);
    }
    drop(_idle);
    assert_eq!(receiver.wait().code, 0);
    assert_eq!(names(&to).len(), 8);
}

#[test]
fn demo_shows_a_verified_transfer_and_removes_its_files() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("a");
    fs::write(&file, "bytes").unwrap();
    let output = std::process::Command::new(crate::common::FTX)
        .arg("demo")
        .arg(&file)
        .env("TMPDIR", temp.path())
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}");
    assert!(stdout.contains("Received 1 file (5 B)") && stdout.contains("Sent 1 file (5 B)"), "{stdout}");
    assert_eq!(names(temp.path()), ["a"], "nothing is left but what was there");
    assert_eq!(ftx(&["demo", "/does/not/exist"]).code, 11);
}

/// A file of `size` with bytes at its start, in its middle and at its end.
fn make_sparse(path: &Path, size: u64) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (offset, bytes) in [(0, 3 << 20), (size / 2 + 4097, 100_000), (size - 5000, 5000)] {
        let noise: Vec<u8> =
            (0..bytes).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 23) as u8 | 1).collect();
        file.write_all_at(&noise, offset).unwrap();
    }
}

#[test]
fn holes_arrive_and_are_compared_as_holes() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    let size = 40_000_000_001;
    make_sparse(&from.join("a.img"), size);
    File::create(from.join("only a hole")).unwrap().set_len(16 << 20).unwrap();
    let receiver = Receiver::start(&to, &["--count", "3"]);
    let sent = send(&[], &[&from], &receiver.host());
    assert_eq!(sent.code, 0, "{sent:?}");
    assert!(sent.stdout.contains("of holes were not transferred"), "{sent:?}");
    let landed = to.join("from/a.img");
    let (copy, original) = (fs::metadata(&landed).unwrap(), fs::metadata(from.join("a.img")).unwrap());
    assert_eq!(copy.len(), size);
    assert!(copy.blocks() <= original.blocks() + 64, "{} blocks of {}", copy.blocks(), original.blocks());
    let (a, b) = (File::open(from.join("a.img")).unwrap(), File::open(&landed).unwrap());
    for offset in [0, (4 << 20) - 100, size / 2 - 100_000, size / 2 + 50_000, size - 300_000] {
        let (mut x, mut y) = (vec![0; 200_000], vec![1; 200_000]);
        a.read_exact_at(&mut x, offset).unwrap();
        b.read_exact_at(&mut y, offset).unwrap();
        assert!(x == y, "at {offset}");
    }
    let again = send(&[], &[&from], &receiver.host());
    assert_eq!(again.code, 0, "{again:?}");
    assert!(again.stdout.contains(" 2 files (40.02 GB) identical, skipped."), "{again:?}");
    // One byte within a hole.
    File::options().write(true).open(&landed).unwrap().write_all_at(b"x", 30_000_000_000).unwrap();
    assert_eq!(send(&[], &[&from], &receiver.host()).code, 23);
    drop(receiver);
}

#[test]
fn existing_directory_keeps_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("private"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::write(from.join("new"), "new").unwrap();
    fs::set_permissions(&from, fs::Permissions::from_mode(0o777)).unwrap();
    fs::create_dir_all(to.join("private")).unwrap();
    fs::set_permissions(to.join("private"), fs::Permissions::from_mode(0o700)).unwrap();
    let receiver = Receiver::start(&to, &["--once"]);
    assert_eq!(send(&[], &[&from], &receiver.host()).code, 0);
    assert_eq!(receiver.wait().code, 0);
    assert_eq!(fs::metadata(to.join("private")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(names(&to), ["private", "private/new"]);
}

#[test]
fn thousands_of_files_and_folders_need_few_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("t"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    for number in 0..1500 {
        fs::write(from.join(number.to_string()), "small").unwrap();
    }
    for number in 0..200 {
        fs::write(from.join(format!("larger {number}")), vec![7; 200_000]).unwrap();
    }
    // Each in a directory of its own.
    for number in 0..700 {
        let folder = from.join(format!("folder {number}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("one"), "small").unwrap();
    }
    // Twice: the second run compares with the stored files.
    let receiver = Receiver::start_limited(100, &to, &["--count", "2"]);
    for _ in 0..2 {
        let sent = send(&[], &[&from], &receiver.host());
        assert_eq!(sent.code, 0, "{sent:?}");
    }
    assert_eq!(receiver.wait().code, 0);
    assert_eq!(listing(&to.join("t")), listing(&from));
}

#[test]
fn a_log_that_cannot_be_written_does_not_fail_a_transfer() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("t"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::write(from.join("fine"), "fine").unwrap();
    symlink("/etc/passwd", from.join("left out")).unwrap();
    let receiver = Receiver::start(&to, &["--once"]);
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let status = std::process::Command::new(crate::common::FTX)
        .arg("send")
        .arg(&from)
        .arg(receiver.host())
        .stdout(full())
        .stderr(full())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(23));
    assert_eq!(receiver.wait().code, 0, "what it was offered, it has");
}
