//! Partial files of interrupted sessions.

use std::time::Duration;

use crate::digest::Md5;
use crate::units::MtimeNs;

/// Identifies one version of a file at its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceVersion {
    /// Its size.
    pub size_bytes: u64,
    /// Its time of modification.
    pub mtime: Option<MtimeNs>,
    /// The sender's digest of its state: equal only if the file did not change in between.
    pub state: Md5,
}

/// A staged file whose session has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The final path below the root, or the path of the staged file if the final one is unknown.
    pub path: Vec<u8>,
    /// The size of the complete file, if known.
    pub size_bytes: Option<u64>,
    /// Bytes that were received.
    pub there_bytes: u64,
    /// The time since its last change.
    pub age: Duration,
    /// The time until it is removed.
    pub kept_for: Duration,
    /// It was too old and has been removed.
    pub is_removed: bool,
}
