//! Errors of `ftx bench`.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::escape::Escaped;
use crate::event::Summary;
use crate::net::NetError;
use crate::recv::StartError;
use crate::send::SendError;
use crate::wire::WireError;

/// Why a measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No connection.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Connection(#[source] io::Error),
    /// The receiver closed the connection.
    #[error("the receiver closed the connection before the measurement was complete")]
    Closed,
    /// The receiver sent nothing for too long.
    #[error("no data from the receiver for {} seconds", .0.as_secs())]
    IdleTimeout(Duration),
    /// The measurement was cancelled.
    #[error("the sender was interrupted")]
    Interrupted,
    /// The receiver violated the protocol, ended the session, or cannot measure.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The folder or the sample file cannot be used.
    #[error("cannot {doing} in {}: {source}", Escaped::new(dir.as_os_str().as_encoded_bytes()))]
    Disk {
        /// What was tried.
        doing: &'static str,
        /// The folder.
        dir: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The receiver in this process did not start.
    #[error(transparent)]
    Receiver(#[from] StartError),
    /// The local transfer failed.
    #[error(transparent)]
    Transfer(#[from] SendError),
    /// The local transfer reached its end without the file; the reason was reported as an event.
    #[error("the local transfer failed")]
    Incomplete(Box<Summary>),
}
