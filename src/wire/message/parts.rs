//! `part`, `offer`, `hole` and `kept`: the parts of a file.

use serde::{Deserialize, Serialize};

use super::entry::EntryId;
use super::error::MessageError;
use super::json::null_as_default;
use crate::digest::Md5;

/// The keys of `part` and `offer`.
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

/// The keys of `hole`: a run of parts of the full part size that consist of zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hole {
    /// The file.
    pub entry: EntryId,
    /// The first part's index.
    pub part: u64,
    /// The number of parts.
    pub parts: u64,
    /// It stands for offers, and is ignored if the receiver has requested bodies in the meantime.
    #[serde(
        rename = "offer",
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub is_offer: bool,
}

/// The keys of `kept`: parts of a file that the receiver has from an earlier session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRun {
    /// The file.
    pub entry: EntryId,
    /// The first part's index.
    pub part: u64,
    /// This part and those after it.
    pub parts: KeptParts,
}

/// The content of consecutive kept parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptParts {
    /// The digest of each: at least one, at most [`crate::wire::limits::MAX_DIGESTS_A_FRAME`].
    Digests(Vec<Md5>),
    /// The number of full-size parts of zeros, at least one.
    Zeros(u64),
}

impl KeptParts {
    /// The number of parts.
    pub fn count(&self) -> u64 {
        match self {
            KeptParts::Digests(digests) => digests.len() as u64,
            KeptParts::Zeros(parts) => *parts,
        }
    }
}

/// The JSON of `kept`.
#[derive(Serialize, Deserialize)]
pub struct RawKept {
    entry: EntryId,
    part: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    md5: Option<Vec<Md5>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zeros: Option<u64>,
}

impl From<&KeptRun> for RawKept {
    fn from(kept: &KeptRun) -> Self {
        let (md5, zeros) = match &kept.parts {
            KeptParts::Digests(digests) => (Some(digests.clone()), None),
            KeptParts::Zeros(parts) => (None, Some(*parts)),
        };
        RawKept { entry: kept.entry, part: kept.part, md5, zeros }
    }
}

impl TryFrom<RawKept> for KeptRun {
    type Error = MessageError;

    fn try_from(raw: RawKept) -> Result<Self, MessageError> {
        let parts = match (raw.md5, raw.zeros) {
            (Some(digests), None) => KeptParts::Digests(digests),
            (None, Some(parts)) => KeptParts::Zeros(parts),
            _ => return Err(MessageError::shape("kept", "one of `md5` and `zeros` is needed")),
        };
        Ok(KeptRun { entry: raw.entry, part: raw.part, parts })
    }
}
