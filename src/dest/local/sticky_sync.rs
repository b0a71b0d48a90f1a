//! A sync that failed stays failed.

use std::sync::{Mutex, PoisonError};

use crate::sys::Errno;

/// Remembers whether a sync through one handle failed. The kernel reports lost bytes only once: the next sync through the
/// same handle succeeds although they are lost.
#[derive(Debug, Default)]
pub struct StickySync(Mutex<bool>);

impl StickySync {
    /// Runs `sync` unless an earlier one failed; [`Errno::IO`] if one did.
    pub fn run(&self, sync: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        let mut has_failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let synced = if *has_failed { Err(Errno::IO) } else { sync() };
        *has_failed |= synced.is_err();
        synced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_that_failed_once_never_succeeds() {
        let sync = StickySync::default();
        assert_eq!(sync.run(|| Ok(())), Ok(()));
        assert_eq!(sync.run(|| Err(Errno::NOSPC)), Err(Errno::NOSPC));
        assert_eq!(sync.run(|| Ok(())), Err(Errno::IO));
    }
}
