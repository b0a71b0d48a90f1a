//! The native dialect: threads around one [`SenderSession`](crate::wire::SenderSession).
//!
//! ```text
//! walker ──found──▶ announcer ──words──▶ writer ──▶ first connection
//!                                  ┌────▶    │
//!            jobs ──▶ loader ──parts         ▼
//!              ▲                   └────▶ writer ──▶ joined connections
//!              └────── session ◀────────── ear
//! ```
//!
//! The announcer runs ahead as far as the session has room. The ear hears what the receiver wants, which makes jobs;
//! the loader reads and hashes them while the writers send what was loaded before, each as fast as its connection
//! takes it. Every queue is bounded, and the ear never waits for another thread, so that the two ends cannot lock each
//! other up.
//!
//! Where the MD5 of whole files is wanted, the [`Lister`] has a thread beside these: the loader begins a file there,
//! and the ear tells it what is stored.

mod backoff;
mod byte_ledger;
mod loader;
mod receive_loop;
mod scale_streams;
mod source_file;
mod state;
mod writer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::SendError;
use crate::event::{Event, Reporter, Summary};
use crate::md5sum::FileHasher;
use crate::net::{Connection, FLUSH_GRACE as QUICKLY, IdleTimer, NetError, Shutdown, TimedWriter};
use crate::source::{self, Root, StateKey, WalkItem};
use crate::sync::{CancelToken, Wake};
use crate::wire::SessionId;

use backoff::Backoff;
use state::{InFlightEntry, SessionShared};

pub use scale_streams::{MAX_STREAMS, Streams};
pub use source_file::SourceFile;

/// Entries that the walk may be ahead: enough to know the totals of most trees at once, little enough to hold.
const WALK_AHEAD: usize = 16 << 10;
/// A word to the receiver when there was nothing else to say for so long.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// Time for telling the receiver why the session ends.
const ERROR_GRACE: Duration = Duration::from_secs(1);
/// A walk that finds nothing for so long may have come to a slow folder: the receiver hears what was found before.
const WALK_FLUSH_DELAY: Duration = Duration::from_millis(1);
/// How often a wait for the walk looks up to see whether the session is over.
const STOP_POLL: Duration = Duration::from_millis(100);

/// How to the receiver, and how often.
pub struct Dialer<'a> {
    /// The receiver, as typed.
    pub host: &'a str,
    /// Opens the first connection.
    pub connect: &'a dyn Fn() -> Result<Connection, NetError>,
    /// Opens another one.
    pub reconnect: &'a dyn Fn() -> Result<Connection, NetError>,
    /// How often in a row that is tried while nothing more is stored or kept.
    pub retries: u32,
    /// Connections of a session.
    pub streams: Streams,
    /// How long the receiver may be silent.
    pub timeout: Duration,
    /// Keys what is told of the state of files.
    pub state_key: &'a StateKey,
    /// Rung, it ends all of it.
    pub cancel: &'a CancelToken,
}

/// What outlives a connection.
#[derive(Default)]
pub struct CarryOver {
    pub summary: Summary,
    /// Entries that were announced and not settled, in their order.
    unsettled: Vec<InFlightEntry>,
    /// What the walker found and nobody announced yet.
    next: Option<WalkEvent>,
    /// What the walk found so far.
    files: u64,
    bytes: u64,
    is_plan_complete: bool,
    /// Entries that earlier sessions announced.
    pub announced_before: u64,
    pub last_session: Option<SessionId>,
    /// What the receiver was found to have kept of files that were cut; counts only what exceeds an earlier find.
    pub kept_bytes: u64,
    /// Has the receiver ever said anything?
    was_answered: bool,
}

/// What the walker tells the announcer.
enum WalkEvent {
    Found(WalkItem),
    /// All files are found; folders and links follow.
    FilesComplete,
}

