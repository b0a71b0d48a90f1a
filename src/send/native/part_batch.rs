//! Loaded parts, on their way from the loader to the writers.

use std::ops::Range;
use std::sync::Arc;

use crate::digest::Md5;
use crate::source::{OpenSource, Source};
use crate::wire::sender::Job;

/// Parts that were loaded together.
pub struct PartBatch {
    pub parts: Vec<LoadedPart>,
    /// The bodies that are in memory.
    pub bytes: Vec<u8>,
}

/// A part that was read and hashed.
pub struct LoadedPart {
    pub job: Job,
    pub md5: Md5,
    pub body: PartBody,
    pub source: Arc<Source>,
}

/// Where the bytes of a part are.
pub enum PartBody {
    /// Not needed: only the digest is sent.
    Nothing,
    /// In this range of the batch.
    Bytes(Range<usize>),
    /// In the file: the kernel sends them from there.
    File(Arc<OpenSource>),
    /// This part and the next ones, this many in all, hold only zeros.
    Holes(u64, Arc<OpenSource>),
}
