//! Native senders: a reader for each connection of the session, and around them a thread that verifies, one that
//! commits, and one that keeps the sender informed.
//!
//! ```text
//! connection ──▶ reader ──┐
//! (joined)   ──▶ reader ──┼─▶ verifier ──complete──▶ committer
//!                         │       │                      │
//!                         └────── session, with its way back to the sender ──────▶ first connection
//! ```
//!
//! Small files are verified in memory, many at a time, before anything of them touches the disk. Larger parts go to
//! their landing at once and are read back by the verifier, a window of them side by side.
//!
//! Where the MD5 of whole files is wanted, the [`Lister`] has a thread beside these, which reads each larger file from
//! its start as far as its parts are verified.

use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;

mod committer;
pub mod files;
mod planner;
mod probe;
mod reader;
mod verifier;

use crate::busy_time::{Bottleneck, BusyTime, Stopwatch};
use crate::dest::local::LocalSession;
use crate::error_code::ErrorCode;
use crate::event::{Reporter, Summary};
use crate::md5sum::FileHasher;
use crate::net::TimedWriter;
use crate::recv::RecvError;
use crate::recv::connection_reader::ConnectionReader;
use crate::recv::handle::ConnectionHandle;
use crate::recv::native::files::InboundFiles;
use crate::recv::native::planner::Planner;
use crate::recv::native::reader::{ConnectionRole, Reader};
use crate::recv::received_file::ReceivedFile;
use crate::recv::registry::{JoinQueue, JoinedConnection, MAX_JOINED, SessionRegistry};
use crate::relpath::NamePolicy;
use crate::wire::{ReceiverSession, WireError};

/// A sign of life for the sender, however busy this side is.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// How often what is in is recorded in the journals: not even a crash costs more than this.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);

/// The session and the way back to the sender. Whoever changes the session sends what it then has to say.
pub struct SessionControl {
    pub session: ReceiverSession,
    pub summary: Summary,
    writer: TimedWriter,
    handle: ConnectionHandle,
    timeout: Duration,
    /// How an earlier write failed.
    broken: Option<io::ErrorKind>,
}

impl SessionControl {
    fn new(session: ReceiverSession, input: &ConnectionReader) -> Self {
        SessionControl {
            session,
            summary: Summary { confirmed: true, ..Summary::default() },
            writer: TimedWriter::new(
                input.connection().clone(),
                input.idle_timer().clone(),
                input.cancel_token().clone(),
            ),
            handle: input.handle().clone(),
            timeout: input.timeout(),
            broken: None,
        }
    }

    /// This side was at work with what the peer delivered.
    pub fn record_busy(&self, time: Duration) {
        self.handle.record_busy(time);
    }

    /// Sends what the session has to say.
    pub fn flush(&mut self) -> Result<(), RecvError> {
        let output = self.session.take_output();
        self.handle.set_in_flight(self.session.in_flight());
        if let Some(kind) = self.broken {
            // A frame was cut: whatever comes behind it would be misread.
            return Err(self.write_error(kind.into()));
        }
        self.writer.write_all(&output).map_err(|error| {
            self.broken = Some(error.kind());
            self.write_error(error)
        })
    }

    fn write_error(&self, error: io::Error) -> RecvError {
        match error.kind() {
            io::ErrorKind::TimedOut => RecvError::IdleTimeout(self.timeout),
            _ => RecvError::Connection(error),
        }
    }

    /// Tells the sender why the session ends here, unless it was the one to end it.
    fn send_error(&mut self, error: &RecvError) {
        if matches!(error, RecvError::Wire(WireError::PeerAborted { .. })) {
            return;
        }
        let code = match error {
            RecvError::IdleTimeout(_) | RecvError::HeaderTimeout(_) | RecvError::TooSlow(_) => {
                ErrorCode::Timeout
            }
            RecvError::Busy | RecvError::Evicted | RecvError::NoThread(_) => ErrorCode::Busy,
            RecvError::Wire(WireError::Version { .. }) => ErrorCode::Version,
            RecvError::Truncated(_) | RecvError::Connection(_) => ErrorCode::Connection,
            RecvError::Interrupted => ErrorCode::Interrupted,
            RecvError::Root(error) => error.code(),
            RecvError::Store { error, .. } => error.code(),
            _ => ErrorCode::Protocol,
        };
        let message = match error {
            RecvError::Root(error) => {
                format!("the receiver cannot use its folder: {}; nothing was stored", error.why())
            }
            error => error.to_string(),
        };
        self.session.abort(code, &message);
        // The peer may be gone; then there is nobody to tell.
        let _ = self.flush();
    }
}

