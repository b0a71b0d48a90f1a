//! Resuming a cut session. After any change of the source, the staged file or the journal, the stored file is the one
//! that was sent last, and intact parts are not sent again.
//!
//! These tests fail if an invalid journal is trusted (a stored part is wrong) or a valid one is not used (as many bytes are
//! sent as without it).

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::proofs::{Random, Strace, can_trace, report_figures, rounds};
use crate::common::proxy::{Action, Place, Proxy, Way};
use crate::common::raw::Raw;
use crate::common::{Receiver, listing, names, send, start_send, until};
use ftx::wire::Message;
use ftx::wire::id_ranges::IdRanges;
use ftx::wire::message::WantedParts;

const PART: u64 = 8 << 20;
const CONNECTION: i32 = 10;

/// A proxy that cuts the connection after `after` bytes of bodies, and counts them.
fn cutting(receiver: &Receiver, after: u64) -> (Proxy, Arc<AtomicU64>) {
    let passed = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&passed);
    let proxy = Proxy::start(receiver.port, move |piece| {
        if piece.way == Way::ToReceiver && piece.place == Place::Body {
            let before = counter.fetch_add(piece.bytes.len() as u64, Ordering::SeqCst);
            if before + piece.bytes.len() as u64 > after {
                return Action::Cut;
            }
        }
        Action::Pass
    });
    (proxy, passed)
}

/// Sends through a proxy that cuts, and waits until the receiver has finished the session.
fn send_cut(out: &Path, source: &Path, after: u64) {
    assert!(is_cut(out, source, after), "it came through");
}

/// The same; `false` if the transfer ended before the cut.
fn is_cut(out: &Path, source: &Path, after: u64) -> bool {
    let mut receiver = Receiver::start(out, &["--on-conflict", "overwrite"]);
    let (proxy, _) = cutting(&receiver, after);
    let sent = send(&["--retries", "0"], &[source], &proxy.host());
    assert!([0, CONNECTION].contains(&sent.code), "{}", sent.stderr);
    if sent.code != 0 {
        receiver.wait_for("ftx: 127.0.0.1: ");
    }
    receiver.kill();
    sent.code != 0
}

/// Sends the source to the end; returns the bytes of bodies and the sender's output.
fn send_whole(out: &Path, source: &Path) -> (u64, String) {
    let receiver = Receiver::start(out, &["--once", "--on-conflict", "overwrite"]);
    let (proxy, passed) = cutting(&receiver, u64::MAX);
    let sent = send(&[], &[source], &proxy.host());
    assert_eq!((sent.code, receiver.wait().code), (0, 0), "{}", sent.stderr);
    (passed.load(Ordering::SeqCst), sent.stdout)
}

fn staged_file(out: &Path) -> PathBuf {
    find(out, |name| name.starts_with(".ftx-part-") && !name.ends_with(".journal"))
}

fn journal(out: &Path) -> PathBuf {
    find(out, |name| name.ends_with(".journal"))
}

