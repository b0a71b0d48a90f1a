//! The sender's driver: from paths to a receipt.

mod classic;
mod native;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::md5sum::Lister;
use crate::net::{self, Bell, HostPort, NetError};
use crate::plan::{self, PlanError, ReadError};
use crate::progress::{Event, Progress, Summary};
use crate::wire::WireError;

pub use native::{MAX_STREAMS, Streams};

/// What `ftx send` was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to send.
    pub paths: Vec<PathBuf>,
    /// Where to.
    pub target: HostPort,
    /// The port where `target` names none.
    pub port: u16,
    /// The plain dialect, and how.
    pub classic: Option<Classic>,
    /// Connections of a native session.
    pub streams: Streams,
    /// How long the peer may be silent.
    pub timeout: Duration,
    /// How often in a row to try again, when the first connection is refused or a later one is lost; `None` chooses.
    pub retries: Option<u32>,
    /// Take the MD5 of all of each file, as `md5sum` prints it, and tell it with [`Event::FileDone`].
    pub whole_digests: bool,
    /// Rung, it ends the transfer with [`SendError::Interrupted`], after last words to the receiver.
    pub interrupt: Bell,
}

/// How several files go to a classic receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classic {
    /// One after another on one connection.
    OneConnection,
    /// A connection for each, for receivers that close after a file.
    ConnectionPerFile,
}

/// Why a transfer ended early. What it had stored by then is stored.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The paths cannot be sent.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No connection.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Connection(#[source] io::Error),
    /// The receiver went away.
    #[error(
        "the receiver closed the connection before it confirmed everything ({unconfirmed} entries are open)"
    )]
    Closed {
        /// Entries announced and not settled.
        unconfirmed: u64,
    },
    /// The receiver was silent for too long.
    #[error("nothing was heard from the receiver for {} seconds", .0.as_secs())]
    Silent(Duration),
    /// The receiver began a header and did not finish it.
    #[error("a header from the receiver was still not complete after {} seconds", .0.as_secs())]
    Unfinished(Duration),
    /// The receiver says that it is busy, again and again, and nothing else.
    #[error("the receiver says that it is busy, but next to nothing has moved for {} seconds", .0.as_secs())]
    Standstill(Duration),
    /// The receiver broke the protocol, or gave up.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Somebody wants this program to end.
    #[error("the sender was interrupted")]
    Interrupted,
    /// A classic receiver went away; nobody knows what it kept.
    #[error(
        "the receiver closed the connection while {name} was sent; a classic receiver says no more than that"
    )]
    ClassicClosed {
        /// The file's name, escaped.
        name: String,
    },
    /// A file changed after its header was sent; the classic dialect has no way to take that back.
    #[error("{name}: {error}; the classic dialect cannot go on after that")]
    ClassicSource {
        /// The file's name, escaped.
        name: String,
        /// What happened.
        error: ReadError,
    },
}

impl SendError {
    /// May it go on with another connection?
    fn can_heal(&self) -> bool {
        match self {
            SendError::Net(_)
            | SendError::Connection(_)
            | SendError::Closed { .. }
            | SendError::Silent(_)
            | SendError::Unfinished(_) => true,
            SendError::Wire(WireError::PeerGaveUp { fault, .. }) => {
                matches!(fault, Fault::Connection | Fault::Timeout | Fault::Busy)
            }
            _ => false,
        }
    }
}

/// How often a first connection that is refused is tried again.
const FIRST_RETRIES: u32 = 2;
/// How often in a row a lost connection is tried again: for about a minute.
const RETRIES: u32 = 10;

/// Sends everything and waits for the receipt. Entries that fail are events and counted in the summary; the rest
/// goes on.
pub fn send(options: &Options, progress: &dyn Progress) -> Result<Summary, SendError> {
    let interrupt = &options.interrupt;
    let roots = plan::roots(&options.paths)?;
    let start = Instant::now();
    let connect_patiently = |retries| {
        net::connect(&options.target, options.port, options.timeout, retries, interrupt, |pause| {
            progress.event(Event::Retrying { pause });
        })
    };
    // Whoever mistyped a host wants to hear of it; whoever has lost a connection may get it back.
    let connect = || connect_patiently(options.retries.unwrap_or(FIRST_RETRIES));
    let route = native::Route {
        connect: &connect,
        reconnect: &|| connect_patiently(0),
        retries: options.retries.unwrap_or(RETRIES),
        streams: options.streams,
        timeout: options.timeout,
        interrupt,
    };
    let lister = Lister::new(options.whole_digests, progress);
    let session = || {
        let summary = match options.classic {
            None => native::send(&roots, &route, progress, &lister)?,
            Some(how) => classic::send(&roots, connect, how, options.timeout, interrupt, progress)?,
        };
        Ok(Summary { elapsed: start.elapsed(), ..summary })
    };
    let sent =
        interrupt.beside(|| lister.hurry(), || lister.beside(session)).map_err(SendError::Connection)?;
    match sent {
        Ok(summary) => Ok(Summary { undigested: lister.undigested(), ..summary }),
        // Whatever broke, this is why.
        Err(_) if interrupt.is_rung() => Err(SendError::Interrupted),
        Err(error) => Err(error),
    }
}
