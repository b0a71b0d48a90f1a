//! One connection, as those see it who decide whether it may stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::net::{Connection, Shutdown};

/// Whoever brings less than this may be taken for idle where others need what it holds. A session that gives way for that
/// goes on later where it was.
const ACTIVE_BYTES_PER_S: u64 = 2000;

/// A connection and what became of it; whoever serves it and the desk have one each, and the connection is closed with
/// the last of them.
#[derive(Clone, Debug)]
pub struct ConnectionHandle {
    connection: Connection,
    accepted: Instant,
    /// Until when its session was at work, in milliseconds since it came; 0 if it never was.
    active_until_ms: Arc<AtomicU64>,
    /// Entries that its session has in flight.
    entries: Arc<AtomicUsize>,
    evicted: Arc<AtomicBool>,
}

impl ConnectionHandle {
    pub fn new(connection: Connection) -> Self {
        ConnectionHandle {
            connection,
            accepted: Instant::now(),
            active_until_ms: Arc::default(),
            entries: Arc::default(),
            evicted: Arc::default(),
        }
    }

    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The peer delivers so many bytes: each counts as work for some time, so that whoever trickles falls behind.
    pub fn record_bytes(&self, bytes: u64) {
        let _ = self.active_until_ms.compare_exchange(0, self.now_ms(), Ordering::Relaxed, Ordering::Relaxed);
        self.record_busy(Duration::from_millis(bytes.saturating_mul(1000) / ACTIVE_BYTES_PER_S));
    }

    /// So long this side was at work with what was delivered, and the peer is not to blame.
    pub fn record_busy(&self, time: Duration) {
        let (now, time) = (self.now_ms(), time.as_millis() as u64);
        let _ = self.active_until_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |worked| {
            (worked > 0).then(|| now.min(worked.saturating_add(time)))
        });
    }

    /// Has the peer ever delivered anything?
    pub fn was_active(&self) -> bool {
        self.active_until_ms.load(Ordering::Relaxed) > 0
    }

    /// How long there was no work, or has never been any.
    pub fn idle(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.active_until_ms.load(Ordering::Relaxed)))
    }

    fn now_ms(&self) -> u64 {
        1 + self.accepted.elapsed().as_millis() as u64
    }

    /// The session has so many entries in flight.
    pub fn set_in_flight(&self, entries: usize) {
        self.entries.store(entries, Ordering::Relaxed);
    }

    pub fn in_flight(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// It belongs to the session of this connection: what is delivered here counts there, and both give way together.
    pub fn attribute_to(&mut self, first: &ConnectionHandle) {
        *self = ConnectionHandle { connection: self.connection.clone(), ..first.clone() };
    }

    /// Has anything come that nobody has read yet? Whoever sends it may be gone already and believe that it arrived.
    pub fn has_unread(&self) -> bool {
        self.connection.unread_bytes() > 0
    }

    /// Ends it in favour of another one. Whoever reads it finds its end and may still say why.
    pub fn evict(&self) {
        self.evicted.store(true, Ordering::Release);
        // If it is gone already, so much the better.
        let _ = self.connection.shutdown(Shutdown::Read);
    }

    /// Ends it where even the way back is blocked.
    pub fn shutdown(&self) {
        let _ = self.connection.shutdown(Shutdown::Both);
    }

    pub fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Acquire)
    }
}
