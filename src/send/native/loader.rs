//! The thread that reads and hashes the parts that the receiver wants, ahead of the writers.
//!
//! Parts are hashed in parallel, a window of them at a time. Small files are read into memory. Of larger parts only the
//! digest is kept, and the kernel sends them from the file while the next window is hashed.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, SendError as QueueClosed, Sender};

use super::entry::InFlightEntry;
use super::load_large::LargeLoader;
use super::part_batch::{LoadedPart, PartBatch, PartBody};
use super::settle;
use super::state::SessionShared;
use crate::digest::digest_many;
use crate::source::Source;
use crate::wire::SMALL_FILE_BYTES;
use crate::wire::sender::Job;

/// Small files are handed to a writer together, up to so many bytes or files.
const BATCH_BYTES: u64 = 1 << 20;
const BATCH_PARTS: usize = 256;
/// Large parts, or batches of small ones, that may wait for the writers while the next window is hashed.
pub const LOADED_AHEAD: usize = 16;
/// Written buffers that are kept for reuse.
pub const SPARE_BUFFERS: usize = 4;
/// How often a wait for a job checks whether the session is over.
const STOP_POLL: Duration = Duration::from_secs(1);

/// Large parts in one window at most, which counts if they are shorter than a full part.
const MAX_WINDOW_PARTS: usize = 64;
/// Large parts wait for others to fill their window during so many batches of small ones.
const MAX_BATCHES_WAITED: u32 = 8;

/// Loads parts until the session is over: for `requested` those that the receiver wants, for `unasked` the others. Written
/// buffers come back by `spare`.
pub fn load(
    shared: &SessionShared<'_>,
    requested: Sender<PartBatch>,
    unasked: Sender<PartBatch>,
    spare: Receiver<Vec<u8>>,
) {
    let large_loader = LargeLoader::new(shared);
    // An error means that the writers have ended.
    let _ = Loader { shared, requested, unasked, spare, large_loader }.run();
}

struct Loader<'a> {
    shared: &'a SessionShared<'a>,
    requested: Sender<PartBatch>,
    unasked: Sender<PartBatch>,
    /// Reused, because new memory costs more than reading a small file into it.
    spare: Receiver<Vec<u8>>,
    large_loader: LargeLoader<'a>,
}

/// A job and the file that it reads.
type FileJob = (Job, Arc<Source>);

impl Loader<'_> {
    fn run(&mut self) -> Result<(), QueueClosed<PartBatch>> {
        // In a tree, large and small files alternate. Each kind is collected by itself, so that the lanes are full.
        let (mut small, mut large) = (JobBatch::default(), JobBatch::default());
        let mut next = None;
        loop {
            let mut job = next.take().or_else(|| try_next_job(self.shared));
            if job.is_none() && large.jobs.is_empty() {
                job = next_job(self.shared);
                if job.is_none() {
                    return Ok(());
                }
            }
            self.shared.hasher.wait_for_room();
            let is_idle = job.is_none();
            next = self.collect(job, &mut small, &mut large);
            if !small.jobs.is_empty() {
                self.load_small(std::mem::take(&mut small).jobs)?;
                large.batches_waited += 1;
            }
            if is_idle || large.batches_waited > MAX_BATCHES_WAITED || self.is_window_full(&large) {
                self.load_large(std::mem::take(&mut large).jobs)?;
            }
        }
    }

    /// Adds `job` and those that follow to the batches, until one is full or there are no more jobs. Returns a job that fits
    /// into neither.
    fn collect(
        &self,
        mut job: Option<FileJob>,
        small: &mut JobBatch,
        large: &mut JobBatch,
    ) -> Option<FileJob> {
        while let Some(next) = job.take() {
            if !is_small(&next.0) {
                large.push(next);
            } else if small.jobs.first().is_none_or(|(first, _)| first.is_unasked == next.0.is_unasked) {
                small.push(next);
            } else {
                return Some(next);
            }
            if !small.is_full(BATCH_PARTS, BATCH_BYTES) && !self.is_window_full(large) {
                job = try_next_job(self.shared);
            }
        }
        None
    }

    fn is_window_full(&self, large: &JobBatch) -> bool {
        large.is_full(MAX_WINDOW_PARTS, self.large_loader.window_bytes())
    }

    /// Loads small files, which are all requested or all unasked, for one writer.
    fn load_small(&self, jobs: Vec<FileJob>) -> Result<(), QueueClosed<PartBatch>> {
        let queue = if jobs[0].0.is_unasked { &self.unasked } else { &self.requested };
        self.prepare(&jobs);
        queue.send(load_small_files(self.shared, jobs, self.spare.try_recv().unwrap_or_default()))
    }

    /// Loads large parts, and hands them over one by one for the next writers that are free.
    fn load_large(&mut self, jobs: Vec<FileJob>) -> Result<(), QueueClosed<PartBatch>> {
        self.prepare(&jobs);
        for part in self.large_loader.load(jobs) {
            self.requested.send(PartBatch { parts: vec![part], bytes: Vec::new() })?;
        }
        Ok(())
    }

    fn prepare(&self, jobs: &[FileJob]) {
        wait_until_settled(self.shared, jobs);
        self.shared.hasher.start_large(jobs);
    }
}

