//! A limit on how often something is done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Allows an action once per interval, the first time at once. Shared by threads without a lock.
#[derive(Debug)]
pub struct Throttle {
    interval: Duration,
    start: Instant,
    /// Time of the next action, in milliseconds since `start`.
    due_ms: AtomicU64,
}

impl Throttle {
    /// Allows one action per `interval`.
    pub fn new(interval: Duration) -> Self {
        Throttle { interval, start: Instant::now(), due_ms: AtomicU64::new(0) }
    }

    /// True for one thread per interval.
    pub fn is_due(&self) -> bool {
        let now = self.start.elapsed().as_millis() as u64;
        let due = self.due_ms.load(Ordering::Relaxed);
        let next = now + self.interval.as_millis() as u64;
        now >= due && self.due_ms.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
