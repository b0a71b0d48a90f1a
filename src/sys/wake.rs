//! Waiting for file descriptors, and waking a thread that waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

/// What to wait for at a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes to read, a connection to accept, or the end.
    Readable,
    /// Space to write, the end of connecting, or an error.
    Writable,
}

/// A flag of the kernel that ends each wait on it once it is set, and is never reset.
#[derive(Debug)]
pub struct WakeEvent(OwnedFd);

impl WakeEvent {
    /// An event that is not set.
    ///
    /// # Errors
    ///
    /// There is no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(WakeEvent(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Sets it.
    pub fn set(&self) {
        // Eight bytes in the machine's own order; the counter saturates far above the number of calls.
        #[allow(clippy::host_endian_bytes)]
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

/// Why [`wait`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// One of the events is set.
    Event,
    /// The descriptor is ready.
    Descriptor,
    /// The time is up, or a signal came.
    Nothing,
}

/// Waits until one of `events` is set or `other` is ready, at most for `limit`.
pub fn wait(
    events: &[&WakeEvent],
    other: Option<(BorrowedFd<'_>, Interest)>,
    limit: Option<Duration>,
) -> io::Result<Ready> {
    let limit = limit.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
    let mut fds: Vec<PollFd<'_>> =
        events.iter().map(|event| PollFd::from_borrowed_fd(event.0.as_fd(), PollFlags::IN)).collect();
    fds.extend(other.map(|(fd, interest)| {
        let flags = match interest {
            Interest::Readable => PollFlags::IN,
            Interest::Writable => PollFlags::OUT,
        };
        PollFd::from_borrowed_fd(fd, flags)
    }));
    match poll(&mut fds, limit.as_ref()) {
        Ok(_) if fds[..events.len()].iter().any(|fd| !fd.revents().is_empty()) => Ok(Ready::Event),
        Ok(0) | Err(Errno::INTR) => Ok(Ready::Nothing),
        Ok(_) => Ok(Ready::Descriptor),
        Err(errno) => Err(errno.into()),
    }
}
