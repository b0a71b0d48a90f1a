//! **Promised: no half files**, whenever either program is killed with `kill -9`. A proxy kills the receiver, the
//! sender or both when a chosen number of bytes has passed, in either direction.
//!
//! After a kill each final name is absent or complete. The same transfer to a new receiver then completes, and the trees
//! are equal. A killed receiver leaves staged files, at most one per entry in flight; a killed sender leaves none.
//!
//! If a file were written under its final name, or renamed before it is verified, a kill would expose it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::proofs::{
    Random, assert_absent_or_complete, contents, is_long_run, is_staged, report_figures, rounds, run_parallel,
};
use crate::common::proxy::{Action, Proxy, Way};
use crate::common::{Receiver, end, names, pid, send, start_send, until};
use ftx::digest::PART_BYTES;
use rustix::process::{Signal, kill_process};

#[derive(Clone, Copy, Debug)]
enum Victim {
    Receiver,
    Sender,
    Both,
}

/// Which program is killed, and when.
#[derive(Clone, Copy, Debug)]
struct Kill {
    victim: Victim,
    way: Way,
    after_bytes: u64,
}

const SMALL_FILES: usize = 150;

/// About 9.5 MB: many small files, one of 300 kB, one of two parts, a sparse one, a link.
fn make_tree(t: &Path) {
    let mut random = Random::new(12);
    fs::create_dir_all(t.join("d/e")).unwrap();
    for number in 0..SMALL_FILES {
        let size = random.below(6000) as usize;
        let folder = ["", "d/", "d/e/"][number % 3];
        fs::write(t.join(format!("{folder}{number}")), random.bytes(size)).unwrap();
    }
    fs::write(t.join("middle"), random.bytes(300_000)).unwrap();
    fs::write(t.join("large"), random.bytes(PART_BYTES as usize + 200_000)).unwrap();
    fs::File::create(t.join("holes")).unwrap().set_len(2 * PART_BYTES).unwrap();
    symlink("d/1", t.join("link")).unwrap();
}

/// Bytes in each direction of a complete transfer.
fn lengths(from: &Path) -> [u64; 2] {
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(out.path(), &["--once"]);
    let passed = Arc::new(Mutex::new([0, 0]));
    let counting = Arc::clone(&passed);
    let proxy = Proxy::start(receiver.port, move |piece| {
        counting.lock().unwrap()[usize::from(piece.way == Way::ToSender)] += piece.bytes.len() as u64;
        Action::Pass
    });
    assert_eq!(send(&[], &[&from.join("t")], &proxy.host()).code, 0);
    assert_eq!(receiver.wait().code, 0);
    drop(proxy);
    *passed.lock().unwrap()
}

/// One transfer with a kill. Returns whether the kill interrupted it, and the number of staged files that are left.
fn cut(from: &Path, out: &Path, kill: Kill) -> (bool, usize) {
    let whole = contents(from);
    let receiver = Receiver::start(out, &[]);
    let receiver_pid = receiver.pid();
    // The proxy needs the sender's pid, and the sender needs the proxy's address.
    let sender_pid = Arc::new(Mutex::new(None));
    let to_kill = Arc::clone(&sender_pid);
    let mut passed = 0;
    let proxy = Proxy::start(receiver.port, move |piece| {
        if piece.way != kill.way {
            return Action::Pass;
        }
        let before = passed;
        passed += piece.bytes.len() as u64;
        if before <= kill.after_bytes && kill.after_bytes < passed {
            if !matches!(kill.victim, Victim::Sender) {
                kill_process(receiver_pid, Signal::KILL).unwrap();
            }
            if !matches!(kill.victim, Victim::Receiver)
                && let Some(pid) = *to_kill.lock().unwrap()
            {
                kill_process(pid, Signal::KILL).unwrap();
            }
        }
        Action::Pass
    });
    let sent = {
        let mut slot = sender_pid.lock().unwrap();
        let sender = start_send(&[&from.join("t")], &proxy.host());
        *slot = Some(pid(&sender));
        drop(slot);
        end(sender)
    };
    if sent.code == 0 {
        // The transfer ended before the kill.
        assert_eq!(without_staged(out), whole, "{sent:?}");
    }
    if matches!(kill.victim, Victim::Sender) {
        // The receiver removes its staged files, except those that can be resumed.
        let is_left = |name: &String| is_staged(name) && !name.contains("/.ftx-part-");
        until("the staged files to be removed", || !names(out).iter().any(is_left));
    }
    let killed = receiver.kill_and_wait();
    assert!(!killed.stderr.contains("panicked"), "{killed:?}");
    drop(proxy);
    (sent.code != 0, assert_absent_or_complete(out, &whole, &(kill, sent)))
}

