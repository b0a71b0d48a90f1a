//! **Promised: exit code 0 means that everything is stored**, under any fault of a system call. `strace` fails the nth call
//! of a kind with a chosen error, in either program, while a small tree is sent.
//!
//! Checked after each fault: exit code 0 of the sender means that the trees are identical; each final name is absent or
//! complete; a failed sync is never followed by 0; neither program panics or hangs; and the receiver, which keeps running,
//! stores the same tree of the next sender completely.
//!
//! If an error of a sync, a write or a rename were ignored, a round would end with 0 and missing data, or with 0 after a
//! failed sync.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crate::common::proofs::{
    Random, Strace, assert_absent_or_complete, can_trace, contents, is_long_run, report_figures, rounds,
    run_parallel,
};
use crate::common::{Ended, FTX, Receiver, end, listing, send};
use ftx::digest::PART_BYTES;

/// Which program's calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Receiver,
    Sender,
}

/// The nth call of a kind fails in each thread; with `for_good` all later ones fail as well.
#[derive(Clone, Copy, Debug)]
struct SyscallFault {
    victim: Victim,
    calls: &'static str,
    errno: &'static str,
    nth: u64,
    for_good: bool,
}

/// Calls, their plausible errors, and the highest n in the long form.
const OF_BOTH: [(&str, &[&str], u64); 6] = [
    ("openat,openat2", &["EACCES", "EIO", "EMFILE", "ENFILE", "ENOMEM", "EINTR", "ENOENT", "ELOOP"], 8),
    ("statx,fstat,newfstatat", &["EIO", "EACCES", "ENOMEM", "ENOENT"], 4),
    ("pread64,read", &["EIO", "EINTR", "EISDIR"], 4),
    ("recvfrom", &["ECONNRESET", "EINTR", "EIO", "ENOMEM"], 6),
    ("sendto", &["EPIPE", "ECONNRESET", "EINTR", "ENOMEM", "ENOBUFS"], 5),
    ("setsockopt,shutdown,dup,fcntl", &["ENOMEM", "ENOTCONN", "EMFILE"], 6),
];
const OF_RECEIVER: [(&str, &[&str], u64); 16] = [
    // A body moves from the socket to its file through a pipe.
    ("splice", &["ENOSPC", "EIO", "EINVAL", "EDQUOT", "EINTR", "EFBIG"], 12),
    ("pipe2,eventfd2", &["EMFILE", "ENFILE"], 2),
    ("close", &["EIO", "EINTR"], 6),
    ("write,pwrite64", &["ENOSPC", "EIO", "EDQUOT", "EINTR", "EFBIG"], 10),
    ("fchmod", &["EPERM", "EIO", "EROFS"], 8),
    ("utimensat", &["EPERM", "EIO", "EROFS"], 6),
    ("fsync,fdatasync,syncfs", &["EIO", "ENOSPC", "EDQUOT"], 6),
    ("renameat,renameat2", &["EIO", "ENOSPC", "EACCES", "EROFS", "EINVAL", "EEXIST", "ENOENT"], 8),
    ("mkdirat", &["ENOSPC", "EACCES", "EROFS", "EMLINK", "EEXIST", "EIO"], 4),
    ("symlinkat,linkat,unlinkat,readlinkat", &["ENOSPC", "EACCES", "EIO", "EROFS"], 4),
    ("ftruncate,fallocate", &["ENOSPC", "EFBIG", "EIO"], 2),
    (
        "accept4",
        &["EMFILE", "ENFILE", "ECONNABORTED", "ENOMEM", "EINTR", "EPERM", "EPROTO", "EHOSTUNREACH"],
        2,
    ),
    ("getrandom", &["EINTR", "ENOSYS"], 3),
    ("flock", &["ENOLCK", "EINTR", "EIO", "EAGAIN"], 2),
    // The type of the file system and its free space.
    ("statfs,fstatfs", &["EIO", "EINTR", "ENOSYS"], 4),
    ("faccessat,faccessat2", &["EIO", "EINTR", "EACCES", "EROFS", "ENOSYS"], 1),
];
const OF_SENDER: [(&str, &[&str], u64); 4] = [
    // Not EIO: the standard library panics when closing a directory fails. Closing a file can fail, because of write-back;
    // no known file system fails to close a directory.
    ("close", &["EINTR"], 6),
    ("sendfile", &["EIO", "EINVAL", "ENOSYS", "EINTR", "ENOMEM", "EPIPE"], 6),
    // Not ENOENT, which a removed directory returns for being empty.
    ("getdents64,lseek", &["EIO", "EACCES"], 4),
    ("connect,socket", &["ECONNREFUSED", "EMFILE", "ENETUNREACH", "EINTR"], 1),
];
const SYNCS: &str = "fsync,fdatasync,syncfs";

