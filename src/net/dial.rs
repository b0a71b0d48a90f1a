//! Connecting: every address of the host, with a time limit each, again if the door is still closed.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::{HostPort, NetError};
use crate::sync::{CancelToken, Wake};

/// The pause before the first retry; it doubles each time.
const FIRST_DELAY: Duration = Duration::from_millis(500);
const MAX_DELAY: Duration = Duration::from_secs(8);

/// Connects to the first address of `target` that takes the connection, each within `timeout`. If all of them refuse,
/// waits and tries again, up to `retries` times; `on_retry` hears of each pause. Ends with an error as soon as
/// `interrupt` is rung.
pub fn connect(
    target: &HostPort,
    default_port: u16,
    timeout: Duration,
    retries: u32,
    cancel: &CancelToken,
    mut on_retry: impl FnMut(Duration),
) -> Result<TcpStream, NetError> {
    let addresses = resolve(target, default_port, cancel)?;
    let mut pause = FIRST_DELAY;
    for retries_left in (0..=retries).rev() {
        let attempts = match try_all(&addresses, timeout, cancel) {
            Ok(stream) => return Ok(stream),
            Err(attempts) => attempts,
        };
        let refused = attempts.iter().any(|(_, error)| error.kind() == io::ErrorKind::ConnectionRefused);
        if retries_left == 0 || !refused || cancel.is_cancelled() {
            let port = Some(target.port.unwrap_or(default_port));
            let target = HostPort { host: target.host.clone(), port }.to_string();
            return Err(NetError::Connect { target, attempts });
        }
        on_retry(pause);
        // Rung, the next round finds out at once. Nothing else can go wrong with waiting for nothing.
        let _ = cancel.wait(None, Some(pause));
        pause = (pause * 2).min(MAX_DELAY);
    }
    unreachable!("the last round returns")
}

/// The addresses of a host. A resolver can take long, and nothing ends it: it has a thread of its own, on which nobody
/// waits any more once the bell is rung.
fn resolve(target: &HostPort, default_port: u16, cancel: &CancelToken) -> Result<Vec<SocketAddr>, NetError> {
    if target.host.parse::<IpAddr>().is_ok() {
        return target.resolve(default_port);
    }
    let failed = |source| NetError::Resolve { host: target.host.clone(), source };
    let (done, asked) = (CancelToken::new().map_err(failed)?, target.clone());
    let (answer, answered) = mpsc::channel();
    let ready = done.clone();
    let thread = thread::Builder::new().name("resolver".into()).spawn(move || {
        let _ = answer.send(asked.resolve(default_port));
        ready.cancel();
    });
    thread.map_err(failed)?;
    while !cancel.is_cancelled() {
        if done.is_cancelled() {
            return answered.recv().unwrap_or_else(|_| Err(failed(io::ErrorKind::Other.into())));
        }
        cancel.wait_either(&done, None, None).map_err(failed)?;
    }
    Err(failed(io::ErrorKind::Interrupted.into()))
}

fn try_all(
    addresses: &[SocketAddr],
    timeout: Duration,
    cancel: &CancelToken,
) -> Result<TcpStream, Vec<(SocketAddr, io::Error)>> {
    let mut attempts = Vec::new();
    for address in addresses {
        match connect_to(*address, timeout, cancel) {
            Ok(stream) => return Ok(stream),
            Err(error) => attempts.push((*address, error)),
        }
    }
    Err(attempts)
}

/// Connects to one address within `timeout`.
///
/// # Errors
///
/// `TimedOut`; `Interrupted` once the bell is rung; what the system says.
pub fn connect_to(address: SocketAddr, timeout: Duration, cancel: &CancelToken) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INPROGRESS) => {}
        Err(error) => return Err(error),
        Ok(()) => {}
    }
    let start = Instant::now();
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        match cancel.wait_writable(socket.as_fd(), left)? {
            Wake::Cancelled => return Err(io::ErrorKind::Interrupted.into()),
            Wake::Ready => break,
            Wake::TimedOut if start.elapsed() >= timeout => return Err(io::ErrorKind::TimedOut.into()),
            Wake::TimedOut => {}
        }
    }
    match socket.take_error()? {
        Some(error) => Err(error),
        None => {
            socket.set_nonblocking(false)?;
            Ok(socket.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A port on which nobody listens: bound and let go.
    fn closed_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn a_refused_connection_is_tried_again_as_often_as_asked() {
        let target = HostPort { host: "127.0.0.1".into(), port: Some(closed_port()) };
        let mut pauses = Vec::new();
        let token = CancelToken::new().unwrap();
        let five = Duration::from_secs(5);
        let error = connect(&target, 1, five, 1, &token, |pause| pauses.push(pause)).unwrap_err();
        assert_eq!(pauses, [FIRST_DELAY]);
        assert!(matches!(error, NetError::Connect { attempts, .. } if attempts.len() == 1));
    }

    #[test]
    fn the_next_address_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let closed = SocketAddr::from(([127, 0, 0, 1], closed_port()));
        let connected = try_all(&[closed, open], Duration::from_secs(5), &CancelToken::new().unwrap());
        assert_eq!(connected.unwrap().peer_addr().unwrap(), open);
    }

    #[test]
    fn a_name_that_does_not_exist_is_told() {
        let target = HostPort { host: "no-such-host.invalid".into(), port: None };
        let error =
            connect(&target, 1, Duration::from_secs(5), 5, &CancelToken::new().unwrap(), |_| {}).unwrap_err();
        assert!(matches!(error, NetError::Resolve { .. }));
    }

    #[test]
    fn nobody_waits_once_the_bell_is_rung() {
        let token = CancelToken::new().unwrap();
        token.cancel();
        let long = Duration::from_secs(600);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let refused = connect_to(listener.local_addr().unwrap(), long, &token).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::Interrupted);
        for host in ["127.0.0.1", "localhost"] {
            let target = HostPort { host: host.into(), port: Some(closed_port()) };
            assert!(connect(&target, 1, long, 1000, &token, |_| panic!("tries again")).is_err());
        }
    }
}
