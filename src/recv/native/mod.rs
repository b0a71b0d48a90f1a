//! Native senders. Threads of a session:
//!
//! ```text
//! primary connection ──▶ reader ──┐
//! joined connection  ──▶ stream ──┼─▶ verifier ──▶ committer
//!                                 │       │            │
//!                                 └── session state ───┴──▶ outbox ──▶ writer ──▶ primary connection
//! ```
//!
//! Small files are verified in memory, many at a time, before they are written. Parts of larger files are written to their
//! staged file at once and read back by the verifier, a window of them in parallel.
//!
//! A thread for deferred files starts when the first file is deferred. If the MD5 of whole files is wanted, the
//! [`FileHasher`](crate::md5sum::FileHasher) has one more thread, which reads each larger file from its start as far as its
//! parts are verified.

mod checkpoint;
mod committer;
mod control;
mod control_writer;
mod deferred;
pub mod file_table;
mod files;
mod outbox;
mod outcome;
mod planner;
mod probe;
mod reader;
mod reporting;
mod resume_check;
mod session;
mod streams;
mod threads;
mod timers;
mod verifier;
mod work;

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, never};

use crate::busy_time::Bottleneck;
use crate::dest::local::LocalSession;
use crate::event::Summary;
use crate::recv::connection_reader::ConnectionReader;
use crate::recv::error::RecvError;
use crate::recv::registry::{JoinQueue, JoinedConnection, MAX_JOINED, SessionGuard};
use crate::relpath::NamePolicy;
use crate::sync::DropGuard;
use crate::wire::{ReceiverSession, WireError};

use control::SessionControl;
use control_writer::{ControlWriter, timed_writer, write_pending};
use deferred::DeferredFiles;
use files::InboundFiles;
use outbox::Outbox;
use outcome::SessionOutcome;
use planner::Planner;
use reader::Reader;
use session::Session;
use streams::{FinishedStreams, StreamStarter};
use threads::spawn;
use work::{CommitJob, CommitQueue, VerifyJobs, verify_queue};

pub use session::SessionContext;

/// Receiving ends of the queues of a session, for the threads that empty them.
struct QueueEnds {
    wakes: Receiver<()>,
    joins: Receiver<JoinedConnection>,
    verify_jobs: VerifyJobs,
    commits: Receiver<Vec<CommitJob>>,
}

/// The place of a session in the registry: where connections join, and the guard that is held until its files are kept.
type Registration<'a> = (JoinQueue<'a>, SessionGuard<'a>);

/// Takes a session from its first frame, `hello`, to its receipt, and closes the connection.
pub fn receive(
    mut reader: ConnectionReader,
    hello: &[u8],
    session: ReceiverSession,
    store: LocalSession,
    context: &SessionContext<'_>,
) -> Result<Summary, RecvError> {
    let (outbox, wakes) = Outbox::new();
    let outbox = Arc::new(outbox);
    let mut control = SessionControl::new(session, &reader, Arc::clone(&outbox));
    let opened = open(&mut control, hello, &reader, context);
    let opened = opened.and_then(|registration| Ok((registration, SessionOutcome::new()?)));
    let (registration, outcome) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            let _ = control.close(Some(&error));
            write_pending(&outbox, &reader);
            reader.close();
            return Err(error);
        }
    };
    let (commit_queue, commits) = CommitQueue::new();
    let (verifier, verify_jobs) = verify_queue();
    let joins = registration.as_ref().map_or_else(never, |(joins, _)| joins.queue());
    let session = Session::new(control, outbox, outcome, commit_queue, verifier, context);
    let files = InboundFiles::new(&session);
    let finished = FinishedStreams::default();
    let queues = QueueEnds { wakes, joins, verify_jobs, commits };
    // Until all threads have ended, however they end, a session that continues this one waits.
    let (joining, mut guard) = registration.unzip();
    let result = thread::scope(|scope| {
        let threads = SessionThreads { scope, session: &session, files: &files, finished: &finished };
        threads.run(&mut reader, &store, joining, &mut guard, queues)
    });
    reader.close();
    result
}

/// Answers `hello`, and registers the session first, so that connections can join at once.
fn open<'a>(
    control: &mut SessionControl,
    hello: &[u8],
    reader: &ConnectionReader,
    context: &SessionContext<'a>,
) -> Result<Option<Registration<'a>>, RecvError> {
    control.session.handle(hello)?;
    let max_joined = if control.session.takes_streams() { MAX_JOINED } else { 0 };
    let id = control.session.id();
    let registration =
        id.map(|id| context.registry.open(id, reader.connection().clone(), max_joined)).transpose()?;
    control.flush()?;
    Ok(registration)
}

