//! Announces entries to the receiver, as far ahead as the session permits.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::carry_over::CarryOver;
use super::entry::InFlightEntry;
use super::state::{SessionShared, SessionState};
use super::wait::SessionOver;
use super::walk::WalkEvent;
use crate::digest::PART_BYTES;
use crate::event::{Event, Reporter};
use crate::source::{Source, StateKey, WalkItem};

/// After this time without an event of the walk, which may be in a slow folder, the output is sent to the receiver.
const WALK_FLUSH_DELAY: Duration = Duration::from_millis(1);
/// How often a wait for the walk checks whether the session is over.
const WALK_POLL: Duration = Duration::from_millis(100);

/// Announces the entries that an earlier session did not settle and those that the walker finds, then the end. Returns
/// early when the session is over.
pub fn announce_all(
    shared: &SessionShared<'_>,
    found: &Receiver<WalkEvent>,
    carry_over: &mut CarryOver,
    key: &StateKey,
) {
    // The receive loop has set the outcome.
    let _ = try_announce_all(shared, found, carry_over, key);
}

fn try_announce_all(
    shared: &SessionShared<'_>,
    found: &Receiver<WalkEvent>,
    carry_over: &mut CarryOver,
    key: &StateKey,
) -> Result<(), SessionOver> {
    announce_unsettled(shared, carry_over, key)?;
    if carry_over.is_plan_complete {
        shared.wait_for_room()?.session.totals(carry_over.files, carry_over.bytes);
    }
    while let Some(event) = next_event(shared, found, carry_over)? {
        match shared.wait_for_room() {
            Ok(mut state) => announce_event(shared, &mut state, event, carry_over, key),
            Err(over) => {
                carry_over.next = Some(event);
                return Err(over);
            }
        }
    }
    shared.wait_for_room()?.session.end();
    shared.wake_writer();
    Ok(())
}

/// Announces the entries of earlier sessions again. Those for which there is no time stay in `carry_over`.
fn announce_unsettled(
    shared: &SessionShared<'_>,
    carry_over: &mut CarryOver,
    key: &StateKey,
) -> Result<(), SessionOver> {
    let mut unsettled = std::mem::take(&mut carry_over.unsettled).into_iter();
    while let Some(entry) = unsettled.next() {
        match shared.wait_for_room() {
            Ok(mut state) => announce(&mut state, entry, key, shared.progress),
            Err(over) => {
                carry_over.unsettled.push(entry);
                carry_over.unsettled.extend(unsettled);
                return Err(over);
            }
        }
    }
    Ok(())
}

/// Waits for an event of the walk, with keepalives; `None` after the last one.
fn next_event(
    shared: &SessionShared<'_>,
    found: &Receiver<WalkEvent>,
    carry_over: &mut CarryOver,
) -> Result<Option<WalkEvent>, SessionOver> {
    if let Some(event) = carry_over.next.take() {
        return Ok(Some(event));
    }
    loop {
        let mut received = found.recv_timeout(WALK_FLUSH_DELAY);
        if matches!(received, Err(RecvTimeoutError::Timeout)) {
            shared.wake_writer();
            received = found.recv_timeout(WALK_POLL);
        }
        match received {
            Ok(event) => return Ok(Some(event)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => shared.keepalive()?,
        }
    }
}

fn announce_event(
    shared: &SessionShared<'_>,
    state: &mut SessionState,
    event: WalkEvent,
    carry_over: &mut CarryOver,
    key: &StateKey,
) {
    let entry = match event {
        WalkEvent::FilesComplete => {
            carry_over.is_plan_complete = true;
            return state.session.totals(carry_over.files, carry_over.bytes);
        }
        WalkEvent::Item(WalkItem::Skipped { path, code, reason }) => {
            state.summary.count_failure(code);
            let name = path.as_os_str().as_encoded_bytes();
            return shared.progress.report(Event::Failed { name, code, reason: &reason });
        }
        WalkEvent::Item(WalkItem::File(source)) => {
            carry_over.files += 1;
            carry_over.bytes += source.size_bytes;
            InFlightEntry::file(Arc::new(source))
        }
        WalkEvent::Item(WalkItem::Dir { name, metadata }) => InFlightEntry::Dir(name, metadata),
        WalkEvent::Item(WalkItem::Link { name, target, metadata }) => {
            InFlightEntry::Link { name, target, metadata }
        }
    };
    announce(state, entry, key, shared.progress);
}

/// Announces an entry, for the first time or again.
pub fn announce(state: &mut SessionState, mut entry: InFlightEntry, key: &StateKey, progress: &dyn Reporter) {
    let id = match &mut entry {
        InFlightEntry::File { source, digests, .. } => {
            // Only files of several parts can be resumed.
            let on_no_key = |reason: &str| progress.report(Event::NoStateKey { reason });
            let state_digest = (source.size_bytes > PART_BYTES).then(|| source.state_digest(key, on_no_key));
            let Source { name, size_bytes, is_sparse, metadata, .. } = &**source;
            let id = state.session.announce_file(name, *size_bytes, *is_sparse, state_digest, *metadata);
            state.session.set_digests(id, std::mem::take(digests));
            id
        }
        InFlightEntry::Dir(name, metadata) => state.session.announce_dir(name, *metadata),
        InFlightEntry::Link { name, target, metadata } => {
            state.session.announce_link(name, target.as_bytes(), *metadata)
        }
    };
    state.in_flight.insert(id, entry);
}
