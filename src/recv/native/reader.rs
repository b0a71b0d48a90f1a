//! The thread that reads one connection of a session: frames go to the session, bodies to memory or to a staged file.

use std::time::Duration;

use crate::dest::local::{LocalSession, StoreError, SyncedFile};
use crate::error_code::ErrorCode;
use crate::event::Event;
use crate::net::CopyStep;
use crate::recv::admission::{PROCESS_FD_FRACTION, fd_headroom_below};
use crate::recv::connection_reader::ConnectionReader;
use crate::recv::error::RecvError;
use crate::recv::native::deferred::DeferredFiles;
use crate::recv::native::files::InboundFiles;
use crate::recv::native::planner::Planner;
use crate::recv::native::probe;
use crate::recv::native::session::Session;
use crate::recv::native::work::{SmallBatch, VerifyJob, VerifyQueue};
use crate::wire::message::Measure;
use crate::wire::receiver::{FileEntry, HoleHeader, PartHeader, ReceiverEvent};
use crate::wire::{EntryId, Framing, SMALL_FILE_BYTES, WireError};

/// Frames after which the session's output is flushed, even if more frames are at hand: the sender may have nothing else to
/// send until it is answered.
const FRAMES_PER_FLUSH: u32 = 256;
/// How often a reader that waits for descriptors looks for free ones.
const DESCRIPTORS_POLL: Duration = Duration::from_millis(20);
/// How often a reader that waits for the writer looks for the end of the session.
const OUTBOX_POLL: Duration = Duration::from_millis(100);

/// What a connection of a session carries.
enum ConnectionRole<'scope, 'env> {
    /// Everything but the bodies that other connections carry.
    Primary { planner: Planner<'scope>, deferred: DeferredFiles<'scope, 'env> },
    /// Content of files only.
    Secondary,
}

/// See the module documentation.
pub struct Reader<'scope, 'env> {
    store: LocalSession,
    session: &'scope Session<'scope>,
    files: &'scope InboundFiles<'scope>,
    verifier: VerifyQueue,
    role: ConnectionRole<'scope, 'env>,
    /// Small files that are not with the verifier yet.
    small: SmallBatch,
    /// Frames since the last flush.
    frames: u32,
}

impl<'scope, 'env> Reader<'scope, 'env> {
    /// For the connection that carried the `hello`.
    pub fn primary(
        store: LocalSession,
        files: &'scope InboundFiles<'scope>,
        verifier: VerifyQueue,
        deferred: DeferredFiles<'scope, 'env>,
    ) -> Self {
        let planner = Planner::new(store.fork(), files, verifier.clone());
        Self::new(store, files, verifier, ConnectionRole::Primary { planner, deferred })
    }

    /// For a connection that joined.
    pub fn secondary(
        store: LocalSession,
        files: &'scope InboundFiles<'scope>,
        verifier: VerifyQueue,
    ) -> Self {
        Self::new(store, files, verifier, ConnectionRole::Secondary)
    }

    fn new(
        store: LocalSession,
        files: &'scope InboundFiles<'scope>,
        verifier: VerifyQueue,
        role: ConnectionRole<'scope, 'env>,
    ) -> Self {
        let small = SmallBatch::default();
        Reader { store, session: files.session, files, verifier, role, small, frames: 0 }
    }

    /// Reads until everything is received, or the session ends.
    pub fn read(mut self, reader: &mut ConnectionReader) -> Result<(), RecvError> {
        let done = self.session.outcome.done();
        loop {
            // While whole frames are at hand, work is collected: small files are verified together, and many decisions fit
            // into one frame.
            if !reader.has_frame(Framing::Native) {
                self.verify_small()?;
                self.flush()?;
                if !self.session.timers.waiting.time(|| reader.wait_unless(done))? {
                    return Ok(());
                }
            }
            self.wait_for_outbox(reader)?;
            if reader.handle().is_evicted() {
                return Err(RecvError::Evicted);
            }
            self.session.reporter.hasher.wait_for_capacity();
            let Some(json) = reader.frame(Framing::Native)? else {
                return Err(RecvError::Truncated("the session".into()));
            };
            let bytes = json.len() as u64;
            let event = self.handle_frame(json)?;
            if !matches!(
                event,
                ReceiverEvent::Nothing
                    | ReceiverEvent::File(_)
                    | ReceiverEvent::Refused { .. }
                    | ReceiverEvent::Totals { .. }
            ) {
                reader.handle().record_bytes(bytes);
            }
            self.handle_event(event, reader)?;
            self.frames += 1;
            if self.frames >= FRAMES_PER_FLUSH {
                self.flush()?;
            }
        }
    }

