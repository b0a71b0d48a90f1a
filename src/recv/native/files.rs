//! The files in arrival, shared by the threads of a session, and how the session ends.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::Sender;

use crate::dest::local::{
    Content, Digests, ExistingFile, Item, LocalSession, PartialFile, Record, Records, SourceVersion,
    SpaceReservation, StagedFile, StoreError, SyncedFile, check_size_limit,
};
use crate::digest::{Md5, PART_BYTES, PartDigests, PartLayout, PartRange};
use crate::error_code::ErrorCode;
use crate::event::{Event, Reporter};
use crate::md5sum::FileHasher;
use crate::recv::RecvError;
use crate::recv::native::committer::CommitJob;
use crate::recv::native::verifier::ResumeCheck;
use crate::recv::native::{PhaseTimers, SessionContext, SessionControl, lock_session};
use crate::recv::received_file::ReceivedFile;
use crate::recv::registry::MAX_JOINED;
use crate::sync::CancelToken;
use crate::wire::EntryId;
use crate::wire::receiver::{
    FileEntry, HoleHeader, OtherEntry, OtherKind, PartHeader, PartOutcome, RetryDecision, remaining_ranges,
};

/// Landings that may be open at the same time.
pub const MAX_STAGED: usize = 96;

/// See the module's page.
pub struct InboundFiles<'a> {
    control: &'a Mutex<SessionControl>,
    complete: Sender<Vec<CommitJob>>,
    pub progress: &'a dyn Reporter,
    pub hasher: &'a FileHasher<'a, ReceivedFile>,
    pub context: &'a SessionContext<'a>,
    files: Mutex<Files>,
    /// A landing was made, or could not be.
    opened: Condvar,
    /// Parts whose bodies are coming in just now.
    in_transit: AtomicUsize,
    moved_bytes: AtomicU64,
    pub timers: &'a PhaseTimers,
    /// Wakes the readers when there is nothing more to read.
    done: CancelToken,
    outcome: Mutex<Option<Result<(), RecvError>>>,
}

#[derive(Default)]
struct Files {
    by_id: HashMap<EntryId, InboundFile>,
    staged: usize,
}

struct InboundFile {
    entry: FileEntry,
    stage: Stage,
    /// What is promised to it, as long as it is in arrival.
    reservation: Option<SpaceReservation>,
    /// Parts that are in and not yet in the landing's journal.
    unrecorded: Records,
    /// What an earlier session left of it and is gone on with.
    resumed_bytes: u64,
}

impl InboundFile {
    fn new(entry: FileEntry, stage: Stage) -> Self {
        InboundFile { entry, stage, reservation: None, unrecorded: Records::default(), resumed_bytes: 0 }
    }

    /// Nothing is kept of it.
    fn discard(self) -> FileEntry {
        if let Stage::Staging(landing) = self.stage {
            landing.discard();
        }
        self.entry
    }

    /// What is in of it is kept for another session, if that can be.
    fn keep(self) -> FileEntry {
        if let Stage::Staging(landing) = self.stage
            && let (Some(journal), Some(written)) = (landing.journal(), landing.written())
            && journal.record(&written, &self.unrecorded, true).is_err()
        {
            landing.discard();
        }
        self.entry
    }
}

/// What there is of a file in arrival.
enum Stage {
    /// Nothing yet.
    Requested,
    /// A thread makes its landing, which may take as long as the disk does, with nothing locked.
    Opening,
    /// Some parts, in their landing.
    Staging(StagedFile),
    /// A file of that name and size that was there before, and whether it gives way if it is different.
    Comparing(Arc<ExistingFile>, bool),
}

impl<'a> InboundFiles<'a> {
    pub fn new(
        control: &'a Mutex<SessionControl>,
        complete: Sender<Vec<CommitJob>>,
        timers: &'a PhaseTimers,
        context: &'a SessionContext<'a>,
    ) -> Result<Self, RecvError> {
        Ok(InboundFiles {
            control,
            complete,
            progress: context.progress,
            hasher: context.hasher,
            context,
            files: Mutex::default(),
            opened: Condvar::new(),
            in_transit: AtomicUsize::new(0),
            moved_bytes: AtomicU64::new(0),
            timers,
            done: CancelToken::new().map_err(RecvError::NoThread)?,
            outcome: Mutex::default(),
        })
    }

