//! Counts of sessions, and sessions whose sender may reconnect.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::Summary;
use crate::net::Peer;
use crate::recv::admission::{LostSession, SharedAdmission};
use crate::recv::error::RecvError;
use crate::recv::failure_log::FailureLog;
use crate::recv::options::Observer;
use crate::sync::CancelToken;
use crate::wire::SessionId;

/// How long a sender that has lost its connection may take to reconnect before the session is counted as ended.
const RECONNECT_GRACE: Duration = Duration::from_secs(30);

/// A session that counts as active until this is dropped.
pub struct TrackedSession {
    admission: Arc<SharedAdmission>,
    /// Ends the receiver when no further session is wanted.
    stop: CancelToken,
    /// The id by which its sender reconnects, where sessions are counted.
    id: Option<SessionId>,
    pub failures: FailureLog,
    accounting: Accounting,
}

/// What the end of a session counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accounting {
    /// One more session has ended.
    Finished,
    /// No session began: no slot was free.
    NoSession,
    /// It may continue on another connection. It is counted there, or when the time to reconnect is over.
    TakenOver,
}

/// How the waiting for a sender is bounded.
pub struct ReconnectPolicy<'a> {
    pub timeout: Duration,
    /// Cancelled when this program is to end.
    pub cancel: &'a CancelToken,
}

impl ReconnectPolicy<'_> {
    /// The outcome of a session whose sender did not reconnect.
    pub fn expired(&self, lost: LostSession, admission: &SharedAdmission) -> RecvError {
        if self.cancel.is_cancelled() {
            admission.lock().interrupted = true;
            return RecvError::Interrupted;
        }
        RecvError::ReconnectTimeout { lost: lost.error, wait: lost.wait }
    }
}

impl TrackedSession {
    /// A session that was counted as active.
    pub fn new(
        admission: Arc<SharedAdmission>,
        stop: CancelToken,
        id: Option<SessionId>,
        failures: FailureLog,
    ) -> Self {
        TrackedSession { admission, stop, id, failures, accounting: Accounting::Finished }
    }

    /// Reports the outcome of the session, or leaves that to another connection of it.
    pub fn conclude(
        mut self,
        outcome: Result<Summary, RecvError>,
        peer: &Peer,
        policy: &ReconnectPolicy<'_>,
        observer: &dyn Observer,
    ) {
        match &outcome {
            Err(RecvError::Interrupted) => self.admission.lock().interrupted = true,
            Err(error) if error.is_no_session() => self.accounting = Accounting::NoSession,
            _ => {}
        }
        match self.wait_for_sender(outcome, peer, policy, observer) {
            Some(outcome) => observer.ended(peer, &outcome),
            None => self.accounting = Accounting::TakenOver,
        }
    }

    /// The outcome; `None` if the session is taken over, or its sender has time to reconnect.
    fn wait_for_sender(
        &self,
        outcome: Result<Summary, RecvError>,
        peer: &Peer,
        policy: &ReconnectPolicy<'_>,
        observer: &dyn Observer,
    ) -> Option<Result<Summary, RecvError>> {
        let Some(id) = self.id else { return Some(outcome) };
        let outcome = match outcome {
            Err(error) if error.is_lost_connection() && self.admission.lock().may_reattach(id) => {
                let wait = policy.timeout.min(RECONNECT_GRACE);
                observer.lost(peer, &error, wait);
                let deadline = Instant::now() + wait;
                let lost = LostSession { peer: peer.clone(), error: error.into(), wait, deadline };
                match self.admission.update(|now| now.detach(id, lost)) {
                    Ok(()) => return None,
                    Err(lost) => Err(policy.expired(lost, &self.admission)),
                }
            }
            outcome => outcome,
        };
        // The connection that took it over reports its outcome.
        let is_taken_over = self.admission.lock().finish_tracking(id);
        (!is_taken_over).then_some(outcome)
    }
}

impl Drop for TrackedSession {
    fn drop(&mut self) {
        let mut now = self.admission.lock();
        if self.accounting == Accounting::TakenOver || self.id.is_some_and(|id| now.finish_tracking(id)) {
            return;
        }
        now.active -= 1;
        now.finished += u64::from(self.accounting == Accounting::Finished);
        if now.sessions_left() == 0 {
            self.stop.cancel();
        }
    }
}
