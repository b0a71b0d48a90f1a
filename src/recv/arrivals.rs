//! The files in arrival, shared by the thread that receives and the one that verifies.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_channel::Sender;

use super::committer::Complete;
use super::native::{Speaker, lock};
use super::whole::Whole;
use crate::digest::{Md5, PART_BYTES, PartDigests};
use crate::fault::Fault;
use crate::md5sum::Lister;
use crate::progress::{Event, Progress};
use crate::store::{Content, Digests, Item, Landing, Store, StoreError};
use crate::wire::EntryId;
use crate::wire::receiver::{FileEntry, HoleHeader, OtherEntry, OtherKind, PartHeader, Progressed, Repair};

/// Landings that may be open at the same time; a sender of ours needs one a stream.
pub const MAX_LANDINGS: usize = 64;

/// See the module's page.
pub struct Arrivals<'a> {
    speaker: &'a Mutex<Speaker>,
    complete: Sender<Complete>,
    pub progress: &'a dyn Progress,
    pub lister: &'a Lister<'a, Whole>,
    files: Mutex<Files>,
}

#[derive(Default)]
struct Files {
    wanted: HashMap<EntryId, (FileEntry, Option<Landing>)>,
    landings: usize,
}

impl<'a> Arrivals<'a> {
    pub fn new(
        speaker: &'a Mutex<Speaker>,
        complete: Sender<Complete>,
        progress: &'a dyn Progress,
        lister: &'a Lister<'a, Whole>,
    ) -> Self {
        Arrivals { speaker, complete, progress, lister, files: Mutex::default() }
    }

    /// The session and its way back to the sender.
    pub fn speak(&self) -> MutexGuard<'a, Speaker> {
        lock(self.speaker)
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a file.
    pub fn want(&self, entry: FileEntry) {
        self.speak().session.want_all(entry.id);
        self.files().wanted.insert(entry.id, (entry, None));
    }

    /// The name of a file in arrival, for people.
    pub fn name(&self, id: EntryId) -> String {
        self.files()
            .wanted
            .get(&id)
            .map_or_else(|| "a file that is not wanted".into(), |(entry, _)| entry.path.to_string())
    }

    /// Gives the landing of a file in arrival to `write`, and makes it first if this is its first part.
    pub fn land<T>(
        &self,
        store: &mut Store,
        id: EntryId,
        write: impl FnOnce(&Landing) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut files = self.files();
        let open = files.landings;
        let Some((entry, slot)) = files.wanted.get_mut(&id) else {
            return Err(busy("it is not wanted any more"));
        };
        if let Some(landing) = slot {
            return write(landing);
        }
        if open >= MAX_LANDINGS {
            return Err(busy("too many files are in arrival at once"));
        }
        let landing = store.land(&entry.path)?;
        if entry.is_sparse {
            landing.make_sparse(entry.layout.size_bytes())?;
        }
        let (path, size_bytes) = (entry.path.as_bytes(), entry.layout.size_bytes());
        self.progress.event(Event::FileStarted { path, size_bytes });
        if size_bytes > PART_BYTES {
            self.lister.begin(id, size_bytes, 0, || Whole::landed(landing.written()));
        }
        let written = write(&landing);
        *slot = Some(landing);
        files.landings += 1;
        written
    }

    /// Is the file one in whose fresh landing zeros need not be written?
    pub fn is_sparse(&self, id: EntryId) -> bool {
        self.files().wanted.get(&id).is_some_and(|(entry, _)| entry.is_sparse)
    }

    /// Parts of zeros are in place.
    pub fn holes_verified(&self, hole: &HoleHeader) {
        let mut speaker = self.speak();
        speaker.summary.hole_bytes += hole.range.len;
        if let Progressed::Complete(digests) = speaker.session.holes_verified(hole) {
            self.complete(&mut speaker, hole.id, digests);
        }
        drop(speaker);
        self.lister.ready(hole.id, hole.range);
        self.progress.event(Event::Moved { bytes: hole.range.len });
    }

    /// Bytes of a body came in.
    pub fn moved(&self, bytes: u64) {
        self.speak().summary.moved_bytes += bytes;
        self.progress.event(Event::Moved { bytes });
    }

