//! Turns every error into a sentence, advice and an exit code.

use std::io;
use std::path::Path;

use crate::app::options::UsageError;
use crate::bench::BenchError;
use crate::dest::local::RootError;
use crate::error_code::{ErrorCode, in_words};
use crate::exit_code::ExitCode;
use crate::net::{Bound, Endpoint, NetError};
use crate::recv::{RecvError, StartError};
use crate::report::Diagnostic;
use crate::send::SendError;
use crate::source::{ReadError, SourceError};
use crate::wire::WireError;
use crate::wire::classic::ClassicError;

impl From<&UsageError> for Diagnostic {
    fn from(error: &UsageError) -> Self {
        Diagnostic::new(error, ExitCode::Usage, Some("see `ftx send --help` for examples"))
    }
}

impl From<&io::Error> for Diagnostic {
    fn from(error: &io::Error) -> Self {
        Diagnostic::new(&in_words(error), ExitCode::Other, None)
    }
}

/// For a sender whose session broke.
const ADVICE_SEND_AGAIN: Option<&str> =
    Some("send the same again to resume: stored files are skipped, partial files continue");
/// For a receiver that stored different content.
const ADVICE_STORED_OTHER: Option<&str> =
    Some("remove the file at the receiver and send it again; its memory or its disk may be failing");
/// For a port where another program may listen.
const ADVICE_CHECK_RECEIVER: Option<&str> = Some("is `ftx recv` listening there, and is the port correct?");

/// For a receiver whose session broke.
const ADVICE_KEEPS_PROGRESS: Option<&str> = Some("complete files are stored; send the same again to resume");

impl From<&SendError> for Diagnostic {
    fn from(error: &SendError) -> Self {
        let (exit, advice) = match error {
            SendError::Plan(SourceError::Unreadable { .. }) => (ExitCode::FileIo, Some("nothing was sent")),
            SendError::Plan(SourceError::Nameless { .. }) => {
                (ExitCode::Usage, Some("name the folders in it instead"))
            }
            SendError::Plan(SourceError::SameName { .. }) => {
                (ExitCode::Usage, Some("send them one after the other"))
            }
            SendError::Plan(SourceError::Name { .. }) => (ExitCode::Usage, Some("rename it")),
            SendError::Net(error) => net(error),
            SendError::Connection(_) | SendError::Closed { .. } | SendError::Lost { .. } => {
                (ExitCode::Connection, ADVICE_SEND_AGAIN)
            }
            SendError::NoAnswer { .. } => (ExitCode::Connection, ADVICE_CHECK_RECEIVER),
            SendError::NeverAnswered { .. } => (ExitCode::Timeout, ADVICE_CHECK_RECEIVER),
            SendError::NotFtx { .. } => (ExitCode::Protocol, Some("is the port correct?")),
            SendError::IdleTimeout(_) | SendError::HeaderTimeout(_) | SendError::Stalled(_) => {
                (ExitCode::Timeout, ADVICE_SEND_AGAIN)
            }
            SendError::Wire(WireError::PeerAborted { code: code @ ErrorCode::Interrupted, .. }) => {
                (ExitCode::of_error(*code), ADVICE_SEND_AGAIN)
            }
            SendError::StoredOther { .. } => (ExitCode::Digest, ADVICE_STORED_OTHER),
            SendError::Wire(error) => wire(error),
            SendError::NoThread(_) => (ExitCode::Other, ADVICE_SEND_AGAIN),
            SendError::Interrupted | SendError::InterruptedEarly => (ExitCode::Interrupted, None),
            SendError::ClassicClosed { .. } => {
                (ExitCode::Connection, Some("the receiver's own messages say why"))
            }
            SendError::ClassicSource { error: ReadError::Io(_), .. } => (ExitCode::FileIo, None),
            SendError::ClassicSource { .. } => {
                (ExitCode::SourceChanged, Some("send it again when no program writes to it"))
            }
        };
        Diagnostic::new(error, exit, advice)
    }
}

impl From<&BenchError> for Diagnostic {
    fn from(error: &BenchError) -> Self {
        let (exit, advice) = match error {
            BenchError::Net(error) => net(error),
            BenchError::Connection(_) | BenchError::Closed => (ExitCode::Connection, None),
            BenchError::IdleTimeout(_) => (ExitCode::Timeout, None),
            BenchError::Interrupted => (ExitCode::Interrupted, None),
            BenchError::Wire(error) => wire(error),
            BenchError::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                (ExitCode::NoSpace, Some("choose another folder with --dir, or less with --size"))
            }
            BenchError::Disk { .. } => (ExitCode::FileIo, Some("choose another folder with --dir")),
            BenchError::Receiver(error) => return Diagnostic::from(error),
            BenchError::Transfer(error) => return Diagnostic::from(error),
            BenchError::Incomplete(summary) => (ExitCode::of_summary(summary), None),
        };
        Diagnostic::new(error, exit, advice)
    }
}

