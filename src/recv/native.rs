//! Native senders: one thread reads and writes, a second one verifies, a third one commits, and a fourth keeps the
//! sender informed.
//!
//! ```text
//! socket ──▶ receiver ──parts──▶ verifier ──complete──▶ committer
//!               │                   │                       │
//!               └────── session, with its way back to the sender ──────▶ socket
//! ```
//!
//! Small files are verified in memory, many at a time, before anything of them touches the disk. Larger parts go to
//! their landing at once and are read back by the verifier, a window of them side by side.
//!
//! Where the MD5 of whole files is wanted, the [`Lister`] has a thread beside these, which reads each larger file from
//! its start as far as its parts are verified.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, unbounded};

use super::RecvError;
use super::arrivals::{Arrivals, MAX_LANDINGS};
use super::committer::{self, Complete};
use super::input::Input;
use super::verifier::{self, ToVerify};
use super::whole::Whole;
use crate::digest::digest_many;
use crate::fault::Fault;
use crate::md5sum::Lister;
use crate::net::PatientWriter;
use crate::progress::{Event as Told, Progress, Summary};
use crate::relpath::NamePolicy;
use crate::store::{ExistingFile, Item, Occupant, OnConflict, Store, StoreError};
use crate::wire::receiver::{Event, FileEntry, HoleHeader, PartHeader, Progressed};
use crate::wire::{EntryId, Form, ReceiverSession, WireError};

/// Files up to this are verified in memory.
const SMALL_BYTES: u64 = 128 << 10;
/// Small bodies that are collected before they are verified together: bytes and files.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_FILES: usize = 256;
/// Parts that may wait for the verifier.
const VERIFIES_AHEAD: usize = 32;
// Each of them, the verifier's window and the one that is coming in may hold a landing.
const _: () = assert!(VERIFIES_AHEAD + verifier::MAX_WINDOW < MAX_LANDINGS);
/// A sign of life for the sender, however busy this side is.
const PULSE: Duration = Duration::from_secs(1);

/// The session and the way back to the sender. Whoever changes the session sends what it then has to say.
pub struct Speaker {
    pub session: ReceiverSession,
    pub summary: Summary,
    writer: PatientWriter,
    timeout: Duration,
    /// How an earlier write failed.
    broken: Option<io::ErrorKind>,
}

impl Speaker {
    /// Sends what the session has to say.
    pub fn flush(&mut self) -> Result<(), RecvError> {
        let output = self.session.take_output();
        if let Some(kind) = self.broken {
            // A frame was cut: whatever comes behind it would be misread.
            return Err(self.write_error(kind.into()));
        }
        self.writer.write_all(&output).map_err(|error| {
            self.broken = Some(error.kind());
            self.write_error(error)
        })
    }

    fn write_error(&self, error: io::Error) -> RecvError {
        match error.kind() {
            io::ErrorKind::TimedOut => RecvError::Silent(self.timeout),
            _ => RecvError::Connection(error),
        }
    }
}

pub fn lock(speaker: &Mutex<Speaker>) -> MutexGuard<'_, Speaker> {
    speaker.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a session to its receipt.