/// What the threads of a session were busy with.
#[derive(Default)]
pub struct PhaseTimers {
    /// Readers: waiting for bytes, and writing them.
    pub waiting: Stopwatch,
    pub writing: Stopwatch,
    /// The verifier: reading back and landing small files, and digests.
    pub checking_disk: Stopwatch,
    pub md5: Stopwatch,
    /// The committer.
    pub committing: Stopwatch,
}

impl PhaseTimers {
    /// With so many readers, each with a share of the work.
    fn busy_time(&self, readers: u32) -> BusyTime {
        let disk = [self.writing.spent() / readers, self.checking_disk.spent(), self.committing.spent()];
        let ms = |time: Duration| time.as_millis() as u64;
        BusyTime {
            disk_ms: disk.into_iter().map(ms).max().unwrap_or(0),
            md5_ms: ms(self.md5.spent()),
            network_ms: ms(self.waiting.spent() / readers),
        }
    }
}

pub fn lock_session(control: &Mutex<SessionControl>) -> MutexGuard<'_, SessionControl> {
    control.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a session has of the receiver around it.
pub struct SessionContext<'a> {
    pub registry: &'a SessionRegistry,
    pub progress: &'a dyn Reporter,
    pub hasher: &'a FileHasher<'a, ReceivedFile>,
    /// Looks whether all sessions together hold too much, after this one has said what it holds.
    pub enforce_entry_limit: &'a (dyn Fn() + Sync),
    /// Has an idle session, if there is one, give way for its descriptors.
    pub release_descriptors: &'a (dyn Fn() + Sync),
}

/// Takes a session from its first frame, `hello`, to its receipt.
pub fn receive(
    mut input: ConnectionReader,
    hello: &[u8],
    session: ReceiverSession,
    store: LocalSession,
    context: &SessionContext<'_>,
) -> Result<Summary, RecvError> {
    let mut control = SessionControl::new(session, &input);
    let opened = control.session.handle(hello).map_err(RecvError::from);
    // Before the sender hears `welcome`, so that whoever joins after it finds the session.
    let places = if control.session.takes_streams() { MAX_JOINED } else { 0 };
    let opened = opened.and_then(|_| {
        control
            .session
            .id()
            .map(|id| context.registry.open(id, input.connection().clone(), places))
            .transpose()
    });
    let opened = opened.and_then(|entrance| control.flush().map(|()| entrance));
    let (opened, in_work) = match opened {
        Ok(entrance) => {
            let (entrance, in_work) = entrance.unzip();
            (Ok(entrance), in_work)
        }
        Err(error) => (Err(error), None),
    };
    let control = Mutex::new(control);
    let (timers, start) = (PhaseTimers::default(), Instant::now());
    let outcome = opened.and_then(|entrance| run(&mut input, store, &control, entrance, &timers, context));
    // Everything is kept: a session that goes on with this one may have it.
    drop(in_work);
    let mut control = lock_session(&control);
    let spent = timers.busy_time(1 + outcome.as_ref().map_or(0, |joined| joined.len() as u32));
    control.session.set_spent(spent);
    control.summary.limit = Bottleneck::of_receiver(spent, start.elapsed());
    let outcome = outcome.and_then(|joined| {
        control.session.finish().ok_or_else(|| WireError::Protocol("the session ended unsettled".into()))?;
        control.flush().map(|()| joined)
    });
    if let Err(error) = &outcome {
        control.send_error(error);
    }
    input.close();
    // Joined connections stay open until here: for the sender, the end of one before the receipt is a failure.
    outcome.map(|_joined| std::mem::take(&mut control.summary))
}

/// Ends a connection whose first frame is refused.
pub fn reject(input: &ConnectionReader, error: &RecvError) {
    SessionControl::new(ReceiverSession::new(NamePolicy::Strict), input).send_error(error);
    input.close();
}

