//! The last line of an interrupted program: what is done so far, and how to continue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::console::{StdStream, WhenFull};
use super::counters::{Counters, Role};
use super::screen::Screen;

/// Prints the line once, from whichever thread is first. Clones share the counters.
#[derive(Clone, Debug)]
pub struct InterruptNotice {
    screen: Screen,
    quiet: bool,
    shared: Arc<NoticeState>,
}

#[derive(Debug, Default)]
struct NoticeState {
    counters: Counters,
    is_printed: AtomicBool,
}

/// Why the process ends without waiting for its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForcedExit {
    /// A second signal came.
    SecondSignal,
    /// The sessions did not end in time.
    Timeout,
}

impl InterruptNotice {
    /// `quiet` suppresses the line of a receiver.
    pub fn new(screen: Screen, quiet: bool) -> Self {
        InterruptNotice { screen, quiet, shared: Arc::default() }
    }

    /// What all sessions did.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Prints the line, unless it was printed before.
    pub fn print_once(&self) {
        if !self.shared.is_printed.swap(true, Ordering::SeqCst) && !self.is_suppressed() {
            let line = format!("ftx: {}", self.counters().sentence());
            self.screen.line(StdStream::Stderr, &line, WhenFull::Drop);
        }
    }

    /// Clears the bars, prints the line and the reason of the forced exit, and waits until that is written.
    pub fn forced_exit(&self, reason: ForcedExit) {
        self.screen.clear_bars();
        self.print_once();
        let reason = match reason {
            ForcedExit::SecondSignal => "ended at once",
            ForcedExit::Timeout => "forced exit: the disk, the network or the terminal did not respond",
        };
        self.screen.line(StdStream::Stderr, &format!("     {reason}"), WhenFull::Drop);
        self.screen.flush_errors();
    }

    /// An interrupt is the normal end of a receiver: `--quiet` does not print it.
    fn is_suppressed(&self) -> bool {
        self.quiet && matches!(self.counters().role(), Some(Role::Receiver { .. }))
    }
}
