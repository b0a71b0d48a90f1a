//! The thread that reads one connection of a session: frames to the session, bodies to memory or their landing.

use std::time::Duration;

use crate::dest::local::{LocalSession, StoreError, SyncedFile};
use crate::event::Event as Told;
use crate::net::CopyStep;
use crate::recv::RecvError;
use crate::recv::admission::{PROCESS_FD_FRACTION, fd_headroom_below};
use crate::recv::connection_reader::ConnectionReader;
use crate::recv::native::files::InboundFiles;
use crate::recv::native::planner::{Deferred, Planner};
use crate::recv::native::probe;
use crate::recv::native::verifier::{SmallBatch, VerifyJob, VerifyQueue};
use crate::wire::receiver::{HoleHeader, PartHeader, ReceiverEvent};
use crate::wire::{EntryId, Framing, SMALL_FILE_BYTES};

/// Frames after which the sender hears what was decided, even if more are at hand: it may have nothing else to send.
const FRAMES_PER_FLUSH: u32 = 256;

/// How often it is looked whether descriptors are free again.
const DESCRIPTORS_TICK: Duration = Duration::from_millis(20);

/// Which connection of its session it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionRole {
    /// The one that said hello, which carries everything but the bodies that go elsewhere.
    Primary,
    /// One that joined: parts and nothing else.
    Secondary,
}

/// See the module's page.
pub struct Reader<'a> {
    store: LocalSession,
    files: &'a InboundFiles<'a>,
    verifier: VerifyQueue,
    planner: Planner<'a>,
    deferred: Deferred,
    role: ConnectionRole,
    /// Small files that arrived here and are not handed to the verifier yet.
    small: SmallBatch,
    /// Frames since the sender was last told something.
    frames: u32,
}

impl<'a> Reader<'a> {
    pub fn new(
        store: LocalSession,
        inbound: &'a InboundFiles<'a>,
        verifier: VerifyQueue,
        deferred: Deferred,
        place: ConnectionRole,
    ) -> Self {
        let planner = Planner::new(store.fork(), inbound, verifier.clone());
        Reader {
            store,
            files: inbound,
            verifier,
            planner,
            deferred,
            role: place,
            small: SmallBatch::default(),
            frames: 0,
        }
    }

