//! Listening: IPv6 and IPv4 on one port, and a way to stop waiting.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::NetError;
use crate::sync::{CancelToken, Wake};

/// Connections that the system keeps for us while we are busy.
const BACKLOG: i32 = 1024;
/// How long to wait when the system has no descriptors for another connection.
const PAUSE_WITHOUT_DESCRIPTORS: Duration = Duration::from_millis(200);

/// An open port.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    stop: CancelToken,
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
        Ok(Listener { socket, stop: CancelToken::new().map_err(bind)? })
    }

    /// The address and the port really chosen.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Rung, it stops this listener.
    pub fn stop(&self) -> CancelToken {
        self.stop.clone()
    }

    /// The next connection; `None` once [`Listener::stop`] was rung. Where the system has no descriptors for it,
    /// `exhausted` may let go of some before it is tried again.
    pub fn accept(&self, mut exhausted: impl FnMut()) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        loop {
            if self.stop.wait(Some(self.socket.as_fd()), None)? == Wake::Cancelled {
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
                    exhausted();
                    if self.stop.wait(None, Some(PAUSE_WITHOUT_DESCRIPTORS))? == Wake::Cancelled {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whoever connected went away again before we looked, or cannot be reached: accept(2) hands on what happened to the
/// connection, and a listener that took it for its own failure would stop serving everybody else.
fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, TimedOut, WouldBlock};
    use rustix::io::Errno;
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | TimedOut | WouldBlock)
        || matches!(
            Errno::from_io_error(error),
            Some(
                Errno::NETDOWN
                    | Errno::PROTO
                    | Errno::NOPROTOOPT
                    | Errno::HOSTDOWN
                    | Errno::NONET
                    | Errno::HOSTUNREACH
                    | Errno::OPNOTSUPP
                    | Errno::NETUNREACH
                    // A firewall's word.
                    | Errno::PERM
            )
        )
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
    fn what_happened_to_a_connection_does_not_end_the_listener() {
        use rustix::io::Errno;
        for errno in [Errno::CONNABORTED, Errno::PROTO, Errno::HOSTUNREACH, Errno::NETDOWN, Errno::PERM] {
            assert!(is_transient(&errno.into()), "{errno}");
        }
        for errno in [Errno::BADF, Errno::INVAL, Errno::MFILE] {
            assert!(!is_transient(&errno.into()), "{errno}");
        }
    }

    #[test]
    fn one_port_takes_both_families() {
        let listener = Listener::bind(None, 0).unwrap();
        let bound = listener.local_addr().unwrap();
        assert_ne!(bound.port(), 0);
        let _four = TcpStream::connect(("127.0.0.1", bound.port())).unwrap();
        let (_, peer) = listener.accept(|| ()).unwrap().unwrap();
        assert!(peer.is_ipv4(), "shown as IPv4: {peer}");
        if bound.is_ipv6() {
            let _six = TcpStream::connect(("::1", bound.port())).unwrap();
            assert!(listener.accept(|| ()).unwrap().unwrap().1.is_ipv6());
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
        let stop = listener.stop();
        let waiting = thread::spawn(move || listener.accept(|| ()).unwrap().is_none());
        stop.cancel();
        assert!(waiting.join().unwrap());
    }
}
