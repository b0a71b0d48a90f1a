//! Waking a thread that waits for the network.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

/// Once it was rung, every wait on it ends at once, now and later.
#[derive(Clone, Debug)]
pub struct Bell(Arc<OwnedFd>);

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The bell.
    Bell,
    /// Something can be read, or the end.
    Ready,
    /// The time is up, or a signal came.
    Nothing,
}

impl Bell {
    /// A bell that nobody has rung.
    pub fn new() -> io::Result<Self> {
        Ok(Bell(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Ends all waits.
    pub fn ring(&self) {
        // Eight bytes in the machine's own order; an eventfd with room for 2^64 - 2 takes a 1.
        #[allow(clippy::host_endian_bytes)]
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Waits for the bell, for something to read from `other`, or until the time is up.
    pub fn wait(&self, other: Option<BorrowedFd<'_>>, limit: Option<Duration>) -> io::Result<Woken> {
        let limit = limit.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        let mut fds = vec![PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        fds.extend(other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) if !fds[0].revents().is_empty() => Ok(Woken::Bell),
            Ok(0) | Err(Errno::INTR) => Ok(Woken::Nothing),
            Ok(_) => Ok(Woken::Ready),
            Err(errno) => Err(errno.into()),
        }
    }
}
