//! The minimum rate at which bytes must move during a wait for them.

use std::time::Duration;

/// The minimum. The slowest links in use, modems of 3 kB/s shared by eight connections, give each about forty times as
/// much.
pub const MIN_RATE_BYTES_PER_S: u64 = 10;
/// The rate is averaged over this many timeouts, so that a link can recover from a silence of almost one timeout.
const WINDOW_SILENCES: u32 = 5;

/// Adds up the time that was spent waiting, window by window. Silence alone is detected by
/// [`IdleTimer`](super::IdleTimer); this detects a peer that sends a byte just before each timeout.
#[derive(Debug)]
pub struct MinRate {
    window: Duration,
    waited: Duration,
    moved_bytes: u64,
}

impl MinRate {
    /// For a connection with this timeout.
    pub fn new(silence: Duration) -> Self {
        MinRate { window: silence.saturating_mul(WINDOW_SILENCES), waited: Duration::ZERO, moved_bytes: 0 }
    }

    /// The time over which the rate is averaged.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// Adds bytes that moved.
    pub fn add(&mut self, bytes: u64) {
        self.moved_bytes = self.moved_bytes.saturating_add(bytes);
    }

    /// Adds a wait for bytes; `true` if the rate of a complete window was too low.
    pub fn is_too_slow(&mut self, waited: Duration) -> bool {
        self.waited = self.waited.saturating_add(waited);
        if self.waited < self.window {
            return false;
        }
        let least = (self.waited.as_secs_f64() * MIN_RATE_BYTES_PER_S as f64) as u64;
        let moved = std::mem::take(&mut self.moved_bytes);
        self.waited = Duration::ZERO;
        moved < least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn step(rate: &mut MinRate, waited: Duration, moved_bytes: u64) -> bool {
        rate.add(moved_bytes);
        rate.is_too_slow(waited)
    }

    /// After how many steps of the same kind a peer is given up, if within a day.
    fn given_up_after(waited: Duration, moved_bytes: u64) -> Option<u64> {
        let mut rate = MinRate::new(MINUTE);
        let steps = (86_400 / waited.as_secs().max(1)).max(1);
        (1..=steps).find(|_| step(&mut rate, waited, moved_bytes))
    }

    #[test]
    fn one_byte_before_each_timeout_is_too_slow() {
        assert_eq!(given_up_after(Duration::from_secs(59), 1), Some(6), "within six minutes");
        assert_eq!(given_up_after(Duration::from_secs(1), 1), Some(300));
        assert_eq!(given_up_after(MINUTE, 0), Some(5));
    }

    #[test]
    fn maximum_durations_do_not_overflow() {
        let mut rate = MinRate::new(Duration::MAX);
        assert_eq!(rate.window(), Duration::MAX);
        assert!(!step(&mut rate, Duration::from_secs(1), u64::MAX));
        assert!(!step(&mut rate, Duration::MAX, 1));
    }

    #[test]
    fn slow_modem_is_fast_enough() {
        assert_eq!(given_up_after(Duration::from_secs(1), 3000), None, "a modem");
        assert_eq!(given_up_after(Duration::from_secs(1), 3000 / 8), None, "shared by eight connections");
        let mut rate = MinRate::new(MINUTE);
        for _ in 0..100 {
            assert!(!step(&mut rate, Duration::from_secs(59), 0), "gone for almost a minute");
            assert!(!step(&mut rate, Duration::from_secs(10), 10 * 3000 / 8), "and back for a moment");
        }
    }
}
