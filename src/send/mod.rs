//! The sender: reads files, sends them, and waits for the receiver's receipt.

mod classic;
mod error;
mod native;
mod options;

use std::cell::Cell;
use std::time::Instant;

use crate::event::{Event, Reporter, Summary};
use crate::md5sum::FileHasher;
use crate::net;
use crate::source::{self, StateKey};

pub use error::SendError;
pub use options::{Classic, MAX_STREAMS, Options, Streams};

/// Retries of a refused first connection: few, because a mistyped host is the likely reason.
const FIRST_RETRIES: u32 = 2;
/// Retries of a lost connection, in a row without progress: they take about a minute.
const RETRIES: u32 = 10;

/// Sends everything and waits for the receipt. An entry that fails is reported as an event and counted in the summary,
/// and the others are sent.
///
/// # Errors
///
/// The transfer could not be completed.
pub fn send(options: &Options, progress: &dyn Reporter) -> Result<Summary, SendError> {
    let cancel = &options.cancel;
    let roots = source::roots(&options.paths)?;
    let start = Instant::now();
    let was_connected = Cell::new(false);
    let dial = |retries| {
        let on_retry = |pause| progress.report(Event::Retrying { pause });
        net::connect(&options.target, options.port, options.timeout, retries, cancel, on_retry)
            .inspect(|_| was_connected.set(true))
    };
    let connect = || dial(options.retries.unwrap_or(FIRST_RETRIES));
    let host = options.target.to_string();
    let state_key = StateKey::new(&options.target.host());
    let dialer = native::Dialer {
        host: &host,
        connect: &connect,
        reconnect: &|| dial(0),
        retries: options.retries.unwrap_or(RETRIES),
        streams: options.streams,
        timeout: options.timeout,
        state_key: &state_key,
        cancel,
    };
    let hasher = FileHasher::new(options.whole_digests, progress);
    let session = || {
        let summary = match options.classic {
            None => native::send(&roots, &dialer, progress, &hasher)?,
            Some(how) => classic::send(&roots, connect, how, options.timeout, cancel, progress)?,
        };
        Ok(Summary { elapsed: start.elapsed(), ..summary })
    };
    let result = cancel.run_with_hook(|| hasher.stop_waiting(), || hasher.run_with(session));
    match result.flatten().map_err(SendError::NoThread)? {
        Ok(summary) => Ok(Summary { undigested: hasher.on_unavailable(), ..summary }),
        // Cancellation makes other operations fail: it is the cause.
        Err(_) if cancel.is_cancelled() && !was_connected.get() => Err(SendError::InterruptedEarly),
        Err(_) if cancel.is_cancelled() => Err(SendError::Interrupted),
        Err(error) => Err(error),
    }
}
