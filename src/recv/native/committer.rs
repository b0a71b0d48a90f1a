//! The thread that makes complete entries durable, many at a time, and says `stored`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::busy_time::Stopwatch;
use crate::dest::local::{Item, LocalSession, Placed};
use crate::digest::{Md5, PartRange};
use crate::event::{Event, Reporter};
use crate::md5sum::FileHasher;
use crate::recv::RecvError;
use crate::recv::native::{SessionControl, lock_session};
use crate::recv::received_file::ReceivedFile;
use crate::relpath::RelPath;
use crate::wire::EntryId;

/// A batch is committed when it has so many entries, holds so many bytes, or its first entry waited so long.
/// Far fewer entries than may be in flight, so that the sender never waits for a batch that waits for the sender.
const BATCH_ENTRIES: usize = 512;
const BATCH_BYTES: u64 = 256 << 20;
const BATCH_AGE: Duration = Duration::from_millis(250);

/// An entry that needs nothing more from the sender.
pub struct CommitJob {
    pub id: EntryId,
    pub path: RelPath,
    pub size_bytes: u64,
    /// What of it was there before this session.
    pub resumed_bytes: u64,
    /// Of all of a file, where that is one part.
    pub md5: Option<Md5>,
    /// What of a file was verified last: it is ready to be hashed once mode and time of the file are set, so that what has
    /// hashed all of it can tell whether it changed.
    pub last: Option<PartRange>,
    pub item: Item,
}

/// Commits until the queue is closed and empty.
pub fn commit(
    mut store: LocalSession,
    control: &Mutex<SessionControl>,
    queue: Receiver<Vec<CommitJob>>,
    progress: &dyn Reporter,
    clock: &Stopwatch,
    hasher: &FileHasher<'_, ReceivedFile>,
) -> Result<(), RecvError> {
    let mut told = Ok(());
    while let Ok(first) = queue.recv() {
        let batch = collect(first, &queue);
        let answered = clock.time(|| commit_batch(&mut store, batch, control, progress, hasher));
        // A sender that cannot be told any more is no reason to leave verified files without their names.
        told = told.and(answered);
    }
    told
}

fn collect(mut batch: Vec<CommitJob>, queue: &Receiver<Vec<CommitJob>>) -> Vec<CommitJob> {
    let deadline = Instant::now() + BATCH_AGE;
    let bytes_in =
        |more: &[CommitJob]| more.iter().fold(0u64, |sum, complete| sum.saturating_add(complete.size_bytes));
    let mut bytes = bytes_in(&batch);
    while batch.len() < BATCH_ENTRIES && bytes < BATCH_BYTES {
        match queue.recv_deadline(deadline) {
            Ok(mut more) => {
                bytes = bytes.saturating_add(bytes_in(&more));
                batch.append(&mut more);
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    batch
}

fn commit_batch(
    store: &mut LocalSession,
    batch: Vec<CommitJob>,
    control: &Mutex<SessionControl>,
    progress: &dyn Reporter,
    hasher: &FileHasher<'_, ReceivedFile>,
) -> Result<(), RecvError> {
    let mut labels = Vec::with_capacity(batch.len());
    let mut items = Vec::with_capacity(batch.len());
    for CommitJob { id, path, size_bytes, resumed_bytes, md5, last, item } in batch {
        let (is_file, was_there) = (
            !matches!(item, Item::Dir { .. } | Item::Link { .. }),
            matches!(item, Item::AlreadyThere { .. }),
        );
        labels.push((id, path, size_bytes, resumed_bytes, md5, last, is_file, was_there));
        items.push(item);
    }
    let results = store.commit(items);
    let mut control = lock_session(control);
    for ((id, path, size_bytes, resumed_bytes, md5, last, is_file, was_there), result) in
        labels.into_iter().zip(results)
    {
        match result {
            Ok(placed) => {
                control.session.stored(id);
                let (other_name, is_copy) = match &placed {
                    Placed::Named => (None, false),
                    Placed::Renamed(to) => (Some(to), false),
                    Placed::CopyThere(to) => (Some(to), true),
                    Placed::AlreadyThere => (None, true),
                };
                if let Some(to) = other_name {
                    progress.report(Event::Renamed { from: path.as_bytes(), to: to.as_bytes() });
                }
                if is_file {
                    // Another session may have been the first with the same file.
                    let is_second = !was_there && is_copy;
                    if is_second {
                        progress.report(Event::Undone { bytes: size_bytes });
                    }
                    let was_there = was_there || is_second;
                    if was_there {
                        control.summary.count_skipped(size_bytes);
                    } else {
                        control.summary.count_new(size_bytes);
                        control.summary.resumed_bytes += resumed_bytes;
                    }
                    last.iter().for_each(|range| hasher.on_available(id, *range));
                    let name = other_name.unwrap_or(&path);
                    hasher.on_stored(id, name.as_bytes(), md5, was_there.then_some(size_bytes));
                } else {
                    control.summary.others += 1;
                }
            }
            Err(error) => {
                hasher.on_dropped(id);
                let (code, reason) = (error.code(), error.to_string());
                control.session.fail(id, code, &reason);
                control.summary.count_failure(code);
                progress.report(Event::Failed { name: path.as_bytes(), code, reason: &reason });
            }
        }
    }
    control.flush()
}