/// Until everything is received and committed; returns the connections that joined.
fn run(
    input: &mut ConnectionReader,
    store: LocalSession,
    control: &Mutex<SessionControl>,
    entrance: Option<JoinQueue<'_>>,
    timers: &PhaseTimers,
    context: &SessionContext<'_>,
) -> Result<Vec<JoinedConnection>, RecvError> {
    let ended = (Mutex::new(false), Condvar::new());
    thread::scope(|scope| {
        spawn(scope, "keepalive", || every(KEEPALIVE_INTERVAL, &ended, || keepalive(control)))?;
        // However this ends, the pulse has to: a session that is kept alive for ever would never be given up.
        let _end = EndOnDrop(&ended);
        let committing = store.fork();
        let (complete, to_commit) = unbounded();
        let committer = spawn(scope, "committer", || {
            committer::commit(
                committing,
                control,
                to_commit,
                context.progress,
                &timers.committing,
                context.hasher,
            )
        })?;
        let inbound = InboundFiles::new(control, complete, timers, context)?;
        let read_to_end = (Mutex::new(false), Condvar::new());
        let received = thread::scope(|scope| {
            spawn(scope, "checkpoint", || {
                every(CHECKPOINT_INTERVAL, &read_to_end, || inbound.checkpoint(false))
            })?;
            let _end = EndOnDrop(&read_to_end);
            read_all(input, &store, &inbound, entrance)
        });
        if received.is_err() {
            inbound.checkpoint(true);
        }
        // Closes the queue: the committer finishes what is complete, whatever happened to the rest.
        drop(inbound);
        let ended_early = || Err(RecvError::Connection(io::Error::other("the committer ended early")));
        let committed = committer.join().unwrap_or_else(|_| ended_early());
        received.and_then(|joined| committed.map(|()| joined))
    })
}

/// Reads all connections of the session until everything is handed over to be committed.
fn read_all(
    input: &mut ConnectionReader,
    store: &LocalSession,
    inbound: &InboundFiles<'_>,
    entrance: Option<JoinQueue<'_>>,
) -> Result<Vec<JoinedConnection>, RecvError> {
    let parked = Mutex::new(Vec::new());
    let first = (input.idle_timer().clone(), input.handle().clone());
    thread::scope(|scope| {
        // Owned here, so that the queues close however this ends: the threads that read them end with it.
        let entrance = entrance;
        let (to_verifier, queues) = verifier::queues();
        spawn(scope, "verifier", || verifier::verify(inbound, store.fork(), queues))?;
        let (deferred, waiting) = unbounded();
        let planner = Planner::new(store.fork(), inbound, to_verifier.clone());
        spawn(scope, "decider", || planner::run_deferred(planner, waiting))?;
        if let Some(entrance) = &entrance {
            let (queue, to_verifier, parked) = (entrance.queue(), to_verifier.clone(), &parked);
            let deferred = deferred.clone();
            spawn(scope, "joins", move || {
                for mut joined in queue {
                    joined.reader.join_session(&first);
                    let reader = Reader::new(
                        store.fork(),
                        inbound,
                        to_verifier.clone(),
                        deferred.clone(),
                        ConnectionRole::Secondary,
                    );
                    let reading = spawn(scope, "reader", move || {
                        inbound.end_if_failed(reader.read(&mut joined.reader));
                        parked.lock().unwrap_or_else(PoisonError::into_inner).push(joined);
                    });
                    inbound.end_if_failed(reading.map(drop));
                }
            })?;
        }
        let reader = Reader::new(store.fork(), inbound, to_verifier, deferred, ConnectionRole::Primary);
        inbound.end_if_failed(reader.read(input));
        // Nobody can join any more.
        drop(entrance);
        Ok::<_, RecvError>(())
    })?;
    inbound.outcome().map(|()| parked.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Starts a thread of a session; where the system gives none, the session ends and its sender may come back.
fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, RecvError> {
    thread::Builder::new().name(name.into()).spawn_scoped(scope, work).map_err(RecvError::NoThread)
}

/// Ends what [`every`] does.
pub struct EndOnDrop<'a>(pub &'a (Mutex<bool>, Condvar));

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }
}

/// Does something again and again until the end.
pub fn every(interval: Duration, ended: &(Mutex<bool>, Condvar), work: impl Fn()) {
    let mut over = ended.0.lock().unwrap_or_else(PoisonError::into_inner);
    while !*over {
        let (guard, result) = ended.1.wait_timeout(over, interval).unwrap_or_else(PoisonError::into_inner);
        over = guard;
        if result.timed_out() && !*over {
            // Whoever ends this does not wait for the work.
            drop(over);
            work();
            over = ended.0.lock().unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Tells the sender that this side is alive, so that it can tell slow from dead.
fn keepalive(control: &Mutex<SessionControl>) {
    let mut control = lock_session(control);
    control.session.keepalive();
    if control.session.is_committing() {
        control.record_busy(KEEPALIVE_INTERVAL);
    }
    // A broken connection is noticed by the reader.
    let _ = control.flush();
}
