//! The operating system: the only box that names `rustix`, `nix`, `libc` or `std::os`.
//!
//! Functions here translate calls; decisions stay with their callers.

pub mod descriptors;
pub mod dir;
pub mod file;
mod file_system;
pub mod kernel_copy;
pub mod limits;
mod no_links;
pub mod page_cache;
pub mod path;
pub mod permissions;
pub mod process;
pub mod signals;
pub mod socket;
pub mod stat;
pub mod terminal;
pub mod threads;
pub mod wake;

/// The error of a system call.
pub use rustix::io::Errno;

/// A file, socket or pipe of the system that another value owns.
pub use std::os::fd::BorrowedFd as BorrowedHandle;

/// Values that lend their handle.
pub use std::os::fd::AsFd as AsHandle;
