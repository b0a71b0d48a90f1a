//! The files that a session receives: what is requested of them, their staged files, and what becomes of them.

use std::sync::{Arc, MutexGuard};

use crate::dest::local::{
    Content, Digests, ExistingFile, Item, LocalSession, PartialFile, Record, SourceVersion, SpaceReservation,
    StagedFile, StoreError, check_size_limit,
};
use crate::digest::{Md5, PART_BYTES, PartDigests, PartLayout, PartRange};
use crate::error_code::ErrorCode;
use crate::event::Event;
use crate::recv::native::control::SessionControl;
use crate::recv::native::file_table::{CreatingGuard, FileTable, InboundFile, Stage, Staging, StagingTarget};
use crate::recv::native::session::Session;
use crate::recv::native::work::{CommitJob, ResumeCheck};
use crate::recv::received_file::ReceivedFile;
use crate::wire::receiver::{
    FileEntry, HoleHeader, PartHeader, PartOutcome, RetryDecision, remaining_ranges,
};
use crate::wire::{EntryId, MAX_TRIES_A_PART};

/// See the module documentation.
pub struct InboundFiles<'a> {
    pub session: &'a Session<'a>,
    pub table: FileTable,
}

impl<'a> InboundFiles<'a> {
    pub fn new(session: &'a Session<'a>) -> Self {
        InboundFiles { session, table: FileTable::default() }
    }

    /// Requests all of a file.
    pub fn request_all(&self, entry: FileEntry, reservation: Option<SpaceReservation>) {
        // Into the table first: once it is requested, its parts may come on any connection.
        let id = entry.id;
        self.table.insert(InboundFile::new(entry, Stage::Requested, reservation));
        self.session.lock().session.want_all(id);
    }

    /// Requests the digests of a file, to compare them with an existing one.
    pub fn request_digests(&self, entry: FileEntry, existing: ExistingFile, may_replace: bool) {
        let id = entry.id;
        let stage = Stage::Comparing { existing: Arc::new(existing), may_replace };
        self.table.insert(InboundFile::new(entry, stage, None));
        self.session.lock().session.want_offers(id);
    }

    /// Resumes a partial file of an earlier session. Parts that its journal does not prove are to be read first.
    pub fn resume(
        &self,
        entry: FileEntry,
        partial: PartialFile,
        reservation: Option<SpaceReservation>,
    ) -> Option<ResumeCheck> {
        let (id, layout) = (entry.id, entry.layout);
        let may_resume = self.table.may_resume();
        let Some(written) = partial.staged.written().filter(|_| may_resume) else {
            // The partial file is not used: all of the file will be written.
            if let Some(reservation) = &reservation {
                reservation.attach(None);
            }
            self.request_all(entry, reservation);
            return None;
        };
        self.session.reporter.file_started(&entry);
        let size_bytes = layout.size_bytes();
        self.session
            .reporter
            .hasher
            .on_start(id, size_bytes, 0, || ReceivedFile::staged(Some(written.clone())));
        // It may have been truncated, and the zeros at the end of a sparse file are never written.
        let sized = if entry.is_sparse { partial.staged.make_sparse(size_bytes) } else { Ok(()) };
        self.table.insert(InboundFile::new(entry, Stage::Staging(partial.staged), reservation));
        if let Err(error) = sized {
            self.fail_file(id, &error);
            return None;
        }
        if partial.is_trusted {
            let recorded = partial.digests.count();
            self.request_missing(id, layout, partial.digests, recorded);
            return None;
        }
        Some(ResumeCheck { id, layout, written, digests: partial.digests })
    }

