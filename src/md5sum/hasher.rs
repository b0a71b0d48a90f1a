//! Tells of each file in place, with the MD5 of all of it.
//!
//! ```text
//!   begin, ready ──▶ large files ──16 side by side──▶ digests ──┐
//!                                                               ├──▶ FileDone (or Undigested)
//!   stored ─────────────────────────────────────────────────────┘
//! ```
//!
//! The digest of a file of one part is that of its part. A larger file is read once more, from its start as far as it
//! is there, while the rest of it moves. All of this happens on a thread of the lister's own, and so does whatever
//! becomes of the events: whoever moves bytes waits for it only in [`Lister::wait_for_room`], where nothing is locked.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::contiguous::ContiguousPrefix;
use super::{DigestUnavailable, HashInput};
use crate::digest::{Md5, Message, PartRange, lane_count, update_many};
use crate::error_code::ErrorCode;
use crate::event::{Event, Reporter};

/// Files that may wait to be told of.
const MAX_PENDING_LINES: usize = 1024;
/// Large files that may be all there and not hashed yet; each may hold a descriptor.
const MAX_PENDING_FILES: usize = 64;
/// Bytes of each file in work at a time. Sixteen of these stay in a core's second-level cache.
const SLICE_BYTES: usize = 64 << 10;
/// Slices of each file in a turn, before new ones join.
const SLICES_PER_TURN: usize = 16;
/// Hashing that goes on for so long after everything has moved is shown.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// And then again every so often.
const REFRESH: Duration = Duration::from_millis(200);

/// See the module's page. Switched off, it tells of a file as soon as it is stored, with the digest if that is known.
pub struct FileHasher<'a, W> {
    progress: &'a dyn Reporter,
    is_on: bool,
    state: Mutex<State<W>>,
    changed: Condvar,
}

struct State<W> {
    /// What is to be told.
    told: VecDeque<Line>,
    /// Files to be hashed, in the order of their announcement.
    files: BTreeMap<u64, Pending<W>>,
    undigested: BTreeMap<ErrorCode, u64>,
    /// Since when nothing new comes.
    closed: Option<Instant>,
    /// Nobody hashes any more.
    is_gone: bool,
    /// The program is to end: what is not hashed by now is not hashed any more.
    in_a_hurry: bool,
}

/// A file that is in place.
struct Line {
    stored: Stored,
    digest: Result<Md5, DigestUnavailable>,
}

struct Stored {
    path: Box<[u8]>,
    there_bytes: Option<u64>,
}

/// A file that is not in place yet, or not hashed.
struct Pending<W> {
    size_bytes: u64,
    front: ContiguousPrefix,
    /// Taken out while it is hashed.
    work: Option<Work<W>>,
    digest: Option<Result<Md5, DigestUnavailable>>,
    stored: Option<Stored>,
}

/// A file being hashed.
struct Work<W> {
    whole: W,
    message: Message,
    done_bytes: u64,
}

impl<W> Pending<W> {
    fn has_turn(&self) -> bool {
        let all = |done| done == self.size_bytes;
        self.work.as_ref().is_some_and(|work| work.done_bytes < self.front.bytes() || all(work.done_bytes))
    }

    fn is_backlog(&self) -> bool {
        self.digest.is_none() && self.front.bytes() == self.size_bytes
    }

    fn remaining_bytes(&self) -> u64 {
        self.work.as_ref().map_or(0, |work| self.size_bytes - work.done_bytes)
    }
}

/// A file's turn in the lanes.
struct HashSlice<W> {
    id: u64,
    size_bytes: u64,
    ready_bytes: u64,
    work: Work<W>,
    failure: Option<DigestUnavailable>,
}

enum Step<W> {
    Tell(VecDeque<Line>),
    Hash(Vec<HashSlice<W>>),
    Show { remaining_bytes: u64 },
    End,
}

