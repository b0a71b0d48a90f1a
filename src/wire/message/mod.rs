//! The frames of the native dialect: one JSON object each, with the key `ftx` naming its kind.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};

use super::frame::{self, Framing};
use super::id_ranges::IdRanges;
use crate::busy_time::BusyTime;
use crate::digest::{Etag, Md5};
use crate::error_code::ErrorCode;
use crate::escape::Escaped;
use crate::units::{Metadata, Mode, MtimeNs};

/// The number of an entry in its session: 0, 1, 2, ... in the order of announcement.
pub type EntryId = u64;

/// Bytes of a sentence in an `error` frame at most; longer ones are cut.
pub const MAX_SENTENCE_BYTES: usize = 1024;

/// Everything that is said in the native dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Sender, first of all.
    Hello(Hello),
    /// Receiver, first of all.
    Welcome(Hello),
    /// Sender: an entry, announced ahead of its body.
    Entry(Entry),
    /// Sender: one part of a file; its body follows.
    Part(Part),
    /// Sender: the digest of one part, because the receiver asked for digests first. No body follows.
    Offer(Part),
    /// Sender: whole parts of zeros, in place of their `part` or `offer` frames. No body follows.
    Hole(Hole),
    /// Sender, as the first frame of a further connection: it belongs to a session.
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
        /// How many there were.
        entries: u64,
    },
    /// Receiver: what to do about entries.
    Want {
        /// Which files.
        entries: IdRanges,
        /// Which of their parts.
        parts: WantedParts,
    },
    /// Receiver: this part arrived damaged.
    Again {
        /// The file.
        entry: EntryId,
        /// The part's index.
        part: u64,
    },
    /// Receiver: parts of a file that an earlier session left there, before the `want` for the rest.
    Kept(Kept),
    /// Receiver: verified, durable and under the final name.
    Stored {
        /// Which entries.
        entries: IdRanges,
        /// With [`FEATURE_ETAGS`], one for each entry, ascending: what the receiver verified of a file. `None` for folders,
        /// links, and files that have no etag.
        etags: Option<Vec<Option<Etag>>>,
    },
    /// Receiver: the last word.
    Receipt(Receipt),
    /// Sender: a stage that the receiver is to measure. After one of the wire its body follows.
    Measure(Measure),
    /// Receiver: how the stage went.
    Measured(Measured),
    /// Either: still at work, so do not give me up.
    Busy,
    /// Either: an entry, or without one the session, failed.
    Error(ErrorReport),
}

/// Who speaks, in `hello` and `welcome`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// In `hello` the highest version the sender speaks; in `welcome` the one the session has.
    pub version: u32,
    /// Optional abilities: in `hello` those the sender would use, unknown ones are ignored; in `welcome` those of them
    /// that the session has.
    #[serde(default, deserialize_with = "null_as_default")]
    pub features: Vec<String>,
    /// In `hello`: the session, for further connections to join it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// In `hello`: the session that this one goes on with, because its connection was lost. The receiver may not have
    /// noticed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<SessionId>,
    /// Program and version, for logs.
    #[serde(default, deserialize_with = "null_as_default")]
    pub agent: String,
}

/// The feature of `join`: parts may be spread over several connections.
pub const FEATURE_STREAMS: &str = "streams";

/// The feature of `kept`, and of the etags in `stored`: the sender compares what the receiver verified with its own.
pub const FEATURE_ETAGS: &str = "etags";

impl Hello {
    /// How this program introduces itself.
    pub fn ours(features: &[&str], session: Option<SessionId>) -> Self {
        let agent = concat!("ftx ", env!("CARGO_PKG_VERSION")).to_owned();
        let features = features.iter().map(|&feature| feature.to_owned()).collect();
        Hello { version: super::VERSION, features, session, continues: None, agent }
    }

    /// Is the speaker able to do this?
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|known| known == feature)
    }
}

/// What tells one session from all others: 128 bits that the sender drew at random, 32 hex digits on the wire. Whoever
/// knows them may join the session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// From random bytes.
    pub fn new(random: [u8; 16]) -> Self {
        SessionId(random)
    }
}

impl std::fmt::Debug for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It is a secret of a kind: not for logs.
        f.write_str("SessionId")
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> String {
        hex::encode(id.0)
    }
}

impl TryFrom<String> for SessionId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(&text, &mut bytes).map_err(|_| "a session is 32 hex digits")?;
        Ok(SessionId(bytes))
    }
}

/// A further connection of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The session.
    pub session: SessionId,
}

/// An entry as it is announced. Names and targets are raw: not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub id: EntryId,
    /// Its relative path, as bytes of the sender's file system.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Mode and time of modification.
    pub metadata: Metadata,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Its size.
        size_bytes: u64,
        /// It takes less room on the sender's disk than its size: zeros in it need not be written.
        is_sparse: bool,
        /// Equal in two announcements only if the file did not change in between.
        state: Option<Md5>,
    },
    /// A folder; announced after everything in it.
    Dir,
    /// A symbolic link; announced after all files.
    Link {
        /// Its target, raw.
        target: Vec<u8>,
    },
}

