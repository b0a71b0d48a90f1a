//! What a file system refuses is told in words that people understand, on both ends, with a stable code; before the
//! first byte where that can be known. The rest of the transfer goes on.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::mounted::Mounted;
use common::proofs::{can_trace, not_run};
use common::proxy::{Place, Proxy, Then};
use common::raw::Raw;
use common::{Ended, FTX, Receiver, end, names, send, start_send, until};
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

/// Both ends ended with this code and said these words about an entry, with its code.
fn both_said(ended: &(Ended, Ended), code: i32, words: &str) {
    let (sent, received) = ended;
    assert_eq!((sent.code, received.code), (code, code), "{ended:?}");
    for end in [sent, received] {
        let line = end.stderr.lines().find(|line| line.starts_with("not transferred: "));
        assert!(line.is_some_and(|line| line.contains(words)), "no {words:?} in {ended:?}");
    }
}

#[test]
fn a_file_that_does_not_fit_is_refused_before_its_first_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, out) = (dir.path().join("t"), dir.path().join("out"));
    let Some(_mounted) = Mounted::memory(16 * MIB, &out) else {
        return not_run("a file that does not fit", "needs the right to mount");
    };
    make(&tree.join("big"), 20 * MIB);
    make(&tree.join("there"), 10 * MIB);
    make(&tree.join("small"), 1000);
    // A file of a terabyte that takes one block.
    let sparse = fs::File::create(tree.join("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    sparse.write_all_at(b"x", 5).unwrap();
    // More than half of the room: twice it would not fit.
    make(&out.join("t/there"), 10 * MIB);
    let ended = transfer(Receiver::start(&out, &["--once"]), &tree);
    both_said(&ended, 42, "t/big: ");
    let words = "refused by the receiver: no space left (needs 21.0 MB, 6.29 MB free) [no-space]";
    assert!(ended.0.stderr.contains(words), "{ended:?}");
    // Of a terabyte one part has data.
    assert!(ended.0.stdout.starts_with("Sent 2 files (1.10 TB) in "), "{ended:?}");
    assert!(ended.0.stdout.contains("; 1 skipped, identical. 1 entry was NOT transferred."), "{ended:?}");
    assert_eq!(names(&out), ["t", "t/small", "t/sparse", "t/there"]);
}

#[test]
fn room_is_promised_once_and_what_fits_to_the_last_block_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, out) = (dir.path().join("t"), dir.path().join("out"));
    let Some(_mounted) = Mounted::memory(16 * MIB, &out) else {
        return not_run("room that is promised", "needs the right to mount");
    };
    // All of them are announced before the first one is here.
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
    // In the classic dialect only the receiver can say it.
    let sent = send(&["--classic"], &[&last], &receiver.host());
    let received = receiver.wait();
    assert_eq!((sent.code, received.code), (10, 42), "{sent:?} {received:?}");
    assert!(received.stderr.contains("last: no space left (needs 2.10 MB, 0 B free)"), "{received:?}");
}