/// Sends everything below `roots`: on one connection, and if that is lost on others, as long as more and more is stored or kept.
pub fn send(
    roots: &[Root],
    route: &Dialer<'_>,
    progress: &dyn Reporter,
    hasher: &FileHasher<'_, SourceFile>,
) -> Result<Summary, SendError> {
    let cancel = route.cancel;
    let (to_announcer, found) = bounded(WALK_AHEAD);
    let is_over = AtomicBool::new(false);
    let go_on = || !cancel.is_cancelled() && !is_over.load(Ordering::Relaxed);
    thread::scope(|scope| {
        // Moved in, so that the queue closes when the walk ends. It need not wait for the connection.
        let walker = thread::Builder::new().name("walker".into());
        walker
            .spawn_scoped(scope, || walk(roots, to_announcer, progress, go_on))
            .map_err(SendError::NoThread)?;
        let _end = EndOnDrop(&is_over);
        let found = found;
        let mut stream = (route.connect)()?;
        let mut left = CarryOver::default();
        let mut backoff = Backoff::new(route.retries);
        loop {
            let (before, began) = (left.progress(), Instant::now());
            let mut error = match run_session(stream, &found, &mut left, route, progress, hasher) {
                Ok(()) => return Ok(left.summary),
                Err(error) if error.is_disconnect() => error.into_lost(route.host, 0),
                Err(error) => error,
            };
            backoff.on_session_end(left.progress() != before, began.elapsed());
            stream = loop {
                let attempts = backoff.attempts();
                let Some(pause) = backoff.next_pause().filter(|_| error.is_retryable()) else {
                    return Err(if left.was_answered {
                        error.into_lost(route.host, attempts)
                    } else {
                        error
                    });
                };
                progress.report(Event::Lost { reason: &error.to_string(), pause });
                let waited = cancel.wait(Some(pause)).map_err(SendError::Connection)?;
                if waited == Wake::Cancelled {
                    return Err(SendError::Interrupted);
                }
                match (route.reconnect)() {
                    Ok(stream) => break stream,
                    Err(again) => error = again.into(),
                }
            };
            left.summary.reconnects += 1;
        }
    })
}

impl CarryOver {
    /// Entries that were announced and are not settled; they come before those that were to be announced again.
    fn put_back(&mut self, unsettled: impl Iterator<Item = InFlightEntry>) {
        let not_again = std::mem::take(&mut self.unsettled);
        self.unsettled = unsettled.chain(not_again).collect();
    }

    /// Differs if in between an entry was stored or failed, or the receiver was found to have kept more of a file. That
    /// bytes have left is no progress: a receiver that crashes on one file takes bytes of it each time.
    fn progress(&self) -> (u64, u64, u64) {
        (self.summary.files + self.summary.others, self.summary.failed(), self.kept_bytes)
    }
}

