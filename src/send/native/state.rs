//! What the threads of a native sender share.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{SendTimeoutError, Sender};

use super::super::SendError;
use super::whole::Whole;
use super::writer::Outgoing;
use crate::digest::Md5;
use crate::fault::Fault;
use crate::md5sum::Lister;
use crate::plan::Source;
use crate::progress::{Progress, Summary};
use crate::relpath::RelPath;
use crate::wire::sender::SenderSession;
use crate::wire::{EntryId, WireError};

/// How often a thread that waits for the writer looks whether the session is over.
const LOOK_UP: Duration = Duration::from_millis(200);
/// Output of the session that may wait before the writer is told.
const SPEAK_BYTES: usize = 32 << 10;

/// The session and everything that goes with it, and a bell that rings when any of it changed.
pub struct Shared<'a> {
    state: Mutex<State>,
    changed: Condvar,
    pub progress: &'a dyn Progress,
    /// Tells of the files that are stored.
    pub lister: &'a Lister<'a, Whole>,
    pub timeout: Duration,
}

pub struct State {
    pub session: SenderSession,
    /// Entries in flight.
    pub announced: HashMap<EntryId, Announced>,
    pub summary: Summary,
    pub outcome: Option<Result<(), SendError>>,
    /// When anything was last given to the writer.
    spoke: Instant,
    /// The writer knows that the session has something to say.
    told: bool,
}

impl State {
    /// How long until the receiver needs a sign of life; says it when the time has come.
    fn pulse(&mut self, pulse: Duration) -> Duration {
        if self.spoke.elapsed() >= pulse {
            self.session.busy();
            self.spoke = Instant::now();
        }
        pulse.saturating_sub(self.spoke.elapsed())
    }
}

/// An entry in flight, as this side knows it.
pub enum Announced {
    /// The MD5 is that of a file of one part, once this was hashed.
    File {
        source: Arc<Source>,
        moved_bytes: u64,
        already_there: bool,
        md5: Option<Md5>,
    },
    Other(RelPath),
}

impl Announced {
    pub fn file(source: Arc<Source>) -> Self {
        Announced::File { source, moved_bytes: 0, already_there: false, md5: None }
    }

    pub fn name(&self) -> &RelPath {
        match self {
            Announced::File { source, .. } => &source.name,
            Announced::Other(name) => name,
        }
    }
}

impl<'a> Shared<'a> {
    pub fn new(progress: &'a dyn Progress, lister: &'a Lister<'a, Whole>, timeout: Duration) -> Self {
        let state = State {
            session: SenderSession::new(),
            announced: HashMap::new(),
            summary: Summary { confirmed: true, ..Summary::default() },
            outcome: None,
            spoke: Instant::now(),
            told: false,
        };
        Shared { state: Mutex::new(state), changed: Condvar::new(), progress, lister, timeout }
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
    pub fn wait<'s>(&self, state: MutexGuard<'s, State>, limit: Duration) -> MutexGuard<'s, State> {
        self.changed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0
    }

    /// What the session has to say, to be sent; rings, because there is room for more now.
    pub fn take_output(&self) -> Vec<u8> {
        let mut state = self.lock();
        let output = state.session.take_output();
        if !output.is_empty() {
            state.spoke = Instant::now();
            state.told = false;
            self.ring();
        }
        output
    }

    /// Has the writer send what the session has to say.
    pub fn speak(&self, outgoing: &Sender<Outgoing>) {
        // A writer that is gone has left the reason in the outcome, or the ear is about to find it. One that is stuck
        // must not keep this thread from seeing that the session is over.
        while let Err(SendTimeoutError::Timeout(_)) = outgoing.send_timeout(Outgoing::Words, LOOK_UP) {
            if self.lock().outcome.is_some() {
                return;
            }
        }
    }

    /// Waits until another entry may be announced; `None` when the session is over. The receiver gets a sign of life
    /// meanwhile, whatever rings the bell in between.
    pub fn wait_for_room(
        &self,
        outgoing: &Sender<Outgoing>,
        pulse: Duration,
    ) -> Option<MutexGuard<'_, State>> {
        let mut state = self.lock();
        loop {
            if state.outcome.is_some() {
                return None;
            }
            if state.session.has_room() && state.session.output_len() < SPEAK_BYTES {
                return Some(state);
            }
            state = self.speak_or_wait(state, outgoing, pulse);
        }
    }

    /// Waits for the receipt or a failure, with signs of life.
    pub fn wait_for_the_end(&self, pulse: Duration, outgoing: &Sender<Outgoing>) {
        let mut state = self.lock();
        while state.outcome.is_none() {
            state = self.speak_or_wait(state, outgoing, pulse);
        }
    }

    /// Sends what there is to say, or waits for the bell or the next sign of life.
    fn speak_or_wait<'s>(
        &'s self,
        mut state: MutexGuard<'s, State>,
        outgoing: &Sender<Outgoing>,
        pulse: Duration,
    ) -> MutexGuard<'s, State> {
        let until_pulse = state.pulse(pulse);
        if state.session.output_len() > 0 && !state.told {
            state.told = true;
            drop(state);
            self.speak(outgoing);
            return self.lock();
        }
        self.wait(state, until_pulse)
    }

    /// Has this side found a reason to end the session that the receiver does not know?
    pub fn give_up(&self) -> bool {
        let mut state = self.lock();
        let (fault, reason) = match &state.outcome {
            Some(Err(SendError::Wire(WireError::PeerGaveUp { .. }))) => return false,
            Some(Err(error @ SendError::Wire(WireError::Version { .. }))) => {
                (Fault::Version, error.to_string())
            }
            Some(Err(error @ SendError::Wire(_))) => (Fault::Protocol, error.to_string()),
            Some(Err(error @ SendError::Silent(_))) => (Fault::Timeout, error.to_string()),
            _ => return false,
        };
        state.session.give_up(fault, &reason);
        true
    }

    pub fn into_outcome(self) -> Result<Summary, SendError> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let open = state.announced.len() as u64;
        state.outcome.unwrap_or(Err(SendError::Closed { unconfirmed: open })).map(|()| state.summary)
    }
}
