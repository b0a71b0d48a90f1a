//! The thread that reads and hashes what the receiver wants, ahead of the writers.
//!
//! Parts are hashed side by side, a window of them at a time. Small ones are kept in memory; of the others only the
//! digest is kept, and the kernel sends them from the file while the next window is hashed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::source_file;
use super::state::{InFlightEntry, SessionShared};
use super::writer::{LoadedPart, PartBatch, PartBody};
use crate::busy_time::Stopwatch;
use crate::digest::{Md5, PART_BYTES, digest_many, digest_ranges, lane_count};
use crate::source::{OpenSource, ReadError, Source};
use crate::wire::sender::Job;
use crate::wire::{EntryId, SMALL_FILE_BYTES};

/// Small parts are handed to a writer together, up to so many bytes or parts.
const BATCH_BYTES: u64 = 1 << 20;
const BATCH_PARTS: usize = 256;
/// Large parts, or batches of small ones, that may wait for the writers: a window, so that they have work while the
/// next one is hashed.
pub const LOADED_AHEAD: usize = 16;
/// Buffers that were written and are kept to be used again.
pub const SPARE: usize = 4;
/// The first window; the next ones double, so that the first byte leaves early and the lanes are full soon.
const FIRST_WINDOW: usize = 2;
const SETTLE_POLL: Duration = Duration::from_secs(1);

/// Large parts in one window at most, if they are not full ones: files of some hundred kilobytes.
const MAX_WINDOW_PARTS: usize = 64;
/// A large part waits for others to be hashed with while so many batches of small ones pass by.
const MAX_BATCHES_WAITED: u32 = 8;

/// Loads parts until the session is over: those that the receiver wants for `loaded`, the others for `unasked`. Buffers
/// that were written come back by way of `spare`.
pub fn load(
    shared: &SessionShared<'_>,
    loaded: Sender<PartBatch>,
    unasked: Sender<PartBatch>,
    spare: Receiver<Vec<u8>>,
) {
    let mut loader = Loader { shared, spare, open: None, window: FIRST_WINDOW };
    // In a tree, large and small ones come in turn: each kind is gathered by itself, so that the lanes are full.
    let (mut small, mut large) = (JobBatch::default(), JobBatch::default());
    let mut next = None;
    loop {
        let mut at_hand = next.take().or_else(|| try_next_job(shared));
        if at_hand.is_none() && large.jobs.is_empty() {
            at_hand = next_job(shared);
            if at_hand.is_none() {
                return;
            }
        }
        shared.wait_for_list();
        let is_dry = at_hand.is_none();
        while let Some(job) = at_hand.take() {
            if !is_small(&job.0) {
                large.push(job);
            } else if small.jobs.first().is_none_or(|(first, _)| first.is_unasked == job.0.is_unasked) {
                small.push(job);
            } else {
                next = Some(job);
                break;
            }
            if !small.is_full(BATCH_PARTS, BATCH_BYTES)
                && !large.is_full(MAX_WINDOW_PARTS, loader.window_bytes())
            {
                at_hand = try_next_job(shared);
            }
        }
        if !small.jobs.is_empty() {
            let jobs = std::mem::take(&mut small).jobs;
            let queue = if jobs[0].0.is_unasked { &unasked } else { &loaded };
            wait_until_settled(shared, &jobs);
            source_file::start_hashing(shared, &jobs);
            if queue.send(loader.load_small(jobs)).is_err() {
                return;
            }
            large.waited += 1;
        }
        if is_dry
            || large.waited > MAX_BATCHES_WAITED
            || large.is_full(MAX_WINDOW_PARTS, loader.window_bytes())
        {
            let jobs = std::mem::take(&mut large).jobs;
            wait_until_settled(shared, &jobs);
            source_file::start_hashing(shared, &jobs);
            // One by one, for whichever connection is free.
            let parts = loader.load_large(jobs);
            let batches = parts.into_iter().map(|part| PartBatch { parts: vec![part], bytes: Vec::new() });
            if batches.into_iter().try_for_each(|batch| loaded.send(batch)).is_err() {
                return;
            }
        }
    }
}