impl<'a, W: HashInput> FileHasher<'a, W> {
    /// A lister that takes every file's MD5 if `is_on`, and costs nothing otherwise.
    pub fn new(is_on: bool, progress: &'a dyn Reporter) -> Self {
        let state = State {
            told: VecDeque::new(),
            files: BTreeMap::new(),
            undigested: BTreeMap::new(),
            closed: None,
            is_gone: false,
            in_a_hurry: false,
        };
        FileHasher { progress, is_on, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Runs a session with the lister's thread beside it, and returns when every file that is in place was told of.
    ///
    /// # Errors
    ///
    /// The system gives no thread, and nothing was done.
    pub fn run_with<T>(&self, session: impl FnOnce() -> T) -> io::Result<T> {
        if !self.is_on {
            return Ok(session());
        }
        thread::scope(|scope| {
            thread::Builder::new().name("hasher".into()).spawn_scoped(scope, || self.run())?;
            let _close = DropGuard(|| {
                self.lock().closed = Some(Instant::now());
                self.changed.notify_all();
            });
            Ok(session())
        })
    }

    /// The program is to end: nobody waits for digests any more. What is in place is still told of.
    pub fn stop_waiting(&self) {
        self.lock().in_a_hurry = true;
        self.changed.notify_all();
    }

    /// The files whose MD5 could not be taken, by reason.
    pub fn on_unavailable(&self) -> BTreeMap<ErrorCode, u64> {
        self.lock().undigested.clone()
    }

    /// A file of several parts is under way, and so many bytes from its start on can be read. Begins to hash it; a
    /// second call does nothing.
    pub fn on_start(&self, id: u64, size_bytes: u64, ready_bytes: u64, whole: impl FnOnce() -> W) {
        if !self.is_on {
            return;
        }
        let mut state = self.lock();
        state.files.entry(id).or_insert_with(|| Pending {
            size_bytes,
            front: ContiguousPrefix::at(ready_bytes),
            work: Some(Work { whole: whole(), message: Message::new(), done_bytes: 0 }),
            digest: None,
            stored: None,
        });
        self.changed.notify_all();
    }

    /// More of a file can be read.
    pub fn on_available(&self, id: u64, range: PartRange) {
        if !self.is_on {
            return;
        }
        if let Some(pending) = self.lock().files.get_mut(&id) {
            pending.front.add(range);
            self.changed.notify_all();
        }
    }

    /// A file is in place under `path`. It is told of at once if its MD5 is known or was not asked for, and otherwise
    /// when it is hashed.
    pub fn on_stored(&self, id: u64, path: &[u8], md5: Option<Md5>, there_bytes: Option<u64>) {
        if !self.is_on {
            return self.progress.report(Event::FileDone { path, md5, there_bytes });
        }
        let mut state = self.lock();
        let stored = Stored { path: path.into(), there_bytes };
        match (md5, state.files.get_mut(&id)) {
            (None, Some(pending)) => pending.stored = Some(stored),
            (Some(md5), _) => {
                state.files.remove(&id);
                state.told.push_back(Line { stored, digest: Ok(md5) });
            }
            (None, None) => {
                let digest =
                    Err(DigestUnavailable { fault: ErrorCode::Other, reason: "it was not read".into() });
                state.told.push_back(Line { stored, digest });
            }
        }
        state.settle(id);
        self.changed.notify_all();
    }

    /// A file will not arrive.
    pub fn on_dropped(&self, id: u64) {
        if self.is_on {
            self.lock().files.remove(&id);
            self.changed.notify_all();
        }
    }

    /// Waits while too much is left to hash or to tell, so that memory has a bound.
    pub fn wait_for_room(&self) {
        if !self.is_on {
            return;
        }
        let mut state = self.lock();
        while !state.has_room() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let _gone = DropGuard(|| {
            self.lock().is_gone = true;
            self.changed.notify_all();
        });
        let mut buffer = Vec::new();
        let mut shown = Instant::now();
        loop {
            match self.next_step(&mut shown) {
                Step::Tell(lines) => lines.into_iter().for_each(|line| self.report(line)),
                Step::Hash(turns) => self.hash(turns, &mut buffer),
                Step::Show { remaining_bytes } => self.progress.report(Event::Digesting { remaining_bytes }),
                Step::End => return,
            }
        }
    }

    fn next_step(&self, shown: &mut Instant) -> Step<W> {
        let mut state = self.lock();
        loop {
            if !state.told.is_empty() {
                let lines = std::mem::take(&mut state.told);
                self.changed.notify_all();
                return Step::Tell(lines);
            }
            if let Some(since) = state.closed {
                // What is not in place by now will never be.
                state.files.retain(|_, pending| pending.stored.is_some());
                if since.elapsed() >= MAX_WAIT && shown.elapsed() >= REFRESH && !state.files.is_empty() {
                    *shown = Instant::now();
                    let remaining_bytes = state.files.values().map(Pending::remaining_bytes).sum();
                    return Step::Show { remaining_bytes };
                }
            }
            let turns = if state.in_a_hurry { Vec::new() } else { state.take_turns() };
            if !turns.is_empty() {
                return Step::Hash(turns);
            }
            if state.closed.is_some() {
                let Some(id) = state.files.keys().next().copied() else {
                    return Step::End;
                };
                // In place, and yet not all of it was ever called ready: not to be waited for.
                let (fault, reason) = match state.in_a_hurry {
                    true => (ErrorCode::Interrupted, "the program was interrupted before its MD5 was taken"),
                    false => (ErrorCode::Other, "the session ended before it could be read"),
                };
                state.digested(id, Err(DigestUnavailable { fault, reason: reason.into() }));
                continue;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn report(&self, Line { stored: Stored { path, there_bytes }, digest }: Line) {
        let md5 = digest.as_ref().ok().copied();
        self.progress.report(Event::FileDone { path: &path, md5, there_bytes });
        if let Err(DigestUnavailable { fault, reason }) = digest {
            *self.lock().undigested.entry(fault).or_default() += 1;
            self.progress.report(Event::DigestUnavailable { path: &path, fault, reason: &reason });
        }
    }

    fn hash(&self, mut turns: Vec<HashSlice<W>>, buffer: &mut Vec<u8>) {
        buffer.resize(buffer.len().max(turns.len() * SLICE_BYTES), 0);
        for _ in 0..SLICES_PER_TURN {
            let mut work = Vec::with_capacity(turns.len());
            for (turn, slice) in turns.iter_mut().zip(buffer.chunks_exact_mut(SLICE_BYTES)) {
                let Work { whole, message, done_bytes } = &mut turn.work;
                let len = (turn.ready_bytes - *done_bytes).min(SLICE_BYTES as u64) as usize;
                if len == 0 || turn.failure.is_some() {
                    continue;
                }
                match whole.read_at(&mut slice[..len], *done_bytes) {
                    Ok(()) => {
                        *done_bytes += len as u64;
                        work.push((message, &slice[..len]));
                    }
                    Err(failure) => turn.failure = Some(failure),
                }
            }
            if work.is_empty() {
                break;
            }
            update_many(&mut work);
        }
        for turn in turns {
            self.finish_slice(turn);
        }
    }

    fn finish_slice(&self, HashSlice { id, size_bytes, mut work, failure, .. }: HashSlice<W>) {
        let digest = match failure {
            Some(failure) => Some(Err(failure)),
            None if work.done_bytes < size_bytes => None,
            None => Some(work.whole.check_unchanged().map(|()| Md5::from(work.message.clone()))),
        };
        let mut state = self.lock();
        match digest {
            Some(digest) => state.digested(id, digest),
            None => {
                // It may have been dropped meanwhile.
                if let Some(pending) = state.files.get_mut(&id) {
                    pending.work = Some(work);
                }
            }
        }
        self.changed.notify_all();
    }
}

impl<W> State<W> {
    fn has_room(&self) -> bool {
        self.is_gone
            || self.in_a_hurry
            || self.told.len() < MAX_PENDING_LINES
                && (self.files.len() < MAX_PENDING_FILES
                    || self.files.values().filter(|pending| pending.is_backlog()).count() < MAX_PENDING_FILES)
    }

    /// As many files as there are lanes, the oldest first, so that they are done with soon.
    fn take_turns(&mut self) -> Vec<HashSlice<W>> {
        let waiting = self.files.iter_mut().filter(|(_, pending)| pending.has_turn());
        let turns = waiting.take(lane_count()).filter_map(|(id, pending)| {
            let (size_bytes, ready_bytes) = (pending.size_bytes, pending.front.bytes());
            Some(HashSlice { id: *id, size_bytes, ready_bytes, work: pending.work.take()?, failure: None })
        });
        turns.collect()
    }

    fn digested(&mut self, id: u64, digest: Result<Md5, DigestUnavailable>) {
        if let Some(pending) = self.files.get_mut(&id) {
            pending.work = None;
            pending.digest = Some(digest);
        }
        self.settle(id);
    }

    /// A file that is in place and hashed is told of.
    fn settle(&mut self, id: u64) {
        if self.files.get(&id).is_some_and(|pending| pending.stored.is_some() && pending.digest.is_some())
            && let Some(Pending { stored: Some(stored), digest: Some(digest), .. }) = self.files.remove(&id)
        {
            self.told.push_back(Line { stored, digest });
        }
    }
}

/// Runs a closure at the end of a scope, however it ends.
struct DropGuard<F: FnMut()>(F);

impl<F: FnMut()> Drop for DropGuard<F> {
    fn drop(&mut self) {
        self.0();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::PART_BYTES;

    /// Bytes that follow from their offset; `fails_at` is where reading fails.
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

    fn unread(fault: ErrorCode) -> DigestUnavailable {
        DigestUnavailable { fault, reason: "for the test".into() }
    }

    impl HashInput for Pattern {
        fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), DigestUnavailable> {
            if offset + buffer.len() as u64 > self.fails_at {
                return Err(unread(ErrorCode::FileIo));
            }
            (offset..).zip(buffer).for_each(|(offset, byte)| *byte = Pattern::byte(offset));
            Ok(())
        }

        fn check_unchanged(&mut self) -> Result<(), DigestUnavailable> {
            if self.changed { Err(unread(ErrorCode::SourceChanged)) } else { Ok(()) }
        }
    }

    const GOOD: fn() -> Pattern = || Pattern { fails_at: u64::MAX, changed: false };

    /// Notes path and digest of each file told of.
    #[derive(Default)]
    struct Notes(Mutex<Vec<(String, Option<Md5>)>>);

    impl Reporter for Notes {
        fn report(&self, event: Event<'_>) {
            if let Event::FileDone { path, md5, .. } = event {
                self.0.lock().unwrap().push((String::from_utf8(path.to_vec()).unwrap(), md5));
            }
        }
    }

    fn listed(
        session: impl FnOnce(&FileHasher<'_, Pattern>),
    ) -> (Vec<(String, Option<Md5>)>, Vec<ErrorCode>) {
        let notes = Notes::default();
        let hasher = FileHasher::new(true, &notes);
        hasher.run_with(|| session(&hasher)).unwrap();
        let faults = hasher.on_unavailable().into_keys().collect();
        drop(hasher);
        let mut lines = notes.0.into_inner().unwrap();
        lines.sort();
        (lines, faults)
    }

    #[test]
    fn files_of_any_size_are_hashed_side_by_side() {
        let sizes: Vec<u64> =
            (0..40).map(|n| [0, 1, 65_535, 65_536, 65_537, 1_048_577, 3_000_001][n % 7] + n as u64).collect();
        let (lines, faults) = listed(|hasher| {
            for (id, size) in (0..).zip(&sizes) {
                hasher.wait_for_room();
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
    fn parts_may_come_in_any_order_and_before_or_after_the_rest() {
        let size = 2 * PART_BYTES + 7;
        let ranges = [(2 * PART_BYTES, 7), (PART_BYTES, PART_BYTES), (0, PART_BYTES)];
        let (lines, _) = listed(|hasher| {
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
    fn only_what_is_stored_is_told_of() {
        let (lines, faults) = listed(|hasher| {
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
    fn what_cannot_be_read_or_changed_has_no_digest() {
        let (lines, faults) = listed(|hasher| {
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
    fn a_session_that_is_ahead_waits_and_one_that_breaks_down_does_not_hang() {
        let (lines, _) = listed(|hasher| {
            for id in 0..10 * MAX_PENDING_LINES as u64 {
                hasher.wait_for_room();
                hasher.on_stored(id, b"a", Some(Md5::of(b"")), None);
                assert!(hasher.lock().told.len() <= MAX_PENDING_LINES);
            }
        });
        assert_eq!(lines.len(), 10 * MAX_PENDING_LINES);
        let broken = std::panic::catch_unwind(|| listed(|_| panic!("the session breaks down")));
        assert!(broken.is_err());
    }

    #[test]
    fn switched_off_it_tells_at_once() {
        let notes = Notes::default();
        let hasher = FileHasher::new(false, &notes);
        hasher.on_start(1, 1, 1, || unreachable!("nothing is hashed"));
        hasher.run_with(|| hasher.on_stored(1, b"a", None, None)).unwrap();
        assert_eq!(notes.0.lock().unwrap()[..], [("a".to_owned(), None)]);
        let _: FileHasher<'_, Pattern> = hasher;
    }
}
