//! What `md5sum` would print: the MD5 of whole files, taken beside a transfer, and the lines of its lists.

mod front;
mod line;
mod lister;

use crate::fault::Fault;

pub use line::line;
pub use lister::Lister;

/// A file that is read from its start to its end to be hashed.
pub trait Whole: Send {
    /// Fills `buffer` from an offset.
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), Unread>;

    /// After the last byte: was all that was read of one state, the one that was transferred?
    fn check(&mut self) -> Result<(), Unread>;
}

/// Why there is no digest of a file.
#[derive(Clone, Debug)]
pub struct Unread {
    /// The stable reason.
    pub fault: Fault,
    /// A sentence.
    pub reason: String,
}
