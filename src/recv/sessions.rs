//! The sessions in work, and how further connections find theirs.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::RecvError;
use super::input::Input;
use crate::wire::{SessionId, WireError};

/// Connections that may join one session.
pub const MAX_JOINED: usize = 7;

/// A connection that joined a session.
pub struct Joined {
    pub input: Input,
    /// Whoever accepted the connection waits until this is dropped.
    _open: Sender<()>,
}

/// All sessions in work.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<HashMap<SessionId, Sender<Joined>>>);

/// Where connections join a session; nobody can any more once it is dropped.
pub struct Entrance<'a> {
    sessions: &'a Sessions,
    id: SessionId,
    queue: Receiver<Joined>,
}

impl Sessions {
    /// Lets further connections join a new session.
    pub fn open(&self, id: SessionId) -> Result<Entrance<'_>, RecvError> {
        let (sender, queue) = bounded(MAX_JOINED);
        match self.lock().entry(id) {
            // Not by accident: 128 random bits.
            std::collections::hash_map::Entry::Occupied(_) => {
                return Err(WireError::Protocol("there is a session of that name already".into()).into());
            }
            std::collections::hash_map::Entry::Vacant(place) => place.insert(sender),
        };
        Ok(Entrance { sessions: self, id, queue })
    }

    /// Hands a connection over to its session and waits until it is done with it; or gives it back with the reason.
    pub fn join(&self, id: SessionId, input: Input) -> Result<(), Box<(Input, RecvError)>> {
        let (open, done) = bounded(0);
        let session = self.lock().get(&id).cloned();
        let refused = |why: &str, input| Err(Box::new((input, WireError::Protocol(why.into()).into())));
        let Some(session) = session else {
            return refused("it joins a session that is not in work here", input);
        };
        match session.try_send(Joined { input, _open: open }) {
            Ok(()) => {}
            Err(error) => return refused("its session takes no more connections", error.into_inner().input),
        }
        drop(session);
        // Nothing is ever sent: this ends when the other half is dropped.
        let _ = done.recv();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Sender<Joined>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entrance<'_> {
    /// Those who come in.
    pub fn queue(&self) -> Receiver<Joined> {
        self.queue.clone()
    }
}

impl Drop for Entrance<'_> {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.id);
    }
}