pub fn receive(
    mut input: Input,
    store: Store,
    names: NamePolicy,
    progress: &dyn Progress,
    lister: &Lister<'_, Whole>,
) -> Result<Summary, RecvError> {
    let writing: TcpStream = input.stream().try_clone().map_err(RecvError::Connection)?;
    let speaker = Mutex::new(Speaker {
        session: ReceiverSession::new(names),
        summary: Summary { confirmed: true, ..Summary::default() },
        writer: PatientWriter::new(writing, input.heard().clone()),
        timeout: input.timeout(),
        broken: None,
    });
    let ended = (Mutex::new(false), Condvar::new());
    let outcome = thread::scope(|scope| {
        scope.spawn(|| pulse(&speaker, &ended));
        // However this ends, the pulse has to: a session that is kept alive for ever would never be given up.
        let _end = EndOnDrop(&ended);
        let committing = store.for_committing();
        let (complete, to_commit) = unbounded();
        let committer = scope.spawn(|| committer::commit(committing, &speaker, to_commit, progress, lister));
        let arrivals = Arrivals::new(&speaker, complete, progress, lister);
        let (verify, to_verify) = bounded(VERIFIES_AHEAD);
        let received = thread::scope(|scope| {
            let arrivals = &arrivals;
            scope.spawn(move || verifier::verify(arrivals, to_verify));
            let mut receiver = Receiver {
                store,
                arrivals,
                verify,
                existing: HashMap::new(),
                small: Vec::new(),
                small_bytes: Vec::new(),
            };
            receiver.receive(&mut input)
        });
        // Closes the queue: the committer finishes what is complete, whatever happened to the rest.
        drop(arrivals);
        let ended_early = || Err(RecvError::Connection(std::io::Error::other("the committer ended early")));
        let committed = committer.join().unwrap_or_else(|_| ended_early());
        received.and(committed)
    });
    let mut speaker = lock(&speaker);
    let outcome = outcome.and_then(|()| {
        speaker.session.finish().ok_or_else(|| WireError::Protocol("the session ended unsettled".into()))?;
        speaker.flush()
    });
    if let Err(error) = &outcome
        && !matches!(error, RecvError::Wire(WireError::PeerGaveUp { .. }))
    {
        let (fault, reason) = last_words(error);
        speaker.session.give_up(fault, &reason);
        // The peer may be gone; then there is nobody to tell.
        let _ = speaker.flush();
    }
    input.close();
    outcome.map(|()| std::mem::take(&mut speaker.summary))
}

struct EndOnDrop<'a>(&'a (Mutex<bool>, Condvar));

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }
}

/// Tells the sender every now and then that this side is alive, so that it can tell slow from dead.
fn pulse(speaker: &Mutex<Speaker>, ended: &(Mutex<bool>, Condvar)) {
    let mut over = ended.0.lock().unwrap_or_else(PoisonError::into_inner);
    while !*over {
        let timed_out;
        (over, timed_out) = {
            let (over, result) = ended.1.wait_timeout(over, PULSE).unwrap_or_else(PoisonError::into_inner);
            (over, result.timed_out())
        };
        if timed_out && !*over {
            let mut speaker = lock(speaker);
            speaker.session.busy();
            // A broken connection is noticed by the reader.
            let _ = speaker.flush();
        }
    }
}

/// What the sender is told of a failure here.
fn last_words(error: &RecvError) -> (Fault, String) {
    let fault = match error {
        RecvError::Silent(_) => Fault::Timeout,
        RecvError::Wire(WireError::Version { .. }) => Fault::Version,
        RecvError::Truncated(_) | RecvError::Connection(_) => Fault::Connection,
        RecvError::Root(_) | RecvError::Store { .. } => Fault::FileIo,
        _ => Fault::Protocol,
    };
    (fault, error.to_string())
}

struct Receiver<'a> {
    store: Store,
    arrivals: &'a Arrivals<'a>,
    verify: Sender<ToVerify>,
    /// Files that are there already and are being compared.
    existing: HashMap<EntryId, (FileEntry, ExistingFile)>,
    /// Small files that arrived and are not verified yet, and where their bodies end in `small_bytes`.
    small: Vec<(PartHeader, usize)>,
    small_bytes: Vec<u8>,
}