    /// The session and its way back to the sender.
    pub fn lock_session(&self) -> MutexGuard<'a, SessionControl> {
        lock_session(self.control)
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rung when there is nothing more to read.
    pub fn done(&self) -> &CancelToken {
        &self.done
    }

    /// Ends the session for all its threads; the first outcome counts.
    fn end(&self, outcome: Result<(), RecvError>) {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(outcome);
        self.done.cancel();
    }

    /// A reader that failed ends the session.
    pub fn end_if_failed(&self, read: Result<(), RecvError>) {
        if read.is_err() {
            self.end(read);
        }
    }

    /// How the session ended, once all threads are done.
    pub fn outcome(&self) -> Result<(), RecvError> {
        self.lock_session().summary.moved_bytes = self.moved_bytes.load(Ordering::Relaxed);
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        outcome.unwrap_or_else(|| Err(RecvError::Truncated("the session".into())))
    }

    /// A body is coming in, until the guard is dropped.
    pub fn in_transit(&self) -> impl Drop + use<'_> {
        struct InTransit<'b>(&'b AtomicUsize);
        impl Drop for InTransit<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Release);
            }
        }
        self.in_transit.fetch_add(1, Ordering::Relaxed);
        InTransit(&self.in_transit)
    }

    /// Does nothing more come before what is here is judged?
    pub fn is_drained(&self) -> bool {
        self.in_transit.load(Ordering::Acquire) == 0 && self.lock_session().session.is_drained()
    }

    /// Bytes of a body came in.
    pub fn record_bytes(&self, bytes: u64) {
        self.moved_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.progress.report(Event::Transferred { bytes });
    }

    /// Asks for a file.
    pub fn request_all(&self, entry: FileEntry, reservation: Option<SpaceReservation>) {
        // Noted first: once the sender is asked, its parts may come on any connection.
        let id = entry.id;
        self.files()
            .by_id
            .insert(id, InboundFile { reservation, ..InboundFile::new(entry, Stage::Requested) });
        self.lock_session().session.want_all(id);
    }

    /// What tells the state of a file that can be taken up again if it is cut.
    pub fn origin(entry: &FileEntry) -> Option<SourceVersion> {
        let (size_bytes, mtime) = (entry.layout.size_bytes(), entry.metadata.mtime);
        let state = entry.state.filter(|_| entry.layout.count() > 1)?;
        Some(SourceVersion { size_bytes, mtime, state })
    }

    /// Goes on with what an earlier session left of a file. What nobody vouches for has to be read first.
    pub fn resume(
        &self,
        entry: FileEntry,
        kept: PartialFile,
        reservation: Option<SpaceReservation>,
    ) -> Option<ResumeCheck> {
        let (id, layout) = (entry.id, entry.layout);
        let may_land = self.files().staged < MAX_STAGED / 2;
        let Some(written) = kept.staged.written().filter(|_| may_land) else {
            // What is kept is not gone on with: all of the file will be written.
            if let Some(reservation) = &reservation {
                reservation.attach(None);
            }
            self.request_all(entry, reservation);
            return None;
        };
        let (path, size_bytes) = (entry.path.as_bytes(), layout.size_bytes());
        self.progress.report(Event::FileStarted { path, size_bytes });
        self.hasher.on_start(id, size_bytes, 0, || ReceivedFile::staged(Some(written.clone())));
        // Somebody may have cut it, and zeros at its end are nothing that anybody writes.
        let sized = if entry.is_sparse { kept.staged.make_sparse(size_bytes) } else { Ok(()) };
        let mut files = self.files();
        files
            .by_id
            .insert(id, InboundFile { reservation, ..InboundFile::new(entry, Stage::Staging(kept.staged)) });
        files.staged += 1;
        drop(files);
        if let Err(error) = sized {
            self.fail_file(id, &error);
            return None;
        }
        if kept.is_trusted {
            let recorded = kept.digests.count();
            self.request_missing(id, layout, kept.digests, recorded);
            return None;
        }
        Some(ResumeCheck { id, layout, written, digests: kept.digests })
    }

    /// These parts of a file are in its landing, of so many that are recorded: asks for the rest.
    pub fn request_missing(&self, id: EntryId, layout: PartLayout, mut there: PartDigests, recorded: u64) {
        remaining_ranges(&mut there, layout);
        // Where recorded parts come again, a journal that still has them would be believed by the next session.
        if there.count() < recorded {
            let journal = match self.files().by_id.get(&id) {
                Some(InboundFile { stage: Stage::Staging(landing), .. }) => landing.journal(),
                _ => None,
            };
            journal.inspect(|journal| journal.rewrite_with(&there));
        }
        if there.count() == 0 {
            return self.lock_session().session.want_all(id);
        }
        let runs = there.recorded();
        let mut control = self.lock_session();
        let bytes = control.session.want_missing(id, there);
        if let Some(arrival) = self.files().by_id.get_mut(&id) {
            arrival.resumed_bytes = bytes;
        }
        drop(control);
        for run in runs {
            self.hasher.on_available(id, layout.run(*run.start(), run.end() - run.start() + 1));
        }
        if let Some(InboundFile { entry, .. }) = self.files().by_id.get(&id) {
            let (path, size_bytes) = (entry.path.as_bytes(), layout.size_bytes());
            self.progress.report(Event::Resumed { path, bytes, size_bytes });
        }
    }

    /// Records in the journals what came in since the last time, after it was synced; with `close`, for the last time.
    /// Whoever reads a journal believes it, so a file whose bytes cannot be synced is given up.
    pub fn checkpoint(&self, close: bool) {
        let mut work = Vec::new();
        for (id, arrival) in &mut self.files().by_id {
            if let Stage::Staging(landing) = &arrival.stage
                && let (Some(journal), Some(written)) = (landing.journal(), landing.written())
                && (!arrival.unrecorded.is_empty() || close && journal.has_records())
            {
                work.push((*id, journal, written, std::mem::take(&mut arrival.unrecorded)));
            }
        }
        for (id, journal, written, records) in work {
            if let Err(error) = journal.record(&written, &records, close) {
                self.fail_file(id, &error);
            }
        }
    }

    /// Notes parts of a file as in, if its landing has a journal.
    fn unrecorded(&self, id: EntryId, record: Record) {
        if let Some(InboundFile { stage: Stage::Staging(landing), unrecorded, .. }) =
            self.files().by_id.get_mut(&id)
            && landing.journal().is_some()
        {
            unrecorded.push(record);
        }
    }

    /// Asks for the digests of a file first: one of that name and size is there.
    pub fn request_digests(&self, entry: FileEntry, existing: ExistingFile, gives_way: bool) {
        let id = entry.id;
        let at = Stage::Comparing(Arc::new(existing), gives_way);
        self.files().by_id.insert(id, InboundFile::new(entry, at));
        self.lock_session().session.want_offers(id);
    }

    /// The file that is there already and is being compared.
    pub fn existing(&self, id: EntryId) -> Option<Arc<ExistingFile>> {
        match &self.files().by_id.get(&id)?.stage {
            Stage::Comparing(file, _) => Some(Arc::clone(file)),
            Stage::Requested | Stage::Opening | Stage::Staging(_) => None,
        }
    }

    /// A part that was offered is the same here.
    pub fn offer_matches(&self, header: &PartHeader) {
        let mut control = self.lock_session();
        let progressed = control.session.part_verified(header);
        self.offer_progressed(&mut control, header.id, progressed);
    }

    /// Parts of zeros are the same here.
    pub fn hole_matches(&self, hole: &HoleHeader) {
        let mut control = self.lock_session();
        let progressed = control.session.holes_verified(hole);
        self.offer_progressed(&mut control, hole.id, progressed);
    }

    fn offer_progressed(&self, control: &mut SessionControl, id: EntryId, progressed: PartOutcome) {
        let PartOutcome::Complete(digests) = progressed else { return };
        if let Some(InboundFile { entry, stage: Stage::Comparing(file, _), .. }) = self.remove(id) {
            let size_bytes = entry.layout.size_bytes();
            let md5 = digests.whole(entry.layout);
            if md5.is_none() {
                self.hasher.on_start(id, size_bytes, size_bytes, || ReceivedFile::existing(&file));
            }
            let item = Item::AlreadyThere { file, origin: InboundFiles::origin(&entry) };
            let complete =
                CommitJob { id, path: entry.path, size_bytes, resumed_bytes: 0, md5, last: None, item };
            self.enqueue_commit(control, vec![complete]);
        }
    }

    /// The file that is there is not the same.
    pub fn offer_differs(&self, store: &mut LocalSession, id: EntryId) {
        let different = StoreError::Exists { what: "a different file" };
        let gives_way = match self.files().by_id.get_mut(&id) {
            Some(InboundFile { stage: at @ Stage::Comparing(_, true), entry, .. }) => {
                *at = Stage::Requested;
                Ok(entry.clone())
            }
            Some(InboundFile { stage: Stage::Comparing(_, false), .. }) => Err(different),
            // Found out before.
            _ => return,
        };
        // What is there keeps its reservation until the other file has its name.
        match gives_way.and_then(|entry| reserve_space(store, &entry, None)) {
            Ok(reservation) => {
                if let Some(arrival) = self.files().by_id.get_mut(&id) {
                    arrival.reservation = reservation;
                }
                self.lock_session().session.want_all(id);
            }
            Err(error) => self.fail_file(id, &error),
        }
    }

    /// The name of a file in arrival, for people.
    pub fn name(&self, id: EntryId) -> String {
        let files = self.files();
        let known = files.by_id.get(&id).map(|arrival| arrival.entry.path.to_string());
        known.unwrap_or_else(|| "a file that is not wanted".into())
    }

    /// Is the file one in whose fresh landing zeros need not be written?
    pub fn is_sparse(&self, id: EntryId) -> bool {
        self.files().by_id.get(&id).is_some_and(|arrival| arrival.entry.is_sparse)
    }

    /// Has this file to wait for its landing until others have some? Each connection of the session may have one.
    pub fn has_too_many_staged(&self, id: EntryId) -> bool {
        let files = self.files();
        let is_asked = |arrival: &InboundFile| matches!(arrival.stage, Stage::Requested);
        files.staged > MAX_JOINED && files.by_id.get(&id).is_some_and(is_asked)
    }

    /// The landing of a file in arrival, which is made if this is its first part, and whether all that was not written
    /// to it is zeros.
    pub fn open_staging(
        &self,
        store: &mut LocalSession,
        id: EntryId,
    ) -> Result<(SyncedFile, bool), StoreError> {
        let mut files = self.files();
        let (entry, reservation) = loop {
            let open = files.staged;
            let Some(InboundFile { entry, stage: at, reservation, .. }) = files.by_id.get_mut(&id) else {
                return Err(not_staged("it is not wanted any more"));
            };
            match at {
                Stage::Staging(landing) => return written(landing),
                Stage::Comparing(..) => return Err(not_staged("it was not asked for")),
                // Another connection of the session has its first part.
                Stage::Opening => files = self.opened.wait(files).unwrap_or_else(PoisonError::into_inner),
                Stage::Requested if open >= MAX_STAGED => {
                    return Err(not_staged("too many files are in arrival at once"));
                }
                Stage::Requested => {
                    *at = Stage::Opening;
                    let opening = (entry.clone(), reservation.take());
                    files.staged += 1;
                    break opening;
                }
            }
        };
        drop(files);
        let opening = OpeningGuard { inbound: self, id };
        let made = open_staged_file(store, &entry);
        if let Ok(landing) = &made {
            let (path, size_bytes) = (entry.path.as_bytes(), entry.layout.size_bytes());
            self.progress.report(Event::FileStarted { path, size_bytes });
            reservation.iter().for_each(|reservation| reservation.attach(landing.written()));
        }
        drop(opening);
        self.staging_opened(id, entry.layout.size_bytes(), reservation, made)
    }

    /// Puts a landing where the first part waits for it.
    fn staging_opened(
        &self,
        id: EntryId,
        size_bytes: u64,
        promised: Option<SpaceReservation>,
        made: Result<StagedFile, StoreError>,
    ) -> Result<(SyncedFile, bool), StoreError> {
        let mut files = self.files();
        let landed = match (made, files.by_id.get_mut(&id)) {
            (Ok(landing), Some(InboundFile { stage: at @ Stage::Opening, reservation, .. })) => {
                *reservation = promised;
                if size_bytes > PART_BYTES {
                    self.hasher.on_start(id, size_bytes, 0, || ReceivedFile::staged(landing.written()));
                }
                let landed = written(&landing);
                *at = Stage::Staging(landing);
                landed
            }
            (Err(error), Some(InboundFile { stage: at @ Stage::Opening, .. })) => {
                *at = Stage::Requested;
                files.staged -= 1;
                Err(error)
            }
            // It was withdrawn meanwhile.
            (made, _) => {
                drop(files);
                made.into_iter().for_each(StagedFile::discard);
                Err(not_staged("it is not wanted any more"))
            }
        };
        self.opened.notify_all();
        landed
    }

    /// Lands files whose verified bytes are all at hand, and hands them over together: thousands of small files shall
    /// not cost a hand-over each.
    pub fn stage_small<'b>(
        &self,
        store: &mut LocalSession,
        bodies: impl Iterator<Item = (&'b PartHeader, &'b [u8])>,
    ) {
        let mut landed = Vec::new();
        for (header, body) in bodies {
            let Some(InboundFile { entry, .. }) = self.remove(header.id) else { continue };
            let (path, size_bytes) = (entry.path.as_bytes(), entry.layout.size_bytes());
            self.progress.report(Event::FileStarted { path, size_bytes });
            match store.stage_small(&entry.path, body, entry.metadata) {
                Ok(landing) => landed.push((header, entry, landing)),
                Err(error) => self.fail(&entry, &error),
            }
        }
        let mut control = self.lock_session();
        let mut complete = Vec::with_capacity(landed.len());
        for (header, entry, landing) in landed {
            // Anything else, and it was withdrawn meanwhile.
            if let PartOutcome::Complete(digests) = control.session.part_verified(header) {
                complete.push(complete_file(entry, 0, landing, digests));
            }
        }
        self.enqueue_commit(&mut control, complete);
    }

    /// Parts of zeros are in place.
    pub fn holes_verified(&self, hole: &HoleHeader) {
        let mut control = self.lock_session();
        let progressed = control.session.holes_verified(hole);
        if matches!(progressed, PartOutcome::Unchanged) {
            return;
        }
        control.summary.hole_bytes = control.summary.hole_bytes.saturating_add(hole.range.len);
        let record = Record::Holes(hole.part, hole.parts);
        self.verified(control, hole.id, hole.range, record, progressed);
        self.progress.report(Event::Transferred { bytes: hole.range.len });
    }

    /// A part comes that arrived damaged before. Not told of earlier: a sender whose file changes under it damages a part
    /// itself and then gives up on the file.
    pub fn on_retransmit(&self, header: &PartHeader) {
        self.lock_session().summary.repaired_parts += 1;
        if let Some(InboundFile { entry, .. }) = self.files().by_id.get(&header.id) {
            self.progress.report(Event::Repairing { path: entry.path.as_bytes(), part: header.part });
        }
    }

    /// The bytes of a part have this digest: good, or to be fetched again.
    pub fn on_digest(&self, header: &PartHeader, actual: Md5) {
        let mut control = self.lock_session();
        if actual == header.md5 {
            let progressed = control.session.part_verified(header);
            let record = Record::Part(header.part, actual);
            return self.verified(control, header.id, header.range, record, progressed);
        }
        match control.session.part_damaged(header) {
            RetryDecision::Again => {
                drop(control);
                self.progress.report(Event::Undone { bytes: header.range.len });
            }
            RetryDecision::GaveUp { remaining_bytes } => {
                drop(control);
                self.hasher.on_dropped(header.id);
                if let Some(entry) = self.remove(header.id).map(InboundFile::discard) {
                    let mut control = self.lock_session();
                    control.summary.count_failure(ErrorCode::Digest);
                    self.enqueue_dirs_and_links(&mut control);
                    drop(control);
                    self.progress.report(Event::FileDropped { remaining_bytes });
                    let reason = "it arrived damaged again and again";
                    let name = entry.path.as_bytes();
                    self.progress.report(Event::Failed { name, code: ErrorCode::Digest, reason });
                }
            }
        }
    }

    /// Part of a file is in place and verified; `record` tells so in its journal, if more is to come.
    fn verified(
        &self,
        mut control: MutexGuard<'_, SessionControl>,
        id: EntryId,
        range: PartRange,
        record: Record,
        progressed: PartOutcome,
    ) {
        match progressed {
            // A journal that tells of it would be believed by the next session.
            PartOutcome::Unchanged => {}
            PartOutcome::Partly => {
                self.unrecorded(id, record);
                drop(control);
                self.hasher.on_available(id, range);
            }
            PartOutcome::Complete(digests) => self.complete(&mut control, id, digests, range),
        }
    }

    /// All parts are in, the last of them with this range. The committer sets mode and time, which may wait for the disk.
    fn complete(&self, control: &mut SessionControl, id: EntryId, digests: PartDigests, last: PartRange) {
        let Some(InboundFile { entry, stage: Stage::Staging(landing), resumed_bytes, .. }) = self.remove(id)
        else {
            return;
        };
        let complete = complete_file(entry, resumed_bytes, landing, digests);
        self.enqueue_commit(control, vec![CommitJob { last: Some(last), ..complete }]);
    }

    /// Has the committer make entries durable, and after them the folders and links that waited for them. The session
    /// is locked meanwhile, so that the queue has the order of the session: a folder comes after everything in it. The
    /// queue has no bound of its own; it cannot hold more than the entries in flight. The last hand-over ends the
    /// reading.
    pub fn enqueue_commit(&self, control: &mut SessionControl, mut complete: Vec<CommitJob>) {
        while let Some(OtherEntry { id, path, kind, metadata }) = control.session.next_ready() {
            let item = match kind {
                OtherKind::Dir => Item::Dir { path: path.clone(), metadata },
                OtherKind::Link(target) => Item::Link { path: path.clone(), target, metadata },
            };
            complete.push(CommitJob {
                id,
                path,
                size_bytes: 0,
                resumed_bytes: 0,
                md5: None,
                last: None,
                item,
            });
        }
        if !complete.is_empty() {
            // The committer only ends after this queue is closed, which happens when the arrivals are dropped.
            let _ = self.complete.send(complete);
        }
        if control.session.is_all_received() {
            self.end(Ok(()));
        }
    }

    /// Hands over the folders and links that wait for nothing any more.
    pub fn enqueue_dirs_and_links(&self, control: &mut SessionControl) {
        self.enqueue_commit(control, Vec::new());
    }

    /// Is a file that was announced complete, failed or withdrawn by now?
    pub fn is_settled(&self, id: EntryId) -> bool {
        !self.lock_session().session.is_open(id)
    }

    /// Lets a file go that was settled while another thread decided on it.
    pub fn discard_if_settled(&self, id: EntryId) {
        if self.is_settled(id) {
            self.discard(id);
        }
    }

    /// Lets a file go, and its landing with it.
    pub fn discard(&self, id: EntryId) {
        self.hasher.on_dropped(id);
        self.remove(id).map(InboundFile::discard);
    }

    fn remove(&self, id: EntryId) -> Option<InboundFile> {
        let mut files = self.files();
        let arrival = files.by_id.remove(&id)?;
        files.staged -= usize::from(matches!(arrival.stage, Stage::Staging(_) | Stage::Opening));
        Some(arrival)
    }

    /// A file in arrival cannot be taken any further.
    pub fn fail_file(&self, id: EntryId, error: &StoreError) {
        // Whoever makes reservation sends it again.
        let leave = if error.code() == ErrorCode::NoSpace { InboundFile::keep } else { InboundFile::discard };
        if let Some(entry) = self.remove(id).map(leave) {
            self.fail(&entry, error);
        }
    }

    /// A file will not arrive; the sender is told.
    pub fn fail(&self, entry: &FileEntry, error: &StoreError) {
        self.fail_now(&mut self.lock_session(), entry, error);
    }

    fn fail_now(&self, control: &mut SessionControl, entry: &FileEntry, error: &StoreError) {
        self.hasher.on_dropped(entry.id);
        let (code, reason) = (error.code(), error.to_string());
        let remaining_bytes = control.session.fail(entry.id, code, &reason);
        control.summary.count_failure(code);
        self.enqueue_dirs_and_links(control);
        self.progress.report(Event::FileDropped { remaining_bytes });
        self.progress.report(Event::Failed { name: entry.path.as_bytes(), code, reason: &reason });
    }
}

