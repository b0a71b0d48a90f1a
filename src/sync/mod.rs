//! Synchronisation between threads.

mod cancel;

pub use cancel::{CancelToken, Wake};
