//! Listening: IPv6 and IPv4 on one port, or a Unix socket; and a way to stop waiting.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::connection::Connection;
use super::endpoint::{BindTo, Bound};
use super::error::NetError;
use super::peer::Peer;
use super::socket::{SocketStream, unix_address, unix_peer};
use crate::sync::{CancelToken, Wake};
use crate::sys::wake::Interest;
use crate::sys::{AsHandle as _, socket};

/// Connections that the system queues until they are accepted.
const BACKLOG: i32 = 1024;
/// How long to wait when the system has no descriptors for another connection.
const PAUSE_WITHOUT_DESCRIPTORS: Duration = Duration::from_millis(200);

/// An open port or socket file.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    bound: Bound,
    stop: CancelToken,
    /// Removed when the listener is dropped.
    _file: Option<SocketFile>,
}

impl Listener {
    /// Listens at `bind_to`, or without it on all addresses of both families; `port` 0 takes any that is free.
    ///
    /// # Errors
    ///
    /// The port or the socket file is in use, is not permitted, or is no address of this machine.
    pub fn bind(bind_to: Option<&BindTo>, port: u16) -> Result<Self, NetError> {
        let (socket, bound, file) = match bind_to {
            Some(BindTo::Unix(path)) => {
                let failed = |source| NetError::Bind { at: Bound::Unix(path.clone()), source };
                let (socket, file) = listen_unix(path).map_err(failed)?;
                (socket, Bound::Unix(path.clone()), Some(file))
            }
            Some(BindTo::Ip(address)) => {
                let (socket, address) = listen_tcp((*address, port).into())?;
                (socket, Bound::Ip(address), None)
            }
            None => {
                let (socket, address) = match listen_tcp((Ipv6Addr::UNSPECIFIED, port).into()) {
                    // A machine without IPv6.
                    Err(NetError::Bind { source, .. }) if source.kind() != io::ErrorKind::AddrInUse => {
                        listen_tcp((Ipv4Addr::UNSPECIFIED, port).into())?
                    }
                    opened => opened?,
                };
                (socket, Bound::Ip(address), None)
            }
        };
        let stop = CancelToken::new().map_err(|source| NetError::Bind { at: bound.clone(), source })?;
        Ok(Listener { socket, bound, stop, _file: file })
    }

    /// Where it listens, with the port really chosen.
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Cancelled, it stops this listener.
    pub fn stop(&self) -> CancelToken {
        self.stop.clone()
    }

