//! A connection and its activity, by which admission control decides what to evict.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::net::{Connection, Shutdown};

/// Sessions slower than this count as idle and may be evicted when their slot is needed; the sender reconnects and resumes.
const ACTIVE_BYTES_PER_S: u64 = 2000;

/// A connection and its activity, shared by its threads and admission control. The connection closes with the last clone.
#[derive(Clone, Debug)]
pub struct ConnectionHandle {
    connection: Connection,
    accepted: Instant,
    /// The end of the session's activity, in milliseconds since the connection was accepted; 0 if there was none.
    active_until_ms: Arc<AtomicU64>,
    /// Entries in flight of the session.
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

    /// Counts received bytes as activity: each one for a fixed time, so that a slow session becomes idle.
    pub fn record_bytes(&self, bytes: u64) {
        let _ = self.active_until_ms.compare_exchange(0, self.now_ms(), Ordering::Relaxed, Ordering::Relaxed);
        self.record_busy(Duration::from_millis(bytes.saturating_mul(1000) / ACTIVE_BYTES_PER_S));
    }

    /// Counts time that this side spent on what was received as activity.
    pub fn record_busy(&self, time: Duration) {
        let (now, time) = (self.now_ms(), time.as_millis() as u64);
        let _ = self.active_until_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |active_until| {
            (active_until > 0).then(|| now.min(active_until.saturating_add(time)))
        });
    }

    /// Has the peer delivered anything?
    pub fn was_active(&self) -> bool {
        self.active_until_ms.load(Ordering::Relaxed) > 0
    }

    /// How long there has been no activity.
    pub fn idle(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.active_until_ms.load(Ordering::Relaxed)))
    }

    fn now_ms(&self) -> u64 {
        1 + self.accepted.elapsed().as_millis() as u64
    }

    /// Sets the number of entries in flight of the session.
    pub fn set_in_flight(&self, entries: usize) {
        self.entries.store(entries, Ordering::Relaxed);
    }

    pub fn in_flight(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// Counts the activity of this connection for the session of `primary`, with which it is evicted.
    pub fn attribute_to(&mut self, primary: &ConnectionHandle) {
        *self = ConnectionHandle { connection: self.connection.clone(), ..primary.clone() };
    }

    /// Are there unread bytes? Their sender may have gone already.
    pub fn has_unread(&self) -> bool {
        self.connection.unread_bytes() > 0
    }

    /// Ends the reading in favour of another connection. An error can still be written.
    pub fn evict(&self) {
        self.evicted.store(true, Ordering::Release);
        // Fails only if the connection has ended.
        let _ = self.connection.shutdown(Shutdown::Read);
    }

    /// Ends reading and writing.
    pub fn shutdown(&self) {
        let _ = self.connection.shutdown(Shutdown::Both);
    }

    pub fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Acquire)
    }
}
