//! **Promised: a final name is absent, or the old file, or the complete verified file**, at whichever step storing a file
//! stops.
//!
//! The steps are named in `src/dest/local/mod.rs`. For each step `strace` kills the receiver at the entry of the system call
//! that begins the next step; in a second run that call fails. The trace shows that this call was hit and no other. The
//! tables say what is on the disk then, and sending the same again must complete.
//!
//! If a file were renamed before its bytes were written or synced, a row of the tables would not hold; if the remains of a
//! kill blocked the next attempt, that attempt would fail.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use crate::common::proofs::{
    Random, Strace, can_trace, contents, is_staged, report_figures, rounds, run_parallel,
};
use crate::common::proxy::{Action, Place, Proxy, Way};
use crate::common::{Ended, Receiver, end, names, send, start_send};
use ftx::digest::PART_BYTES;

/// What is transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Small enough to be verified in memory.
    Small,
    /// One part, written directly to its staged file.
    Middle,
    /// Several parts.
    Large,
    /// Replaces an existing file.
    Over,
    /// Several parts; the connection is cut before the last one.
    Cut,
    /// The missing part of `Cut`.
    Resumed,
    /// The same, after a stored part has been damaged.
    Damaged,
    /// A link in a directory.
    Link,
}

/// What is under the final name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FinalName {
    Absent,
    Old,
    Whole,
}

/// What is under hidden names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    /// An incomplete staged file.
    Begun,
    /// A complete staged file.
    Complete,
    /// A link.
    Link,
    /// A staged file with a journal.
    Journalled,
    /// A staged file with a journal and the journal's replacement.
    Rejournalled,
    /// A journal alone.
    Journal,
}

/// A finished step, and the nth call of a thread that begins the next one, identified by a word in its arguments.
#[derive(Clone, Copy, Debug)]
struct Row {
    step: &'static str,
    call: &'static str,
    nth: u32,
    word: &'static str,
    state: FinalName,
    left: Left,
    /// The sender's exit code if the call fails instead.
    code: i32,
}

const fn row(
    step: &'static str,
    (call, nth, word): (&'static str, u32, &'static str),
    state: FinalName,
    left: Left,
) -> Row {
    Row { step, call, nth, word, state, left, code: 23 }
}

impl Row {
    const fn failing_with(self, code: i32) -> Row {
        Row { code, ..self }
    }
}

use FinalName::{Absent, Old, Whole};
use Left::{Begun, Complete, Nothing};

/// After the last byte all files go through the same steps.
const NAMED: [Row; 4] = [
    row("mode and time set", ("fsync", 1, ".ftx-"), Absent, Complete),
    row("synced", ("renameat2", 1, ".ftx-"), Absent, Complete),
    row("named", ("fsync", 2, "/out>"), Whole, Nothing),
    row("folder synced", ("sendto", 1, "stored"), Whole, Nothing).failing_with(10),
];
const SMALL: [Row; 2] = [
    row("created", ("pwrite64", 1, ".ftx-"), Absent, Begun),
    row("written", ("utimensat", 1, ".ftx-"), Absent, Complete),
];
const MIDDLE: [Row; 3] = [
    row("created", ("splice", 1, "SPLICE_F"), Absent, Begun).failing_with(10),
    row("written and verified", ("fchmod", 1, ".ftx-"), Absent, Complete),
    row("mode set", ("utimensat", 1, ".ftx-"), Absent, Complete),
];
const LARGE: [Row; 4] = [
    row("created", ("flock", 1, ".ftx-part-"), Absent, Begun).failing_with(0),
    row("locked", ("unlinkat", 1, ".journal"), Absent, Begun).failing_with(0),
    row("written and verified", ("fchmod", 1, ".ftx-part-"), Absent, Complete),
    row("mode set", ("utimensat", 1, ".ftx-part-"), Absent, Complete),
];
const OVER: [Row; 3] = [
    row("synced", ("renameat2", 1, ".ftx-"), Old, Complete),
    row("found taken", ("renameat", 1, ".ftx-"), Old, Complete),
    row("replaced", ("fsync", 2, "/out>"), Whole, Nothing),
];
/// The sender is gone: no answer is sent.
const CUT: [Row; 6] = [
    row("cut", ("fdatasync", 1, ".ftx-part-"), Absent, Begun).failing_with(10),
    row("parts synced", ("openat", 3, ".journal"), Absent, Begun).failing_with(10),
    row("journal created", ("write", 2, ".journal"), Absent, Left::Journalled).failing_with(10),
    row("journal begun", ("write", 3, ".journal"), Absent, Left::Journalled).failing_with(10),
    row("journalled", ("fdatasync", 2, ".journal"), Absent, Left::Journalled).failing_with(10),
    row("journal synced", ("fsync", 1, "/out>"), Absent, Left::Journalled).failing_with(10),
];
const RESUMED: [Row; 3] = [
    row("synced", ("renameat2", 1, ".ftx-part-"), Absent, Left::Journalled),
    row("named", ("unlinkat", 1, ".journal"), Whole, Left::Journal).failing_with(0),
    row("journal removed", ("fsync", 2, "/out>"), Whole, Nothing),
];
const DAMAGED: [Row; 2] = [
    row("journalled anew", ("fdatasync", 1, ".journal.new"), Absent, Left::Rejournalled).failing_with(0),
    row("journal synced anew", ("renameat", 1, ".journal.new"), Absent, Left::Rejournalled).failing_with(0),
];
const LINK: [Row; 8] = [
    row("folder made", ("symlinkat", 1, ".ftx-"), Absent, Nothing),
    row("made", ("utimensat", 1, ".ftx-"), Absent, Left::Link),
    row("time set", ("renameat2", 1, ".ftx-"), Absent, Left::Link),
    row("named", ("fchmod", 1, "/out/d>"), Whole, Nothing),
    row("mode of the folder set", ("utimensat", 2, "/out/d>"), Whole, Nothing),
    row("time of the folder set", ("fsync", 1, "/out>"), Whole, Nothing),
    row("name of the folder synced", ("fsync", 2, "/out/d>"), Whole, Nothing),
    row("folder synced", ("sendto", 1, "stored"), Whole, Nothing).failing_with(10),
];