impl From<&RecvError> for Diagnostic {
    fn from(error: &RecvError) -> Self {
        let (exit, advice) = match error {
            RecvError::Dialect(_) | RecvError::UnsupportedDialect(_) => {
                (ExitCode::Protocol, Some("files are sent here with: ftx send PATH... HOST"))
            }
            RecvError::Wire(error) => wire(error),
            RecvError::Classic(ClassicError::Name { .. }) => (ExitCode::Partial, None),
            RecvError::Classic(_) => (ExitCode::Protocol, Some("docs/protocol.md describes the header")),
            RecvError::Truncated(_) | RecvError::Connection(_) => {
                (ExitCode::Connection, ADVICE_KEEPS_PROGRESS)
            }
            RecvError::IdleTimeout(_) | RecvError::HeaderTimeout(_) | RecvError::TooSlow(_) => {
                (ExitCode::Timeout, ADVICE_KEEPS_PROGRESS)
            }
            RecvError::ReconnectTimeout { lost, .. } => {
                (Diagnostic::from(&**lost).exit, ADVICE_KEEPS_PROGRESS)
            }
            RecvError::Busy | RecvError::Evicted | RecvError::NoThread(_) => (ExitCode::Refused, None),
            RecvError::NoSession(error) => return Diagnostic::from(&**error),
            RecvError::Panicked => (ExitCode::Other, None),
            RecvError::Interrupted => (ExitCode::Interrupted, None),
            RecvError::Digest { .. } => (ExitCode::Digest, Some("the file was discarded; send it again")),
            RecvError::Root(_) => (ExitCode::FileIo, None),
            RecvError::Store { error, .. } => match error.code() {
                ErrorCode::NoSpace => (ExitCode::NoSpace, None),
                ErrorCode::Exists => {
                    (ExitCode::Partial, Some("--on-conflict overwrite or rename would accept it"))
                }
                _ => (ExitCode::FileIo, None),
            },
        };
        Diagnostic::new(error, exit, advice)
    }
}

impl From<&StartError> for Diagnostic {
    fn from(error: &StartError) -> Self {
        let (exit, advice) = match error {
            StartError::Net(NetError::Bind { at: Bound::Unix(_), source }) => (
                ExitCode::Connection,
                match source.kind() {
                    io::ErrorKind::AddrInUse => {
                        Some("a receiver listens there, or it is another kind of file")
                    }
                    _ => None,
                },
            ),
            StartError::Net(NetError::Bind { source, .. }) => (
                ExitCode::Connection,
                match source.kind() {
                    io::ErrorKind::AddrInUse => {
                        Some("the port is in use: choose another with --port, or 0 for any free one")
                    }
                    io::ErrorKind::PermissionDenied => {
                        Some("ports below 1024 need special permissions: choose another with --port")
                    }
                    io::ErrorKind::AddrNotAvailable => {
                        Some("choose one of this machine's addresses, or omit --bind for all")
                    }
                    _ => None,
                },
            ),
            StartError::Net(_) => (ExitCode::Connection, None),
            StartError::Root(RootError::Io { .. }) => (ExitCode::FileIo, None),
            StartError::Root(_) => (ExitCode::FileIo, Some("choose another folder with --out")),
        };
        Diagnostic::new(error, exit, advice)
    }
}

fn net(error: &NetError) -> (ExitCode, Option<&'static str>) {
    let advice = match error {
        NetError::Resolve { host, .. } if Path::new(host).exists() => {
            "a file with that name exists: the host comes last, ftx send PATH... HOST"
        }
        NetError::Resolve { .. } => "check the spelling, or use an address",
        NetError::Connect { attempts, .. }
            if attempts.iter().all(|(at, _)| matches!(at, Endpoint::Unix(_))) =>
        {
            "is `ftx recv --bind unix:/PATH` running, as this user?"
        }
        _ => "is `ftx recv` running there, and does the firewall let the port through?",
    };
    (ExitCode::CannotConnect, Some(advice))
}

fn wire(error: &WireError) -> (ExitCode, Option<&'static str>) {
    match error {
        WireError::NoFeature { .. } => {
            (ExitCode::Refused, Some("update ftx there, or run `ftx bench` without HOST on that machine"))
        }
        WireError::PeerAborted { code: ErrorCode::Busy, .. } => {
            (ExitCode::Refused, Some("send it again later"))
        }
        WireError::PeerAborted { code, .. } => (ExitCode::of_error(*code), None),
        WireError::Version { .. } => {
            (ExitCode::Protocol, Some("update ftx on the machine with the older version"))
        }
        WireError::Etag { .. } => (ExitCode::Digest, ADVICE_STORED_OTHER),
        WireError::Frame(_) | WireError::Message(_) | WireError::Protocol(_) => (ExitCode::Protocol, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::args::Cli;
    use clap::CommandFactory;

    #[test]
    fn the_help_documents_all_codes() {
        let help = Cli::command().render_long_help().to_string();
        for (exit, text) in [
            (ExitCode::Connection, "10 connection"),
            (ExitCode::FileIo, "11 file system"),
            (ExitCode::Protocol, "12 protocol"),
            (ExitCode::Partial, "23 some entries"),
            (ExitCode::SourceChanged, "24 a source changed"),
            (ExitCode::Timeout, "30 timeout"),
            (ExitCode::CannotConnect, "35 cannot connect"),
            (ExitCode::Digest, "40 digest"),
            (ExitCode::Refused, "41 refused"),
            (ExitCode::NoSpace, "42 no space"),
            (ExitCode::Interrupted, "130 Ctrl-C"),
            (ExitCode::Terminated, "143 SIGTERM"),
        ] {
            assert!(text.starts_with(&(exit as u8).to_string()));
            assert!(help.replace('\n', " ").contains(text), "{text} in {help}");
        }
    }
}
