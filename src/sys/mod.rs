//! The operating system: the only box that names `rustix`, `nix`, `libc` or `std::os`.
//!
//! Functions here translate calls; decisions stay with their callers.

mod random;

pub use random::random_bytes;
