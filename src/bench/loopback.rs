//! A receiver in this process, for `ftx bench` and `ftx demo`.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::dest::local::OnConflict;
use crate::net::BindTo;
use crate::recv::{self, Observer, Server, StartError};
use crate::relpath::NamePolicy;
use crate::sync::{CancelToken, DropGuard};

/// Starts a receiver on the loopback address, on a free port. `sessions` is the number of sessions that it serves.
///
/// # Errors
///
/// The port or the folder `out` cannot be opened.
pub fn receiver(
    out: PathBuf,
    sessions: Option<u64>,
    timeout: Duration,
    cancel: &CancelToken,
) -> Result<Server, StartError> {
    Server::start(recv::Options {
        bind: Some(BindTo::Ip(Ipv4Addr::LOCALHOST.into())),
        port: 0,
        out,
        on_conflict: OnConflict::SkipSame,
        names: NamePolicy::AllowOdd,
        sessions,
        timeout,
        keep_unfinished: Duration::MAX,
        whole_digests: false,
        cancel: cancel.clone(),
    })
}

/// Runs `sender` while `server` serves, then waits until its sessions have ended.
///
/// # Errors
///
/// The server failed, or no thread can be started for it.
pub fn run_with_receiver<T>(
    server: &Server,
    observer: &dyn Observer,
    sender: impl FnOnce() -> T,
) -> io::Result<T> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("receiver".into());
        let serving = builder.spawn_scoped(scope, || server.run(observer))?;
        let sent = {
            // Also if the sender panics.
            let _stop = DropGuard::new(|| server.stop().cancel());
            sender()
        };
        match serving.join() {
            Ok(Err(error)) => Err(error),
            _ => Ok(sent),
        }
    })
}
