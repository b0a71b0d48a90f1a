//! One connection, from its first byte to its end, in steps: identify, admit, reattach, run, conclude.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dest::local::{ImplicitDirs, LocalDestination};
use crate::event::{Reporter, Summary};
use crate::md5sum::FileHasher;
use crate::net::{self, Peer};
use crate::recv::admission::{
    AtCapacity, Kind, Permit, SESSION_FD_FRACTION, SharedAdmission, fd_headroom_below,
};
use crate::recv::classic;
use crate::recv::connection_reader::ConnectionReader;
use crate::recv::error::RecvError;
use crate::recv::first_message::{FirstMessage, SessionStart, read_first_message};
use crate::recv::native::{self, SessionContext};
use crate::recv::options::{Observer, Options};
use crate::recv::received_file::ReceivedFile;
use crate::recv::registry::{JoinedConnection, MAX_JOINED, SessionRegistry};
use crate::recv::tracked::{ReconnectPolicy, TrackedSession};
use crate::sync::CancelToken;
use crate::wire::{ReceiverSession, SessionId};

/// How often a connection that waits looks for free descriptors or a slot where nothing signals them.
pub const ADMISSION_POLL: Duration = Duration::from_millis(20);

/// How long a sender that reconnects waits for the slot of its lost connection.
const TAKEOVER_WAIT: Duration = Duration::from_secs(3);

/// What all connections of a receiver share.
pub struct Service<'a> {
    pub options: &'a Options,
    pub destination: &'a LocalDestination,
    pub registry: &'a SessionRegistry,
    pub admission: Arc<SharedAdmission>,
    /// Ends the accepting of connections.
    pub stop: CancelToken,
    pub observer: &'a dyn Observer,
}

