//! Exit codes of the program: stable, documented, tested. Where rsync has a code for the same failure, it is the same.

use crate::error_code::ErrorCode;
use crate::summary::Summary;

/// An exit code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything is done and durable.
    #[default]
    Ok = 0,
    /// Any other failure.
    Other = 1,
    /// The command line is invalid.
    Usage = 2,
    /// The connection was lost or closed.
    Connection = 10,
    /// A file or folder could not be read or written.
    FileIo = 11,
    /// The peer violated the protocol.
    Protocol = 12,
    /// Some entries were not transferred; the others were.
    Partial = 23,
    /// A source changed or vanished during the transfer.
    SourceChanged = 24,
    /// The peer sent nothing, or made no progress, for too long.
    Timeout = 30,
    /// No connection could be opened.
    CannotConnect = 35,
    /// A digest did not match and could not be repaired.
    Digest = 40,
    /// The peer refused the session.
    Refused = 41,
    /// No space at the receiver.
    NoSpace = 42,
    /// Ended by SIGINT: 128 and the number of the signal, as shells report it.
    Interrupted = 130,
    /// Ended by SIGTERM, likewise.
    Terminated = 143,
}

impl ExitCode {
    /// The exit code of a session that failed with `code`.
    pub fn of_error(code: ErrorCode) -> Self {
        match code {
            ErrorCode::Exists | ErrorCode::Name | ErrorCode::LeftOut => ExitCode::Partial,
            ErrorCode::SourceChanged => ExitCode::SourceChanged,
            ErrorCode::Digest => ExitCode::Digest,
            ErrorCode::NoSpace => ExitCode::NoSpace,
            ErrorCode::FileIo | ErrorCode::ReadOnly | ErrorCode::Permission => ExitCode::FileIo,
            ErrorCode::Protocol | ErrorCode::Version => ExitCode::Protocol,
            ErrorCode::Timeout => ExitCode::Timeout,
            // The peer was interrupted; for this program the connection ended early.
            ErrorCode::Connection | ErrorCode::Interrupted => ExitCode::Connection,
            ErrorCode::Refused | ErrorCode::Busy => ExitCode::Refused,
            ErrorCode::Other => ExitCode::Other,
        }
    }

    /// The exit code of a session that ran to its end: 0; the code that all its failures share, if they have a code of
    /// their own; otherwise 23. If all entries are stored and only MD5s of whole files are missing, the reason for that.
    pub fn of_summary(summary: &Summary) -> Self {
        let mut codes = summary.failures.keys();
        match (codes.next(), codes.next()) {
            (None, _) => {
                summary.undigested.keys().next().map_or(ExitCode::Ok, |code| ExitCode::of_error(*code))
            }
            (Some(code @ (ErrorCode::SourceChanged | ErrorCode::Digest | ErrorCode::NoSpace)), None) => {
                ExitCode::of_error(*code)
            }
            _ => ExitCode::Partial,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_with_the_code_that_its_failures_share() {
        let with = |codes: &[ErrorCode]| {
            let mut summary = Summary::default();
            codes.iter().for_each(|code| summary.count_failure(*code));
            ExitCode::of_summary(&summary)
        };
        assert_eq!(with(&[]), ExitCode::Ok);
        assert_eq!(with(&[ErrorCode::SourceChanged, ErrorCode::SourceChanged]), ExitCode::SourceChanged);
        assert_eq!(with(&[ErrorCode::NoSpace]), ExitCode::NoSpace);
        assert_eq!(with(&[ErrorCode::Digest]), ExitCode::Digest);
        assert_eq!(with(&[ErrorCode::Exists]), ExitCode::Partial);
        assert_eq!(with(&[ErrorCode::LeftOut]), ExitCode::Partial);
        assert_eq!(with(&[ErrorCode::SourceChanged, ErrorCode::LeftOut]), ExitCode::Partial);
        let undigested = |code| Summary { undigested: [(code, 1)].into(), ..Summary::default() };
        assert_eq!(ExitCode::of_summary(&undigested(ErrorCode::SourceChanged)), ExitCode::SourceChanged);
        assert_eq!(ExitCode::of_summary(&undigested(ErrorCode::FileIo)), ExitCode::FileIo);
    }
}
