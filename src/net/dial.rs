//! Dialling: every address of the host, with a time limit each, again while the connection is refused.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::connection::Connection;
use super::endpoint::Endpoint;
use super::error::NetError;
use super::socket;
use super::target::{HostPort, Target};
use crate::sync::{Backoff, CancelToken};

/// Connects to the first address of `target` that accepts, each within `timeout`. If all of them refuse, waits and tries
/// again, up to `retries` times; calls `on_retry` before each pause. Ends with an error as soon as `cancel` is cancelled.
pub fn connect(
    target: &Target,
    default_port: u16,
    timeout: Duration,
    retries: u32,
    cancel: &CancelToken,
    mut on_retry: impl FnMut(Duration),
) -> Result<Connection, NetError> {
    let endpoints = match target {
        Target::Host(host) => {
            let addresses = resolve(host, default_port, cancel)?;
            addresses.into_iter().map(Endpoint::Tcp).collect()
        }
        Target::Unix(path) => vec![Endpoint::Unix(path.clone())],
    };
    let mut backoff = Backoff::new(retries);
    loop {
        let attempts = match try_all(&endpoints, timeout, cancel) {
            Ok(connection) => return Ok(connection),
            Err(attempts) => attempts,
        };
        let refused = attempts.iter().any(|(_, error)| is_refused(error));
        match backoff.next_pause().filter(|_| refused && !cancel.is_cancelled()) {
            Some(pause) => {
                on_retry(pause);
                // After cancellation the next round fails at once; there is nothing else to report.
                let _ = cancel.wait(Some(pause));
            }
            None => {
                return Err(NetError::Connect {
                    target: target.with_port(default_port).to_string(),
                    attempts,
                });
            }
        }
    }
}

/// Whether a later attempt can succeed: the port is closed, the socket file is not there yet, or its queue is full.
fn is_refused(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound, WouldBlock};
    matches!(error.kind(), ConnectionRefused | NotFound | WouldBlock)
}

/// The addresses of a host. A resolver can take long and cannot be interrupted, so it runs on a thread of its own, which is
/// abandoned on cancellation.
fn resolve(target: &HostPort, default_port: u16, cancel: &CancelToken) -> Result<Vec<SocketAddr>, NetError> {
    if target.host.parse::<IpAddr>().is_ok() {
        return look_up(target, default_port);
    }
    let failed = |source| NetError::Resolve { host: target.host.clone(), source };
    let (done, asked) = (CancelToken::new().map_err(failed)?, target.clone());
    let (answer, answered) = mpsc::channel();
    let ready = done.clone();
    let thread = thread::Builder::new().name("resolver".into()).spawn(move || {
        let _ = answer.send(look_up(&asked, default_port));
        ready.cancel();
    });
    thread.map_err(failed)?;
    while !cancel.is_cancelled() {
        if done.is_cancelled() {
            return answered.recv().unwrap_or_else(|_| Err(failed(io::ErrorKind::Other.into())));
        }
        CancelToken::wait_any(&[cancel, &done], None, None).map_err(failed)?;
    }
    Err(failed(io::ErrorKind::Interrupted.into()))
}

/// All addresses of a host, in the order in which the resolver recommends them.
fn look_up(target: &HostPort, default_port: u16) -> Result<Vec<SocketAddr>, NetError> {
    let port = target.port.unwrap_or(default_port);
    let failed = |source| NetError::Resolve { host: target.host.clone(), source };
    Ok((target.host.as_str(), port).to_socket_addrs().map_err(failed)?.collect())
}

fn try_all(
    endpoints: &[Endpoint],
    timeout: Duration,
    cancel: &CancelToken,
) -> Result<Connection, Vec<(Endpoint, io::Error)>> {
    let mut attempts = Vec::new();
    for endpoint in endpoints {
        match socket::connect(endpoint, timeout, cancel) {
            Ok(connection) => return Ok(connection),
            Err(error) => attempts.push((endpoint.clone(), error)),
        }
    }
    Err(attempts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    use crate::net::Peer;

    /// A port that refuses: bound and closed again.
    fn closed_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    fn target(host: &str, port: Option<u16>) -> Target {
        Target::Host(HostPort { host: host.into(), port })
    }

    #[test]
    fn a_refused_connection_is_retried_as_often_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        for target in [target("127.0.0.1", Some(closed_port())), Target::Unix(dir.path().join("absent"))] {
            let mut pauses = Vec::new();
            let token = CancelToken::new().unwrap();
            let five = Duration::from_secs(5);
            let error = connect(&target, 1, five, 1, &token, |pause| pauses.push(pause)).unwrap_err();
            assert_eq!(pauses, [Duration::from_millis(500)]);
            assert!(matches!(error, NetError::Connect { attempts, .. } if attempts.len() == 1));
        }
    }

    #[test]
    fn the_next_address_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let closed = SocketAddr::from(([127, 0, 0, 1], closed_port()));
        let both = [Endpoint::Tcp(closed), Endpoint::Tcp(open)];
        let connected = try_all(&both, Duration::from_secs(5), &CancelToken::new().unwrap()).unwrap();
        assert_eq!(*connected.peer(), Peer::Ip(open));
    }

    #[test]
    fn an_unknown_name_is_an_error_of_its_own() {
        let target = target("no-such-host.invalid", None);
        let error =
            connect(&target, 1, Duration::from_secs(5), 5, &CancelToken::new().unwrap(), |_| {}).unwrap_err();
        assert!(matches!(error, NetError::Resolve { .. }));
    }

    #[test]
    fn cancellation_ends_each_wait() {
        let token = CancelToken::new().unwrap();
        token.cancel();
        let long = Duration::from_secs(600);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = Endpoint::Tcp(listener.local_addr().unwrap());
        let error = socket::connect(&open, long, &token).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        for host in ["127.0.0.1", "localhost"] {
            let target = target(host, Some(closed_port()));
            assert!(connect(&target, 1, long, 1000, &token, |_| panic!("tries again")).is_err());
        }
    }
}
