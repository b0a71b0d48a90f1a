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

mod ear;
mod loader;
mod state;
mod streams;
mod whole;
mod writer;

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::SendError;
use crate::md5sum::Lister;
use crate::net::{self, Bell, LAST_WORDS as QUICKLY, LastHeard, PatientWriter};
use crate::plan::{self, Found, Root};
use crate::progress::{Event, Progress, Summary};

use state::{Announced, Shared};

pub use streams::{MAX_STREAMS, Streams};
pub use whole::Whole;

/// Entries that the walk may be ahead: enough to know the totals of most trees at once, little enough to hold.
const WALK_AHEAD: usize = 16 << 10;
/// A word to the receiver when there was nothing else to say for so long.
const PULSE: Duration = Duration::from_secs(1);

/// Time for telling the receiver why the session ends.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often a wait for the walk looks up to see whether the session is over.
const LOOK_UP: Duration = Duration::from_millis(100);

/// What the walker tells the announcer.
enum Walked {
    Found(Found),
    /// All files are found; folders and links follow.
    FilesComplete,
}

/// Sends everything below `roots` to the receiver that `stream` leads to.
pub fn send(
    roots: &[Root],
    stream: TcpStream,
    streams: Streams,
    timeout: Duration,
    interrupt: &Bell,
    progress: &dyn Progress,
    lister: &Lister<'_, Whole>,
) -> Result<Summary, SendError> {
    net::prepare(&stream).map_err(SendError::Connection)?;
    let heard = LastHeard::new(timeout);
    let reading = stream.try_clone().map_err(SendError::Connection)?;
    let writing = stream.try_clone().map_err(SendError::Connection)?;
    let writer = PatientWriter::new(writing, heard.clone(), interrupt.clone());
    let (words, spoken) = bounded(1);
    let shared = Shared::new(words, progress, lister, timeout, interrupt)?;
    let (to_announcer, found) = bounded(WALK_AHEAD);
    let (loaded, parts) = bounded(loader::LOADED_AHEAD);
    let transfer = || {
        thread::scope(|scope| {
            // Moved in, so that the queues close when their writers end.
            scope.spawn(|| walk(&shared, roots, to_announcer));
            scope.spawn(|| loader::load(&shared, loaded));
            let hearing = scope.spawn(|| ear::listen(&shared, reading, &heard));
            let joining = parts.clone();
            let writing = scope.spawn(|| writer::write(&shared, writer, Some(spoken), parts));
            let (shared, stream, heard) = (&shared, &stream, &heard);
            scope.spawn(move || {
                streams::grow(shared, stream, streams, |joined| {
                    let (ear, writer) = joined.split(heard)?;
                    let joining = joining.clone();
                    scope.spawn(move || ear::listen_joined(shared, ear));
                    scope.spawn(move || writer::write(shared, writer, None, joining));
                    Ok(())
                });
            });
            announce(shared, found);
            shared.wait_for_the_end(PULSE);
            if shared.give_up() {
                // The receiver is told why, if it still listens.
                let limit = if interrupt.is_rung() { QUICKLY } else { LAST_WORDS };
                wait_until(limit, || writing.is_finished());
            }
            if interrupt.is_rung() && writing.is_finished() && stream.shutdown(Shutdown::Write).is_ok() {
                // It brings what is complete to its end, says `stored` of it, and closes.
                wait_until(QUICKLY, || hearing.is_finished());
            }
            // Wakes whoever still reads or writes.
            let _ = stream.shutdown(Shutdown::Both);
            shared.hang_up();
        })
    };
    let interrupted = || {
        shared.end(Err(SendError::Interrupted));
        // Not later: whoever would do it may wait for a disk.
        shared.give_up();
    };
    interrupt.beside(interrupted, transfer).map_err(SendError::Connection)?;
    shared.into_outcome()
}

/// Waits for something that nobody tells of, a moment at a time.
fn wait_until(limit: Duration, is_over: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_over() && start.elapsed() < limit {
        thread::sleep(Duration::from_millis(1));
    }
}

fn walk(shared: &Shared<'_>, roots: &[Root], to_announcer: Sender<Walked>) {
    let progress = shared.progress;
    let go_on = || !shared.interrupt.is_rung();
    let told = plan::find_files(roots, go_on, |found| {
        if let Found::File(source) = &found {
            progress.event(Event::Planned { files: 1, bytes: source.size_bytes });
        }
        to_announcer.send(Walked::Found(found)).is_ok()
    });
    if !go_on() {
        return;
    }
    progress.event(Event::PlanComplete);
    if to_announcer.send(Walked::FilesComplete).is_ok() {
        plan::find_others(roots, &told, go_on, |found| to_announcer.send(Walked::Found(found)).is_ok());
    }
}

/// Announces what the walker finds, then the end; returns early when the session is over.
fn announce(shared: &Shared<'_>, found: Receiver<Walked>) {
    let (mut files, mut bytes) = (0, 0);
    loop {
        let next = match found.try_recv() {
            Ok(next) => Ok(next),
            Err(_) => {
                shared.speak();
                found.recv_timeout(LOOK_UP)
            }
        };
        let next = match next {
            Ok(next) => next,
            Err(RecvTimeoutError::Timeout) => {
                if !shared.pulse(PULSE) {
                    return;
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let Some(mut state) = shared.wait_for_room(PULSE) else {
            return;
        };
        match next {
            Walked::FilesComplete => state.session.totals(files, bytes),
            Walked::Found(Found::File(source)) => {
                files += 1;
                bytes += source.size_bytes;
                let id = state.session.announce_file(
                    &source.name,
                    source.size_bytes,
                    source.is_sparse,
                    source.metadata,
                );
                state.announced.insert(id, Announced::file(Arc::new(source)));
            }
            Walked::Found(Found::Dir { name, metadata }) => {
                let id = state.session.announce_dir(&name, metadata);
                state.announced.insert(id, Announced::Other(name));
            }
            Walked::Found(Found::Link { name, target, metadata }) => {
                let id = state.session.announce_link(&name, target.as_bytes(), metadata);
                state.announced.insert(id, Announced::Other(name));
            }
            Walked::Found(Found::LeftOut { path, fault, reason }) => {
                state.summary.count_failure(fault);
                let name = path.as_os_str().as_encoded_bytes();
                shared.progress.event(Event::Failed { name, fault, reason: &reason });
            }
        }
    }
    if let Some(mut state) = shared.wait_for_room(PULSE) {
        state.session.end();
        drop(state);
        shared.speak();
    }
}
