//! Closing a connection so that the peer can read the last frame.

use std::io;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::polling::is_timeout;
use crate::sync::{CancelToken, Wake};
use crate::sys::wake::Interest;

/// Bytes that are discarded at most.
const DRAIN_BYTES: usize = 64 << 20;
/// Time that the peer gets to stop sending.
const DRAIN_TIME: Duration = Duration::from_secs(2);
/// The same once the program is to end.
const DRAIN_TIME_CANCELLED: Duration = Duration::from_millis(300);

/// Ends the writing direction and discards what still arrives, for a bounded time. Closing at once, with bytes unread,
/// would reset the connection, and the peer might never read the last frame.
pub fn drain_and_close(connection: &Connection, cancel: &CancelToken) {
    if connection.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let mut limit = DRAIN_TIME;
    let mut start = Instant::now();
    let mut left = DRAIN_BYTES;
    let mut buffer = vec![0; 64 << 10];
    let mut tokens: &[&CancelToken] = &[cancel];
    while start.elapsed() < limit && left > 0 {
        let wait_time = Some(limit.saturating_sub(start.elapsed()));
        match connection.wait(Interest::Readable, tokens, wait_time) {
            // A cancelled token would end each further wait at once.
            Ok(Wake::Cancelled) => (tokens, limit, start) = (&[], DRAIN_TIME_CANCELLED, Instant::now()),
            Ok(Wake::TimedOut) => {}
            Ok(Wake::Ready) => match connection.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => left = left.saturating_sub(count),
                Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            },
            Err(_) => return,
        }
    }
}
