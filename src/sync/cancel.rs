//! Waking a thread that waits for the network.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::DropGuard;

/// Once it was rung, every wait on it ends at once, now and later.
#[derive(Clone, Debug)]
pub struct CancelToken(Arc<Signal>);

#[derive(Debug)]
struct Signal {
    fd: OwnedFd,
    /// The same for whoever looks without waiting, in the middle of work that shall not cost a system call a step.
    is_cancelled: AtomicBool,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The bell.
    Cancelled,
    /// What was waited for, or the end of it.
    Ready,
    /// The time is up, or a signal came.
    TimedOut,
}

impl CancelToken {
    /// A bell that nobody has rung.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(CancelToken(Arc::new(Signal { fd, is_cancelled: AtomicBool::new(false) })))
    }

    /// Ends all waits.
    pub fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::Release);
        // Eight bytes in the machine's own order; an eventfd with room for 2^64 - 2 takes a 1.
        #[allow(clippy::host_endian_bytes)]
        let _ = rustix::io::write(&self.0.fd, &1u64.to_ne_bytes());
    }

    /// Was it rung?
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::Acquire)
    }

    /// Waits for the bell, for something to read from `other`, or until the time is up.
    pub fn wait(&self, other: Option<BorrowedFd<'_>>, limit: Option<Duration>) -> io::Result<Wake> {
        wait(&[self], other.map(|fd| (fd, PollFlags::IN)), limit)
    }

    /// Like [`Bell::wait`], for this bell or another one.
    pub fn wait_either(
        &self,
        second: &CancelToken,
        other: Option<BorrowedFd<'_>>,
        limit: Option<Duration>,
    ) -> io::Result<Wake> {
        wait(&[self, second], other.map(|fd| (fd, PollFlags::IN)), limit)
    }

    /// Waits for the bell, until `other` takes bytes, or until the time is up.
    pub fn wait_writable(&self, other: BorrowedFd<'_>, limit: Duration) -> io::Result<Wake> {
        wait(&[self], Some((other, PollFlags::OUT)), Some(limit))
    }

    /// Does `work`, and has `on_ring` done by another thread if the bell is rung before the work is done.
    ///
    /// # Errors
    ///
    /// The system gives no second bell or no thread, and nothing was done.
    pub fn run_with_hook<T>(&self, on_ring: impl FnOnce() + Send, work: impl FnOnce() -> T) -> io::Result<T> {
        let done = CancelToken::new()?;
        thread::scope(|scope| {
            let ended = done.clone();
            thread::Builder::new().name("on-cancel".into()).spawn_scoped(scope, move || {
                while !self.is_cancelled() && !ended.is_cancelled() {
                    if self.wait_either(&ended, None, None).is_err() {
                        return;
                    }
                }
                if !ended.is_cancelled() {
                    on_ring();
                }
            })?;
            // However the work ends, nobody may wait for the bell any more.
            let _ended = DropGuard::new(|| done.cancel());
            Ok(work())
        })
    }
}

fn wait(
    bells: &[&CancelToken],
    other: Option<(BorrowedFd<'_>, PollFlags)>,
    limit: Option<Duration>,
) -> io::Result<Wake> {
    let limit = limit.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
    let mut fds: Vec<PollFd<'_>> =
        bells.iter().map(|token| PollFd::from_borrowed_fd(token.0.fd.as_fd(), PollFlags::IN)).collect();
    fds.extend(other.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
    match poll(&mut fds, limit.as_ref()) {
        Ok(_) if fds[..bells.len()].iter().any(|fd| !fd.revents().is_empty()) => Ok(Wake::Cancelled),
        Ok(0) | Err(Errno::INTR) => Ok(Wake::TimedOut),
        Ok(_) => Ok(Wake::Ready),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn a_bell_wakes_whoever_waits_and_whoever_looks() {
        let (token, other) = (CancelToken::new().unwrap(), CancelToken::new().unwrap());
        assert!(!token.is_cancelled());
        assert_eq!(token.wait_either(&other, None, Some(Duration::ZERO)).unwrap(), Wake::TimedOut);
        other.cancel();
        assert_eq!(token.wait_either(&other, None, None).unwrap(), Wake::Cancelled);
        assert!(other.is_cancelled() && !token.is_cancelled());
    }

    #[test]
    fn what_happens_on_a_ring_happens_once_and_only_beside_the_work() {
        let (token, rings) = (CancelToken::new().unwrap(), AtomicUsize::new(0));
        let ring = || {
            rings.fetch_add(1, Ordering::SeqCst);
        };
        assert_eq!(token.run_with_hook(ring, || 7).unwrap(), 7);
        assert_eq!(rings.load(Ordering::SeqCst), 0, "nobody rang");
        let worked = token.run_with_hook(ring, || {
            token.cancel();
            while rings.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            8
        });
        assert_eq!((worked.unwrap(), rings.load(Ordering::SeqCst)), (8, 1));
    }
}