fn find(out: &Path, is_it: impl Fn(&str) -> bool) -> PathBuf {
    let found: Vec<String> = names(out).into_iter().filter(|name| is_it(name)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    out.join(&found[0])
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn random_file(path: &Path, size: u64, seed: u64) {
    fs::write(path, Random::new(seed).bytes(size as usize)).unwrap();
}

#[test]
fn only_missing_parts_are_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (out, source) = (dir.path().join("out"), dir.path().join("disk.img"));
    let size = 10 * PART + 77;
    random_file(&source, size, 1);
    send_cut(&out, &source, 9 * PART + 1000);
    assert_eq!(names(&out).len(), 2, "the staged file and its journal: {:?}", names(&out));
    let (moved, printed) = send_whole(&out, &source);
    assert!(moved <= 2 * PART + 77, "{moved} bytes of {size} moved again");
    assert!(printed.starts_with("Sent 1 file (83.89 MB, of which "), "{printed}");
    assert!(printed.contains(" MB were received in an earlier attempt) in "), "{printed}");
    assert_eq!(names(&out), ["disk.img"], "staged file and journal are removed");
    assert_eq!(fs::read(out.join("disk.img")).unwrap(), fs::read(&source).unwrap());
}

#[test]
fn killed_receiver_resumes_from_its_last_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let (out, source) = (dir.path().join("out"), dir.path().join("disk.img"));
    random_file(&source, 6 * PART, 2);
    let receiver = Receiver::start(&out, &[]);
    // The last part is held back until the checkpoint is written.
    let go_on = Arc::new(AtomicU64::new(0));
    let (seen, held) = (Arc::clone(&go_on), AtomicU64::new(0));
    let proxy = Proxy::start(receiver.port, move |piece| {
        if piece.way == Way::ToReceiver && piece.place == Place::Body {
            let passed = held.fetch_add(piece.bytes.len() as u64, Ordering::SeqCst);
            while passed >= 5 * PART && seen.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
        }
        Action::Pass
    });
    let sender = start_send(&[&source], &proxy.host());
    until("a checkpoint", || {
        let find = |name: &String| name.ends_with(".journal");
        out.is_dir()
            && names(&out).iter().any(find)
            && fs::read_to_string(journal(&out)).is_ok_and(|text| text.lines().count() >= 5)
    });
    receiver.kill();
    go_on.store(1, Ordering::SeqCst);
    assert_ne!(crate::common::end(sender).code, 0);
    let (moved, _) = send_whole(&out, &source);
    assert!(moved <= 3 * PART, "{moved} bytes moved again");
    assert_eq!(names(&out), ["disk.img"]);
    assert_eq!(fs::read(out.join("disk.img")).unwrap(), fs::read(&source).unwrap());
}

/// The sender reconnects while the lost session still syncs its data to a slow disk.
#[test]
fn immediate_resend_sends_only_missing_parts() {
    if !can_trace("a sender that comes again at once") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (out, source, trace) =
        (dir.path().join("out"), dir.path().join("disk.img"), dir.path().join("trace"));
    random_file(&source, 20 * PART, 11);
    let receiver = Receiver::start(&out, &[]);
    let slow_disk = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=1500000"];
    let attached = Strace::attach(receiver.pid(), &slow_disk, &trace);
    let (cut, _) = cutting(&receiver, 18 * PART + 1000);
    assert_eq!(send(&["--retries", "0"], &[&source], &cut.host()).code, CONNECTION);
    let (proxy, passed) = cutting(&receiver, u64::MAX);
    let sent = send(&[], &[&source], &proxy.host());
    assert_eq!(sent.code, 0, "{}", sent.stderr);
    assert!(fs::read_to_string(&trace).unwrap().contains("DELAYED"), "the disk was not slow");
    let moved = passed.load(Ordering::SeqCst);
    assert!(moved <= 3 * PART, "{moved} bytes moved again");
    assert_eq!(names(&out), ["disk.img"]);
    assert_eq!(fs::read(out.join("disk.img")).unwrap(), fs::read(&source).unwrap());
    receiver.kill();
    attached.end();
}