    /// Requests the parts of a file that are not `present` in its staged file; its journal has `recorded` parts.
    pub fn request_missing(&self, id: EntryId, layout: PartLayout, mut present: PartDigests, recorded: u64) {
        remaining_ranges(&mut present, layout);
        // Recorded parts that are received again must not stay in the journal, where the next session would trust them.
        if present.count() < recorded
            && let Some(journal) = self.table.journal(id)
        {
            journal.rewrite_with(&present);
        }
        if present.count() == 0 {
            return self.session.lock().session.want_all(id);
        }
        let runs = present.recorded();
        let mut control = self.session.lock();
        let bytes = control.session.want_missing(id, present);
        self.table.set_resumed_bytes(id, bytes);
        drop(control);
        let reporter = &self.session.reporter;
        for run in runs {
            reporter.hasher.on_available(id, layout.run(*run.start(), run.end() - run.start() + 1));
        }
        if let Some(entry) = self.table.with_entry(id, FileEntry::clone) {
            reporter.file_resumed(&entry, bytes);
        }
    }

    /// An offered part equals that of the existing file.
    pub fn offer_matches(&self, header: &PartHeader) {
        let mut control = self.session.lock();
        let outcome = control.session.part_verified(header);
        self.after_offer(&mut control, header.id, outcome);
    }

    /// Offered parts of zeros are zeros in the existing file.
    pub fn hole_matches(&self, hole: &HoleHeader) {
        let mut control = self.session.lock();
        let outcome = control.session.holes_verified(hole);
        self.after_offer(&mut control, hole.id, outcome);
    }

    fn after_offer(&self, control: &mut SessionControl, id: EntryId, outcome: PartOutcome) {
        let PartOutcome::Complete(digests) = outcome else { return };
        let Some(InboundFile { entry, stage: Stage::Comparing { existing, .. }, .. }) = self.table.remove(id)
        else {
            return;
        };
        let size_bytes = entry.layout.size_bytes();
        let md5 = digests.whole(entry.layout);
        if md5.is_none() {
            let hasher = self.session.reporter.hasher;
            hasher.on_start(id, size_bytes, size_bytes, || ReceivedFile::existing(&existing));
        }
        let item = Item::AlreadyThere { file: existing, origin: source_version(&entry) };
        let job = CommitJob { id, path: entry.path, size_bytes, resumed_bytes: 0, md5, last: None, item };
        self.session.enqueue_commit(control, vec![job]);
    }

    /// The existing file differs from the announced one.
    pub fn offer_differs(&self, store: &mut LocalSession, id: EntryId) {
        let Some(replacement) = self.table.request_replacement(id) else { return };
        // The existing file keeps its space until the other one has its name.
        match replacement.and_then(|entry| reserve_space(store, &entry, None)) {
            Ok(reservation) => {
                self.table.set_reservation(id, reservation);
                self.session.lock().session.want_all(id);
            }
            Err(error) => self.fail_file(id, &error),
        }
    }

    /// The name of a file, for messages.
    pub fn name(&self, id: EntryId) -> String {
        let name = self.table.with_entry(id, |entry| entry.path.to_string());
        name.unwrap_or_else(|| "a file that was not requested".into())
    }

    /// May the zeros of the file be left out of a new staged file?
    pub fn is_sparse(&self, id: EntryId) -> bool {
        self.table.with_entry(id, |entry| entry.is_sparse).unwrap_or(false)
    }

    /// The staged file for a part of a file; opens it for the first part.
    pub fn open_staging(&self, store: &mut LocalSession, id: EntryId) -> Result<StagingTarget, StoreError> {
        let (entry, reservation) = match self.table.begin_opening(id)? {
            Staging::Open(target) => return Ok(target),
            Staging::ToOpen(entry, reservation) => (entry, reservation),
        };
        let _guard = CreatingGuard { table: &self.table, id };
        let opened = open_staged_file(store, &entry);
        let (reporter, size_bytes) = (&self.session.reporter, entry.layout.size_bytes());
        let opened = opened.map(|staged| {
            reporter.file_started(&entry);
            reservation.iter().for_each(|reservation| reservation.attach(staged.written()));
            if size_bytes > PART_BYTES {
                // Before other threads can see the staged file and verify parts of it.
                reporter.hasher.on_start(id, size_bytes, 0, || ReceivedFile::staged(staged.written()));
            }
            (staged, reservation)
        });
        let target = self.table.finish_opening(id, opened);
        if target.is_err() {
            reporter.hasher.on_dropped(id);
        }
        target
    }