impl EntryKind {
    /// What an entry of this name counts against [`super::MAX_NAME_BYTES_IN_FLIGHT`].
    pub fn name_bytes(&self, name: &[u8]) -> usize {
        name.len() + if let EntryKind::Link { target } = self { target.len() } else { 0 }
    }
}

/// A part's dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The file.
    pub entry: EntryId,
    /// The part's index.
    pub part: u64,
    /// Its size.
    #[serde(rename = "size")]
    pub size_bytes: u64,
    /// The digest of its bytes.
    pub md5: Md5,
}

/// A run of parts, of the whole part size each, that hold zeros alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hole {
    /// The file.
    pub entry: EntryId,
    /// The first part's index.
    pub part: u64,
    /// How many parts.
    pub parts: u64,
    /// It stands for offers: one that comes after the receiver has decided to have the bodies is of no use.
    #[serde(
        rename = "offer",
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub is_offer: bool,
}

/// Parts of a file that an earlier session left at the receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The file.
    pub entry: EntryId,
    /// The first part's index.
    pub part: u64,
    /// Of this part and those behind it.
    pub parts: KeptParts,
}

/// What is kept of consecutive parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptParts {
    /// The digest of each, at least one and at most [`MAX_DIGESTS_A_FRAME`].
    Digests(Vec<Md5>),
    /// So many whole parts of zeros, at least one.
    Zeros(u64),
}

/// Digests in one `kept` at most, so that the frame stays below its limit.
pub const MAX_DIGESTS_A_FRAME: usize = 1024;

impl KeptParts {
    /// How many parts they are.
    pub fn count(&self) -> u64 {
        match self {
            KeptParts::Digests(digests) => digests.len() as u64,
            KeptParts::Zeros(parts) => *parts,
        }
    }
}

/// What a receiver wants of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "RawWanted")]
pub enum WantedParts {
    /// Every part.
    All,
    /// Nothing: it is there already, and identical.
    None,
    /// The digests first, as `offer` frames: something of that name and size is there.
    Offers,
    /// These parts.
    #[serde(untagged)]
    Parts(IdRanges),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawWanted {
    Word(String),
    Parts(IdRanges),
}

impl TryFrom<RawWanted> for WantedParts {
    type Error = &'static str;

    fn try_from(raw: RawWanted) -> Result<Self, &'static str> {
        match raw {
            RawWanted::Parts(runs) => Ok(WantedParts::Parts(runs)),
            RawWanted::Word(word) => match word.as_str() {
                "all" => Ok(WantedParts::All),
                "none" => Ok(WantedParts::None),
                "offers" => Ok(WantedParts::Offers),
                _ => Err("parts are all, none, offers, or runs"),
            },
        }
    }
}

/// The receiver's last word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Entries announced.
    pub entries: u64,
    /// Entries verified, durable and in place, the skipped ones included.
    pub stored: u64,
    /// Entries among them that were there already.
    pub skipped: u64,
    /// Entries that did not arrive.
    pub failed: u64,
    /// Bytes of verified bodies.
    pub bytes: u64,
    /// What the receiver was busy with; nothing depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<BusyTime>,
}

/// The feature of `measure` and `measured`.
pub const FEATURE_MEASURE: &str = "measure";

/// A stage to measure alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// Which one.
    pub what: Measurable,
    /// With how many bytes at most; of the wire exactly so many follow.
    #[serde(rename = "size")]
    pub size_bytes: u64,
}

/// A receiver's stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measurable {
    /// MD5, as many messages side by side as the receiver has lanes.
    Md5,
    /// Writing a file and bringing it to stable storage; nothing is left of it.
    Write,
    /// Taking a body from the wire; nobody looks at it.
    Wire,
}

/// How a stage went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// How many bytes went through it, at most those that were asked for: its time is bounded, too.
    pub bytes: u64,
    /// The time they took by the receiver's clock, at least one nanosecond.
    #[serde(rename = "ns")]
    pub elapsed_ns: u64,
    /// What was written went to a file system in memory: there is no disk.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "std::ops::Not::not")]
    pub memory: bool,
}

/// What `error` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorReport {
    /// The entry that failed; `None` ends the session.
    pub entry: Option<EntryId>,
    /// The stable reason.
    pub fault: ErrorCode,
    /// A sentence for people, raw.
    pub message: String,
}