impl Service<'_> {
    /// Serves a connection to its end. A panic ends it and nothing else.
    pub fn serve(&self, permit: Permit, peer: &Peer) {
        let serve = || self.serve_connection(permit, peer);
        if panic::catch_unwind(AssertUnwindSafe(serve)).is_err() {
            self.observer.ended(peer, &Err(RecvError::Panicked));
        }
    }

    fn serve_connection(&self, permit: Permit, peer: &Peer) {
        let start = Instant::now();
        let Some((message, reader)) = self.identify(&permit, peer) else { return };
        let message = match message {
            FirstMessage::Session(message) => message,
            FirstMessage::Join(id) => return self.join(id, reader, permit),
        };
        let session = match self.admit(&message, &permit).and_then(|()| self.reattach(&message, &permit)) {
            Ok(Some(session)) => session,
            Ok(None) => return,
            Err(error) => {
                message.reject(&reader, &error);
                return self.observer.ended(peer, &Err(error));
            }
        };
        let outcome = self.run(message, reader, &permit, &session, self.observer.started(peer));
        let outcome = outcome.map(|summary| Summary { elapsed: start.elapsed(), ..summary });
        session.conclude(outcome, peer, &self.reconnect_policy(), self.observer);
    }

    pub fn reconnect_policy(&self) -> ReconnectPolicy<'_> {
        ReconnectPolicy { timeout: self.options.timeout, cancel: &self.options.cancel }
    }

    /// Reads the first frame. A connection without any byte, as of a port scan, is not reported; one without a frame of a
    /// known dialect is reported, and is no session.
    fn identify(&self, permit: &Permit, peer: &Peer) -> Option<(FirstMessage, ConnectionReader)> {
        let reader = ConnectionReader::new(permit.handle.clone(), self.options.timeout, &self.options.cancel);
        let message = reader.and_then(|mut reader| {
            Ok(read_first_message(&mut reader, self.options.names)?.map(|message| (message, reader)))
        });
        match message {
            Ok(message) => message,
            Err(RecvError::Evicted | RecvError::Interrupted) => None,
            Err(error) => {
                self.observer.ended(peer, &Err(RecvError::NoSession(error.into())));
                None
            }
        }
    }

    /// Hands the connection to the session that it joins, which reads it in a thread of its own.
    fn join(&self, id: SessionId, reader: ConnectionReader, permit: Permit) {
        if let Err(refused) = self.registry.join(id, JoinedConnection { reader, permit }) {
            let (connection, error) = *refused;
            native::reject(&connection.reader, &error);
        }
    }

    /// Waits for descriptors and a slot.
    ///
    /// # Errors
    ///
    /// No slot is free, or the connection was evicted while it waited.
    fn admit(&self, message: &SessionStart, permit: &Permit) -> Result<(), RecvError> {
        let (kind, max_wait) = match message {
            SessionStart::Native { continues: Some(lost), .. } if self.registry.preempt(*lost) => {
                (Kind::Native, TAKEOVER_WAIT)
            }
            SessionStart::Native { .. } => (Kind::Native, Duration::ZERO),
            // The classic dialect has no way to say that there is no slot.
            SessionStart::Classic { .. } => (Kind::Classic, Duration::MAX),
        };
        self.wait_for_descriptors(permit);
        let asked = Instant::now();
        let mut now = self.admission.lock();
        let mut admitted = now.try_admit(permit.number, kind, asked);
        while admitted.is_err() && asked.elapsed() < max_wait && !permit.handle.is_evicted() {
            now.enqueue(permit.number, asked);
            now = self.admission.wait(now, Some(net::POLL_INTERVAL));
            admitted = now.try_admit(permit.number, kind, Instant::now());
        }
        drop(now);
        self.admission.notify();
        if permit.handle.is_evicted() {
            return Err(RecvError::Evicted);
        }
        admitted.map_err(|AtCapacity| RecvError::Busy)
    }

    /// Where few descriptors are free, waits for idle sessions to release theirs. The wait is bounded: after `idle_time` a
    /// session that holds descriptors is either idle, and can be evicted, or makes progress, and will release them.
    fn wait_for_descriptors(&self, permit: &Permit) {
        let start = Instant::now();
        while start.elapsed() <= self.admission.lock().idle_time
            && fd_headroom_below(SESSION_FD_FRACTION)
            && !permit.handle.is_evicted()
            && !self.stop.is_cancelled()
        {
            let mut now = self.admission.lock();
            now.enqueue(permit.number, start);
            now.release_descriptors(Instant::now());
            drop(self.admission.wait(now, Some(ADMISSION_POLL)));
        }
    }

    /// Takes over the counts of the session that this one continues, or begins a new one as soon as one is wanted; `None` if
    /// none is wanted any more.
    ///
    /// # Errors
    ///
    /// The connection was evicted while it waited.
    fn reattach(&self, message: &SessionStart, permit: &Permit) -> Result<Option<TrackedSession>, RecvError> {
        let (id, continues) = match message {
            SessionStart::Native { session, continues, .. } => (*session, *continues),
            SessionStart::Classic { .. } => (None, None),
        };
        let mut now = self.admission.lock();
        // Connections are evicted under this lock: a session that is reattached below has an owner for its counts.
        if permit.handle.is_evicted() {
            return Err(RecvError::Evicted);
        }
        let earlier_failures = continues.and_then(|lost| now.reattach(lost));
        let is_new = earlier_failures.is_none();
        // With `--count`, no more sessions are active than may still be wanted.
        while is_new
            && now.sessions_left() > 0
            && now.active >= now.sessions_left()
            && !permit.handle.is_evicted()
        {
            now = self.admission.wait(now, None);
        }
        if permit.handle.is_evicted() {
            return Err(RecvError::Evicted);
        }
        if now.sessions_left() == 0 {
            return Ok(None);
        }
        now.active += u64::from(is_new);
        let failures = earlier_failures.unwrap_or_default();
        // Without `--count`, lost sessions need not be waited for.
        let id = id.filter(|_| self.options.sessions.is_some());
        let id = id.filter(|id| now.track(*id, failures.clone()));
        drop(now);
        Ok(Some(TrackedSession::new(Arc::clone(&self.admission), self.stop.clone(), id, failures)))
    }

    /// Runs a session to its end.
    fn run(
        &self,
        message: SessionStart,
        reader: ConnectionReader,
        permit: &Permit,
        session: &TrackedSession,
        reporter: Box<dyn Reporter + '_>,
    ) -> Result<Summary, RecvError> {
        let reporter = session.failures.wrap(reporter, permit.number);
        let hasher = FileHasher::new(self.options.whole_digests, &reporter);
        let context =
            SessionContext { registry: self.registry, progress: &reporter, hasher: &hasher, permit };
        let mut not_started = Some((message, reader));
        let received = self.run_with_hasher(&hasher, || {
            let started = not_started.take();
            started.map(|(message, reader)| self.dispatch(message, reader, &context))
        });
        let received = match received {
            Ok(received) => received.unwrap_or(Err(RecvError::Busy)),
            Err(error) => Err(RecvError::NoThread(error)),
        };
        if let (Some((message, reader)), Err(error)) = (&not_started, &received) {
            message.reject(reader, error);
        }
        received.map(|summary| {
            let mut summary = Summary { undigested: hasher.unavailable(), ..summary };
            session.failures.merge_earlier(permit.number, &mut summary);
            summary
        })
    }

    /// Runs a session with the thread that hashes whole files, if they are wanted.
    fn run_with_hasher<T>(
        &self,
        hasher: &FileHasher<'_, ReceivedFile>,
        session: impl FnOnce() -> T,
    ) -> io::Result<T> {
        if !self.options.whole_digests {
            return Ok(session());
        }
        self.options.cancel.run_with_hook(|| hasher.stop_waiting(), || hasher.run_with(session)).flatten()
    }

    fn dispatch(
        &self,
        message: SessionStart,
        reader: ConnectionReader,
        context: &SessionContext<'_>,
    ) -> Result<Summary, RecvError> {
        match message {
            SessionStart::Native { hello, .. } => {
                let store = self.destination.session(ImplicitDirs::Private).map_err(RecvError::from);
                let store = store.inspect_err(|error| native::reject(&reader, error))?;
                let mut session = ReceiverSession::new(self.options.names);
                if !context.permit.reserve_streams(MAX_JOINED) {
                    session.disable_streams();
                }
                native::receive(reader, &hello, session, store, context)
            }
            SessionStart::Classic { header } => {
                let store = self.destination.session(ImplicitDirs::Umask)?;
                classic::receive(reader, header, store, self.options.names, context.progress)
            }
        }
    }
}
