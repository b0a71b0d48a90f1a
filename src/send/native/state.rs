//! What the threads of a native sender share.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;

use super::super::SendError;
use super::writer::Outgoing;
use crate::plan::Source;
use crate::progress::{Progress, Summary};
use crate::relpath::RelPath;
use crate::wire::EntryId;
use crate::wire::sender::SenderSession;

/// Output of the session that may wait before the writer is told.
const SPEAK_BYTES: usize = 32 << 10;

/// The session and everything that goes with it, and a bell that rings when any of it changed.
pub struct Shared<'a> {
    state: Mutex<State>,
    changed: Condvar,
    pub progress: &'a dyn Progress,
    pub timeout: Duration,
}

pub struct State {
    pub session: SenderSession,
    /// Entries in flight.
    pub announced: HashMap<EntryId, Announced>,
    pub summary: Summary,
    pub outcome: Option<Result<(), SendError>>,
}

/// An entry in flight, as this side knows it.
pub enum Announced {
    File { source: Arc<Source>, moved_bytes: u64, already_there: bool },
    Other(RelPath),
}

impl Announced {
    pub fn file(source: Arc<Source>) -> Self {
        Announced::File { source, moved_bytes: 0, already_there: false }
    }

    pub fn name(&self) -> &RelPath {
        match self {
            Announced::File { source, .. } => &source.name,
            Announced::Other(name) => name,
        }
    }
}

impl<'a> Shared<'a> {
    pub fn new(progress: &'a dyn Progress, timeout: Duration) -> Self {
        let state = State {
            session: SenderSession::new(),
            announced: HashMap::new(),
            summary: Summary { confirmed: true, ..Summary::default() },
            outcome: None,
        };
        Shared { state: Mutex::new(state), changed: Condvar::new(), progress, timeout }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something changed that others wait for.
    pub fn ring(&self) {
        self.changed.notify_all();
    }

    /// Ends the session; the first outcome counts.
    pub fn end(&self, outcome: Result<(), SendError>) {
        self.lock().outcome.get_or_insert(outcome);
        self.ring();
    }

    /// Waits until the bell rings or the time is up.
    pub fn wait<'s>(&self, state: MutexGuard<'s, State>, limit: Duration) -> (MutexGuard<'s, State>, bool) {
        let (state, result) = self.changed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner);
        (state, result.timed_out())
    }

    /// What the session has to say, to be sent; rings, because there is room for more now.
    pub fn take_output(&self) -> Vec<u8> {
        let output = self.lock().session.take_output();
        if !output.is_empty() {
            self.ring();
        }
        output
    }

    /// Has the writer send what the session has to say.
    pub fn speak(&self, outgoing: &Sender<Outgoing>) {
        // A writer that is gone has left the reason in the outcome, or the ear is about to find it.
        let _ = outgoing.send(Outgoing::Words);
    }

    /// Waits until another entry may be announced; `None` when the session is over.
    pub fn wait_for_room(
        &self,
        outgoing: &Sender<Outgoing>,
        pulse: Duration,
    ) -> Option<MutexGuard<'_, State>> {
        let mut state = self.lock();
        let mut told = false;
        loop {
            if state.outcome.is_some() {
                return None;
            }
            let much_to_say = state.session.output_len() >= SPEAK_BYTES;
            if state.session.has_room() && !much_to_say {
                return Some(state);
            }
            if !told && state.session.output_len() > 0 {
                drop(state);
                self.speak(outgoing);
                told = true;
                state = self.lock();
                continue;
            }
            let timed_out;
            (state, timed_out) = self.wait(state, pulse);
            if timed_out {
                state.session.busy();
                told = false;
            }
        }
    }

    /// Waits for the receipt or a failure; says a word now and then.
    pub fn wait_for_the_end(&self, pulse: Duration, outgoing: &Sender<Outgoing>) {
        let mut state = self.lock();
        while state.outcome.is_none() {
            let timed_out;
            (state, timed_out) = self.wait(state, pulse);
            if timed_out && state.outcome.is_none() {
                state.session.busy();
                drop(state);
                self.speak(outgoing);
                state = self.lock();
            }
        }
    }

    pub fn into_outcome(self) -> Result<Summary, SendError> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let open = state.announced.len() as u64;
        state.outcome.unwrap_or(Err(SendError::Closed { unconfirmed: open })).map(|()| state.summary)
    }
}
