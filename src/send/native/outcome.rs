//! The end of a session: its result, and what the next one continues with.

use std::time::Duration;

use super::super::error::SendError;
use super::carry_over::CarryOver;
use super::entry::InFlightEntry;
use super::state::{SessionShared, SessionState};
use crate::busy_time::{Bottleneck, BusyTime};
use crate::wire::EntryId;

/// Returns the result of a session whose threads have ended; the summary and the unsettled entries go to `carry_over`.
pub fn conclude(shared: SessionShared<'_>, carry_over: &mut CarryOver) -> Result<(), SendError> {
    let busy = |secondary: usize| BusyTime {
        disk_ms: in_ms(shared.reading.spent()),
        md5_ms: in_ms(shared.md5.spent()),
        network_ms: in_ms(shared.writing.spent() / (1 + secondary as u32)),
    };
    let mut state = shared.lock();
    let limit = bottleneck(&state, busy(state.secondary.len()));
    state.summary.limit = limit;
    let unconfirmed = state.in_flight.len() as u64;
    let mut unsettled: Vec<(EntryId, InFlightEntry)> = state.in_flight.drain().collect();
    unsettled.sort_unstable_by_key(|(id, _)| *id);
    for (id, entry) in &mut unsettled {
        shared.hasher.on_dropped(*id);
        if let InFlightEntry::File { ledger, already_there, digests, .. } = entry {
            ledger.on_connection_lost();
            *already_there = false;
            *digests = state.session.take_digests(*id);
        }
    }
    drop(state);
    let state = shared.into_state();
    carry_over.put_back(unsettled.into_iter().map(|(_, entry)| entry));
    carry_over.announced_before += state.session.announced();
    carry_over.last_session = Some(state.session.id());
    carry_over.summary = state.summary;
    carry_over.kept_bytes += state.kept_bytes;
    state.outcome.unwrap_or(Err(SendError::Closed { unconfirmed }))
}

/// The stage that limited the transfer, if the receiver's receipt has its times.
fn bottleneck(state: &SessionState, sender: BusyTime) -> Option<Bottleneck> {
    let receiver = state.receipt.as_ref().and_then(|receipt| receipt.spent)?;
    Bottleneck::of_sender(sender, receiver, state.started.elapsed())
}

fn in_ms(time: Duration) -> u64 {
    time.as_millis() as u64
}
