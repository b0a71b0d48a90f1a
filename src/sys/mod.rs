//! The operating system: the only box that names `rustix`, `nix`, `libc` or `std::os`.
//!
//! Functions here translate calls; decisions stay with their callers.

pub mod dir;
pub mod file;
mod file_system;
mod no_links;
pub mod path;
pub mod process;
pub mod stat;

/// The error of a system call.
pub use rustix::io::Errno;

/// Values that lend their handle.
pub use std::os::fd::AsFd as AsHandle;
