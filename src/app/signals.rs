//! Ctrl-C (SIGINT) and SIGTERM end the program within a second, regularly if possible.
//!
//! ```text
//! signal ──▶ cancel token ──▶ every session ends as after a failure, and its destructors run
//!        └─▶ second signal, or [`GRACE`] is over ──▶ forced exit, whatever other threads wait for
//! ```
//!
//! No handler is installed: the signals are blocked in all threads and read from a descriptor, so that no system call of
//! the program is interrupted by them.

use std::io;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::exit_code::ExitCode;
use crate::report::{ForcedExit, InterruptNotice};
use crate::sync::CancelToken;
use crate::sys::signals::{SignalReader, Termination};
use crate::temp_dirs;

/// Time for a regular end.
const GRACE: Duration = Duration::from_millis(750);
/// Time for the last lines of a forced exit: the output may be blocked too.
const NOTICE_TIMEOUT: Duration = Duration::from_millis(150);
/// A second signal within this time is the same keystroke: a terminal signals all processes of a job, and programs such
/// as `timeout` and many wrapper scripts forward it.
const DUPLICATE_SIGNAL_WINDOW: Duration = Duration::from_millis(100);

/// The signals of this process.
#[derive(Debug)]
pub struct Signals {
    cancel: CancelToken,
    exit: Arc<OnceLock<ExitCode>>,
}

impl Signals {
    /// Takes over SIGINT and SIGTERM. Call it before threads start: they inherit the signal mask.
    ///
    /// # Errors
    ///
    /// No descriptor or thread is left.
    pub fn install(notice: InterruptNotice) -> io::Result<Self> {
        let cancel = CancelToken::new()?;
        let exit = Arc::new(OnceLock::new());
        let reader = Arc::new(SignalReader::block()?);
        let signals = Signals { cancel: cancel.clone(), exit: Arc::clone(&exit) };
        let watched = Arc::clone(&reader);
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || watch(&watched, &cancel, &exit, &notice))
            .inspect_err(|_| reader.unblock())?;
        Ok(signals)
    }

    /// Cancelled by the first signal.
    pub fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// The exit code of a program that was ended by a signal.
    pub fn exit(&self) -> ExitCode {
        self.exit.get().copied().unwrap_or(ExitCode::Interrupted)
    }
}

fn watch(
    reader: &SignalReader,
    cancel: &CancelToken,
    first_exit: &OnceLock<ExitCode>,
    notice: &InterruptNotice,
) {
    let exit = match reader.next(None) {
        Some(Termination::Interrupt) => ExitCode::Interrupted,
        Some(Termination::Terminate) => ExitCode::Terminated,
        None => return,
    };
    let _ = first_exit.set(exit);
    let start = Instant::now();
    cancel.cancel();
    let reason = loop {
        match reader.next(Some(GRACE.saturating_sub(start.elapsed()))) {
            Some(_) if start.elapsed() < DUPLICATE_SIGNAL_WINDOW => {}
            Some(_) => break ForcedExit::SecondSignal,
            None if start.elapsed() >= GRACE => break ForcedExit::Timeout,
            None => {}
        }
    };
    force_exit(exit, notice, reason);
}

/// Ends the process, whatever its other threads wait for: a disk, a resolver, a blocked output.
#[allow(clippy::exit)] // The main thread may be blocked and cannot return.
fn force_exit(exit: ExitCode, notice: &InterruptNotice, reason: ForcedExit) -> ! {
    let (done, finished) = mpsc::channel();
    let notice = notice.clone();
    let thread = thread::Builder::new().name("forced-exit".into()).spawn(move || {
        temp_dirs::remove_all();
        notice.forced_exit(reason);
        let _ = done.send(());
    });
    if thread.is_ok() {
        let _ = finished.recv_timeout(NOTICE_TIMEOUT);
    }
    std::process::exit(exit as i32)
}
