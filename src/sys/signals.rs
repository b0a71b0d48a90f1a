//! SIGINT and SIGTERM, read from a descriptor instead of delivered to a handler.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A signal that asks the process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Termination {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

/// Reads the blocked signals of this process.
#[derive(Debug)]
pub struct SignalReader {
    fd: SignalFd,
    set: SigSet,
}

impl SignalReader {
    /// Blocks SIGINT and SIGTERM, except those that this process was started to ignore, as shells do for background
    /// jobs. Blocks SIGXFSZ too: a write beyond the file size limit then fails with an error instead of ending the
    /// process. Call it before threads start: they inherit the signal mask.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn block() -> io::Result<Self> {
        let ignored = ignored_signals();
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            if ignored & (1 << (signal as u32 - 1)) == 0 {
                set.add(signal);
            }
        }
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        SigSet::from(Signal::SIGXFSZ).thread_block()?;
        set.thread_block()?;
        Ok(SignalReader { fd, set })
    }

    /// Restores the default delivery of SIGINT and SIGTERM in this thread.
    pub fn unblock(&self) {
        let _ = self.set.thread_unblock();
    }

    /// Waits for the next signal, at most for `limit`. `None` if the time is up or the descriptor failed.
    pub fn next(&self, limit: Option<Duration>) -> Option<Termination> {
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        loop {
            match self.fd.read_signal() {
                Ok(Some(signal)) if signal.ssi_signo == Signal::SIGTERM as u32 => {
                    return Some(Termination::Terminate);
                }
                Ok(Some(_)) => return Some(Termination::Interrupt),
                Ok(None) => {}
                Err(_) => return None,
            }
            let mut ready = [PollFd::from_borrowed_fd(self.fd.as_fd(), PollFlags::IN)];
            if poll(&mut ready, limit.as_ref()) == Ok(0) {
                return None;
            }
        }
    }
}

/// The signals that this process ignores, as bits: `SigIgn` of proc(5). The system calls for it also change the handler.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}
