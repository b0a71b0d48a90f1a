//! Threads of a session.

use std::thread::{self, Scope, ScopedJoinHandle};

use crate::recv::error::RecvError;

/// Starts a named thread of a session.
///
/// # Errors
///
/// The system has no thread left; the session ends, and its sender may reconnect.
pub fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, RecvError> {
    thread::Builder::new().name(name.into()).spawn_scoped(scope, work).map_err(RecvError::NoThread)
}
