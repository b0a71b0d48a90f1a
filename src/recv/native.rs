//! Native senders: one thread reads, verifies and writes; a second one commits; a third keeps the peer informed.

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use super::RecvError;
use super::committer::{self, Complete};
use super::input::Input;
use crate::digest::{Hasher, PartDigests};
use crate::fault::Fault;
use crate::net::PatientWriter;
use crate::progress::{Event as Told, Progress, Summary};
use crate::relpath::NamePolicy;
use crate::store::{Content, Digests, ExistingFile, Item, Landing, Occupant, OnConflict, Store, StoreError};
use crate::wire::receiver::{Event, FileEntry, OtherEntry, OtherKind, PartHeader, Progressed, Repair};
use crate::wire::{EntryId, Form, ReceiverSession, WireError};

/// Files that may be in arrival at the same time; a sender of ours needs one.
const MAX_LANDINGS: usize = 64;
/// Complete entries that may wait for the committer.
const COMMITS_AHEAD: usize = 1024;
/// A sign of life for the sender, however busy this side is.
const PULSE: Duration = Duration::from_secs(1);

/// The session and the way back to the sender. Whoever changes the session sends what it then has to say.
pub struct Speaker {
    pub session: ReceiverSession,
    pub summary: Summary,
    writer: PatientWriter,
}

