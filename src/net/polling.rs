//! Reads and writes return now and then, so that deadlines can be checked.

use std::io;
use std::time::Duration;

/// How often a blocked read returns, so that its caller can look at deadlines.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often a blocked write does.
pub const WRITE_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Whether a read or write ended only because its time was up.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Whether the peer closed or reset the connection.
pub fn is_disconnect(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}
