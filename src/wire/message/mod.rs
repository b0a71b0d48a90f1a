//! The frames of the native dialect: one JSON object each, whose key `ftx` is the kind.

mod entry;
mod error;
mod hello;
mod json;
mod measure;
mod outcome;
mod parts;
mod want;

use serde::{Deserialize, Serialize};

use super::frame::{Framing, encode_with};
use super::id_ranges::IdRanges;
use crate::digest::Etag;
use entry::RawEntry;
use json::{NoKeys, kind_of, read, write, write_tagged};
use outcome::RawError;
use parts::RawKept;

pub use entry::{Entry, EntryId, EntryKind};
pub use error::MessageError;
pub use hello::{FEATURE_ETAGS, FEATURE_MEASURE, FEATURE_STREAMS, Hello, Join, SessionId};
pub use measure::{Measurable, Measure, Measured};
pub use outcome::{ErrorReport, Receipt};
pub use parts::{Hole, KeptParts, KeptRun, Part};
pub use want::WantedParts;

/// A frame of the native dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Sender: the first frame of a session.
    Hello(Hello),
    /// Receiver: its first frame.
    Welcome(Hello),
    /// Sender: an entry, announced ahead of its body.
    Entry(Entry),
    /// Sender: one part of a file; its body follows.
    Part(Part),
    /// Sender: the digest of one part, in reply to a request for digests. No body follows.
    Offer(Part),
    /// Sender: full-size parts of zeros, in place of their `part` or `offer` frames. No body follows.
    Hole(Hole),
    /// Sender: the first frame of a further connection of a session.
    Join(Join),
    /// Sender: what the walk found; a hint for the receiver's progress bar.
    Totals {
        /// Regular files.
        files: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// Sender: every entry is announced.
    End {
        /// The number of entries.
        entries: u64,
    },
    /// Receiver: the decision about files.
    Want {
        /// The files.
        entries: IdRanges,
        /// The requested parts of each.
        parts: WantedParts,
    },
    /// Receiver: this part arrived damaged.
    Again {
        /// The file.
        entry: EntryId,
        /// The part's index.
        part: u64,
    },
    /// Receiver: parts of a file that it has from an earlier session, before the `want` for the rest.
    Kept(KeptRun),
    /// Receiver: verified, durable and under the final name.
    Stored {
        /// The entries.
        entries: IdRanges,
        /// With [`FEATURE_ETAGS`], what the receiver verified, one for each entry, ascending. `None` for folders, links,
        /// and files that have no etag.
        etags: Option<Vec<Option<Etag>>>,
    },
    /// Receiver: its last frame.
    Receipt(Receipt),
    /// Sender: a stage for the receiver to measure. If it is the wire, a body follows.
    Measure(Measure),
    /// Receiver: the result of the stage.
    Measured(Measured),
    /// Either: a keepalive.
    Busy,
    /// Either: an entry failed, or the session, if it names none.
    Error(ErrorReport),
}

