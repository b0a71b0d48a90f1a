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
use crate::digest::PART_BYTES;
use crate::md5sum::Lister;
use crate::net::{self, LastHeard, PatientWriter};
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
    progress: &dyn Progress,
    lister: &Lister<'_, Whole>,
) -> Result<Summary, SendError> {
    net::prepare(&stream).map_err(SendError::Connection)?;
    let heard = LastHeard::new(timeout);
    let reading = stream.try_clone().map_err(SendError::Connection)?;
    let writing = stream.try_clone().map_err(SendError::Connection)?;
    let writer = PatientWriter::new(writing, heard.clone());
    let (words, spoken) = bounded(1);
    let shared = Shared::new(words, progress, lister, timeout)?;
    let (to_announcer, found) = bounded(WALK_AHEAD);
    let (loaded, parts) = bounded(loader::LOADED_AHEAD);
    thread::scope(|scope| {
        // Moved in, so that the queues close when their writers end.
        scope.spawn(move || walk(roots, to_announcer, progress));
        scope.spawn(|| loader::load(&shared, loaded));
        scope.spawn(|| ear::listen(&shared, reading, &heard));
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
            let start = Instant::now();
            while !writing.is_finished() && start.elapsed() < LAST_WORDS {
                thread::sleep(Duration::from_millis(1));
            }
        }
        // Wakes whoever still reads or writes.
        let _ = stream.shutdown(Shutdown::Both);
        shared.hang_up();
    });
    shared.into_outcome()
}
fn walk(roots: &[Root], to_announcer: Sender<Walked>, progress: &dyn Progress) {
    let told = plan::find_files(roots, |found| {
        if let Found::File(source) = &found {
            progress.event(Event::Planned { files: 1, bytes: source.size_bytes });
        }
        to_announcer.send(Walked::Found(found)).is_ok()
    });
    progress.event(Event::PlanComplete);
    if to_announcer.send(Walked::FilesComplete).is_ok() {
        plan::find_others(roots, &told, |found| to_announcer.send(Walked::Found(found)).is_ok());
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
                found.recv_timeout(PULSE)
            }
        };
        let next = match next {
            Ok(next) => next,
            Err(RecvTimeoutError::Timeout) => {
                shared.lock().session.busy();
                shared.speak();
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
                    // Only files of several parts can be taken up again.
                    (source.size_bytes > PART_BYTES).then(|| source.state_digest()),
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
