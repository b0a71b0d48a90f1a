//! Listening: IPv6 and IPv4 on one port, and a way to stop waiting.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::NetError;

/// Connections that the system keeps for us while we are busy.
const BACKLOG: i32 = 128;
/// How long to wait when the system has no descriptors for another connection.
const PAUSE_WITHOUT_DESCRIPTORS: Duration = Duration::from_millis(200);

/// An open port.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    stop: Arc<OwnedFd>,
}

/// Ends a [`Listener::accept`] from another thread.
#[derive(Clone, Debug)]
pub struct StopHandle(Arc<OwnedFd>);

impl StopHandle {
    /// Makes the current and every later `accept` return `None`.
    pub fn stop(&self) {
        // Eight bytes in the machine's own order; an eventfd with room for 2^64 - 2 takes a 1.
        #[allow(clippy::host_endian_bytes)]
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl Listener {
    /// Opens `port` (0: any that is free) on `address`, or without one on all addresses of both families.
    pub fn bind(address: Option<IpAddr>, port: u16) -> Result<Self, NetError> {
        let socket = match address {
            Some(address) => listen((address, port).into())?,
            None => match listen((Ipv6Addr::UNSPECIFIED, port).into()) {
                Ok(socket) => socket,
                // A machine without IPv6.
                Err(NetError::Bind { source, .. }) if source.kind() != io::ErrorKind::AddrInUse => {
                    listen((Ipv4Addr::UNSPECIFIED, port).into())?
                }
                Err(error) => return Err(error),
            },
        };
        let bind = |source| NetError::Bind { addr: (Ipv6Addr::UNSPECIFIED, port).into(), source };
        let stop =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|errno| bind(errno.into()))?;
        Ok(Listener { socket, stop: Arc::new(stop) })
    }

    /// The address and the port really chosen.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// What stops this listener.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(Arc::clone(&self.stop))
    }

    /// The next connection; `None` once [`StopHandle::stop`] was called.
    pub fn accept(&self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        loop {
            if self.wait_or_stop(true, None)? {
                return Ok(None);
            }
            match self.socket.accept() {
                Ok((stream, peer)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(Some((stream, unmapped(peer))));
                }
                Err(error) if is_transient(&error) => {}
                Err(error) if is_exhausted(&error) => {
                    // The connection stays in the backlog: come back when somebody has finished.
                    if self.wait_or_stop(false, Some(PAUSE_WITHOUT_DESCRIPTORS))? {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for a connection (if `for_connection`), the stop, or the time limit; tells whether it was the stop.
    fn wait_or_stop(&self, for_connection: bool, limit: Option<Duration>) -> io::Result<bool> {
        let limit = limit.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        let mut fds = vec![PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN)];
        if for_connection {
            fds.push(PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN));
        }
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) => Ok(!fds[0].revents().is_empty()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Whoever connected went away again before we looked.
fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock)
}

fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

fn listen(addr: SocketAddr) -> Result<TcpListener, NetError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        if addr.is_ipv6() {
            // `::` takes IPv4 as well; a named IPv6 address is just that.
            socket.set_only_v6(addr.ip() != Ipv6Addr::UNSPECIFIED)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    open().map_err(|source| NetError::Bind { addr, source })
}

/// IPv4 peers of a dual-stack socket, as people know them.
fn unmapped(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
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
    use std::thread;

    #[test]
    fn one_port_takes_both_families() {
        let listener = Listener::bind(None, 0).unwrap();
        let bound = listener.local_addr().unwrap();
        assert_ne!(bound.port(), 0);
        let _four = TcpStream::connect(("127.0.0.1", bound.port())).unwrap();
        let (_, peer) = listener.accept().unwrap().unwrap();
        assert!(peer.is_ipv4(), "shown as IPv4: {peer}");
        if bound.is_ipv6() {
            let _six = TcpStream::connect(("::1", bound.port())).unwrap();
            assert!(listener.accept().unwrap().unwrap().1.is_ipv6());
        }
    }

    #[test]
    fn a_port_in_use_is_told() {
        let first = Listener::bind(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        let port = first.local_addr().unwrap().port();
        assert!(matches!(Listener::bind(Some(Ipv4Addr::LOCALHOST.into()), port), Err(NetError::Bind { .. })));
    }

    #[test]
    fn waiting_can_be_stopped() {
        let listener = Listener::bind(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        let stop = listener.stop_handle();
        let waiting = thread::spawn(move || listener.accept().unwrap().is_none());
        stop.stop();
        assert!(waiting.join().unwrap());
    }
}
