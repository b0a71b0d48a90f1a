//! Frames that are not messages.

use crate::escape::Escaped;

/// A frame that is not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not a JSON object of the right shape.
    #[error("invalid \"{}\" frame: {}", Escaped::new(kind), Escaped::new(reason))]
    Shape {
        /// The value of `ftx`; `?` if it could not be read.
        kind: String,
        /// The message of the JSON reader; it may quote the peer.
        reason: String,
    },
    /// A kind that this version does not support.
    #[error("unknown frame kind \"{}\"", Escaped::new(kind))]
    UnknownKind {
        /// The kind.
        kind: String,
    },
}

impl MessageError {
    pub(super) fn shape(kind: &str, reason: impl ToString) -> Self {
        MessageError::Shape { kind: kind.to_owned(), reason: reason.to_string() }
    }
}
