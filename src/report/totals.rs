//! The numbers behind a progress bar.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::event::Event;

/// Files and bytes of one session. All numbers saturate: a peer's sizes may add up to more than 64 bits.
#[derive(Debug, Default)]
pub struct Totals {
    bytes_planned: AtomicU64,
    /// Bytes stored before, or transferred and not known to be lost.
    bytes_done: AtomicU64,
    /// All transferred bytes, including lost ones.
    bytes_transferred: AtomicU64,
    files_planned: AtomicU64,
    files_done: AtomicU64,
    plan_complete: AtomicBool,
}

/// The totals at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Bytes found so far.
    pub bytes_planned: u64,
    /// Bytes stored, or transferred and not known to be lost.
    pub bytes_done: u64,
    /// All transferred bytes.
    pub bytes_transferred: u64,
    /// Files found so far.
    pub files_planned: u64,
    /// Files stored.
    pub files_done: u64,
    /// Whether the planned numbers are final.
    pub plan_complete: bool,
}

impl Snapshot {
    /// Whether everything is done.
    pub fn is_complete(&self) -> bool {
        self.plan_complete && self.bytes_done >= self.bytes_planned && self.files_done >= self.files_planned
    }
}

impl Totals {
    /// Counts an event; false if it changes no number.
    pub fn count(&self, event: &Event<'_>) -> bool {
        match *event {
            Event::Planned { files, bytes } => {
                saturating_add(&self.files_planned, files);
                saturating_add(&self.bytes_planned, bytes);
            }
            Event::PlanComplete => self.plan_complete.store(true, Relaxed),
            Event::Transferred { bytes } => {
                saturating_add(&self.bytes_done, bytes);
                saturating_add(&self.bytes_transferred, bytes);
            }
            Event::Resumed { bytes, .. } => saturating_add(&self.bytes_done, bytes),
            Event::FileDone { there_bytes, .. } => {
                saturating_add(&self.files_done, 1);
                saturating_add(&self.bytes_done, there_bytes.unwrap_or(0));
            }
            Event::FileDropped { remaining_bytes } => {
                saturating_sub(&self.files_planned, 1);
                saturating_sub(&self.bytes_planned, remaining_bytes);
            }
            Event::Undone { bytes } => saturating_sub(&self.bytes_done, bytes),
            _ => return false,
        }
        true
    }

    /// The current numbers.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            bytes_planned: self.bytes_planned.load(Relaxed),
            bytes_done: self.bytes_done.load(Relaxed),
            bytes_transferred: self.bytes_transferred.load(Relaxed),
            files_planned: self.files_planned.load(Relaxed),
            files_done: self.files_done.load(Relaxed),
            plan_complete: self.plan_complete.load(Relaxed),
        }
    }
}

fn saturating_add(number: &AtomicU64, by: u64) {
    let _ = number.fetch_update(Relaxed, Relaxed, |number| Some(number.saturating_add(by)));
}

fn saturating_sub(number: &AtomicU64, by: u64) {
    let _ = number.fetch_update(Relaxed, Relaxed, |number| Some(number.saturating_sub(by)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn count(totals: &Totals, events: &[Event<'_>]) -> (u64, u64) {
        events.iter().for_each(|event| {
            totals.count(event);
        });
        let now = totals.snapshot();
        (now.bytes_done, now.bytes_planned)
    }

    #[test]
    fn stored_bytes_count_as_done_and_the_total_stays() {
        let totals = Totals::default();
        let resumed = |bytes| Event::Resumed { path: b"a", bytes, size_bytes: 300 };
        assert_eq!(count(&totals, &[Event::Planned { files: 2, bytes: 350 }, resumed(120)]), (120, 350));
        let lost = Event::Lost { reason: "", pause: Duration::ZERO };
        assert_eq!(count(&totals, &[Event::Transferred { bytes: 80 }, lost]), (200, 350));
        // On the next connection.
        assert_eq!(count(&totals, &[Event::Undone { bytes: 200 }, resumed(160)]), (160, 350));
        let done = Event::FileDone { path: b"b", md5: None, there_bytes: Some(50) };
        assert_eq!(count(&totals, &[Event::Transferred { bytes: 140 }, done]), (350, 350));
        assert_eq!(totals.snapshot().bytes_transferred, 220, "the rate is that of transferred bytes");
    }

    #[test]
    fn numbers_saturate() {
        let totals = Totals::default();
        let planned = Event::Planned { files: 1, bytes: u64::MAX };
        assert_eq!(count(&totals, &[planned, planned]), (0, u64::MAX));
        assert_eq!(count(&totals, &[Event::Undone { bytes: 1 }]), (0, u64::MAX));
    }
}
