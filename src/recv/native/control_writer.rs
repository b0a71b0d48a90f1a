//! The thread that writes to the primary connection: frames from the [`Outbox`], and a keepalive each second. It also
//! starts the readers of connections that join the session, because it never waits for anything but the connection.

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, never, select};

use crate::net::TimedWriter;
use crate::recv::connection_reader::ConnectionReader;
use crate::recv::native::control::{SessionControl, lock_session};
use crate::recv::native::outbox::{Outbox, Taken};
use crate::recv::registry::JoinedConnection;

/// The sender can tell a slow receiver from a dead one by frames that come at least this often.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// What the writer thread waits for.
pub struct ControlWriter<'a> {
    pub connection: TimedWriter,
    pub control: &'a Mutex<SessionControl>,
    pub outbox: &'a Outbox,
    /// Wakes this thread when the outbox has frames.
    pub wakes: Receiver<()>,
    /// Connections that join the session.
    pub joins: Receiver<JoinedConnection>,
}

impl ControlWriter<'_> {
    /// Runs until the outbox is closed and empty.
    pub fn run(mut self, mut start_reader: impl FnMut(JoinedConnection)) {
        let mut keepalive_at = Instant::now() + KEEPALIVE_INTERVAL;
        loop {
            let limit = keepalive_at.saturating_duration_since(Instant::now());
            select! {
                recv(self.wakes) -> _ => {}
                recv(self.joins) -> joined => match joined {
                    Ok(joined) => start_reader(joined),
                    Err(_) => self.joins = never(),
                },
                default(limit) => {}
            }
            if Instant::now() >= keepalive_at {
                keepalive(self.control);
                keepalive_at = Instant::now() + KEEPALIVE_INTERVAL;
            }
            if self.write_all_pending().is_break() {
                return;
            }
        }
    }

    /// Writes until the outbox is empty, and breaks if it is closed. One wake-up can stand for several changes of it.
    fn write_all_pending(&mut self) -> ControlFlow<()> {
        loop {
            match self.outbox.take() {
                Taken::Frames(frames) => {
                    if let Err(error) = self.connection.write_all(&frames) {
                        self.outbox.fail(error.kind());
                    }
                }
                Taken::Empty => return ControlFlow::Continue(()),
                Taken::Closed => return ControlFlow::Break(()),
            }
        }
    }
}

fn keepalive(control: &Mutex<SessionControl>) {
    let mut control = lock_session(control);
    control.session.keepalive();
    if control.session.is_committing() {
        control.record_busy(KEEPALIVE_INTERVAL);
    }
    // The readers report a broken connection.
    let _ = control.flush();
}

/// A writer for the connection that `reader` reads.
pub fn timed_writer(reader: &ConnectionReader) -> TimedWriter {
    TimedWriter::new(reader.connection().clone(), reader.idle_timer().clone(), reader.cancel_token().clone())
}

/// Writes what waits in an outbox that has no writer thread.
pub fn write_pending(outbox: &Outbox, reader: &ConnectionReader) {
    if let Taken::Frames(frames) = outbox.take() {
        // The connection is closed after this in any case.
        let _ = timed_writer(reader).write_all(&frames);
    }
}
