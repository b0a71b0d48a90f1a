//! The receiver's driver: an open port, a thread for each session, everything below one folder.

mod admission;
mod classic;
mod connection_reader;
#[cfg(all(test, not(feature = "tiny-parts")))]
mod documented_limits;
mod failure_log;
mod handle;
mod native;
mod received_file;
mod registry;

use std::io;
use std::net::SocketAddr;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::dest::local::{ImplicitDirs, LocalDestination, OnConflict, RootError, StoreError, Unfinished};
use crate::digest::Md5;
use crate::error_code::{ErrorCode, in_words};
use crate::escape::Escaped;
use crate::event::{Reporter, Summary};
use crate::md5sum::FileHasher;
use crate::net::{self, BindTo, Bound, Listener, NetError, Peer};
use crate::relpath::NamePolicy;
use crate::sync::CancelToken;
use crate::sys::descriptors::max_descriptors;
use crate::wire::classic::{ClassicError, ClassicHeader, parse_header};
use crate::wire::dialect::DialectError;
use crate::wire::{Dialect, Framing, ReceiverSession, SessionId, WireError, receiver};

use admission::{
    AdmissionControl, AtCapacity, Kind, Limits, LostSession, SESSION_FD_FRACTION, SharedAdmission,
};
use connection_reader::ConnectionReader;
use failure_log::FailureLog;
use handle::ConnectionHandle;
use native::{EndOnDrop, SessionContext, every};
use registry::{MAX_JOINED, SessionRegistry};

/// What `ftx recv` was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address or socket file to listen on; `None` for all addresses of both families.
    pub bind: Option<BindTo>,
    /// The port; 0 for any that is free.
    pub port: u16,
    /// Where things land.
    pub out: PathBuf,
    /// What to do about names that are taken.
    pub on_conflict: OnConflict,
    /// Which names to take.
    pub names: NamePolicy,
    /// End after so many sessions.
    pub sessions: Option<u64>,
    /// How long a peer may be silent.
    pub timeout: Duration,
    /// How long files that were cut are kept for their sender to come back.
    pub keep_unfinished: Duration,
    /// Take the MD5 of all of each file, as `md5sum` prints it, and tell it with
    /// [`Event::FileDone`](crate::event::Event::FileDone).
    pub whole_digests: bool,
    /// Rung, it ends everything, sessions in work too: each as after a failure, after last words to its sender.
    pub cancel: CancelToken,
}

/// How soon to look again for room where nobody may tell that there is some.
const ADMISSION_POLL: Duration = Duration::from_millis(20);

/// How often to look for what nobody came back for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// A session that has kept what it has gives up its place at once; certainly after so long.
const TAKEOVER_WAIT: Duration = Duration::from_secs(3);

/// A sender whose connection was lost gets so long to come back, where a receiver is to end after its session.
const RECONNECT_GRACE: Duration = Duration::from_secs(30);

