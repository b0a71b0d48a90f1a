//! Cancellation that also wakes a thread that waits for the network.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::DropGuard;
use crate::sys::BorrowedHandle;
use crate::sys::wake::{Interest, Ready, WakeEvent, wait};

/// A cancellation token: once it is cancelled, every wait on it ends at once, now and later. Clones share the state.
#[derive(Clone, Debug)]
pub struct CancelToken(Arc<TokenState>);

#[derive(Debug)]
struct TokenState {
    event: WakeEvent,
    /// Mirror of the event, so that hot loops can test for cancellation without a system call.
    is_cancelled: AtomicBool,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// A token was cancelled.
    Cancelled,
    /// The other source is ready, or at its end.
    Ready,
    /// The time is up, or a signal came.
    TimedOut,
}

impl CancelToken {
    /// A token that is not cancelled.
    ///
    /// # Errors
    ///
    /// The system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let shared = TokenState { event: WakeEvent::new()?, is_cancelled: AtomicBool::new(false) };
        Ok(CancelToken(Arc::new(shared)))
    }

    /// Ends all waits.
    pub fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::Release);
        self.0.event.set();
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::Acquire)
    }

    /// Waits until the token is cancelled, at most for `limit`.
    pub fn wait(&self, limit: Option<Duration>) -> io::Result<Wake> {
        CancelToken::wait_any(&[self], None, limit)
    }

    /// Waits until one of `tokens` is cancelled or `other` is ready, at most for `limit`.
    pub fn wait_any(
        tokens: &[&CancelToken],
        other: Option<(BorrowedHandle<'_>, Interest)>,
        limit: Option<Duration>,
    ) -> io::Result<Wake> {
        let events: Vec<&WakeEvent> = tokens.iter().map(|token| &token.0.event).collect();
        Ok(match wait(&events, other, limit)? {
            Ready::Event => Wake::Cancelled,
            Ready::Descriptor => Wake::Ready,
            Ready::Nothing => Wake::TimedOut,
        })
    }

    /// Runs `work`, and runs `on_cancel` on another thread if the token is cancelled before the work is done.
    ///
    /// # Errors
    ///
    /// The system has no descriptor or no thread left; then nothing was done.
    pub fn run_with_hook<T>(
        &self,
        on_cancel: impl FnOnce() + Send,
        work: impl FnOnce() -> T,
    ) -> io::Result<T> {
        let done = CancelToken::new()?;
        thread::scope(|scope| {
            let ended = done.clone();
            thread::Builder::new().name("on-cancel".into()).spawn_scoped(scope, move || {
                while !self.is_cancelled() && !ended.is_cancelled() {
                    if CancelToken::wait_any(&[self, &ended], None, None).is_err() {
                        return;
                    }
                }
                if !ended.is_cancelled() {
                    on_cancel();
                }
            })?;
            // Also when `work` panics: the scope waits for the thread.
            let _guard = DropGuard::new(|| done.cancel());
            Ok(work())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn cancelling_one_of_several_tokens_ends_the_wait() {
        let (token, other) = (CancelToken::new().unwrap(), CancelToken::new().unwrap());
        assert!(!token.is_cancelled());
        let wait = |limit| CancelToken::wait_any(&[&token, &other], None, limit).unwrap();
        assert_eq!(wait(Some(Duration::ZERO)), Wake::TimedOut);
        other.cancel();
        assert_eq!(wait(None), Wake::Cancelled);
        assert!(other.is_cancelled() && !token.is_cancelled());
    }

    #[test]
    fn the_hook_runs_once_and_only_during_the_work() {
        let (token, calls) = (CancelToken::new().unwrap(), AtomicUsize::new(0));
        let hook = || {
            calls.fetch_add(1, Ordering::SeqCst);
        };
        assert_eq!(token.run_with_hook(hook, || 7).unwrap(), 7);
        assert_eq!(calls.load(Ordering::SeqCst), 0, "not cancelled");
        let worked = token.run_with_hook(hook, || {
            token.cancel();
            while calls.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            8
        });
        assert_eq!((worked.unwrap(), calls.load(Ordering::SeqCst)), (8, 1));
    }
}
