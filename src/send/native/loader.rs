//! The thread that reads and hashes what the receiver wants, one batch ahead of the writer.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::super::classic::fault_of;
use super::ear::failed;
use super::state::{Announced, Shared};
use super::writer::{Loaded, Outgoing};
use crate::digest::Md5;
use crate::plan::{OpenSource, ReadError, Source};
use crate::wire::EntryId;
use crate::wire::sender::Job;

/// Small parts are handed to the writer together, up to so many bytes.
const BATCH_BYTES: usize = 1 << 20;
const LOOK_UP: Duration = Duration::from_secs(1);

/// Loads parts until the session is over.
pub fn load(shared: &Shared<'_>, outgoing: Sender<Outgoing>) {
    // Parts of one file come one after another: it stays open between them.
    let mut open: Option<(EntryId, OpenSource)> = None;
    loop {
        let Some((mut job, mut source)) = next_job(shared) else {
            return;
        };
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        loop {
            match load_part(&job, &source, &mut open) {
                Ok(loaded) => {
                    batch_bytes += loaded.body.len();
                    batch.push(loaded);
                }
                Err(error) => withdraw(shared, job.entry, &error),
            }
            if batch_bytes >= BATCH_BYTES {
                break;
            }
            match job_at_hand(shared) {
                Some(next) => (job, source) = next,
                None => break,
            }
        }
        if outgoing.send(Outgoing::Parts(batch)).is_err() {
            return;
        }
    }
}

/// Waits for a job; `None` when the session is over.
fn next_job(shared: &Shared<'_>) -> Option<(Job, Arc<Source>)> {
    loop {
        if let Some(next) = job_at_hand(shared) {
            return Some(next);
        }
        let state = shared.lock();
        if state.outcome.is_some() {
            return None;
        }
        if !state.session.has_job() {
            drop(shared.wait(state, LOOK_UP));
        }
    }
}

fn job_at_hand(shared: &Shared<'_>) -> Option<(Job, Arc<Source>)> {
    let mut state = shared.lock();
    if state.outcome.is_some() {
        return None;
    }
    let job = state.session.next_job()?;
    match state.announced.get(&job.entry) {
        Some(Announced::File { source, .. }) => Some((job, Arc::clone(source))),
        _ => None,
    }
}

fn load_part(
    job: &Job,
    source: &Arc<Source>,
    open: &mut Option<(EntryId, OpenSource)>,
) -> Result<Loaded, ReadError> {
    if open.as_ref().is_none_or(|(entry, _)| *entry != job.entry) {
        *open = Some((job.entry, source.open()?));
    }
    let Some((_, file)) = open.as_ref() else {
        return Err(ReadError::Vanished);
    };
    let mut body = Vec::new();
    file.read(job.range, &mut body)?;
    if job.is_last {
        // Whatever was read before came from the same state of the file as this.
        file.check_unchanged()?;
    }
    let md5 = Md5::of(&body);
    if !job.wants_body {
        body = Vec::new();
    }
    Ok(Loaded { job: *job, md5, body, source: Arc::clone(source) })
}

fn withdraw(shared: &Shared<'_>, entry: EntryId, error: &ReadError) {
    let mut state = shared.lock();
    let (fault, reason) = (fault_of(error), error.to_string());
    if state.session.withdraw(entry, fault, &reason)
        && let Some(announced) = state.announced.remove(&entry)
    {
        failed(shared, &mut state, &announced, fault, &reason);
    }
}