/// Why a session failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum RecvError {
    /// The first bytes are no dialect of ours.
    #[error(transparent)]
    Dialect(#[from] DialectError),
    /// A dialect that is known, but not spoken here.
    #[error("the peer speaks {0}, which this receiver does not take")]
    UnsupportedDialect(&'static str),
    /// The peer broke the native dialect, or gave up.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A classic header that is refused.
    #[error(transparent)]
    Classic(#[from] ClassicError),
    /// The connection ended in the middle of something.
    #[error("the connection was lost in the middle of {0}")]
    Truncated(String),
    /// The connection broke.
    #[error("the connection broke: {}", in_words(.0))]
    Connection(#[source] io::Error),
    /// The peer was silent for too long.
    #[error("nothing was heard from the sender for {} seconds", .0.as_secs())]
    IdleTimeout(Duration),
    /// The peer began a header and did not finish it.
    #[error("a header from the sender was still not complete after {} seconds", .0.as_secs())]
    HeaderTimeout(Duration),
    /// Bytes of a body trickle in, more slowly than any link is.
    #[error(
        "a body came at less than {} bytes a second, for {} seconds",
        crate::net::MIN_RATE_BYTES_PER_S,
        .0.as_secs()
    )]
    TooSlow(Duration),
    /// The connection was lost, and its sender did not open another one.
    #[error("did not come back within {} s", wait.as_secs())]
    ReconnectTimeout {
        /// How it was lost.
        lost: Box<RecvError>,
        /// For so long it was waited for.
        wait: Duration,
    },
    /// No place for one more connection.
    #[error("the receiver has as many connections as it takes")]
    Busy,
    /// The session delivered nothing when others needed its place, or what it held.
    #[error("the receiver has too many connections, and this one delivered nothing")]
    Evicted,
    /// The system gives no thread for it, or no descriptor to wake one.
    #[error("the receiver has no thread left for one more session: {}", in_words(.0))]
    NoThread(#[source] io::Error),
    /// The program has a defect, which the standard error output describes.
    #[error("the session ended by an internal error")]
    Panicked,
    /// It ended before a frame of a known dialect was complete.
    #[error(transparent)]
    NoSession(Box<RecvError>),
    /// Somebody wants this program to end.
    #[error("the receiver was interrupted")]
    Interrupted,
    /// A body is not what its header says; classic has no way to repair it.
    #[error("{name}: the digest does not match: the header says {expected}, the body gives {actual}")]
    Digest {
        /// The file's name, escaped.
        name: String,
        /// From the header.
        expected: Md5,
        /// From the body.
        actual: Md5,
    },
    /// The folder cannot be used.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A file of a classic sender could not land; closing is the only way to tell it.
    #[error("{name}: {error}")]
    Store {
        /// The file's name, escaped.
        name: String,
        /// What happened.
        error: StoreError,
    },
}

impl RecvError {
    /// Was it no session that failed: was there no place for it, or did no sender of a known dialect begin one?
    pub fn is_no_session(&self) -> bool {
        matches!(
            self,
            RecvError::Busy | RecvError::Evicted | RecvError::NoThread(_) | RecvError::NoSession(_)
        )
    }

    /// May the sender be about to come back on another connection?
    fn is_lost_connection(&self) -> bool {
        matches!(
            self,
            RecvError::Truncated(_)
                | RecvError::Connection(_)
                | RecvError::IdleTimeout(_)
                | RecvError::HeaderTimeout(_)
                | RecvError::TooSlow(_)
                | RecvError::Wire(WireError::PeerAborted {
                    code: ErrorCode::Connection | ErrorCode::Timeout,
                    ..
                })
        )
    }
}

/// Listens to a receiver as a whole.
pub trait Observer: Sync {
    /// An earlier session left this behind.
    fn unfinished(&self, unfinished: &Unfinished);
    /// A peer connected and said something.
    fn started(&self, peer: &Peer) -> Box<dyn Reporter + '_>;
    /// The connection of its session was lost, and the session counts: its sender has so long to come back.
    fn lost(&self, peer: &Peer, error: &RecvError, wait: Duration);
    /// Its session ended.
    fn ended(&self, peer: &Peer, outcome: &Result<Summary, RecvError>);
}

/// An open port and the folder behind it.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    root: LocalDestination,
    sessions: SessionRegistry,
    options: Options,
    sweep: Duration,
}

/// Why a receiver does not serve any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The wanted number of sessions has ended, or [`Server::stop`] was rung.
    Served,
    /// It was interrupted before that.
    Interrupted,
}

/// The receiver cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The folder.
    #[error(transparent)]
    Root(#[from] RootError),
}

/// What a connection is for, told from its first frame.
enum FirstMessage {
    Session(SessionStart),
    /// One more connection of a native session.
    Join(SessionId),
}