fn all_faults() -> Vec<SyscallFault> {
    let mut faults = Vec::new();
    let both = [Victim::Receiver, Victim::Sender].into_iter().flat_map(|v| OF_BOTH.map(|row| (v, row)));
    let receiver = OF_RECEIVER.into_iter().map(|row| (Victim::Receiver, row));
    let sender = OF_SENDER.into_iter().map(|row| (Victim::Sender, row));
    for (victim, (calls, errnos, upto)) in both.chain(receiver).chain(sender) {
        for errno in errnos {
            for nth in 1..=upto {
                faults.push(SyscallFault { victim, calls, errno, nth, for_good: false });
            }
            // No system interrupts every call.
            if *errno != "EINTR" {
                faults.push(SyscallFault { victim, calls, errno, nth: 1 + upto / 4, for_good: true });
            }
        }
    }
    faults
}

impl SyscallFault {
    /// What strace is to do.
    fn args(&self) -> [String; 6] {
        let until = match self.for_good {
            // Limited, because a receiver that is in a failing accept4 when strace detaches gets ENOSYS.
            true if self.calls == "accept4" => "..20",
            true => "+",
            false => "",
        };
        let trace = format!("trace={}", self.calls);
        let inject = format!("inject={}:error={}:when={}{until}", self.calls, self.errno, self.nth);
        ["-e".into(), trace, "-e".into(), inject, "-e".into(), "signal=none".into()]
    }
}

struct Tree {
    from: PathBuf,
    whole: BTreeMap<String, String>,
    listing: Vec<String>,
}

fn make_tree(from: &Path) -> Tree {
    let mut random = Random::new(10);
    let t = from.join("t");
    fs::create_dir_all(t.join("d/e")).unwrap();
    fs::create_dir_all(t.join("empty")).unwrap();
    for number in 0..12 {
        fs::write(t.join(format!("d/{number}")), random.bytes(number * 100)).unwrap();
    }
    fs::write(t.join("d/e/one"), "one").unwrap();
    fs::set_permissions(t.join("d/e/one"), fs::Permissions::from_mode(0o754)).unwrap();
    fs::write(t.join("middle"), random.bytes(500_000)).unwrap();
    fs::write(t.join("large"), random.bytes(PART_BYTES as usize + 1000)).unwrap();
    fs::File::create(t.join("holes")).unwrap().set_len(PART_BYTES + 100).unwrap();
    symlink("d/1", t.join("link")).unwrap();
    Tree { from: from.to_owned(), whole: contents(from), listing: listing(from) }
}

fn send_under(fault: SyscallFault, tree: &Tree, host: &str, trace: &Path) -> Ended {
    let mut command = Command::new("strace");
    command
        .args(["-f", "-y", "-o"])
        .arg(trace)
        .args(fault.args())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command.arg(FTX).args(["send", "--retries", "0", "--timeout", "3"]).arg(tree.from.join("t")).arg(host);
    end(command.stderr(Stdio::piped()).spawn().unwrap())
}

/// Counts over all rounds.
#[derive(Default)]
struct Statistics {
    rounds: usize,
    injected: usize,
    met: usize,
    survived: usize,
    codes: BTreeMap<i32, usize>,
    /// Rounds that hit each kind of call.
    kinds: BTreeMap<String, usize>,
}

