//! Synchronisation between threads.

mod backoff;
mod cancel;
mod drop_guard;
mod lock;

pub use backoff::Backoff;
pub use cancel::{CancelToken, Wake};
pub use drop_guard::DropGuard;
pub use lock::{into_inner, lock, wait, wait_timeout};
