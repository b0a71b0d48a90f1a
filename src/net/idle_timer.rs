//! How long a peer has been silent, and how long a frame may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time since the last sign of life of a peer. Clones share it: all threads and connections of a session use one.
#[derive(Clone, Debug)]
pub struct IdleTimer {
    start: Instant,
    touched_ms: Arc<AtomicU64>,
    accepted_bytes: Arc<AtomicU64>,
    limit: Duration,
}

impl IdleTimer {
    /// Begins now; silence longer than `limit` is too long.
    pub fn new(limit: Duration) -> Self {
        IdleTimer { start: Instant::now(), touched_ms: Arc::default(), accepted_bytes: Arc::default(), limit }
    }

    /// The longest silence that is allowed.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Bytes that the peer accepted from the writers of its connections so far.
    pub fn taken_bytes(&self) -> u64 {
        self.accepted_bytes.load(Ordering::Relaxed)
    }

    /// The peer accepted so many more bytes.
    pub(super) fn add_taken(&self, bytes: u64) {
        self.accepted_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The peer sent something: the time begins again.
    pub fn touch(&self) {
        self.touched_ms.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether the peer was silent for longer than the limit.
    pub fn is_expired(&self) -> bool {
        let touched = Duration::from_millis(self.touched_ms.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(touched) > self.limit
    }

    /// A deadline for the next frame.
    pub fn frame_deadline(&self) -> FrameDeadline {
        FrameDeadline { started: None, limit: self.limit }
    }
}

/// The deadline of a frame: it must be complete within the limit from its first byte, even if bytes keep arriving. After a
/// damaged length, keepalives of the peer would count as the rest of the frame, and no timeout would end the session.
#[derive(Debug)]
pub struct FrameDeadline {
    started: Option<Instant>,
    limit: Duration,
}

impl FrameDeadline {
    /// To be called whenever more bytes are needed; `has_begun`: the first byte of the frame is here.
    pub fn is_expired(&mut self, has_begun: bool) -> bool {
        has_begun && self.started.get_or_insert_with(Instant::now).elapsed() > self.limit
    }
}