fn run_with_fault(fault: SyscallFault, tree: &Tree, statistics: &Mutex<Statistics>) {
    let dir = tempfile::tempdir().unwrap();
    let (out, trace) = (dir.path().join("out"), dir.path().join("trace"));
    let receiver = Receiver::start(&out, &["--timeout", "3"]);
    let sent = match fault.victim {
        Victim::Receiver => {
            let attached = Strace::attach(receiver.pid(), &fault.args(), &trace);
            let paths = [&*tree.from.join("t")];
            let sent = send(&["--retries", "0", "--timeout", "3"], &paths, &receiver.host());
            attached.detach();
            sent
        }
        Victim::Sender => send_under(fault, tree, &receiver.host(), &trace),
    };
    let log = fs::read_to_string(&trace).unwrap();
    let injected = log.lines().filter(|line| line.contains("(INJECTED)")).count();
    assert_absent_or_complete(&out, &tree.whole, &(fault, &sent));
    if sent.code == 0 {
        assert!(listing(&out) == tree.listing, "0, but not everything is there: {sent:?}");
        assert!(fault.calls != SYNCS || injected == 0, "0 after a sync that failed: {sent:?}");
    }
    assert!(!sent.stderr.contains("panicked"), "{sent:?}");
    // Without the fault the next sender is served, and missing entries arrive.
    let again = send(&[], &[&tree.from.join("t")], &receiver.host());
    let killed = receiver.kill_and_wait();
    assert!(!killed.stderr.contains("panicked"), "{killed:?}");
    assert_eq!(again.code, 0, "the next sender: {again:?} {killed:?}");
    let received: BTreeMap<_, _> =
        contents(&out).into_iter().filter(|(name, _)| !crate::common::proofs::is_staged(name)).collect();
    assert_eq!(received, tree.whole, "after the next sender");
    let mut statistics = statistics.lock().unwrap();
    statistics.rounds += 1;
    statistics.injected += injected;
    statistics.met += usize::from(injected > 0);
    statistics.survived += usize::from(injected > 0 && sent.code == 0);
    *statistics.kinds.entry(format!("{:?} {}", fault.victim, fault.calls)).or_default() +=
        usize::from(injected > 0);
    *statistics.codes.entry(sent.code).or_default() += 1;
}

#[test]
fn exit_code_0_means_complete_under_any_system_call_fault() {
    if !can_trace("syscall_faults") {
        return;
    }
    let from = tempfile::tempdir().unwrap();
    let tree = make_tree(from.path());
    let mut faults = all_faults();
    let mut random = Random::new(11);
    if let Ok(only) = std::env::var("FTX_CALLS") {
        faults.retain(|fault| fault.calls.contains(&only));
    }
    let wanted = rounds(36).min(faults.len());
    // At random, but each kind of call of each side in turn.
    for index in 0..faults.len() {
        let other = index + random.below((faults.len() - index) as u64) as usize;
        faults.swap(index, other);
    }
    let mut turns: BTreeMap<(bool, &str), usize> = BTreeMap::new();
    faults.sort_by_cached_key(|fault| {
        let turn = turns.entry((fault.victim == Victim::Sender, fault.calls)).or_default();
        *turn += 1;
        *turn
    });
    faults.truncate(wanted);
    let statistics = Mutex::default();
    run_parallel(&faults, if is_long_run() { 6 } else { 4 }, |fault| {
        run_with_fault(*fault, &tree, &statistics)
    });
    let statistics = statistics.into_inner().unwrap();
    let never: Vec<_> = statistics.kinds.iter().filter(|(_, met)| **met == 0).map(|(kind, _)| kind).collect();
    report_figures(&format!("kinds of calls that were never met: {never:?}"));
    assert!(
        statistics.met * 2 > statistics.rounds,
        "most faults were never met: {} of {}",
        statistics.met,
        statistics.rounds
    );
    report_figures(&format!(
        "faults: {} rounds, {} met with {} failed calls, {} of them ended with 0 and everything there; codes {:?}",
        statistics.rounds, statistics.met, statistics.injected, statistics.survived, statistics.codes
    ));
}
