//! Addresses as they are typed: `HOST[:PORT]`, `unix:PATH`.

use std::fmt::{self, Display};
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

/// The port when none is given.
pub const DEFAULT_PORT: u16 = 7373;

/// Where a receiver is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A host in the network.
    Host(HostPort),
    /// A socket file of this machine.
    Unix(PathBuf),
}

impl From<HostPort> for Target {
    fn from(host: HostPort) -> Self {
        Target::Host(host)
    }
}

impl Target {
    /// The same with the port that applies, for messages.
    pub fn with_port(&self, default_port: u16) -> Target {
        match self {
            Target::Host(HostPort { host, port }) => {
                Target::Host(HostPort { host: host.clone(), port: Some(port.unwrap_or(default_port)) })
            }
            Target::Unix(path) => Target::Unix(path.clone()),
        }
    }

    /// The receiver without the port: for messages, and to tell one receiver from another.
    pub fn host(&self) -> String {
        match self {
            Target::Host(host) => host.host.clone(),
            Target::Unix(_) => self.to_string(),
        }
    }
}

/// The path in `unix:PATH`. A path has a slash, so that a host may be called `unix`.
pub fn unix_path(text: &str) -> Option<PathBuf> {
    text.strip_prefix("unix:").filter(|path| path.contains('/')).map(PathBuf::from)
}

impl FromStr for Target {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match unix_path(text) {
            Some(path) => Ok(Target::Unix(path)),
            None => text.parse().map(Target::Host),
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Host(host) => write!(f, "{host}"),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A host, by name or address, and the port if one was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port, if it was typed.
    pub port: Option<u16>,
}

/// Text that is not `HOST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing there.
    #[error("the host is empty")]
    NoHost,
    /// `[::1` or `[::1]x`.
    #[error("an IPv6 address with a port is written [ADDRESS]:PORT")]
    Brackets,
    /// Not 1..=65535.
    #[error(
        "\"{0}\" is not a port, 1 to 65535 (ftx has no remote folders: the receiver chooses where files land)"
    )]
    Port(String),
    /// `nas:`.
    #[error("there is no port behind the colon: leave the colon away")]
    NoPort,
    /// `user@host`.
    #[error("ftx needs no user name at the other end: write the host alone, \"{0}\"")]
    User(String),
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some((_, host)) = text.split_once('@') {
            return Err(AddressError::User(host.to_owned()));
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, after) = rest.split_once(']').ok_or(AddressError::Brackets)?;
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err(AddressError::Brackets),
            }
        } else if is_bare_ipv6(text) {
            (text, None)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        if host.is_empty() {
            return Err(AddressError::NoHost);
        }
        let port = port.map(parse_port).transpose()?;
        Ok(HostPort { host: host.to_owned(), port })
    }
}

fn is_bare_ipv6(text: &str) -> bool {
    text.split('%').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
}

fn parse_port(text: &str) -> Result<u16, AddressError> {
    if text.is_empty() {
        return Err(AddressError::NoPort);
    }
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| AddressError::Port(text.to_owned()))
}

impl Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) if self.host.contains(':') => write!(f, "[{}]:{port}", self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_people_type_them() {
        for (text, host, port) in [
            ("nas", "nas", None),
            ("nas:80", "nas", Some(80)),
            ("192.168.1.5:7400", "192.168.1.5", Some(7400)),
            ("::1", "::1", None),
            ("2001:db8::1", "2001:db8::1", None),
            ("fe80::1%eth0", "fe80::1%eth0", None),
            ("[::1]", "::1", None),
            ("[fe80::1%eth0]:9", "fe80::1%eth0", Some(9)),
        ] {
            assert_eq!(text.parse(), Ok(HostPort { host: host.into(), port }), "{text}");
        }
        assert_eq!("[::1]:80".parse::<HostPort>().unwrap().to_string(), "[::1]:80");
    }

    #[test]
    fn a_unix_socket_is_a_path_with_a_slash() {
        for path in ["/run/ftx.sock", "./a", "../a b"] {
            assert_eq!(format!("unix:{path}").parse(), Ok(Target::Unix(path.into())));
        }
        let host = HostPort { host: "unix".into(), port: Some(7373) };
        assert_eq!("unix:7373".parse(), Ok(Target::Host(host)));
        assert!("unix:name".parse::<Target>().is_err());
        assert_eq!("unix:/run/ftx.sock".parse::<Target>().unwrap().to_string(), "unix:/run/ftx.sock");
    }

    #[test]
    fn invalid_hosts_are_explained() {
        assert_eq!("".parse::<HostPort>(), Err(AddressError::NoHost));
        assert_eq!(":80".parse::<HostPort>(), Err(AddressError::NoHost));
        assert_eq!("[::1".parse::<HostPort>(), Err(AddressError::Brackets));
        assert_eq!("[::1]80".parse::<HostPort>(), Err(AddressError::Brackets));
        assert_eq!("bob@nas".parse::<HostPort>(), Err(AddressError::User("nas".into())));
        for colon in ["nas:", "[::1]:"] {
            assert_eq!(colon.parse::<HostPort>(), Err(AddressError::NoPort));
        }
        for bad in ["nas:0", "nas:65536", "nas:/home/bob", "nas:-1"] {
            assert!(matches!(bad.parse::<HostPort>(), Err(AddressError::Port(_))), "{bad}");
        }
    }
}
