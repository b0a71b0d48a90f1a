//! The MD5 of whole files, computed during a transfer, and the lines of `md5sum` lists.

mod contiguous;
mod hasher;
mod line;
mod queue;

use crate::error_code::ErrorCode;

pub(crate) use hasher::FileHasher;
pub(crate) use line::line;

/// A file that is read from its start to its end to be hashed.
pub(crate) trait HashInput: Send {
    /// Fills `buffer` from an offset.
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), DigestUnavailable>;

    /// Checks after the last byte that all bytes were read of one state, the one that was transferred.
    fn check_unchanged(&mut self) -> Result<(), DigestUnavailable>;
}

/// Why a file has no digest.
#[derive(Clone, Debug)]
pub(crate) struct DigestUnavailable {
    /// The stable code.
    pub code: ErrorCode,
    /// The reason, as text.
    pub reason: String,
}
