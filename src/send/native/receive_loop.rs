//! The thread that hears the receiver. It never waits for another one.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::super::SendError;
use super::source_file;
use super::state::{InFlightEntry, SessionShared, SessionState};
use crate::digest::PartLayout;
use crate::error_code::ErrorCode;
use crate::event::{Event as Told, Summary};
use crate::net::{self, Connection, IdleTimer};
use crate::wire::message::ErrorReport;
use crate::wire::sender::Event;
use crate::wire::{EntryId, FrameBuffer, FrameError, Framing, Message, WireError};

/// A receiver that only says `busy` may be bringing gigabytes to a slow disk. After so long it is not.
const STALL_TIME: Duration = Duration::from_secs(60 * 60);
/// What moves on the slowest links in that time is more than this, and all signs of life from here are less.
const STALL_BYTES: u64 = 100 * STALL_TIME.as_secs();

/// So much of what begins like nothing of ours tells what it is: `SSH-2.0-Open`.
const SHOWN_BYTES: usize = 12;

/// Why a file is withdrawn of which the receiver kept something else.
const KEPT_OTHER: &str = "what the receiver kept of an earlier transfer is not this file; it was discarded there, so that the \
    same can be sent again";

/// Words on the first connection may come so much later than what the receiver did to another one after them.
const RECEIPT_GRACE: Duration = Duration::from_secs(2);

/// Notices that nothing happens although the receiver is alive.
struct StallDetector {
    since: Instant,
    /// What the receiver had taken then.
    taken_bytes: Option<u64>,
}

impl StallDetector {
    fn new(since: Instant) -> Self {
        StallDetector { since, taken_bytes: None }
    }

    /// The receiver has taken so much by now and said nothing of interest since the beginning.
    fn is_stalled(&mut self, now: Instant, taken_bytes: u64) -> bool {
        let before = *self.taken_bytes.get_or_insert(taken_bytes);
        if now.duration_since(self.since) < STALL_TIME {
            return false;
        }
        *self = StallDetector { since: now, taken_bytes: Some(taken_bytes) };
        taken_bytes - before < STALL_BYTES
    }
}

/// Reads frames until the receipt is in or the session is over.
pub fn run(
    shared: &SessionShared<'_>,
    connection: &Connection,
    idle_timer: &IdleTimer,
    is_answered: &AtomicBool,
) {
    // If the ear breaks down, nobody else would notice that the session is over.
    let guard = EndOnDrop(shared);
    let outcome = read_frames(shared, connection, idle_timer, is_answered);
    shared.end(outcome);
    drop(guard);
}

struct EndOnDrop<'a, 'b>(&'a SessionShared<'b>);

impl Drop for EndOnDrop<'_, '_> {
    fn drop(&mut self) {
        // The first outcome counts.
        self.0.end(Err(SendError::Closed { unconfirmed: 0 }));
    }
}

fn read_frames(
    shared: &SessionShared<'_>,
    connection: &Connection,
    idle_timer: &IdleTimer,
    is_answered: &AtomicBool,
) -> Result<(), SendError> {
    let mut buffer = FrameBuffer::new();
    let mut watch = idle_timer.frame_deadline();
    let mut standstill = StallDetector::new(Instant::now());
    loop {
        if !is_answered.load(Ordering::Relaxed)
            && let Err(FrameError::Length { .. }) = buffer.peek_json()
        {
            let begins = buffer.bytes().iter().copied().take(SHOWN_BYTES).collect();
            return Err(SendError::NotFtx { at: connection.peer().to_string(), begins });
        }
        while let Some(json) = buffer.next_frame(Framing::Native).map_err(WireError::from)? {
            is_answered.store(true, Ordering::Relaxed);
            watch = idle_timer.frame_deadline();
            let mut state = shared.lock();
            let event = state.session.handle(json).map_err(|error| with_name(&state, error))?;
            if event != Event::Nothing || state.announced.is_empty() {
                standstill = StallDetector::new(Instant::now());
            }
            if standstill.is_stalled(Instant::now(), idle_timer.taken_bytes()) {
                return Err(SendError::Stalled(STALL_TIME));
            }
            if apply(shared, &mut state, event) {
                return Ok(());
            }
        }
        shared.notify();
        if watch.is_expired(!buffer.is_empty()) {
            return Err(SendError::HeaderTimeout(shared.timeout));
        }
        match connection.read(buffer.space()) {
            Ok(0) => return Err(closed(shared)),
            Ok(count) => {
                buffer.filled(count);
                idle_timer.touch();
            }
            Err(error) if net::is_timeout(&error) => {
                if idle_timer.is_expired() {
                    return Err(SendError::Silent(shared.timeout));
                }
                if shared.lock().outcome.is_some() {
                    return Ok(());
                }
            }
            // Stopped and continued, by Ctrl-Z and fg.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if net::is_disconnect(&error) => return Err(closed(shared)),
            Err(error) => return Err(SendError::Connection(error)),
        }
    }
}