/// Jobs of one kind, to be loaded together.
#[derive(Default)]
struct JobBatch {
    jobs: Vec<FileJob>,
    bytes: u64,
    /// Batches of small files that were loaded since the first job came.
    batches_waited: u32,
}

impl JobBatch {
    fn push(&mut self, job: FileJob) {
        if self.jobs.is_empty() {
            self.batches_waited = 0;
        }
        self.bytes += job.0.range.len;
        self.jobs.push(job);
    }

    fn is_full(&self, jobs: usize, bytes: u64) -> bool {
        self.jobs.len() >= jobs || self.bytes >= bytes
    }
}

/// Whether a job is the whole of a small file.
fn is_small(job: &Job) -> bool {
    job.range.offset == 0 && job.range.len <= SMALL_FILE_BYTES
}

/// Waits for a job; `None` when the session is over.
fn next_job(shared: &SessionShared<'_>) -> Option<FileJob> {
    loop {
        if let Some(next) = try_next_job(shared) {
            return Some(next);
        }
        let state = shared.lock();
        if state.outcome.is_some() {
            return None;
        }
        if !state.session.has_job() {
            drop(shared.wait(state, STOP_POLL));
        }
    }
}

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

/// Waits until all of these files may be read ([`Source::unsettled_for`]) or the session ends.
fn wait_until_settled(shared: &SessionShared<'_>, jobs: &[FileJob]) {
    for (_, source) in jobs {
        if let Some(time) = source.unsettled_for() {
            shared.wait_for_outcome(time);
        }
    }
}

/// Reads small files into `bytes` and hashes them in parallel. A file that cannot be read or has changed is withdrawn.
fn load_small_files(shared: &SessionShared<'_>, jobs: Vec<FileJob>, mut bytes: Vec<u8>) -> PartBatch {
    // `read_whole` needs one unused byte after the last file. Old content of the buffer is overwritten.
    let len = jobs.iter().map(|(job, _)| job.range.len as usize).sum::<usize>() + 1;
    if bytes.len() < len {
        bytes.resize(len, 0);
    }
    let mut read = Vec::with_capacity(jobs.len());
    let mut filled = 0;
    shared.reading.time(|| {
        for (job, source) in jobs {
            let range = filled..filled + job.range.len as usize;
            match source.read_whole(&mut bytes[range.start..=range.end]) {
                Ok(()) => {
                    filled = range.end;
                    read.push((job, source, range));
                }
                Err(error) => settle::withdraw(shared, &mut shared.lock(), job.entry, &error),
            }
        }
    });
    let bodies: Vec<&[u8]> = read.iter().map(|(_, _, range)| &bytes[range.clone()]).collect();
    let digests = shared.md5.time(|| digest_many(&bodies));
    let parts = read.into_iter().zip(digests).map(|((job, source, range), md5)| {
        let body = if job.wants_body { PartBody::Bytes(range) } else { PartBody::Nothing };
        LoadedPart { job, md5, body, source }
    });
    PartBatch { parts: parts.collect(), bytes }
}