/// One session on one connection, and more that join it. What it did not settle is left.
fn run_session(
    connection: Connection,
    found: &Receiver<WalkEvent>,
    left: &mut CarryOver,
    route: &Dialer<'_>,
    progress: &dyn Reporter,
    hasher: &FileHasher<'_, SourceFile>,
) -> Result<(), SendError> {
    let cancel = route.cancel;
    let at = connection.peer().to_string();
    connection.establish().map_err(SendError::Connection)?;
    let idle_timer = IdleTimer::new(route.timeout);
    let writer = TimedWriter::new(connection.clone(), idle_timer.clone(), cancel.clone());
    let is_answered = AtomicBool::new(false);
    let (control_tx, control_rx) = bounded(1);
    let shared = SessionShared::new(control_tx, left, progress, hasher, route.timeout, cancel)?;
    let (loaded, parts) = bounded(loader::LOADED_AHEAD);
    let (loaded_unasked, unasked) = bounded(loader::LOADED_AHEAD);
    let (used, spare) = bounded(loader::SPARE);
    let transfer = || {
        thread::scope(|scope| {
            let named = |name: &str| thread::Builder::new().name(name.into());
            let (shared, connection, idle_timer, streams) =
                (&shared, &connection, &idle_timer, route.streams);
            let (used, is_answered) = (&used, &is_answered);
            let start = || {
                named("loader")
                    .spawn_scoped(scope, move || loader::load(shared, loaded, loaded_unasked, spare))?;
                let hearing = named("ear").spawn_scoped(scope, move || {
                    receive_loop::run(shared, connection, idle_timer, is_answered)
                })?;
                let joining = parts.clone();
                let first = writer::PrimaryInputs { control_rx, unasked };
                let writing = named("writer")
                    .spawn_scoped(scope, move || writer::write(shared, writer, Some(first), parts, used))?;
                named("streams").spawn_scoped(scope, move || {
                    scale_streams::scale_streams(shared, connection, streams, |joined| {
                        let (ear, writer) = joined.split(idle_timer);
                        let joining = joining.clone();
                        let writes = move || writer::write(shared, writer, None, joining, used);
                        // Without a writer it carries nothing, and is closed with the session.
                        named("ear")
                            .spawn_scoped(scope, move || receive_loop::run_secondary(shared, &ear))?;
                        named("writer").spawn_scoped(scope, writes).map(drop)
                    });
                })?;
                io::Result::Ok((hearing, writing))
            };
            let (hearing, writing) = match start() {
                Ok(started) => started,
                Err(error) => {
                    // Those that were started end with the session.
                    shared.end(Err(SendError::NoThread(error)));
                    let _ = connection.shutdown(Shutdown::Both);
                    return shared.close_all();
                }
            };
            announce(shared, found, left, route.state_key);
            shared.wait_for_the_end(KEEPALIVE_INTERVAL);
            if shared.send_error() {
                // The receiver is told why, if it still listens.
                let limit = if cancel.is_cancelled() { QUICKLY } else { ERROR_GRACE };
                wait_until(limit, || writing.is_finished());
            }
            if cancel.is_cancelled() && writing.is_finished() && connection.shutdown(Shutdown::Write).is_ok()
            {
                // It brings what is complete to its end, says `stored` of it, and closes.
                wait_until(QUICKLY, || hearing.is_finished());
            }
            // Wakes whoever still reads or writes.
            let _ = connection.shutdown(Shutdown::Both);
            shared.close_all();
        });
    };
    let interrupted = || {
        shared.end(Err(SendError::Interrupted));
        // Not later: whoever would do it may wait for a disk.
        shared.send_error();
    };
    cancel.run_with_hook(interrupted, transfer).map_err(SendError::NoThread)?;
    let outcome = shared.into_outcome(left);
    if is_answered.into_inner() {
        left.was_answered = true;
        return outcome;
    }
    outcome.map_err(|error| error.into_no_answer(at))
}

/// Waits for something that nobody tells of, a moment at a time.
fn wait_until(limit: Duration, is_over: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_over() && start.elapsed() < limit {
        thread::sleep(Duration::from_millis(1));
    }
}

struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn walk(
    roots: &[Root],
    to_announcer: Sender<WalkEvent>,
    progress: &dyn Reporter,
    go_on: impl Fn() -> bool + Copy,
) {
    let told = source::walk_files(roots, go_on, |found| {
        if let WalkItem::File(source) = &found {
            progress.report(Event::Planned { files: 1, bytes: source.size_bytes });
        }
        to_announcer.send(WalkEvent::Found(found)).is_ok()
    });
    if !go_on() {
        return;
    }
    progress.report(Event::PlanComplete);
    if to_announcer.send(WalkEvent::FilesComplete).is_ok() {
        source::walk_dirs_and_links(roots, &told, go_on, |found| {
            to_announcer.send(WalkEvent::Found(found)).is_ok()
        });
    }
}

