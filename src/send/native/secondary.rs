//! The thread that reads a secondary connection, on which the receiver sends only the error that ends the session.

use std::time::Duration;

use super::super::error::SendError;
use super::receive_loop::fill;
use super::state::SessionShared;
use crate::link::FrameReader;
use crate::net::{Connection, IdleTimer};
use crate::wire::message::ErrorReport;
use crate::wire::{Framing, Message, WireError};

/// How long the receipt on the primary connection may trail the close of a secondary one.
const RECEIPT_GRACE: Duration = Duration::from_secs(2);

/// Reads until the session is over or the connection ends, which ends the session.
pub fn run(shared: &SessionShared<'_>, connection: Connection) {
    // Only the primary connection has keepalives, and a limit for silence.
    let no_limit = IdleTimer::new(Duration::MAX);
    let mut frames = FrameReader::new(connection, Framing::Native, no_limit);
    let Err(error) = read_error(shared, &mut frames) else { return };
    // At the end of a session the receiver closes all connections, and refuses those that join then.
    if shared.lock().session.has_sent_all() {
        shared.wait_for_outcome(RECEIPT_GRACE);
    }
    shared.end(Err(error));
}

/// Returns why the connection ended, or `Ok` if the session was over before.
fn read_error(shared: &SessionShared<'_>, frames: &mut FrameReader) -> Result<(), SendError> {
    loop {
        if let Some(json) = frames.next_frame().map_err(WireError::from)? {
            return Err(match Message::parse(json).map_err(WireError::from)? {
                Message::Error(ErrorReport { entry: None, code, message }) => {
                    WireError::PeerAborted { code, message }.into()
                }
                _ => WireError::Protocol("unexpected frame on a secondary connection".into()).into(),
            });
        }
        if !fill(shared, frames)? {
            return Ok(());
        }
    }
}
