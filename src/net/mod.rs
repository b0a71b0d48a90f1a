//! Sockets: names to addresses, connecting, listening. No frames are known here.

mod dial;
mod listen;
mod min_rate;
mod splice_pipe;
mod target;
mod timed_writer;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::error_code::in_words;

pub use dial::{connect, connect_to};
pub use listen::{Listener, reachable_addresses};
pub use min_rate::{MIN_RATE_BYTES_PER_S, MinRate};
pub use splice_pipe::{SplicePipe, SpliceStep};
pub use target::{AddressError, DEFAULT_PORT, HostPort};
pub use timed_writer::{FLUSH_GRACE, FrameDeadline, IdleTimer, TimedWriter, drain_and_close};

/// A failure of the network, with where it happened.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The host's name has no address.
    #[error("cannot find the host {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No address of the host took the connection.
    #[error("cannot connect to {target}: {}", describe_attempts(attempts))]
    Connect {
        /// The host and port.
        target: String,
        /// Each address that was tried last, and what became of it.
        attempts: Vec<(SocketAddr, io::Error)>,
    },
    /// The port could not be opened.
    #[error("{}", cannot_listen(*addr, source))]
    Bind {
        /// The address and port.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

fn cannot_listen(addr: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => format!("this machine has no address {}", addr.ip()),
        _ => format!("cannot listen on {addr}: {}", in_words(error)),
    }
}

/// All that several addresses have in common is said once.
fn describe_attempts(attempts: &[(SocketAddr, io::Error)]) -> String {
    let mut words = attempts.iter().map(|(_, error)| in_words(error));
    match words.next() {
        None => "it has no address".into(),
        Some(first) if words.all(|word| word == first) => first,
        Some(_) => {
            let each = attempts.iter().map(|(addr, error)| format!("{}: {}", addr.ip(), in_words(error)));
            each.collect::<Vec<_>>().join("; ")
        }
    }
}

/// How often a blocked read looks up to see whether anything else happened.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often a blocked write does.
const WRITE_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What both ends want of a connection: no waiting for small frames, and notice of a peer that is gone for good.
/// Blocked reads look up every [`TICK`], and writes more often, with an error for which [`is_timeout`] holds.
pub fn configure(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(POLL_INTERVAL))?;
    stream.set_write_timeout(Some(WRITE_POLL_INTERVAL))?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(4);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Makes closing the connection a reset, which the peer cannot take for a clean end.
pub fn reset_on_close(stream: &TcpStream) {
    // Without it the end is a clean one, which is no worse than it was.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Did a read or write end only because its time was up?
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Did the peer close or reset the connection?
pub fn is_disconnect(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn what_failed_is_told_in_words_and_once() {
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        let connect = |attempts: &[(&str, Errno)]| NetError::Connect {
            target: "nas:7373".into(),
            attempts: attempts.iter().map(|(at, errno)| (addr(at), (*errno).into())).collect(),
        };
        let (four, six) = ("10.0.0.5:7373", "[2001:db8::5]:7373");
        for (error, words) in [
            (
                connect(&[(six, Errno::CONNREFUSED), (four, Errno::CONNREFUSED)]),
                "cannot connect to nas:7373: connection refused",
            ),
            (
                connect(&[(six, Errno::NETUNREACH), (four, Errno::CONNREFUSED)]),
                "cannot connect to nas:7373: 2001:db8::5: network is unreachable; 10.0.0.5: connection refused",
            ),
            (
                NetError::Bind { addr: addr("10.0.0.5:80"), source: Errno::ACCESS.into() },
                "cannot listen on 10.0.0.5:80: permission denied",
            ),
            (
                NetError::Bind { addr: addr("10.9.9.9:0"), source: Errno::ADDRNOTAVAIL.into() },
                "this machine has no address 10.9.9.9",
            ),
        ] {
            assert_eq!(error.to_string(), words);
        }
    }
}
