//! The exit code of a program with several sessions.

use std::sync::Mutex;

use crate::exit_code::ExitCode;
use crate::sync::lock;

/// Remembers the first exit code that is not [`ExitCode::Ok`].
#[derive(Debug, Default)]
pub struct FirstFailure(Mutex<ExitCode>);

impl FirstFailure {
    /// Records the outcome of one session.
    pub fn record(&self, exit: ExitCode) {
        let mut first = lock(&self.0);
        if *first == ExitCode::Ok {
            *first = exit;
        }
    }

    /// The first failure; [`ExitCode::Ok`] if there is none.
    pub fn get(&self) -> ExitCode {
        *lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_failure_counts() {
        let first = FirstFailure::default();
        first.record(ExitCode::Ok);
        assert_eq!(first.get(), ExitCode::Ok);
        first.record(ExitCode::NoSpace);
        first.record(ExitCode::Timeout);
        assert_eq!(first.get(), ExitCode::NoSpace);
    }
}
