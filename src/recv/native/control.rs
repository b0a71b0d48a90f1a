//! The session's state machine and its output, behind the lock that all threads of the session share.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::event::Summary;
use crate::recv::connection_reader::ConnectionReader;
use crate::recv::error::RecvError;
use crate::recv::handle::ConnectionHandle;
use crate::recv::native::outbox::Outbox;
use crate::sync::lock;
use crate::wire::ReceiverSession;

/// The session, what it has achieved, and its way to the sender. A thread that changes the session calls
/// [`SessionControl::flush`] afterwards.
pub struct SessionControl {
    pub session: ReceiverSession,
    pub summary: Summary,
    outbox: Arc<Outbox>,
    handle: ConnectionHandle,
    timeout: Duration,
}

impl SessionControl {
    /// For the session of the connection that `reader` reads.
    pub fn new(session: ReceiverSession, reader: &ConnectionReader, outbox: Arc<Outbox>) -> Self {
        SessionControl {
            session,
            summary: Summary { confirmed: true, ..Summary::default() },
            outbox,
            handle: reader.handle().clone(),
            timeout: reader.timeout(),
        }
    }

    /// Counts time that this side spent on what the peer has delivered.
    pub fn record_busy(&self, time: Duration) {
        self.handle.record_busy(time);
    }

    /// Hands the frames of the session to the writer. Does not block.
    ///
    /// # Errors
    ///
    /// An earlier write failed.
    pub fn flush(&mut self) -> Result<(), RecvError> {
        let output = self.session.take_output();
        self.handle.set_in_flight(self.session.in_flight());
        self.outbox.push(output).map_err(|error| self.write_error(error))
    }

    /// Hands the last frames over: the receipt, or the error that ends the session.
    pub fn close(&mut self, error: Option<&RecvError>) -> Result<(), RecvError> {
        if let Some((code, message)) = error.and_then(RecvError::reply) {
            self.session.abort(code, &message);
        }
        let flushed = self.flush();
        self.outbox.close();
        flushed
    }

    /// # Errors
    ///
    /// How a write failed.
    pub fn write_result(&self) -> Result<(), RecvError> {
        self.outbox.result().map_err(|error| self.write_error(error))
    }

    fn write_error(&self, error: io::Error) -> RecvError {
        match error.kind() {
            io::ErrorKind::TimedOut => RecvError::IdleTimeout(self.timeout),
            _ => RecvError::Connection(error),
        }
    }
}

/// Locks a session. No call that can block is made under this lock.
pub fn lock_session(control: &Mutex<SessionControl>) -> MutexGuard<'_, SessionControl> {
    lock(control)
}
