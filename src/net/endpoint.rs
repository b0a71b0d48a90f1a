//! Where to listen, and where a listener or a connection is.

use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use super::target::unix_path;

/// Where to listen, without the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindTo {
    /// An address of this machine.
    Ip(IpAddr),
    /// A socket file, which is made and removed again.
    Unix(PathBuf),
}

impl From<IpAddr> for BindTo {
    fn from(address: IpAddr) -> Self {
        BindTo::Ip(address)
    }
}

impl FromStr for BindTo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match unix_path(text) {
            Some(path) => Ok(BindTo::Unix(path)),
            None => text.parse().map(BindTo::Ip).map_err(|_| {
                "expected an address of this machine, as 192.168.1.5 or ::1, or unix:/path/to/socket".into()
            }),
        }
    }
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// An address and port.
    Ip(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

impl Bound {
    /// The address and port; `None` at a socket file.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Bound::Ip(address) => Some(*address),
            Bound::Unix(_) => None,
        }
    }
}

impl Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Ip(address) => write!(f, "{address}"),
            Bound::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where a socket was connected to, or where it can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An address and port.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}