fn without_staged(out: &Path) -> BTreeMap<String, String> {
    contents(out).into_iter().filter(|(name, _)| !is_staged(name)).collect()
}

/// Sends the same tree to a new receiver, which completes.
fn complete(from: &Path, out: &Path) {
    let receiver = Receiver::start(out, &[]);
    let sent = send(&[], &[&from.join("t")], &receiver.host());
    assert_eq!(sent.code, 0, "{sent:?}");
    receiver.kill();
    assert_eq!(without_staged(out), contents(from));
}

fn random_kill(random: &mut Random, [to_receiver, to_sender]: [u64; 2]) -> Kill {
    let victim = *random.pick(&[Victim::Receiver, Victim::Receiver, Victim::Sender, Victim::Both]);
    let (way, after_bytes) = match random.below(4) {
        // The receiver's frames are few, and close to each commit.
        0 => (Way::ToSender, random.below(to_sender)),
        // Small files are sent first or last; the large one has most of the bytes.
        1 => (Way::ToReceiver, random.below(to_receiver / 10)),
        2 => (Way::ToReceiver, to_receiver - 1 - random.below(to_receiver / 10)),
        _ => (Way::ToReceiver, random.below(to_receiver)),
    };
    Kill { victim, way, after_bytes }
}

#[test]
fn after_a_kill_each_name_is_absent_or_complete() {
    let from = tempfile::tempdir().unwrap();
    make_tree(&from.path().join("t"));
    let lengths = lengths(from.path());
    let mut random = Random::new(13);
    let kills: Vec<Kill> = (0..rounds(24)).map(|_| random_kill(&mut random, lengths)).collect();
    let (cuts, left, most) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    run_parallel(&kills, 4, |kill| {
        let out = tempfile::tempdir().unwrap();
        let (was_cut, staged) = cut(from.path(), out.path(), *kill);
        cuts.fetch_add(usize::from(was_cut), Ordering::Relaxed);
        left.fetch_add(staged, Ordering::Relaxed);
        most.fetch_max(staged, Ordering::Relaxed);
        complete(from.path(), out.path());
    });
    let cuts = cuts.into_inner();
    assert!(cuts * 2 > kills.len(), "most transfers ended before the kill: {cuts} of {}", kills.len());
    report_figures(&format!(
        "kills: {} rounds, {cuts} cut a transfer, {left:?} staged files left, at most {most:?} in a round",
        kills.len()
    ));
}

/// Repeated kills in one directory: each leaves at most one staged file per entry in flight.
#[test]
fn repeated_kills_leave_a_bounded_number_of_staged_files() {
    let from = tempfile::tempdir().unwrap();
    make_tree(&from.path().join("t"));
    let entries = contents(from.path()).len();
    let lengths = lengths(from.path());
    let mut random = Random::new(14);
    let out = tempfile::tempdir().unwrap();
    let all = rounds(6).min(if is_long_run() { 200 } else { 6 });
    let mut before = 0;
    for _ in 0..all {
        let kill = Kill { victim: Victim::Receiver, ..random_kill(&mut random, lengths) };
        let (_, staged) = cut(from.path(), out.path(), kill);
        assert!(staged <= before + entries, "{} new staged files for {entries} entries", staged - before);
        before = staged;
        // The next round sends everything again.
        for name in names(out.path()).iter().filter(|name| !is_staged(name)) {
            let _ = fs::remove_file(out.path().join(name));
        }
    }
    complete(from.path(), out.path());
    let staged = names(out.path()).iter().filter(|name| is_staged(name)).count();
    report_figures(&format!(
        "kills in one folder: {all} rounds, {staged} staged files are left after a clean transfer"
    ));
}
