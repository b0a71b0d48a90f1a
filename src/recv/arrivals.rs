//! The files in arrival, shared by the threads of a session, and how the session ends.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::Sender;

use super::RecvError;
use super::committer::Complete;
use super::native::{Clocks, Host, Speaker, lock};
use super::sessions::MAX_JOINED;
use super::verifier::Recheck;
use super::whole::Whole;
use crate::digest::{Md5, PART_BYTES, PartDigests, PartLayout, PartRange};
use crate::fault::Fault;
use crate::md5sum::Lister;
use crate::net::Bell;
use crate::progress::{Event, Progress};
use crate::store::{
    Content, Digests, ExistingFile, Item, Kept, Landing, Origin, Record, Records, Room, Store, StoreError,
    Written, check_size_limit,
};
use crate::wire::EntryId;
use crate::wire::receiver::{
    FileEntry, HoleHeader, OtherEntry, OtherKind, PartHeader, Progressed, Repair, take_rest,
};

/// Landings that may be open at the same time.
pub const MAX_LANDINGS: usize = 96;

/// See the module's page.
pub struct Arrivals<'a> {
    speaker: &'a Mutex<Speaker>,
    complete: Sender<Vec<Complete>>,
    pub progress: &'a dyn Progress,
    pub lister: &'a Lister<'a, Whole>,
    pub host: &'a Host<'a>,
    files: Mutex<Files>,
    /// A landing was made, or could not be.
    opened: Condvar,
    /// Parts whose bodies are coming in just now.
    in_transit: AtomicUsize,
    moved_bytes: AtomicU64,
    pub clocks: &'a Clocks,
    /// Wakes the readers when there is nothing more to read.
    over: Bell,
    outcome: Mutex<Option<Result<(), RecvError>>>,
}

#[derive(Default)]
struct Files {
    by_id: HashMap<EntryId, Arrival>,
    landings: usize,
}

struct Arrival {
    entry: FileEntry,
    at: At,
    /// What is promised to it, as long as it is in arrival.
    room: Option<Room>,
    /// Parts that are in and not yet in the landing's journal.
    unrecorded: Records,
    /// What an earlier session left of it and is gone on with.
    resumed_bytes: u64,
}

impl Arrival {
    fn new(entry: FileEntry, at: At) -> Self {
        Arrival { entry, at, room: None, unrecorded: Records::default(), resumed_bytes: 0 }
    }

    /// Nothing is kept of it.
    fn discard(self) -> FileEntry {
        if let At::Landing(landing) = self.at {
            landing.discard();
        }
        self.entry
    }

    /// What is in of it is kept for another session, if that can be.
    fn keep(self) -> FileEntry {
        if let At::Landing(landing) = self.at
            && let (Some(journal), Some(written)) = (landing.journal(), landing.written())
            && journal.record(&written, &self.unrecorded, true).is_err()
        {
            landing.discard();
        }
        self.entry
    }
}

/// What there is of a file in arrival.
enum At {
    /// Nothing yet.
    Asked,
    /// A thread makes its landing, which may take as long as the disk does, with nothing locked.
    Opening,
    /// Some parts, in their landing.
    Landing(Landing),
    /// A file of that name and size that was there before, and whether it gives way if it is different.
    Existing(Arc<ExistingFile>, bool),
}

impl<'a> Arrivals<'a> {
    pub fn new(
        speaker: &'a Mutex<Speaker>,
        complete: Sender<Vec<Complete>>,
        clocks: &'a Clocks,
        host: &'a Host<'a>,
    ) -> Result<Self, RecvError> {
        Ok(Arrivals {
            speaker,
            complete,
            progress: host.progress,
            lister: host.lister,
            host,
            files: Mutex::default(),
            opened: Condvar::new(),
            in_transit: AtomicUsize::new(0),
            moved_bytes: AtomicU64::new(0),
            clocks,
            over: Bell::new().map_err(RecvError::NoThread)?,
            outcome: Mutex::default(),
        })
    }