/// The first frame of a session.
enum SessionStart {
    Native {
        /// The JSON of its first frame.
        hello: Vec<u8>,
        /// By which its sender would come back.
        session: Option<SessionId>,
        /// The session whose connection its sender lost.
        continues: Option<SessionId>,
    },
    Classic {
        /// Of its first file, or why that is refused.
        header: Result<ClassicHeader, ClassicError>,
    },
}

impl Server {
    /// Opens the folder and the port.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let root = LocalDestination::open(&options.out, options.on_conflict)?;
        let listener = Listener::bind(options.bind.as_ref(), options.port)?;
        Ok(Server { listener, root, sessions: SessionRegistry::default(), options, sweep: SWEEP_INTERVAL })
    }

    /// Where it listens, with the port really chosen.
    pub fn bound(&self) -> &Bound {
        self.listener.bound()
    }

    /// The address and port really chosen.
    ///
    /// # Errors
    ///
    /// It listens at a socket file.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self.bound() {
            Bound::Ip(address) => Ok(*address),
            Bound::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The folder's absolute path.
    pub fn out(&self) -> &Path {
        self.root.path()
    }

    /// Rung, it ends [`Server::run`] once the sessions in work are done.
    pub fn stop(&self) -> CancelToken {
        self.listener.stop()
    }

    /// Serves until the wanted number of sessions has ended, the stop handle is used, or the program is to end.
    pub fn run(&self, observer: &dyn Observer) -> io::Result<StopReason> {
        let limits = Limits::new(max_descriptors(), admission::threads());
        let admission = SharedAdmission::new(AdmissionControl::new(limits, self.options.timeout));
        self.options
            .cancel
            .run_with_hook(|| self.stop().cancel(), || self.serve_all(&admission, observer))??;
        let now = admission.lock();
        let cut = now.interrupted || self.options.sessions.is_none_or(|wanted| now.finished < wanted);
        Ok(if self.options.cancel.is_cancelled() && cut {
            StopReason::Interrupted
        } else {
            StopReason::Served
        })
    }

    fn serve_all(&self, admission: &SharedAdmission, observer: &dyn Observer) -> io::Result<()> {
        let is_over = (Mutex::new(false), Condvar::new());
        let sweep = |is_first: bool| {
            let goes_on = || !*is_over.0.lock().unwrap_or_else(PoisonError::into_inner);
            let tell = |left: Unfinished| {
                if is_first || left.is_removed {
                    observer.unfinished(&left);
                }
            };
            // A folder that cannot be opened is for the first session to complain about.
            let _ = self.root.sweep(self.options.keep_unfinished, goes_on, tell);
        };
        let named = |name: &str| thread::Builder::new().name(name.into());
        thread::scope(|scope| {
            let _over = EndOnDrop(&is_over);
            let _close = DropGuard(|| {
                admission.update(AdmissionControl::stop_accepting);
                admission.notify();
            });
            named("deadlines").spawn_scoped(scope, || self.enforce_deadlines(admission, observer))?;
            // Senders need not wait for it.
            named("sweep").spawn_scoped(scope, || {
                sweep(true);
                every(self.sweep, &is_over, || sweep(false));
            })?;
            loop {
                let exhausted = || {
                    admission.update(|now| {
                        now.evict_unidentified(Instant::now());
                        now.release_descriptors(Instant::now());
                    });
                };
                let connection = match self.listener.accept(exhausted) {
                    Ok(Some(accepted)) => accepted,
                    Ok(None) => return Ok(()),
                    Err(error) => return Err(error),
                };
                let peer = connection.peer().clone();
                let handle = ConnectionHandle::new(connection);
                let mut now = admission.lock();
                let number = now.register(handle.clone(), Instant::now());
                while now.is_at_capacity() || now.has_too_many_pending() {
                    if !now.has_too_many_pending() || !now.evict_unidentified(Instant::now()) {
                        now = admission.wait(now, Some(ADMISSION_POLL));
                    }
                }
                drop(now);
                // The evicted connection may be one that waits in another thread.
                admission.notify();
                let served = named("session").spawn_scoped(scope, move || {
                    let _leave = DropGuard(|| {
                        admission.lock().remove(number);
                        admission.notify();
                    });
                    self.serve(handle, number, &peer, admission, observer);
                });
                if served.is_err() {
                    // No thread for it: it is closed, and others may make room for the next one.
                    admission.update(|now| {
                        now.remove(number);
                        now.evict_unidentified(Instant::now());
                    });
                }
            }
        })
    }

    /// One connection, to its end. A panic ends it and nothing else.
    fn serve(
        &self,
        handle: ConnectionHandle,
        number: u64,
        peer: &Peer,
        admission: &SharedAdmission,
        observer: &dyn Observer,
    ) {
        let serve = || self.serve_connection(handle, number, peer, admission, observer);
        if panic::catch_unwind(AssertUnwindSafe(serve)).is_err() {
            observer.ended(peer, &Err(RecvError::Panicked));
        }
    }

    /// A connection that sends nothing at all, as one that probes whether the port is open, is not reported; one whose first
    /// bytes are no frame of a known dialect is reported, and is no session.
    fn serve_connection(
        &self,
        handle: ConnectionHandle,
        number: u64,
        peer: &Peer,
        admission: &SharedAdmission,
        observer: &dyn Observer,
    ) {
        let start = Instant::now();
        let reader = ConnectionReader::new(handle.clone(), self.options.timeout, &self.options.cancel);
        let (opening, reader) =
            match reader.and_then(|mut reader| Ok((self.read_first_message(&mut reader)?, reader))) {
                Ok((Some(opening), reader)) => (opening, reader),
                Ok((None, _)) | Err(RecvError::Evicted | RecvError::Interrupted) => return,
                Err(error) => return observer.ended(peer, &Err(RecvError::NoSession(error.into()))),
            };
        let opening = match opening {
            FirstMessage::Session(opening) => opening,
            FirstMessage::Join(session) => {
                if let Err(refused) = self.sessions.join(session, reader, || admission.lock().join(number)) {
                    let (reader, error) = *refused;
                    native::reject(&reader, &error);
                }
                return;
            }
        };
        let mut session = match self.admit(&opening, &handle, number, admission) {
            Ok(Some(session)) => session,
            Ok(None) => return,
            Err(why) => {
                opening.reject(&reader, &why);
                return observer.ended(peer, &Err(why));
            }
        };
        let outcome = self.receive(opening, reader, &session, observer.started(peer), admission);
        let outcome = outcome.map(|summary| Summary { elapsed: start.elapsed(), ..summary });
        if matches!(outcome, Err(RecvError::Interrupted)) {
            admission.lock().interrupted = true;
        }
        if matches!(&outcome, Err(error) if error.is_no_session()) {
            session.outcome = Accounting::NoSession;
        }
        let settled = match session.id {
            Some(id) => self.wait_for_sender(id, peer, outcome, admission, observer),
            None => Ok(outcome),
        };
        match settled {
            Ok(outcome) => observer.ended(peer, &outcome),
            Err(TakenOver) => session.outcome = Accounting::TakenOver,
        }
    }

    /// What becomes of a session that counts and has ended on this connection: it is taken over, or its sender has time to
    /// reconnect, or this is its outcome.
    fn wait_for_sender(
        &self,
        id: SessionId,
        peer: &Peer,
        outcome: Result<Summary, RecvError>,
        admission: &SharedAdmission,
        observer: &dyn Observer,
    ) -> Result<Result<Summary, RecvError>, TakenOver> {
        let outcome = match outcome {
            Err(error) if error.is_lost_connection() && admission.lock().may_reattach(id) => {
                let wait = self.options.timeout.min(RECONNECT_GRACE);
                observer.lost(peer, &error, wait);
                let deadline = Instant::now() + wait;
                let lost = LostSession { peer: peer.clone(), error: error.into(), wait, deadline };
                match admission.update(|now| now.detach(id, lost)) {
                    Ok(()) => return Err(TakenOver),
                    Err(lost) => Err(self.reconnect_timeout(lost, admission)),
                }
            }
            outcome => outcome,
        };
        // If it is, what becomes of it is told when that session ends.
        if admission.lock().finish_tracking(id) { Err(TakenOver) } else { Ok(outcome) }
    }

    /// How a session has ended whose sender did not reconnect.
    fn reconnect_timeout(&self, lost: LostSession, admission: &SharedAdmission) -> RecvError {
        if self.options.cancel.is_cancelled() {
            admission.lock().interrupted = true;
            return RecvError::Interrupted;
        }
        RecvError::ReconnectTimeout { lost: lost.error, wait: lost.wait }
    }

    /// Ends lost sessions whose sender does not reconnect in time, and connections that were told to go and are not gone in
    /// time; until the last connection has ended.
    fn enforce_deadlines(&self, admission: &SharedAdmission, observer: &dyn Observer) {
        let mut now = admission.lock();
        loop {
            let at = Instant::now();
            now.close_overdue(at);
            let expired = now.take_expired(at);
            if expired.is_empty() {
                if now.is_drained() {
                    return;
                }
                let limit = now.next_deadline().map(|deadline| deadline.saturating_duration_since(at));
                now = admission.wait(now, limit);
                continue;
            }
            if self.sessions_left(&now) == 0 {
                self.stop().cancel();
            }
            drop(now);
            for lost in expired {
                let peer = lost.peer.clone();
                observer.ended(&peer, &Err(self.reconnect_timeout(lost, admission)));
            }
            // Another session may begin.
            admission.notify();
            now = admission.lock();
        }
    }

    /// Waits until a session may begin; `Ok(None)` if no further one is needed.
    ///
    /// # Errors
    ///
    /// There is no place for it, or there was one and it is needed for another session.
    fn admit<'a>(
        &'a self,
        opening: &SessionStart,
        handle: &ConnectionHandle,
        number: u64,
        admission: &'a SharedAdmission,
    ) -> Result<Option<ActiveSession<'a>>, RecvError> {
        let (kind, patience) = match opening {
            // A sender that reconnects waits for the place that its lost connection still has.
            SessionStart::Native { continues: Some(lost), .. } if self.sessions.preempt(*lost) => {
                (Kind::Native, TAKEOVER_WAIT)
            }
            SessionStart::Native { .. } => (Kind::Native, Duration::ZERO),
            // A classic sender cannot be told that there is no place: it waits for one.
            SessionStart::Classic { .. } => {
                handle.record_bytes(0);
                (Kind::Classic, Duration::MAX)
            }
        };
        self.wait_for_descriptors(handle, number, admission);
        let asked = Instant::now();
        let mut now = admission.lock();
        let mut served = now.try_admit(number, kind);
        while served.is_err() && asked.elapsed() < patience && !handle.is_evicted() {
            now.enqueue(number, asked);
            now = admission.wait(now, Some(net::POLL_INTERVAL));
            served = now.try_admit(number, kind);
        }
        admission.notify();
        if handle.is_evicted() {
            return Err(RecvError::Evicted);
        }
        served.map_err(|AtCapacity| RecvError::Busy)?;
        let (id, continues) = match opening {
            SessionStart::Native { session, continues, .. } => (*session, *continues),
            SessionStart::Classic { .. } => (None, None),
        };
        let taken_over = continues.and_then(|lost| now.reattach(lost));
        // With a limit, no more sessions begin than may still be needed. One that takes over another begins none.
        while taken_over.is_none()
            && self.sessions_left(&now) > 0
            && now.active >= self.sessions_left(&now)
            && !handle.is_evicted()
        {
            now = admission.wait(now, None);
        }
        if handle.is_evicted() {
            return Err(RecvError::Evicted);
        }
        if self.sessions_left(&now) == 0 {
            return Ok(None);
        }
        now.active += u64::from(taken_over.is_none());
        let failed = taken_over.unwrap_or_default();
        // Without a limit nobody waits for the end of any of them.
        let id = id.filter(|_| self.options.sessions.is_some());
        let id = id.filter(|id| now.track(*id, failed.clone()));
        Ok(Some(ActiveSession {
            server: self,
            admission,
            number,
            id,
            failures: failed,
            outcome: Accounting::Finished,
        }))
    }

    /// Where few descriptors are free, waits for idle sessions to release theirs. The wait is bounded: after `idle_time` a
    /// session that holds descriptors is either idle, and can be evicted, or makes progress, and will release them.
    fn wait_for_descriptors(&self, handle: &ConnectionHandle, number: u64, admission: &SharedAdmission) {
        let start = Instant::now();
        while start.elapsed() <= admission.lock().idle_time
            && admission::fd_headroom_below(SESSION_FD_FRACTION)
            && !handle.is_evicted()
            && !self.stop().is_cancelled()
        {
            let mut now = admission.lock();
            now.enqueue(number, start);
            now.release_descriptors(Instant::now());
            drop(admission.wait(now, Some(ADMISSION_POLL)));
        }
    }

    /// How many more sessions have to end.
    fn sessions_left(&self, now: &AdmissionControl) -> u64 {
        self.options.sessions.map_or(u64::MAX, |wanted| wanted.saturating_sub(now.finished))
    }

    /// Takes a session to its end, with the threads beside it that it needs.
    fn receive(
        &self,
        opening: SessionStart,
        reader: ConnectionReader,
        session: &ActiveSession<'_>,
        progress: Box<dyn Reporter + '_>,
        admission: &SharedAdmission,
    ) -> Result<Summary, RecvError> {
        let progress = session.failures.wrap(progress, session.number);
        let hasher = FileHasher::new(self.options.whole_digests, &progress);
        let mut unserved = Some((opening, reader));
        let receive = || {
            let limit_entries = || admission.update(|now| now.enforce_entry_limit(Instant::now()));
            let spare_descriptors = || admission.update(|now| now.release_descriptors(Instant::now()));
            let context = SessionContext {
                registry: &self.sessions,
                progress: &progress,
                hasher: &hasher,
                enforce_entry_limit: &limit_entries,
                release_descriptors: &spare_descriptors,
            };
            let may_join = || admission.lock().reserve_streams(session.number, MAX_JOINED);
            unserved.take().map(|(opening, reader)| self.dispatch(opening, reader, may_join, &context))
        };
        let received =
            self.options.cancel.run_with_hook(|| hasher.stop_waiting(), || hasher.run_with(receive));
        let received = match received.flatten() {
            Ok(received) => received.unwrap_or(Err(RecvError::Busy)),
            Err(error) => Err(RecvError::NoThread(error)),
        };
        if let (Some((opening, reader)), Err(error)) = (&unserved, &received) {
            opening.reject(reader, error);
        }
        received.map(|summary| {
            let mut summary = Summary { undigested: hasher.unavailable(), ..summary };
            session.failures.merge_earlier(session.number, &mut summary);
            summary
        })
    }

    fn dispatch(
        &self,
        opening: SessionStart,
        reader: ConnectionReader,
        may_join: impl FnOnce() -> bool,
        context: &SessionContext<'_>,
    ) -> Result<Summary, RecvError> {
        match opening {
            SessionStart::Native { hello, .. } => {
                let store = self.root.session(ImplicitDirs::Private).map_err(RecvError::from);
                let store = store.inspect_err(|error| native::reject(&reader, error))?;
                let mut session = ReceiverSession::new(self.options.names);
                if !may_join() {
                    session.disable_streams();
                }
                native::receive(reader, &hello, session, store, context)
            }
            SessionStart::Classic { header } => {
                let store = self.root.session(ImplicitDirs::Umask)?;
                classic::receive(reader, header, store, self.options.names, context.progress)
            }
        }
    }

    /// What a connection is for; `None` if nothing came. One that is refused is closed, after an error in its dialect.
    fn read_first_message(&self, reader: &mut ConnectionReader) -> Result<Option<FirstMessage>, RecvError> {
        let opening = match reader.detect_dialect() {
            Ok(None) => return Ok(None),
            Ok(Some(Dialect::Classic)) => open_classic(reader, self.options.names)?,
            Ok(Some(Dialect::Native)) => {
                open_native(reader).inspect_err(|error| native::reject(reader, error))?
            }
            Ok(Some(Dialect::Tls)) => {
                reader.close();
                return Err(RecvError::UnsupportedDialect("TLS"));
            }
            Ok(Some(Dialect::Http)) => {
                // It is not a sender; what becomes of the answer does not matter.
                let _ = reader.connection().write_all(HTTP_RESPONSE);
                reader.close();
                return Err(RecvError::UnsupportedDialect("HTTP"));
            }
            Err(RecvError::Evicted) => return Err(RecvError::Evicted),
            Err(error) => {
                reader.close();
                return Err(error);
            }
        };
        reader.handshake_done();
        Ok(Some(opening))
    }
}

