//! What a transfer is asked to do.

use std::path::PathBuf;
use std::time::Duration;

use crate::net::Target;
use crate::sync::CancelToken;

/// The request of one transfer.
#[derive(Clone, Debug)]
pub struct Options {
    /// Files and folders to send.
    pub paths: Vec<PathBuf>,
    /// The receiver.
    pub target: Target,
    /// The port if `target` has none.
    pub port: u16,
    /// The classic dialect, and its use of connections; `None` is the native dialect.
    pub classic: Option<Classic>,
    /// Connections of a native session.
    pub streams: Streams,
    /// How long the receiver may be silent.
    pub timeout: Duration,
    /// Retries in a row of a refused first connection, and of a lost one; `None` is a default for each.
    pub retries: Option<u32>,
    /// Compute the MD5 of each whole file, as `md5sum` prints it, and report it with
    /// [`Event::FileDone`](crate::event::Event::FileDone).
    pub whole_digests: bool,
    /// Cancels the transfer: the receiver is informed, and [`SendError::Interrupted`](super::SendError) returned.
    pub cancel: CancelToken,
}

/// How several files are sent to a classic receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classic {
    /// One after another on one connection.
    OneConnection,
    /// Each on a connection of its own, for receivers that close after a file.
    ConnectionPerFile,
}

/// The greatest number of connections of one session.
pub const MAX_STREAMS: u32 = 8;

/// The number of connections of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// One, and more while each one added makes the transfer faster.
    Auto,
    /// This many, at most [`MAX_STREAMS`].
    Fixed(u32),
}
