//! Code that runs at the end of a scope.

/// Runs a closure when it is dropped: also on an early return and while a panic unwinds.
///
/// Bind it to a name (`let _guard = ...`); bound to `_` it is dropped at once.
#[must_use = "dropped at once unless it is bound to a name"]
pub struct DropGuard<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> DropGuard<F> {
    /// A guard that runs `at_end`.
    pub fn new(at_end: F) -> Self {
        DropGuard(Some(at_end))
    }
}

impl<F: FnOnce()> Drop for DropGuard<F> {
    fn drop(&mut self) {
        if let Some(at_end) = self.0.take() {
            at_end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn the_closure_runs_once_at_the_end_of_the_scope_and_on_a_panic() {
        let runs = Cell::new(0);
        let count = || runs.set(runs.get() + 1);
        {
            let _guard = DropGuard::new(count);
            assert_eq!(runs.get(), 0);
        }
        assert_eq!(runs.get(), 1);
        let panics = || {
            let _guard = DropGuard::new(count);
            panic!("expected by this test");
        };
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        assert_eq!(runs.get(), 2);
    }
}
