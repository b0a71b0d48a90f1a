//! Reports each stored file with the MD5 of its whole content.
//!
//! ```text
//!   on_start, on_available ──▶ large files ──16 in parallel──▶ digests ──┐
//!                                                                        ├──▶ FileDone (or DigestUnavailable)
//!   on_stored ───────────────────────────────────────────────────────────┘
//! ```
//!
//! The digest of a file of one part is that of its part. A larger file is read once more, from its start up to the first
//! missing byte, while the rest of it is transferred. Hashing and event delivery run on a thread of their own. Transfer
//! threads block only in [`FileHasher::wait_for_capacity`], and hold no lock there.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::contiguous::ContiguousPrefix;
use super::queue::{FileResult, HashSlice, HashWork, PendingFile, Queue, StoredFile};
use super::{DigestUnavailable, HashInput};
use crate::digest::{Md5, Md5Context, PartRange, update_many};
use crate::error_code::ErrorCode;
use crate::event::{Event, Reporter};
use crate::sync::{self, DropGuard};

/// Bytes of a file that are hashed at a time. Sixteen times this fits into a core's second-level cache.
const SLICE_BYTES: usize = 64 << 10;
/// Slices of each file that are hashed before other files can join.
const SLICES_PER_TURN: usize = 16;
/// Progress is reported if hashing takes longer than this after the end of the transfer.
const PROGRESS_DELAY: Duration = Duration::from_secs(1);
/// The interval between progress reports.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Hashes whole files during a transfer. Switched off, it reports a file as soon as it is stored, with its digest if that is
/// known.
pub struct FileHasher<'a, F> {
    reporter: &'a dyn Reporter,
    is_on: bool,
    queue: Mutex<Queue<F>>,
    changed: Condvar,
}

enum Step<F> {
    Report(VecDeque<FileResult>),
    Hash(Vec<HashSlice<F>>),
    ReportProgress { remaining_bytes: u64 },
    End,
}

impl<'a, F: HashInput> FileHasher<'a, F> {
    /// Hashes every file if `is_on`; without cost otherwise.
    pub fn new(is_on: bool, reporter: &'a dyn Reporter) -> Self {
        FileHasher { reporter, is_on, queue: Mutex::default(), changed: Condvar::new() }
    }

    /// Runs a session and the hashing thread. Returns when every stored file was reported.
    ///
    /// # Errors
    ///
    /// The thread cannot be started; the session was not run.
    pub fn run_with<T>(&self, session: impl FnOnce() -> T) -> io::Result<T> {
        if !self.is_on {
            return Ok(session());
        }
        thread::scope(|scope| {
            thread::Builder::new().name("hasher".into()).spawn_scoped(scope, || self.run())?;
            let _close = DropGuard::new(|| {
                self.lock().closed = Some(Instant::now());
                self.changed.notify_all();
            });
            Ok(session())
        })
    }

    /// The program is interrupted: files are hashed no more, but stored files are still reported.
    pub fn stop_waiting(&self) {
        self.lock().is_interrupted = true;
        self.changed.notify_all();
    }

    /// How many files have no digest, by reason.
    pub fn unavailable(&self) -> BTreeMap<ErrorCode, u64> {
        self.lock().unavailable.clone()
    }

    /// Begins to hash a file of several parts, of which this many bytes can be read from its start. A second call does
    /// nothing.
    pub fn on_start(&self, id: u64, size_bytes: u64, available_bytes: u64, input: impl FnOnce() -> F) {
        if !self.is_on {
            return;
        }
        let mut queue = self.lock();
        queue.files.entry(id).or_insert_with(|| PendingFile {
            size_bytes,
            available: ContiguousPrefix::at(available_bytes),
            work: Some(HashWork { input: input(), message: Md5Context::new(), done_bytes: 0 }),
            digest: None,
            stored: None,
        });
        self.changed.notify_all();
    }

