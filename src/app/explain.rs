//! The one place that turns errors into a sentence, a piece of advice and an exit code.

use std::io;
use std::path::Path;

use crate::app::options::UsageError;
use crate::bench::BenchError;
use crate::dest::local::RootError;
use crate::error_code::{ErrorCode, in_words};
use crate::event::Summary;
use crate::net::NetError;
use crate::recv::{RecvError, StartError};
use crate::report::ManifestError;
use crate::send::SendError;
use crate::source::{ReadError, SourceError};
use crate::wire::WireError;
use crate::wire::classic::ClassicError;

/// The exit codes: stable, documented, tested. Where rsync has a code for the same thing, it is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All done, and durable.
    Ok = 0,
    /// Any other failure.
    Other = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The connection broke.
    Connection = 10,
    /// A file or folder could not be read or written.
    FileIo = 11,
    /// The peer does not keep to the protocol.
    Protocol = 12,
    /// Some entries were not transferred; the others were.
    Partial = 23,
    /// A source changed or vanished while it was sent.
    SourceChanged = 24,
    /// The peer was silent for too long.
    Timeout = 30,
    /// No connection.
    CannotConnect = 35,
    /// A digest did not match, and could not be repaired.
    Digest = 40,
    /// The peer refused.
    Refused = 41,
    /// No space at the receiver.
    NoSpace = 42,
    /// Ended by Ctrl-C: 128 and the number of SIGINT, as a shell counts it.
    Interrupted = 130,
    /// Ended by SIGTERM, likewise.
    Terminated = 143,
}

/// An error, for people and for scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// What failed.
    pub sentence: String,
    /// What can be done about it, where anything can.
    pub advice: Option<&'static str>,
    /// The exit code.
    pub exit: Exit,
}

impl Explained {
    fn new(error: &impl ToString, exit: Exit, advice: Option<&'static str>) -> Self {
        Explained { sentence: error.to_string(), advice, exit }
    }
}

impl From<&UsageError> for Explained {
    fn from(error: &UsageError) -> Self {
        Explained::new(error, Exit::Usage, Some("ftx send --help has examples"))
    }
}

impl From<&io::Error> for Explained {
    fn from(error: &io::Error) -> Self {
        Explained::new(&in_words(error), Exit::Other, None)
    }
}

/// What can be done about a session that was cut.
const ADVICE_SEND_AGAIN: Option<&str> =
    Some("send the same again to go on: what is stored is skipped, and half a file goes on where it was");
/// And about a receiver that verified something else.
const ADVICE_STORED_OTHER: Option<&str> =
    Some("remove the file at the receiver and send it again; its memory or its disk may be failing");
/// And about a port where somebody else may listen.
const ADVICE_CHECK_RECEIVER: Option<&str> = Some("is it `ftx recv` that listens there? Is the port right?");

/// What a receiver keeps of one.
const ADVICE_KEEPS_PROGRESS: Option<&str> =
    Some("what is complete is in place; whoever sends the same again goes on");

impl From<&SendError> for Explained {
    fn from(error: &SendError) -> Self {
        let (exit, advice) = match error {
            SendError::Plan(SourceError::Unreadable { .. }) => (Exit::FileIo, Some("nothing was sent")),
            SendError::Plan(SourceError::Nameless { .. }) => {
                (Exit::Usage, Some("name the folders in it instead"))
            }
            SendError::Plan(SourceError::SameName { .. }) => {
                (Exit::Usage, Some("send them one after the other"))
            }
            SendError::Plan(SourceError::Name { .. }) => (Exit::Usage, Some("rename it")),
            SendError::Net(error) => net(error),
            SendError::Connection(_) | SendError::Closed { .. } | SendError::Lost { .. } => {
                (Exit::Connection, ADVICE_SEND_AGAIN)
            }
            SendError::NoAnswer { .. } => (Exit::Connection, ADVICE_CHECK_RECEIVER),
            SendError::NeverAnswered { .. } => (Exit::Timeout, ADVICE_CHECK_RECEIVER),
            SendError::NotFtx { .. } => (Exit::Protocol, Some("is the port right?")),
            SendError::IdleTimeout(_) | SendError::HeaderTimeout(_) | SendError::Stalled(_) => {
                (Exit::Timeout, ADVICE_SEND_AGAIN)
            }
            SendError::Wire(WireError::PeerGaveUp { fault: fault @ ErrorCode::Interrupted, .. }) => {
                (exit_of(*fault), ADVICE_SEND_AGAIN)
            }
            SendError::StoredOther { .. } => (Exit::Digest, ADVICE_STORED_OTHER),
            SendError::Wire(error) => wire(error),
            SendError::NoThread(_) => (Exit::Other, ADVICE_SEND_AGAIN),
            SendError::Interrupted | SendError::InterruptedEarly => (Exit::Interrupted, None),
            SendError::ClassicClosed { .. } => {
                (Exit::Connection, Some("the receiver's own messages say why"))
            }
            SendError::ClassicSource { error: ReadError::Io(_), .. } => (Exit::FileIo, None),
            SendError::ClassicSource { .. } => {
                (Exit::SourceChanged, Some("send it when nobody writes to it"))
            }
        };
        Explained::new(error, exit, advice)
    }
}

