//! Errors of the receiver's file system are reported at both ends with a clear message and a stable code, before the first
//! byte where possible. The rest of the transfer continues.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::mounted::Mounted;
use crate::common::proofs::{can_trace, not_run};
use crate::common::proxy::{Action, Place, Proxy};
use crate::common::raw::Raw;
use crate::common::{Ended, FTX, Receiver, end, is_own_process, names, send, start_send, until};
use ftx::dest::local::{ImplicitDirs, LocalDestination, OnConflict, Record, SourceVersion};
use ftx::digest::{Md5, PART_BYTES};
use ftx::error_code::ErrorCode;
use ftx::relpath::{NamePolicy, RelPath};
use ftx::wire::Message;

const MIB: u64 = 1 << 20;

fn make(path: &Path, bytes: u64) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, vec![7; bytes as usize]).unwrap();
}

/// Sends a tree to a receiver that serves one session.
fn transfer(receiver: Receiver, tree: &Path) -> (Ended, Ended) {
    let sent = send(&[], &[tree], &receiver.host());
    (sent, receiver.wait())
}

/// Asserts that both ends ended with this code and reported an entry with these words.
fn both_said(ended: &(Ended, Ended), code: i32, words: &str) {
    let (sent, received) = ended;
    assert_eq!((sent.code, received.code), (code, code), "{ended:?}");
    for end in [sent, received] {
        let line = end.stderr.lines().find(|line| line.starts_with("not transferred: "));
        assert!(line.is_some_and(|line| line.contains(words)), "no {words:?} in {ended:?}");
    }
}

#[test]
fn file_that_does_not_fit_is_refused_before_its_first_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, out) = (dir.path().join("t"), dir.path().join("out"));
    let Some(_mounted) = Mounted::memory(16 * MIB, &out) else {
        return not_run("a file that does not fit", "needs the right to mount");
    };
    make(&tree.join("big"), 20 * MIB);
    make(&tree.join("there"), 10 * MIB);
    make(&tree.join("small"), 1000);
    // A sparse file of a terabyte in one block.
    let sparse = fs::File::create(tree.join("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    sparse.write_all_at(b"x", 5).unwrap();
    // More than half of the space: two copies would not fit.
    make(&out.join("t/there"), 10 * MIB);
    let ended = transfer(Receiver::start(&out, &["--once"]), &tree);
    both_said(&ended, 42, "t/big: ");
    let words = "refused by the receiver: no space left (needs 21.0 MB, 6.29 MB free) [no-space]";
    assert!(ended.0.stderr.contains(words), "{ended:?}");
    // One part of the terabyte has data.
    assert!(ended.0.stdout.starts_with("Sent 2 files (1.10 TB) in "), "{ended:?}");
    assert!(ended.0.stdout.contains("; 1 skipped, identical. 1 entry was NOT transferred."), "{ended:?}");
    assert_eq!(names(&out), ["t", "t/small", "t/sparse", "t/there"]);
}

#[test]
fn space_is_reserved_once_and_the_last_block_is_usable() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, out) = (dir.path().join("t"), dir.path().join("out"));
    let Some(_mounted) = Mounted::memory(16 * MIB, &out) else {
        return not_run("room that is promised", "needs the right to mount");
    };
    // All are announced before the first one is stored.
    for name in ["a", "b", "c"] {
        make(&tree.join(name), 7 * MIB);
    }
    let ended = transfer(Receiver::start(&out, &["--once"]), &tree);
    both_said(&ended, 42, "no space left (needs 7.34 MB, 2.10 MB free) [no-space]");
    assert_eq!(names(&out).len(), 3, "the folder and two of them");
    let last = dir.path().join("last");
    make(&last, 2 * MIB);
    let (sent, received) = transfer(Receiver::start(&out, &["--once"]), &last);
    assert_eq!((sent.code, received.code), (0, 0), "{sent:?} {received:?}");
    make(&last, 2 * MIB + 1);
    let receiver = Receiver::start(&out, &["--once"]);
    // In the classic dialect only the receiver can report it.
    let sent = send(&["--classic"], &[&last], &receiver.host());
    let received = receiver.wait();
    assert_eq!((sent.code, received.code), (10, 42), "{sent:?} {received:?}");
    assert!(received.stderr.contains("last: no space left (needs 2.10 MB, 0 B free)"), "{received:?}");
}

