//! The thread that reads one connection of a session: frames to the session, bodies to memory or their landing.

use std::time::Duration;

use super::RecvError;
use super::arrivals::Arrivals;
use super::decider::{Decider, Waiters};
use super::desk::{FREE_FOR_OTHERS, are_few_free};
use super::input::Input;
use super::measure;
use super::verifier::{Small, ToVerifier, ToVerify};
use crate::net::Spliced;
use crate::progress::Event as Told;
use crate::store::{Store, StoreError, Written};
use crate::wire::receiver::{Event, HoleHeader, PartHeader};
use crate::wire::{EntryId, Form, SMALL_FILE_BYTES};

/// Frames after which the sender hears what was decided, even if more are at hand: it may have nothing else to send.
const FRAMES_A_WORD: u32 = 256;

/// How often it is looked whether descriptors are free again.
const DESCRIPTORS_TICK: Duration = Duration::from_millis(20);

/// Which connection of its session it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The one that said hello, which carries everything but the bodies that go elsewhere.
    First,
    /// One that joined: parts and nothing else.
    Joined,
}

/// See the module's page.
pub struct Reader<'a> {
    store: Store,
    arrivals: &'a Arrivals<'a>,
    verifier: ToVerifier,
    decider: Decider<'a>,
    waiters: Waiters,
    place: Place,
    /// Small files that arrived here and are not handed to the verifier yet.
    small: Small,
    /// Frames since the sender was last told something.
    frames: u32,
}

impl<'a> Reader<'a> {
    pub fn new(
        store: Store,
        arrivals: &'a Arrivals<'a>,
        verifier: ToVerifier,
        waiters: Waiters,
        place: Place,
    ) -> Self {
        let decider = Decider::new(store.another(), arrivals, verifier.clone());
        Reader { store, arrivals, verifier, decider, waiters, place, small: Small::default(), frames: 0 }
    }

    /// Until everything is received, or somebody ended the session.
    pub fn read(mut self, input: &mut Input) -> Result<(), RecvError> {
        loop {
            // While whole frames are at hand, work is collected: many small files are verified at once, and many
            // decisions fit into one frame.
            if !input.has_frame(Form::Native) {
                self.verify_small()?;
                self.speak()?;
                if !self.arrivals.clocks.waiting.time(|| input.wait_unless(self.arrivals.over()))? {
                    return Ok(());
                }
            }
            // Whatever it has said beyond that would only take more room.
            if input.line().has_given_way() {
                return Err(RecvError::GaveWay);
            }
            self.arrivals.lister.wait_for_room();
            let Some(json) = input.frame(Form::Native)? else {
                return Err(RecvError::Truncated("the session".into()));
            };
            let bytes = json.len() as u64;
            let event = {
                let session = &mut self.arrivals.speak().session;
                match self.place {
                    Place::First => session.handle(json)?,
                    Place::Joined => session.handle_joined(json)?,
                }
            };
            if !matches!(
                event,
                Event::Nothing | Event::File(_) | Event::Refused { .. } | Event::Totals { .. }
            ) {
                input.line().delivers(bytes);
            }
            self.take(event, input)?;
            self.frames += 1;
            if self.frames >= FRAMES_A_WORD {
                self.speak()?;
            }
        }
    }

    fn speak(&mut self) -> Result<(), RecvError> {
        self.frames = 0;
        let told = self.arrivals.speak().flush();
        (self.arrivals.host.limit_entries)();
        told
    }

    fn take(&mut self, event: Event, input: &mut Input) -> Result<(), RecvError> {
        let progress = self.arrivals.progress;
        match event {
            // Perhaps the end, or a folder whose turn is now.
            Event::Nothing => self.arrivals.hand_over_others(&mut self.arrivals.speak()),
            Event::File(entry) => {
                progress.event(Told::Planned { files: 1, bytes: entry.layout.size_bytes() });
                if let Some(entry) = self.decider.decide(entry, true)? {
                    progress.event(Told::Waiting { path: entry.path.as_bytes() });
                    // Gone only when the session is over.
                    let _ = self.waiters.send(entry);
                }
            }
            Event::Refused { name, fault, reason } => {
                let mut speaker = self.arrivals.speak();
                speaker.summary.count_failure(fault);
                self.arrivals.hand_over_others(&mut speaker);
                progress.event(Told::Failed { name: &name, fault, reason: &reason });
            }
            Event::Body(header) => {
                if header.is_repair {
                    self.arrivals.repairs(&header);
                }
                if header.range.len <= SMALL_FILE_BYTES && header.range.offset == 0 {
                    self.small_body(header, input)?;
                } else {
                    self.large_body(header, input)?;
                }
            }
            Event::Discard { bytes } => input.body(bytes, "a body that is not needed", |_| {})?,
            Event::Offer(header) => self.offer(header)?,
            Event::OfferAndBody(header) => {
                input.body(header.range.len, "a small file", |_| {})?;
                self.offer(header)?;
            }
            Event::Hole(hole) if hole.is_offer => match self.arrivals.existing(hole.id) {
                Some(file) if file.is_zero(hole.range).unwrap_or(false) => self.arrivals.holes_same(&hole),
                Some(_) => self.arrivals.differs(&mut self.store, hole.id),
                None => {}
            },
            Event::Hole(hole) => {
                self.leave_descriptors(hole.id, input)?;
                self.hole(&hole);
            }
            Event::Withdrawn { id, path, fault, message, remaining_bytes } => {
                self.arrivals.forget(id);
                let mut speaker = self.arrivals.speak();
                speaker.summary.count_failure(fault);
                // It may have been what folders waited for.
                self.arrivals.hand_over_others(&mut speaker);
                drop(speaker);
                progress.event(Told::FileDropped { remaining_bytes });
                progress.event(Told::Failed { name: path.as_bytes(), fault, reason: &message });
            }
            Event::Measure(asked) => {
                let measured = measure::take(asked, input, &mut self.store)?;
                let mut speaker = self.arrivals.speak();
                speaker.summary.measures += 1;
                speaker.session.measured(measured);
                // A peer that has gone is noticed before the next one is measured.
                speaker.flush()?;
            }
            Event::Totals { .. } => progress.event(Told::PlanComplete),
        }
        Ok(())
    }

