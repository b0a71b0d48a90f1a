//! Waits of a session's threads, with keepalives to the receiver where they can take long.

use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use super::state::{SessionShared, SessionState};

/// The receiver gets a keepalive when the session had no other output for this long.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// Output waits for more of it up to this size and age before the writer is woken: a write for each frame would cost
/// more system calls than all the rest.
const FLUSH_BYTES: usize = 32 << 10;
/// The longest time that output waits for more.
const FLUSH_AGE: Duration = Duration::from_millis(2);

/// The session ended while a thread waited.
pub struct SessionOver;

impl SessionShared<'_> {
    /// Waits until another entry may be announced, with keepalives.
    pub fn wait_for_room(&self) -> Result<MutexGuard<'_, SessionState>, SessionOver> {
        let mut state = self.lock();
        loop {
            if state.outcome.is_some() {
                return Err(SessionOver);
            }
            if state.session.has_room() && state.session.output_len() < FLUSH_BYTES {
                if state.session.output_len() > 0 && state.last_output.elapsed() >= FLUSH_AGE {
                    self.wake_writer();
                }
                return Ok(state);
            }
            state = self.wait_with_keepalive(state);
        }
    }

    /// Sends a keepalive if one is due.
    pub fn keepalive(&self) -> Result<(), SessionOver> {
        let mut state = self.lock();
        state.keepalive();
        let (is_over, has_output) = (state.outcome.is_some(), state.session.output_len() > 0);
        drop(state);
        if has_output {
            self.wake_writer();
        }
        if is_over { Err(SessionOver) } else { Ok(()) }
    }

    /// Waits for the end of the session, with keepalives.
    pub fn wait_for_end(&self) {
        let mut state = self.lock();
        while state.outcome.is_none() {
            state = self.wait_with_keepalive(state);
        }
    }

    /// Waits for the end of the session, at most for `limit`.
    pub fn wait_for_outcome(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        while state.outcome.is_none() && Instant::now() < deadline {
            state = self.wait(state, deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// Wakes the writer if there is output, and waits for a change or the next keepalive.
    fn wait_with_keepalive<'s>(
        &'s self,
        mut state: MutexGuard<'s, SessionState>,
    ) -> MutexGuard<'s, SessionState> {
        let until_next = state.keepalive();
        if state.session.output_len() > 0 {
            self.wake_writer();
        }
        self.wait(state, until_next)
    }
}

impl SessionState {
    /// Adds a keepalive to the output if one is due. Returns the time until the next one.
    fn keepalive(&mut self) -> Duration {
        if self.last_output.elapsed() >= KEEPALIVE_INTERVAL {
            self.session.keepalive();
            self.last_output = Instant::now();
        }
        KEEPALIVE_INTERVAL.saturating_sub(self.last_output.elapsed())
    }
}