#[test]
fn announced_but_unsent_bytes_reserve_no_space() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("file"), dir.path().join("out"));
    let Some(_mounted) = Mounted::memory(16 * MIB, &out) else {
        return not_run("room that is announced and not used", "needs the right to mount");
    };
    make(&file, 12 * MIB);
    let receiver = Receiver::start(&out, &[]);
    let mut peer = Raw::connect(&receiver, r#"{"ftx":"hello","version":1}"#);
    peer.send_json(r#"{"ftx":"entry","entry":0,"type":"file","filename":"huge","size":15000000}"#);
    while !matches!(peer.next_message(), Some(Message::Want { .. })) {}
    // A few recent bytes do not change that.
    peer.send_json(&format!(
        r#"{{"ftx":"part","entry":0,"part":0,"size":{PART_BYTES},"md5":"{}"}}"#,
        Md5::of(b"")
    ));
    peer.stream.write_all(&[7; 1000]).unwrap();
    until("its first bytes", || {
        names(&out).iter().any(|name| fs::metadata(out.join(name)).is_ok_and(|file| file.len() > 0))
    });
    let sent = send(&[], &[&file], &receiver.host());
    assert_eq!(sent.code, 0, "{sent:?}");
    assert!(names(&out).contains(&"file".to_owned()));
}

/// Exactly the missing bytes need free space, and the kept parts are not discarded when they do not fit.
#[test]
fn resumed_file_needs_space_for_its_missing_parts_only() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("file"), dir.path().join("out"));
    let Some(_mounted) = Mounted::memory(32 * MIB, &out) else {
        return not_run("room for the rest", "needs the right to mount");
    };
    make(&file, 28 * MIB);
    // Three of four parts are stored.
    let mut receiver = Receiver::start(&out, &[]);
    let mut passed = 0;
    let proxy = Proxy::start(receiver.port, move |piece| {
        passed += if piece.place == Place::Body { piece.bytes.len() as u64 } else { 0 };
        if passed > 3 * PART_BYTES + 1000 { Action::Cut } else { Action::Pass }
    });
    assert_eq!(send(&[], &[&file], &proxy.host()).code, 10);
    receiver.wait_for("ftx: 127.0.0.1: ");
    receiver.kill();
    let kept = names(&out);
    assert_eq!(kept.len(), 2, "the staged file and its journal: {kept:?}");
    // 24 MiB of 32 are used; 6 more leave less than the missing 4.
    make(&out.join("other"), 6 * MIB);
    let ended = transfer(Receiver::start(&out, &["--once"]), &file);
    both_said(&ended, 42, "no space left (needs 4.19 MB, ");
    assert!(ended.0.stderr.contains("refused by the receiver: "), "before its first byte: {ended:?}");
    assert_eq!(names(&out).len(), 3, "what is kept stays: {:?}", names(&out));
    fs::remove_file(out.join("other")).unwrap();
    // The whole file would not fit beside the kept parts; the missing ones do.
    let ended = transfer(Receiver::start(&out, &["--once"]), &file);
    assert_eq!((ended.0.code, ended.1.code), (0, 0), "{ended:?}");
    assert!(ended.0.stdout.contains("were received in an earlier attempt"), "{ended:?}");
    assert_eq!(names(&out), ["file"]);
}

#[test]
fn parts_stored_before_the_disk_was_full_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("file"), dir.path().join("out"));
    let Some(_mounted) = Mounted::memory(48 * MIB, &out) else {
        return not_run("a disk that gets full", "needs the right to mount");
    };
    make(&file, 40 * MIB);
    let receiver = Receiver::start(&out, &[]);
    let (mut passed, folder) = (0, out.clone());
    let proxy = Proxy::start(receiver.port, move |piece| {
        let before = passed;
        passed += if piece.place == Place::Body { piece.bytes.len() as u64 } else { 0 };
        // Another program uses most of the free space.
        if before <= 3 * PART_BYTES && passed > 3 * PART_BYTES {
            until("a checkpoint", || names(&folder).iter().any(|name| name.ends_with(".journal")));
            make(&folder.join("other"), 20 * MIB);
        }
        Action::Pass
    });
    let sent = send(&["-j", "1", "--retries", "0"], &[&file], &proxy.host());
    assert_eq!(sent.code, 42, "{sent:?}");
    assert!(
        sent.stderr.contains("file: the receiver failed: cannot write the file: no space left"),
        "{sent:?}"
    );
    assert_eq!(names(&out).len(), 3, "{:?}", names(&out));
    fs::remove_file(out.join("other")).unwrap();
    let sent = send(&[], &[&file], &receiver.host());
    assert_eq!(sent.code, 0, "{sent:?}");
    assert!(sent.stdout.contains("were received in an earlier attempt"), "{sent:?}");
    assert_eq!(names(&out), ["file"]);
}

