//! Sessions in a row: a lost connection is replaced, and the next session continues.

use std::time::{Duration, Instant};

use super::super::error::SendError;
use super::super::options::Streams;
use super::carry_over::CarryOver;
use crate::event::{Event, Reporter, Summary};
use crate::net::{Connection, NetError};
use crate::source::StateKey;
use crate::sync::{Backoff, CancelToken, Wake};

/// How to connect to the receiver, and the settings of each session.
pub struct Dialer<'a> {
    /// The receiver's host, as the user typed it.
    pub host: &'a str,
    /// Opens the first connection.
    pub connect: &'a dyn Fn() -> Result<Connection, NetError>,
    /// Opens another one after the first was lost.
    pub reconnect: &'a dyn Fn() -> Result<Connection, NetError>,
    /// Attempts in a row to reconnect while nothing more is stored or kept.
    pub retries: u32,
    /// Connections of a session.
    pub streams: Streams,
    /// How long the receiver may be silent.
    pub timeout: Duration,
    /// Keys the digests of the state of files.
    pub state_key: &'a StateKey,
    /// Cancels the transfer.
    pub cancel: &'a CancelToken,
}

/// Runs sessions until one completes, an error is final, or the attempts are used up.
pub fn run_sessions(
    dialer: &Dialer<'_>,
    progress: &dyn Reporter,
    mut run_session: impl FnMut(Connection, &mut CarryOver) -> Result<(), SendError>,
) -> Result<Summary, SendError> {
    let mut connection = (dialer.connect)()?;
    let mut carry_over = CarryOver::default();
    let mut backoff = Backoff::new(dialer.retries);
    loop {
        let (before, start) = (carry_over.progress(), Instant::now());
        let error = match run_session(connection, &mut carry_over) {
            Ok(()) => return Ok(carry_over.summary),
            Err(error) if error.is_disconnect() => error.into_lost(dialer.host, 0),
            Err(error) => error,
        };
        backoff.on_session_end(carry_over.progress() != before, start.elapsed());
        connection = reconnect(dialer, progress, &mut backoff, error, carry_over.was_answered)?;
        carry_over.summary.reconnects += 1;
    }
}

/// Opens a connection to replace one that was lost by `error`.
fn reconnect(
    dialer: &Dialer<'_>,
    progress: &dyn Reporter,
    backoff: &mut Backoff,
    mut error: SendError,
    was_answered: bool,
) -> Result<Connection, SendError> {
    loop {
        let attempts = backoff.attempts();
        let Some(pause) = backoff.next_pause().filter(|_| error.is_retryable()) else {
            return Err(if was_answered { error.into_lost(dialer.host, attempts) } else { error });
        };
        progress.report(Event::Lost { reason: &error.to_string(), pause });
        let wake = dialer.cancel.wait(Some(pause)).map_err(SendError::Connection)?;
        if wake == Wake::Cancelled {
            return Err(SendError::Interrupted);
        }
        match (dialer.reconnect)() {
            Ok(connection) => return Ok(connection),
            Err(failure) => error = failure.into(),
        }
    }
}
