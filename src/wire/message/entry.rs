//! `entry`: a file, folder or link as it is announced.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::error::MessageError;
use super::json::null_as_default;
use crate::digest::Md5;
use crate::escape::Escaped;
use crate::units::{Metadata, Mode, MtimeNs};

/// The number of an entry in its session: 0, 1, 2, ... in the order of announcement.
pub type EntryId = u64;

/// An announced entry. Its name and target are raw: not validated.
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

/// The kinds of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Its size.
        size_bytes: u64,
        /// It has holes: zeros in it need not be written.
        is_sparse: bool,
        /// A key of the file's state: equal in two announcements only if the file did not change in between.
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
    /// The bytes that an entry with this name counts against [`crate::wire::MAX_NAME_BYTES_IN_FLIGHT`].
    pub fn name_bytes(&self, name: &[u8]) -> usize {
        name.len() + if let EntryKind::Link { target } = self { target.len() } else { 0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawKind {
    File,
    Dir,
    Link,
}

/// The JSON of `entry`.
#[derive(Serialize, Deserialize)]
#[serde(tag = "ftx", rename = "entry")]
pub struct RawEntry<'a> {
    entry: EntryId,
    #[serde(rename = "type")]
    kind: RawKind,
    #[serde(borrow)]
    filename: Cow<'a, str>,
    /// The bytes in hex, if the name is not UTF-8; `filename` is then for people only.
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

/// Text for people, and the bytes in hex if they are not UTF-8.
fn text_and_hex(bytes: &[u8]) -> (Cow<'_, str>, Option<Cow<'_, str>>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.into(), None),
        Err(_) => (Escaped::new(bytes).to_string().into(), Some(hex::encode(bytes).into())),
    }
}

fn raw_bytes(text: &str, hex_digits: Option<&str>) -> Result<Vec<u8>, MessageError> {
    match hex_digits {
        None => Ok(text.as_bytes().to_vec()),
        Some(digits) => hex::decode(digits).map_err(|error| MessageError::shape("entry", error)),
    }
}

impl<'a> From<&'a Entry> for RawEntry<'a> {
    fn from(entry: &'a Entry) -> Self {
        let (filename, filename_hex) = text_and_hex(&entry.name);
        let (kind, size, target) = match &entry.kind {
            EntryKind::File { size_bytes, .. } => (RawKind::File, Some(*size_bytes), None),
            EntryKind::Dir => (RawKind::Dir, None, None),
            EntryKind::Link { target } => (RawKind::Link, None, Some(text_and_hex(target))),
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
        let missing = |key: &str| MessageError::shape("entry", format!("missing field `{key}`"));
        let kind = match raw.kind {
            RawKind::File => EntryKind::File {
                size_bytes: raw.size.ok_or_else(|| missing("size"))?,
                is_sparse: raw.sparse,
                // An invalid state counts as none: the file is then not resumed.
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
