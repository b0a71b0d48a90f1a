//! What the proofs share: how many rounds, chance that can be repeated, and what must hold on disk after any failure.

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

/// Is this the long form?
pub fn is_long() -> bool {
    std::env::var_os("FTX_ROUNDS").is_some()
}

/// What a proof did, in the long form. Written past the test harness, which hides what tests print.
pub fn figures(line: &str) {
    if is_long() {
        let _ = writeln!(std::io::stderr(), "figures: {line}");
    }
}

/// Says that a proof could not run, past the test harness. `FTX_NOT_RUN` names a file that counts them.
pub fn not_run(proof: &str, why: &str) {
    let line = format!("NOT RUN: {proof}: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("FTX_NOT_RUN") {
        let mut list = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        list.write_all(line.as_bytes()).unwrap();
    }
}

/// May this machine trace system calls? If not, `proof` could not run.
pub fn can_trace(proof: &str) -> bool {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).status();
    let can = traced.is_ok_and(|status| status.success());
    if !can {
        not_run(proof, "strace is not installed, or may not trace");
    }
    can
}

/// A strace that is attached to a running program.
pub struct Attached(Child);

impl Attached {
    /// Attaches to a process and all its threads, with further arguments.
    pub fn to(pid: rustix::process::Pid, args: &[impl AsRef<OsStr>], trace: &Path) -> Self {
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
        // It says more with every thread, and would end if nobody took it.
        thread::spawn(move || io::copy(&mut stderr, &mut io::sink()));
        Attached(child)
    }

    /// Lets the program go on by itself.
    pub fn detach(mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "strace was not there to the end");
        rustix::process::kill_process(super::pid(&self.0), rustix::process::Signal::TERM).unwrap();
        self.end();
    }

    /// It ends with the program that it is attached to.
    pub fn end(mut self) {
        super::wait(&mut self.0);
    }
}

/// Numbers by chance, the same ones for the same seed (SplitMix64, Steele et al. 2014).
pub struct Chance(u64);

impl Chance {
    /// `FTX_SEED` shifts all of them.
    pub fn new(seed: u64) -> Self {
        let shift = std::env::var("FTX_SEED").map_or(0, |text| text.parse().expect("FTX_SEED is a number"));
        Chance(seed.wrapping_add(u64::wrapping_mul(shift, 0x9e37_79b9)))
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

/// Does `work` for each item, `at_once` at the same time. The first that fails ends it and says which item it was.
pub fn each<T: Sync + std::fmt::Debug>(items: &[T], at_once: usize, work: impl Fn(&T) + Sync) {
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

/// What lies below a folder, by name: a file's digest, a link's target, a folder. Without mode and time, which a file
/// that was cut off does not have yet.
pub fn contents(root: &Path) -> BTreeMap<String, String> {
    let mut contents = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root).min_depth(1) {
        let entry = match entry {
            Ok(entry) => entry,
            // A landing that was removed meanwhile.
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
        } else if is_landing(&name) {
            "a landing".to_owned()
        } else {
            let content = fs::read(entry.path()).unwrap();
            format!("{} bytes {}", content.len(), Md5::of(&content))
        };
        contents.insert(name, what);
    }
    contents
}

/// The receiver's own hidden names.
pub fn is_landing(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|last| last.starts_with(".ftx-"))
}

/// Every final name below `out` is one of `whole` and holds just what it should; others may be missing. Returns how
/// many landings are left.
pub fn assert_nothing_or_whole(
    out: &Path,
    whole: &BTreeMap<String, String>,
    context: &dyn std::fmt::Debug,
) -> usize {
    let (landings, named): (Vec<_>, Vec<_>) =
        contents(out).into_iter().partition(|(name, _)| is_landing(name));
    for (name, what) in named {
        assert_eq!(Some(&what), whole.get(&name), "{name:?} is neither missing nor whole after {context:?}");
    }
    landings.len()
}
