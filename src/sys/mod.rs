//! The operating system: the only box that names `rustix`, `nix`, `libc` or `std::os`.
//!
//! Functions here translate calls; decisions stay with their callers.

pub mod descriptors;
pub mod kernel_copy;
pub mod limits;
pub mod page_cache;
pub mod permissions;
pub mod signals;
pub mod socket;
pub mod terminal;
pub mod wake;

/// A file, socket or pipe of the system, owned by somebody else.
pub use std::os::fd::BorrowedFd as BorrowedHandle;

/// Values that lend their handle.
pub use std::os::fd::AsFd as AsHandle;
