//! How a session ends.

use std::sync::{Mutex, MutexGuard};

use crate::recv::error::RecvError;
use crate::sync::{CancelToken, DropGuard, lock};

/// The first outcome that any thread reports, and the token that ends the reading of all connections.
pub struct SessionOutcome {
    done: CancelToken,
    outcome: Mutex<Option<Result<(), RecvError>>>,
}

impl SessionOutcome {
    /// No outcome yet.
    ///
    /// # Errors
    ///
    /// The system has no descriptor for the token.
    pub fn new() -> Result<Self, RecvError> {
        Ok(SessionOutcome {
            done: CancelToken::new().map_err(RecvError::NoThread)?,
            outcome: Mutex::default(),
        })
    }

    /// Cancelled when nothing more is to be read.
    pub fn done(&self) -> &CancelToken {
        &self.done
    }

    /// Ends the reading on all connections; the first outcome counts.
    pub fn end(&self, outcome: Result<(), RecvError>) {
        self.lock().get_or_insert(outcome);
        self.done.cancel();
    }

    /// Ends the session if one of its threads failed.
    pub fn end_if_failed(&self, result: Result<(), RecvError>) {
        if result.is_err() {
            self.end(result);
        }
    }

    /// Ends the session if the calling thread panics while it holds the guard: other threads may wait for that thread.
    pub fn end_on_panic(&self) -> DropGuard<impl FnOnce()> {
        DropGuard::new(|| {
            if std::thread::panicking() {
                self.end(Err(RecvError::Panicked));
            }
        })
    }

    /// The outcome; a session that nothing has ended was cut.
    pub fn take(&self) -> Result<(), RecvError> {
        self.lock().take().unwrap_or_else(|| Err(RecvError::Truncated("the session".into())))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Result<(), RecvError>>> {
        lock(&self.outcome)
    }
}
