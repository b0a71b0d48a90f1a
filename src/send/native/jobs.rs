//! The parts that the session has to load, with their files.

use std::sync::Arc;
use std::time::Duration;

use super::entry::InFlightEntry;
use super::state::SessionShared;
use crate::source::Source;
use crate::wire::SMALL_FILE_BYTES;
use crate::wire::sender::Job;

/// How often a wait for a job checks whether the session is over.
const JOB_POLL: Duration = Duration::from_secs(1);

/// A job and the file that it reads.
pub type FileJob = (Job, Arc<Source>);

/// Waits for a job; `None` when the session is over.
pub fn next_job(shared: &SessionShared<'_>) -> Option<FileJob> {
    loop {
        if let Some(next) = try_next_job(shared) {
            return Some(next);
        }
        let state = shared.lock();
        if state.outcome.is_some() {
            return None;
        }
        if !state.session.has_job() {
            drop(shared.wait(state, JOB_POLL));
        }
    }
}

/// The next job; `None` if there is none now, or the session is over.
pub fn try_next_job(shared: &SessionShared<'_>) -> Option<FileJob> {
    let mut state = shared.lock();
    if state.outcome.is_some() {
        return None;
    }
    let job = state.session.next_job()?;
    match state.in_flight.get(&job.entry) {
        Some(InFlightEntry::File { source, .. }) => Some((job, Arc::clone(source))),
        _ => None,
    }
}

/// Whether a job is the whole of a small file.
pub fn is_small(job: &Job) -> bool {
    job.range.offset == 0 && job.range.len <= SMALL_FILE_BYTES
}

/// Jobs of one kind, to be loaded together.
#[derive(Default)]
pub struct JobBatch {
    pub jobs: Vec<FileJob>,
    bytes: u64,
    /// Batches of small files that were loaded since the first job came.
    pub batches_waited: u32,
}

impl JobBatch {
    pub fn push(&mut self, job: FileJob) {
        if self.jobs.is_empty() {
            self.batches_waited = 0;
        }
        self.bytes += job.0.range.len;
        self.jobs.push(job);
    }

    pub fn is_full(&self, jobs: usize, bytes: u64) -> bool {
        self.jobs.len() >= jobs || self.bytes >= bytes
    }
}
