//! How many connections and sessions a process can have.

use crate::sys::descriptors::{max_descriptors, next_descriptor};

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections whose session has not begun.
    pub pending: usize,
    /// Slots: sessions and their further connections.
    pub active: usize,
}

/// The limits of a system with enough descriptors and threads.
pub const MAX_LIMITS: Limits = Limits { pending: 64, active: 192 };
/// The limits of a system with very few.
pub(super) const MIN_LIMITS: Limits = Limits { pending: 4, active: 2 };
/// One client may have this part of the slots.
pub const CLIENT_FRACTION: usize = 2;

/// Descriptors for the program itself and for staged files.
const RESERVED_DESCRIPTORS: u64 = 144;
/// Descriptors of a session beside its files: its connection, a cancellation token, a pipe for each connection, folders.
const SESSION_DESCRIPTORS: u64 = 8;
/// Threads of the program itself.
const RESERVED_THREADS: u64 = 8;
/// Threads of a session on one connection: four, one for deferred files, and two for the hasher. A further connection, which
/// has a slot like a session, has one.
const SESSION_THREADS: u64 = 7;

/// A new session waits until at least this part of all descriptors is free, or no idle session holds any: enough for the
/// session and a file.
pub const SESSION_FD_FRACTION: u64 = 16;
/// A session that has several staged files leaves at least this part of all descriptors free.
pub const PROCESS_FD_FRACTION: u64 = 8;

/// Is less than this part of all descriptors free? A new descriptor gets the lowest free number.
pub fn fd_headroom_below(part: u64) -> bool {
    let all = max_descriptors();
    next_descriptor().is_none_or(|next| next >= all - all / part)
}

impl Limits {
    /// Limits of a process that may have this many descriptors and threads.
    pub fn new(descriptors: u64, threads: u64) -> Self {
        let between = |least: usize, number: u64, most: usize| (number as usize).clamp(least, most);
        let pending = between(MIN_LIMITS.pending, descriptors.min(threads) / 8, MAX_LIMITS.pending);
        // A pending connection has one descriptor and one thread.
        let left = |all: u64, reserved: u64| all.saturating_sub(reserved + pending as u64);
        let by_descriptors = left(descriptors, RESERVED_DESCRIPTORS) / SESSION_DESCRIPTORS;
        let by_threads = left(threads, RESERVED_THREADS) / SESSION_THREADS;
        Limits {
            pending,
            active: between(MIN_LIMITS.active, by_descriptors.min(by_threads), MAX_LIMITS.active),
        }
    }

    /// All connections, and some that are being evicted.
    pub fn total(self) -> usize {
        self.pending + self.active + self.pending / 2
    }

    /// Slots that one client may have.
    pub fn per_client(self) -> usize {
        (self.active / CLIENT_FRACTION).max(1)
    }
}
