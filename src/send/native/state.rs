//! The state that the threads of one session share.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::super::error::SendError;
use super::carry_over::CarryOver;
use super::entry::InFlightEntry;
use super::source_file::{SessionHasher, SourceFile};
use crate::busy_time::Stopwatch;
use crate::event::{Reporter, Summary};
use crate::md5sum::FileHasher;
use crate::net::{Connection, Shutdown};
use crate::sync::{self, CancelToken};
use crate::sys::process::random_bytes;
use crate::wire::message::Receipt;
use crate::wire::sender::SenderSession;
use crate::wire::{EntryId, SessionId};

/// The state under its lock, and what the threads use without the lock.
pub struct SessionShared<'a> {
    state: Mutex<SessionState>,
    /// Notified at every change of the state that a thread can wait for.
    changed: Condvar,
    /// Signals the primary writer that the session has output. The queue has one place: a second signal adds nothing.
    control_tx: Sender<()>,
    pub progress: &'a dyn Reporter,
    pub hasher: SessionHasher<'a>,
    pub timeout: Duration,
    pub cancel: &'a CancelToken,
    /// Time that the loader spends reading and hashing, and the writers with their connections.
    pub reading: Stopwatch,
    pub md5: Stopwatch,
    pub writing: Stopwatch,
}

pub struct SessionState {
    pub session: SenderSession,
    pub in_flight: HashMap<EntryId, InFlightEntry>,
    pub summary: Summary,
    /// See [`CarryOver::kept_bytes`].
    pub kept_bytes: u64,
    /// Set once, at the end of the session.
    pub outcome: Option<Result<(), SendError>>,
    /// How long the receiver's first answer took, and whether it accepts further connections.
    pub welcome: Option<(Duration, bool)>,
    /// The session has no more output after what it has now.
    pub is_closing: bool,
    pub receipt: Option<Receipt>,
    /// Connections beside the primary one.
    pub secondary: Vec<Connection>,
    pub started: Instant,
    /// When the primary writer last took output.
    pub last_output: Instant,
}

impl<'a> SessionShared<'a> {
    /// A new session, which continues the last one of `carry_over`.
    pub fn new(
        control_tx: Sender<()>,
        carry_over: &mut CarryOver,
        progress: &'a dyn Reporter,
        hasher: &'a FileHasher<'a, SourceFile>,
        timeout: Duration,
        cancel: &'a CancelToken,
    ) -> Result<Self, SendError> {
        let id = SessionId::new(random_bytes().map_err(|error| SendError::Connection(error.into()))?);
        let now = Instant::now();
        let state = SessionState {
            session: SenderSession::new(id, carry_over.last_session),
            in_flight: HashMap::new(),
            summary: Summary { confirmed: true, ..std::mem::take(&mut carry_over.summary) },
            kept_bytes: 0,
            outcome: None,
            welcome: None,
            is_closing: false,
            receipt: None,
            secondary: Vec::new(),
            started: now,
            last_output: now,
        };
        Ok(SessionShared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            control_tx,
            progress,
            hasher: SessionHasher::new(hasher, carry_over.announced_before),
            timeout,
            cancel,
            reading: Stopwatch::default(),
            md5: Stopwatch::default(),
            writing: Stopwatch::default(),
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, SessionState> {
        sync::lock(&self.state)
    }

    /// Wakes the threads that wait for a change of the state.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits for a change of the state, at most for `limit`.
    pub fn wait<'s>(
        &self,
        state: MutexGuard<'s, SessionState>,
        limit: Duration,
    ) -> MutexGuard<'s, SessionState> {
        sync::wait_timeout(&self.changed, state, limit)
    }

    /// Ends the session; the first outcome counts.
    pub fn end(&self, outcome: Result<(), SendError>) {
        self.lock().outcome.get_or_insert(outcome);
        self.notify();
    }

    /// Has the primary writer take the session's output.
    pub fn wake_writer(&self) {
        // A full queue wakes it as well. Why the queue is closed is found by the receive loop.
        let _ = self.control_tx.try_send(());
    }

    /// Takes the session's output to write it; `true` if it is the last. The announcer is notified that there is room.
    pub fn take_output(&self) -> (Vec<u8>, bool) {
        let mut state = self.lock();
        let output = state.session.take_output();
        if !output.is_empty() {
            state.last_output = Instant::now();
            self.notify();
        }
        (output, state.is_closing)
    }

    /// Adds a further connection; `false` if the session has ended.
    pub fn add_secondary(&self, connection: Connection) -> bool {
        let mut state = self.lock();
        let is_running = state.outcome.is_none();
        if is_running {
            state.secondary.push(connection);
        }
        is_running
    }

    /// Ends the writers, and closes all connections but the primary one.
    pub fn close_all(&self) {
        let mut state = self.lock();
        state.is_closing = true;
        for connection in &state.secondary {
            let _ = connection.shutdown(Shutdown::Both);
        }
        drop(state);
        self.wake_writer();
        self.notify();
    }

    /// Queues the error that ended the session as its last output, if the receiver has to be informed. `true` if the
    /// last output is queued or was sent.
    pub fn send_error(&self) -> bool {
        let mut state = self.lock();
        if state.is_closing {
            return true;
        }
        let Some(Err(error)) = &state.outcome else { return false };
        let Some(code) = error.code_for_receiver() else { return false };
        let reason = error.to_string();
        state.session.abort(code, &reason);
        state.is_closing = true;
        drop(state);
        self.wake_writer();
        true
    }

    pub fn into_state(self) -> SessionState {
        sync::into_inner(self.state)
    }
}