fn table() -> Vec<(What, Row)> {
    let of = |what, rows: &[Row]| rows.iter().map(|row| (what, *row)).collect::<Vec<_>>();
    [
        of(What::Small, &SMALL),
        of(What::Small, &NAMED),
        of(What::Middle, &MIDDLE),
        of(What::Middle, &NAMED),
        of(What::Large, &LARGE),
        of(What::Large, &NAMED),
        of(What::Over, &OVER),
        of(What::Cut, &CUT),
        of(What::Resumed, &RESUMED),
        of(What::Damaged, &DAMAGED),
        of(What::Link, &LINK),
    ]
    .concat()
}

/// What is sent, and what its name holds in the end.
struct Source {
    path: PathBuf,
    /// The path in the output directory that the rows are about.
    name: &'static str,
    size: u64,
}

impl Source {
    fn new(dir: &Path, what: What, random: &mut Random) -> Self {
        let size = match what {
            What::Small => 1 + random.below(100_000),
            What::Middle | What::Over => 300_000 + random.below(1_000_000),
            What::Large => PART_BYTES + 1 + random.below(PART_BYTES),
            What::Cut | What::Resumed | What::Damaged => 2 * PART_BYTES + 500_000,
            What::Link => {
                fs::create_dir_all(dir.join("d")).unwrap();
                symlink("nowhere", dir.join("d/l")).unwrap();
                return Source { path: dir.join("d"), name: "d/l", size: 0 };
            }
        };
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("f"), random.bytes(size as usize)).unwrap();
        Source { path: dir.join("f"), name: "f", size }
    }
}

fn attach(receiver: &Receiver, row: &Row, deed: &str, trace: &Path) -> Strace {
    let calls = format!("trace={}", row.call);
    let inject = format!("inject={}:{deed}:when={}", row.call, row.nth);
    Strace::attach(receiver.pid(), &["-s", "200", "-e", &calls, "-e", &inject], trace)
}

/// Holds the sender back at the first frame that makes the receiver act, until `attach` returns; cuts the connection after
/// a number of bytes of bodies.
fn send_held(
    receiver: &Receiver,
    what: What,
    source: &Source,
    attach: impl FnOnce() -> Strace,
) -> (Ended, Strace) {
    let (held, hold) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let at = if [What::Link, What::Damaged].contains(&what) { "entry" } else { "part" };
    let (mut waits, mut passed) = (true, 0);
    let proxy = Proxy::start(receiver.port, move |piece| {
        if piece.way == Way::ToReceiver && waits && piece.frame.is_some_and(|frame| frame["ftx"] == at) {
            waits = false;
            let _ = held.send(());
            let _ = released.recv_timeout(Duration::from_secs(60));
        }
        if piece.way == Way::ToReceiver && piece.place == Place::Body {
            passed += piece.bytes.len() as u64;
            if what == What::Cut && passed > 2 * PART_BYTES + 1000 {
                return Action::Cut;
            }
        }
        Action::Pass
    });
    let sender = start_send(&[&source.path], &proxy.host());
    hold.recv_timeout(Duration::from_secs(60)).expect("the sender begins");
    // By then the receiver has answered the earlier frames.
    std::thread::sleep(Duration::from_millis(50));
    let attached = attach();
    release.send(()).unwrap();
    (end(sender), attached)
}