#[test]
fn replacement_needs_space_beside_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, out) = (dir.path().join("t"), dir.path().join("out"));
    let Some(_mounted) = Mounted::memory(32 * MIB, &out) else {
        return not_run("room to replace", "needs the right to mount");
    };
    make(&tree.join("file"), 20 * MIB);
    fs::create_dir_all(out.join("t")).unwrap();
    fs::write(out.join("t/file"), vec![8; 20 << 20]).unwrap();
    for policy in ["overwrite", "rename"] {
        let ended = transfer(Receiver::start(&out, &["--once", "--on-conflict", policy]), &tree);
        both_said(&ended, 42, "no space left (needs 21.0 MB, ");
        assert!(ended.0.stderr.contains("refused by the receiver: "), "{ended:?}");
        assert!(ended.0.stdout.starts_with("NOT transferred to "), "before its first byte: {ended:?}");
        assert_eq!(names(&out), ["t", "t/file"]);
    }
    assert!(fs::read(out.join("t/file")).unwrap().iter().all(|byte| *byte == 8));
    // Identical content needs no space.
    fs::write(out.join("t/file"), vec![7; 20 << 20]).unwrap();
    let ended = transfer(Receiver::start(&out, &["--once", "--on-conflict", "overwrite"]), &tree);
    assert_eq!((ended.0.code, ended.1.code), (0, 0), "{ended:?}");
}

#[test]
fn read_only_file_system_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, out, elsewhere) = (dir.path().join("t"), dir.path().join("out"), dir.path().join("there"));
    fs::create_dir(&elsewhere).unwrap();
    make(&tree.join("small"), 1000);
    let Some(_bound) = Mounted::new(&["--bind", "-o", "ro"], &elsewhere, &out.join("t")) else {
        return not_run("a read-only file system", "needs the right to mount");
    };
    let ended = transfer(Receiver::start(&out, &["--once"]), &tree);
    both_said(&ended, 23, "cannot create the file: the file system is read-only [read-only]");
    make(&tree.join("small"), 2 * MIB);
    let ended = transfer(Receiver::start(&out, &["--once"]), &tree);
    both_said(&ended, 23, "the file system is read-only [read-only]");
    assert!(ended.0.stderr.contains("refused by the receiver: "), "before its first byte: {ended:?}");
    assert_eq!(names(&out), ["t"]);
}

#[test]
fn directory_without_write_permission_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (tree, out) = (dir.path().join("t"), dir.path().join("out"));
    make(&tree.join("small"), 1000);
    // A directory of another user.
    fs::create_dir_all(out.join("t")).unwrap();
    fs::set_permissions(out.join("t"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).unwrap();
    let as_nobody = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command
    };
    if !as_nobody().args([FTX, "--version"]).output().is_ok_and(|output| output.status.success()) {
        return not_run(
            "no permission",
            "needs setpriv, permission to change the user, and a program that all may run",
        );
    }
    let receiver = || {
        let mut command = as_nobody();
        command.arg(FTX);
        Receiver::spawn(command, "127.0.0.1", &out, &["--once"])
    };
    let ended = transfer(receiver(), &tree);
    both_said(&ended, 23, "cannot create the file: no permission [permission]");
    make(&tree.join("small"), 2 * MIB);
    let ended = transfer(receiver(), &tree);
    both_said(&ended, 23, "no permission [permission]");
    assert!(ended.0.stderr.contains("refused by the receiver: "), "before its first byte: {ended:?}");
    assert_eq!(names(&out), ["t"]);
}

#[test]
fn name_taken_by_another_type_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir_all(out.join("folder/with")).unwrap();
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, out.join("fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for (name, words) in [
        ("folder", "a folder with that name exists [exists]"),
        ("fifo", "a device, FIFO or socket with that name exists [exists]"),
    ] {
        let file = dir.path().join(name);
        make(&file, 2 * MIB);
        let ended = transfer(Receiver::start(&out, &["--once"]), &file);
        both_said(&ended, 23, words);
        assert!(ended.0.stderr.contains("refused by the receiver: "), "{ended:?}");
    }
    assert_eq!(names(&out), ["fifo", "folder", "folder/with"]);
}