    /// The bytes of a part have this digest: good, or to be fetched again.
    pub fn judge(&self, header: &PartHeader, actual: Md5) {
        let mut speaker = self.speak();
        if actual == header.md5 {
            if let Progressed::Complete(digests) = speaker.session.part_verified(header) {
                self.complete(&mut speaker, header.id, digests);
            }
            drop(speaker);
            // After the last part it is sealed by now: whoever has hashed all of it can tell whether it changed.
            self.lister.ready(header.id, header.range);
            return;
        }
        match speaker.session.part_damaged(header) {
            Repair::Again => {
                speaker.summary.repaired_parts += 1;
                // The sender may be waiting for nothing else. A broken connection is noticed by the reader.
                let _ = speaker.flush();
                drop(speaker);
                if let Some((entry, _)) = self.files().wanted.get(&header.id) {
                    self.progress.event(Event::Repairing { path: entry.path.as_bytes(), part: header.part });
                }
            }
            Repair::GaveUp { remaining_bytes } => {
                drop(speaker);
                if let Some(entry) = self.forget(header.id) {
                    let mut speaker = self.speak();
                    speaker.summary.count_failure(Fault::Digest);
                    self.hand_over_others(&mut speaker);
                    drop(speaker);
                    self.progress.event(Event::FileDropped { remaining_bytes });
                    let reason = "it arrived damaged again and again";
                    self.progress.event(Event::Failed {
                        name: entry.path.as_bytes(),
                        fault: Fault::Digest,
                        reason,
                    });
                }
            }
        }
    }

    fn complete(&self, speaker: &mut Speaker, id: EntryId, digests: PartDigests) {
        let mut files = self.files();
        let Some((entry, Some(mut landing))) = files.wanted.remove(&id) else {
            return;
        };
        files.landings -= 1;
        drop(files);
        let size_bytes = entry.layout.size_bytes();
        if let Err(error) = landing.seal(entry.metadata, size_bytes) {
            return self.fail_now(speaker, &entry, &error);
        }
        let md5 = digests.whole(entry.layout);
        let content = Content { size_bytes, digests: Digests::Parts(digests) };
        let item = Item::File { landing, content, metadata: entry.metadata };
        self.hand_over(speaker, Complete { id, path: entry.path, size_bytes, md5, item });
    }

    /// Has the committer make something durable, and after it the folders and links that waited for it. The session is
    /// locked meanwhile, so that the queue has the order of the session: a folder comes after everything in it. The
    /// queue has no bound of its own; it cannot hold more than the entries in flight.
    pub fn hand_over(&self, speaker: &mut Speaker, complete: Complete) {
        // The committer only ends after this queue is closed, which happens when the arrivals are dropped.
        let _ = self.complete.send(complete);
        self.hand_over_others(speaker);
    }

    /// Hands over the folders and links that wait for nothing any more.
    pub fn hand_over_others(&self, speaker: &mut Speaker) {
        while let Some(OtherEntry { id, path, kind, metadata }) = speaker.session.next_ready() {
            let item = match kind {
                OtherKind::Dir => Item::Dir { path: path.clone(), metadata },
                OtherKind::Link(target) => Item::Link { path: path.clone(), target, metadata },
            };
            let _ = self.complete.send(Complete { id, path, size_bytes: 0, md5: None, item });
        }
    }

    /// Lets a file go, and its landing with it.
    pub fn forget(&self, id: EntryId) -> Option<FileEntry> {
        let mut files = self.files();
        let (entry, landing) = files.wanted.remove(&id)?;
        files.landings -= usize::from(landing.is_some());
        self.lister.dropped(id);
        Some(entry)
    }

    /// A file in arrival cannot be taken any further.
    pub fn fail_arrival(&self, id: EntryId, error: &StoreError) {
        if let Some(entry) = self.forget(id) {
            self.fail(&entry, error);
        }
    }

    /// A file will not arrive; the sender is told.
    pub fn fail(&self, entry: &FileEntry, error: &StoreError) {
        self.fail_now(&mut self.speak(), entry, error);
    }

    fn fail_now(&self, speaker: &mut Speaker, entry: &FileEntry, error: &StoreError) {
        self.lister.dropped(entry.id);
        let (fault, reason) = (error.fault(), error.to_string());
        let remaining_bytes = speaker.session.fail(entry.id, fault, &reason);
        speaker.summary.count_failure(fault);
        self.hand_over_others(speaker);
        self.progress.event(Event::FileDropped { remaining_bytes });
        self.progress.event(Event::Failed { name: entry.path.as_bytes(), fault, reason: &reason });
    }
}

fn busy(why: &'static str) -> StoreError {
    StoreError::Io { doing: "take the file", source: io::Error::other(why) }
}
