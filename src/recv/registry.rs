//! The sessions in work, and how further connections find theirs.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::net::{Connection, Shutdown};
use crate::recv::RecvError;
use crate::recv::connection_reader::ConnectionReader;
use crate::wire::{SessionId, WireError};

/// Connections that may join one session.
pub const MAX_JOINED: usize = 7;

/// A connection that joined a session.
#[derive(Debug)]
pub struct JoinedConnection {
    pub reader: ConnectionReader,
    /// Whoever accepted the connection waits until this is dropped.
    _open: Sender<()>,
}

/// All sessions in work.
#[derive(Debug, Default)]
pub struct SessionRegistry(Mutex<HashMap<SessionId, SessionSlot>>);

/// How connections come into a session.
#[derive(Debug)]
struct SessionSlot {
    /// `None` once nobody can join any more.
    queue: Option<Sender<JoinedConnection>>,
    /// How many more may come.
    free_slots: usize,
    /// Its connections, to end it from outside.
    connections: Vec<Connection>,
    /// Disconnected once it is over, and all that it kept is kept.
    over: Receiver<()>,
}

/// Where connections join a session; nobody can any more once it is dropped.
pub struct JoinQueue<'a> {
    sessions: &'a SessionRegistry,
    id: SessionId,
    queue: Receiver<JoinedConnection>,
}

/// Held by a session until all that it keeps is kept: until then, who goes on with it has to wait.
pub struct SessionGuard<'a> {
    sessions: &'a SessionRegistry,
    id: SessionId,
    #[expect(dead_code, reason = "its end is what counts")]
    over: Sender<()>,
}

/// How long a session that has lost its sender gets to keep what it has.
const PREEMPT_TIME: Duration = Duration::from_secs(10);

impl SessionRegistry {
    /// Ends a session whose sender has lost the connection, which this side may not have noticed, and waits for its end.
    /// Whoever knows its name is its sender. `false` if there is none of that name.
    pub fn preempt(&self, id: SessionId) -> bool {
        let Some((connections, over)) =
            self.lock().get_mut(&id).map(|door| (std::mem::take(&mut door.connections), door.over.clone()))
        else {
            return false;
        };
        for connection in connections {
            let _ = connection.shutdown(Shutdown::Both);
        }
        // Nothing is ever sent.
        let _ = over.recv_timeout(PREEMPT_TIME);
        true
    }

    /// Lets so many further connections join a new session.
    pub fn open(
        &self,
        id: SessionId,
        first: Connection,
        places: usize,
    ) -> Result<(JoinQueue<'_>, SessionGuard<'_>), RecvError> {
        let (in_work, over) = bounded(0);
        let connections = vec![first];
        // There is room for all who may come, so that no one waits here.
        let (sender, queue) = bounded(places);
        match self.lock().entry(id) {
            // Not by accident: 128 random bits.
            std::collections::hash_map::Entry::Occupied(_) => {
                return Err(WireError::Protocol("there is a session of that name already".into()).into());
            }
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(SessionSlot { queue: Some(sender), free_slots: places, connections, over })
            }
        };
        Ok((JoinQueue { sessions: self, id, queue }, SessionGuard { sessions: self, id, over: in_work }))
    }

    /// Hands a connection over to its session, which `joins` hears of, and waits until it is done with it; or gives it
    /// back with the reason.
    pub fn join(
        &self,
        id: SessionId,
        reader: ConnectionReader,
        joins: impl FnOnce(),
    ) -> Result<(), Box<(ConnectionReader, RecvError)>> {
        let (open, done) = bounded(0);
        let refused = |why: &str, reader| Err(Box::new((reader, WireError::Protocol(why.into()).into())));
        let mut sessions = self.lock();
        let Some((door, queue)) =
            sessions.get_mut(&id).and_then(|door| door.queue.clone().map(|queue| (door, queue)))
        else {
            return refused("it joins a session that is not in work here", reader);
        };
        if door.free_slots == 0 {
            return refused("its session takes no more connections", reader);
        }
        door.free_slots -= 1;
        door.connections.push(reader.connection().clone());
        joins();
        // If the session ends meanwhile, so does the wait.
        let _ = queue.send(JoinedConnection { reader, _open: open });
        drop((sessions, queue));
        // Nothing is ever sent: this ends when the other half is dropped.
        let _ = done.recv();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, SessionSlot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JoinQueue<'_> {
    /// Those who come in.
    pub fn queue(&self) -> Receiver<JoinedConnection> {
        self.queue.clone()
    }
}

impl Drop for JoinQueue<'_> {
    fn drop(&mut self) {
        if let Some(door) = self.sessions.lock().get_mut(&self.id) {
            door.queue = None;
        }
    }
}

impl Drop for SessionGuard<'_> {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn who_goes_on_with_a_session_waits_until_all_of_it_is_kept() {
        let (_, connection) = crate::net::tests::unix_pair();
        let (sessions, id) = (SessionRegistry::default(), SessionId::new([7; 16]));
        let (entrance, in_work) = sessions.open(id, connection, 1).unwrap();
        // It noticed by itself that its sender is gone, and still writes what it has.
        drop(entrance);
        let (taken, is_taken) = bounded(1);
        thread::scope(|scope| {
            let sessions = &sessions;
            scope.spawn(move || taken.send(sessions.preempt(id)).unwrap());
            while !sessions.lock().get(&id).is_some_and(|door| door.connections.is_empty()) {
                thread::yield_now();
            }
            assert!(is_taken.is_empty(), "it has to wait");
            drop(in_work);
            assert_eq!(is_taken.recv(), Ok(true));
        });
        assert!(!sessions.preempt(id), "nothing is left of it");
    }
}
