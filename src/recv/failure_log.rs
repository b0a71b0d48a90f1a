//! The failed entries of a session, over all its connections.
//!
//! A sender that reconnects does not announce entries again that were settled. So the last connection of a session sees its own
//! failures only, and those of earlier connections are logged here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::digest::Md5;
use crate::error_code::ErrorCode;
use crate::event::{Event, Reporter, Summary};
use crate::sync::lock;

/// The log is bounded; that of a session with more failures is not empty in any case.
const MAX_FAILURES: usize = 4096;

/// The log, shared by the connections of a session.
#[derive(Clone, Debug, Default)]
pub struct FailureLog(Arc<Mutex<HashMap<Md5, Failure>>>);

#[derive(Clone, Copy, Debug)]
struct Failure {
    code: ErrorCode,
    /// The connection that reported it.
    connection: u64,
}

/// Logs the failures of one connection, and passes all events on.
pub struct RecordingReporter<'a> {
    progress: Box<dyn Reporter + 'a>,
    failures: FailureLog,
    connection: u64,
}

impl FailureLog {
    /// A reporter of one connection in front of `progress`.
    pub fn wrap<'a>(&self, progress: Box<dyn Reporter + 'a>, connection: u64) -> RecordingReporter<'a> {
        RecordingReporter { progress, failures: self.clone(), connection }
    }

    /// Adds the failures of earlier connections to the summary of this one.
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
            // The sender had not received the failure, and a second attempt succeeded.
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
        lock(&self.0)
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
    fn failures_of_earlier_connections_count_unless_a_second_attempt_succeeded() {
        let failed = FailureLog::default();
        let fail = |connection: u64, name: &[u8]| {
            let reporter = failed.wrap(Box::new(NullReporter), connection);
            reporter.report(Event::Failed { name, code: ErrorCode::Exists, reason: "" });
        };
        let earlier = |connection| {
            let mut summary = Summary::default();
            failed.merge_earlier(connection, &mut summary);
            summary.failed()
        };
        [b"a", b"b", b"c"].iter().for_each(|name| fail(1, *name));
        assert_eq!((earlier(1), earlier(2)), (0, 3));
        fail(2, b"b");
        assert_eq!(earlier(2), 2, "its own failures are not added");
        let second = failed.wrap(Box::new(NullReporter), 2);
        second.report(Event::FileDone { path: b"c", md5: None, there_bytes: None });
        assert_eq!((earlier(2), earlier(3)), (1, 2));
        (0..2 * MAX_FAILURES).for_each(|name| fail(2, &name.to_le_bytes()));
        assert_eq!(earlier(3), MAX_FAILURES as u64);
    }
}
