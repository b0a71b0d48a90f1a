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
#[derive(Debug)]
pub struct Joined {
    pub input: Input,
    /// Whoever accepted the connection waits until this is dropped.
    _open: Sender<()>,
}

/// All sessions in work.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<HashMap<SessionId, Door>>);

/// How connections come into a session.
#[derive(Debug)]
struct Door {
    queue: Sender<Joined>,
    /// How many more may come.
    places: usize,
}

/// Where connections join a session; nobody can any more once it is dropped.
pub struct Entrance<'a> {
    sessions: &'a Sessions,
    id: SessionId,
    queue: Receiver<Joined>,
}

impl Sessions {
    /// Lets further connections join a new session.
    pub fn open(&self, id: SessionId) -> Result<Entrance<'_>, RecvError> {
        // There is room for all who may come, so that no one waits here.
        let (sender, queue) = bounded(MAX_JOINED);
        match self.lock().entry(id) {
            // Not by accident: 128 random bits.
            std::collections::hash_map::Entry::Occupied(_) => {
                return Err(WireError::Protocol("there is a session of that name already".into()).into());
            }
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(Door { queue: sender, places: MAX_JOINED })
            }
        };
        Ok(Entrance { sessions: self, id, queue })
    }

    /// Hands a connection over to its session and waits until it is done with it; or gives it back with the reason.
    pub fn join(&self, id: SessionId, input: Input) -> Result<(), Box<(Input, RecvError)>> {
        let (open, done) = bounded(0);
        let refused = |why: &str, input| Err(Box::new((input, WireError::Protocol(why.into()).into())));
        let mut sessions = self.lock();
        let Some(door) = sessions.get_mut(&id) else {
            return refused("it joins a session that is not in work here", input);
        };
        if door.places == 0 {
            return refused("its session takes no more connections", input);
        }
        door.places -= 1;
        // If the session ends meanwhile, so does the wait.
        let _ = door.queue.send(Joined { input, _open: open });
        drop(sessions);
        // Nothing is ever sent: this ends when the other half is dropped.
        let _ = done.recv();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Door>> {
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
