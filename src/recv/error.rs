//! Why a session fails, and what each failure means.

use std::io;
use std::time::Duration;

use crate::dest::local::{RootError, StoreError};
use crate::digest::Md5;
use crate::error_code::{ErrorCode, in_words};
use crate::escape::Escaped;
use crate::wire::WireError;
use crate::wire::classic::ClassicError;
use crate::wire::dialect::DialectError;

/// Why a session failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum RecvError {
    /// The first bytes belong to no supported dialect.
    #[error(transparent)]
    Dialect(#[from] DialectError),
    /// The first bytes belong to a known protocol that is not supported.
    #[error("{0} is not supported")]
    UnsupportedDialect(&'static str),
    /// The peer violated the native dialect, or ended the session.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A classic header was refused.
    #[error(transparent)]
    Classic(#[from] ClassicError),
    /// The connection ended in the middle of something.
    #[error("the connection was lost in the middle of {0}")]
    Truncated(String),
    /// The connection failed.
    #[error("the connection broke: {}", in_words(.0))]
    Connection(#[source] io::Error),
    /// The peer was silent for too long.
    #[error("no data from the sender for {} seconds", .0.as_secs())]
    IdleTimeout(Duration),
    /// The peer began a frame and did not complete it.
    #[error("incomplete frame from the sender after {} seconds", .0.as_secs())]
    HeaderTimeout(Duration),
    /// A body arrived below the minimum rate.
    #[error(
        "a body arrived at less than {} bytes per second for {} seconds",
        crate::net::MIN_RATE_BYTES_PER_S,
        .0.as_secs()
    )]
    TooSlow(Duration),
    /// The connection was lost, and the sender did not open another one.
    #[error("did not reconnect within {} s", wait.as_secs())]
    ReconnectTimeout {
        /// How the connection was lost.
        lost: Box<RecvError>,
        /// How long the receiver waited.
        wait: Duration,
    },
    /// All connection slots are taken.
    #[error("too many connections")]
    Busy,
    /// The session was idle when another one needed its slot, or what it held.
    #[error("too many connections: this one was idle and was closed")]
    Evicted,
    /// The system has no thread left for the session, or no descriptor to wake one.
    #[error("the receiver cannot start a thread for another session: {}", in_words(.0))]
    NoThread(#[source] io::Error),
    /// A defect of this program, which the standard error output describes.
    #[error("the session ended by an internal error")]
    Panicked,
    /// The connection ended before a frame of a known dialect was complete.
    #[error(transparent)]
    NoSession(Box<RecvError>),
    /// This program is to end.
    #[error("the receiver was interrupted")]
    Interrupted,
    /// A body does not match its header; the classic dialect cannot repair it.
    #[error("{name}: MD5 mismatch: header {expected}, body {actual}")]
    Digest {
        /// The file's name, escaped.
        name: String,
        /// From the header.
        expected: Md5,
        /// From the body.
        actual: Md5,
    },
    /// The destination folder cannot be used.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A file of a classic sender could not be stored. The sender is told by the end of the connection.
    #[error("{name}: {error}")]
    Store {
        /// The file's name, escaped.
        name: String,
        /// What happened.
        error: StoreError,
    },
}

/// What a failure means for the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// No session began: it was refused, or no frame of a known dialect was complete.
    NoSession,
    /// The connection was lost; the sender may reconnect.
    ConnectionLost,
    /// The session failed.
    Failed,
}

impl RecvError {
    /// What the failure means, and the code that the peer gets; `None` where the peer itself ended the session.
    fn class(&self) -> (FailureKind, Option<ErrorCode>) {
        use FailureKind::{ConnectionLost, Failed, NoSession};
        match self {
            RecvError::Truncated(_) | RecvError::Connection(_) => {
                (ConnectionLost, Some(ErrorCode::Connection))
            }
            RecvError::IdleTimeout(_) | RecvError::HeaderTimeout(_) | RecvError::TooSlow(_) => {
                (ConnectionLost, Some(ErrorCode::Timeout))
            }
            RecvError::Wire(WireError::PeerAborted {
                code: ErrorCode::Connection | ErrorCode::Timeout,
                ..
            }) => (ConnectionLost, None),
            RecvError::Wire(WireError::PeerAborted { .. }) => (Failed, None),
            RecvError::Wire(WireError::Version { .. }) => (Failed, Some(ErrorCode::Version)),
            RecvError::Wire(
                WireError::Frame(_)
                | WireError::Message(_)
                | WireError::Protocol(_)
                | WireError::NoFeature { .. }
                | WireError::Etag { .. },
            )
            | RecvError::Dialect(_)
            | RecvError::UnsupportedDialect(_)
            | RecvError::Classic(_)
            | RecvError::Digest { .. }
            | RecvError::Panicked => (Failed, Some(ErrorCode::Protocol)),
            RecvError::Busy | RecvError::Evicted | RecvError::NoThread(_) => {
                (NoSession, Some(ErrorCode::Busy))
            }
            RecvError::NoSession(cause) => (NoSession, cause.class().1),
            RecvError::ReconnectTimeout { lost, .. } => (Failed, lost.class().1),
            RecvError::Interrupted => (Failed, Some(ErrorCode::Interrupted)),
            RecvError::Root(error) => (Failed, Some(error.code())),
            RecvError::Store { error, .. } => (Failed, Some(error.code())),
        }
    }

    /// Did no session begin: was it refused, or was no frame of a known dialect complete?
    pub fn is_no_session(&self) -> bool {
        self.class().0 == FailureKind::NoSession
    }

    /// May the sender reconnect?
    pub fn is_lost_connection(&self) -> bool {
        self.class().0 == FailureKind::ConnectionLost
    }

    /// The `error` frame for the peer; `None` where the peer itself ended the session.
    pub fn reply(&self) -> Option<(ErrorCode, String)> {
        let message = match self {
            RecvError::Root(error) => {
                format!("the receiver cannot use its folder: {}; nothing was stored", error.why())
            }
            error => error.to_string(),
        };
        self.class().1.map(|code| (code, message))
    }
}

/// A peer's text, safe to print.
pub fn escaped(text: &(impl AsRef<[u8]> + ?Sized)) -> String {
    Escaped::new(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_is_one_that_the_sender_restores() {
        let gave_up = |code| RecvError::Wire(WireError::PeerAborted { code, message: String::new() });
        let time = Duration::from_secs(30);
        for error in [
            RecvError::Truncated("a header".into()),
            RecvError::Connection(io::ErrorKind::ConnectionReset.into()),
            RecvError::IdleTimeout(time),
            RecvError::HeaderTimeout(time),
            RecvError::TooSlow(time),
            gave_up(ErrorCode::Connection),
            gave_up(ErrorCode::Timeout),
        ] {
            assert!(error.is_lost_connection() && !error.is_no_session(), "{error}");
        }
        for error in [RecvError::Busy, RecvError::Interrupted, gave_up(ErrorCode::SourceChanged)] {
            assert!(!error.is_lost_connection(), "{error}");
        }
    }

    #[test]
    fn a_peer_that_ended_the_session_gets_no_reply() {
        let gave_up = WireError::PeerAborted { code: ErrorCode::Connection, message: String::new() };
        assert_eq!(RecvError::Wire(gave_up).reply(), None);
        let (code, _) =
            RecvError::NoSession(RecvError::IdleTimeout(Duration::from_secs(1)).into()).reply().unwrap();
        assert_eq!(code, ErrorCode::Timeout);
    }
}
