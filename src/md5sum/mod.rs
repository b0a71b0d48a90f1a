//! What `md5sum` would print: the MD5 of whole files, taken beside a transfer, and the lines of its lists.

mod contiguous;
mod hasher;
mod line;

use crate::error_code::ErrorCode;

pub use hasher::FileHasher;
pub use line::line;

/// A file that is read from its start to its end to be hashed.
pub trait HashInput: Send {
    /// Fills `buffer` from an offset.
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), DigestUnavailable>;

    /// After the last byte: was all that was read of one state, the one that was transferred?
    fn check_unchanged(&mut self) -> Result<(), DigestUnavailable>;
}

/// Why there is no digest of a file.
#[derive(Clone, Debug)]
pub struct DigestUnavailable {
    /// The stable reason.
    pub fault: ErrorCode,
    /// A sentence.
    pub reason: String,
}