impl Receiver<'_> {
    fn receive(&mut self, input: &mut Input) -> Result<(), RecvError> {
        loop {
            // While whole frames are at hand, work is collected: many small files are verified at once, and many
            // decisions fit into one frame.
            if !input.has_frame(Form::Native) {
                self.verify_small();
                let mut speaker = self.arrivals.speak();
                speaker.flush()?;
                if speaker.session.is_quiet() {
                    drop(speaker);
                    // The sender waits for the verdict on its last parts.
                    self.drain_verifier();
                    let mut speaker = self.arrivals.speak();
                    speaker.flush()?;
                    if speaker.session.is_all_received() {
                        return Ok(());
                    }
                }
            }
            self.arrivals.lister.wait_for_room();
            let Some(json) = input.frame(Form::Native)? else {
                return Err(RecvError::Truncated("the session".into()));
            };
            let event = self.arrivals.speak().session.handle(json)?;
            self.take(event, input)?;
            // An entry that was withdrawn or failed may have been the one that folders waited for.
            self.arrivals.hand_over_others(&mut self.arrivals.speak());
        }
    }

    fn take(&mut self, event: Event, input: &mut Input) -> Result<(), RecvError> {
        let progress = self.arrivals.progress;
        match event {
            Event::Nothing | Event::Introduced { .. } => {}
            Event::File(entry) => {
                progress.event(Told::Planned { files: 1, bytes: entry.layout.size_bytes() });
                self.decide(entry);
            }
            Event::Refused { name, fault, reason } => {
                self.arrivals.speak().summary.count_failure(fault);
                progress.event(Told::Failed { name: &name, fault, reason: &reason });
            }
            Event::Body(header) if header.range.len <= SMALL_BYTES && header.range.offset == 0 => {
                self.small_body(header, input)?;
            }
            Event::Body(header) => self.large_body(header, input)?,
            Event::Discard { bytes } => input.body(bytes, "a body that is not needed", |_| {})?,
            Event::Offer(header) => {
                let same = |file: &ExistingFile| file.digest(header.range).is_ok_and(|md5| md5 == header.md5);
                self.compare(header.id, same, |session| session.part_verified(&header));
            }
            Event::Hole(hole) if hole.is_offer => {
                let same = |file: &ExistingFile| file.is_zero(hole.range).unwrap_or(false);
                self.compare(hole.id, same, |session| session.holes_verified(&hole));
            }
            Event::Hole(hole) => self.hole(&hole),
            Event::Withdrawn { id, path, fault, message, remaining_bytes } => {
                self.arrivals.forget(id);
                self.existing.remove(&id);
                self.arrivals.speak().summary.count_failure(fault);
                progress.event(Told::FileDropped { remaining_bytes });
                progress.event(Told::Failed { name: path.as_bytes(), fault, reason: &message });
            }
            Event::Totals { .. } => progress.event(Told::PlanComplete),
        }
        Ok(())
    }

    /// What is there under the name decides what is wanted.
    fn decide(&mut self, entry: FileEntry) {
        let id = entry.id;
        let occupant = match self.store.occupant(&entry.path) {
            Ok(occupant) => occupant,
            Err(error) => return self.arrivals.fail(&entry, &error),
        };
        let policy = self.store.on_conflict();
        let conflict = match occupant {
            Occupant::Nothing => None,
            Occupant::File(_) if policy == OnConflict::Error => Some("a file"),
            Occupant::File(file) if file.size_bytes() == entry.layout.size_bytes() => {
                self.arrivals.speak().session.want_offers(id);
                self.existing.insert(id, (entry, file));
                return;
            }
            Occupant::File(_) => Some("a different file"),
            Occupant::Other(what) => Some(what),
        };
        match conflict {
            Some(what) if !self.gives_way(what) => self.arrivals.fail(&entry, &StoreError::Exists { what }),
            _ => self.arrivals.want(entry),
        }
    }

    /// May the entry come although something else has its name?
    fn gives_way(&self, what: &str) -> bool {
        match self.store.on_conflict() {
            OnConflict::Overwrite => what != "a folder",
            OnConflict::Rename => true,
            OnConflict::SkipSame | OnConflict::Error => false,
        }
    }

    /// One part, or a run of holes, of a file that is there already: is it the same?
    fn compare(
        &mut self,
        id: EntryId,
        same: impl FnOnce(&ExistingFile) -> bool,
        verified: impl FnOnce(&mut ReceiverSession) -> Progressed,
    ) {
        let Some((_, file)) = self.existing.get(&id) else {
            return;
        };
        if same(file) {
            let mut speaker = self.arrivals.speak();
            if let Progressed::Complete(digests) = verified(&mut speaker.session)
                && let Some((entry, file)) = self.existing.remove(&id)
            {
                let size_bytes = entry.layout.size_bytes();
                let md5 = digests.whole(entry.layout);
                if md5.is_none() {
                    self.arrivals.lister.begin(id, size_bytes, size_bytes, || Whole::there(&file));
                }
                let item = Item::AlreadyThere(file);
                self.arrivals
                    .hand_over(&mut speaker, Complete { id, path: entry.path, size_bytes, md5, item });
            }
            return;
        }
        let Some((entry, _)) = self.existing.remove(&id) else {
            return;
        };
        if self.gives_way("a different file") {
            self.arrivals.want(entry);
        } else {
            self.arrivals.fail(&entry, &StoreError::Exists { what: "a different file" });
        }
    }

    /// Parts of zeros: a fresh landing of a sparse file has them already.
    fn hole(&mut self, hole: &HoleHeader) {
        let landed = self.arrivals.land(&mut self.store, hole.id, |_| Ok(()));
        match landed {
            Ok(()) => self.arrivals.holes_verified(hole),
            Err(error) => self.arrivals.fail_arrival(hole.id, &error),
        }
    }

    /// A small file, whole: kept in memory until enough of them are there to be verified together.
    fn small_body(&mut self, header: PartHeader, input: &mut Input) -> Result<(), RecvError> {
        let bytes = &mut self.small_bytes;
        input.body(header.range.len, "a small file", |chunk| bytes.extend_from_slice(chunk))?;
        self.arrivals.moved(header.range.len);
        self.small.push((header, bytes.len()));
        if self.small_bytes.len() >= BATCH_BYTES || self.small.len() >= BATCH_FILES {
            self.verify_small();
        }
        Ok(())
    }

    fn verify_small(&mut self) {
        let mut start = 0;
        let bodies: Vec<&[u8]> = self
            .small
            .iter()
            .map(|(_, end)| &self.small_bytes[std::mem::replace(&mut start, *end)..*end])
            .collect();
        for (((header, _), body), md5) in self.small.iter().zip(&bodies).zip(digest_many(&bodies)) {
            let landed = match md5 == header.md5 {
                true => self.arrivals.land(&mut self.store, header.id, |landing| landing.write_at(body, 0)),
                // Damaged bytes never reach the disk.
                false => Ok(()),
            };
            if let Err(error) = landed {
                self.arrivals.fail_arrival(header.id, &error);
                continue;
            }
            self.arrivals.judge(header, md5);
        }
        self.small.clear();
        self.small_bytes.clear();
    }

    /// One part of a larger file: to its landing at once, and then to the verifier.
    fn large_body(&mut self, header: PartHeader, input: &mut Input) -> Result<(), RecvError> {
        let name = self.arrivals.name(header.id);
        let progress = self.arrivals.progress;
        // A part that was damaged has left something where its zeros belong.
        let skip_zeros = self.arrivals.is_sparse(header.id) && !header.is_repair;
        let mut offset = header.range.offset;
        let mut written = self.arrivals.land(&mut self.store, header.id, |landing| {
            landing.written().ok_or(StoreError::Exists { what: "a complete file" })
        });
        input.body(header.range.len, &name, |chunk| {
            if let Ok(landing) = &written {
                let done = match skip_zeros {
                    true => landing.write_sparse_at(chunk, offset),
                    false => landing.write_at(chunk, offset),
                };
                if let Err(error) = done {
                    written = Err(error);
                }
            }
            offset += chunk.len() as u64;
            progress.event(Told::Moved { bytes: chunk.len() as u64 });
        })?;
        self.arrivals.speak().summary.moved_bytes += header.range.len;
        match written {
            Ok(written) => {
                if self.verify.send(ToVerify::Part(header, written)).is_err() {
                    return Err(RecvError::Connection(std::io::Error::other("the verifier ended early")));
                }
            }
            Err(error) => self.arrivals.fail_arrival(header.id, &error),
        }
        Ok(())
    }

    fn drain_verifier(&self) {
        let (done, wait) = bounded(1);
        if self.verify.send(ToVerify::Drain(done)).is_ok() {
            let _ = wait.recv();
        }
    }
}
