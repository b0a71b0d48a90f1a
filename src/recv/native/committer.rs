//! The thread that makes complete entries durable, many at a time, and reports them as stored. Between batches it writes the
//! journals of the other files.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::dest::local::{Item, LocalSession, Placed, StoreError};
use crate::digest::{Md5, PartRange};
use crate::event::Event;
use crate::recv::error::RecvError;
use crate::recv::native::checkpoint::{CHECKPOINT_INTERVAL, checkpoint};
use crate::recv::native::control::SessionControl;
use crate::recv::native::files::InboundFiles;
use crate::recv::native::work::CommitJob;
use crate::relpath::RelPath;
use crate::wire::EntryId;

/// A batch is committed when it has this many entries or bytes, or when its first entry has waited this long. The limits are
/// far below that of entries in flight, so that the sender never waits for a batch that waits for the sender.
const BATCH_ENTRIES: usize = 512;
const BATCH_BYTES: u64 = 256 << 20;
/// The longest time that a complete file waits for its batch.
const BATCH_AGE: Duration = Duration::from_millis(250);

/// Commits until the queue is closed and empty; then closes the journals of files that are not complete.
///
/// # Errors
///
/// The sender could not be told of a batch. All entries of the queue are committed nevertheless.
pub fn commit(
    files: &InboundFiles<'_>,
    mut store: LocalSession,
    queue: Receiver<Vec<CommitJob>>,
) -> Result<(), RecvError> {
    let mut result = Ok(());
    let mut checkpoint_at = Instant::now() + CHECKPOINT_INTERVAL;
    loop {
        match queue.recv_deadline(checkpoint_at) {
            Ok(first) => {
                let batch = collect(first, &queue);
                let timers = &files.session.timers;
                result = result.and(timers.committing.time(|| commit_batch(files, &mut store, batch)));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return result,
        }
        if Instant::now() >= checkpoint_at {
            checkpoint(files, false);
            checkpoint_at = Instant::now() + CHECKPOINT_INTERVAL;
        }
    }
}

fn collect(mut batch: Vec<CommitJob>, queue: &Receiver<Vec<CommitJob>>) -> Vec<CommitJob> {
    let deadline = Instant::now() + BATCH_AGE;
    let bytes_in = |jobs: &[CommitJob]| jobs.iter().fold(0u64, |sum, job| sum.saturating_add(job.size_bytes));
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

/// What is reported of an entry once it is committed.
struct Label {
    id: EntryId,
    path: RelPath,
    size_bytes: u64,
    resumed_bytes: u64,
    md5: Option<Md5>,
    last: Option<PartRange>,
    is_file: bool,
    existed: bool,
}

impl Label {
    fn split(job: CommitJob) -> (Label, Item) {
        let CommitJob { id, path, size_bytes, resumed_bytes, md5, last, item } = job;
        let is_file = !matches!(item, Item::Dir { .. } | Item::Link { .. });
        let existed = matches!(item, Item::AlreadyThere { .. });
        (Label { id, path, size_bytes, resumed_bytes, md5, last, is_file, existed }, item)
    }

    /// Counts a committed entry and settles it.
    fn settle(&self, control: &mut SessionControl, result: &Result<Placed, StoreError>) {
        let summary = &mut control.summary;
        match result {
            Ok(_) if !self.is_file => summary.others += 1,
            Ok(placed) if self.existed || is_copy(placed) => summary.count_skipped(self.size_bytes),
            Ok(_) => {
                summary.count_new(self.size_bytes);
                summary.resumed_bytes += self.resumed_bytes;
            }
            Err(error) => summary.count_failure(error.code()),
        }
        match result {
            Ok(_) => control.session.stored(self.id),
            Err(error) => {
                control.session.fail(self.id, error.code(), &error.to_string());
            }
        }
    }

    fn report(&self, files: &InboundFiles<'_>, result: &Result<Placed, StoreError>) {
        let reporter = &files.session.reporter;
        let placed = match result {
            Ok(placed) => placed,
            Err(error) => {
                reporter.hasher.on_dropped(self.id);
                let (name, code) = (self.path.as_bytes(), error.code());
                return reporter.report(Event::Failed { name, code, reason: &error.to_string() });
            }
        };
        let other_name = match placed {
            Placed::Renamed(to) | Placed::CopyThere(to) => Some(to),
            Placed::Named | Placed::AlreadyThere => None,
        };
        if let Some(to) = other_name {
            reporter.report(Event::Renamed { from: self.path.as_bytes(), to: to.as_bytes() });
        }
        if self.is_file {
            // Another session may have stored the same file first.
            if !self.existed && is_copy(placed) {
                reporter.report(Event::Undone { bytes: self.size_bytes });
            }
            self.last.iter().for_each(|range| reporter.hasher.on_available(self.id, *range));
            let name = other_name.unwrap_or(&self.path);
            let existing_bytes = (self.existed || is_copy(placed)).then_some(self.size_bytes);
            reporter.hasher.on_stored(self.id, name.as_bytes(), self.md5, existing_bytes);
        }
    }
}

/// Was the entry found to exist already when it was committed?
fn is_copy(placed: &Placed) -> bool {
    matches!(placed, Placed::CopyThere(_) | Placed::AlreadyThere)
}

fn commit_batch(
    files: &InboundFiles<'_>,
    store: &mut LocalSession,
    batch: Vec<CommitJob>,
) -> Result<(), RecvError> {
    let (labels, items): (Vec<Label>, Vec<Item>) = batch.into_iter().map(Label::split).unzip();
    let results = store.commit(items);
    let mut control = files.session.lock();
    for (label, result) in labels.iter().zip(&results) {
        label.settle(&mut control, result);
    }
    let flushed = control.flush();
    drop(control);
    for (label, result) in labels.iter().zip(&results) {
        label.report(files, result);
    }
    flushed
}
