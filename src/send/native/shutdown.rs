//! The end of a session's connections, in three steps with a time limit each.

use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::state::SessionShared;
use crate::net::{Connection, FLUSH_GRACE, Shutdown};

/// Time to send the receiver the error that ended the session.
const ERROR_GRACE: Duration = Duration::from_secs(1);

/// The threads of the primary connection.
pub struct PrimaryThreads<'scope> {
    pub receive_loop: ScopedJoinHandle<'scope, ()>,
    pub writer: ScopedJoinHandle<'scope, ()>,
}

/// Ends the connections of a session that has its outcome, and with them the threads that use them.
pub fn shut_down(shared: &SessionShared<'_>, connection: &Connection, threads: &PrimaryThreads<'_>) {
    flush_error(shared, threads);
    if shared.cancel.is_cancelled() {
        await_confirmations(connection, threads);
    }
    close(shared, connection);
}

/// Step 1: the writer sends the error that the receiver does not know.
fn flush_error(shared: &SessionShared<'_>, threads: &PrimaryThreads<'_>) {
    if shared.send_error() {
        let limit = if shared.cancel.is_cancelled() { FLUSH_GRACE } else { ERROR_GRACE };
        wait_until(limit, || threads.writer.is_finished());
    }
}

/// Step 2, after a cancellation: the receiver commits the entries that are complete, confirms them, and closes.
fn await_confirmations(connection: &Connection, threads: &PrimaryThreads<'_>) {
    if threads.writer.is_finished() && connection.shutdown(Shutdown::Write).is_ok() {
        wait_until(FLUSH_GRACE, || threads.receive_loop.is_finished());
    }
}

/// Step 3: closes all connections, which wakes the threads that still read or write.
pub fn close(shared: &SessionShared<'_>, connection: &Connection) {
    let _ = connection.shutdown(Shutdown::Both);
    shared.close_all();
}

/// Polls for a condition that has no notification.
fn wait_until(limit: Duration, is_met: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_met() && start.elapsed() < limit {
        thread::sleep(Duration::from_millis(1));
    }
}
