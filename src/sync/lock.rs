//! Locks that ignore poisoning.
//!
//! A panic ends its thread, and the `thread::scope` around it passes the panic on once the other threads have ended.
//! Until then these have to report, close connections and remove temporary files, most of that in destructors, where a
//! second panic would abort the process. No update under a lock leaves its data invalid at a point that can panic.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Locks, also after a panic of the thread that held the lock.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification; can return without one, like every wait for a `Condvar`.
pub fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification, at most for `limit`.
pub fn wait_timeout<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    limit: Duration,
) -> MutexGuard<'a, T> {
    condvar.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner).0
}

/// Takes the value out of its mutex.
pub fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_lock_outlives_a_panic_of_its_holder() {
        let (mutex, changed) = (Mutex::new(1), Condvar::new());
        thread::scope(|scope| {
            let panics = || {
                let mut value = lock(&mutex);
                *value = 2;
                panic!("expected by this test");
            };
            assert!(scope.spawn(panics).join().is_err());
        });
        assert!(mutex.is_poisoned());
        let value = wait_timeout(&changed, lock(&mutex), Duration::ZERO);
        assert_eq!(*value, 2);
        drop(value);
        assert_eq!(into_inner(mutex), 2);
    }
}
