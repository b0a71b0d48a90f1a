//! `receipt` and `error`: how entries and sessions end.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::entry::EntryId;
use crate::busy_time::BusyTime;
use crate::error_code::ErrorCode;
use crate::wire::limits::MAX_SENTENCE_BYTES;

/// The keys of `receipt`, the receiver's last frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Entries announced.
    pub entries: u64,
    /// Entries verified, durable and in place, including the skipped ones.
    pub stored: u64,
    /// Stored entries that existed before, identical.
    pub skipped: u64,
    /// Entries that failed.
    pub failed: u64,
    /// Bytes of verified bodies.
    pub bytes: u64,
    /// The receiver's busy time; informative only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<BusyTime>,
}

/// The keys of `error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorReport {
    /// The entry that failed; `None` ends the session.
    pub entry: Option<EntryId>,
    /// The stable reason.
    pub code: ErrorCode,
    /// A message for people, raw.
    pub message: String,
}

/// The JSON of `error`.
#[derive(Serialize, Deserialize)]
pub struct RawError<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entry: Option<EntryId>,
    #[serde(borrow)]
    code: Cow<'a, str>,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
}

fn truncated(message: &str) -> &str {
    &message[..message.floor_char_boundary(MAX_SENTENCE_BYTES)]
}

impl<'a> From<&'a ErrorReport> for RawError<'a> {
    fn from(report: &'a ErrorReport) -> Self {
        RawError {
            entry: report.entry,
            code: report.code.as_str().into(),
            message: truncated(&report.message).into(),
        }
    }
}

impl From<RawError<'_>> for ErrorReport {
    fn from(raw: RawError<'_>) -> Self {
        ErrorReport {
            entry: raw.entry,
            code: ErrorCode::from_wire(&raw.code),
            message: truncated(&raw.message).to_owned(),
        }
    }
}
