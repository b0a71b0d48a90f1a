//! The thread that reads and hashes what the receiver wants, ahead of the writers.
//!
//! Parts are hashed side by side, a window of them at a time. Small ones are kept in memory; of the others only the
//! digest is kept, and the kernel sends them from the file while the next window is hashed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::ear::failed;
use super::state::{Announced, Shared};
use super::whole;
use super::writer::{Body, Loaded};
use crate::digest::{Md5, PART_BYTES, digest_many, digest_ranges, lane_count};
use crate::plan::{OpenSource, ReadError, Source};
use crate::spent::Clock;
use crate::wire::sender::Job;
use crate::wire::{EntryId, SMALL_FILE_BYTES};

/// Small parts are handed to a writer together, up to so many bytes or parts.
const BATCH_BYTES: u64 = 1 << 20;
const BATCH_PARTS: usize = 256;
/// Large parts, or batches of small ones, that may wait for the writers: a window, so that they have work while the
/// next one is hashed.
pub const LOADED_AHEAD: usize = 16;
/// The first window; the next ones double, so that the first byte leaves early and the lanes are full soon.
const FIRST_WINDOW: usize = 2;
const LOOK_UP: Duration = Duration::from_secs(1);

/// Loads parts until the session is over: those that the receiver wants for `loaded`, the others for `unasked`.
pub fn load(shared: &Shared<'_>, loaded: Sender<Vec<Loaded>>, unasked: Sender<Vec<Loaded>>) {
    let mut loader = Loader { shared, open: None, window: FIRST_WINDOW };
    let mut next = None;
    while let Some(first) = next.take().or_else(|| next_job(shared)) {
        shared.wait_for_list();
        let (is_small, is_unasked) = (is_small(&first.0), first.0.is_unasked);
        let mut jobs = vec![first];
        let mut bytes = 0;
        while jobs.len() < if is_small { BATCH_PARTS } else { loader.window } && bytes < BATCH_BYTES {
            let Some(job) = job_at_hand(shared) else { break };
            if (self::is_small(&job.0), job.0.is_unasked) != (is_small, is_unasked) {
                next = Some(job);
                break;
            }
            bytes += if is_small { job.0.range.len } else { 0 };
            jobs.push(job);
        }
        whole::begin(shared, &jobs);
        let sent = if is_small {
            if is_unasked { &unasked } else { &loaded }.send(loader.load_small(jobs))
        } else {
            // One by one, for whichever connection is free.
            loader.load_large(jobs).into_iter().try_for_each(|part| loaded.send(vec![part]))
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Is it a whole file, and a small one?
fn is_small(job: &Job) -> bool {
    job.range.offset == 0 && job.range.len <= SMALL_FILE_BYTES
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

struct Loader<'a> {
    shared: &'a Shared<'a>,
    /// Parts of one file come one after another: it stays open between them.
    open: Option<(EntryId, Arc<OpenSource>)>,
    window: usize,
}

impl Loader<'_> {
    fn load_small(&mut self, jobs: Vec<(Job, Arc<Source>)>) -> Vec<Loaded> {
        let mut read = Vec::with_capacity(jobs.len());
        for (job, source) in jobs {
            let mut body = Vec::new();
            let done = self.shared.reading.time(|| source.read_whole(&mut body));
            match done {
                Ok(()) => read.push((job, source, body)),
                Err(error) => self.withdraw(job.entry, &error),
            }
        }
        let bodies: Vec<&[u8]> = read.iter().map(|(_, _, body)| &body[..]).collect();
        let digests = self.shared.md5.time(|| digest_many(&bodies));
        let loaded = read.into_iter().zip(digests).map(|((job, source, body), md5)| {
            let body = if job.wants_body { Body::Bytes(body) } else { Body::Nothing };
            Loaded { job, md5, body, source }
        });
        loaded.collect()
    }

    fn load_large(&mut self, jobs: Vec<(Job, Arc<Source>)>) -> Vec<Loaded> {
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
        let (start, reading) = (Instant::now(), Clock::default());
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
            match open.check_unchanged() {
                Ok(()) => {
                    let parts = self.shared.lock().session.take_holes(&job, parts);
                    // The writer says nothing of the digest: it is a constant.
                    loaded.push(Loaded { job, md5: Md5::from([0; 16]), body: Body::Holes(parts), source });
                }
                Err(error) => self.withdraw(job.entry, &error),
            }
        }
        for ((job, source, open), digest) in opened.into_iter().zip(digests) {
            match digest.and_then(|md5| open.check_unchanged().map(|()| md5)) {
                Ok(md5) => {
                    let body = if job.wants_body { Body::File(open) } else { Body::Nothing };
                    loaded.push(Loaded { job, md5, body, source });
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
        let mut state = self.shared.lock();
        let (fault, reason) = (error.fault(), error.to_string());
        if state.session.withdraw(entry, fault, &reason)
            && let Some(announced) = state.announced.remove(&entry)
        {
            self.shared.list_dropped(entry);
            failed(self.shared, &mut state, &announced, fault, &reason);
        }
    }
}