#[derive(Serialize, Deserialize)]
struct RawTotals {
    files: u64,
    bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct RawEnd {
    entries: u64,
}

#[derive(Serialize, Deserialize)]
struct RawWant {
    entries: IdRanges,
    parts: WantedParts,
}

#[derive(Serialize, Deserialize)]
struct RawAgain {
    entry: EntryId,
    part: u64,
}

#[derive(Serialize, Deserialize)]
struct RawStored {
    entries: IdRanges,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etags: Option<Vec<Option<Etag>>>,
}

impl Message {
    /// Parses the JSON of a native frame. Unknown keys are ignored; an unknown kind is an error.
    pub fn parse(json: &[u8]) -> Result<Self, MessageError> {
        let kind = &*kind_of(json)?;
        Ok(match kind {
            "hello" => Message::Hello(read(kind, json)?),
            "welcome" => Message::Welcome(read(kind, json)?),
            "entry" => Message::Entry(read::<RawEntry>(kind, json)?.try_into()?),
            "part" => Message::Part(read(kind, json)?),
            "offer" => Message::Offer(read(kind, json)?),
            "hole" => Message::Hole(read(kind, json)?),
            "join" => Message::Join(read(kind, json)?),
            "totals" => {
                let RawTotals { files, bytes } = read(kind, json)?;
                Message::Totals { files, bytes }
            }
            "end" => Message::End { entries: read::<RawEnd>(kind, json)?.entries },
            "want" => {
                let RawWant { entries, parts } = read(kind, json)?;
                Message::Want { entries, parts }
            }
            "again" => {
                let RawAgain { entry, part } = read(kind, json)?;
                Message::Again { entry, part }
            }
            "kept" => Message::Kept(read::<RawKept>(kind, json)?.try_into()?),
            "stored" => {
                let RawStored { entries, etags } = read(kind, json)?;
                Message::Stored { entries, etags }
            }
            "receipt" => Message::Receipt(read(kind, json)?),
            "measure" => Message::Measure(read(kind, json)?),
            "measured" => Message::Measured(read(kind, json)?),
            "busy" => {
                let NoKeys {} = read(kind, json)?;
                Message::Busy
            }
            "error" => Message::Error(read::<RawError>(kind, json)?.into()),
            _ => return Err(MessageError::UnknownKind { kind: kind.to_owned() }),
        })
    }

    /// The value of its key `ftx`.
    pub fn kind(&self) -> &'static str {
        match self {
            Message::Hello(_) => "hello",
            Message::Welcome(_) => "welcome",
            Message::Entry(_) => "entry",
            Message::Part(_) => "part",
            Message::Offer(_) => "offer",
            Message::Hole(_) => "hole",
            Message::Join(_) => "join",
            Message::Totals { .. } => "totals",
            Message::End { .. } => "end",
            Message::Want { .. } => "want",
            Message::Again { .. } => "again",
            Message::Kept(_) => "kept",
            Message::Stored { .. } => "stored",
            Message::Receipt(_) => "receipt",
            Message::Measure(_) => "measure",
            Message::Measured(_) => "measured",
            Message::Busy => "busy",
            Message::Error(_) => "error",
        }
    }

    /// Appends this message to `out`, as a native frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_with(Framing::Native, out, |out| match self {
            Message::Hello(hello) => write_tagged(out, "hello", hello),
            Message::Welcome(hello) => write_tagged(out, "welcome", hello),
            Message::Entry(entry) => write(out, &RawEntry::from(entry)),
            Message::Part(part) => write_tagged(out, "part", part),
            Message::Offer(part) => write_tagged(out, "offer", part),
            Message::Hole(hole) => write_tagged(out, "hole", hole),
            Message::Join(join) => write_tagged(out, "join", join),
            Message::Totals { files, bytes } => {
                write_tagged(out, "totals", &RawTotals { files: *files, bytes: *bytes })
            }
            Message::End { entries } => write_tagged(out, "end", &RawEnd { entries: *entries }),
            Message::Want { entries, parts } => {
                write_tagged(out, "want", &RawWant { entries: entries.clone(), parts: parts.clone() })
            }
            Message::Again { entry, part } => {
                write_tagged(out, "again", &RawAgain { entry: *entry, part: *part })
            }
            Message::Kept(kept) => write_tagged(out, "kept", &RawKept::from(kept)),
            Message::Stored { entries, etags } => {
                write_tagged(out, "stored", &RawStored { entries: entries.clone(), etags: etags.clone() })
            }
            Message::Receipt(receipt) => write_tagged(out, "receipt", receipt),
            Message::Measure(measure) => write_tagged(out, "measure", measure),
            Message::Measured(measured) => write_tagged(out, "measured", measured),
            Message::Busy => write_tagged(out, "busy", &NoKeys {}),
            Message::Error(report) => write_tagged(out, "error", &RawError::from(report)),
        });
    }
}

#[cfg(test)]
mod tests;