/// Ends a connection whose first frame is refused.
pub fn reject(reader: &ConnectionReader, error: &RecvError) {
    let outbox = Arc::new(Outbox::new().0);
    let mut control =
        SessionControl::new(ReceiverSession::new(NamePolicy::Strict), reader, Arc::clone(&outbox));
    let _ = control.close(Some(error));
    write_pending(&outbox, reader);
    reader.close();
}

struct SessionThreads<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    session: &'scope Session<'scope>,
    files: &'scope InboundFiles<'scope>,
    finished: &'scope FinishedStreams,
}

impl<'scope> SessionThreads<'scope, '_> {
    /// Runs the session in the calling thread, which reads the primary connection, and in threads of its own.
    fn run(
        self,
        reader: &mut ConnectionReader,
        store: &LocalSession,
        joining: Option<JoinQueue<'_>>,
        guard: &mut Option<SessionGuard<'_>>,
        queues: QueueEnds,
    ) -> Result<Summary, RecvError> {
        // No thread waits for another one, however the session ends.
        let _close = DropGuard::new(|| self.session.close());
        let start = Instant::now();
        let QueueEnds { wakes, joins, verify_jobs, commits } = queues;
        let writer = match self.start_writer(reader, store, wakes, joins) {
            Ok(writer) => writer,
            Err(error) => {
                let _ = self.session.lock().close(Some(&error));
                write_pending(&self.session.outbox, reader);
                return Err(error);
            }
        };
        let received = self.receive_and_commit(reader, store, joining, guard, verify_jobs, commits);
        self.conclude(received, start.elapsed())?;
        // The receipt is written before the connection is closed.
        writer.join().unwrap_or_else(|panic| resume_unwind(panic));
        let mut control = self.session.lock();
        control.write_result().map(|()| std::mem::take(&mut control.summary))
    }

    fn start_writer(
        &self,
        reader: &ConnectionReader,
        store: &LocalSession,
        wakes: Receiver<()>,
        joins: Receiver<JoinedConnection>,
    ) -> Result<ScopedJoinHandle<'scope, ()>, RecvError> {
        let writer = ControlWriter {
            connection: timed_writer(reader),
            control: &self.session.control,
            outbox: &self.session.outbox,
            wakes,
            joins,
        };
        let starter = StreamStarter {
            scope: self.scope,
            files: self.files,
            store: store.fork(),
            idle_timer: reader.idle_timer().clone(),
            primary: reader.handle().clone(),
            finished: self.finished,
        };
        spawn(self.scope, "writer", move || writer.run(|joined| starter.start(joined)))
    }

    /// Reads the primary connection until everything is received and committed, or the session fails.
    fn receive_and_commit(
        &self,
        reader: &mut ConnectionReader,
        store: &LocalSession,
        joins: Option<JoinQueue<'_>>,
        guard: &mut Option<SessionGuard<'_>>,
        verify_jobs: VerifyJobs,
        commits: Receiver<Vec<CommitJob>>,
    ) -> Result<(), RecvError> {
        let (session, files) = (self.session, self.files);
        let (committing, verifying) = (store.fork(), store.fork());
        let committer = spawn(self.scope, "committer", move || {
            let _guard = session.outcome.end_on_panic();
            committer::commit(files, committing, commits)
        })?;
        let verifier = spawn(self.scope, "verifier", move || {
            let _guard = session.outcome.end_on_panic();
            verifier::verify(files, verifying, verify_jobs)
        })?;
        if let Some(queue) = session.verifier() {
            let deferred = DeferredFiles::new(self.scope, Planner::new(store.fork(), files, queue.clone()));
            let primary = Reader::primary(store.fork(), files, queue, deferred);
            session.outcome.end_if_failed(primary.read(reader));
        }
        // No connection can join any more, and the verifier ends with the last reader.
        drop(joins);
        session.close_verifier();
        verifier.join().unwrap_or_else(|panic| resume_unwind(panic));
        // The committer stores what is complete, whatever became of the rest.
        session.commits.close();
        let committed = committer.join().unwrap_or(Err(RecvError::Panicked));
        // Partial files are kept: a session that continues this one can resume them.
        checkpoint::checkpoint(files, true);
        drop(guard.take());
        session.outcome.take().and(committed)
    }

    /// Queues the last frames: the receipt, or the error.
    fn conclude(&self, received: Result<(), RecvError>, elapsed: Duration) -> Result<(), RecvError> {
        let mut control = self.session.lock();
        let spent = self.session.timers.busy_time(1 + self.finished.count());
        control.session.set_spent(spent);
        control.summary.limit = Bottleneck::of_receiver(spent, elapsed);
        control.summary.moved_bytes = self.session.reporter.moved_bytes();
        let result = received.and_then(|()| match control.session.finish() {
            Some(_) => Ok(()),
            None => Err(WireError::Protocol("the session ended unsettled".into()).into()),
        });
        let queued = control.close(result.as_ref().err());
        result.and(queued)
    }
}