/// A session that counts as active until this is dropped.
struct ActiveSession<'a> {
    server: &'a Server,
    admission: &'a SharedAdmission,
    /// Of its connection.
    number: u64,
    /// By which a sender that has lost its connection comes back, where sessions are counted.
    id: Option<SessionId>,
    failures: FailureLog,
    outcome: Accounting,
}

/// A session is not over: it goes on on another connection, or may.
struct TakenOver;

/// What the end of a session counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accounting {
    /// One more session has ended.
    Finished,
    /// There was no place for it: it was none.
    NoSession,
    /// It may go on on another connection, and is counted there, or when its sender does not reconnect in time.
    TakenOver,
}

impl Drop for ActiveSession<'_> {
    fn drop(&mut self) {
        let mut now = self.admission.lock();
        if self.outcome == Accounting::TakenOver || self.id.is_some_and(|id| now.finish_tracking(id)) {
            return;
        }
        now.active -= 1;
        now.finished += u64::from(self.outcome == Accounting::Finished);
        if self.server.sessions_left(&now) == 0 {
            self.server.stop().cancel();
        }
    }
}

impl SessionStart {
    /// Ends a connection for which there is no place, and says so where its dialect can.
    fn reject(&self, reader: &ConnectionReader, why: &RecvError) {
        match self {
            SessionStart::Native { .. } => native::reject(reader, why),
            SessionStart::Classic { .. } => reader.reset(),
        }
    }
}

