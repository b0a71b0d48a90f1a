//! Failures of dialling and listening.

use std::io;

use super::endpoint::{Bound, Endpoint};
use crate::error_code::in_words;

/// A failure of the network, with where it happened.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The host's name has no address.
    #[error("cannot find the host {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver reports.
        source: io::Error,
    },
    /// No address of the host accepted the connection.
    #[error("cannot connect to {target}: {}", describe_attempts(attempts))]
    Connect {
        /// The host and port.
        target: String,
        /// Each address that was tried in the last round, and its error.
        attempts: Vec<(Endpoint, io::Error)>,
    },
    /// The port could not be opened.
    #[error("{}", cannot_listen(at, source))]
    Bind {
        /// The address and port, or the socket file.
        at: Bound,
        /// What the system reports.
        source: io::Error,
    },
}

fn cannot_listen(at: &Bound, error: &io::Error) -> String {
    match at {
        Bound::Ip(address) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            format!("this machine has no address {}", address.ip())
        }
        _ => format!("cannot listen on {at}: {}", in_words(error)),
    }
}

/// The errors of all attempts; an error that is the same for all of them appears once.
fn describe_attempts(attempts: &[(Endpoint, io::Error)]) -> String {
    let mut reasons = attempts.iter().map(|(_, error)| in_words(error));
    match reasons.next() {
        None => "it has no address".into(),
        Some(first) if reasons.all(|reason| reason == first) => first,
        Some(_) => {
            let each = attempts.iter().map(|(endpoint, error)| match endpoint {
                Endpoint::Tcp(address) => format!("{}: {}", address.ip(), in_words(error)),
                Endpoint::Unix(_) => in_words(error),
            });
            each.collect::<Vec<_>>().join("; ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    use rustix::io::Errno;

    #[test]
    fn errors_are_reported_once_and_in_plain_text() {
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        let connect = |attempts: &[(&str, Errno)]| NetError::Connect {
            target: "nas:7373".into(),
            attempts: attempts.iter().map(|(at, errno)| (Endpoint::Tcp(addr(at)), (*errno).into())).collect(),
        };
        let (four, six) = ("10.0.0.5:7373", "[2001:db8::5]:7373");
        for (error, text) in [
            (
                connect(&[(six, Errno::CONNREFUSED), (four, Errno::CONNREFUSED)]),
                "cannot connect to nas:7373: connection refused",
            ),
            (
                connect(&[(six, Errno::NETUNREACH), (four, Errno::CONNREFUSED)]),
                "cannot connect to nas:7373: 2001:db8::5: network is unreachable; 10.0.0.5: connection refused",
            ),
            (
                NetError::Bind { at: Bound::Ip(addr("10.0.0.5:80")), source: Errno::ACCESS.into() },
                "cannot listen on 10.0.0.5:80: permission denied",
            ),
            (
                NetError::Bind { at: Bound::Ip(addr("10.9.9.9:0")), source: Errno::ADDRNOTAVAIL.into() },
                "this machine has no address 10.9.9.9",
            ),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }
}
