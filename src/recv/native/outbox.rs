//! Frames that wait for the thread that writes to the primary connection.
//!
//! The session is locked while its output is appended here, never while it is written, so that a sender that does not
//! read delays the writer alone.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::sync::{lock, wait_timeout};

/// Bytes that may wait before readers stop reading further frames, which bounds the memory of a session whose sender does
/// not read. The verifier and the committer never wait.
const MAX_PENDING_BYTES: usize = 256 << 10;

/// A queue of bytes for one writer.
#[derive(Debug)]
pub struct Outbox {
    state: Mutex<State>,
    /// Signalled when the writer has taken the pending bytes, or has failed.
    changed: Condvar,
    wake_writer: Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    pending: Vec<u8>,
    is_closed: bool,
    /// How a write failed. A frame may have been cut, so nothing is written after it.
    failure: Option<io::ErrorKind>,
}

/// What the writer finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Bytes to write.
    Frames(Vec<u8>),
    /// Nothing for now.
    Empty,
    /// Nothing, and nothing will follow.
    Closed,
}

impl Outbox {
    /// An empty outbox, and the channel that wakes its writer.
    pub fn new() -> (Self, Receiver<()>) {
        let (wake_writer, wakes) = bounded(1);
        (Outbox { state: Mutex::default(), changed: Condvar::new(), wake_writer }, wakes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn wake(&self) {
        // A full channel holds a wake-up already.
        let _ = self.wake_writer.try_send(());
    }

    /// Appends whole frames. Frames after [`Outbox::close`] are dropped.
    ///
    /// # Errors
    ///
    /// An earlier write failed.
    pub fn push(&self, frames: Vec<u8>) -> io::Result<()> {
        let mut state = self.lock();
        self.check(&state)?;
        if frames.is_empty() || state.is_closed {
            return Ok(());
        }
        if state.pending.is_empty() {
            state.pending = frames;
        } else {
            state.pending.extend_from_slice(&frames);
        }
        drop(state);
        self.wake();
        Ok(())
    }

    /// Ends the writer once it has written everything.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.wake();
    }

    /// Waits up to `limit` until few enough bytes are pending; `false` if there are still too many.
    ///
    /// # Errors
    ///
    /// An earlier write failed.
    pub fn wait_for_space(&self, limit: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        let is_full = |state: &State| state.pending.len() > MAX_PENDING_BYTES && state.failure.is_none();
        let mut state = self.lock();
        while is_full(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = wait_timeout(&self.changed, state, left);
        }
        self.check(&state)?;
        Ok(!is_full(&state))
    }

    /// For the writer: takes all pending bytes.
    pub fn take(&self) -> Taken {
        let mut state = self.lock();
        if state.pending.is_empty() || state.failure.is_some() {
            return if state.is_closed { Taken::Closed } else { Taken::Empty };
        }
        let frames = std::mem::take(&mut state.pending);
        self.changed.notify_all();
        Taken::Frames(frames)
    }

    /// For the writer: a write failed.
    pub fn fail(&self, kind: io::ErrorKind) {
        let mut state = self.lock();
        state.failure = Some(kind);
        state.pending = Vec::new();
        self.changed.notify_all();
    }

    /// # Errors
    ///
    /// How a write failed.
    pub fn result(&self) -> io::Result<()> {
        self.check(&self.lock())
    }

    fn check(&self, state: &State) -> io::Result<()> {
        state.failure.map_or(Ok(()), |kind| Err(kind.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_in_order_and_after_close_the_writer_ends() {
        let (outbox, wakes) = Outbox::new();
        assert_eq!(outbox.take(), Taken::Empty);
        outbox.push(vec![1]).unwrap();
        outbox.push(vec![2, 3]).unwrap();
        assert_eq!(wakes.try_iter().count(), 1);
        outbox.close();
        outbox.push(vec![4]).unwrap();
        assert_eq!(outbox.take(), Taken::Frames(vec![1, 2, 3]));
        assert_eq!(outbox.take(), Taken::Closed);
    }

    #[test]
    fn readers_wait_for_space_and_a_failed_write_ends_the_wait() {
        let (outbox, _wakes) = Outbox::new();
        outbox.push(vec![0; MAX_PENDING_BYTES]).unwrap();
        assert!(outbox.wait_for_space(Duration::ZERO).unwrap());
        outbox.push(vec![0]).unwrap();
        assert!(!outbox.wait_for_space(Duration::from_millis(1)).unwrap());
        outbox.fail(io::ErrorKind::TimedOut);
        for failed in
            [outbox.wait_for_space(Duration::from_secs(60)).map(drop), outbox.push(vec![0]), outbox.result()]
        {
            assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        outbox.close();
        assert_eq!(outbox.take(), Taken::Closed);
    }
}
