//! The thread that reads and hashes the requested parts, ahead of the writers.
//!
//! Parts are hashed in parallel, a window of them at a time. Small files are read into memory. Of larger parts only the
//! digest is kept, and the kernel sends them from the file while the next window is hashed.

use crossbeam_channel::{Receiver, SendError as QueueClosed, Sender};

use super::jobs::{FileJob, JobBatch, is_small, next_job, try_next_job};
use super::load_large::LargeLoader;
use super::part_batch::{LoadedPart, PartBatch, PartBody};
use super::settle;
use super::state::SessionShared;
use crate::digest::digest_many;

/// Small files are handed to a writer together, up to so many bytes or files.
const LOAD_BATCH_BYTES: u64 = 1 << 20;
const LOAD_BATCH_FILES: usize = 256;
/// Large parts, or batches of small ones, that may wait for the writers while the next window is hashed.
pub const LOADED_AHEAD: usize = 16;
/// Written buffers that are kept for reuse.
pub const SPARE_BUFFERS: usize = 4;
/// Large parts in one window at most, which counts if they are shorter than a full part.
const MAX_WINDOW_PARTS: usize = 64;
/// Large parts wait for a full window during at most this many batches of small files.
const MAX_BATCHES_WAITED: u32 = 8;

/// Loads parts until the session is over, for `requested` or `unasked`. Written buffers come back by `spare`.
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

    /// Adds `job` and those that follow to the batches, until one is full or there are no more jobs. Returns a job that
    /// fits into neither.
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
            if !small.is_full(LOAD_BATCH_FILES, LOAD_BATCH_BYTES) && !self.is_window_full(large) {
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

/// Waits until all of these files may be read, or the session ends.
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