impl From<&BenchError> for Explained {
    fn from(error: &BenchError) -> Self {
        let (exit, advice) = match error {
            BenchError::Net(error) => net(error),
            BenchError::Connection(_) | BenchError::Closed => (Exit::Connection, None),
            BenchError::Silent(_) => (Exit::Timeout, None),
            BenchError::Interrupted => (Exit::Interrupted, None),
            BenchError::Wire(error) => wire(error),
            BenchError::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                (Exit::NoSpace, Some("choose another folder with --dir, or less with --size"))
            }
            BenchError::Disk { .. } => (Exit::FileIo, Some("choose another folder with --dir")),
            BenchError::Receiver(error) => return Explained::from(error),
            BenchError::Transfer(error) => return Explained::from(error),
            BenchError::Incomplete(summary) => (exit_of_summary(summary), None),
        };
        Explained::new(error, exit, advice)
    }
}

impl From<&RecvError> for Explained {
    fn from(error: &RecvError) -> Self {
        let (exit, advice) = match error {
            RecvError::Dialect(_) | RecvError::UnsupportedDialect(_) => {
                (Exit::Protocol, Some("files are sent here with: ftx send PATH... HOST"))
            }
            RecvError::Wire(error) => wire(error),
            RecvError::Classic(ClassicError::Name { .. }) => (Exit::Partial, None),
            RecvError::Classic(_) => {
                (Exit::Protocol, Some("docs/protocol.md describes the header dictionary"))
            }
            RecvError::Truncated(_) | RecvError::Connection(_) => (Exit::Connection, ADVICE_KEEPS_PROGRESS),
            RecvError::Silent(_) | RecvError::HeaderTimeout(_) | RecvError::TooSlow(_) => {
                (Exit::Timeout, ADVICE_KEEPS_PROGRESS)
            }
            RecvError::ReconnectTimeout { lost, .. } => {
                (Explained::from(&**lost).exit, ADVICE_KEEPS_PROGRESS)
            }
            RecvError::Busy | RecvError::Evicted | RecvError::NoThread(_) => (Exit::Refused, None),
            RecvError::NoSession(error) => return Explained::from(&**error),
            RecvError::Panicked => (Exit::Other, None),
            RecvError::Interrupted => (Exit::Interrupted, None),
            RecvError::Digest { .. } => {
                (Exit::Digest, Some("nothing of it was kept; it has to be sent again"))
            }
            RecvError::Root(_) => (Exit::FileIo, None),
            RecvError::Store { error, .. } => match error.fault() {
                ErrorCode::NoSpace => (Exit::NoSpace, None),
                ErrorCode::Exists => (Exit::Partial, Some("--on-conflict overwrite or rename would take it")),
                _ => (Exit::FileIo, None),
            },
        };
        Explained::new(error, exit, advice)
    }
}

impl From<&StartError> for Explained {
    fn from(error: &StartError) -> Self {
        let (exit, advice) = match error {
            StartError::Net(NetError::Bind { source, .. }) => (
                Exit::Connection,
                match source.kind() {
                    io::ErrorKind::AddrInUse => Some(
                        "another program has that port: choose one with --port, or 0 for any that is free",
                    ),
                    io::ErrorKind::PermissionDenied => {
                        Some("ports below 1024 need special rights: choose another one with --port")
                    }
                    io::ErrorKind::AddrNotAvailable => {
                        Some("choose one of its own with --bind, or leave --bind away for all of them")
                    }
                    _ => None,
                },
            ),
            StartError::Net(_) => (Exit::Connection, None),
            StartError::Root(RootError::Io { .. }) => (Exit::FileIo, None),
            StartError::Root(_) => (Exit::FileIo, Some("choose another folder with --out")),
        };
        Explained::new(error, exit, advice)
    }
}

fn net(error: &NetError) -> (Exit, Option<&'static str>) {
    let advice = match error {
        NetError::Resolve { host, .. } if Path::new(host).exists() => {
            "there is a file of that name here: the host comes last, ftx send PATH... HOST"
        }
        NetError::Resolve { .. } => "check the spelling, or use an address",
        _ => "is `ftx recv` running there, and does the firewall let the port through?",
    };
    (Exit::CannotConnect, Some(advice))
}

