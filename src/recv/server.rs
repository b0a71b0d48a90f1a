//! The receiver as a whole: an open port, and the folder behind it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::dest::local::LocalDestination;
use crate::net::{Bound, Listener};
use crate::recv::accept::serve_all;
use crate::recv::admission::{AdmissionControl, Limits, SharedAdmission};
use crate::recv::connection::Service;
use crate::recv::options::{Observer, Options, StartError, StopReason};
use crate::recv::registry::SessionRegistry;
use crate::sync::CancelToken;
use crate::sys::descriptors::max_descriptors;
use crate::sys::threads::max_threads;

/// How often partial files that have become too old are removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// An open port and the folder behind it.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    destination: LocalDestination,
    registry: SessionRegistry,
    options: Options,
    sweep_interval: Duration,
}

impl Server {
    /// Opens the folder and the port.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let destination = LocalDestination::open(&options.out, options.on_conflict)?;
        let listener = Listener::bind(options.bind.as_ref(), options.port)?;
        let registry = SessionRegistry::default();
        Ok(Server { listener, destination, registry, options, sweep_interval: SWEEP_INTERVAL })
    }

    /// Where it listens, with the actual port.
    pub fn bound(&self) -> &Bound {
        self.listener.bound()
    }

    /// The folder's absolute path.
    pub fn out(&self) -> &Path {
        self.destination.path()
    }

    /// Cancelled, it ends [`Server::run`] once the active sessions have ended.
    pub fn stop(&self) -> CancelToken {
        self.listener.stop()
    }

    /// Serves until the wanted number of sessions has ended, the token of [`Server::stop`] or that of the options is
    /// cancelled.
    ///
    /// # Errors
    ///
    /// The listener failed, or a thread could not be started.
    pub fn run(&self, observer: &dyn Observer) -> io::Result<StopReason> {
        let Options { sessions, timeout, cancel, .. } = &self.options;
        let limits = Limits::new(max_descriptors(), max_threads());
        let admission = AdmissionControl::new(limits, *timeout, *sessions);
        let service = Service {
            options: &self.options,
            destination: &self.destination,
            registry: &self.registry,
            admission: Arc::new(SharedAdmission::new(admission)),
            stop: self.stop(),
            observer,
        };
        let serve = || serve_all(&service, &self.listener, self.sweep_interval);
        cancel.run_with_hook(|| self.stop().cancel(), serve)??;
        let now = service.admission.lock();
        let is_cut = now.interrupted || sessions.is_none_or(|wanted| now.finished < wanted);
        Ok(if cancel.is_cancelled() && is_cut { StopReason::Interrupted } else { StopReason::Served })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};
    use std::thread;

    use super::*;
    use crate::dest::local::{ImplicitDirs, OnConflict, Unfinished};
    use crate::dest::local::{Record, SourceVersion};
    use crate::digest::Md5;
    use crate::digest::PART_BYTES;
    use crate::event::{Reporter, Summary};
    use crate::net::{BindTo, Peer};
    use crate::recv::error::RecvError;
    use crate::relpath::NamePolicy;
    use crate::relpath::RelPath;
    use crate::wire::Framing;
    use crate::wire::frame;

    /// Records for each report whether the partial file was removed.
    struct Watch(Mutex<Vec<bool>>, Condvar);

    impl Observer for Watch {
        fn unfinished(&self, left: &Unfinished) {
            self.0.lock().unwrap().push(left.is_removed);
            self.1.notify_all();
        }

        fn started(&self, _: &Peer) -> Box<dyn Reporter + '_> {
            unreachable!("no connection in this test")
        }

        fn lost(&self, _: &Peer, _: &RecvError, _: Duration) {}

        fn ended(&self, _: &Peer, _: &Result<Summary, RecvError>) {}
    }

    fn options(out: &Path) -> Options {
        Options {
            bind: Some(BindTo::Ip(std::net::Ipv4Addr::LOCALHOST.into())),
            port: 0,
            out: out.to_owned(),
            on_conflict: OnConflict::SkipSame,
            names: NamePolicy::Strict,
            sessions: None,
            timeout: Duration::from_secs(1),
            // Ages are those of whole seconds.
            keep_unfinished: Duration::from_secs(3),
            whole_digests: false,
            cancel: CancelToken::new().unwrap(),
        }
    }

    struct CancelOnDrop<'a>(&'a CancelToken);

    impl Drop for CancelOnDrop<'_> {
        fn drop(&mut self) {
            self.0.cancel();
        }
    }

    /// Panics when a session starts, and notes how sessions end.
    struct Panics(Mutex<Vec<bool>>, Condvar);

    impl Observer for Panics {
        fn unfinished(&self, _: &Unfinished) {}

        fn started(&self, _: &Peer) -> Box<dyn Reporter + '_> {
            panic!("a defect in a session");
        }

        fn lost(&self, _: &Peer, _: &RecvError, _: Duration) {}

        fn ended(&self, _: &Peer, outcome: &Result<Summary, RecvError>) {
            self.0.lock().unwrap().push(matches!(outcome, Err(RecvError::Panicked)));
            self.1.notify_all();
        }
    }

    #[test]
    fn a_panic_ends_its_session_and_not_the_receiver() {
        let out = tempfile::tempdir().unwrap();
        let server = Server::start(options(out.path())).unwrap();
        let panics = Panics(Mutex::default(), Condvar::new());
        thread::scope(|scope| {
            let running = scope.spawn(|| server.run(&panics));
            let stop = CancelOnDrop(&server.options.cancel);
            for count in 1..=2 {
                let mut sender = std::net::TcpStream::connect(server.bound().address().unwrap()).unwrap();
                let mut hello = Vec::new();
                frame::encode(Framing::Native, br#"{"ftx":"hello","version":1}"#, &mut hello);
                std::io::Write::write_all(&mut sender, &hello).unwrap();
                let most = Duration::from_secs(10);
                let ended = panics.0.lock().unwrap();
                let ended = panics.1.wait_timeout_while(ended, most, |ended| ended.len() < count).unwrap().0;
                assert_eq!(*ended, vec![true; count]);
            }
            drop(stop);
            assert_eq!(running.join().expect("no panic").unwrap(), StopReason::Interrupted);
        });
    }

    #[test]
    fn expired_partial_file_is_removed_while_the_receiver_runs() {
        let out = tempfile::tempdir().unwrap();
        let server = Server {
            sweep_interval: Duration::from_millis(5),
            ..Server::start(options(out.path())).unwrap()
        };
        let mut store = server.destination.session(ImplicitDirs::Private).unwrap();
        let path = RelPath::new(b"disk.img", NamePolicy::Strict).unwrap();
        let origin = SourceVersion { size_bytes: 2 * PART_BYTES, mtime: None, state: Md5::of(b"state") };
        let staged = store.stage_resumable(&path, origin).unwrap();
        let records = [Record::Part(0, Md5::of(b"part"))];
        staged.journal().unwrap().record(&staged.written().unwrap(), &records, true).unwrap();
        drop(staged);
        let watch = Watch(Mutex::default(), Condvar::new());
        thread::scope(|scope| {
            let running = scope.spawn(|| server.run(&watch).unwrap());
            let is_kept = |kept: &mut Vec<bool>| kept.last() != Some(&true);
            let most = Duration::from_secs(30);
            drop(watch.1.wait_timeout_while(watch.0.lock().unwrap(), most, is_kept).unwrap());
            server.stop().cancel();
            assert_eq!(running.join().unwrap(), StopReason::Served);
        });
        // The first sweep reports it as kept; a later one reports its removal.
        assert_eq!(watch.0.into_inner().unwrap(), [false, true]);
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
    }
}