/// A thread that panics while it makes a landing must not leave others waiting for it.
struct OpeningGuard<'a, 'b> {
    inbound: &'a InboundFiles<'b>,
    id: EntryId,
}

impl Drop for OpeningGuard<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.inbound.staging_opened(self.id, 0, None, Err(not_staged("it could not be made")));
        }
    }
}

/// The reservation that a file will take, or the rest of one of which something was kept. How much a sparse file takes is known
/// when it is here.
pub fn reserve_space(
    store: &mut LocalSession,
    entry: &FileEntry,
    kept: Option<&PartialFile>,
) -> Result<Option<SpaceReservation>, StoreError> {
    match entry.is_sparse {
        true => check_size_limit(entry.layout.size_bytes()).map(|()| None),
        false => store.reserve(&entry.path, entry.layout.size_bytes(), kept.map(|kept| &kept.staged)),
    }
}

fn complete_file(
    entry: FileEntry,
    resumed_bytes: u64,
    landing: StagedFile,
    digests: PartDigests,
) -> CommitJob {
    let FileEntry { id, path, layout, metadata, .. } = entry;
    let md5 = digests.whole(layout);
    let content = Content { size_bytes: layout.size_bytes(), digests: Digests::Parts(digests) };
    CommitJob {
        id,
        path,
        size_bytes: layout.size_bytes(),
        resumed_bytes,
        md5,
        last: None,
        item: Item::File { staged: landing, content, metadata },
    }
}

/// Makes the landing of a file, in which its parts are collected.
fn open_staged_file(store: &mut LocalSession, entry: &FileEntry) -> Result<StagedFile, StoreError> {
    let landing = match InboundFiles::origin(entry) {
        Some(origin) => store.stage_resumable(&entry.path, origin)?,
        None => store.stage(&entry.path, entry.layout.size_bytes())?,
    };
    if entry.is_sparse {
        landing.make_sparse(entry.layout.size_bytes())?;
    }
    Ok(landing)
}

/// The bytes of a landing, and whether all that was not written to it is zeros.
fn written(landing: &StagedFile) -> Result<(SyncedFile, bool), StoreError> {
    let written = landing.written().ok_or(StoreError::Exists { what: "a complete file" })?;
    Ok((written, landing.is_zero_filled()))
}

fn not_staged(why: &'static str) -> StoreError {
    StoreError::Io { doing: "take the file", source: io::Error::other(why) }
}
