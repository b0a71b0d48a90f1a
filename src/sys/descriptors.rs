//! File descriptors of this process.

use std::os::fd::AsRawFd;

use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Resource, getrlimit};

/// How many descriptors this process may have.
pub fn max_descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The number that the next descriptor will get: the lowest that is free. `None` if there is none.
pub fn next_descriptor() -> Option<u64> {
    let probe = eventfd(0, EventfdFlags::CLOEXEC).ok()?;
    Some(probe.as_raw_fd().unsigned_abs().into())
}