/// The staged file is locked by another process.
#[test]
fn file_in_use_waits_only_for_the_same_source_version() {
    let dir = tempfile::tempdir().unwrap();
    let (out, source) = (dir.path().join("out"), dir.path().join("disk.img"));
    let other = dir.path().join("other");
    fs::write(&other, "other").unwrap();
    random_file(&source, 5 * PART, 12);
    for is_same in [true, false] {
        send_cut(&out, &source, 4 * PART + 1000);
        if !is_same {
            random_file(&source, 5 * PART, 13);
        }
        let held = File::open(staged_file(&out)).unwrap();
        held.lock().unwrap();
        let receiver = Receiver::start(&out, &["--on-conflict", "overwrite"]);
        let (proxy, passed) = cutting(&receiver, u64::MAX);
        let sender = start_send(&[&source, &other], &proxy.host());
        if is_same {
            until("the other file", || out.join("other").exists());
            assert!(passed.load(Ordering::SeqCst) < PART, "it starts while the staged file is locked");
            held.unlock().unwrap();
        }
        let sent = crate::common::end(sender);
        assert_eq!(sent.code, 0, "{}", sent.stderr);
        let moved = passed.load(Ordering::SeqCst);
        assert_eq!(moved <= 2 * PART, is_same, "{moved} bytes moved");
        assert_eq!(fs::read(out.join("disk.img")).unwrap(), fs::read(&source).unwrap());
        let printed = receiver.kill_and_wait();
        assert_eq!(printed.stderr.contains("disk.img: waiting for another session"), is_same, "{printed:?}");
        fs::remove_dir_all(&out).unwrap();
    }
}

/// Two receivers on one directory: the second finds a staged file that the first has created and not locked yet.
#[test]
fn staged_file_that_is_not_locked_yet_fails_no_session() {
    if !can_trace("a staged file that is not locked yet") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (out, source, trace) =
        (dir.path().join("out"), dir.path().join("disk.img"), dir.path().join("trace"));
    random_file(&source, 3 * PART, 14);
    let (slow, fast) = (Receiver::start(&out, &[]), Receiver::start(&out, &[]));
    let slow_lock = ["-e", "trace=flock", "-e", "inject=flock:delay_enter=1000000"];
    let attached = Strace::attach(slow.pid(), &slow_lock, &trace);
    let first = start_send(&[&source], &slow.host());
    until("the staged file", || names(&out).len() == 1);
    let second = send(&[], &[&source], &fast.host());
    let first = crate::common::end(first);
    assert!(fs::read_to_string(&trace).unwrap().contains("DELAYED"), "the lock was not slow");
    assert_eq!((first.code, second.code), (0, 0), "{first:?} {second:?}");
    assert_eq!(names(&out), ["disk.img"]);
    assert_eq!(fs::read(out.join("disk.img")).unwrap(), fs::read(&source).unwrap());
    slow.kill();
    fast.kill();
    attached.end();
}

#[test]
fn damaged_or_truncated_parts_are_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.img");
    random_file(&source, 5 * PART, 3);
    type Harm<'a> = Box<dyn Fn(&Path) + 'a>;
    // Changes to a staged file with four parts, and the maximum number of parts to be sent then.
    let harms: Vec<(&str, Harm<'_>, u64)> = vec![
        ("nothing", Box::new(|_| {}), 1),
        ("a flipped byte in a part", Box::new(|out| flip(&staged_file(out), PART + 5)), 2),
        (
            "a part cut off",
            Box::new(|out| {
                OpenOptions::new().write(true).open(staged_file(out)).unwrap().set_len(3 * PART).unwrap();
            }),
            2,
        ),
        (
            "longer than the file",
            Box::new(|out| {
                OpenOptions::new().write(true).open(staged_file(out)).unwrap().set_len(50 * PART).unwrap();
            }),
            1,
        ),
        ("emptied", Box::new(|out| drop(File::create(staged_file(out)).unwrap())), 5),
        ("removed", Box::new(|out| fs::remove_file(staged_file(out)).unwrap()), 5),
        ("without its journal", Box::new(|out| fs::remove_file(journal(out)).unwrap()), 5),
        ("with an empty journal", Box::new(|out| drop(File::create(journal(out)).unwrap())), 5),
        (
            "with a journal that is cut",
            Box::new(|out| {
                let file = OpenOptions::new().write(true).open(journal(out)).unwrap();
                file.set_len(file.metadata().unwrap().len() - 30).unwrap();
            }),
            1,
        ),
        (
            "with a damaged line in the journal",
            Box::new(|out| {
                let text = fs::read(journal(out)).unwrap();
                let second = text.iter().position(|&byte| byte == b'\n').unwrap() + 90;
                flip(&journal(out), second as u64);
            }),
            5,
        ),
        (
            "replaced by a copy",
            Box::new(|out| {
                let path = staged_file(out);
                fs::copy(&path, out.join("copy")).unwrap();
                fs::rename(out.join("copy"), path).unwrap();
            }),
            5,
        ),
    ];
    for (what, harm, parts) in harms {
        let out = tempfile::tempdir().unwrap();
        send_cut(out.path(), &source, 4 * PART + 1000);
        harm(out.path());
        let (moved, _) = send_whole(out.path(), &source);
        assert!(moved <= parts * PART, "{what}: {} parts moved", moved as f64 / PART as f64);
        assert_eq!(fs::read(out.path().join("disk.img")).unwrap(), fs::read(&source).unwrap(), "{what}");
        assert_eq!(names(out.path()), ["disk.img"], "{what}");
    }
}

