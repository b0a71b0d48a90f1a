//! Entries that leave the session: stored, failed or withdrawn; and the byte counts that change with them.

use super::entry::InFlightEntry;
use super::state::{SessionShared, SessionState};
use crate::digest::PartLayout;
use crate::error_code::ErrorCode;
use crate::event::{Event, Summary};
use crate::source::ReadError;
use crate::wire::EntryId;

/// Withdraws a file that cannot be sent as announced: the receiver discards what it has of it.
pub fn withdraw(shared: &SessionShared<'_>, state: &mut SessionState, id: EntryId, error: &ReadError) {
    withdraw_for(shared, state, id, error.code(), &error.to_string());
}

/// Withdraws an entry for any reason, unless it was stored or failed meanwhile.
pub fn withdraw_for(
    shared: &SessionShared<'_>,
    state: &mut SessionState,
    id: EntryId,
    code: ErrorCode,
    reason: &str,
) {
    if state.session.withdraw(id, code, reason)
        && let Some(mut entry) = state.in_flight.remove(&id)
    {
        shared.hasher.on_dropped(id);
        report_failed(shared, state, &mut entry, code, reason);
    }
}

/// The receiver has `bytes` of a file from an earlier session.
pub fn on_resumed(shared: &SessionShared<'_>, state: &mut SessionState, id: EntryId, bytes: u64) {
    if let Some(InFlightEntry::File { source, ledger, .. }) = state.in_flight.get_mut(&id) {
        report_undone(shared, ledger.take_uncertain());
        state.kept_bytes += ledger.set_present(bytes);
        let (path, size_bytes) = (source.name.as_bytes(), source.size_bytes);
        shared.progress.report(Event::Resumed { path, bytes, size_bytes });
    }
}

/// The receiver has an identical file.
pub fn on_already_there(shared: &SessionShared<'_>, state: &mut SessionState, id: EntryId) {
    if let Some(InFlightEntry::File { source, ledger, already_there, .. }) = state.in_flight.get_mut(&id) {
        *already_there = true;
        report_undone(shared, ledger.take_uncertain());
        ledger.set_present(source.size_bytes);
    }
}

/// The receiver did not need the bodies of a file that were sent before it answered.
pub fn revoke_unasked(shared: &SessionShared<'_>, state: &mut SessionState, id: EntryId) {
    if let Some(InFlightEntry::File { ledger, .. }) = state.in_flight.get_mut(&id) {
        let bytes = ledger.revoke();
        state.summary.moved_bytes -= bytes;
        report_undone(shared, bytes);
    }
}

/// A part arrived damaged and is sent again.
pub fn on_damaged(shared: &SessionShared<'_>, state: &mut SessionState, id: EntryId, part: u64) {
    if let Some(InFlightEntry::File { source, ledger, .. }) = state.in_flight.get_mut(&id) {
        state.summary.repaired_parts += 1;
        let bytes = PartLayout::new(source.size_bytes).range(part).map_or(0, |range| range.len);
        ledger.undo_sent(bytes);
        report_undone(shared, bytes);
        shared.progress.report(Event::Repairing { path: source.name.as_bytes(), part });
    }
}

/// The receiver stored an entry.
pub fn on_stored(shared: &SessionShared<'_>, state: &mut SessionState, id: EntryId) {
    match state.in_flight.remove(&id) {
        Some(InFlightEntry::Dir(..) | InFlightEntry::Link { .. }) => state.summary.others += 1,
        Some(file @ InFlightEntry::File { .. }) => on_file_stored(shared, &mut state.summary, id, &file),
        None => {}
    }
}

fn on_file_stored(shared: &SessionShared<'_>, summary: &mut Summary, id: EntryId, file: &InFlightEntry) {
    let InFlightEntry::File { source, ledger, already_there, md5, .. } = file else { return };
    // The identical file may be the one that was sent in a session whose connection was lost.
    if *already_there && !ledger.was_lost() {
        summary.count_skipped(source.size_bytes);
    } else {
        let totals = ledger.totals(source.size_bytes);
        summary.count_new(source.size_bytes);
        summary.resumed_bytes += totals.resumed_bytes;
        summary.hole_bytes += totals.hole_bytes;
        summary.repeated_bytes += totals.repeated_bytes;
    }
    if md5.is_none() {
        // The loader did not start it if it had nothing to load of this file.
        shared.hasher.start(id, source);
    }
    let there_bytes = already_there.then_some(source.size_bytes);
    shared.hasher.on_stored(id, source.name.as_bytes(), *md5, there_bytes);
}

/// The receiver failed an entry.
pub fn on_failed(
    shared: &SessionShared<'_>,
    state: &mut SessionState,
    id: EntryId,
    code: ErrorCode,
    message: &str,
) {
    if let Some(mut entry) = state.in_flight.remove(&id) {
        shared.hasher.on_dropped(id);
        let reason = failure_reason(&entry, message);
        report_failed(shared, state, &mut entry, code, &reason);
    }
}

/// Distinguishes an entry that was refused before any byte of it was sent from one that failed later.
fn failure_reason(entry: &InFlightEntry, message: &str) -> String {
    match entry {
        InFlightEntry::File { ledger, .. } if ledger.done_bytes() > 0 => {
            format!("the receiver failed: {message}")
        }
        _ => format!("refused by the receiver: {message}"),
    }
}

/// Reports an entry as failed and removes its unsent bytes from the plan.
fn report_failed(
    shared: &SessionShared<'_>,
    state: &mut SessionState,
    entry: &mut InFlightEntry,
    code: ErrorCode,
    reason: &str,
) {
    state.summary.count_failure(code);
    if let InFlightEntry::File { source, ledger, .. } = entry {
        report_undone(shared, ledger.take_uncertain());
        let remaining_bytes = source.size_bytes.saturating_sub(ledger.done_bytes());
        shared.progress.report(Event::FileDropped { remaining_bytes });
    }
    shared.progress.report(Event::Failed { name: entry.name().as_bytes(), code, reason });
}

/// Reports bytes that were counted as done and have to be sent again, or were not needed.
pub fn report_undone(shared: &SessionShared<'_>, bytes: u64) {
    if bytes > 0 {
        shared.progress.report(Event::Undone { bytes });
    }
}
