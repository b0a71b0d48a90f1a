//! Which entries failed, over all connections of one session.
//!
//! A sender that comes back does not offer again what it has heard the end of. So the connection on which its session
//! ends knows only of its own failures, and the others have to be remembered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::digest::Md5;
use crate::error_code::ErrorCode;
use crate::event::{Event, Reporter, Summary};

/// So many are remembered, and a session in which even more failed is known to have failures.
const MAX_FAILURES: usize = 4096;

/// The record, shared by whoever serves a connection of the session.
#[derive(Clone, Debug, Default)]
pub struct FailureLog(Arc<Mutex<HashMap<Md5, Failure>>>);

#[derive(Clone, Copy, Debug)]
struct Failure {
    code: ErrorCode,
    /// The connection that told of it.
    connection: u64,
}

/// Writes the record from what happens on one connection, and passes that on.
pub struct RecordingReporter<'a> {
    progress: Box<dyn Reporter + 'a>,
    failures: FailureLog,
    connection: u64,
}

impl FailureLog {
    /// Listens to a connection, beside `progress`.
    pub fn wrap<'a>(&self, progress: Box<dyn Reporter + 'a>, connection: u64) -> RecordingReporter<'a> {
        RecordingReporter { progress, failures: self.clone(), connection }
    }

    /// Adds what failed on the session's earlier connections to the end of this one.
    pub fn merge_earlier(&self, connection: u64, summary: &mut Summary) {
        let failed = self.lock();
        failed.values().filter(|failure| failure.connection != connection).for_each(|failure| {
            summary.count_failure(failure.code);
        });
    }

    fn record(&self, event: &Event<'_>, connection: u64) {
        match *event {
            Event::Failed { name, code, .. } => {
                let mut failed = self.lock();
                let name = Md5::of(name);
                if failed.len() < MAX_FAILURES || failed.contains_key(&name) {
                    failed.insert(name, Failure { code, connection });
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

impl Reporter for RecordingReporter<'_> {
    fn report(&self, event: Event<'_>) {
        self.failures.record(&event, self.connection);
        self.progress.report(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NullReporter;

    #[test]
    fn what_failed_on_earlier_connections_counts_unless_it_arrived_after_all() {
        let failed = FailureLog::default();
        let fail = |connection: u64, name: &[u8]| {
            let listening = failed.wrap(Box::new(NullReporter), connection);
            listening.report(Event::Failed { name, code: ErrorCode::Exists, reason: "" });
        };
        let earlier = |connection| {
            let mut summary = Summary::default();
            failed.merge_earlier(connection, &mut summary);
            summary.failed()
        };
        [b"a", b"b", b"c"].iter().for_each(|name| fail(1, *name));
        assert_eq!((earlier(1), earlier(2)), (0, 3));
        fail(2, b"b");
        assert_eq!(earlier(2), 2, "the connection knows of its own");
        let second = failed.wrap(Box::new(NullReporter), 2);
        second.report(Event::FileDone { path: b"c", md5: None, there_bytes: None });
        assert_eq!((earlier(2), earlier(3)), (1, 2));
        (0..2 * MAX_FAILURES).for_each(|name| fail(2, &name.to_le_bytes()));
        assert_eq!(earlier(3), MAX_FAILURES as u64);
    }
}