/// Announces what is left of an earlier session and what the walker finds, then the end; returns early when the session
/// is over.
fn announce(shared: &SessionShared<'_>, found: &Receiver<WalkEvent>, left: &mut CarryOver, key: &StateKey) {
    let progress = shared.progress;
    let mut again = std::mem::take(&mut left.unsettled).into_iter();
    let mut again = std::iter::from_fn(|| again.next());
    while let Some(announced) = again.next() {
        match shared.wait_for_room(KEEPALIVE_INTERVAL) {
            Some(mut state) => state.announce(announced, key, progress),
            None => {
                left.unsettled.push(announced);
                left.unsettled.extend(again);
                return;
            }
        }
    }
    if left.is_plan_complete
        && let Some(mut state) = shared.wait_for_room(KEEPALIVE_INTERVAL)
    {
        state.session.totals(left.files, left.bytes);
    }
    loop {
        let next = match left.next.take().map_or_else(|| found.recv_timeout(WALK_FLUSH_DELAY), Ok) {
            Err(RecvTimeoutError::Timeout) => {
                shared.wake_writer();
                found.recv_timeout(STOP_POLL)
            }
            next => next,
        };
        let next = match next {
            Ok(next) => next,
            Err(RecvTimeoutError::Timeout) => {
                if !shared.keepalive(KEEPALIVE_INTERVAL) {
                    return;
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let Some(mut state) = shared.wait_for_room(KEEPALIVE_INTERVAL) else {
            left.next = Some(next);
            return;
        };
        match next {
            WalkEvent::FilesComplete => {
                left.is_plan_complete = true;
                state.session.totals(left.files, left.bytes);
            }
            WalkEvent::Found(WalkItem::File(source)) => {
                left.files += 1;
                left.bytes += source.size_bytes;
                state.announce(InFlightEntry::file(Arc::new(source)), key, progress);
            }
            WalkEvent::Found(WalkItem::Dir { name, metadata }) => {
                state.announce(InFlightEntry::Dir(name, metadata), key, progress);
            }
            WalkEvent::Found(WalkItem::Link { name, target, metadata }) => {
                state.announce(InFlightEntry::Link { name, target, metadata }, key, progress);
            }
            WalkEvent::Found(WalkItem::Skipped { path, fault, reason }) => {
                state.summary.count_failure(fault);
                let name = path.as_os_str().as_encoded_bytes();
                shared.progress.report(Event::Failed { name, fault, reason: &reason });
            }
        }
    }
    if let Some(mut state) = shared.wait_for_room(KEEPALIVE_INTERVAL) {
        state.session.end();
        drop(state);
        shared.wake_writer();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NullReporter;
    use crate::relpath::{NamePolicy, RelPath};
    use crate::source::Source;
    use std::fs;
    use std::path::Path;

    /// A session without a connection.
    pub fn with_shared(test: impl FnOnce(&SessionShared<'_>)) {
        let (control_tx, _spoken) = bounded(1);
        let (hasher, cancel) = (FileHasher::new(false, &NullReporter), CancelToken::new().unwrap());
        let timeout = Duration::from_secs(60);
        let mut left = CarryOver::default();
        test(&SessionShared::new(control_tx, &mut left, &NullReporter, &hasher, timeout, &cancel).unwrap());
    }

    /// Announces a file as the only entry, of which the receiver then wants `parts`.
    pub fn announce(shared: &SessionShared<'_>, path: &Path, parts: &str) -> Arc<Source> {
        let name = RelPath::new(b"a", NamePolicy::Strict).unwrap();
        let source = Arc::new(Source::new(path.to_owned(), name, &rustix::fs::lstat(path).unwrap()));
        let mut state = shared.lock();
        state.session.handle(br#"{"ftx":"welcome","version":1}"#).unwrap();
        state.announce(InFlightEntry::file(Arc::clone(&source)), &StateKey::of_this_process(), &NullReporter);
        let want = format!(r#"{{"ftx":"want","entries":[[0,0]],"parts":"{parts}"}}"#);
        state.session.handle(want.as_bytes()).unwrap();
        source
    }

    /// Writes the first byte of a file once more: its content stays as it is, and its date changes.
    pub fn rewrite(source: &Source, path: &Path) {
        if let Some(left) = source.unsettled_for() {
            thread::sleep(left);
        }
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        let mut first = [0];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut first, 0).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &first, 0).unwrap();
    }
}
