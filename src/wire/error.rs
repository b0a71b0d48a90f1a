//! Why a session ends early.

use super::frame::FrameError;
use super::limits::VERSION;
use super::message::{EntryId, Message, MessageError};
use crate::digest::Etag;
use crate::error_code::ErrorCode;
use crate::escape::Escaped;

/// The peer violated the protocol, or ended the session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes are not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The frame is not a message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The message is not allowed in this state.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// No version in common.
    #[error("protocol version {theirs} is not supported (this ftx: {VERSION})")]
    Version {
        /// The peer's version.
        theirs: u32,
    },
    /// The peer lacks a feature that the session needs.
    #[error("the other side ({}) does not support the feature \"{feature}\"", Escaped::new(agent))]
    NoFeature {
        /// The feature.
        feature: &'static str,
        /// The peer's program and version, raw.
        agent: String,
    },
    /// The receiver verified other bytes than this side hashed: the stored file is not the source.
    #[error("the etag of entry {entry} differs: receiver {theirs}, source {ours}")]
    Etag {
        /// The entry.
        entry: EntryId,
        /// The receiver's etag.
        theirs: Etag,
        /// The sender's etag.
        ours: Etag,
    },
    /// The peer ended the session with an `error`.
    #[error("the other side ended the session: {}", Escaped::new(message))]
    PeerAborted {
        /// The stable code.
        code: ErrorCode,
        /// The peer's message for people, raw.
        message: String,
    },
}

impl WireError {
    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        WireError::Protocol(what.into())
    }

    pub(crate) fn unexpected(message: &Message) -> Self {
        WireError::protocol(format!("unexpected frame: {}", message.kind()))
    }
}
