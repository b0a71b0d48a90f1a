//! Connections to peers: dialling, listening, and the time limits of reading and writing. Frames are unknown here.

mod connection;
mod dial;
mod drain;
mod idle_timer;
mod kernel_copy;
mod listen;
mod min_rate;
mod peer;
mod socket;
mod target;
mod timed_writer;

use std::io;
use std::time::Duration;

use crate::error_code::in_words;

pub use connection::{Connection, Stream};
pub use dial::connect;
pub use drain::drain_and_close;
pub use idle_timer::{FrameDeadline, IdleTimer};
pub use kernel_copy::{CopyStep, FileReceiver};
pub use listen::{BindTo, Bound, Listener, reachable_addresses};
pub use min_rate::{MIN_RATE_BYTES_PER_S, MinRate};
pub use peer::Peer;
pub use socket::Endpoint;
pub use std::net::Shutdown;
pub use target::{AddressError, DEFAULT_PORT, HostPort, Target};
pub use timed_writer::{FLUSH_GRACE, TimedWriter};

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

/// How often a blocked read returns, so that its caller can look at deadlines.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often a blocked write does.
const WRITE_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Whether a read or write ended only because its time was up.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Whether the peer closed or reset the connection.
pub fn is_disconnect(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}

#[cfg(test)]
#[allow(missing_docs)]
pub mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};
    use std::os::unix::net::UnixStream;

    use rustix::io::Errno;
    use socket2::Socket;

    use crate::sync::{CancelToken, Wake};
    use crate::sys::wake::Interest;
    use socket::SocketStream;

    /// The socket of a peer, and a connection to it.
    pub fn tcp_pair() -> (Socket, Connection) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = Endpoint::Tcp(listener.local_addr().unwrap());
        let token = CancelToken::new().unwrap();
        let connection = super::socket::connect(&at, Duration::from_secs(5), &token).unwrap();
        (listener.accept().unwrap().0.into(), connection)
    }

    /// The same over a Unix socket.
    pub fn unix_pair() -> (Socket, Connection) {
        pair_with(Peer::Unix { uid: 0, pid: 0 })
    }

    /// The socket of a peer, and a connection that takes it for `peer`.
    pub fn pair_with(peer: Peer) -> (Socket, Connection) {
        let (one, other) = UnixStream::pair().unwrap();
        (one.into(), Connection::new(SocketStream::accepted(other.into(), peer)))
    }

    /// A connection whose bytes the kernel cannot copy, as under TLS in user space.
    #[derive(Debug)]
    pub struct Opaque(pub Connection);

    impl Stream for Opaque {
        fn establish(&self) -> io::Result<()> {
            self.0.establish()
        }

        fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }

        fn write(&self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }

        fn wait(
            &self,
            interest: Interest,
            tokens: &[&CancelToken],
            limit: Option<Duration>,
        ) -> io::Result<Wake> {
            self.0.wait(interest, tokens, limit)
        }

        fn unread_bytes(&self) -> u64 {
            self.0.unread_bytes()
        }

        fn shutdown(&self, how: Shutdown) -> io::Result<()> {
            self.0.shutdown(how)
        }

        fn reset_on_close(&self) {
            self.0.reset_on_close();
        }

        fn peer(&self) -> &Peer {
            self.0.peer()
        }

        fn take_error(&self) -> Option<io::Error> {
            self.0.take_error()
        }

        fn open_another(&self, timeout: Duration, cancel: &CancelToken) -> io::Result<Connection> {
            self.0.open_another(timeout, cancel)
        }
    }

    #[test]
    fn only_the_end_that_dialled_can_open_another_connection() {
        let token = CancelToken::new().unwrap();
        let (_, accepted) = unix_pair();
        let error = accepted.open_another(Duration::from_secs(5), &token).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn a_shutdown_ends_the_read_of_another_thread() {
        for (_peer, connection) in [tcp_pair(), unix_pair()] {
            connection.establish().unwrap();
            let reading = connection.clone();
            let read = std::thread::spawn(move || reading.read(&mut [0]).unwrap());
            connection.shutdown(Shutdown::Both).unwrap();
            assert_eq!(read.join().unwrap(), 0);
        }
    }

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
