//! The operating system: the only box that names `rustix`, `nix`, `libc` or `std::os`.
//!
//! Functions here translate calls; decisions stay with their callers.

pub mod limits;
pub mod page_cache;
pub mod permissions;
pub mod signals;
pub mod terminal;