/// A frame that is not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not a JSON object of the right shape.
    #[error("a header of the kind \"{}\" cannot be read: {}", Escaped::new(kind), Escaped::new(reason))]
    Shape {
        /// The kind, as far as it was understood.
        kind: String,
        /// What the JSON reader said; it may quote the peer.
        reason: String,
    },
    /// A kind that this version does not know.
    #[error("a header of the unknown kind \"{}\" arrived", Escaped::new(kind))]
    UnknownKind {
        /// The kind.
        kind: String,
    },
}

/// An optional key whose value is `null` counts as missing.
fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    value: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

#[derive(Deserialize)]
struct Tag<'a> {
    #[serde(borrow)]
    ftx: Cow<'a, str>,
}

#[derive(Serialize)]
struct Tagged<'a, T> {
    ftx: &'static str,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawKind {
    File,
    Dir,
    Link,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "ftx", rename = "entry")]
struct RawEntry<'a> {
    entry: EntryId,
    #[serde(rename = "type")]
    kind: RawKind,
    #[serde(borrow)]
    filename: Cow<'a, str>,
    /// The bytes in hex, where the name is not UTF-8; `filename` is then only for reading.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    filename_hex: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "std::ops::Not::not")]
    sparse: bool,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    state: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    target: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    target_hex: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtime_ns: Option<i64>,
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
struct RawKept {
    entry: EntryId,
    part: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    md5: Option<Vec<Md5>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zeros: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct RawStored {
    entries: IdRanges,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etags: Option<Vec<Option<Etag>>>,
}

#[derive(Serialize, Deserialize)]
struct RawError<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entry: Option<EntryId>,
    #[serde(borrow)]
    code: Cow<'a, str>,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
}

#[derive(Serialize)]
struct Nothing {}

impl Message {
    /// Reads the JSON of a native frame. Unknown keys are ignored, unknown kinds are an error.
    pub fn parse(json: &[u8]) -> Result<Self, MessageError> {
        let kind = match kind_in_front(json) {
            Some(kind) => Cow::Borrowed(kind),
            None => serde_json::from_slice::<Tag>(json).map_err(|error| shape("?", &error))?.ftx,
        };
        let kind = kind.as_ref();
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
                read::<Tag>(kind, json)?;
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
        frame::encode_with(Framing::Native, out, |out| match self {
            Message::Hello(introduction) => tagged(out, "hello", introduction),
            Message::Welcome(introduction) => tagged(out, "welcome", introduction),
            Message::Entry(entry) => to_json(out, &RawEntry::from(entry)),
            Message::Part(part) => tagged(out, "part", part),
            Message::Offer(part) => tagged(out, "offer", part),
            Message::Hole(hole) => tagged(out, "hole", hole),
            Message::Join(join) => tagged(out, "join", join),
            Message::Totals { files, bytes } => {
                tagged(out, "totals", &RawTotals { files: *files, bytes: *bytes })
            }
            Message::End { entries } => tagged(out, "end", &RawEnd { entries: *entries }),
            Message::Want { entries, parts } => {
                tagged(out, "want", &RawWant { entries: entries.clone(), parts: parts.clone() })
            }
            Message::Again { entry, part } => tagged(out, "again", &RawAgain { entry: *entry, part: *part }),
            Message::Kept(kept) => tagged(out, "kept", &RawKept::from(kept)),
            Message::Stored { entries, etags } => {
                tagged(out, "stored", &RawStored { entries: entries.clone(), etags: etags.clone() })
            }
            Message::Receipt(receipt) => tagged(out, "receipt", receipt),
            Message::Measure(measure) => tagged(out, "measure", measure),
            Message::Measured(measured) => tagged(out, "measured", measured),
            Message::Busy => tagged(out, "busy", &Nothing {}),
            Message::Error(failure) => tagged(out, "error", &RawError::from(failure)),
        });
    }
}

/// The kind, where it stands first and nowhere else: most frames need not be read twice then.
fn kind_in_front(json: &[u8]) -> Option<&str> {
    let rest = json.strip_prefix(b"{\"ftx\":\"")?;
    // With a backslash a key or a kind may be spelled in many ways.
    if memchr::memchr(b'\\', rest).is_some() {
        return None;
    }
    let (kind, rest) = rest.split_at(memchr::memchr(b'"', rest)?);
    let is_unique = memchr::memmem::find(rest, b"\"ftx\"").is_none();
    if is_unique { std::str::from_utf8(kind).ok() } else { None }
}

fn read<'a, T: Deserialize<'a>>(kind: &str, json: &'a [u8]) -> Result<T, MessageError> {
    serde_json::from_slice(json).map_err(|error| shape(kind, &error))
}

fn shape(kind: &str, error: &serde_json::Error) -> MessageError {
    MessageError::Shape { kind: kind.to_owned(), reason: error.to_string() }
}

fn tagged(out: &mut Vec<u8>, ftx: &'static str, body: &impl Serialize) {
    to_json(out, &Tagged { ftx, body });
}

