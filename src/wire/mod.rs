//! The wire protocol without I/O: frames, messages, both dialects, and the two ends of a session as state machines.
//!
//! Nothing here uses sockets, files, clocks or threads. A driver reads bytes into a [`FrameBuffer`], passes each frame to
//! a session, acts on the returned event, and writes the session's output.
//!
//! ```text
//! classic   | length: u32 LE | JSON, `length` bytes |                      then the body, `size` bytes
//! native    | length: u32 LE | JSON, `length` bytes | CRC-32C: u32 LE |    after `part`: the body, `size` bytes
//!           0                4                      4 + length             4 + length + 4
//! ```
//!
//! The length counts the JSON alone, [`frame::LENGTH_BYTES`] wide, `1..=`[`frame::MAX_JSON_BYTES`]. The CRC-32C
//! ([`frame::CRC_BYTES`]) covers length and JSON. `docs/protocol.md` is the complete specification.

pub mod classic;
pub mod dialect;
mod error;
pub mod frame;
mod frame_buffer;
pub mod id_ranges;
pub mod limits;
pub mod measure_client;
pub mod message;
pub mod receiver;
pub mod sender;

pub use dialect::Dialect;
pub use error::WireError;
pub use frame::{FrameError, Framing};
pub use frame_buffer::FrameBuffer;
pub use limits::{
    MAX_ENTRIES_IN_FLIGHT, MAX_ETAGS_A_FRAME, MAX_KEPT_DIGESTS, MAX_KEPT_IN_FLIGHT, MAX_MEASURE_BYTES,
    MAX_MEASURES, MAX_NAME_BYTES_IN_FLIGHT, MAX_TRIES_A_PART, SMALL_FILE_BYTES, VERSION,
};
pub use measure_client::MeasureClient;
pub use message::{EntryId, Join, Message, MessageError, SessionId};
pub use receiver::ReceiverSession;
pub use sender::SenderSession;

#[cfg(test)]
mod tests;
