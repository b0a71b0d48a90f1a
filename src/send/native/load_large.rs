//! Loads large parts: only their digests are kept, and the kernel sends them from their files later.

use std::sync::Arc;
use std::time::Instant;

use super::jobs::FileJob;
use super::part_batch::{LoadedPart, PartBody};
use super::settle;
use super::state::SessionShared;
use crate::busy_time::Stopwatch;
use crate::digest::{Md5, PART_BYTES, digest_ranges, lane_count};
use crate::source::{OpenSource, ReadError, Source};
use crate::wire::EntryId;
use crate::wire::sender::Job;

/// The first window; the next ones double, so that the first part is sent early and the lanes are full soon.
const FIRST_WINDOW: usize = 2;

pub struct LargeLoader<'a> {
    shared: &'a SessionShared<'a>,
    /// The last file. It stays open, because the parts of a file follow each other.
    open: Option<(EntryId, Arc<OpenSource>)>,
    /// Parts to hash in parallel.
    window: usize,
}

/// A part whose file is open.
struct OpenPart {
    job: Job,
    source: Arc<Source>,
    open: Arc<OpenSource>,
}

impl<'a> LargeLoader<'a> {
    pub fn new(shared: &'a SessionShared<'a>) -> Self {
        LargeLoader { shared, open: None, window: FIRST_WINDOW }
    }

    pub fn window_bytes(&self) -> u64 {
        self.window as u64 * PART_BYTES
    }

    /// Reads and hashes the parts of a window. A file that cannot be read or has changed is withdrawn.
    pub fn load(&mut self, jobs: Vec<FileJob>) -> Vec<LoadedPart> {
        self.window = (self.window * 2).min(lane_count());
        let (parts, holes) = self.open_all(jobs);
        let digests = self.digest(&parts);
        let mut loaded = Vec::with_capacity(parts.len() + holes.len());
        loaded.extend(holes.into_iter().filter_map(|(part, count)| self.finish_holes(part, count)));
        let parts = parts.into_iter().zip(digests);
        loaded.extend(parts.filter_map(|(part, digest)| self.finish_part(part, digest)));
        loaded
    }

    /// Opens the files, and separates the parts to read from those that begin a run of holes, with the length of the run.
    fn open_all(&mut self, jobs: Vec<FileJob>) -> (Vec<OpenPart>, Vec<(OpenPart, u64)>) {
        let (mut parts, mut holes) = (Vec::with_capacity(jobs.len()), Vec::new());
        for (job, source) in jobs {
            let open = match self.open(&job, &source) {
                Ok(open) => open,
                Err(error) => {
                    self.withdraw(job.entry, &error);
                    continue;
                }
            };
            let can_be_hole = source.is_sparse && job.range.len == PART_BYTES;
            let hole_parts = if can_be_hole { open.hole_bytes(job.range.offset) / PART_BYTES } else { 0 };
            if !can_be_hole {
                open.will_need(job.range);
            }
            let part = OpenPart { job, source, open };
            if hole_parts > 0 { holes.push((part, hole_parts)) } else { parts.push(part) }
        }
        (parts, holes)
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

    /// The digests of the parts, in parallel; one by one if a file cannot be read, so that only its own parts fail.
    fn digest(&self, parts: &[OpenPart]) -> Vec<Result<Md5, ReadError>> {
        let ranges: Vec<_> = parts.iter().map(|part| part.job.range).collect();
        let (start, reading) = (Instant::now(), Stopwatch::default());
        let in_parallel = digest_ranges(&ranges, |index, buffer, offset| {
            reading.time(|| parts[index].open.read_at(buffer, offset))
        });
        self.shared.reading.add(reading.spent());
        self.shared.md5.add(start.elapsed() - reading.spent());
        let alone = |part: &OpenPart| {
            digest_ranges(&[part.job.range], |_, buffer, offset| part.open.read_at(buffer, offset))
                .map(|digests| digests[0])
        };
        match in_parallel {
            Ok(digests) => digests.into_iter().map(Ok).collect(),
            Err(_) => parts.iter().map(alone).collect(),
        }
    }

    /// A part counts only if its file is unchanged after it was read.
    fn finish_part(&self, part: OpenPart, digest: Result<Md5, ReadError>) -> Option<LoadedPart> {
        let OpenPart { job, source, open } = part;
        match digest.and_then(|md5| open.check_after(job.range).map(|()| md5)) {
            Ok(md5) => {
                let body = if job.wants_body { PartBody::File(open) } else { PartBody::Nothing };
                Some(LoadedPart { job, md5, body, source })
            }
            Err(error) => {
                self.withdraw(job.entry, &error);
                None
            }
        }
    }

    /// The same for up to `count` parts that are holes. Their frame has no digest: it is a constant.
    fn finish_holes(&self, part: OpenPart, count: u64) -> Option<LoadedPart> {
        let OpenPart { job, source, open } = part;
        match open.check_end().and_then(|()| open.check_unchanged()) {
            Ok(()) => {
                let count = self.shared.lock().session.take_holes(&job, count);
                Some(LoadedPart { job, md5: Md5::from([0; 16]), body: PartBody::Holes(count, open), source })
            }
            Err(error) => {
                self.withdraw(job.entry, &error);
                None
            }
        }
    }

    fn withdraw(&self, id: EntryId, error: &ReadError) {
        settle::withdraw(self.shared, &mut self.shared.lock(), id, error);
    }
}

#[cfg(test)]
mod tests {
    use super::super::jobs::try_next_job;
    use super::super::test_session::{announce, rewrite, with_shared};
    use super::*;
    use std::fs;

    /// The check after hashing. For an offer only the digest is sent, and there is no later check.
    #[test]
    fn a_digest_counts_only_if_the_file_is_unchanged_after_it_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, vec![7; 2 * PART_BYTES as usize]).unwrap();
        with_shared(|shared| {
            let source = announce(shared, &path, "offers");
            let mut loader = LargeLoader::new(shared);
            let next = || try_next_job(shared).unwrap();
            assert_eq!(loader.load(vec![next()]).len(), 1);
            // The file stays open from one part to the next: it is not checked at opening.
            rewrite(&source, &path);
            assert!(loader.load(vec![next()]).is_empty());
            assert!(shared.lock().in_flight.is_empty());
        });
    }
}