#[test]
fn output_directory_removed_during_a_session_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("large.img"), dir.path().join("out"));
    let large = fs::File::create(&file).unwrap();
    large.set_len(4 << 30).unwrap();
    for part in 0..(4 << 30) / PART_BYTES {
        large.write_all_at(b"x", part * PART_BYTES + 5).unwrap();
    }
    let receiver = Receiver::start(&out, &["--once"]);
    let sender = start_send(&[&file], &receiver.host());
    until("bytes at the receiver", || {
        let mut entries = fs::read_dir(&out).into_iter().flatten().flatten();
        entries.any(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 0))
    });
    fs::remove_dir_all(&out).unwrap();
    let ended = (end(sender), receiver.wait());
    both_said(&ended, 23, "the file or its folder was removed [file-io]");
    assert!(!out.exists());
}

/// A receiver of one session with failing system calls.
fn faulty(out: &Path, calls: &str, errno: &str, when: &str, trace: &Path) -> Receiver {
    let mut strace = Command::new("strace");
    let traced = format!("trace={calls},renameat2");
    strace.args(["-f", "-o"]).arg(trace).args(["-e", &traced, "-e", "signal=none"]);
    strace.args(["-e", &format!("inject={calls}:error={errno}:when={when}"), FTX]);
    Receiver::spawn(strace, "127.0.0.1", out, &["--once"])
}

#[test]
fn io_errors_and_quota_are_reported() {
    if !can_trace("a disk that fails") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let (small, large) = (dir.path().join("small"), dir.path().join("large"));
    make(&small, 1000);
    make(&large, 3 * MIB);
    for (file, calls, errno, code, words) in [
        (
            &small,
            "pwrite64",
            "EIO",
            23,
            "cannot write the file: the disk failed (input/output error) [file-io]",
        ),
        (&small, "pwrite64", "EDQUOT", 42, "cannot write the file: the disk quota is used up [no-space]"),
        (&small, "pwrite64", "ENOSPC", 42, "cannot write the file: no space left [no-space]"),
        (&small, "fsync", "EIO", 23, "cannot sync the file: the disk failed"),
        (&large, "fsync", "EIO", 23, "cannot sync the file: the disk failed"),
        (&large, "fsync", "EDQUOT", 42, "cannot sync the file: the disk quota is used up"),
        (&small, "renameat2", "EIO", 23, "cannot rename the file: the disk failed"),
    ] {
        let out = dir.path().join("out");
        let ended = transfer(faulty(&out, calls, errno, "1+", &trace), file);
        both_said(&ended, code, words);
        assert!(fs::read_to_string(&trace).unwrap().contains("(INJECTED)"), "{words}");
        assert_eq!(names(&out), Vec::<String>::new(), "{words}");
        // Nothing was reported as stored.
        assert!(ended.0.stdout.starts_with("NOT transferred to "), "{ended:?}");
    }
}

/// The kernel reports lost writes once, and files of later batches may be among them.
#[test]
fn after_a_failed_sync_nothing_is_stored() {
    if !can_trace("one failed sync") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (tree, out, trace) = (dir.path().join("tree"), dir.path().join("out"), dir.path().join("trace"));
    fs::create_dir(&tree).unwrap();
    for number in 0..3000 {
        fs::write(tree.join(number.to_string()), "some bytes").unwrap();
    }
    // Only the committer calls syncfs.
    let ended = transfer(faulty(&out, "syncfs", "EIO", "1", &trace), &tree);
    both_said(&ended, 23, "cannot sync the file: the disk failed");
    let trace = fs::read_to_string(&trace).unwrap();
    let (before, after) = trace.split_once("(INJECTED)").expect("a sync that fails");
    // A small first batch may have been synced file by file.
    let named = |trace: &str| trace.matches("renameat2(").count();
    assert_eq!((named(after), after.contains("(INJECTED)")), (0, false), "{after}");
    assert_eq!(names(&out).into_iter().filter(|name| name != "tree").count(), named(before));
}