    /// A digest to compare with what is there.
    fn offer(&mut self, header: PartHeader) -> Result<(), RecvError> {
        match self.arrivals.existing(header.id).map(|file| file.open()) {
            Some(Ok(file)) => self.verifier.verify(ToVerify::Offer(header, file)),
            Some(Err(_)) => {
                self.arrivals.differs(&mut self.store, header.id);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Where few descriptors are free, a session that has landings waits with a further one until some of them are done, or
    /// others give way.
    fn leave_descriptors(&self, id: EntryId, input: &Input) -> Result<(), RecvError> {
        while self.arrivals.has_landings_enough(id) && are_few_free(input.stream(), FREE_FOR_OTHERS) {
            (self.arrivals.host.spare_descriptors)();
            if !input.pause_unless(self.arrivals.over(), DESCRIPTORS_TICK)? {
                // Whatever ended the session says why.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Parts of zeros: a fresh landing of a sparse file has them already, unless a damaged part was written there.
    fn hole(&mut self, hole: &HoleHeader) {
        let landed = self.arrivals.land(&mut self.store, hole.id);
        let cleared =
            landed.and_then(
                |(written, is_fresh)| {
                    if is_fresh && !hole.must_clear { Ok(()) } else { written.clear(hole.range) }
                },
            );
        match cleared {
            Ok(()) => self.arrivals.holes_verified(hole),
            Err(error) => self.arrivals.fail_arrival(hole.id, &error),
        }
    }

    /// A small file, whole: kept in memory until enough of them are there to be verified together.
    fn small_body(&mut self, header: PartHeader, input: &mut Input) -> Result<(), RecvError> {
        let small = &mut self.small;
        input.body(header.range.len, "a small file", |chunk| small.bytes.extend_from_slice(chunk))?;
        small.headers.push(header);
        self.arrivals.moved(header.range.len);
        if small.is_full() { self.verify_small() } else { Ok(()) }
    }

    fn verify_small(&mut self) -> Result<(), RecvError> {
        if self.small.headers.is_empty() {
            return Ok(());
        }
        let next = self.verifier.spare.try_recv().unwrap_or_default();
        let small = std::mem::replace(&mut self.small, next);
        self.verifier.verify(ToVerify::Small(small))
    }

    /// One part of a larger file: to its landing at once, and then to the verifier.
    fn large_body(&mut self, header: PartHeader, input: &mut Input) -> Result<(), RecvError> {
        self.leave_descriptors(header.id, input)?;
        let _in_transit = self.arrivals.in_transit();
        let written = self.arrivals.land(&mut self.store, header.id);
        let written = match written {
            // A part that was damaged has left something where its zeros belong.
            Ok((written, true)) if self.arrivals.is_sparse(header.id) && !header.is_repair => {
                self.body_without_zeros(header, written, input)?
            }
            Ok((written, _)) => {
                let name = || self.arrivals.name(header.id);
                let clocks = self.arrivals.clocks;
                let moved = |step: &Spliced| {
                    self.arrivals.moved(step.taken as u64);
                    clocks.waiting.add(step.waited);
                    clocks.writing.add(step.wrote);
                };
                let done = input.body_to_file(header.range, name, written.file(), moved)?;
                done.map(|()| written).map_err(|source| StoreError::Io { doing: "write the file", source })
            }
            Err(error) => {
                input.body(header.range.len, "a body that cannot land", |_| {})?;
                Err(error)
            }
        };
        match written {
            Ok(written) => {
                drop(_in_transit);
                self.verifier.verify(ToVerify::Part(header, written))?;
            }
            Err(error) => self.arrivals.fail_arrival(header.id, &error),
        }
        Ok(())
    }

    fn body_without_zeros(
        &self,
        header: PartHeader,
        landing: Written,
        input: &mut Input,
    ) -> Result<Result<Written, StoreError>, RecvError> {
        let mut offset = header.range.offset;
        let mut written = Ok(());
        input.body(header.range.len, &self.arrivals.name(header.id), |chunk| {
            if written.is_ok() {
                written = landing.write_sparse_at(chunk, offset);
            }
            offset += chunk.len() as u64;
            self.arrivals.moved(chunk.len() as u64);
        })?;
        Ok(written.map(|()| landing))
    }
}
