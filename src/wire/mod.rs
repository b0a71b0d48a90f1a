//! Bytes in, bytes out: frames, header dictionaries, both dialects, and the two ends of a session as state machines.
//!
//! No socket, no file, no clock and no thread is known here. A driver reads bytes into an [`Inbox`], hands each frame
//! to a session, does what the returned event asks for, and writes what the session put into its output.
//!
//! ```text
//! classic   | length: u32 LE | JSON, `length` bytes |                      then the body, `size` bytes
//! native    | length: u32 LE | JSON, `length` bytes | CRC-32C: u32 LE |    after `part`: the body, `size` bytes
//!           0                4                      4 + length             4 + length + 4
//! ```
//!
//! The length counts the JSON alone, [`frame::LENGTH_BYTES`] wide, `1..=`[`frame::MAX_JSON_BYTES`]. The CRC-32C
//! ([`frame::CRC_BYTES`]) covers length and JSON. `docs/protocol.md` describes the whole for other implementations.

pub mod classic;
pub mod dialect;
pub mod frame;
pub mod id_ranges;
pub mod measure_client;
pub mod message;
#[cfg(test)]
mod pair;
pub mod receiver;
pub mod sender;

pub use dialect::Dialect;
pub use frame::{FrameBuffer, FrameError, Framing};
pub use measure_client::MeasureClient;
pub use message::{EntryId, Join, Message, MessageError, SessionId};
pub use receiver::ReceiverSession;
pub use sender::SenderSession;

/// The version of the native dialect that this crate speaks.
pub const VERSION: u32 = 1;

/// How many entries may be announced and not yet settled. It bounds the memory of both ends and is far more than a
/// receiver collects before it commits a batch, so that nobody waits for the other, not even over a link with delay.
pub const MAX_ENTRIES_IN_FLIGHT: usize = 16 << 10;

/// An entry may be announced as long as the names of those in flight, with the targets of links, have fewer bytes than
/// this: names can be long, and both ends hold them.
pub const MAX_NAME_BYTES_IN_FLIGHT: usize = 2 << 20;

/// Files up to this are small: they fit into memory by the hundred, and may be sent unasked before the `welcome`.
pub const SMALL_FILE_BYTES: u64 = 128 << 10;

/// How often in a row one part may arrive damaged before the entry fails.
pub const MAX_TRIES_A_PART: u32 = 3;

/// The most bytes that one `measure` may ask for.
pub const MAX_MEASURE_BYTES: u64 = 1 << 30;

/// How many stages one session may measure. The wire takes some tries to find out how much it moves in a second.
pub const MAX_MEASURES: u32 = 16;

/// A receiver tells of so many digests of one file that it has kept, which is enough for 1 TiB, or of none.
pub const MAX_KEPT_DIGESTS: usize = 1 << 17;

/// Digests that a sender takes of `kept`, for all entries in flight together; those beyond it are not compared.
pub const MAX_KEPT_IN_FLIGHT: usize = 1 << 20;

/// Entries in one `stored` with etags at most, so that the frame stays below its limit whatever the numbers are.
pub const MAX_ETAGS_A_FRAME: usize = 512;

use crate::digest::Etag;

/// The peer broke the rules; the session cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes do not make a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The frame is not a message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A message that has no place here.
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    /// No version in common.
    #[error("the peer speaks version {theirs} of the protocol, this ftx speaks version {VERSION}")]
    Version {
        /// What the peer offered.
        theirs: u32,
    },
    /// The peer does not have a feature without which the session makes no sense.
    #[error("the other side ({}) cannot {feature}", crate::escape::Escaped::new(agent))]
    NoFeature {
        /// What the session needed.
        feature: &'static str,
        /// The peer's program and version, raw.
        agent: String,
    },
    /// The receiver verified other bytes than this side hashed: what is under the entry's name there is not the source.
    #[error(
        "the receiver stored entry {entry} with other content: its etag is {theirs}, the source's {ours}"
    )]
    Etag {
        /// The entry.
        entry: EntryId,
        /// What the receiver verified.
        theirs: Etag,
        /// What was sent.
        ours: Etag,
    },
    /// The peer ended the session and said why.
    #[error("the other side gave up: {}", crate::escape::Escaped::new(message))]
    PeerGaveUp {
        /// The stable code.
        fault: crate::error_code::ErrorCode,
        /// The peer's sentence, raw.
        message: String,
    },
}

impl WireError {
    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        WireError::Protocol(what.into())
    }

    pub(crate) fn out_of_place(message: &Message) -> Self {
        WireError::protocol(format!("a header out of place: {}", message.kind()))
    }
}
