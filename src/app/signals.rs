//! Ctrl-C (SIGINT) and SIGTERM: the end within a second, in good order if that is possible.
//!
//! ```text
//! signal ──▶ rings the bell ──▶ every session ends as it would after a failure, and its destructors run
//!        └─▶ a second one, or [`GRACE`] is over ──▶ the process ends, whatever it waits for
//! ```
//!
//! No handler is installed: the signals are blocked in all threads and read from a descriptor. So no system call in
//! the whole program ever ends early because of them.
//!
//! SIGXFSZ is blocked, too, and not read: a write beyond the limit on file sizes (`ulimit -f`) then fails with an error,
//! which costs one file, where the signal would end the process with all its sessions.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::app::explain::Exit;
use crate::report::{ForcedExit, InterruptNotice};
use crate::sync::CancelToken;
use crate::temp_dirs;

/// What an end in good order may take.
const GRACE: Duration = Duration::from_millis(750);
/// What the last line may take after that: whoever reads it may be stuck, too.
const NOTICE_TIMEOUT: Duration = Duration::from_millis(150);
/// The same signal again within this time is the same keystroke: a terminal sends it to all of a job, and programs such
/// as `timeout` and many a script's wrapper pass it on to the one that they run.
const DUPLICATE_SIGNAL_WINDOW: Duration = Duration::from_millis(100);

/// The signals of this process, from now on.
#[derive(Debug)]
pub struct Signals {
    cancel: CancelToken,
    caught: Arc<OnceLock<Exit>>,
}

impl Signals {
    /// Takes over SIGINT and SIGTERM, but not those that this process was started to ignore, as a shell has it for jobs
    /// in the background. Call it before threads start: they inherit what is blocked.
    ///
    /// # Errors
    ///
    /// The system has no descriptors or threads to give.
    pub fn install(closing: InterruptNotice) -> io::Result<Self> {
        let token = CancelToken::new()?;
        let caught = Arc::new(OnceLock::new());
        let ignored = ignored();
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            if ignored & (1 << (signal as u32 - 1)) == 0 {
                set.add(signal);
            }
        }
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        SigSet::from(Signal::SIGXFSZ).thread_block()?;
        set.thread_block()?;
        let signals = Signals { cancel: token.clone(), caught: Arc::clone(&caught) };
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || watch(&fd, &token, &caught, &closing))
            .inspect_err(|_| {
                let _ = set.thread_unblock();
            })?;
        Ok(signals)
    }

    /// Rung when the program is to end.
    pub fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// The exit code of a program that was ended.
    pub fn exit(&self) -> Exit {
        self.caught.get().copied().unwrap_or(Exit::Interrupted)
    }
}

/// The signals that this process ignores, as bits: `SigIgn` of proc(5). The only way to ask without changing it.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}

fn watch(fd: &SignalFd, token: &CancelToken, caught: &OnceLock<Exit>, closing: &InterruptNotice) {
    let Some(exit) = next(fd, None) else { return };
    let _ = caught.set(exit);
    let begun = Instant::now();
    token.cancel();
    let cut_short = loop {
        match next(fd, Some(GRACE.saturating_sub(begun.elapsed()))) {
            Some(_) if begun.elapsed() < DUPLICATE_SIGNAL_WINDOW => {}
            Some(_) => break ForcedExit::SecondSignal,
            None if begun.elapsed() >= GRACE => break ForcedExit::Timeout,
            None => {}
        }
    };
    force_exit(exit, closing, cut_short);
}

/// Waits for a signal, and tells the exit code that belongs to it; `None` when the time is up.
fn next(fd: &SignalFd, limit: Option<Duration>) -> Option<Exit> {
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    loop {
        match fd.read_signal() {
            Ok(Some(signal)) if signal.ssi_signo == Signal::SIGTERM as u32 => return Some(Exit::Terminated),
            Ok(Some(_)) => return Some(Exit::Interrupted),
            Ok(None) => {}
            Err(_) => return None,
        }
        let mut ready = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
        if poll(&mut ready, limit.as_ref()) == Ok(0) {
            return None;
        }
    }
}

/// Ends the process, whatever its other threads wait for: a disk, a resolver, a reader of our messages.
#[allow(clippy::exit)] // The one place beside `main`: nobody else is left who could return to it.
fn force_exit(exit: Exit, closing: &InterruptNotice, cut_short: ForcedExit) -> ! {
    let (done, finished) = mpsc::channel();
    let last = closing.clone();
    let thread = thread::Builder::new().spawn(move || {
        temp_dirs::remove_all();
        last.forced_exit(cut_short);
        let _ = done.send(());
    });
    if thread.is_ok() {
        let _ = finished.recv_timeout(NOTICE_TIMEOUT);
    }
    std::process::exit(exit as i32)
}
