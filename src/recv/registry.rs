//! Active sessions by their id, so that further connections find the session that they join.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::net::{Connection, Shutdown};
use crate::recv::admission::Permit;
use crate::recv::connection_reader::ConnectionReader;
use crate::recv::error::RecvError;
use crate::sync::lock;
use crate::wire::{SessionId, WireError};

/// Connections that may join one session.
pub const MAX_JOINED: usize = 7;

/// How long a session whose sender has reconnected may take to keep its partial files.
const PREEMPT_TIME: Duration = Duration::from_secs(10);

/// A connection that joins a session.
#[derive(Debug)]
pub struct JoinedConnection {
    pub reader: ConnectionReader,
    /// Held until the connection ends.
    pub permit: Permit,
}

/// All active sessions.
#[derive(Debug, Default)]
pub struct SessionRegistry(Mutex<HashMap<SessionId, SessionSlot>>);

#[derive(Debug)]
struct SessionSlot {
    /// Connections that join; `None` once none can join any more.
    queue: Option<Sender<JoinedConnection>>,
    /// How many more may join.
    free_slots: usize,
    /// Its connections, to end it from outside.
    connections: Vec<Connection>,
    /// Disconnected once it has ended and its partial files are kept.
    ended: Receiver<()>,
}

/// Connections that join a session; none can once this is dropped.
pub struct JoinQueue<'a> {
    registry: &'a SessionRegistry,
    id: SessionId,
    queue: Receiver<JoinedConnection>,
}

/// Held by a session until its partial files are kept; a session that continues it waits for that.
pub struct SessionGuard<'a> {
    registry: &'a SessionRegistry,
    id: SessionId,
    #[expect(dead_code, reason = "dropping it is the signal")]
    ended: Sender<()>,
}

impl SessionRegistry {
    /// Ends a session whose sender has reconnected, which this side may not have noticed yet, and waits for its end. The id
    /// is known to the sender alone. `false` if there is no such session.
    pub fn preempt(&self, id: SessionId) -> bool {
        let slot =
            self.lock().get_mut(&id).map(|slot| (std::mem::take(&mut slot.connections), slot.ended.clone()));
        let Some((connections, ended)) = slot else { return false };
        for connection in connections {
            let _ = connection.shutdown(Shutdown::Both);
        }
        // Nothing is ever sent; the channel is disconnected at the end.
        let _ = ended.recv_timeout(PREEMPT_TIME);
        true
    }

    /// Adds a session, which `max_joined` further connections may join.
    ///
    /// # Errors
    ///
    /// The id is in use.
    pub fn open(
        &self,
        id: SessionId,
        primary: Connection,
        max_joined: usize,
    ) -> Result<(JoinQueue<'_>, SessionGuard<'_>), RecvError> {
        let (end_signal, ended) = bounded(0);
        // A slot in the queue for each of them, so that sending never blocks.
        let (sender, queue) = bounded(max_joined);
        match self.lock().entry(id) {
            // Ids have 128 random bits.
            Entry::Occupied(_) => {
                return Err(WireError::Protocol("the session id is in use".into()).into());
            }
            Entry::Vacant(entry) => {
                let connections = vec![primary];
                entry.insert(SessionSlot { queue: Some(sender), free_slots: max_joined, connections, ended })
            }
        };
        Ok((JoinQueue { registry: self, id, queue }, SessionGuard { registry: self, id, ended: end_signal }))
    }

    /// Hands a connection over to its session.
    ///
    /// # Errors
    ///
    /// The connection and the reason why the session does not take it.
    pub fn join(
        &self,
        id: SessionId,
        joined: JoinedConnection,
    ) -> Result<(), Box<(JoinedConnection, RecvError)>> {
        let refused = |why: &str, joined| Err(Box::new((joined, WireError::Protocol(why.into()).into())));
        let mut sessions = self.lock();
        let Some((slot, queue)) =
            sessions.get_mut(&id).and_then(|slot| slot.queue.clone().map(|queue| (slot, queue)))
        else {
            return refused("join of an unknown session", joined);
        };
        if slot.free_slots == 0 {
            return refused("the session has no free connections", joined);
        }
        slot.free_slots -= 1;
        slot.connections.push(joined.reader.connection().clone());
        joined.permit.join();
        // Fails only if the session has ended meanwhile.
        let _ = queue.send(joined);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, SessionSlot>> {
        lock(&self.0)
    }
}

impl JoinQueue<'_> {
    pub fn queue(&self) -> Receiver<JoinedConnection> {
        self.queue.clone()
    }
}

impl Drop for JoinQueue<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.registry.lock().get_mut(&self.id) {
            slot.queue = None;
        }
    }
}

impl Drop for SessionGuard<'_> {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn preempt_waits_until_partial_files_are_kept() {
        let (_, connection) = crate::net::tests::unix_pair();
        let (sessions, id) = (SessionRegistry::default(), SessionId::new([7; 16]));
        let (joins, guard) = sessions.open(id, connection, 1).unwrap();
        // The session has noticed the lost connection and still writes its partial files.
        drop(joins);
        let (taken, is_taken) = bounded(1);
        thread::scope(|scope| {
            let sessions = &sessions;
            scope.spawn(move || taken.send(sessions.preempt(id)).unwrap());
            while !sessions.lock().get(&id).is_some_and(|slot| slot.connections.is_empty()) {
                thread::yield_now();
            }
            assert!(is_taken.is_empty(), "it has to wait");
            drop(guard);
            assert_eq!(is_taken.recv(), Ok(true));
        });
        assert!(!sessions.preempt(id), "nothing is left of it");
    }
}