fn to_json(out: &mut Vec<u8>, value: &impl Serialize) {
    // Writing plain structs of numbers and strings into memory has no way to fail.
    let _ = serde_json::to_writer(out, value);
}

/// Text for people, and the bytes in hex beside it where text cannot hold them.
fn readable(bytes: &[u8]) -> (Cow<'_, str>, Option<Cow<'_, str>>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.into(), None),
        Err(_) => (Escaped::new(bytes).to_string().into(), Some(hex::encode(bytes).into())),
    }
}

fn raw_bytes(text: &str, hex_digits: Option<&str>) -> Result<Vec<u8>, MessageError> {
    match hex_digits {
        None => Ok(text.as_bytes().to_vec()),
        Some(digits) => hex::decode(digits)
            .map_err(|error| MessageError::Shape { kind: "entry".into(), reason: error.to_string() }),
    }
}

impl<'a> From<&'a Entry> for RawEntry<'a> {
    fn from(entry: &'a Entry) -> Self {
        let (filename, filename_hex) = readable(&entry.name);
        let (kind, size, target) = match &entry.kind {
            EntryKind::File { size_bytes, .. } => (RawKind::File, Some(*size_bytes), None),
            EntryKind::Dir => (RawKind::Dir, None, None),
            EntryKind::Link { target } => (RawKind::Link, None, Some(readable(target))),
        };
        let (target, target_hex) = target.map_or((None, None), |(text, hex)| (Some(text), hex));
        RawEntry {
            entry: entry.id,
            kind,
            filename,
            filename_hex,
            size,
            sparse: matches!(entry.kind, EntryKind::File { is_sparse: true, .. }),
            state: match entry.kind {
                EntryKind::File { state, .. } => state.map(|state| state.to_string().into()),
                _ => None,
            },
            target,
            target_hex,
            mode: entry.metadata.mode.map(Mode::bits),
            mtime_ns: entry.metadata.mtime.map(|mtime| mtime.0),
        }
    }
}

impl TryFrom<RawEntry<'_>> for Entry {
    type Error = MessageError;

    fn try_from(raw: RawEntry<'_>) -> Result<Self, MessageError> {
        let missing = |key: &str| MessageError::Shape {
            kind: "entry".into(),
            reason: format!("missing field `{key}`"),
        };
        let kind = match raw.kind {
            RawKind::File => EntryKind::File {
                size_bytes: raw.size.ok_or_else(|| missing("size"))?,
                is_sparse: raw.sparse,
                // One that cannot be read is as good as none: nothing of the file is taken up.
                state: raw.state.and_then(|state| state.parse().ok()),
            },
            RawKind::Dir => EntryKind::Dir,
            RawKind::Link => EntryKind::Link {
                target: raw_bytes(&raw.target.ok_or_else(|| missing("target"))?, raw.target_hex.as_deref())?,
            },
        };
        Ok(Entry {
            id: raw.entry,
            name: raw_bytes(&raw.filename, raw.filename_hex.as_deref())?,
            kind,
            metadata: Metadata { mode: raw.mode.map(Mode::new), mtime: raw.mtime_ns.map(MtimeNs) },
        })
    }
}

impl From<&Kept> for RawKept {
    fn from(kept: &Kept) -> Self {
        let (md5, zeros) = match &kept.parts {
            KeptParts::Digests(digests) => (Some(digests.clone()), None),
            KeptParts::Zeros(parts) => (None, Some(*parts)),
        };
        RawKept { entry: kept.entry, part: kept.part, md5, zeros }
    }
}

impl TryFrom<RawKept> for Kept {
    type Error = MessageError;

    fn try_from(raw: RawKept) -> Result<Self, MessageError> {
        let parts = match (raw.md5, raw.zeros) {
            (Some(digests), None) => KeptParts::Digests(digests),
            (None, Some(parts)) => KeptParts::Zeros(parts),
            _ => {
                let reason = "one of `md5` and `zeros` is needed".into();
                return Err(MessageError::Shape { kind: "kept".into(), reason });
            }
        };
        Ok(Kept { entry: raw.entry, part: raw.part, parts })
    }
}

impl<'a> From<&'a ErrorReport> for RawError<'a> {
    fn from(failure: &'a ErrorReport) -> Self {
        let end = failure.message.floor_char_boundary(MAX_SENTENCE_BYTES);
        RawError {
            entry: failure.entry,
            code: failure.fault.as_str().into(),
            message: failure.message[..end].into(),
        }
    }
}

impl From<RawError<'_>> for ErrorReport {
    fn from(raw: RawError<'_>) -> Self {
        let end = raw.message.floor_char_boundary(MAX_SENTENCE_BYTES);
        ErrorReport {
            entry: raw.entry,
            fault: ErrorCode::from_wire(&raw.code),
            message: raw.message[..end].to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