/// Jobs of one kind, to be done together.
#[derive(Default)]
struct JobBatch {
    jobs: Vec<(Job, Arc<Source>)>,
    bytes: u64,
    /// Batches that passed by since the first of them came.
    waited: u32,
}

impl JobBatch {
    fn push(&mut self, job: (Job, Arc<Source>)) {
        if self.jobs.is_empty() {
            self.waited = 0;
        }
        self.bytes += job.0.range.len;
        self.jobs.push(job);
    }

    fn is_full(&self, jobs: usize, bytes: u64) -> bool {
        self.jobs.len() >= jobs || self.bytes >= bytes
    }
}

/// Is it a whole file, and a small one?
fn is_small(job: &Job) -> bool {
    job.range.offset == 0 && job.range.len <= SMALL_FILE_BYTES
}

/// Waits for a job; `None` when the session is over.
fn next_job(shared: &SessionShared<'_>) -> Option<(Job, Arc<Source>)> {
    loop {
        if let Some(next) = try_next_job(shared) {
            return Some(next);
        }
        let state = shared.lock();
        if state.outcome.is_some() {
            return None;
        }
        if !state.session.has_job() {
            drop(shared.wait(state, SETTLE_POLL));
        }
    }
}

fn try_next_job(shared: &SessionShared<'_>) -> Option<(Job, Arc<Source>)> {
    let mut state = shared.lock();
    if state.outcome.is_some() {
        return None;
    }
    let job = state.session.next_job()?;
    match state.announced.get(&job.entry) {
        Some(InFlightEntry::File { source, .. }) => Some((job, Arc::clone(source))),
        _ => None,
    }
}

/// Waits until all of these files may be read ([`Source::unsettled_for`]), unless the session ends before.
fn wait_until_settled(shared: &SessionShared<'_>, jobs: &[(Job, Arc<Source>)]) {
    for (_, source) in jobs {
        if let Some(left) = source.unsettled_for() {
            shared.wait_for_outcome(left);
        }
    }
}

struct Loader<'a> {
    shared: &'a SessionShared<'a>,
    /// Buffers to use again: fresh memory costs the system more than reading a small file into it.
    spare: Receiver<Vec<u8>>,
    /// Parts of one file come one after another: it stays open between them.
    open: Option<(EntryId, Arc<OpenSource>)>,
    window: usize,
}

