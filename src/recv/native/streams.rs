//! Further connections of a session: each has one thread, which reads it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::Scope;

use crate::dest::local::LocalSession;
use crate::net::IdleTimer;
use crate::recv::handle::ConnectionHandle;
use crate::recv::native::files::InboundFiles;
use crate::recv::native::reader::Reader;
use crate::recv::native::threads::spawn;
use crate::recv::registry::JoinedConnection;

use crate::sync::lock;

/// Connections that have joined and are not read any more. They stay open until the session has ended: for the sender, the
/// end of one before the receipt is a failure.
#[derive(Default)]
pub struct FinishedStreams {
    connections: Mutex<Vec<JoinedConnection>>,
    count: AtomicU32,
}

impl FinishedStreams {
    /// Connections that have joined so far.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    fn keep_open(&self, connection: JoinedConnection) {
        lock(&self.connections).push(connection);
    }
}

/// Starts the readers of connections that join a session.
pub struct StreamStarter<'scope, 'env> {
    pub scope: &'scope Scope<'scope, 'env>,
    pub files: &'scope InboundFiles<'scope>,
    pub store: LocalSession,
    /// Of the primary connection.
    pub idle_timer: IdleTimer,
    pub primary: ConnectionHandle,
    pub finished: &'scope FinishedStreams,
}

impl StreamStarter<'_, '_> {
    pub fn start(&self, mut joined: JoinedConnection) {
        let (files, finished) = (self.files, self.finished);
        let Some(verifier) = files.session.verifier() else {
            // The session is over.
            return finished.keep_open(joined);
        };
        finished.count.fetch_add(1, Ordering::Relaxed);
        joined.reader.join_session(&self.idle_timer, &self.primary);
        let reader = Reader::secondary(self.store.fork(), files, verifier);
        let started = spawn(self.scope, "stream", move || {
            files.session.outcome.end_if_failed(reader.read(&mut joined.reader));
            finished.keep_open(joined);
        });
        files.session.outcome.end_if_failed(started.map(drop));
    }
}
