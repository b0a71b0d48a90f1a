//! The native dialect: threads around one [`SenderSession`](crate::wire::SenderSession).
//!
//! ```text
//! walker ──found──▶ announcer ──▶ session ──control──▶ writer ──▶ primary connection ──┐
//!                                  ▲    │                 ▲                             │
//!                                  │    └──jobs──▶ loader ┴─▶ writer ──▶ secondary ones │
//!                                  └───────────────── receive-loop ◀────────────────────┘
//! ```
//!
//! The announcer is the thread that called [`send`]; it runs ahead as far as the session has room. The receive loop
//! hands the receiver's frames to the session, which turns requests into jobs. The loader reads and hashes the parts of
//! the jobs while the writers send those loaded before, each at the rate of its connection; written buffers return to
//! the loader. The scale-streams thread opens secondary connections. Each has a writer, and a receive loop that only
//! reads errors.
//!
//! All queues are bounded. The receive loop waits for no other thread, so that the two ends cannot wait for each other.
//! The session is behind one mutex with one condition variable ([`SessionShared`]).
//!
//! If the MD5 of whole files is requested, the [`FileHasher`] has a thread beside these: the loader starts a file
//! there, and the receive loop passes it what is stored.

mod announcer;
mod body;
mod byte_ledger;
mod carry_over;
mod entry;
mod jobs;
mod load_large;
mod loader;
mod outcome;
mod part_batch;
mod receive_loop;
mod retry;
mod scale_streams;
mod secondary;
mod settle;
mod shutdown;
mod source_file;
mod state;
#[cfg(test)]
mod test_session;
mod wait;
mod walk;
mod writer;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::error::SendError;
use super::options::Streams;
use crate::event::{Reporter, Summary};
use crate::md5sum::FileHasher;
use crate::net::{Connection, IdleTimer, TimedWriter};
use crate::source::Root;
use crate::sync::DropGuard;

use carry_over::CarryOver;
use part_batch::PartBatch;
use shutdown::PrimaryThreads;
use source_file::SourceFile;
use state::SessionShared;
use walk::WalkEvent;
use writer::PrimaryInputs;

pub use retry::Dialer;

/// Events of the walk that may wait for the announcer: enough to find the totals of most trees at once, and few enough
/// for memory.
const WALK_AHEAD: usize = 16 << 10;

/// Sends everything below `roots`, in as many sessions as lost connections require.
pub fn send(
    roots: &[Root],
    dialer: &Dialer<'_>,
    progress: &dyn Reporter,
    hasher: &FileHasher<'_, SourceFile>,
) -> Result<Summary, SendError> {
    let (announcer, found) = bounded(WALK_AHEAD);
    let is_over = AtomicBool::new(false);
    let go_on = || !dialer.cancel.is_cancelled() && !is_over.load(Ordering::Relaxed);
    thread::scope(|scope| {
        // The walk begins before there is a connection. Its end closes the queue, and the end of `found` ends the walk.
        named("walker")
            .spawn_scoped(scope, || walk::walk(roots, announcer, progress, go_on))
            .map_err(SendError::NoThread)?;
        let _guard = DropGuard::new(|| is_over.store(true, Ordering::Relaxed));
        let found = found;
        retry::run_sessions(dialer, progress, |connection, carry_over| {
            run_session(connection, &found, carry_over, dialer, progress, hasher)
        })
    })
}

