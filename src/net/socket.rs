//! Connections over sockets of the kernel: TCP and Unix.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use super::connection::{Connection, Stream};
use super::endpoint::Endpoint;
use super::peer::Peer;
use super::polling::{POLL_INTERVAL, WRITE_POLL_INTERVAL};
use crate::sync::{CancelToken, Wake};
use crate::sys::wake::Interest;
use crate::sys::{AsHandle as _, BorrowedHandle, socket};

/// What a receiver sends over a Unix socket where it would reset a TCP connection (ASCII NAK).
pub const REFUSED: u8 = 0x15;

/// A connected socket.
#[derive(Debug)]
pub struct SocketStream {
    socket: Socket,
    peer: Peer,
    /// Where this end dialled; `None` at the end that accepted.
    dialled: Option<Endpoint>,
}

impl SocketStream {
    /// An accepted socket.
    pub fn accepted(socket: Socket, peer: Peer) -> Self {
        SocketStream { socket, peer, dialled: None }
    }

    fn is_tcp(&self) -> bool {
        matches!(self.peer, Peer::Ip(_))
    }
}

/// Connects within `timeout`.
///
/// # Errors
///
/// `TimedOut`; `Interrupted` once `cancel` is cancelled; what the system reports.
pub fn connect(endpoint: &Endpoint, timeout: Duration, cancel: &CancelToken) -> io::Result<Connection> {
    let (socket, address) = match endpoint {
        Endpoint::Tcp(address) => {
            let protocol = Some(Protocol::TCP);
            (Socket::new(Domain::for_address(*address), Type::STREAM, protocol)?, (*address).into())
        }
        Endpoint::Unix(path) => (Socket::new(Domain::UNIX, Type::STREAM, None)?, unix_address(path)?),
    };
    socket.set_nonblocking(true)?;
    match socket.connect(&address) {
        Err(error) if socket::is_connecting(&error) => wait_connected(&socket, timeout, cancel)?,
        connected => connected?,
    }
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    socket.set_nonblocking(false)?;
    let peer = match endpoint {
        Endpoint::Tcp(address) => Peer::Ip(*address),
        Endpoint::Unix(_) => unix_peer(&socket)?,
    };
    Ok(Connection::new(SocketStream { socket, peer, dialled: Some(endpoint.clone()) }))
}

fn wait_connected(socket: &Socket, timeout: Duration, cancel: &CancelToken) -> io::Result<()> {
    let start = Instant::now();
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        let writable = Some((socket.as_fd(), Interest::Writable));
        match CancelToken::wait_any(&[cancel], writable, Some(left))? {
            Wake::Cancelled => return Err(io::ErrorKind::Interrupted.into()),
            Wake::Ready => return Ok(()),
            Wake::TimedOut if start.elapsed() >= timeout => return Err(io::ErrorKind::TimedOut.into()),
            Wake::TimedOut => {}
        }
    }
}

/// The address of a socket file.
///
/// # Errors
///
/// The path is longer than the system's limit (107 bytes on Linux).
pub fn unix_address(path: &Path) -> io::Result<SockAddr> {
    SockAddr::unix(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path of a Unix socket has at most 107 bytes: use a shorter one",
        ),
        _ => error,
    })
}

/// The process at the other end of a connected Unix socket.
pub fn unix_peer(socket: &Socket) -> io::Result<Peer> {
    let (uid, pid) = socket::peer_credentials(socket)?;
    Ok(Peer::Unix { uid, pid })
}

impl Stream for SocketStream {
    /// No delay for small frames, notice of a peer that is gone, and reads and writes that return now and then.
    fn establish(&self) -> io::Result<()> {
        self.socket.set_read_timeout(Some(POLL_INTERVAL))?;
        self.socket.set_write_timeout(Some(WRITE_POLL_INTERVAL))?;
        if !self.is_tcp() {
            return Ok(());
        }
        self.socket.set_tcp_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(15))
            .with_interval(Duration::from_secs(5))
            .with_retries(4);
        self.socket.set_tcp_keepalive(&keepalive)
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.socket).read(buffer)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        (&self.socket).write(bytes)
    }

    fn wait(&self, interest: Interest, tokens: &[&CancelToken], limit: Option<Duration>) -> io::Result<Wake> {
        CancelToken::wait_any(tokens, Some((self.socket.as_fd(), interest)), limit)
    }

    fn unread_bytes(&self) -> u64 {
        socket::unread_bytes(&self.socket)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
    }

    /// A Unix socket has no reset: a byte that the classic dialect does not have, [`REFUSED`], takes its place.
    fn reset_on_close(&self) {
        let _ = match self.is_tcp() {
            true => self.socket.set_linger(Some(Duration::ZERO)),
            false => (&self.socket).write(&[REFUSED]).map(drop),
        };
    }

    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn take_error(&self) -> Option<io::Error> {
        self.socket.take_error().ok().flatten()
    }

    fn open_another(&self, timeout: Duration, cancel: &CancelToken) -> io::Result<Connection> {
        match &self.dialled {
            Some(endpoint) => connect(endpoint, timeout, cancel),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn kernel_socket(&self) -> Option<BorrowedHandle<'_>> {
        Some(self.socket.as_fd())
    }
}