    /// Stages small files whose verified bytes are at hand, and queues them for the committer together.
    pub fn stage_small<'b>(
        &self,
        store: &mut LocalSession,
        bodies: impl Iterator<Item = (&'b PartHeader, &'b [u8])>,
    ) {
        let mut staged_files = Vec::new();
        for (header, body) in bodies {
            let Some(InboundFile { entry, .. }) = self.table.remove(header.id) else { continue };
            self.session.reporter.file_started(&entry);
            match store.stage_small(&entry.path, body, entry.metadata) {
                Ok(staged) => staged_files.push((header, entry, staged)),
                Err(error) => self.fail(&entry, &error),
            }
        }
        let mut control = self.session.lock();
        let mut jobs = Vec::with_capacity(staged_files.len());
        for (header, entry, staged) in staged_files {
            // Any other outcome means that the file was withdrawn meanwhile.
            if let PartOutcome::Complete(digests) = control.session.part_verified(header) {
                jobs.push(commit_job(entry, 0, staged, digests));
            }
        }
        self.session.enqueue_commit(&mut control, jobs);
    }

    /// Parts of zeros are in place.
    pub fn holes_verified(&self, hole: &HoleHeader) {
        let mut control = self.session.lock();
        let outcome = control.session.holes_verified(hole);
        if matches!(outcome, PartOutcome::Unchanged) {
            return;
        }
        control.summary.hole_bytes = control.summary.hole_bytes.saturating_add(hole.range.len);
        let record = Record::Holes(hole.part, hole.parts);
        self.after_verified(control, hole.id, hole.range, record, outcome);
        self.session.reporter.report(Event::Transferred { bytes: hole.range.len });
    }

    /// A part is received again. Reported only now: a sender whose file changes damages a part itself, and then fails the
    /// file instead of sending the part again.
    pub fn on_retransmit(&self, header: &PartHeader) {
        self.session.lock().summary.repaired_parts += 1;
        if let Some(path) = self.table.with_entry(header.id, |entry| entry.path.clone()) {
            self.session.reporter.report(Event::Repairing { path: path.as_bytes(), part: header.part });
        }
    }

    /// The bytes of a part have this digest: the part is verified, or requested again.
    pub fn on_digest(&self, header: &PartHeader, actual: Md5) {
        let mut control = self.session.lock();
        if actual == header.md5 {
            let outcome = control.session.part_verified(header);
            let record = Record::Part(header.part, actual);
            return self.after_verified(control, header.id, header.range, record, outcome);
        }
        let decision = control.session.part_damaged(header);
        drop(control);
        match decision {
            RetryDecision::Again => {
                self.session.reporter.report(Event::Undone { bytes: header.range.len });
            }
            RetryDecision::GaveUp { remaining_bytes } => self.give_up_damaged(header.id, remaining_bytes),
        }
    }

    fn give_up_damaged(&self, id: EntryId, remaining_bytes: u64) {
        let reporter = &self.session.reporter;
        reporter.hasher.on_dropped(id);
        if let Some(entry) = self.table.remove(id).map(InboundFile::discard) {
            let mut control = self.session.lock();
            control.summary.count_failure(ErrorCode::Digest);
            self.session.enqueue_dirs_and_links(&mut control);
            drop(control);
            let reason = format!("it arrived damaged {MAX_TRIES_A_PART} times in a row");
            reporter.file_failed(entry.path.as_bytes(), ErrorCode::Digest, &reason, remaining_bytes);
        }
    }

    /// Parts of a file are in place and verified; `record` is for its journal if more parts follow.
    fn after_verified(
        &self,
        mut control: MutexGuard<'_, SessionControl>,
        id: EntryId,
        range: PartRange,
        record: Record,
        outcome: PartOutcome,
    ) {
        match outcome {
            // Not recorded: the next session would trust it.
            PartOutcome::Unchanged => {}
            PartOutcome::Partly => {
                self.table.add_record(id, record);
                drop(control);
                self.session.reporter.hasher.on_available(id, range);
            }
            PartOutcome::Complete(digests) => {
                let Some(InboundFile { entry, stage: Stage::Staging(staged), resumed_bytes, .. }) =
                    self.table.remove(id)
                else {
                    return;
                };
                // The committer sets mode and time, which may wait for the disk.
                let job = commit_job(entry, resumed_bytes, staged, digests);
                self.session.enqueue_commit(&mut control, vec![CommitJob { last: Some(range), ..job }]);
            }
        }
    }

    /// Discards a file that was settled while another thread planned it.
    pub fn discard_if_settled(&self, id: EntryId) {
        if self.session.is_settled(id) {
            self.discard(id);
        }
    }

    /// Discards a file with its staged file.
    pub fn discard(&self, id: EntryId) {
        self.session.reporter.hasher.on_dropped(id);
        self.table.remove(id).map(InboundFile::discard);
    }

    /// Fails a file. Where space is short, its staged file is kept: the sender may send it again when there is space.
    pub fn fail_file(&self, id: EntryId, error: &StoreError) {
        let remove =
            if error.code() == ErrorCode::NoSpace { InboundFile::keep } else { InboundFile::discard };
        if let Some(entry) = self.table.remove(id).map(remove) {
            self.fail(&entry, error);
        }
    }

    /// Fails a file that is not in the table.
    pub fn fail(&self, entry: &FileEntry, error: &StoreError) {
        let reporter = &self.session.reporter;
        reporter.hasher.on_dropped(entry.id);
        let (code, reason) = (error.code(), error.to_string());
        let mut control = self.session.lock();
        let remaining_bytes = control.session.fail(entry.id, code, &reason);
        control.summary.count_failure(code);
        self.session.enqueue_dirs_and_links(&mut control);
        drop(control);
        reporter.file_failed(entry.path.as_bytes(), code, &reason, remaining_bytes);
    }
}

