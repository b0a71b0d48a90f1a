//! The other end of a connection.

use std::fmt::{self, Display};
use std::net::SocketAddr;

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A machine, by address and port; IPv4 in its own notation.
    Ip(SocketAddr),
    /// A process of this machine, connected over a Unix socket.
    Unix {
        /// The user it runs as.
        uid: u32,
        /// Its number; 0 where the system does not tell.
        pid: u32,
    },
}

impl Peer {
    /// The machine or the user, without port or process: what notes about a session name.
    pub fn host(&self) -> String {
        match self {
            Peer::Ip(address) => address.ip().to_string(),
            Peer::Unix { uid, .. } => format!("local user {uid}"),
        }
    }

    /// Whether it is a process of this machine.
    pub fn is_local(&self) -> bool {
        match self {
            Peer::Ip(address) => address.ip().is_loopback(),
            Peer::Unix { .. } => true,
        }
    }
}

impl Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Ip(address) => write!(f, "{address}"),
            Peer::Unix { uid, pid } => write!(f, "local user {uid}, process {pid}"),
        }
    }
}