    /// A range of a file can be read.
    pub fn on_available(&self, id: u64, range: PartRange) {
        if !self.is_on {
            return;
        }
        if let Some(file) = self.lock().files.get_mut(&id) {
            file.available.add(range);
            self.changed.notify_all();
        }
    }

    /// A file is stored under `path`. It is reported at once if its digest is known or not wanted, and otherwise when it is
    /// hashed.
    pub fn on_stored(&self, id: u64, path: &[u8], md5: Option<Md5>, there_bytes: Option<u64>) {
        if !self.is_on {
            return self.reporter.report(Event::FileDone { path, md5, there_bytes });
        }
        self.lock().set_stored(id, StoredFile { path: path.into(), there_bytes }, md5);
        self.changed.notify_all();
    }

    /// A file will not be stored.
    pub fn on_dropped(&self, id: u64) {
        if self.is_on {
            self.lock().files.remove(&id);
            self.changed.notify_all();
        }
    }

    /// Waits while too many files are to be hashed or reported, so that memory is bounded.
    pub fn wait_for_capacity(&self) {
        if !self.is_on {
            return;
        }
        let mut queue = self.lock();
        while !queue.has_capacity() {
            queue = sync::wait(&self.changed, queue);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<F>> {
        sync::lock(&self.queue)
    }

    /// The hashing thread.
    fn run(&self) {
        let _ended = DropGuard::new(|| {
            self.lock().has_ended = true;
            self.changed.notify_all();
        });
        let mut buffer = Vec::new();
        let mut progress_at = Instant::now();
        loop {
            match self.next_step(&mut progress_at) {
                Step::Report(results) => results.into_iter().for_each(|result| self.report(result)),
                Step::Hash(slices) => self.hash(slices, &mut buffer),
                Step::ReportProgress { remaining_bytes } => {
                    self.reporter.report(Event::Digesting { remaining_bytes });
                }
                Step::End => return,
            }
        }
    }

    fn next_step(&self, progress_at: &mut Instant) -> Step<F> {
        let mut queue = self.lock();
        loop {
            if !queue.results.is_empty() {
                let results = std::mem::take(&mut queue.results);
                self.changed.notify_all();
                return Step::Report(results);
            }
            if let Some(closed) = queue.closed {
                // A file that is not stored by now will not be.
                queue.files.retain(|_, file| file.stored.is_some());
                if closed.elapsed() >= PROGRESS_DELAY
                    && progress_at.elapsed() >= PROGRESS_INTERVAL
                    && !queue.files.is_empty()
                {
                    *progress_at = Instant::now();
                    let remaining_bytes = queue.files.values().map(PendingFile::remaining_bytes).sum();
                    return Step::ReportProgress { remaining_bytes };
                }
            }
            let slices = if queue.is_interrupted { Vec::new() } else { queue.take_slices() };
            if !slices.is_empty() {
                return Step::Hash(slices);
            }
            if queue.closed.is_none() {
                queue = sync::wait(&self.changed, queue);
                continue;
            }
            let Some(id) = queue.files.keys().next().copied() else { return Step::End };
            // It is stored, but not all of it was reported as available, or it must not be hashed any more.
            let (code, reason) = match queue.is_interrupted {
                true => (ErrorCode::Interrupted, "the program was interrupted before its MD5 was computed"),
                false => (ErrorCode::Other, "the session ended before it could be read"),
            };
            queue.set_digest(id, Err(DigestUnavailable { code, reason: reason.into() }));
        }
    }

    fn report(&self, FileResult { stored: StoredFile { path, there_bytes }, digest }: FileResult) {
        let md5 = digest.as_ref().ok().copied();
        self.reporter.report(Event::FileDone { path: &path, md5, there_bytes });
        if let Err(DigestUnavailable { code, reason }) = digest {
            *self.lock().unavailable.entry(code).or_default() += 1;
            self.reporter.report(Event::DigestUnavailable { path: &path, code, reason: &reason });
        }
    }

    fn hash(&self, mut slices: Vec<HashSlice<F>>, buffer: &mut Vec<u8>) {
        buffer.resize(buffer.len().max(slices.len() * SLICE_BYTES), 0);
        for _ in 0..SLICES_PER_TURN {
            let mut messages = Vec::with_capacity(slices.len());
            for (slice, chunk) in slices.iter_mut().zip(buffer.chunks_exact_mut(SLICE_BYTES)) {
                let HashWork { input, message, done_bytes } = &mut slice.work;
                let len = (slice.available_bytes - *done_bytes).min(SLICE_BYTES as u64) as usize;
                if len == 0 || slice.failure.is_some() {
                    continue;
                }
                match input.read_at(&mut chunk[..len], *done_bytes) {
                    Ok(()) => {
                        *done_bytes += len as u64;
                        messages.push((message, &chunk[..len]));
                    }
                    Err(failure) => slice.failure = Some(failure),
                }
            }
            if messages.is_empty() {
                break;
            }
            update_many(&mut messages);
        }
        for slice in slices {
            self.finish_slice(slice);
        }
    }

    fn finish_slice(&self, HashSlice { id, size_bytes, mut work, failure, .. }: HashSlice<F>) {
        let digest = match failure {
            Some(failure) => Some(Err(failure)),
            None if work.done_bytes < size_bytes => None,
            None => Some(work.input.check_unchanged().map(|()| Md5::from(work.message.clone()))),
        };
        let mut queue = self.lock();
        match digest {
            Some(digest) => queue.set_digest(id, digest),
            None => {
                // It may have been dropped meanwhile.
                if let Some(file) = queue.files.get_mut(&id) {
                    file.work = Some(work);
                }
            }
        }
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::MAX_PENDING_RESULTS;
    use super::*;
    use crate::digest::PART_BYTES;

    /// Bytes that follow from their offset; reads beyond `fails_at` fail.
    struct Pattern {
        fails_at: u64,
        changed: bool,
    }

    impl Pattern {
        fn byte(offset: u64) -> u8 {
            (offset.wrapping_mul(2_654_435_761) >> 13) as u8
        }

        fn md5(size: u64) -> Md5 {
            Md5::of(&(0..size).map(Pattern::byte).collect::<Vec<u8>>())
        }
    }

    fn unavailable(code: ErrorCode) -> DigestUnavailable {
        DigestUnavailable { code, reason: "for the test".into() }
    }

    impl HashInput for Pattern {
        fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), DigestUnavailable> {
            if offset + buffer.len() as u64 > self.fails_at {
                return Err(unavailable(ErrorCode::FileIo));
            }
            (offset..).zip(buffer).for_each(|(offset, byte)| *byte = Pattern::byte(offset));
            Ok(())
        }

        fn check_unchanged(&mut self) -> Result<(), DigestUnavailable> {
            if self.changed { Err(unavailable(ErrorCode::SourceChanged)) } else { Ok(()) }
        }
    }

    const GOOD: fn() -> Pattern = || Pattern { fails_at: u64::MAX, changed: false };

    /// Records path and digest of each reported file.
    #[derive(Default)]
    struct Recorder(Mutex<Vec<(String, Option<Md5>)>>);

    impl Reporter for Recorder {
        fn report(&self, event: Event<'_>) {
            if let Event::FileDone { path, md5, .. } = event {
                self.0.lock().unwrap().push((String::from_utf8(path.to_vec()).unwrap(), md5));
            }
        }
    }

    fn reported(
        session: impl FnOnce(&FileHasher<'_, Pattern>),
    ) -> (Vec<(String, Option<Md5>)>, Vec<ErrorCode>) {
        let recorder = Recorder::default();
        let hasher = FileHasher::new(true, &recorder);
        hasher.run_with(|| session(&hasher)).unwrap();
        let faults = hasher.unavailable().into_keys().collect();
        drop(hasher);
        let mut lines = recorder.0.into_inner().unwrap();
        lines.sort();
        (lines, faults)
    }

    #[test]
    fn files_of_any_size_are_hashed_in_parallel() {
        let sizes: Vec<u64> =
            (0..40).map(|n| [0, 1, 65_535, 65_536, 65_537, 1_048_577, 3_000_001][n % 7] + n as u64).collect();
        let (lines, faults) = reported(|hasher| {
            for (id, size) in (0..).zip(&sizes) {
                hasher.wait_for_capacity();
                hasher.on_start(id, *size, *size, GOOD);
                hasher.on_stored(id, format!("{id:02}").as_bytes(), None, None);
            }
        });
        let expected: Vec<_> = (0..)
            .zip(&sizes)
            .map(|(id, size): (u64, _)| (format!("{id:02}"), Some(Pattern::md5(*size))))
            .collect();
        assert_eq!(lines, expected);
        assert_eq!(faults, []);
    }

    #[test]
    fn parts_may_become_available_in_any_order() {
        let size = 2 * PART_BYTES + 7;
        let ranges = [(2 * PART_BYTES, 7), (PART_BYTES, PART_BYTES), (0, PART_BYTES)];
        let (lines, _) = reported(|hasher| {
            hasher.on_start(1, size, 0, GOOD);
            for (offset, len) in ranges {
                hasher.on_available(1, PartRange { offset, len });
            }
            hasher.on_start(2, 3, 3, GOOD);
            hasher.on_stored(2, b"b", None, None);
            hasher.on_stored(1, b"a", None, None);
        });
        assert_eq!(
            lines,
            [("a".to_owned(), Some(Pattern::md5(size))), ("b".to_owned(), Some(Pattern::md5(3)))]
        );
    }

    #[test]
    fn only_stored_files_are_reported() {
        let (lines, faults) = reported(|hasher| {
            for id in 0..3 {
                hasher.on_start(id, 100, 100, GOOD);
            }
            hasher.on_dropped(0);
            hasher.on_stored(1, b"stored", None, None);
        });
        assert_eq!(lines, [("stored".to_owned(), Some(Pattern::md5(100)))]);
        assert_eq!(faults, []);
    }

    #[test]
    fn files_that_fail_or_change_have_no_digest() {
        let (lines, faults) = reported(|hasher| {
            hasher.on_start(1, 100, 100, || Pattern { fails_at: 50, changed: false });
            hasher.on_start(2, 100, 100, || Pattern { fails_at: u64::MAX, changed: true });
            hasher.on_start(3, 100, 50, GOOD);
            for (id, path) in [(1, b"unreadable"), (2, b"changed..."), (3, b"incomplete"), (4, b"never read")]
            {
                hasher.on_stored(id, path, None, None);
            }
        });
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|(_, md5)| md5.is_none()), "{lines:?}");
        assert_eq!(faults, [ErrorCode::SourceChanged, ErrorCode::FileIo, ErrorCode::Other]);
    }

    #[test]
    fn a_fast_session_waits_and_a_panicking_one_does_not_hang() {
        let (lines, _) = reported(|hasher| {
            for id in 0..10 * MAX_PENDING_RESULTS as u64 {
                hasher.wait_for_capacity();
                hasher.on_stored(id, b"a", Some(Md5::of(b"")), None);
                assert!(hasher.lock().results.len() <= MAX_PENDING_RESULTS);
            }
        });
        assert_eq!(lines.len(), 10 * MAX_PENDING_RESULTS);
        let broken = std::panic::catch_unwind(|| reported(|_| panic!("the session panics")));
        assert!(broken.is_err());
    }

    #[test]
    fn switched_off_it_reports_at_once() {
        let recorder = Recorder::default();
        let hasher = FileHasher::new(false, &recorder);
        hasher.on_start(1, 1, 1, || unreachable!("nothing is hashed"));
        hasher.run_with(|| hasher.on_stored(1, b"a", None, None)).unwrap();
        assert_eq!(recorder.0.lock().unwrap()[..], [("a".to_owned(), None)]);
        let _: FileHasher<'_, Pattern> = hasher;
    }
}