    fn handle_frame(&self, json: &[u8]) -> Result<ReceiverEvent, WireError> {
        let session = &mut self.session.lock().session;
        match self.role {
            ConnectionRole::Primary { .. } => session.handle(json),
            ConnectionRole::Secondary => session.handle_joined(json),
        }
    }

    fn flush(&mut self) -> Result<(), RecvError> {
        self.frames = 0;
        let flushed = self.session.lock().flush();
        self.session.permit.enforce_entry_limit();
        flushed
    }

    /// Reads no further frame while the sender does not read the answers to earlier ones.
    fn wait_for_outbox(&self, reader: &ConnectionReader) -> Result<(), RecvError> {
        loop {
            match self.session.outbox.wait_for_space(OUTBOX_POLL) {
                Ok(true) => return Ok(()),
                Ok(false) if reader.sleep(self.session.outcome.done(), Duration::ZERO)? => {}
                // What ended the session is its outcome.
                Ok(false) => return Ok(()),
                Err(_) => return self.session.write_result(),
            }
        }
    }

    fn handle_event(&mut self, event: ReceiverEvent, reader: &mut ConnectionReader) -> Result<(), RecvError> {
        match event {
            // Perhaps `end`, or a folder that waits for nothing.
            ReceiverEvent::Nothing => self.session.enqueue_dirs_and_links(&mut self.session.lock()),
            ReceiverEvent::File(entry) => self.plan(entry)?,
            ReceiverEvent::Refused { name, code, reason } => {
                self.count_failure(code);
                self.session.reporter.report(Event::Failed { name: &name, code, reason: &reason });
            }
            ReceiverEvent::Body(header) => {
                if header.is_repair {
                    self.files.on_retransmit(&header);
                }
                if header.range.len <= SMALL_FILE_BYTES && header.range.offset == 0 {
                    self.small_body(header, reader)?;
                } else {
                    self.large_body(header, reader)?;
                }
            }
            ReceiverEvent::Discard { bytes } => reader.body(bytes, "a body that is not needed", |_| {})?,
            ReceiverEvent::Offer(header) => self.offer(header)?,
            ReceiverEvent::OfferAndBody(header) => {
                reader.body(header.range.len, "a small file", |_| {})?;
                self.offer(header)?;
            }
            ReceiverEvent::Hole(hole) if hole.is_offer => self.offered_hole(&hole),
            ReceiverEvent::Hole(hole) => {
                self.wait_for_descriptors(hole.id, reader)?;
                self.hole(&hole);
            }
            ReceiverEvent::Withdrawn { id, path, code, message, remaining_bytes } => {
                self.files.discard(id);
                self.count_failure(code);
                self.session.reporter.file_failed(path.as_bytes(), code, &message, remaining_bytes);
            }
            ReceiverEvent::Measure(measure) => self.measure(measure, reader)?,
            ReceiverEvent::Totals { .. } => self.session.reporter.report(Event::PlanComplete),
        }
        Ok(())
    }

    /// An entry has failed; folders and links may have waited for it.
    fn count_failure(&self, code: ErrorCode) {
        let mut control = self.session.lock();
        control.summary.count_failure(code);
        self.session.enqueue_dirs_and_links(&mut control);
    }

    fn plan(&mut self, entry: FileEntry) -> Result<(), RecvError> {
        // A secondary connection carries no entries.
        let ConnectionRole::Primary { planner, deferred } = &mut self.role else { return Ok(()) };
        let reporter = &self.session.reporter;
        reporter.report(Event::Planned { files: 1, bytes: entry.layout.size_bytes() });
        if let Some(entry) = planner.plan(entry, true)? {
            reporter.report(Event::Waiting { path: entry.path.as_bytes() });
            deferred.push(entry)?;
        }
        Ok(())
    }

    fn measure(&mut self, measure: Measure, reader: &mut ConnectionReader) -> Result<(), RecvError> {
        let measured = probe::run_probe(measure, reader, &mut self.store)?;
        let mut control = self.session.lock();
        control.summary.measures += 1;
        control.session.measured(measured);
        control.flush()
    }