    /// Until everything is received, or somebody ended the session.
    pub fn read(mut self, reader: &mut ConnectionReader) -> Result<(), RecvError> {
        loop {
            // While whole frames are at hand, work is collected: many small files are verified at once, and many
            // decisions fit into one frame.
            if !reader.has_frame(Framing::Native) {
                self.verify_small()?;
                self.flush_control()?;
                if !self.files.timers.waiting.time(|| reader.wait_unless(self.files.done()))? {
                    return Ok(());
                }
            }
            // Whatever it has said beyond that would only take more room.
            if reader.handle().is_evicted() {
                return Err(RecvError::Evicted);
            }
            self.files.hasher.wait_for_capacity();
            let Some(json) = reader.frame(Framing::Native)? else {
                return Err(RecvError::Truncated("the session".into()));
            };
            let bytes = json.len() as u64;
            let event = {
                let session = &mut self.files.lock_session().session;
                match self.role {
                    ConnectionRole::Primary => session.handle(json)?,
                    ConnectionRole::Secondary => session.handle_joined(json)?,
                }
            };
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
                self.flush_control()?;
            }
        }
    }

    fn flush_control(&mut self) -> Result<(), RecvError> {
        self.frames = 0;
        let told = self.files.lock_session().flush();
        (self.files.context.enforce_entry_limit)();
        told
    }

    fn handle_event(&mut self, event: ReceiverEvent, reader: &mut ConnectionReader) -> Result<(), RecvError> {
        let progress = self.files.progress;
        match event {
            // Perhaps the end, or a folder whose turn is now.
            ReceiverEvent::Nothing => self.files.enqueue_dirs_and_links(&mut self.files.lock_session()),
            ReceiverEvent::File(entry) => {
                progress.report(Told::Planned { files: 1, bytes: entry.layout.size_bytes() });
                if let Some(entry) = self.planner.plan(entry, true)? {
                    progress.report(Told::Waiting { path: entry.path.as_bytes() });
                    // Gone only when the session is over.
                    let _ = self.deferred.send(entry);
                }
            }
            ReceiverEvent::Refused { name, code, reason } => {
                let mut control = self.files.lock_session();
                control.summary.count_failure(code);
                self.files.enqueue_dirs_and_links(&mut control);
                progress.report(Told::Failed { name: &name, code, reason: &reason });
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
            ReceiverEvent::Hole(hole) if hole.is_offer => match self.files.existing(hole.id) {
                Some(file) if file.is_zero(hole.range).unwrap_or(false) => self.files.hole_matches(&hole),
                Some(_) => self.files.offer_differs(&mut self.store, hole.id),
                None => {}
            },
            ReceiverEvent::Hole(hole) => {
                self.wait_for_descriptors(hole.id, reader)?;
                self.hole(&hole);
            }
            ReceiverEvent::Withdrawn { id, path, code, message, remaining_bytes } => {
                self.files.discard(id);
                let mut control = self.files.lock_session();
                control.summary.count_failure(code);
                // It may have been what folders waited for.
                self.files.enqueue_dirs_and_links(&mut control);
                drop(control);
                progress.report(Told::FileDropped { remaining_bytes });
                progress.report(Told::Failed { name: path.as_bytes(), code, reason: &message });
            }
            ReceiverEvent::Measure(asked) => {
                let measured = probe::run_probe(asked, reader, &mut self.store)?;
                let mut control = self.files.lock_session();
                control.summary.measures += 1;
                control.session.measured(measured);
                // A peer that has gone is noticed before the next one is measured.
                control.flush()?;
            }
            ReceiverEvent::Totals { .. } => progress.report(Told::PlanComplete),
        }
        Ok(())
    }

    /// A digest to compare with what is there.
    fn offer(&mut self, header: PartHeader) -> Result<(), RecvError> {
        match self.files.existing(header.id).map(|file| file.open()) {
            Some(Ok(file)) => self.verifier.verify(VerifyJob::Offer(header, file)),
            Some(Err(_)) => {
                self.files.offer_differs(&mut self.store, header.id);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Where few descriptors are free, a session that has landings waits with a further one until some of them are done, or
    /// others give way.
    fn wait_for_descriptors(&self, id: EntryId, reader: &ConnectionReader) -> Result<(), RecvError> {
        while self.files.has_too_many_staged(id) && fd_headroom_below(PROCESS_FD_FRACTION) {
            (self.files.context.release_descriptors)();
            if !reader.sleep(self.files.done(), DESCRIPTORS_TICK)? {
                // Whatever ended the session says why.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Parts of zeros: a fresh landing of a sparse file has them already, unless a damaged part was written there.
    fn hole(&mut self, hole: &HoleHeader) {
        let landed = self.files.open_staging(&mut self.store, hole.id);
        let cleared =
            landed.and_then(
                |(written, is_fresh)| {
                    if is_fresh && !hole.must_clear { Ok(()) } else { written.clear(hole.range) }
                },
            );
        match cleared {
            Ok(()) => self.files.holes_verified(hole),
            Err(error) => self.files.fail_file(hole.id, &error),
        }
    }

    /// A small file, whole: kept in memory until enough of them are there to be verified together.
    fn small_body(&mut self, header: PartHeader, reader: &mut ConnectionReader) -> Result<(), RecvError> {
        let small = &mut self.small;
        reader.body(header.range.len, "a small file", |chunk| small.bytes.extend_from_slice(chunk))?;
        small.headers.push(header);
        self.files.record_bytes(header.range.len);
        if small.is_full() { self.verify_small() } else { Ok(()) }
    }

    fn verify_small(&mut self) -> Result<(), RecvError> {
        if self.small.headers.is_empty() {
            return Ok(());
        }
        let next = self.verifier.spare.try_recv().unwrap_or_default();
        let small = std::mem::replace(&mut self.small, next);
        self.verifier.verify(VerifyJob::Small(small))
    }

    /// One part of a larger file: to its landing at once, and then to the verifier.
    fn large_body(&mut self, header: PartHeader, reader: &mut ConnectionReader) -> Result<(), RecvError> {
        self.wait_for_descriptors(header.id, reader)?;
        let _in_transit = self.files.in_transit();
        let written = self.files.open_staging(&mut self.store, header.id);
        let written = match written {
            // A part that was damaged has left something where its zeros belong.
            Ok((written, true)) if self.files.is_sparse(header.id) && !header.is_repair => {
                self.body_without_zeros(header, written, reader)?
            }
            Ok((written, _)) => {
                let name = || self.files.name(header.id);
                let timers = self.files.timers;
                let moved = |step: &CopyStep| {
                    self.files.record_bytes(step.taken as u64);
                    timers.waiting.add(step.waited);
                    timers.writing.add(step.wrote);
                };
                let done = reader.body_to_file(header.range, name, written.file(), moved)?;
                done.map(|()| written).map_err(|source| StoreError::Io { doing: "write the file", source })
            }
            Err(error) => {
                reader.body(header.range.len, "a body that cannot land", |_| {})?;
                Err(error)
            }
        };
        match written {
            Ok(written) => {
                drop(_in_transit);
                self.verifier.verify(VerifyJob::Part(header, written))?;
            }
            Err(error) => self.files.fail_file(header.id, &error),
        }
        Ok(())
    }

    fn body_without_zeros(
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
            self.files.record_bytes(chunk.len() as u64);
        })?;
        Ok(written.map(|()| staged))
    }
}