impl From<&ManifestError> for Explained {
    fn from(error: &ManifestError) -> Self {
        Explained::new(
            error,
            Exit::FileIo,
            Some("--manifest takes a file in a folder that can be written to"),
        )
    }
}

fn wire(error: &WireError) -> (Exit, Option<&'static str>) {
    match error {
        WireError::NoFeature { .. } => {
            (Exit::Refused, Some("update ftx there, or run `ftx bench` on that machine, without a host"))
        }
        WireError::PeerGaveUp { fault: ErrorCode::Busy, .. } => (Exit::Refused, Some("send it again later")),
        WireError::PeerGaveUp { fault, .. } => (exit_of(*fault), None),
        WireError::Version { .. } => {
            (Exit::Protocol, Some("update ftx on the machine that has the older one"))
        }
        WireError::Etag { .. } => (Exit::Digest, ADVICE_STORED_OTHER),
        WireError::Frame(_) | WireError::Message(_) | WireError::Protocol(_) => (Exit::Protocol, None),
    }
}

fn exit_of(fault: ErrorCode) -> Exit {
    match fault {
        ErrorCode::Exists | ErrorCode::Name | ErrorCode::LeftOut => Exit::Partial,
        ErrorCode::SourceChanged => Exit::SourceChanged,
        ErrorCode::Digest => Exit::Digest,
        ErrorCode::NoSpace => Exit::NoSpace,
        ErrorCode::FileIo | ErrorCode::ReadOnly | ErrorCode::Permission => Exit::FileIo,
        ErrorCode::Protocol | ErrorCode::Version => Exit::Protocol,
        ErrorCode::Timeout => Exit::Timeout,
        // It was not this program that was interrupted: to it, the connection ended early.
        ErrorCode::Connection | ErrorCode::Interrupted => Exit::Connection,
        ErrorCode::Refused | ErrorCode::Busy => Exit::Refused,
        ErrorCode::Other => Exit::Other,
    }
}

/// The exit code of a session that reached its end: 0, or what its failed entries have in common, or 23. Where all
/// entries are in place and only the MD5 of some could not be taken, that is the reason.
pub fn exit_of_summary(summary: &Summary) -> Exit {
    let mut faults = summary.failures.keys();
    match (faults.next(), faults.next()) {
        (None, _) => summary.undigested.keys().next().map_or(Exit::Ok, |fault| exit_of(*fault)),
        (Some(fault @ (ErrorCode::SourceChanged | ErrorCode::Digest | ErrorCode::NoSpace)), None) => {
            exit_of(*fault)
        }
        _ => Exit::Partial,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_with_what_its_failures_have_in_common() {
        let with = |faults: &[ErrorCode]| {
            let mut summary = Summary::default();
            faults.iter().for_each(|fault| summary.count_failure(*fault));
            exit_of_summary(&summary)
        };
        assert_eq!(with(&[]), Exit::Ok);
        assert_eq!(with(&[ErrorCode::SourceChanged, ErrorCode::SourceChanged]), Exit::SourceChanged);
        assert_eq!(with(&[ErrorCode::NoSpace]), Exit::NoSpace);
        assert_eq!(with(&[ErrorCode::Digest]), Exit::Digest);
        assert_eq!(with(&[ErrorCode::Exists]), Exit::Partial);
        assert_eq!(with(&[ErrorCode::LeftOut]), Exit::Partial);
        assert_eq!(with(&[ErrorCode::SourceChanged, ErrorCode::LeftOut]), Exit::Partial);
        let undigested = |fault| Summary { undigested: [(fault, 1)].into(), ..Summary::default() };
        assert_eq!(exit_of_summary(&undigested(ErrorCode::SourceChanged)), Exit::SourceChanged);
        assert_eq!(exit_of_summary(&undigested(ErrorCode::FileIo)), Exit::FileIo);
    }

    #[test]
    fn the_codes_are_what_is_documented() {
        let help = crate::app::help();
        for (exit, words) in [
            (Exit::Connection, "10 connection"),
            (Exit::FileIo, "11 file system"),
            (Exit::Protocol, "12 protocol"),
            (Exit::Partial, "23 some entries"),
            (Exit::SourceChanged, "24 a source changed"),
            (Exit::Timeout, "30 timeout"),
            (Exit::CannotConnect, "35 cannot connect"),
            (Exit::Digest, "40 digest"),
            (Exit::Refused, "41 refused"),
            (Exit::NoSpace, "42 no space"),
            (Exit::Interrupted, "130 Ctrl-C"),
            (Exit::Terminated, "143 SIGTERM"),
        ] {
            assert!(words.starts_with(&(exit as u8).to_string()));
            assert!(help.replace('\n', " ").contains(words), "{words} in {help}");
        }
    }
}
