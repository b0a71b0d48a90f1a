//! Which entries failed, over all connections of one session.
//!
//! A sender that comes back does not offer again what it has heard the end of. So the connection on which its session
//! ends knows only of its own failures, and the others have to be remembered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::digest::Md5;
use crate::fault::Fault;
use crate::progress::{Event, Progress, Summary};

/// So many are remembered, and a session in which even more failed is known to have failures.
const MOST: usize = 4096;

/// The record, shared by whoever serves a connection of the session.
#[derive(Clone, Debug, Default)]
pub struct Failed(Arc<Mutex<HashMap<Md5, Failure>>>);

#[derive(Clone, Copy, Debug)]
struct Failure {
    fault: Fault,
    /// The connection that told of it.
    connection: u64,
}

/// Writes the record from what happens on one connection, and passes that on.
pub struct Noting<'a> {
    progress: Box<dyn Progress + 'a>,
    failed: Failed,
    connection: u64,
}

impl Failed {
    /// Listens to a connection, beside `progress`.
    pub fn beside<'a>(&self, progress: Box<dyn Progress + 'a>, connection: u64) -> Noting<'a> {
        Noting { progress, failed: self.clone(), connection }
    }

    /// Adds what failed on the session's earlier connections to the end of this one.
    pub fn add_earlier(&self, connection: u64, summary: &mut Summary) {
        let failed = self.lock();
        failed.values().filter(|failure| failure.connection != connection).for_each(|failure| {
            summary.count_failure(failure.fault);
        });
    }

    fn note(&self, event: &Event<'_>, connection: u64) {
        match *event {
            Event::Failed { name, fault, .. } => {
                let mut failed = self.lock();
                let name = Md5::of(name);
                if failed.len() < MOST || failed.contains_key(&name) {
                    failed.insert(name, Failure { fault, connection });
                }
            }
            // The sender had not heard of the failure, and the second try went well.
            Event::FileDone { path: name, .. } | Event::Renamed { from: name, .. } => {
                let mut failed = self.lock();
                if !failed.is_empty() {
                    failed.remove(&Md5::of(name));
                }
            }
            _ => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Md5, Failure>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Noting<'_> {
    fn event(&self, event: Event<'_>) {
        self.failed.note(&event, self.connection);
        self.progress.event(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn what_failed_on_earlier_connections_counts_unless_it_arrived_after_all() {
        let failed = Failed::default();
        let fail = |connection: u64, name: &[u8]| {
            let listening = failed.beside(Box::new(Silent), connection);
            listening.event(Event::Failed { name, fault: Fault::Exists, reason: "" });
        };
        let earlier = |connection| {
            let mut summary = Summary::default();
            failed.add_earlier(connection, &mut summary);
            summary.failed()
        };
        [b"a", b"b", b"c"].iter().for_each(|name| fail(1, *name));
        assert_eq!((earlier(1), earlier(2)), (0, 3));
        fail(2, b"b");
        assert_eq!(earlier(2), 2, "the connection knows of its own");
        let second = failed.beside(Box::new(Silent), 2);
        second.event(Event::FileDone { path: b"c", md5: None, there_bytes: None });
        assert_eq!((earlier(2), earlier(3)), (1, 2));
        (0..2 * MOST).for_each(|name| fail(2, &name.to_le_bytes()));
        assert_eq!(earlier(3), MOST as u64);
    }
}