/// Reads a connection that joined, on which the receiver says nothing but why it ends the session.
pub fn run_secondary(shared: &SessionShared<'_>, connection: &Connection) {
    let mut buffer = FrameBuffer::new();
    let failed = loop {
        match buffer.next_frame(Framing::Native).map(|json| json.map(Message::parse)) {
            Ok(None) => {}
            Ok(Some(Ok(Message::Error(ErrorReport { entry: None, fault, message })))) => {
                break WireError::PeerGaveUp { fault, message }.into();
            }
            Ok(Some(Ok(_))) => break WireError::Protocol("words on a joined connection".into()).into(),
            Ok(Some(Err(error))) => break WireError::from(error).into(),
            Err(error) => break WireError::from(error).into(),
        }
        match connection.read(buffer.space()) {
            Ok(0) => break closed(shared),
            Ok(count) => buffer.filled(count),
            Err(error) if net::is_timeout(&error) => {
                if shared.lock().outcome.is_some() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if net::is_disconnect(&error) => break closed(shared),
            Err(error) => break SendError::Connection(error),
        }
    };
    // At the end of a session the connection closes after the receipt, and one that joins just then is refused. The receipt
    // comes on another connection and may still be on its way.
    if shared.lock().session.has_sent_all() {
        shared.wait_for_outcome(RECEIPT_GRACE);
    }
    shared.end(Err(failed));
}

fn closed(shared: &SessionShared<'_>) -> SendError {
    SendError::Closed { unconfirmed: shared.lock().announced.len() as u64 }
}

/// The session knows entries by their numbers, people by their names.
fn with_name(state: &SessionState, error: WireError) -> SendError {
    match error {
        WireError::Etag { entry, theirs, ours } => {
            let name = state.announced.get(&entry).map(|announced| announced.name().to_string());
            SendError::StoredOther { name: name.unwrap_or_default(), theirs, ours }
        }
        error => error.into(),
    }
}

/// Notes what an event means; `true` when it was the last one.
fn apply(shared: &SessionShared<'_>, state: &mut SessionState, event: Event) -> bool {
    match event {
        Event::Nothing | Event::Wanted => {}
        Event::Welcomed { takes_streams } => shared.welcomed(state, takes_streams),
        Event::Resumed(files) => {
            for (id, bytes) in files {
                if let Some(InFlightEntry::File { source, transferred, .. }) = state.announced.get_mut(&id) {
                    report_undone(shared, transferred.take_uncertain());
                    state.kept_bytes += transferred.set_present(bytes);
                    let (path, size_bytes) = (source.name.as_bytes(), source.size_bytes);
                    shared.progress.report(Told::Resumed { path, bytes, size_bytes });
                }
            }
        }
        Event::Unneeded(ids) => ids.into_iter().for_each(|id| revoke_resumed(shared, state, id)),
        Event::AlreadyThere(ids) => {
            for id in ids {
                if let Some(InFlightEntry::File { source, transferred, already_there, .. }) =
                    state.announced.get_mut(&id)
                {
                    *already_there = true;
                    report_undone(shared, transferred.take_uncertain());
                    transferred.set_present(source.size_bytes);
                }
            }
        }
        Event::Stored(ids) => {
            for id in ids {
                if let Some(announced) = state.announced.remove(&id) {
                    on_stored(shared, &mut state.summary, id, &announced);
                }
            }
        }
        Event::Again { entry, part } => {
            if let Some(InFlightEntry::File { source, transferred, .. }) = state.announced.get_mut(&entry) {
                state.summary.repaired_parts += 1;
                let bytes = PartLayout::new(source.size_bytes).range(part).map_or(0, |range| range.len);
                transferred.unsent(bytes);
                report_undone(shared, bytes);
                shared.progress.report(Told::Repairing { path: source.name.as_bytes(), part });
            }
        }
        Event::KeptOther(id) => shared.withdraw_for(state, id, ErrorCode::Digest, KEPT_OTHER),
        Event::Failed { entry, fault, message, was_wanted } => {
            if !was_wanted {
                revoke_resumed(shared, state, entry);
            }
            if let Some(mut announced) = state.announced.remove(&entry) {
                shared.list_dropped(entry);
                let reason = on_failed(&announced, &message);
                report_failed(shared, state, &mut announced, fault, &reason);
            }
        }
        Event::Receipt(receipt) => {
            state.receipt = Some(receipt);
            return true;
        }
    }
    false
}

/// What went out of a file unasked was of no use.
fn revoke_resumed(shared: &SessionShared<'_>, state: &mut SessionState, id: EntryId) {
    if let Some(InFlightEntry::File { transferred, .. }) = state.announced.get_mut(&id) {
        let bytes = transferred.revoke();
        state.summary.moved_bytes -= bytes;
        report_undone(shared, bytes);
    }
}

/// So much of a file does not count as done any more.
pub fn report_undone(shared: &SessionShared<'_>, bytes: u64) {
    if bytes > 0 {
        shared.progress.report(Told::Undone { bytes });
    }
}

/// Before a byte of it was asked for and went out, or later: that tells whether anything was wasted.
fn on_failed(announced: &InFlightEntry, message: &str) -> String {
    match announced {
        InFlightEntry::File { transferred, .. } if transferred.done_bytes() > 0 => {
            format!("the receiver failed: {message}")
        }
        _ => format!("refused by the receiver: {message}"),
    }
}

fn on_stored(shared: &SessionShared<'_>, summary: &mut Summary, id: EntryId, announced: &InFlightEntry) {
    match announced {
        InFlightEntry::Dir(..) | InFlightEntry::Link { .. } => summary.others += 1,
        InFlightEntry::File { source, transferred, already_there, md5, .. } => {
            // What went on a connection that was lost may be what is there.
            if *already_there && !transferred.was_lost() {
                summary.count_skipped(source.size_bytes);
            } else {
                let account = transferred.totals(source.size_bytes);
                summary.count_new(source.size_bytes);
                summary.resumed_bytes += account.resumed_bytes;
                summary.hole_bytes += account.hole_bytes;
                summary.repeated_bytes += account.repeated_bytes;
            }
            let there_bytes = already_there.then_some(source.size_bytes);
            if md5.is_none() {
                // Perhaps nothing of it had to be loaded.
                source_file::start_hashing_one(shared, id, source);
            }
            shared.list_stored(id, source.name.as_bytes(), *md5, there_bytes);
        }
    }
}

/// An entry will not arrive: its bytes leave the plan, and the user hears why.
pub fn report_failed(
    shared: &SessionShared<'_>,
    state: &mut SessionState,
    announced: &mut InFlightEntry,
    fault: ErrorCode,
    reason: &str,
) {
    state.summary.count_failure(fault);
    if let InFlightEntry::File { source, transferred, .. } = announced {
        report_undone(shared, transferred.take_uncertain());
        let remaining_bytes = source.size_bytes.saturating_sub(transferred.done_bytes());
        shared.progress.report(Told::FileDropped { remaining_bytes });
    }
    shared.progress.report(Told::Failed { name: announced.name().as_bytes(), fault, reason });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_that_is_only_busy_is_given_up_in_the_end() {
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let mut standstill = StallDetector::new(start);
        // A sign of life from here takes 22 bytes.
        let over = (1..=7200).find(|&second| standstill.is_stalled(after(second), second * 22));
        assert_eq!(over, Some(3600));
        let mut modem = StallDetector::new(start);
        assert!((1..=86_400).all(|second| !modem.is_stalled(after(second), second * 3000)));
    }
}