/// Runs one session on one connection, and others that join it. Entries that it does not settle go to `carry_over`.
fn run_session(
    connection: Connection,
    found: &Receiver<WalkEvent>,
    carry_over: &mut CarryOver,
    dialer: &Dialer<'_>,
    progress: &dyn Reporter,
    hasher: &FileHasher<'_, SourceFile>,
) -> Result<(), SendError> {
    let cancel = dialer.cancel;
    let at = connection.peer().to_string();
    connection.establish().map_err(SendError::Connection)?;
    let idle_timer = IdleTimer::new(dialer.timeout);
    let is_answered = AtomicBool::new(false);
    let (control_tx, control_rx) = bounded(1);
    let shared = SessionShared::new(control_tx, carry_over, progress, hasher, dialer.timeout, cancel)?;
    let primary = Primary { connection: &connection, idle_timer: &idle_timer, is_answered: &is_answered };
    let transfer = || {
        thread::scope(|scope| {
            let queues = SessionQueues::new(control_rx);
            match start_threads(scope, &shared, primary, queues, dialer.streams) {
                Ok(threads) => {
                    announcer::announce_all(&shared, found, carry_over, dialer.state_key);
                    shared.wait_for_end();
                    shutdown::shut_down(&shared, &connection, &threads);
                }
                Err(error) => {
                    // This also ends the threads that were started.
                    shared.end(Err(SendError::NoThread(error)));
                    shutdown::close(&shared, &connection);
                }
            }
        });
    };
    let on_cancel = || {
        shared.end(Err(SendError::Interrupted));
        // At once: the announcer may wait for a disk.
        shared.send_error();
    };
    cancel.run_with_hook(on_cancel, transfer).map_err(SendError::NoThread)?;
    let outcome = outcome::conclude(shared, carry_over);
    if is_answered.into_inner() {
        carry_over.was_answered = true;
        return outcome;
    }
    outcome.map_err(|error| error.into_no_answer(at))
}

/// The connection on which the session was opened.
struct Primary<'a> {
    connection: &'a Connection,
    idle_timer: &'a IdleTimer,
    /// Set at the receiver's first frame.
    is_answered: &'a AtomicBool,
}

/// The queues between the threads of a session. Each end belongs to the threads that use it, so that a queue closes
/// with them.
struct SessionQueues {
    control_rx: Receiver<()>,
    parts: (Sender<PartBatch>, Receiver<PartBatch>),
    unasked: (Sender<PartBatch>, Receiver<PartBatch>),
    /// Buffers for reuse.
    spare: (Sender<Vec<u8>>, Receiver<Vec<u8>>),
}

impl SessionQueues {
    fn new(control_rx: Receiver<()>) -> Self {
        SessionQueues {
            control_rx,
            parts: bounded(loader::LOADED_AHEAD),
            unasked: bounded(loader::LOADED_AHEAD),
            spare: bounded(loader::SPARE_BUFFERS),
        }
    }
}

fn start_threads<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    shared: &'env SessionShared<'_>,
    primary: Primary<'env>,
    queues: SessionQueues,
    streams: Streams,
) -> io::Result<PrimaryThreads<'scope>> {
    let SessionQueues { control_rx, parts: (loaded, parts), unasked: (loaded_unasked, unasked), spare } =
        queues;
    let (written, spare) = spare;
    let Primary { connection, idle_timer, is_answered } = primary;
    named("loader").spawn_scoped(scope, move || loader::load(shared, loaded, loaded_unasked, spare))?;
    let receive_loop = named("receive-loop")
        .spawn_scoped(scope, move || receive_loop::run(shared, connection, idle_timer, is_answered))?;
    let (secondary_parts, secondary_written) = (parts.clone(), written.clone());
    let inputs = PrimaryInputs { control_rx, unasked };
    let timed = TimedWriter::new(connection.clone(), idle_timer.clone(), shared.cancel.clone());
    let writer = named("writer")
        .spawn_scoped(scope, move || writer::write(shared, timed, Some(inputs), parts, &written))?;
    named("scale-streams").spawn_scoped(scope, move || {
        scale_streams::scale_streams(shared, connection, streams, |secondary| {
            let (reading, timed) = secondary.split(idle_timer);
            let (parts, written) = (secondary_parts.clone(), secondary_written.clone());
            // Without a writer the connection is idle until the session closes it.
            named("receive-loop").spawn_scoped(scope, move || secondary::run(shared, reading))?;
            named("writer")
                .spawn_scoped(scope, move || writer::write(shared, timed, None, parts, &written))
                .map(drop)
        });
    })?;
    Ok(PrimaryThreads { receive_loop, writer })
}

fn named(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.into())
}