fn open_native(reader: &mut ConnectionReader) -> Result<FirstMessage, RecvError> {
    let first = reader.frame(Framing::Native)?.ok_or_else(|| RecvError::Truncated("a header".into()))?;
    Ok(match receiver::parse_first_frame(first)? {
        receiver::FirstFrame::Joins(session) => FirstMessage::Join(session),
        receiver::FirstFrame::Begins { session, continues } => {
            FirstMessage::Session(SessionStart::Native { hello: first.to_vec(), session, continues })
        }
    })
}

fn open_classic(reader: &mut ConnectionReader, names: NamePolicy) -> Result<FirstMessage, RecvError> {
    let first = reader.frame(Framing::Classic)?.ok_or_else(|| RecvError::Truncated("a header".into()))?;
    let header = match parse_header(first, names) {
        // A header of a sender, whose file is refused.
        header @ (Ok(_) | Err(ClassicError::Name { .. })) => header,
        Err(error) => {
            reader.reset();
            return Err(error.into());
        }
    };
    Ok(FirstMessage::Session(SessionStart::Classic { header }))
}

const HTTP_RESPONSE: &[u8] =
    b"HTTP/1.1 501 Not Implemented\r\nContent-Type: text/plain\r\nContent-Length: 64\r\n\
Connection: close\r\n\r\nThis is ftx, a file receiver. It takes files from: ftx send PATH\n";

