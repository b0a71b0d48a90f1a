//! Sessions that count towards `--count` and whose sender may reconnect after it has lost the connection.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::net::Peer;
use crate::recv::error::RecvError;
use crate::recv::failure_log::FailureLog;
use crate::wire::SessionId;

/// All counted sessions by their id.
#[derive(Debug, Default)]
pub struct ResumableSessions(HashMap<SessionId, ResumableSession>);

#[derive(Debug)]
struct ResumableSession {
    sender: SenderPresence,
    failures: FailureLog,
}

#[derive(Debug)]
enum SenderPresence {
    Connected,
    /// The connection was lost, and its thread has ended.
    Lost(LostSession),
    /// The sender has reconnected before the end of its first connection was noticed.
    Reattached,
}

/// A session whose connection was lost and whose sender may reconnect. It holds no thread and no connection.
#[derive(Debug)]
pub struct LostSession {
    pub peer: Peer,
    /// How it was lost.
    pub error: Box<RecvError>,
    /// How long its sender has to reconnect, in all.
    pub wait: Duration,
    pub deadline: Instant,
}

impl ResumableSessions {
    /// Adds a session, with the log of its failures. `false` if its id is in use; ids are random.
    pub fn track(&mut self, id: SessionId, failures: FailureLog) -> bool {
        let is_new = !self.0.contains_key(&id);
        let session = ResumableSession { sender: SenderPresence::Connected, failures };
        self.0.entry(id).or_insert(session);
        is_new
    }

    /// The sender of a session has reconnected: the new connection takes over the failure log, and the session's part in
    /// `active`. `None` if there is no such session, or it was taken over before.
    pub fn reattach(&mut self, id: SessionId) -> Option<FailureLog> {
        let session = self.0.get_mut(&id)?;
        match session.sender {
            SenderPresence::Connected => {
                session.sender = SenderPresence::Reattached;
                Some(session.failures.clone())
            }
            SenderPresence::Lost(_) => self.0.remove(&id).map(|session| session.failures),
            SenderPresence::Reattached => None,
        }
    }

    /// May the sender of this session still reconnect?
    pub fn may_reattach(&self, id: SessionId) -> bool {
        self.0.get(&id).is_some_and(|session| matches!(session.sender, SenderPresence::Connected))
    }

    /// The connection of a session was lost. Of more than `limit` lost sessions, the one with the nearest deadline expires now.
    pub fn detach(&mut self, id: SessionId, lost: LostSession, limit: usize) {
        if let Some(session) = self.0.get_mut(&id) {
            session.sender = SenderPresence::Lost(lost);
        }
        let lost = self.0.values_mut().filter_map(|session| session.sender.lost_mut());
        let mut lost: Vec<&mut LostSession> = lost.collect();
        if lost.len() > limit
            && let Some(first) = lost.iter_mut().min_by_key(|lost| lost.deadline)
        {
            first.deadline = Instant::now();
        }
    }

    /// Removes the lost sessions whose deadline has passed, or all of them.
    pub fn take_expired(&mut self, now: Instant, all: bool) -> Vec<LostSession> {
        let is_expired = |session: &ResumableSession| {
            session.sender.lost().is_some_and(|lost| all || lost.deadline <= now)
        };
        let expired = self.0.extract_if(|_, session| is_expired(session));
        expired.filter_map(|(_, session)| session.sender.into_lost()).collect()
    }

    /// A session has ended; `true` if its sender has reconnected, so that it goes on elsewhere.
    pub fn finish(&mut self, id: SessionId) -> bool {
        self.0.remove(&id).is_some_and(|session| matches!(session.sender, SenderPresence::Reattached))
    }

    /// The nearest deadline of a lost session.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.0.values().filter_map(|session| session.sender.lost()).map(|lost| lost.deadline).min()
    }
}

impl SenderPresence {
    fn lost(&self) -> Option<&LostSession> {
        if let SenderPresence::Lost(lost) = self { Some(lost) } else { None }
    }

    fn lost_mut(&mut self) -> Option<&mut LostSession> {
        if let SenderPresence::Lost(lost) = self { Some(lost) } else { None }
    }

    fn into_lost(self) -> Option<LostSession> {
        if let SenderPresence::Lost(lost) = self { Some(lost) } else { None }
    }
}
