//! Shared by the proofs: number of rounds, seeded random numbers, and what must hold on disk after any failure.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;

use ftx::digest::Md5;

/// The number of rounds: `FTX_ROUNDS`, or `short` where that is not set.
pub fn rounds(short: usize) -> usize {
    std::env::var("FTX_ROUNDS").map_or(short, |text| text.parse().expect("FTX_ROUNDS is a number"))
}

/// Whether this is the long form.
pub fn is_long_run() -> bool {
    std::env::var_os("FTX_ROUNDS").is_some()
}

/// Prints what a proof did, in the long form only. Written to stderr directly, as the test harness captures `eprintln`.
pub fn report_figures(line: &str) {
    if is_long_run() {
        let _ = writeln!(std::io::stderr(), "figures: {line}");
    }
}

/// Prints that a test could not run, bypassing the harness, and appends the line to the file `FTX_NOT_RUN` if that is set.
pub fn not_run(proof: &str, why: &str) {
    let line = format!("NOT RUN: {proof}: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("FTX_NOT_RUN") {
        let mut list = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        list.write_all(line.as_bytes()).unwrap();
    }
}

/// Whether system calls can be traced here. If not, reports `proof` as not run.
pub fn can_trace(proof: &str) -> bool {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).status();
    let can = traced.is_ok_and(|status| status.success());
    if !can {
        not_run(proof, "strace is not installed, or may not trace");
    }
    can
}

/// A strace attached to a running program.
pub struct Strace(Child);

impl Strace {
    /// Attaches to a process and all its threads, with further arguments.
    pub fn attach(pid: rustix::process::Pid, args: &[impl AsRef<OsStr>], trace: &Path) -> Self {
        let mut child = Command::new("strace")
            .args(["-f", "-y", "-o"])
            .arg(trace)
            .args(args)
            .args(["-p", &pid.as_raw_nonzero().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert!(line.contains("attached"), "{line}");
        // strace prints a line per thread and would end with a closed pipe.
        thread::spawn(move || io::copy(&mut stderr, &mut io::sink()));
        Strace(child)
    }

    /// Detaches; the program continues.
    pub fn detach(mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "strace was not there to the end");
        rustix::process::kill_process(super::pid(&self.0), rustix::process::Signal::TERM).unwrap();
        self.end();
    }

    /// Waits for its end, after the end of the traced program.
    pub fn end(mut self) {
        super::wait(&mut self.0);
    }
}

/// Pseudo-random numbers, the same ones for the same seed (SplitMix64, Steele et al. 2014).
pub struct Random(u64);

impl Random {
    /// `FTX_SEED` changes all sequences.
    pub fn new(seed: u64) -> Self {
        let shift = std::env::var("FTX_SEED").map_or(0, |text| text.parse().expect("FTX_SEED is a number"));
        Random(seed.wrapping_add(u64::wrapping_mul(shift, 0x9e37_79b9)))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `end` - 1
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(count);
        bytes
    }
}

/// Runs `work` for each item on `at_once` threads. The first failure stops the run and reports its item.
pub fn run_parallel<T: Sync + std::fmt::Debug>(items: &[T], at_once: usize, work: impl Fn(&T) + Sync) {
    let next = Mutex::new(0);
    let failed = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let index = {
                        let mut next = next.lock().unwrap();
                        *next += 1;
                        *next - 1
                    };
                    let Some(item) = items.get(index) else { return };
                    if failed.lock().unwrap().is_some() {
                        return;
                    }
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(item))) {
                        let _ = writeln!(std::io::stderr(), "failed in round {index}: {item:?}");
                        *failed.lock().unwrap() = Some(panic);
                    }
                }
            });
        }
    });
    if let Some(panic) = failed.into_inner().unwrap() {
        resume_unwind(panic);
    }
}

/// The entries below `root` by name: a file's length and digest, a link's target, or a directory. Without mode and mtime,
/// which are set last.
pub fn contents(root: &Path) -> BTreeMap<String, String> {
    let mut contents = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root).min_depth(1) {
        let entry = match entry {
            Ok(entry) => entry,
            // A staged file that was removed meanwhile.
            Err(error) if error.io_error().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) => {
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let name = entry.path().strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let what = if entry.file_type().is_dir() {
            "folder".to_owned()
        } else if entry.file_type().is_symlink() {
            format!("-> {}", fs::read_link(entry.path()).unwrap().display())
        } else if is_staged(&name) {
            "a staged file".to_owned()
        } else {
            let content = fs::read(entry.path()).unwrap();
            format!("{} bytes {}", content.len(), Md5::of(&content))
        };
        contents.insert(name, what);
    }
    contents
}

/// Whether a name is one of a staged file or journal.
pub fn is_staged(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|last| last.starts_with(".ftx-"))
}

/// Asserts that every final name below `out` is in `whole` with the same content; names may be missing. Returns the number
/// of staged files and journals.
pub fn assert_absent_or_complete(
    out: &Path,
    whole: &BTreeMap<String, String>,
    context: &dyn std::fmt::Debug,
) -> usize {
    let (staged, named): (Vec<_>, Vec<_>) = contents(out).into_iter().partition(|(name, _)| is_staged(name));
    for (name, what) in named {
        assert_eq!(Some(&what), whole.get(&name), "{name:?} is neither missing nor whole after {context:?}");
    }
    staged.len()
}