/// The version of a file by which a partial transfer of it is resumed; `None` for a file of one part, or without a state.
pub fn source_version(entry: &FileEntry) -> Option<SourceVersion> {
    let (size_bytes, mtime) = (entry.layout.size_bytes(), entry.metadata.mtime);
    let state = entry.state.filter(|_| entry.layout.count() > 1)?;
    Some(SourceVersion { size_bytes, mtime, state })
}

/// Reserves the space for a file, or for the rest of a partial one. The size of a sparse file is only known when all of it
/// was received.
pub fn reserve_space(
    store: &mut LocalSession,
    entry: &FileEntry,
    partial: Option<&PartialFile>,
) -> Result<Option<SpaceReservation>, StoreError> {
    match entry.is_sparse {
        true => check_size_limit(entry.layout.size_bytes()).map(|()| None),
        false => {
            store.reserve(&entry.path, entry.layout.size_bytes(), partial.map(|partial| &partial.staged))
        }
    }
}

fn commit_job(entry: FileEntry, resumed_bytes: u64, staged: StagedFile, digests: PartDigests) -> CommitJob {
    let FileEntry { id, path, layout, metadata, .. } = entry;
    let (size_bytes, md5) = (layout.size_bytes(), digests.whole(layout));
    let content = Content { size_bytes, digests: Digests::Parts(digests) };
    let item = Item::File { staged, content, metadata };
    CommitJob { id, path, size_bytes, resumed_bytes, md5, last: None, item }
}

fn open_staged_file(store: &mut LocalSession, entry: &FileEntry) -> Result<StagedFile, StoreError> {
    let staged = match source_version(entry) {
        Some(version) => store.stage_resumable(&entry.path, version)?,
        None => store.stage(&entry.path, entry.layout.size_bytes())?,
    };
    if entry.is_sparse {
        staged.make_sparse(entry.layout.size_bytes())?;
    }
    Ok(staged)
}
