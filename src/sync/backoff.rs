//! Retries: how many, and the pauses between them.

use std::time::Duration;

/// The first pause; each one is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(8);
/// After a session that lasted longer than this, the pauses start again with the first one.
const STEADY_TIME: Duration = Duration::from_secs(60);

/// Limits the attempts in a row that make no progress, with exponential pauses.
#[derive(Debug)]
pub struct Backoff {
    max_attempts: u32,
    /// In a row, since the last session that made progress.
    attempts: u32,
    /// In a row, since the last session that lasted.
    pauses: u32,
}

impl Backoff {
    /// Permits `max_attempts` in a row without progress.
    pub fn new(max_attempts: u32) -> Self {
        Backoff { max_attempts, attempts: 0, pauses: 0 }
    }

    /// A session ended: progress resets the count of attempts, and a long session the pauses.
    pub fn on_session_end(&mut self, made_progress: bool, lasted: Duration) {
        if made_progress {
            self.attempts = 0;
        }
        if lasted > STEADY_TIME {
            self.pauses = 0;
        }
    }

    /// The attempts in a row without progress.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Counts an attempt and returns the pause before it; `None` if no attempt is left.
    pub fn next_pause(&mut self) -> Option<Duration> {
        if self.attempts >= self.max_attempts {
            return None;
        }
        let pause = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(self.pauses)).min(MAX_PAUSE);
        self.attempts += 1;
        self.pauses = self.pauses.saturating_add(1);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_counted_while_there_is_no_progress_and_pauses_while_sessions_are_short() {
        let mut backoff = Backoff::new(3);
        let mut pause_ms = |made_progress, lasted_s| {
            backoff.on_session_end(made_progress, Duration::from_secs(lasted_s));
            (backoff.next_pause().map(|pause| pause.as_millis()), backoff.attempts())
        };
        assert_eq!(pause_ms(false, 1), (Some(500), 1));
        assert_eq!(pause_ms(false, 1), (Some(1000), 2));
        assert_eq!(pause_ms(true, 1), (Some(2000), 1), "a short session with progress keeps the pauses");
        assert_eq!(pause_ms(false, 61), (Some(500), 2), "a long one without progress keeps the count");
        assert_eq!(pause_ms(false, 1), (Some(1000), 3));
        assert_eq!(pause_ms(false, 61), (None, 3));
        for _ in 0..40 {
            assert!(pause_ms(true, 1).0.is_some_and(|pause| pause <= MAX_PAUSE.as_millis()));
        }
        assert_eq!(Backoff::new(0).next_pause(), None);
    }
}
