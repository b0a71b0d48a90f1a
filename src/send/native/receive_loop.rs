//! The thread that reads the receiver's frames. It waits for no other thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::super::error::SendError;
use super::settle;
use super::state::{SessionShared, SessionState};
use crate::error_code::ErrorCode;
use crate::link::{Fill, FrameReadError, FrameReader};
use crate::net::{Connection, IdleTimer, POLL_INTERVAL};
use crate::sync::DropGuard;
use crate::wire::sender::SenderEvent;
use crate::wire::{FrameError, Framing, WireError};

/// A receiver that sends only keepalives may be writing gigabytes to a slow disk. After this time it is given up.
const STALL_TIME: Duration = Duration::from_secs(60 * 60);
/// The receiver takes more than this in that time over the slowest links, and less if it takes only keepalives.
const STALL_BYTES: u64 = 100 * STALL_TIME.as_secs();

/// Bytes that are shown of a first reply that is not a frame: enough for `SSH-2.0-Open`.
const SHOWN_BYTES: usize = 12;

/// The reason for withdrawing a file of which the receiver kept different content.
const KEPT_OTHER: &str = "the receiver's partial file from an earlier transfer does not match; it was discarded, \
    send the file again";

/// Detects a receiver that is alive and makes no progress.
struct StallDetector {
    since: Instant,
    /// Bytes that the receiver had taken at that time.
    taken_bytes: Option<u64>,
}

impl StallDetector {
    fn new(since: Instant) -> Self {
        StallDetector { since, taken_bytes: None }
    }

    /// Called at each frame without an event, with the bytes that the receiver has taken so far.
    fn is_stalled(&mut self, now: Instant, taken_bytes: u64) -> bool {
        let before = *self.taken_bytes.get_or_insert(taken_bytes);
        if now.duration_since(self.since) < STALL_TIME {
            return false;
        }
        *self = StallDetector { since: now, taken_bytes: Some(taken_bytes) };
        taken_bytes - before < STALL_BYTES
    }
}

/// Reads frames until the receipt or the end of the session. `is_answered` is set at the first one.
pub fn run(
    shared: &SessionShared<'_>,
    connection: &Connection,
    idle_timer: &IdleTimer,
    is_answered: &AtomicBool,
) {
    // A panic of this thread ends the session: the other threads do not notice it. The first outcome counts.
    let _guard = DropGuard::new(|| shared.end(Err(SendError::Closed { unconfirmed: 0 })));
    let outcome = read_frames(shared, connection, idle_timer, is_answered);
    shared.end(outcome);
}

fn read_frames(
    shared: &SessionShared<'_>,
    connection: &Connection,
    idle_timer: &IdleTimer,
    is_answered: &AtomicBool,
) -> Result<(), SendError> {
    let mut frames = FrameReader::new(connection.clone(), Framing::Native, idle_timer.clone());
    let mut stall = StallDetector::new(Instant::now());
    loop {
        if !is_answered.load(Ordering::Relaxed)
            && let Err(FrameError::Length { .. }) = frames.buffer().peek_json()
        {
            let begins = frames.buffer().bytes().iter().copied().take(SHOWN_BYTES).collect();
            return Err(SendError::NotFtx { at: connection.peer().to_string(), begins });
        }
        while let Some(json) = frames.next_frame().map_err(WireError::from)? {
            is_answered.store(true, Ordering::Relaxed);
            if handle_frame(shared, json, &mut stall, idle_timer)? {
                return Ok(());
            }
        }
        shared.notify();
        if !fill(shared, &mut frames)? {
            return Ok(());
        }
    }
}

/// Waits for more bytes; `false` if the session is over.
pub fn fill(shared: &SessionShared<'_>, frames: &mut FrameReader) -> Result<bool, SendError> {
    match frames.fill(&[], POLL_INTERVAL) {
        Ok(Fill::Bytes) => Ok(true),
        Ok(Fill::Nothing | Fill::Cancelled) => Ok(shared.lock().outcome.is_none()),
        Ok(Fill::End) | Err(FrameReadError::Disconnected) => {
            Err(SendError::Closed { unconfirmed: shared.lock().in_flight.len() as u64 })
        }
        Err(FrameReadError::HeaderTimeout) => Err(SendError::HeaderTimeout(shared.timeout)),
        Err(FrameReadError::IdleTimeout) => Err(SendError::IdleTimeout(shared.timeout)),
        Err(FrameReadError::Connection(error)) => Err(SendError::Connection(error)),
    }
}

/// Hands a frame to the session and applies its event; `true` for the receipt.
fn handle_frame(
    shared: &SessionShared<'_>,
    json: &[u8],
    stall: &mut StallDetector,
    idle_timer: &IdleTimer,
) -> Result<bool, SendError> {
    let mut state = shared.lock();
    let event = state.session.handle(json).map_err(|error| with_name(&state, error))?;
    if event != SenderEvent::Nothing || state.in_flight.is_empty() {
        *stall = StallDetector::new(Instant::now());
    }
    if stall.is_stalled(Instant::now(), idle_timer.taken_bytes()) {
        return Err(SendError::Stalled(STALL_TIME));
    }
    Ok(apply(shared, &mut state, event))
}

/// Replaces the number of an entry, which the session reports, by its name.
fn with_name(state: &SessionState, error: WireError) -> SendError {
    match error {
        WireError::Etag { entry, theirs, ours } => {
            let name = state.in_flight.get(&entry).map(|entry| entry.name().to_string());
            SendError::StoredOther { name: name.unwrap_or_default(), theirs, ours }
        }
        error => error.into(),
    }
}

/// Applies an event of the session; `true` for the receipt.
fn apply(shared: &SessionShared<'_>, state: &mut SessionState, event: SenderEvent) -> bool {
    match event {
        SenderEvent::Nothing | SenderEvent::Wanted => {}
        SenderEvent::Welcomed { takes_streams } => {
            state.welcome = Some((state.started.elapsed(), takes_streams))
        }
        SenderEvent::Resumed(files) => {
            files.into_iter().for_each(|(id, bytes)| settle::on_resumed(shared, state, id, bytes));
        }
        SenderEvent::Unneeded(ids) => {
            ids.into_iter().for_each(|id| settle::revoke_unasked(shared, state, id))
        }
        SenderEvent::AlreadyThere(ids) => {
            ids.into_iter().for_each(|id| settle::on_already_there(shared, state, id));
        }
        SenderEvent::Stored(ids) => ids.into_iter().for_each(|id| settle::on_stored(shared, state, id)),
        SenderEvent::Again { entry, part } => settle::on_damaged(shared, state, entry, part),
        SenderEvent::KeptOther(id) => settle::withdraw_for(shared, state, id, ErrorCode::Digest, KEPT_OTHER),
        SenderEvent::Failed { entry, code, message, was_wanted } => {
            if !was_wanted {
                settle::revoke_unasked(shared, state, entry);
            }
            settle::on_failed(shared, state, entry, code, &message);
        }
        SenderEvent::Receipt(receipt) => {
            state.receipt = Some(receipt);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_that_sends_only_keepalives_is_given_up_after_an_hour() {
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let mut stall = StallDetector::new(start);
        // A keepalive of the sender has 22 bytes.
        let given_up = (1..=7200).find(|&second| stall.is_stalled(after(second), second * 22));
        assert_eq!(given_up, Some(3600));
        let mut modem = StallDetector::new(start);
        assert!((1..=86_400).all(|second| !modem.is_stalled(after(second), second * 3000)));
    }
}