/// Runs a closure at the end of a scope, however it ends.
struct DropGuard<F: FnMut()>(F);

impl<F: FnMut()> Drop for DropGuard<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// A peer's text for a sentence.
fn escaped(text: &(impl AsRef<[u8]> + ?Sized)) -> String {
    Escaped::new(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dest::local::{Record, SourceVersion};
    use crate::digest::PART_BYTES;
    use crate::relpath::RelPath;
    use crate::wire::frame;

    #[test]
    fn what_a_sender_heals_with_another_connection_is_waited_for() {
        let gave_up = |code| RecvError::Wire(WireError::PeerAborted { code, message: String::new() });
        let time = Duration::from_secs(30);
        for error in [
            RecvError::Truncated("a header".into()),
            RecvError::Connection(io::ErrorKind::ConnectionReset.into()),
            RecvError::IdleTimeout(time),
            RecvError::HeaderTimeout(time),
            RecvError::TooSlow(time),
            gave_up(ErrorCode::Connection),
            gave_up(ErrorCode::Timeout),
        ] {
            assert!(error.is_lost_connection(), "{error}");
        }
        for error in [RecvError::Busy, RecvError::Interrupted, gave_up(ErrorCode::SourceChanged)] {
            assert!(!error.is_lost_connection(), "{error}");
        }
    }

    /// Remembers what it is told of what was left behind.
    struct Watch(Mutex<Vec<bool>>, Condvar);

    impl Observer for Watch {
        fn unfinished(&self, left: &Unfinished) {
            self.0.lock().unwrap().push(left.is_removed);
            self.1.notify_all();
        }

        fn started(&self, _: &Peer) -> Box<dyn Reporter + '_> {
            unreachable!("nobody comes")
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

    /// Panics when a session starts, and notes how sessions end.
    struct Panics(Mutex<Vec<bool>>, Condvar);

    impl Observer for Panics {
        fn unfinished(&self, _: &Unfinished) {}

        fn started(&self, _: &Peer) -> Box<dyn Reporter + '_> {
            panic!("as the test wants it");
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
            let stop = DropGuard(|| server.options.cancel.cancel());
            for count in 1..=2 {
                let mut sender = std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
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
    fn what_becomes_too_old_goes_while_the_receiver_runs() {
        let out = tempfile::tempdir().unwrap();
        let server =
            Server { sweep: Duration::from_millis(5), ..Server::start(options(out.path())).unwrap() };
        let mut store = server.root.session(ImplicitDirs::Private).unwrap();
        let path = RelPath::new(b"disk.img", NamePolicy::Strict).unwrap();
        let origin = SourceVersion { size_bytes: 2 * PART_BYTES, mtime: None, state: Md5::of(b"state") };
        let staged = store.stage_resumable(&path, origin).unwrap();
        let records = [Record::Part(0, Md5::of(b"part"))];
        staged.journal().unwrap().record(&staged.written().unwrap(), &records, true).unwrap();
        drop(staged);
        let watch = Watch(Mutex::default(), Condvar::new());
        thread::scope(|scope| {
            let running = scope.spawn(|| server.run(&watch).unwrap());
            let is_kept = |told: &mut Vec<bool>| told.last() != Some(&true);
            let most = Duration::from_secs(30);
            drop(watch.1.wait_timeout_while(watch.0.lock().unwrap(), most, is_kept).unwrap());
            server.stop().cancel();
            assert_eq!(running.join().unwrap(), StopReason::Served);
        });
        // It is young at the first look, and told of again only when it goes.
        assert_eq!(watch.0.into_inner().unwrap(), [false, true]);
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
    }
}
