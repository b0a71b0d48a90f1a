//! Connecting: every address of the host, with a time limit each, again if the door is still closed.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use super::{HostPort, NetError};

/// The pause before the first retry; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Connects to the first address of `target` that takes the connection, each within `timeout`. If all of them refuse,
/// waits and tries again, up to `retries` times; `on_retry` hears of each pause.
pub fn connect(
    target: &HostPort,
    default_port: u16,
    timeout: Duration,
    retries: u32,
    mut on_retry: impl FnMut(Duration),
) -> Result<TcpStream, NetError> {
    let addresses = target.resolve(default_port)?;
    let mut pause = FIRST_PAUSE;
    for retries_left in (0..=retries).rev() {
        let attempts = match try_all(&addresses, timeout) {
            Ok(stream) => return Ok(stream),
            Err(attempts) => attempts,
        };
        let refused = attempts.iter().any(|(_, error)| error.kind() == io::ErrorKind::ConnectionRefused);
        if retries_left == 0 || !refused {
            let port = Some(target.port.unwrap_or(default_port));
            let target = HostPort { host: target.host.clone(), port }.to_string();
            return Err(NetError::Connect { target, attempts });
        }
        on_retry(pause);
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    unreachable!("the last round returns")
}

fn try_all(addresses: &[SocketAddr], timeout: Duration) -> Result<TcpStream, Vec<(SocketAddr, io::Error)>> {
    let mut attempts = Vec::new();
    for address in addresses {
        match TcpStream::connect_timeout(address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => attempts.push((*address, error)),
        }
    }
    Err(attempts)
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
        let error = connect(&target, 1, Duration::from_secs(5), 1, |pause| pauses.push(pause)).unwrap_err();
        assert_eq!(pauses, [FIRST_PAUSE]);
        assert!(matches!(error, NetError::Connect { attempts, .. } if attempts.len() == 1));
    }

    #[test]
    fn the_next_address_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let closed = SocketAddr::from(([127, 0, 0, 1], closed_port()));
        assert_eq!(try_all(&[closed, open], Duration::from_secs(5)).unwrap().peer_addr().unwrap(), open);
    }

    #[test]
    fn a_name_that_does_not_exist_is_told() {
        let target = HostPort { host: "no-such-host.invalid".into(), port: None };
        let error = connect(&target, 1, Duration::from_secs(5), 5, |_| {}).unwrap_err();
        assert!(matches!(error, NetError::Resolve { .. }));
    }
}