/// What is under the final name and under hidden names.
fn look(out: &Path, source: &Source) -> (FinalName, Left) {
    let is_whole = |path: &Path| fs::read(path).unwrap() == fs::read(&source.path).unwrap();
    let path = out.join(source.name);
    let state = match fs::symlink_metadata(&path) {
        Err(_) => FinalName::Absent,
        Ok(metadata) if metadata.is_symlink() => {
            assert_eq!(fs::read_link(&path).unwrap(), Path::new("nowhere"));
            FinalName::Whole
        }
        Ok(_) if fs::read(&path).unwrap() == b"old" => FinalName::Old,
        Ok(_) => {
            assert!(is_whole(&path), "it has its name and is not whole");
            FinalName::Whole
        }
    };
    let hidden: Vec<PathBuf> =
        names(out).into_iter().filter(|name| is_staged(name)).map(|name| out.join(name)).collect();
    let is_journal = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "journal");
    let left = match &hidden[..] {
        [] => Left::Nothing,
        [one] if is_journal(one) => Left::Journal,
        [one] if fs::symlink_metadata(one).unwrap().is_symlink() => Left::Link,
        [one] if is_whole(one) => Left::Complete,
        [one] => {
            assert!(fs::metadata(one).unwrap().len() <= source.size);
            Left::Begun
        }
        [one, other] if !is_journal(one) && is_journal(other) => Left::Journalled,
        [one, other, new] if !is_journal(one) && is_journal(other) && !is_journal(new) => Left::Rejournalled,
        more => panic!("{more:?}"),
    };
    (state, left)
}

fn policy(what: What) -> &'static str {
    if what == What::Over { "overwrite" } else { "skip-same" }
}

/// Creates what exists before the receiver under test starts.
fn prepare(out: &Path, what: What, source: &Source) {
    fs::create_dir(out).unwrap();
    match what {
        What::Over => fs::write(out.join("f"), "old").unwrap(),
        What::Resumed | What::Damaged => {
            let mut receiver = Receiver::start(out, &[]);
            let mut passed = 0;
            let proxy = Proxy::start(receiver.port, move |piece| {
                passed += if piece.place == Place::Body { piece.bytes.len() as u64 } else { 0 };
                if passed > 2 * PART_BYTES + 1000 { Action::Cut } else { Action::Pass }
            });
            assert_ne!(send(&[], &[&source.path], &proxy.host()).code, 0);
            receiver.wait_for("ftx: 127.0.0.1: ");
            receiver.kill();
            assert_eq!(look(out, source), (FinalName::Absent, Left::Journalled));
            if what == What::Damaged {
                let is_staged = |name: &String| !name.ends_with(".journal");
                let landing = names(out).into_iter().find(is_staged).unwrap();
                let landing = fs::OpenOptions::new().write(true).open(out.join(landing)).unwrap();
                landing.write_all_at(b"damage", 5).unwrap();
            }
        }
        _ => {}
    }
}

/// Sends the same to a new or the same receiver, which completes.
fn completes(receiver: Receiver, out: &Path, source: &Source, context: &dyn std::fmt::Debug) {
    let sent = send(&[], &[&source.path], &receiver.host());
    let killed = receiver.kill_and_wait();
    assert_eq!(sent.code, 0, "{context:?}: {sent:?} {killed:?}");
    assert!(!killed.stderr.contains("panicked"), "{killed:?}");
    let whole = contents(source.path.parent().unwrap());
    let state = contents(out).into_iter().filter(|(name, _)| !is_staged(name)).collect();
    assert_eq!(whole, state, "{context:?}");
}

/// Checks that the trace shows a hit of the intended call.
fn hit(trace: &Path, row: &Row, sign: &str) -> Result<(), String> {
    let trace = fs::read_to_string(trace).unwrap();
    let call = format!("{}(", row.call);
    // Keepalives come at any time.
    let meant = |line: &str| line.contains(&call) && line.contains(row.word);
    let (lines, hit): (Vec<_>, bool) = match sign {
        "(INJECTED)" => (trace.lines().filter(|line| line.contains(sign)).collect(), true),
        _ => (trace.lines().filter(|line| line.contains(&call)).collect(), trace.contains(sign)),
    };
    match lines.last() {
        Some(last) if hit && meant(last) => Ok(()),
        _ => Err(trace),
    }
}