#[test]
fn who_announces_much_and_sends_nothing_takes_no_room_from_others() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("file"), dir.path().join("out"));
    let Some(_mounted) = Mounted::memory(16 * MIB, &out) else {
        return not_run("room that is announced and not used", "needs the right to mount");
    };
    make(&file, 12 * MIB);
    let receiver = Receiver::start(&out, &[]);
    let mut peer = Raw::connect(&receiver, r#"{"ftx":"hello","version":1}"#);
    peer.say(r#"{"ftx":"entry","entry":0,"type":"file","filename":"huge","size":15000000}"#);
    while !matches!(peer.hear(), Some(Message::Want { .. })) {}
    // A little of it does not change that, however recent it is.
    peer.say(&format!(r#"{{"ftx":"part","entry":0,"part":0,"size":{PART_BYTES},"md5":"{}"}}"#, Md5::of(b"")));
    peer.stream.write_all(&[7; 1000]).unwrap();
    until("its first bytes", || {
        names(&out).iter().any(|name| fs::metadata(out.join(name)).is_ok_and(|file| file.len() > 0))
    });
    let sent = send(&[], &[&file], &receiver.host());
    assert_eq!(sent.code, 0, "{sent:?}");
    assert!(names(&out).contains(&"file".to_owned()));
}

/// The rest of a file needs no more room than it has, and no less: what is kept of it is not given up for nothing.
#[test]
fn the_rest_of_a_file_needs_room_for_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("file"), dir.path().join("out"));
    let Some(_mounted) = Mounted::memory(32 * MIB, &out) else {
        return not_run("room for the rest", "needs the right to mount");
    };
    make(&file, 28 * MIB);
    // Three parts come, the last one does not.
    let mut receiver = Receiver::start(&out, &[]);
    let mut passed = 0;
    let proxy = Proxy::start(receiver.port, move |piece| {
        passed += if piece.place == Place::Body { piece.bytes.len() as u64 } else { 0 };
        if passed > 3 * PART_BYTES + 1000 { Then::Cut } else { Then::Pass }
    });
    assert_eq!(send(&[], &[&file], &proxy.host()).code, 10);
    receiver.hear("ftx: 127.0.0.1: ");
    receiver.kill();
    let kept = names(&out);
    assert_eq!(kept.len(), 2, "the landing and its journal: {kept:?}");
    // 24 MiB of 32 are taken; now 6 more, so that the last 4 do not fit.
    make(&out.join("other"), 6 * MIB);
    let ended = transfer(Receiver::start(&out, &["--once"]), &file);
    both_said(&ended, 42, "no space left (needs 4.19 MB, ");
    assert!(ended.0.stderr.contains("refused by the receiver: "), "before its first byte: {ended:?}");
    assert_eq!(names(&out).len(), 3, "what is kept stays: {:?}", names(&out));
    fs::remove_file(out.join("other")).unwrap();
    // All of it would not fit beside what is kept; the rest does.
    let ended = transfer(Receiver::start(&out, &["--once"]), &file);
    assert_eq!((ended.0.code, ended.1.code), (0, 0), "{ended:?}");
    assert!(ended.0.stdout.contains("were received in an earlier attempt"), "{ended:?}");
    assert_eq!(names(&out), ["file"]);
}

#[test]
fn what_came_before_the_disk_was_full_is_kept() {
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
        // Somebody else takes what is left, all but a little.
        if before <= 3 * PART_BYTES && passed > 3 * PART_BYTES {
            until("a checkpoint", || names(&folder).iter().any(|name| name.ends_with(".journal")));
            make(&folder.join("other"), 20 * MIB);
        }
        Then::Pass
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
fn what_is_to_replace_a_file_of_its_size_needs_room_beside_it() {
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
    // The same content needs none.
    fs::write(out.join("t/file"), vec![7; 20 << 20]).unwrap();
    let ended = transfer(Receiver::start(&out, &["--once", "--on-conflict", "overwrite"]), &tree);
    assert_eq!((ended.0.code, ended.1.code), (0, 0), "{ended:?}");
}

#[test]
fn a_read_only_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, out, there) = (dir.path().join("t"), dir.path().join("out"), dir.path().join("there"));
    fs::create_dir(&there).unwrap();
    make(&tree.join("small"), 1000);
    let Some(_bound) = Mounted::new(&["--bind", "-o", "ro"], &there, &out.join("t")) else {
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
fn a_folder_where_the_receiver_may_not_write() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (tree, out) = (dir.path().join("t"), dir.path().join("out"));
    make(&tree.join("small"), 1000);
    // Somebody else's.
    fs::create_dir_all(out.join("t")).unwrap();
    fs::set_permissions(out.join("t"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).unwrap();
    let nobody = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command
    };
    if !nobody().args([FTX, "--version"]).output().is_ok_and(|output| output.status.success()) {
        return not_run(
            "no permission",
            "needs setpriv, the right to become nobody, and a program that all may run",
        );
    }
    let receiver = || {
        let mut command = nobody();
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
fn something_that_is_no_file_has_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir_all(out.join("folder/with")).unwrap();
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, out.join("fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for (name, words) in [
        ("folder", "a folder of that name is there already [exists]"),
        ("fifo", "a device, FIFO or socket of that name is there already [exists]"),
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
fn a_folder_that_is_removed_in_the_middle() {
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
    both_said(&ended, 23, "it, or the folder it belongs in, was removed meanwhile [file-io]");
    assert!(!out.exists());
}

/// A receiver of one session whose calls of some kinds fail.
fn faulty(out: &Path, calls: &str, errno: &str, when: &str, trace: &Path) -> Receiver {
    let mut strace = Command::new("strace");
    let traced = format!("trace={calls},renameat2");
    strace.args(["-f", "-o"]).arg(trace).args(["-e", &traced, "-e", "signal=none"]);
    strace.args(["-e", &format!("inject={calls}:error={errno}:when={when}"), FTX]);
    Receiver::spawn(strace, "127.0.0.1", out, &["--once"])
}

#[test]
fn a_disk_that_fails_and_a_quota_that_is_used_up() {
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
        (&small, "fsync", "EIO", 23, "cannot bring the file to stable storage: the disk failed"),
        (&large, "fsync", "EIO", 23, "cannot bring the file to stable storage: the disk failed"),
        (&large, "fsync", "EDQUOT", 42, "cannot bring the file to stable storage: the disk quota is used up"),
        (&small, "renameat2", "EIO", 23, "cannot give the file its name: the disk failed"),
    ] {
        let out = dir.path().join("out");
        let ended = transfer(faulty(&out, calls, errno, "1+", &trace), file);
        both_said(&ended, code, words);
        assert!(fs::read_to_string(&trace).unwrap().contains("(INJECTED)"), "{words}");
        assert_eq!(names(&out), Vec::<String>::new(), "{words}");
        // Nothing was ever called stored.
        assert!(ended.0.stdout.starts_with("NOT transferred to "), "{ended:?}");
    }
}

/// The system tells of lost bytes once. Files of later batches were written meanwhile, and theirs may be among them.
#[test]
fn what_one_sync_has_lost_no_later_one_calls_stored() {
    if !can_trace("one failed sync") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (tree, out, trace) = (dir.path().join("tree"), dir.path().join("out"), dir.path().join("trace"));
    fs::create_dir(&tree).unwrap();
    for number in 0..3000 {
        fs::write(tree.join(number.to_string()), "some bytes").unwrap();
    }
    // The thread that commits is the one that syncs file systems.
    let ended = transfer(faulty(&out, "syncfs", "EIO", "1", &trace), &tree);
    both_said(&ended, 23, "cannot bring the file to stable storage: the disk failed");
    let trace = fs::read_to_string(&trace).unwrap();
    let (before, after) = trace.split_once("(INJECTED)").expect("a sync that fails");
    // A first batch may have been so small that it was synced file by file.
    let named = |trace: &str| trace.matches("renameat2(").count();
    assert_eq!((named(after), after.contains("(INJECTED)")), (0, false), "{after}");
    assert_eq!(names(&out).into_iter().filter(|name| name != "tree").count(), named(before));
}

/// What is under the name of a folder when it is announced decides, not what was there when it was made.
#[test]
fn a_folder_that_is_exchanged_in_the_middle_is_not_taken_for_the_one_that_was_made() {
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
        sender.say(&frame);
    }
    sender.stream.write_all(b"abc").unwrap();
    until("the file", || out.join("d/f").exists());
    fs::rename(out.join("d"), dir.path().join("aside")).unwrap();
    symlink(&elsewhere, out.join("d")).unwrap();
    sender.say(r#"{"ftx":"entry","entry":1,"type":"dir","filename":"d","mode":511}"#);
    sender.say(r#"{"ftx":"end","entries":2}"#);
    let failure = loop {
        match sender.hear().expect("an error") {
            Message::Error(failure) => break failure,
            _ => continue,
        }
    };
    assert_eq!((failure.entry, failure.fault), (Some(1), ErrorCode::Exists), "{failure:?}");
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_ne!(mode(&dir.path().join("aside")), 0o777);
    assert_ne!(mode(&elsewhere), 0o777);
    drop(sender);
    receiver.kill();
}

/// What is mounted below the folder is not the receiver's to tidy up.
#[test]
fn what_is_too_old_is_removed_on_the_file_system_of_the_folder_alone() {
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
        let landing = store.land_parts(&path, origin).unwrap();
        let records = [Record::Part(0, Md5::of(b"part"))];
        landing.journal().unwrap().record(&landing.written().unwrap(), &records, true).unwrap();
    }
    let mut told = Vec::new();
    root.sweep(Duration::ZERO, || true, |left| told.push((left.path, left.is_removed))).unwrap();
    assert_eq!(told, [(b"here".to_vec(), true)]);
    assert_eq!(names(&out).len(), 3, "{:?}", names(&out));
}

/// It has a staged file and no journal yet, and may stay like that for as long as it says that it is busy.
#[test]
fn an_idle_session_that_began_a_file_delays_no_other_sender_of_that_name() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("disk.img"), dir.path().join("out"));
    make(&file, 2 * PART_BYTES);
    let mut receiver = Receiver::start(&out, &[]);
    let mut peer = Raw::connect(&receiver, r#"{"ftx":"hello","version":1}"#);
    let (size, state, md5) = (2 * PART_BYTES, "0".repeat(32), Md5::of(b""));
    peer.say(&format!(
        r#"{{"ftx":"entry","entry":0,"type":"file","filename":"disk.img","size":{size},"state":"{state}"}}"#
    ));
    peer.say(&format!(r#"{{"ftx":"part","entry":0,"part":0,"size":{PART_BYTES},"md5":"{md5}"}}"#));
    peer.stream.write_all(b"its first bytes").unwrap();
    until("a staged file", || out.is_dir() && names(&out).len() == 1);
    let sent = send(&[], &[&file], &receiver.host());
    assert_eq!(sent.code, 0, "{sent:?}");
    assert!(names(&out).contains(&"disk.img".to_owned()));
    drop(peer);
    receiver.hear("the connection was lost");
    let heard = receiver.kill_and_hear();
    assert!(!heard.stderr.contains("waiting for another session"), "{heard:?}");
}