/// Also before the next checkpoint.
#[test]
fn damaged_part_costs_no_other_part_after_a_second_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (out, source) = (dir.path().join("out"), dir.path().join("disk.img"));
    random_file(&source, 8 * PART, 14);
    send_cut(&out, &source, 7 * PART + 1000);
    for part in [0, 3] {
        flip(&staged_file(&out), part * PART + 5);
        let receiver = Receiver::start(&out, &[]);
        let pid = receiver.pid();
        let proxy = Proxy::start(receiver.port, move |piece| {
            if piece.frame.is_some_and(|frame| frame["ftx"] == "want") {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                return Action::Cut;
            }
            Action::Pass
        });
        assert_eq!(send(&["--retries", "0"], &[&source], &proxy.host()).code, CONNECTION);
        assert_eq!(receiver.wait().code, -1);
    }
    let (moved, printed) = send_whole(&out, &source);
    assert!(moved <= 3 * PART, "{moved} bytes moved again: {printed}");
    assert_eq!(names(&out), ["disk.img"]);
    assert_eq!(fs::read(out.join("disk.img")).unwrap(), fs::read(&source).unwrap());
}

#[test]
fn foreign_entry_in_place_of_a_staged_file_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (source, canary) = (dir.path().join("disk.img"), dir.path().join("canary"));
    random_file(&source, 3 * PART, 4);
    fs::write(&canary, "tweet").unwrap();
    type Plant = fn(&Path, &Path);
    let plants: [(&str, Plant); 4] = [
        ("a link", |path, canary| symlink(canary, path).unwrap()),
        ("a second name of another file", |path, canary| fs::hard_link(canary, path).unwrap()),
        ("a FIFO", |path, _| {
            assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
        }),
        ("a folder", |path, _| fs::create_dir(path).unwrap()),
    ];
    for (what, plant) in plants {
        for of in [staged_file as fn(&Path) -> PathBuf, journal] {
            let out = tempfile::tempdir().unwrap();
            send_cut(out.path(), &source, 2 * PART + 1000);
            let path = of(out.path());
            fs::remove_file(&path).unwrap();
            plant(&path, &canary);
            send_whole(out.path(), &source);
            assert_eq!(fs::read(out.path().join("disk.img")).unwrap(), fs::read(&source).unwrap(), "{what}");
            assert_eq!(fs::read_to_string(&canary).unwrap(), "tweet", "{what}");
            assert_eq!(fs::metadata(&canary).unwrap().mode() & 0o777, 0o644, "{what}");
        }
    }
}