    /// The digest of a part, to be compared with an existing file.
    fn offer(&mut self, header: PartHeader) -> Result<(), RecvError> {
        match self.files.table.existing(header.id).map(|file| file.bytes()) {
            Some(Ok(file)) => self.verifier.push(VerifyJob::Offer(header, file)),
            Some(Err(_)) => {
                self.files.offer_differs(&mut self.store, header.id);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn offered_hole(&mut self, hole: &HoleHeader) {
        match self.files.table.existing(hole.id) {
            Some(file) if file.is_zero(hole.range).unwrap_or(false) => self.files.hole_matches(hole),
            Some(_) => self.files.offer_differs(&mut self.store, hole.id),
            None => {}
        }
    }

    /// Where few descriptors are free, a session that has several staged files, or files to commit, waits before it opens a
    /// further one, until some of them are closed or idle sessions are evicted.
    fn wait_for_descriptors(&self, id: EntryId, reader: &ConnectionReader) -> Result<(), RecvError> {
        let holds_descriptors =
            || self.files.table.has_many_staged() || self.session.lock().session.is_committing();
        while self.files.table.is_requested(id)
            && fd_headroom_below(PROCESS_FD_FRACTION)
            && holds_descriptors()
        {
            self.session.permit.release_descriptors();
            if !reader.sleep(self.session.outcome.done(), DESCRIPTORS_POLL)? {
                // What ended the session is its outcome.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Parts of zeros. A new staged file of a sparse file has them already, unless a damaged part was written there.
    fn hole(&mut self, hole: &HoleHeader) {
        let cleared = self.files.open_staging(&mut self.store, hole.id).and_then(|target| {
            if target.is_zero_filled && !hole.must_clear { Ok(()) } else { target.bytes.clear(hole.range) }
        });
        match cleared {
            Ok(()) => self.files.holes_verified(hole),
            Err(error) => self.files.fail_file(hole.id, &error),
        }
    }

    /// A small file, kept in memory until enough of them can be verified together.
    fn small_body(&mut self, header: PartHeader, reader: &mut ConnectionReader) -> Result<(), RecvError> {
        let small = &mut self.small;
        reader.body(header.range.len, "a small file", |chunk| small.bytes.extend_from_slice(chunk))?;
        small.headers.push(header);
        self.session.reporter.bytes_received(header.range.len);
        if small.is_full() { self.verify_small() } else { Ok(()) }
    }

    fn verify_small(&mut self) -> Result<(), RecvError> {
        if self.small.headers.is_empty() {
            return Ok(());
        }
        let next = self.verifier.spare.try_recv().unwrap_or_default();
        let small = std::mem::replace(&mut self.small, next);
        self.verifier.push(VerifyJob::Small(small))
    }

    /// One part of a larger file, written to its staged file and then passed to the verifier.
    fn large_body(&mut self, header: PartHeader, reader: &mut ConnectionReader) -> Result<(), RecvError> {
        self.wait_for_descriptors(header.id, reader)?;
        let in_transit = self.session.in_transit();
        let written = match self.files.open_staging(&mut self.store, header.id) {
            // Where a damaged part was written, its zeros must be written too.
            Ok(target) if target.is_zero_filled && self.files.is_sparse(header.id) && !header.is_repair => {
                self.sparse_body(header, target.bytes, reader)?
            }
            Ok(target) => self.dense_body(header, target.bytes, reader)?,
            Err(error) => {
                reader.body(header.range.len, "a body that cannot be stored", |_| {})?;
                Err(error)
            }
        };
        match written {
            Ok(written) => {
                drop(in_transit);
                self.verifier.push(VerifyJob::Part(header, written))?;
            }
            Err(error) => self.files.fail_file(header.id, &error),
        }
        Ok(())
    }

    /// A body that the kernel moves to the file.
    fn dense_body(
        &self,
        header: PartHeader,
        staged: SyncedFile,
        reader: &mut ConnectionReader,
    ) -> Result<Result<SyncedFile, StoreError>, RecvError> {
        let moved = |step: &CopyStep| {
            self.session.reporter.bytes_received(step.taken as u64);
            self.session.timers.waiting.add(step.waited);
            self.session.timers.writing.add(step.wrote);
        };
        let name = || self.files.name(header.id);
        let written = reader.body_to_file(header.range, name, staged.file(), moved)?;
        Ok(written.map(|()| staged).map_err(|source| StoreError::Io { doing: "write the file", source }))
    }

    /// A body whose zeros are left out.
    fn sparse_body(
        &self,
        header: PartHeader,
        staged: SyncedFile,
        reader: &mut ConnectionReader,
    ) -> Result<Result<SyncedFile, StoreError>, RecvError> {
        let mut offset = header.range.offset;
        let mut written = Ok(());
        reader.body(header.range.len, &self.files.name(header.id), |chunk| {
            if written.is_ok() {
                written = staged.write_sparse_at(chunk, offset);
            }
            offset += chunk.len() as u64;
            self.session.reporter.bytes_received(chunk.len() as u64);
        })?;
        Ok(written.map(|()| staged))
    }
}
