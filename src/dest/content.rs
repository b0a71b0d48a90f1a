//! What a verified file holds.

use crate::digest::{Md5, PartDigests};

/// What a verified file holds, to be compared with other files.
#[derive(Clone, Debug)]
pub struct Content {
    /// Its size.
    pub size_bytes: u64,
    /// Its digests.
    pub digests: Digests,
}

/// How a file was verified.
#[derive(Clone, Debug)]
pub enum Digests {
    /// Part by part.
    Parts(PartDigests),
    /// As a whole.
    Whole(Md5),
}