#[test]
fn replacement_is_resumed_and_the_old_file_stays_until_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (out, source) = (dir.path().join("out"), dir.path().join("disk.img"));
    fs::create_dir(&out).unwrap();
    // Of the same size, so that the contents are compared first.
    random_file(&out.join("disk.img"), 5 * PART, 1);
    random_file(&source, 5 * PART, 2);
    let before = fs::read(out.join("disk.img")).unwrap();
    send_cut(&out, &source, 4 * PART + 1000);
    assert_eq!(fs::read(out.join("disk.img")).unwrap(), before);
    let (moved, printed) = send_whole(&out, &source);
    assert!(moved <= 2 * PART, "{moved}: {printed}");
    assert_eq!(fs::read(out.join("disk.img")).unwrap(), fs::read(&source).unwrap());
    assert_eq!(names(&out), ["disk.img"]);
}

#[test]
fn changed_source_is_sent_completely() {
    let dir = tempfile::tempdir().unwrap();
    let (out, source) = (dir.path().join("out"), dir.path().join("disk.img"));
    random_file(&source, 5 * PART, 5);
    send_cut(&out, &source, 4 * PART + 1000);
    // Other bytes with the same size and mtime.
    let modified = fs::metadata(&source).unwrap().modified().unwrap();
    let file = OpenOptions::new().write(true).open(&source).unwrap();
    file.write_all_at(b"changed", PART).unwrap();
    file.set_modified(modified).unwrap();
    let (moved, printed) = send_whole(&out, &source);
    assert_eq!(moved, 5 * PART, "{printed}");
    assert_eq!(
        listing(&out).into_iter().filter(|line| line.starts_with("\"disk")).collect::<Vec<_>>(),
        listing(dir.path()).into_iter().filter(|line| line.starts_with("\"disk")).collect::<Vec<_>>()
    );
    // The staged file of the earlier version is kept, as that version may be sent again.
    assert!(staged_file(&out).exists() && journal(&out).exists());
}

#[test]
fn sparse_file_is_resumed_and_stays_sparse() {
    let dir = tempfile::tempdir().unwrap();
    let (out, source) = (dir.path().join("out"), dir.path().join("disk.img"));
    let file = File::create(&source).unwrap();
    file.set_len(1 << 40).unwrap();
    let mut random = Random::new(6);
    for part in [0, 5, 6, 1000, 131_071] {
        file.write_all_at(&random.bytes(100_000), part * PART + 1_000_000).unwrap();
    }
    send_cut(&out, &source, 3 * PART);
    let (moved, printed) = send_whole(&out, &source);
    assert!(moved <= 3 * PART, "{moved}: {printed}");
    let arrived = File::open(out.join("disk.img")).unwrap();
    for part in [0, 1, 5, 6, 1000, 131_071] {
        let (mut expected, mut actual) = (vec![0; PART as usize], vec![0; PART as usize]);
        file_at(&source, &mut expected, part * PART);
        arrived.read_exact_at(&mut actual, part * PART).unwrap();
        assert!(expected == actual, "part {part}");
    }
    assert!(arrived.metadata().unwrap().blocks() * 512 < 10 * PART);
}

/// The file ends with zeros, which are not written.
#[test]
fn truncated_sparse_staged_file_gets_its_size_back() {
    let dir = tempfile::tempdir().unwrap();
    let (out, source) = (dir.path().join("out"), dir.path().join("disk.img"));
    random_file(&source, 2 * PART, 7);
    OpenOptions::new().write(true).open(&source).unwrap().set_len(6 * PART).unwrap();
    send_cut(&out, &source, PART + 1000);
    OpenOptions::new().write(true).open(staged_file(&out)).unwrap().set_len(PART + 5).unwrap();
    send_whole(&out, &source);
    assert!(fs::read(out.join("disk.img")).unwrap() == fs::read(&source).unwrap());
}