    /// The next connection, not established yet; `None` once [`Listener::stop`] is cancelled. Where the system has no
    /// descriptors for it, calls `exhausted`, which may close some, and tries again.
    pub fn accept(&self, mut exhausted: impl FnMut()) -> io::Result<Option<Connection>> {
        loop {
            let readable = Some((self.socket.as_fd(), Interest::Readable));
            if CancelToken::wait_any(&[&self.stop], readable, None)? == Wake::Cancelled {
                return Ok(None);
            }
            match self.socket.accept() {
                // A failure here is one of the connection, which is closed.
                Ok((socket, address)) => {
                    if let Ok(stream) = accepted(socket, address.as_socket()) {
                        return Ok(Some(Connection::new(stream)));
                    }
                }
                Err(error) if socket::is_of_accepted(&error) => {}
                Err(error) if socket::is_exhausted(&error) => {
                    // The connection stays in the backlog until there are descriptors.
                    exhausted();
                    if self.stop.wait(Some(PAUSE_WITHOUT_DESCRIPTORS))? == Wake::Cancelled {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn accepted(socket: Socket, address: Option<SocketAddr>) -> io::Result<SocketStream> {
    socket.set_nonblocking(false)?;
    let peer = match address {
        // IPv4 peers of a dual-stack socket in their own notation.
        Some(address) => Peer::Ip(SocketAddr::new(address.ip().to_canonical(), address.port())),
        None => unix_peer(&socket)?,
    };
    Ok(SocketStream::accepted(socket, peer))
}

fn listen_tcp(address: SocketAddr) -> Result<(Socket, SocketAddr), NetError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            // `::` takes IPv4 as well; another IPv6 address is just that.
            socket.set_only_v6(address.ip() != Ipv6Addr::UNSPECIFIED)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let bound = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        Ok((socket, bound))
    };
    open().map_err(|source| NetError::Bind { at: Bound::Ip(address), source })
}

/// Makes a socket file that only its owner can connect to. One that a receiver left behind when it was killed is replaced;
/// one that a receiver listens at, or another kind of file, is not.
fn listen_unix(path: &Path) -> io::Result<(Socket, SocketFile)> {
    let address = unix_address(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket::make_private(&socket)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path)? => {
            std::fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    // At once: until then the file looks abandoned to another receiver.
    socket.listen(BACKLOG)?;
    let file = SocketFile { path: std::path::absolute(path)?, identity: socket::socket_file(path)? };
    socket.set_nonblocking(true)?;
    Ok((socket, file))
}

/// Whether a socket file exists at which nothing listens.
fn is_abandoned(path: &Path) -> io::Result<bool> {
    if socket::socket_file(path)?.is_none() {
        return Ok(false);
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    let connected = probe.connect(&unix_address(path)?);
    Ok(connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

/// A socket file of this process.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: Option<(u64, u64)>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Unless another receiver has made one of that name since.
        if self.identity.is_some() && socket::socket_file(&self.path).ok().flatten() == self.identity {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The addresses under which other machines may reach a listener at `bound`; best guesses first.
pub fn reachable_addresses(bound: IpAddr) -> Vec<IpAddr> {
    if !bound.is_unspecified() {
        return vec![bound];
    }
    let mut addresses: Vec<IpAddr> = if_addrs::get_if_addrs()
        .unwrap_or_default()
        .into_iter()
        .filter(|interface| !interface.is_loopback() && !interface.is_link_local())
        .map(|interface| interface.ip())
        .filter(|address| bound.is_ipv6() || address.is_ipv4())
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::thread;

    fn port_of(listener: &Listener) -> u16 {
        match listener.bound() {
            Bound::Ip(address) => address.port(),
            Bound::Unix(_) => panic!("a port"),
        }
    }

    const LOCALHOST: BindTo = BindTo::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST));

    #[test]
    fn one_port_serves_both_families() {
        let listener = Listener::bind(None, 0).unwrap();
        let port = port_of(&listener);
        assert_ne!(port, 0);
        let peer = || match listener.accept(|| ()).unwrap().unwrap().peer() {
            Peer::Ip(address) => *address,
            peer @ Peer::Unix { .. } => panic!("{peer}"),
        };
        let _four = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let four = peer();
        assert!(four.is_ipv4(), "shown as IPv4: {four}");
        if matches!(listener.bound(), Bound::Ip(address) if address.is_ipv6()) {
            let _six = TcpStream::connect(("::1", port)).unwrap();
            assert!(peer().is_ipv6());
        }
    }

    #[test]
    fn a_port_in_use_is_an_error() {
        let first = Listener::bind(Some(&LOCALHOST), 0).unwrap();
        assert!(matches!(Listener::bind(Some(&LOCALHOST), port_of(&first)), Err(NetError::Bind { .. })));
    }

    #[test]
    fn waiting_can_be_stopped() {
        let listener = Listener::bind(Some(&LOCALHOST), 0).unwrap();
        let stop = listener.stop();
        let waiting = thread::spawn(move || listener.accept(|| ()).unwrap().is_none());
        stop.cancel();
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn a_socket_file_is_private_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = Listener::bind(Some(&BindTo::Unix(path.clone())), 0).unwrap();
        assert_eq!(std::fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let _peer = UnixStream::connect(&path).unwrap();
        let peer = listener.accept(|| ()).unwrap().unwrap().peer().clone();
        let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&path).unwrap());
        assert_eq!(peer, Peer::Unix { uid: own, pid: std::process::id() });
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn only_an_abandoned_socket_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let bind = || Listener::bind(Some(&BindTo::Unix(path.clone())), 0);
        let first = bind().unwrap();
        assert!(bind().is_err(), "a receiver listens there");
        drop(first);
        drop(UnixListener::bind(&path).unwrap());
        let second = bind().unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "a file").unwrap();
        assert!(bind().is_err(), "another kind of file");
        drop(second);
        assert!(path.exists(), "a file of another program stays");
        let long = dir.path().join("x".repeat(200));
        let error = Listener::bind(Some(&BindTo::Unix(long)), 0).unwrap_err();
        assert!(error.to_string().contains("107 bytes"), "{error}");
    }
}
