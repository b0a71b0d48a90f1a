//! Why a transfer ends early, and what follows from each reason.

use std::io;
use std::time::Duration;

use crate::digest::Etag;
use crate::error_code::{ErrorCode, in_words};
use crate::escape::Escaped;
use crate::net::{self, NetError};
use crate::source::{ReadError, SourceError};
use crate::wire::WireError;

/// Why a transfer ended early. Entries that the receiver confirmed before stay stored.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The paths cannot be sent.
    #[error(transparent)]
    Plan(#[from] SourceError),
    /// No connection could be opened.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A system call on the connection failed.
    #[error("the connection broke: {}", in_words(.0))]
    Connection(#[source] io::Error),
    /// The receiver closed or reset the connection.
    #[error("the connection was lost with {unconfirmed} entries unconfirmed")]
    Closed {
        /// Entries announced and neither stored nor failed.
        unconfirmed: u64,
    },
    /// The connection to the receiver was lost, and no attempt to replace it succeeded.
    #[error("the connection to {host} was lost{}", attempts_text(*attempts))]
    Lost {
        /// The receiver's host, as the user typed it.
        host: String,
        /// The number of attempts.
        attempts: u32,
    },
    /// The peer closed the connection before it sent a byte.
    #[error("{at} closed the connection without a reply")]
    NoAnswer {
        /// The peer's address and port.
        at: String,
    },
    /// The peer accepted the connection and sent nothing.
    #[error("no answer from {at} for {} seconds", time.as_secs())]
    NeverAnswered {
        /// The peer's address and port.
        at: String,
        /// The time waited.
        time: Duration,
    },
    /// The peer's first bytes are not those of a receiver.
    #[error("the program at {at} is not ftx (its reply begins \"{}\")", Escaped::new(begins))]
    NotFtx {
        /// The peer's address and port.
        at: String,
        /// Its first bytes, raw.
        begins: Vec<u8>,
    },
    /// The receiver sent nothing for too long.
    #[error("no data from the receiver for {} seconds", .0.as_secs())]
    IdleTimeout(Duration),
    /// The receiver began a frame and did not complete it.
    #[error("incomplete frame from the receiver after {} seconds", .0.as_secs())]
    HeaderTimeout(Duration),
    /// The receiver sent only keepalives.
    #[error("the receiver is alive, but made no progress for {} seconds", .0.as_secs())]
    Stalled(Duration),
    /// A violation of the protocol, or an error that the receiver sent.
    #[error("{}", peer_message(.0))]
    Wire(#[from] WireError),
    /// The system has no thread, or no descriptor for a cancellation token.
    #[error("cannot start a thread for the transfer: {}", in_words(.0))]
    NoThread(#[source] io::Error),
    /// The receiver verified other bytes than were sent.
    #[error("{name}: the receiver stored different content (etag {theirs}, expected {ours})")]
    StoredOther {
        /// The file's name, escaped.
        name: String,
        /// The etag of the receiver's copy.
        theirs: Etag,
        /// The etag of the source.
        ours: Etag,
    },
    /// The transfer was cancelled.
    #[error("the sender was interrupted")]
    Interrupted,
    /// The transfer was cancelled before a connection was open.
    #[error("interrupted before connecting: nothing was sent")]
    InterruptedEarly,
    /// A classic receiver closed the connection. It is unknown what it kept.
    #[error("the receiver closed the connection while {name} was sent; classic receivers give no reason")]
    ClassicClosed {
        /// The file's name, escaped.
        name: String,
    },
    /// A file changed after its header was sent, which the classic dialect cannot revoke.
    #[error("{name}: {error}; the classic dialect cannot continue after this error")]
    ClassicSource {
        /// The file's name, escaped.
        name: String,
        /// The failure to read it.
        error: ReadError,
    },
}

fn attempts_text(attempts: u32) -> String {
    match attempts {
        0 => String::new(),
        1 => " and could not be restored in 1 attempt".into(),
        _ => format!(" and could not be restored in {attempts} attempts"),
    }
}

/// A message of the receiver that names the receiver as its subject is shown without an introduction.
fn peer_message(error: &WireError) -> String {
    match error {
        WireError::PeerAborted { code: ErrorCode::Interrupted, .. } => "the receiver was interrupted".into(),
        WireError::PeerAborted { message, .. } if message.starts_with("the receiver ") => {
            Escaped::new(message).to_string()
        }
        _ => error.to_string(),
    }
}

/// What an error means for the session. All decisions about errors follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ErrorClass {
    /// The open connection ended. Another one can resume the session.
    Disconnected,
    /// There is no connection. A later attempt can succeed.
    Unreachable,
    /// The receiver does not respond on an open connection. Another one can resume the session.
    Unresponsive,
    /// The receiver ended the session and sent the reason.
    EndedByReceiver {
        /// The reason can be gone at the next attempt.
        is_temporary: bool,
    },
    /// Another connection does not help. The receiver is sent this code.
    Fatal(ErrorCode),
    /// Another connection does not help, and the receiver need not be informed.
    FatalHere,
}

impl SendError {
    fn class(&self) -> ErrorClass {
        match self {
            SendError::Closed { .. } => ErrorClass::Disconnected,
            SendError::Connection(error) if net::is_disconnect(error) => ErrorClass::Disconnected,
            SendError::Connection(_)
            | SendError::Net(_)
            | SendError::Lost { .. }
            | SendError::NoAnswer { .. } => ErrorClass::Unreachable,
            SendError::IdleTimeout(_) | SendError::HeaderTimeout(_) | SendError::NeverAnswered { .. } => {
                ErrorClass::Unresponsive
            }
            SendError::Stalled(_) => ErrorClass::Fatal(ErrorCode::Timeout),
            SendError::Wire(error) => class_of_wire(error),
            SendError::StoredOther { .. } => ErrorClass::Fatal(ErrorCode::Digest),
            SendError::Interrupted => ErrorClass::Fatal(ErrorCode::Interrupted),
            SendError::Plan(_)
            | SendError::NotFtx { .. }
            | SendError::NoThread(_)
            | SendError::InterruptedEarly
            | SendError::ClassicClosed { .. }
            | SendError::ClassicSource { .. } => ErrorClass::FatalHere,
        }
    }

    pub(super) fn is_disconnect(&self) -> bool {
        self.class() == ErrorClass::Disconnected
    }

    /// Can another connection resume the session?
    pub(super) fn is_retryable(&self) -> bool {
        match self.class() {
            ErrorClass::Disconnected | ErrorClass::Unreachable | ErrorClass::Unresponsive => true,
            ErrorClass::EndedByReceiver { is_temporary } => is_temporary,
            ErrorClass::Fatal(_) | ErrorClass::FatalHere => false,
        }
    }

    /// The code that ends the session at the receiver; `None` if it has to be sent none.
    pub(super) fn code_for_receiver(&self) -> Option<ErrorCode> {
        match self.class() {
            ErrorClass::Unresponsive => Some(ErrorCode::Timeout),
            ErrorClass::Fatal(code) => Some(code),
            ErrorClass::Disconnected
            | ErrorClass::Unreachable
            | ErrorClass::EndedByReceiver { .. }
            | ErrorClass::FatalHere => None,
        }
    }

    /// The error of a session in which the peer sent no frame: the peer may not be a receiver.
    pub(super) fn into_no_answer(self, at: String) -> Self {
        match self.class() {
            ErrorClass::Disconnected | ErrorClass::Unreachable => SendError::NoAnswer { at },
            ErrorClass::Unresponsive => match self {
                SendError::IdleTimeout(time) => SendError::NeverAnswered { at, time },
                other => other,
            },
            ErrorClass::EndedByReceiver { .. } | ErrorClass::Fatal(_) | ErrorClass::FatalHere => self,
        }
    }

    /// The error of a session that was open, after `attempts` to reconnect: that the connection was lost matters more
    /// than why the last attempt failed.
    pub(super) fn into_lost(self, host: &str, attempts: u32) -> Self {
        match self.class() {
            ErrorClass::Disconnected | ErrorClass::Unreachable => {
                SendError::Lost { host: host.to_owned(), attempts }
            }
            ErrorClass::Unresponsive
            | ErrorClass::EndedByReceiver { .. }
            | ErrorClass::Fatal(_)
            | ErrorClass::FatalHere => self,
        }
    }
}

fn class_of_wire(error: &WireError) -> ErrorClass {
    match error {
        WireError::Frame(_)
        | WireError::Message(_)
        | WireError::Protocol(_)
        | WireError::NoFeature { .. }
        | WireError::Etag { .. } => ErrorClass::Fatal(ErrorCode::Protocol),
        WireError::Version { .. } => ErrorClass::Fatal(ErrorCode::Version),
        WireError::PeerAborted { code, .. } => {
            ErrorClass::EndedByReceiver { is_temporary: is_temporary(*code) }
        }
    }
}

/// Can a receiver that ended a session with this code accept a later one?
fn is_temporary(code: ErrorCode) -> bool {
    match code {
        ErrorCode::Connection | ErrorCode::Timeout | ErrorCode::Busy => true,
        ErrorCode::Exists
        | ErrorCode::Name
        | ErrorCode::LeftOut
        | ErrorCode::SourceChanged
        | ErrorCode::Digest
        | ErrorCode::NoSpace
        | ErrorCode::ReadOnly
        | ErrorCode::Permission
        | ErrorCode::FileIo
        | ErrorCode::Protocol
        | ErrorCode::Version
        | ErrorCode::Refused
        | ErrorCode::Interrupted
        | ErrorCode::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended_by_receiver(code: ErrorCode) -> SendError {
        WireError::PeerAborted { code, message: "a reason".into() }.into()
    }

    #[test]
    fn each_class_of_errors_has_its_consequences() {
        let time = Duration::from_secs(1);
        let reset = || io::ErrorKind::ConnectionReset.into();
        for (error, is_retryable, code) in [
            (SendError::Closed { unconfirmed: 1 }, true, None),
            (SendError::Connection(reset()), true, None),
            (SendError::Connection(io::ErrorKind::OutOfMemory.into()), true, None),
            (SendError::NoAnswer { at: "nas:7373".into() }, true, None),
            (SendError::IdleTimeout(time), true, Some(ErrorCode::Timeout)),
            (SendError::HeaderTimeout(time), true, Some(ErrorCode::Timeout)),
            (SendError::Stalled(time), false, Some(ErrorCode::Timeout)),
            (SendError::Interrupted, false, Some(ErrorCode::Interrupted)),
            (SendError::InterruptedEarly, false, None),
            (WireError::Protocol("a reason".into()).into(), false, Some(ErrorCode::Protocol)),
            (WireError::Version { theirs: 2 }.into(), false, Some(ErrorCode::Version)),
            (ended_by_receiver(ErrorCode::Busy), true, None),
            (ended_by_receiver(ErrorCode::Refused), false, None),
        ] {
            assert_eq!((error.is_retryable(), error.code_for_receiver()), (is_retryable, code), "{error}");
        }
    }

    #[test]
    fn an_error_names_the_state_of_the_session_in_which_it_came() {
        let text = |error: SendError| error.to_string();
        let closed = || SendError::Closed { unconfirmed: 1 };
        assert_eq!(
            text(closed().into_no_answer("nas:22".into())),
            "nas:22 closed the connection without a reply"
        );
        let silent = SendError::IdleTimeout(Duration::from_secs(60));
        assert_eq!(text(silent.into_no_answer("nas:22".into())), "no answer from nas:22 for 60 seconds");
        assert_eq!(text(closed().into_lost("nas", 0)), "the connection to nas was lost");
        assert_eq!(
            text(closed().into_lost("nas", 2)),
            "the connection to nas was lost and could not be restored in 2 attempts"
        );
        assert_eq!(text(SendError::Interrupted.into_lost("nas", 2)), "the sender was interrupted");
    }
}