/// A peer can announce a sparse file larger than any disk; its size must not cause work.
#[test]
fn sparse_file_larger_than_any_disk_costs_no_work() {
    // Not every file system supports files of that size.
    let in_memory = Path::new("/dev/shm");
    if !in_memory.is_dir() {
        return crate::common::proofs::not_run("a huge sparse file", "there is no /dev/shm");
    }
    let out = tempfile::tempdir_in(in_memory).unwrap();
    let receiver = Receiver::start(out.path(), &[]);
    let parts = (1u64 << 62) / PART;
    // Announces it and returns the receiver's `want`.
    let announce = || {
        let mut peer = Raw::connect(&receiver, r#"{"ftx":"hello","version":1}"#);
        let state = "0".repeat(32);
        peer.send_json(&format!(
            r#"{{"ftx":"entry","entry":0,"type":"file","filename":"f","size":{},"sparse":true,"state":"{state}"}}"#,
            parts * PART
        ));
        let wanted = wanted(&mut peer);
        (peer, wanted)
    };
    let hole = |parts: u64| format!(r#"{{"ftx":"hole","entry":0,"part":0,"parts":{parts}}}"#);
    let rest = WantedParts::Parts(IdRanges::one(parts - 1));
    let (mut peer, all) = announce();
    assert_eq!(all, WantedParts::All);
    peer.send_json(&hole(parts - 1));
    drop(peer);
    until("the journal", || {
        let left = names(out.path());
        left.iter().any(|name| name.ends_with(".journal")) && {
            fs::read_to_string(journal(out.path())).unwrap().contains("closed")
        }
    });
    // A changed staged file is read again; it may still be locked for a moment.
    let touched = OpenOptions::new().write(true).open(staged_file(out.path())).unwrap();
    touched.set_modified(std::time::UNIX_EPOCH).unwrap();
    until("it to go on", || announce().1 == rest);
    // An unchanged one is not.
    let mut going_on = None;
    until("it to go on", || {
        let (peer, wanted) = announce();
        going_on = Some(peer);
        wanted == rest
    });
    let mut peer = going_on.unwrap();
    let zeros = vec![0; PART as usize];
    let md5 = ftx::digest::Md5::of(&zeros);
    peer.send_json(&format!(
        r#"{{"ftx":"part","entry":0,"part":{},"size":{PART},"md5":"{md5}"}}"#,
        parts - 1
    ));
    peer.stream.write_all(&zeros).unwrap();
    assert!(matches!(peer.next_message(), Some(Message::Stored { .. })));
    assert_eq!(fs::metadata(out.path().join("f")).unwrap().len(), parts * PART);
    // The existing file is compared with the offers.
    let (mut peer, offers) = announce();
    assert_eq!(offers, WantedParts::Offers);
    peer.send_json(&hole(parts));
    assert_eq!(wanted(&mut peer), WantedParts::None);
    assert!(matches!(peer.next_message(), Some(Message::Stored { .. })));
    receiver.kill();
}

/// The receiver's `want`. A receiver that is stuck in work sends only keepalives.
fn wanted(peer: &mut Raw) -> WantedParts {
    loop {
        match peer.next_message().expect("an answer") {
            Message::Want { parts, .. } => return parts,
            message => assert!(matches!(message, Message::Welcome(_)), "{message:?}"),
        }
    }
}

fn file_at(path: &Path, buffer: &mut [u8], offset: u64) {
    File::open(path).unwrap().read_exact_at(buffer, offset).unwrap();
}

/// Random cuts, changes, corruption and truncation; the stored file is the one that was sent last.
#[test]
fn randomly_cut_and_damaged_files_arrive_complete() {
    let rounds = rounds(6);
    let (mut cuts, mut harms, mut moved_parts, mut fresh_parts) = (0, 0, 0.0, 0.0);
    let mut is_unchanged = false;
    for round in 0..rounds as u64 {
        let mut random = Random::new(round * 7919 + 11);
        let dir = tempfile::tempdir().unwrap();
        let (out, source) = (dir.path().join("out"), dir.path().join("file"));
        let parts = 2 + random.below(5);
        let size = parts * PART - random.below(PART);
        random_file(&source, size, round);
        let mut states = 1;
        for _ in 0..1 + random.below(3) {
            if !is_cut(&out, &source, random.below(size)) {
                break;
            }
            cuts += 1;
            let hidden: Vec<String> =
                names(&out).into_iter().filter(|name| name.starts_with(".ftx-part-")).collect();
            if !hidden.is_empty() && random.below(2) == 0 {
                harms += 1;
                let path = out.join(random.pick(&hidden));
                let len = fs::metadata(&path).unwrap().len();
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                match random.below(3) {
                    0 => file.set_len(random.below(len + 1)).unwrap(),
                    1 => {
                        let at = random.below(len.max(1));
                        let count = 1 + random.below(5000);
                        file.write_all_at(&random.bytes(count as usize), at).unwrap();
                    }
                    _ => fs::remove_file(&path).unwrap(),
                }
            }
            if random.below(4) == 0 {
                let file = OpenOptions::new().write(true).open(&source).unwrap();
                file.write_all_at(&random.bytes(100), random.below(size - 100)).unwrap();
                states += 1;
            }
        }
        let (moved, _) = send_whole(&out, &source);
        moved_parts += moved as f64 / PART as f64;
        fresh_parts += size as f64 / PART as f64;
        assert!(fs::read(out.join("file")).unwrap() == fs::read(&source).unwrap(), "round {round}");
        // Staged files of other versions are kept until they expire.
        let named: Vec<String> =
            names(&out).into_iter().filter(|name| !name.starts_with(".ftx-part-")).collect();
        assert_eq!(named, ["file"], "round {round}");
        if states == 1 {
            assert_eq!(names(&out).len(), 1, "round {round}");
            is_unchanged = true;
        }
    }
    assert!(is_unchanged);
    report_figures(&format!(
        "resume: {rounds} files, {cuts} cuts, {harms} times harmed; the last attempts moved {moved_parts:.0} of \
         {fresh_parts:.0} parts; nothing wrong"
    ));
}

#[test]
fn staged_file_is_removed_once_the_file_exists() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.img");
    random_file(&source, 3 * PART, 8);
    for (is_held, out) in [(true, dir.path().join("held")), (false, dir.path().join("free"))] {
        send_cut(&out, &source, 2 * PART + 1000);
        fs::copy(&source, out.join("disk.img")).unwrap();
        let held = File::open(staged_file(&out)).unwrap();
        if is_held {
            held.lock().unwrap();
        }
        let receiver = Receiver::start(&out, &["--once"]);
        let sent = send(&[], &[&source], &receiver.host());
        assert_eq!((sent.code, receiver.wait().code), (0, 0), "{}", sent.stderr);
        assert_eq!(names(&out).len(), if is_held { 3 } else { 1 }, "{:?}", names(&out));
    }
}

#[test]
fn receiver_lists_unfinished_files_and_removes_old_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (out, source) = (dir.path().join("out"), dir.path().join("folder"));
    fs::create_dir(&source).unwrap();
    random_file(&source.join("disk.img"), 3 * PART, 7);
    send_cut(&out, &source, 2 * PART + 1000);
    // Entries that only have the name of a staged file are not removed.
    symlink("/dev/null", out.join(".ftx-part-link")).unwrap();
    fs::create_dir(out.join(".ftx-part-folder")).unwrap();
    for (days, words, left) in [
        ("7", "Unfinished: folder/disk.img, 16.78 MB of 25.17 MB received ", 2),
        ("0", "Removed partial file", 0),
    ] {
        let mut receiver = Receiver::start(&out, &["--keep-unfinished", days]);
        receiver.wait_for(words);
        if left > 0 {
            receiver.wait_for(" s ago, kept for 6 more days. Send it again to resume.\n");
        }
        receiver.kill();
        assert_eq!(fs::read_dir(out.join("folder")).unwrap().count(), left);
    }
    assert_eq!(names(&out), [".ftx-part-folder", ".ftx-part-link", "folder"]);
}