/// The directory that has the name when it is announced gets the metadata, not the one created implicitly before.
#[test]
fn replaced_directory_gets_no_metadata() {
    let dir = tempfile::tempdir().unwrap();
    let (out, elsewhere) = (dir.path().join("out"), dir.path().join("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    let receiver = Receiver::start(&out, &["--once"]);
    let mut sender = Raw::connect(&receiver, r#"{"ftx":"hello","version":1}"#);
    let md5 = Md5::of(b"abc");
    for frame in [
        r#"{"ftx":"entry","entry":0,"type":"file","filename":"d/f","size":3}"#.to_owned(),
        format!(r#"{{"ftx":"part","entry":0,"part":0,"size":3,"md5":"{md5}"}}"#),
    ] {
        sender.send_json(&frame);
    }
    sender.stream.write_all(b"abc").unwrap();
    until("the file", || out.join("d/f").exists());
    fs::rename(out.join("d"), dir.path().join("aside")).unwrap();
    symlink(&elsewhere, out.join("d")).unwrap();
    sender.send_json(r#"{"ftx":"entry","entry":1,"type":"dir","filename":"d","mode":511}"#);
    sender.send_json(r#"{"ftx":"end","entries":2}"#);
    let failure = loop {
        match sender.next_message().expect("an error") {
            Message::Error(failure) => break failure,
            _ => continue,
        }
    };
    assert_eq!((failure.entry, failure.code), (Some(1), ErrorCode::Exists), "{failure:?}");
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_ne!(mode(&dir.path().join("aside")), 0o777);
    assert_ne!(mode(&elsewhere), 0o777);
    drop(sender);
    receiver.kill();
}

/// File systems mounted below the output directory are not swept.
#[test]
fn sweep_stays_on_the_file_system_of_the_output_directory() {
    // `LocalDestination::open` sets the umask for a moment to read it.
    if !is_own_process("store_faults::sweep_stays_on_the_file_system_of_the_output_directory") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let Some(_mounted) = Mounted::memory(16 * MIB, &out.join("disk")) else {
        return not_run("a sweep that stays on its file system", "needs the right to mount");
    };
    let root = LocalDestination::open(&out, OnConflict::SkipSame).unwrap();
    let mut store = root.session(ImplicitDirs::Private).unwrap();
    for name in ["here", "disk/there"] {
        let path = RelPath::new(name.as_bytes(), NamePolicy::Strict).unwrap();
        let origin = SourceVersion { size_bytes: 2 * PART_BYTES, mtime: None, state: Md5::of(b"state") };
        let landing = store.stage_resumable(&path, origin).unwrap();
        let records = [Record::Part(0, Md5::of(b"part"))];
        landing.journal().unwrap().record(&landing.written().unwrap(), &records, true).unwrap();
    }
    let mut swept = Vec::new();
    root.sweep(Duration::ZERO, || true, |left| swept.push((left.path, left.is_removed))).unwrap();
    assert_eq!(swept, [(b"here".to_vec(), true)]);
    assert_eq!(names(&out).len(), 3, "{:?}", names(&out));
}

/// The idle session has a staged file without a journal, and may keep it as long as it sends keepalives.
#[test]
fn idle_session_does_not_delay_another_sender_of_the_same_name() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("disk.img"), dir.path().join("out"));
    make(&file, 2 * PART_BYTES);
    let mut receiver = Receiver::start(&out, &[]);
    let mut peer = Raw::connect(&receiver, r#"{"ftx":"hello","version":1}"#);
    let (size, state, md5) = (2 * PART_BYTES, "0".repeat(32), Md5::of(b""));
    peer.send_json(&format!(
        r#"{{"ftx":"entry","entry":0,"type":"file","filename":"disk.img","size":{size},"state":"{state}"}}"#
    ));
    peer.send_json(&format!(r#"{{"ftx":"part","entry":0,"part":0,"size":{PART_BYTES},"md5":"{md5}"}}"#));
    peer.stream.write_all(b"its first bytes").unwrap();
    until("a staged file", || out.is_dir() && names(&out).len() == 1);
    let sent = send(&[], &[&file], &receiver.host());
    assert_eq!(sent.code, 0, "{sent:?}");
    assert!(names(&out).contains(&"disk.img".to_owned()));
    drop(peer);
    receiver.wait_for("the connection was lost");
    let killed = receiver.kill_and_wait();
    assert!(!killed.stderr.contains("waiting for another session"), "{killed:?}");
}