    /// The session and its way back to the sender.
    pub fn speak(&self) -> MutexGuard<'a, Speaker> {
        lock(self.speaker)
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rung when there is nothing more to read.
    pub fn over(&self) -> &Bell {
        &self.over
    }

    /// Ends the session for all its threads; the first outcome counts.
    fn end(&self, outcome: Result<(), RecvError>) {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(outcome);
        self.over.ring();
    }

    /// A reader that failed ends the session.
    pub fn end_if_failed(&self, read: Result<(), RecvError>) {
        if read.is_err() {
            self.end(read);
        }
    }

    /// How the session ended, once all threads are done.
    pub fn outcome(&self) -> Result<(), RecvError> {
        self.speak().summary.moved_bytes = self.moved_bytes.load(Ordering::Relaxed);
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
    pub fn is_quiet(&self) -> bool {
        self.in_transit.load(Ordering::Acquire) == 0 && self.speak().session.is_quiet()
    }

    /// Bytes of a body came in.
    pub fn moved(&self, bytes: u64) {
        self.moved_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.progress.event(Event::Moved { bytes });
    }

    /// Asks for a file.
    pub fn want(&self, entry: FileEntry, room: Option<Room>) {
        // Noted first: once the sender is asked, its parts may come on any connection.
        let id = entry.id;
        self.files().by_id.insert(id, Arrival { room, ..Arrival::new(entry, At::Asked) });
        self.speak().session.want_all(id);
    }

    /// What tells the state of a file that can be taken up again if it is cut.
    pub fn origin(entry: &FileEntry) -> Option<Origin> {
        let (size_bytes, mtime) = (entry.layout.size_bytes(), entry.metadata.mtime);
        let state = entry.state.filter(|_| entry.layout.count() > 1)?;
        Some(Origin { size_bytes, mtime, state })
    }

    /// Goes on with what an earlier session left of a file. What nobody vouches for has to be read first.
    pub fn take_up(&self, entry: FileEntry, kept: Kept, room: Option<Room>) -> Option<Recheck> {
        let (id, layout) = (entry.id, entry.layout);
        let may_land = self.files().landings < MAX_LANDINGS / 2;
        let Some(written) = kept.landing.written().filter(|_| may_land) else {
            // What is kept is not gone on with: all of the file will be written.
            if let Some(room) = &room {
                room.lands(None);
            }
            self.want(entry, room);
            return None;
        };
        let (path, size_bytes) = (entry.path.as_bytes(), layout.size_bytes());
        self.progress.event(Event::FileStarted { path, size_bytes });
        self.lister.begin(id, size_bytes, 0, || Whole::landed(Some(written.clone())));
        // Somebody may have cut it, and zeros at its end are nothing that anybody writes.
        let sized = if entry.is_sparse { kept.landing.make_sparse(size_bytes) } else { Ok(()) };
        let mut files = self.files();
        files.by_id.insert(id, Arrival { room, ..Arrival::new(entry, At::Landing(kept.landing)) });
        files.landings += 1;
        drop(files);
        if let Err(error) = sized {
            self.fail_arrival(id, &error);
            return None;
        }
        if kept.is_trusted {
            let recorded = kept.digests.count();
            self.go_on(id, layout, kept.digests, recorded);
            return None;
        }
        Some(Recheck { id, layout, written, digests: kept.digests })
    }

    /// These parts of a file are in its landing, of so many that are recorded: asks for the rest.
    pub fn go_on(&self, id: EntryId, layout: PartLayout, mut there: PartDigests, recorded: u64) {
        take_rest(&mut there, layout);
        // Where recorded parts come again, a journal that still has them would be believed by the next session.
        if there.count() < recorded {
            let journal = match self.files().by_id.get(&id) {
                Some(Arrival { at: At::Landing(landing), .. }) => landing.journal(),
                _ => None,
            };
            journal.inspect(|journal| journal.keep_only(&there));
        }
        if there.count() == 0 {
            return self.speak().session.want_all(id);
        }
        let runs = there.there();
        let mut speaker = self.speak();
        let bytes = speaker.session.want_rest(id, there);
        if let Some(arrival) = self.files().by_id.get_mut(&id) {
            arrival.resumed_bytes = bytes;
        }
        drop(speaker);
        for run in runs {
            self.lister.ready(id, layout.run(*run.start(), run.end() - run.start() + 1));
        }
        if let Some(Arrival { entry, .. }) = self.files().by_id.get(&id) {
            let (path, size_bytes) = (entry.path.as_bytes(), layout.size_bytes());
            self.progress.event(Event::Resumed { path, bytes, size_bytes });
        }
    }

    /// Records in the journals what came in since the last time, after it was synced; with `close`, for the last time.
    /// Whoever reads a journal believes it, so a file whose bytes cannot be synced is given up.
    pub fn checkpoint(&self, close: bool) {
        let mut work = Vec::new();
        for (id, arrival) in &mut self.files().by_id {
            if let At::Landing(landing) = &arrival.at
                && let (Some(journal), Some(written)) = (landing.journal(), landing.written())
                && (!arrival.unrecorded.is_empty() || close && journal.has_records())
            {
                work.push((*id, journal, written, std::mem::take(&mut arrival.unrecorded)));
            }
        }
        for (id, journal, written, records) in work {
            if let Err(error) = journal.record(&written, &records, close) {
                self.fail_arrival(id, &error);
            }
        }
    }

    /// Notes parts of a file as in, if its landing has a journal.
    fn unrecorded(&self, id: EntryId, record: Record) {
        if let Some(Arrival { at: At::Landing(landing), unrecorded, .. }) = self.files().by_id.get_mut(&id)
            && landing.journal().is_some()
        {
            unrecorded.push(record);
        }
    }

    /// Asks for the digests of a file first: one of that name and size is there.
    pub fn compare(&self, entry: FileEntry, existing: ExistingFile, gives_way: bool) {
        let id = entry.id;
        let at = At::Existing(Arc::new(existing), gives_way);
        self.files().by_id.insert(id, Arrival::new(entry, at));
        self.speak().session.want_offers(id);
    }

    /// The file that is there already and is being compared.
    pub fn existing(&self, id: EntryId) -> Option<Arc<ExistingFile>> {
        match &self.files().by_id.get(&id)?.at {
            At::Existing(file, _) => Some(Arc::clone(file)),
            At::Asked | At::Opening | At::Landing(_) => None,
        }
    }

    /// A part that was offered is the same here.
    pub fn same(&self, header: &PartHeader) {
        let mut speaker = self.speak();
        let progressed = speaker.session.part_verified(header);
        self.same_so_far(&mut speaker, header.id, progressed);
    }

    /// Parts of zeros are the same here.
    pub fn holes_same(&self, hole: &HoleHeader) {
        let mut speaker = self.speak();
        let progressed = speaker.session.holes_verified(hole);
        self.same_so_far(&mut speaker, hole.id, progressed);
    }

    fn same_so_far(&self, speaker: &mut Speaker, id: EntryId, progressed: Progressed) {
        let Progressed::Complete(digests) = progressed else { return };
        if let Some(Arrival { entry, at: At::Existing(file, _), .. }) = self.remove(id) {
            let size_bytes = entry.layout.size_bytes();
            let md5 = digests.whole(entry.layout);
            if md5.is_none() {
                self.lister.begin(id, size_bytes, size_bytes, || Whole::there(&file));
            }
            let item = Item::AlreadyThere { file, origin: Arrivals::origin(&entry) };
            let complete =
                Complete { id, path: entry.path, size_bytes, resumed_bytes: 0, md5, last: None, item };
            self.hand_over(speaker, vec![complete]);
        }
    }

    /// The file that is there is not the same.
    pub fn differs(&self, store: &mut Store, id: EntryId) {
        let different = StoreError::Exists { what: "a different file" };
        let gives_way = match self.files().by_id.get_mut(&id) {
            Some(Arrival { at: at @ At::Existing(_, true), entry, .. }) => {
                *at = At::Asked;
                Ok(entry.clone())
            }
            Some(Arrival { at: At::Existing(_, false), .. }) => Err(different),
            // Found out before.
            _ => return,
        };
        // What is there keeps its room until the other file has its name.
        match gives_way.and_then(|entry| room(store, &entry, None)) {
            Ok(room) => {
                if let Some(arrival) = self.files().by_id.get_mut(&id) {
                    arrival.room = room;
                }
                self.speak().session.want_all(id);
            }
            Err(error) => self.fail_arrival(id, &error),
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
    pub fn has_landings_enough(&self, id: EntryId) -> bool {
        let files = self.files();
        let is_asked = |arrival: &Arrival| matches!(arrival.at, At::Asked);
        files.landings > MAX_JOINED && files.by_id.get(&id).is_some_and(is_asked)
    }

    /// The landing of a file in arrival, which is made if this is its first part, and whether all that was not written
    /// to it is zeros.
    pub fn land(&self, store: &mut Store, id: EntryId) -> Result<(Written, bool), StoreError> {
        let mut files = self.files();
        let (entry, room) = loop {
            let open = files.landings;
            let Some(Arrival { entry, at, room, .. }) = files.by_id.get_mut(&id) else {
                return Err(busy("it is not wanted any more"));
            };
            match at {
                At::Landing(landing) => return written(landing),
                At::Existing(..) => return Err(busy("it was not asked for")),
                // Another connection of the session has its first part.
                At::Opening => files = self.opened.wait(files).unwrap_or_else(PoisonError::into_inner),
                At::Asked if open >= MAX_LANDINGS => {
                    return Err(busy("too many files are in arrival at once"));
                }
                At::Asked => {
                    *at = At::Opening;
                    let opening = (entry.clone(), room.take());
                    files.landings += 1;
                    break opening;
                }
            }
        };
        drop(files);
        let opening = OpeningGuard { arrivals: self, id };
        let made = make_landing(store, &entry);
        if let Ok(landing) = &made {
            let (path, size_bytes) = (entry.path.as_bytes(), entry.layout.size_bytes());
            self.progress.event(Event::FileStarted { path, size_bytes });
            room.iter().for_each(|room| room.lands(landing.written()));
        }
        drop(opening);
        self.landing_made(id, entry.layout.size_bytes(), room, made)
    }

    /// Puts a landing where the first part waits for it.
    fn landing_made(
        &self,
        id: EntryId,
        size_bytes: u64,
        promised: Option<Room>,
        made: Result<Landing, StoreError>,
    ) -> Result<(Written, bool), StoreError> {
        let mut files = self.files();
        let landed = match (made, files.by_id.get_mut(&id)) {
            (Ok(landing), Some(Arrival { at: at @ At::Opening, room, .. })) => {
                *room = promised;
                if size_bytes > PART_BYTES {
                    self.lister.begin(id, size_bytes, 0, || Whole::landed(landing.written()));
                }
                let landed = written(&landing);
                *at = At::Landing(landing);
                landed
            }
            (Err(error), Some(Arrival { at: at @ At::Opening, .. })) => {
                *at = At::Asked;
                files.landings -= 1;
                Err(error)
            }
            // It was withdrawn meanwhile.
            (made, _) => {
                drop(files);
                made.into_iter().for_each(Landing::discard);
                Err(busy("it is not wanted any more"))
            }
        };
        self.opened.notify_all();
        landed
    }

    /// Lands files whose verified bytes are all at hand, and hands them over together: thousands of small files shall
    /// not cost a hand-over each.
    pub fn land_whole<'b>(
        &self,
        store: &mut Store,
        bodies: impl Iterator<Item = (&'b PartHeader, &'b [u8])>,
    ) {
        let mut landed = Vec::new();
        for (header, body) in bodies {
            let Some(Arrival { entry, .. }) = self.remove(header.id) else { continue };
            let (path, size_bytes) = (entry.path.as_bytes(), entry.layout.size_bytes());
            self.progress.event(Event::FileStarted { path, size_bytes });
            match store.land_whole(&entry.path, body, entry.metadata) {
                Ok(landing) => landed.push((header, entry, landing)),
                Err(error) => self.fail(&entry, &error),
            }
        }
        let mut speaker = self.speak();
        let mut complete = Vec::with_capacity(landed.len());
        for (header, entry, landing) in landed {
            // Anything else, and it was withdrawn meanwhile.
            if let Progressed::Complete(digests) = speaker.session.part_verified(header) {
                complete.push(complete_file(entry, 0, landing, digests));
            }
        }
        self.hand_over(&mut speaker, complete);
    }

    /// Parts of zeros are in place.
    pub fn holes_verified(&self, hole: &HoleHeader) {
        let mut speaker = self.speak();
        let progressed = speaker.session.holes_verified(hole);
        if matches!(progressed, Progressed::Unchanged) {
            return;
        }
        speaker.summary.hole_bytes = speaker.summary.hole_bytes.saturating_add(hole.range.len);
        let record = Record::Holes(hole.part, hole.parts);
        self.verified(speaker, hole.id, hole.range, record, progressed);
        self.progress.event(Event::Moved { bytes: hole.range.len });
    }

    /// A part comes that arrived damaged before. Not told of earlier: a sender whose file changes under it damages a part
    /// itself and then gives up on the file.
    pub fn repairs(&self, header: &PartHeader) {
        self.speak().summary.repaired_parts += 1;
        if let Some(Arrival { entry, .. }) = self.files().by_id.get(&header.id) {
            self.progress.event(Event::Repairing { path: entry.path.as_bytes(), part: header.part });
        }
    }

    /// The bytes of a part have this digest: good, or to be fetched again.
    pub fn judge(&self, header: &PartHeader, actual: Md5) {
        let mut speaker = self.speak();
        if actual == header.md5 {
            let progressed = speaker.session.part_verified(header);
            let record = Record::Part(header.part, actual);
            return self.verified(speaker, header.id, header.range, record, progressed);
        }
        match speaker.session.part_damaged(header) {
            Repair::Again => {
                drop(speaker);
                self.progress.event(Event::Returned { bytes: header.range.len });
            }
            Repair::GaveUp { remaining_bytes } => {
                drop(speaker);
                self.lister.dropped(header.id);
                if let Some(entry) = self.remove(header.id).map(Arrival::discard) {
                    let mut speaker = self.speak();
                    speaker.summary.count_failure(Fault::Digest);
                    self.hand_over_others(&mut speaker);
                    drop(speaker);
                    self.progress.event(Event::FileDropped { remaining_bytes });
                    let reason = "it arrived damaged again and again";
                    let name = entry.path.as_bytes();
                    self.progress.event(Event::Failed { name, fault: Fault::Digest, reason });
                }
            }
        }
    }

    /// Part of a file is in place and verified; `record` tells so in its journal, if more is to come.
    fn verified(
        &self,
        mut speaker: MutexGuard<'_, Speaker>,
        id: EntryId,
        range: PartRange,
        record: Record,
        progressed: Progressed,
    ) {
        match progressed {
            // A journal that tells of it would be believed by the next session.
            Progressed::Unchanged => {}
            Progressed::Partly => {
                self.unrecorded(id, record);
                drop(speaker);
                self.lister.ready(id, range);
            }
            Progressed::Complete(digests) => self.complete(&mut speaker, id, digests, range),
        }
    }

    /// All parts are in, the last of them with this range. The committer sets mode and time, which may wait for the disk.
    fn complete(&self, speaker: &mut Speaker, id: EntryId, digests: PartDigests, last: PartRange) {
        let Some(Arrival { entry, at: At::Landing(landing), resumed_bytes, .. }) = self.remove(id) else {
            return;
        };
        let complete = complete_file(entry, resumed_bytes, landing, digests);
        self.hand_over(speaker, vec![Complete { last: Some(last), ..complete }]);
    }

    /// Has the committer make entries durable, and after them the folders and links that waited for them. The session
    /// is locked meanwhile, so that the queue has the order of the session: a folder comes after everything in it. The
    /// queue has no bound of its own; it cannot hold more than the entries in flight. The last hand-over ends the
    /// reading.
    pub fn hand_over(&self, speaker: &mut Speaker, mut complete: Vec<Complete>) {
        while let Some(OtherEntry { id, path, kind, metadata }) = speaker.session.next_ready() {
            let item = match kind {
                OtherKind::Dir => Item::Dir { path: path.clone(), metadata },
                OtherKind::Link(target) => Item::Link { path: path.clone(), target, metadata },
            };
            complete.push(Complete {
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
        if speaker.session.is_all_received() {
            self.end(Ok(()));
        }
    }

    /// Hands over the folders and links that wait for nothing any more.
    pub fn hand_over_others(&self, speaker: &mut Speaker) {
        self.hand_over(speaker, Vec::new());
    }

    /// Is a file that was announced complete, failed or withdrawn by now?
    pub fn is_settled(&self, id: EntryId) -> bool {
        !self.speak().session.is_open(id)
    }

    /// Lets a file go that was settled while another thread decided on it.
    pub fn forget_if_settled(&self, id: EntryId) {
        if self.is_settled(id) {
            self.forget(id);
        }
    }

    /// Lets a file go, and its landing with it.
    pub fn forget(&self, id: EntryId) {
        self.lister.dropped(id);
        self.remove(id).map(Arrival::discard);
    }

    fn remove(&self, id: EntryId) -> Option<Arrival> {
        let mut files = self.files();
        let arrival = files.by_id.remove(&id)?;
        files.landings -= usize::from(matches!(arrival.at, At::Landing(_) | At::Opening));
        Some(arrival)
    }

    /// A file in arrival cannot be taken any further.
    pub fn fail_arrival(&self, id: EntryId, error: &StoreError) {
        // Whoever makes room sends it again.
        let leave = if error.fault() == Fault::NoSpace { Arrival::keep } else { Arrival::discard };
        if let Some(entry) = self.remove(id).map(leave) {
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

/// A thread that panics while it makes a landing must not leave others waiting for it.
struct OpeningGuard<'a, 'b> {
    arrivals: &'a Arrivals<'b>,
    id: EntryId,
}

impl Drop for OpeningGuard<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.arrivals.landing_made(self.id, 0, None, Err(busy("it could not be made")));
        }
    }
}

/// The room that a file will take, or the rest of one of which something was kept. How much a sparse file takes is known
/// when it is here.
pub fn room(store: &mut Store, entry: &FileEntry, kept: Option<&Kept>) -> Result<Option<Room>, StoreError> {
    match entry.is_sparse {
        true => check_size_limit(entry.layout.size_bytes()).map(|()| None),
        false => store.room(&entry.path, entry.layout.size_bytes(), kept.map(|kept| &kept.landing)),
    }
}

fn complete_file(entry: FileEntry, resumed_bytes: u64, landing: Landing, digests: PartDigests) -> Complete {
    let FileEntry { id, path, layout, metadata, .. } = entry;
    let md5 = digests.whole(layout);
    let content = Content { size_bytes: layout.size_bytes(), digests: Digests::Parts(digests) };
    Complete {
        id,
        path,
        size_bytes: layout.size_bytes(),
        resumed_bytes,
        md5,
        last: None,
        item: Item::File { landing, content, metadata },
    }
}

/// Makes the landing of a file, in which its parts are collected.
fn make_landing(store: &mut Store, entry: &FileEntry) -> Result<Landing, StoreError> {
    let landing = match Arrivals::origin(entry) {
        Some(origin) => store.land_parts(&entry.path, origin)?,
        None => store.land(&entry.path, entry.layout.size_bytes())?,
    };
    if entry.is_sparse {
        landing.make_sparse(entry.layout.size_bytes())?;
    }
    Ok(landing)
}

/// The bytes of a landing, and whether all that was not written to it is zeros.
fn written(landing: &Landing) -> Result<(Written, bool), StoreError> {
    let written = landing.written().ok_or(StoreError::Exists { what: "a complete file" })?;
    Ok((written, landing.is_fresh()))
}

fn busy(why: &'static str) -> StoreError {
    StoreError::Io { doing: "take the file", source: io::Error::other(why) }
}
