//! Settings of a receiver, and what it reports to the program around it.

use std::path::PathBuf;
use std::time::Duration;

use crate::dest::local::{OnConflict, RootError, Unfinished};
use crate::event::{Reporter, Summary};
use crate::net::{BindTo, NetError, Peer};
use crate::recv::error::RecvError;
use crate::relpath::NamePolicy;
use crate::sync::CancelToken;

/// Settings of a receiver.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address or socket file to listen on; `None` for all addresses of both families.
    pub bind: Option<BindTo>,
    /// The port; 0 for any free one.
    pub port: u16,
    /// The destination folder.
    pub out: PathBuf,
    /// What to do if a name is taken.
    pub on_conflict: OnConflict,
    /// Which names to accept.
    pub names: NamePolicy,
    /// End after this many sessions.
    pub sessions: Option<u64>,
    /// How long a peer may be silent.
    pub timeout: Duration,
    /// How long partial files of interrupted sessions are kept.
    pub keep_unfinished: Duration,
    /// Compute the MD5 of whole files, as `md5sum` prints it, and report it with
    /// [`Event::FileDone`](crate::event::Event::FileDone).
    pub whole_digests: bool,
    /// Ends the receiver and all its sessions. Each session fails, and its sender is told.
    pub cancel: CancelToken,
}

/// Why a receiver has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The wanted number of sessions has ended, or [`Server::stop`](super::Server::stop) was cancelled.
    Served,
    /// It was interrupted before that.
    Interrupted,
}

/// The receiver cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The folder.
    #[error(transparent)]
    Root(#[from] RootError),
}

/// Receives the reports of a receiver.
pub trait Observer: Sync {
    /// A partial file of an earlier session was found.
    fn unfinished(&self, unfinished: &Unfinished);
    /// A session begins.
    fn started(&self, peer: &Peer) -> Box<dyn Reporter + '_>;
    /// The connection of a counted session was lost; its sender has `wait` to reconnect.
    fn lost(&self, peer: &Peer, error: &RecvError, wait: Duration);
    /// A session, or a connection that was none, has ended.
    fn ended(&self, peer: &Peer, outcome: &Result<Summary, RecvError>);
}
