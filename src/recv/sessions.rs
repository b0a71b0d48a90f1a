//! The sessions in work, and how further connections find theirs.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
    /// Its connections, to end it from outside.
    streams: Vec<Arc<TcpStream>>,
    /// Disconnected once it is over, and all that it kept is kept.
    over: Receiver<()>,
}

/// Where connections join a session; nobody can any more once it is dropped.
pub struct Entrance<'a> {
    sessions: &'a Sessions,
    id: SessionId,
    queue: Receiver<Joined>,
}

/// Held by a session until all that it keeps is kept.
pub struct InWork(#[expect(dead_code, reason = "its end is what counts")] Sender<()>);

/// How long a session that has lost its sender gets to keep what it has.
const TAKE_OVER: Duration = Duration::from_secs(10);

impl Sessions {
    /// Ends a session whose sender has lost the connection, which this side may not have noticed, and waits for its end.
    /// Whoever knows its name is its sender. `false` if there is none of that name.
    pub fn take_over(&self, id: SessionId) -> bool {
        let Some((streams, over)) =
            self.lock().get_mut(&id).map(|door| (std::mem::take(&mut door.streams), door.over.clone()))
        else {
            return false;
        };
        for stream in streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Nothing is ever sent.
        let _ = over.recv_timeout(TAKE_OVER);
        true
    }

    /// Lets so many further connections join a new session.
    pub fn open(
        &self,
        id: SessionId,
        first: Arc<TcpStream>,
        places: usize,
    ) -> Result<(Entrance<'_>, InWork), RecvError> {
        let (in_work, over) = bounded(0);
        let streams = vec![first];
        // There is room for all who may come, so that no one waits here.
        let (sender, queue) = bounded(places);
        match self.lock().entry(id) {
            // Not by accident: 128 random bits.
            std::collections::hash_map::Entry::Occupied(_) => {
                return Err(WireError::Protocol("there is a session of that name already".into()).into());
            }
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(Door { queue: sender, places, streams, over })
            }
        };
        Ok((Entrance { sessions: self, id, queue }, InWork(in_work)))
    }

    /// Hands a connection over to its session, which `joins` hears of, and waits until it is done with it; or gives it
    /// back with the reason.
    pub fn join(
        &self,
        id: SessionId,
        input: Input,
        joins: impl FnOnce(),
    ) -> Result<(), Box<(Input, RecvError)>> {
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
        door.streams.push(input.shared_stream());
        joins();
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