fn kill_at(what: What, row: &Row, random: &mut Random) {
    for attempt in 1.. {
        let dir = tempfile::tempdir().unwrap();
        let (out, trace) = (dir.path().join("out"), dir.path().join("trace"));
        let source = Source::new(&dir.path().join("from"), what, random);
        prepare(&out, what, &source);
        let receiver = Receiver::start(&out, &["--on-conflict", policy(what)]);
        let attach = || attach(&receiver, row, "signal=KILL", &trace);
        let (sent, attached) = send_held(&receiver, what, &source, attach);
        // The receiver was killed, unless another call was hit.
        let ended = receiver.wait_or_kill();
        attached.end();
        if let Err(trace) = hit(&trace, row, "+++ killed by SIGKILL +++") {
            assert!(attempt < 8, "{row:?} was not hit: {trace} {sent:?} {ended:?}");
            continue;
        }
        assert_eq!(ended.code, -1, "{what:?}, {}: {ended:?}", row.step);
        assert_ne!(sent.code, 0, "{what:?}, {}: {sent:?}", row.step);
        assert_eq!(look(&out, &source), (row.state, row.left), "{what:?}, {}: {sent:?}", row.step);
        let again = Receiver::start(&out, &["--on-conflict", policy(what)]);
        return completes(again, &out, &source, &(what, row.step));
    }
}

fn fail_at(what: What, row: &Row, random: &mut Random) {
    for attempt in 1.. {
        let dir = tempfile::tempdir().unwrap();
        let (out, trace) = (dir.path().join("out"), dir.path().join("trace"));
        let source = Source::new(&dir.path().join("from"), what, random);
        prepare(&out, what, &source);
        let mut receiver = Receiver::start(&out, &["--on-conflict", policy(what)]);
        let attach = || attach(&receiver, row, "error=EIO", &trace);
        let (sent, attached) = send_held(&receiver, what, &source, attach);
        if sent.code == 10 {
            // The sender ends before the receiver has finished.
            receiver.wait_for("ftx: 127.0.0.1: ");
        }
        attached.detach();
        if let Err(trace) = hit(&trace, row, "(INJECTED)") {
            assert!(attempt < 8, "{row:?} was not hit: {trace} {sent:?}");
            continue;
        }
        assert_eq!(sent.code, row.code, "{what:?}, {}: {sent:?}", row.step);
        let (state, left) = look(&out, &source);
        // Where the failed call loses nothing, the entry is stored.
        assert_eq!(
            state,
            if row.code == 0 { FinalName::Whole } else { row.state },
            "{what:?}, {}: {sent:?}",
            row.step
        );
        // Only what the next attempt can resume stays.
        let may_stay = [Left::Nothing, Left::Journalled, Left::Journal].contains(&left);
        assert!(
            may_stay && (left == Left::Nothing || [What::Cut, What::Resumed].contains(&what)),
            "{what:?}, {}: {left:?}",
            row.step
        );
        return completes(receiver, &out, &source, &(what, row.step));
    }
}

#[test]
fn at_each_step_a_final_name_is_absent_or_old_or_complete() {
    if !can_trace("landing_steps") {
        return;
    }
    let table = table();
    let all = rounds(1);
    for round in 0..all {
        run_parallel(&table, 4, |(what, row)| {
            let mut random = Random::new(15 + round as u64);
            kill_at(*what, row, &mut random);
            fail_at(*what, row, &mut random);
        });
    }
    report_figures(&format!(
        "staging steps: {} steps, each {all} times with a kill and with an error; each final name as the tables say",
        table.len()
    ));
}

/// The receiver is killed when it has sent `stored`; the entry is there even if the frame was not received.
#[test]
fn killed_after_stored_the_entry_is_there() {
    for what in [What::Small, What::Middle, What::Large, What::Over, What::Link] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let source = Source::new(&dir.path().join("from"), what, &mut Random::new(16));
        prepare(&out, what, &source);
        let receiver = Receiver::start(&out, &["--on-conflict", policy(what)]);
        let pid = receiver.pid();
        let proxy = Proxy::start(receiver.port, move |piece| {
            if piece.frame.is_some_and(|frame| frame["ftx"] == "stored") {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            }
            Action::Pass
        });
        let sent = send(&[], &[&source.path], &proxy.host());
        assert_eq!(receiver.wait().code, -1, "{sent:?}");
        assert_eq!(look(&out, &source), (FinalName::Whole, Left::Nothing), "{sent:?}");
        completes(Receiver::start(&out, &["--on-conflict", policy(what)]), &out, &source, &what);
    }
}