impl Loader<'_> {
    fn window_bytes(&self) -> u64 {
        self.window as u64 * PART_BYTES
    }

    fn load_small(&mut self, jobs: Vec<(Job, Arc<Source>)>) -> PartBatch {
        let mut bytes = self.spare.try_recv().unwrap_or_default();
        // One byte behind the last file, into which nothing may be read.
        let room = jobs.iter().map(|(job, _)| job.range.len as usize).sum::<usize>() + 1;
        // What is left in it from the last time is written over.
        if bytes.len() < room {
            bytes.resize(room, 0);
        }
        let mut read = Vec::with_capacity(jobs.len());
        let mut filled = 0;
        self.shared.reading.time(|| {
            for (job, source) in jobs {
                let range = filled..filled + job.range.len as usize;
                match source.read_whole(&mut bytes[range.start..=range.end]) {
                    Ok(()) => {
                        filled = range.end;
                        read.push((job, source, range));
                    }
                    Err(error) => self.withdraw(job.entry, &error),
                }
            }
        });
        let bodies: Vec<&[u8]> = read.iter().map(|(_, _, range)| &bytes[range.clone()]).collect();
        let digests = self.shared.md5.time(|| digest_many(&bodies));
        let loaded = read.into_iter().zip(digests).map(|((job, source, range), md5)| {
            let body = if job.wants_body { PartBody::Bytes(range) } else { PartBody::Nothing };
            LoadedPart { job, md5, body, source }
        });
        PartBatch { parts: loaded.collect(), bytes }
    }

    fn load_large(&mut self, jobs: Vec<(Job, Arc<Source>)>) -> Vec<LoadedPart> {
        self.window = (self.window * 2).min(lane_count());
        let mut opened = Vec::with_capacity(jobs.len());
        let mut holes = Vec::new();
        for (job, source) in jobs {
            match self.open(&job, &source) {
                Ok(open) if source.is_sparse && job.range.len == PART_BYTES => {
                    match open.hole_bytes(job.range.offset) / PART_BYTES {
                        0 => opened.push((job, source, open)),
                        parts => holes.push((job, source, open, parts)),
                    }
                }
                Ok(open) => {
                    open.will_need(job.range);
                    opened.push((job, source, open));
                }
                Err(error) => self.withdraw(job.entry, &error),
            }
        }
        let ranges: Vec<_> = opened.iter().map(|(job, ..)| job.range).collect();
        // One file that cannot be read must not cost the others in the window.
        let (start, reading) = (Instant::now(), Stopwatch::default());
        let together = digest_ranges(&ranges, |index, buffer, offset| {
            reading.time(|| opened[index].2.read_at(buffer, offset))
        });
        self.shared.reading.add(reading.spent());
        self.shared.md5.add(start.elapsed() - reading.spent());
        let digests: Vec<_> = match together {
            Ok(digests) => digests.into_iter().map(Ok).collect(),
            Err(_) => opened
                .iter()
                .map(|(job, _, open)| {
                    digest_ranges(&[job.range], |_, buffer, offset| open.read_at(buffer, offset))
                        .map(|all| all[0])
                })
                .collect(),
        };
        let mut loaded = Vec::with_capacity(opened.len() + holes.len());
        for (job, source, open, parts) in holes {
            match open.check_end().and_then(|()| open.check_unchanged()) {
                Ok(()) => {
                    let parts = self.shared.lock().session.take_holes(&job, parts);
                    // The writer says nothing of the digest: it is a constant.
                    loaded.push(LoadedPart {
                        job,
                        md5: Md5::from([0; 16]),
                        body: PartBody::Holes(parts, open),
                        source,
                    });
                }
                Err(error) => self.withdraw(job.entry, &error),
            }
        }
        for ((job, source, open), digest) in opened.into_iter().zip(digests) {
            match digest.and_then(|md5| open.check_after(job.range).map(|()| md5)) {
                Ok(md5) => {
                    let body = if job.wants_body { PartBody::File(open) } else { PartBody::Nothing };
                    loaded.push(LoadedPart { job, md5, body, source });
                }
                Err(error) => self.withdraw(job.entry, &error),
            }
        }
        loaded
    }

    fn open(&mut self, job: &Job, source: &Source) -> Result<Arc<OpenSource>, ReadError> {
        match &self.open {
            Some((entry, open)) if *entry == job.entry => Ok(Arc::clone(open)),
            _ => {
                let open = Arc::new(source.open()?);
                self.open = Some((job.entry, Arc::clone(&open)));
                Ok(open)
            }
        }
    }

    fn withdraw(&self, entry: EntryId, error: &ReadError) {
        self.shared.withdraw(&mut self.shared.lock(), entry, error);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{announce, rewrite, with_shared};
    use super::*;
    use crossbeam_channel::never;
    use std::fs;

    /// The look after hashing. Of what is compared only the digest leaves, so that there is no later look.
    #[test]
    fn a_digest_counts_only_if_the_file_is_the_same_after_it_was_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, vec![7; 2 * PART_BYTES as usize]).unwrap();
        with_shared(|shared| {
            let source = announce(shared, &path, "offers");
            let mut loader = Loader { shared, spare: never(), open: None, window: FIRST_WINDOW };
            let next = || try_next_job(shared).unwrap();
            assert_eq!(loader.load_large(vec![next()]).len(), 1);
            // The file stays open from one part to the next, so that there is no look when it is opened either.
            rewrite(&source, &path);
            assert!(loader.load_large(vec![next()]).is_empty());
            assert!(shared.lock().announced.is_empty());
        });
    }
}
