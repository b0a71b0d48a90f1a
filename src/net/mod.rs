//! Connections to peers: dialling, listening, and the time limits of reading and writing. Frames are unknown here.

mod connection;
mod dial;
mod drain;
mod endpoint;
mod error;
mod idle_timer;
mod kernel_copy;
mod listen;
mod min_rate;
mod peer;
mod polling;
mod socket;
mod target;
mod timed_writer;

pub use connection::{Connection, Stream};
pub use dial::connect;
pub use drain::drain_and_close;
pub use endpoint::{BindTo, Bound, Endpoint};
pub use error::NetError;
pub use idle_timer::{FrameDeadline, IdleTimer};
pub use kernel_copy::{CopyStep, FileReceiver};
pub use listen::{Listener, reachable_addresses};
pub use min_rate::{MIN_RATE_BYTES_PER_S, MinRate};
pub use peer::Peer;
pub use polling::{POLL_INTERVAL, is_disconnect, is_timeout};
pub use socket::REFUSED;
pub use std::net::Shutdown;
pub use target::{AddressError, DEFAULT_PORT, HostPort, Target};
pub use timed_writer::{FLUSH_GRACE, TimedWriter};

#[cfg(test)]
#[allow(missing_docs)]
pub mod tests {
    use super::*;
    use std::io;
    use std::net::{Ipv4Addr, TcpListener};
    use std::os::unix::net::UnixStream;

    use socket2::Socket;
    use std::time::Duration;

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
}
