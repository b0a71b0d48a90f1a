//! The thread that reads a secondary connection, on which the receiver sends only the error that ends the session.

use std::io;
use std::time::Duration;

use super::super::error::SendError;
use super::receive_loop::closed;
use super::state::SessionShared;
use crate::net::{self, Connection};
use crate::wire::message::ErrorReport;
use crate::wire::{FrameBuffer, Framing, Message, WireError};

/// How long the receipt on the primary connection may trail the close of a secondary one.
const RECEIPT_GRACE: Duration = Duration::from_secs(2);

/// Reads until the session is over or the connection ends, which ends the session.
pub fn run(shared: &SessionShared<'_>, connection: &Connection) {
    let Some(error) = read_error(shared, connection) else { return };
    // At the end of a session the receiver closes all connections, and refuses those that join then.
    if shared.lock().session.has_sent_all() {
        shared.wait_for_outcome(RECEIPT_GRACE);
    }
    shared.end(Err(error));
}

/// Why the connection ended; `None` if the session was over before.
fn read_error(shared: &SessionShared<'_>, connection: &Connection) -> Option<SendError> {
    let mut buffer = FrameBuffer::new();
    loop {
        match buffer.next_frame(Framing::Native).map(|json| json.map(Message::parse)) {
            Ok(None) => {}
            Ok(Some(Ok(Message::Error(ErrorReport { entry: None, fault, message })))) => {
                return Some(WireError::PeerGaveUp { fault, message }.into());
            }
            Ok(Some(Ok(_))) => {
                let reason = "unexpected frame on a secondary connection";
                return Some(WireError::Protocol(reason.into()).into());
            }
            Ok(Some(Err(error))) => return Some(WireError::from(error).into()),
            Err(error) => return Some(WireError::from(error).into()),
        }
        match connection.read(buffer.space()) {
            Ok(0) => return Some(closed(shared)),
            Ok(count) => buffer.filled(count),
            Err(error) if net::is_timeout(&error) => {
                if shared.lock().outcome.is_some() {
                    return None;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if net::is_disconnect(&error) => return Some(closed(shared)),
            Err(error) => return Some(SendError::Connection(error)),
        }
    }
}