impl Speaker {
    /// Sends what the session has to say.
    pub fn flush(&mut self) -> Result<(), RecvError> {
        let output = self.session.take_output();
        if output.is_empty() {
            return Ok(());
        }
        self.writer.write_all(&output).map_err(RecvError::Connection)
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
) -> Result<Summary, RecvError> {
    let writing: TcpStream = input.stream().try_clone().map_err(RecvError::Connection)?;
    let speaker = Mutex::new(Speaker {
        session: ReceiverSession::new(names),
        summary: Summary { confirmed: true, ..Summary::default() },
        writer: PatientWriter::new(writing, input.heard().clone()),
    });
    let ended = (Mutex::new(false), Condvar::new());
    let outcome = thread::scope(|scope| {
        scope.spawn(|| pulse(&speaker, &ended));
        let committing = store.for_committing();
        let (complete, to_commit) = bounded(COMMITS_AHEAD);
        let committer = scope.spawn(|| committer::commit(committing, &speaker, to_commit, progress));
        let mut receiver = Receiver {
            store,
            speaker: &speaker,
            complete,
            progress,
            landings: HashMap::new(),
            existing: HashMap::new(),
        };
        let received = receiver.receive(&mut input);
        // Closes the queue: the committer finishes what is complete, whatever happened to the rest.
        drop(receiver);
        let committed = committer.join().unwrap_or(Ok(()));
        *ended.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        ended.1.notify_all();
        received.and(committed)
    });
    let mut speaker = lock(&speaker);
    let outcome = outcome.and_then(|()| {
        speaker.session.finish().ok_or_else(|| WireError::Protocol("the session ended unsettled".into()))?;
        speaker.flush()
    });
    if let Err(error) = &outcome {
        let (fault, reason) = last_words(error);
        speaker.session.give_up(fault, &reason);
        // The peer may be gone; then there is nobody to tell.
        let _ = speaker.flush();
    }
    input.close();
    outcome.map(|()| std::mem::take(&mut speaker.summary))
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
    speaker: &'a Mutex<Speaker>,
    complete: Sender<Complete>,
    progress: &'a dyn Progress,
    /// Files in arrival.
    landings: HashMap<EntryId, (FileEntry, Option<Landing>)>,
    /// Files that are there already and are being compared.
    existing: HashMap<EntryId, (FileEntry, ExistingFile)>,
}

impl Receiver<'_> {
    fn receive(&mut self, input: &mut Input) -> Result<(), RecvError> {
        loop {
            // While whole frames are at hand, answers are collected: many decisions fit into one frame.
            if !input.has_frame(Form::Native) {
                lock(self.speaker).flush()?;
            }
            let Some(json) = input.frame(Form::Native)? else {
                return Err(RecvError::Truncated("the session".into()));
            };
            let event = lock(self.speaker).session.handle(json)?;
            self.take(event, input)?;
            self.hand_over_others();
            if lock(self.speaker).session.is_all_received() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, event: Event, input: &mut Input) -> Result<(), RecvError> {
        match event {
            Event::Nothing | Event::Introduced { .. } => {}
            Event::File(entry) => {
                self.progress.event(Told::Planned { files: 1, bytes: entry.layout.size_bytes() });
                self.decide(entry);
            }
            Event::Refused { name, fault, reason } => {
                lock(self.speaker).summary.count_failure(fault);
                self.progress.event(Told::Failed { name: &name, fault, reason: &reason });
            }
            Event::Body(header) => self.body(&header, input)?,
            Event::Discard { bytes } => input.body(bytes, "a body that is not needed", |_| {})?,
            Event::Offer(header) => self.compare(&header),
            Event::Withdrawn { id, path, fault, message, remaining_bytes } => {
                self.landings.remove(&id);
                self.existing.remove(&id);
                lock(self.speaker).summary.count_failure(fault);
                self.progress.event(Told::FileDropped { remaining_bytes });
                self.progress.event(Told::Failed { name: path.as_bytes(), fault, reason: &message });
            }
            Event::Totals { .. } => self.progress.event(Told::PlanComplete),
        }
        Ok(())
    }

    /// What is there under the name decides what is wanted.
    fn decide(&mut self, entry: FileEntry) {
        let id = entry.id;
        let occupant = match self.store.occupant(&entry.path) {
            Ok(occupant) => occupant,
            Err(error) => return self.fail(&entry, &error),
        };
        let policy = self.store.on_conflict();
        let conflict = match occupant {
            Occupant::Nothing => None,
            Occupant::File(_) if policy == OnConflict::Error => Some("a file"),
            Occupant::File(file) if file.size_bytes() == entry.layout.size_bytes() => {
                lock(self.speaker).session.want_offers(id);
                self.existing.insert(id, (entry, file));
                return;
            }
            Occupant::File(_) => Some("a different file"),
            Occupant::Other(what) => Some(what),
        };
        match conflict {
            Some(what) if !self.gives_way(what) => self.fail(&entry, &StoreError::Exists { what }),
            _ => self.want(entry),
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

    fn want(&mut self, entry: FileEntry) {
        lock(self.speaker).session.want_all(entry.id);
        self.landings.insert(entry.id, (entry, None));
    }

    /// The digest of one part of a file that is there already.
    fn compare(&mut self, header: &PartHeader) {
        let Some((_, file)) = self.existing.get(&header.id) else {
            return;
        };
        if file.digest(header.range).is_ok_and(|md5| md5 == header.md5) {
            let progressed = lock(self.speaker).session.part_verified(header);
            if let Progressed::Complete(_) = progressed
                && let Some((entry, file)) = self.existing.remove(&header.id)
            {
                let size_bytes = entry.layout.size_bytes();
                self.hand_over(Complete {
                    id: header.id,
                    path: entry.path,
                    size_bytes,
                    item: Item::AlreadyThere(file),
                });
            }
            return;
        }
        let Some((entry, _)) = self.existing.remove(&header.id) else {
            return;
        };
        if self.gives_way("a different file") {
            self.want(entry);
        } else {
            self.fail(&entry, &StoreError::Exists { what: "a different file" });
        }
    }

    /// One part's body: to the file and through the hash at once.
    fn body(&mut self, header: &PartHeader, input: &mut Input) -> Result<(), RecvError> {
        let open = self.landings.values().filter(|(_, landing)| landing.is_some()).count();
        let Some((entry, slot)) = self.landings.get_mut(&header.id) else {
            return input.body(header.range.len, "a body that is not needed", |_| {});
        };
        let name = entry.path.to_string();
        let landing = match slot {
            Some(landing) => Ok(landing),
            None if open >= MAX_LANDINGS => Err(StoreError::Io {
                doing: "begin another file",
                source: std::io::Error::other("too many files are in arrival at once"),
            }),
            None => self.store.land(&entry.path).map(|landing| {
                let (path, size_bytes) = (entry.path.as_bytes(), entry.layout.size_bytes());
                self.progress.event(Told::FileStarted { path, size_bytes });
                slot.insert(landing)
            }),
        };
        let mut hasher = Hasher::new();
        let mut offset = header.range.offset;
        let mut written = landing;
        input.body(header.range.len, &name, |chunk| {
            if let Ok(landing) = &written {
                hasher.update(chunk);
                if let Err(error) = landing.write_at(chunk, offset) {
                    written = Err(error);
                }
            }
            offset += chunk.len() as u64;
            self.progress.event(Told::Moved { bytes: chunk.len() as u64 });
        })?;
        let mut speaker = lock(self.speaker);
        speaker.summary.moved_bytes += header.range.len;
        if let Err(error) = written {
            drop(speaker);
            if let Some((entry, _)) = self.landings.remove(&header.id) {
                self.fail(&entry, &error);
            }
            return Ok(());
        }
        if hasher.finish() == header.md5 {
            let progressed = speaker.session.part_verified(header);
            drop(speaker);
            if let Progressed::Complete(digests) = progressed {
                self.complete(header.id, digests);
            }
            return Ok(());
        }
        match speaker.session.part_damaged(header) {
            Repair::Again => {
                speaker.summary.repaired_parts += 1;
                self.progress.event(Told::Repairing { path: entry.path.as_bytes(), part: header.part });
            }
            Repair::GaveUp => {
                speaker.summary.count_failure(Fault::Digest);
                let reason = "it arrived damaged again and again";
                let remaining_bytes = entry.layout.size_bytes().saturating_sub(header.range.offset);
                self.progress.event(Told::FileDropped { remaining_bytes });
                self.progress.event(Told::Failed {
                    name: entry.path.as_bytes(),
                    fault: Fault::Digest,
                    reason,
                });
                self.landings.remove(&header.id);
            }
        }
        Ok(())
    }

    fn complete(&mut self, id: EntryId, digests: PartDigests) {
        let Some((entry, Some(landing))) = self.landings.remove(&id) else {
            return;
        };
        let size_bytes = entry.layout.size_bytes();
        let content = Content { size_bytes, digests: Digests::Parts(digests) };
        let item = Item::File { landing, content, metadata: entry.metadata };
        self.hand_over(Complete { id, path: entry.path, size_bytes, item });
    }

    fn hand_over_others(&mut self) {
        loop {
            let next = lock(self.speaker).session.next_ready();
            let Some(OtherEntry { id, path, kind, metadata }) = next else {
                return;
            };
            let item = match kind {
                OtherKind::Dir => Item::Dir { path: path.clone(), metadata },
                OtherKind::Link(target) => Item::Link { path: path.clone(), target, metadata },
            };
            self.hand_over(Complete { id, path, size_bytes: 0, item });
        }
    }

    fn hand_over(&self, complete: Complete) {
        // The committer only ends after this queue is closed, which this side does last.
        let _ = self.complete.send(complete);
    }

    fn fail(&self, entry: &FileEntry, error: &StoreError) {
        let (fault, reason) = (error.fault(), error.to_string());
        let mut speaker = lock(self.speaker);
        let remaining_bytes = speaker.session.fail(entry.id, fault, &reason);
        speaker.summary.count_failure(fault);
        self.progress.event(Told::FileDropped { remaining_bytes });
        self.progress.event(Told::Failed { name: entry.path.as_bytes(), fault, reason: &reason });
    }
}
