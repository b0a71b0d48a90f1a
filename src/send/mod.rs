//! The sender's driver: from paths to a receipt.

mod classic;
mod native;

use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::digest::Etag;
use crate::error_code::{ErrorCode, in_words};
use crate::escape::Escaped;
use crate::event::{Event, Reporter, Summary};
use crate::md5sum::FileHasher;
use crate::net::{self, NetError, Target};
use crate::source::{self, ReadError, SourceError, StateKey};
use crate::sync::CancelToken;
use crate::wire::WireError;

pub use native::{MAX_STREAMS, Streams};

/// What `ftx send` was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to send.
    pub paths: Vec<PathBuf>,
    /// Where to.
    pub target: Target,
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
    pub cancel: CancelToken,
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
    Plan(#[from] SourceError),
    /// No connection.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The connection broke.
    #[error("the connection broke: {}", in_words(.0))]
    Connection(#[source] io::Error),
    /// The receiver went away.
    #[error("the connection was lost with {unconfirmed} entries open")]
    Closed {
        /// Entries announced and not settled.
        unconfirmed: u64,
    },
    /// The connection to the receiver was lost, and could not be opened again.
    #[error("the connection to {host} was lost{}", attempts_text(*attempts))]
    Lost {
        /// As typed.
        host: String,
        /// How often that was tried.
        attempts: u32,
    },
    /// Whoever listens there closed the connection without a word.
    #[error("{at} closed the connection without an answer")]
    NoAnswer {
        /// Address and port.
        at: String,
    },
    /// Whoever listens there never said anything.
    #[error("no answer from {at} for {} seconds", time.as_secs())]
    NeverAnswered {
        /// Address and port.
        at: String,
        /// For so long.
        time: Duration,
    },
    /// Whoever listens there began with something that no receiver begins with.
    #[error("what answers at {at} is not ftx (it begins \"{}\")", Escaped::new(begins))]
    NotFtx {
        /// Address and port.
        at: String,
        /// Its first bytes, raw.
        begins: Vec<u8>,
    },
    /// The receiver was silent for too long.
    #[error("nothing was heard from the receiver for {} seconds", .0.as_secs())]
    Silent(Duration),
    /// The receiver began a header and did not finish it.
    #[error("a header from the receiver was still not complete after {} seconds", .0.as_secs())]
    HeaderTimeout(Duration),
    /// The receiver says that it is busy, again and again, and nothing else.
    #[error("the receiver says that it is busy, but next to nothing has moved for {} seconds", .0.as_secs())]
    Stalled(Duration),
    /// The receiver broke the protocol, or gave up.
    #[error("{}", peer_message(.0))]
    Wire(#[from] WireError),
    /// The system gives no thread, or no descriptor to wake one.
    #[error("this machine has no thread left for the transfer: {}", in_words(.0))]
    NoThread(#[source] io::Error),
    /// The receiver verified other bytes than were sent.
    #[error(
        "{name}: the receiver stored other content than was sent (its etag is {theirs}, the file's {ours})"
    )]
    StoredOther {
        /// The file's name, escaped.
        name: String,
        /// What the receiver verified.
        theirs: Etag,
        /// What was sent.
        ours: Etag,
    },
    /// Somebody wants this program to end.
    #[error("the sender was interrupted")]
    Interrupted,
    /// The same, before there was any connection.
    #[error("interrupted before a connection: nothing was sent")]
    InterruptedEarly,
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

fn attempts_text(attempts: u32) -> String {
    match attempts {
        0 => String::new(),
        1 => " and did not come back in 1 attempt".into(),
        _ => format!(" and did not come back in {attempts} attempts"),
    }
}

/// What a receiver says of itself needs nobody to say that it is the receiver's word.
fn peer_message(error: &WireError) -> String {
    match error {
        WireError::PeerGaveUp { fault: ErrorCode::Interrupted, .. } => "the receiver was interrupted".into(),
        WireError::PeerGaveUp { message, .. } if message.starts_with("the receiver ") => {
            Escaped::new(message).to_string()
        }
        _ => error.to_string(),
    }
}

impl SendError {
    fn is_disconnect(&self) -> bool {
        match self {
            SendError::Closed { .. } => true,
            SendError::Connection(error) => net::is_disconnect(error),
            _ => false,
        }
    }

    /// A session that nobody answered: perhaps there is no receiver at all.
    fn into_no_answer(self, at: String) -> Self {
        match self {
            SendError::Closed { .. } | SendError::Connection(_) => SendError::NoAnswer { at },
            SendError::Silent(time) => SendError::NeverAnswered { at, time },
            other => other,
        }
    }

    /// A session that was open, so often tried to go on in vain: whatever hinders the last try, the connection was lost.
    fn into_lost(self, host: &str, attempts: u32) -> Self {
        match self {
            SendError::Net(_)
            | SendError::Connection(_)
            | SendError::Closed { .. }
            | SendError::Lost { .. }
            | SendError::NoAnswer { .. } => SendError::Lost { host: host.to_owned(), attempts },
            other => other,
        }
    }

    /// May it go on with another connection?
    fn is_retryable(&self) -> bool {
        match self {
            SendError::Net(_)
            | SendError::Connection(_)
            | SendError::Closed { .. }
            | SendError::Lost { .. }
            | SendError::NoAnswer { .. }
            | SendError::NeverAnswered { .. }
            | SendError::Silent(_)
            | SendError::HeaderTimeout(_) => true,
            SendError::Wire(WireError::PeerGaveUp { fault, .. }) => {
                matches!(fault, ErrorCode::Connection | ErrorCode::Timeout | ErrorCode::Busy)
            }
            _ => false,
        }
    }
}

/// How often a first connection that is refused is tried again.
const FIRST_RETRIES: u32 = 2;
/// How often in a row, without progress, a lost connection is tried again: for about a minute.
const RETRIES: u32 = 10;

/// Sends everything and waits for the receipt. Entries that fail are events and counted in the summary; the rest
/// goes on.
pub fn send(options: &Options, progress: &dyn Reporter) -> Result<Summary, SendError> {
    let cancel = &options.cancel;
    let roots = source::roots(&options.paths)?;
    let start = Instant::now();
    let was_connected = Cell::new(false);
    let connect_patiently = |retries| {
        net::connect(&options.target, options.port, options.timeout, retries, cancel, |pause| {
            progress.report(Event::Retrying { pause });
        })
        .inspect(|_| was_connected.set(true))
    };
    // Whoever mistyped a host wants to hear of it; whoever has lost a connection may get it back.
    let connect = || connect_patiently(options.retries.unwrap_or(FIRST_RETRIES));
    let host = options.target.to_string();
    let state_key = StateKey::new(&options.target.host());
    let route = native::Dialer {
        host: &host,
        connect: &connect,
        reconnect: &|| connect_patiently(0),
        retries: options.retries.unwrap_or(RETRIES),
        streams: options.streams,
        timeout: options.timeout,
        state_key: &state_key,
        cancel,
    };
    let hasher = FileHasher::new(options.whole_digests, progress);
    let session = || {
        let summary = match options.classic {
            None => native::send(&roots, &route, progress, &hasher)?,
            Some(how) => classic::send(&roots, connect, how, options.timeout, cancel, progress)?,
        };
        Ok(Summary { elapsed: start.elapsed(), ..summary })
    };
    let sent = cancel.run_with_hook(|| hasher.stop_waiting(), || hasher.run_with(session));
    let sent = sent.flatten().map_err(SendError::NoThread)?;
    match sent {
        Ok(summary) => Ok(Summary { undigested: hasher.unavailable(), ..summary }),
        // Whatever broke, this is why.
        Err(_) if cancel.is_cancelled() && !was_connected.get() => Err(SendError::InterruptedEarly),
        Err(_) if cancel.is_cancelled() => Err(SendError::Interrupted),
        Err(error) => Err(error),
    }
}
