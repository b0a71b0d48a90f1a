//! What becomes of a file that is announced: it is wanted, all or the rest of it; or compared with what is there; or it
//! waits until another session that still has it is done, which must not keep anything else of its session waiting.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::RecvError;
use super::arrivals::{Arrivals, room};
use super::verifier::{ToVerifier, ToVerify};
use crate::store::{ExistingFile, Kept, LeftBehind, Occupant, OnConflict, Store, StoreError};
use crate::wire::receiver::FileEntry;

/// How long a file waits for another session that still has it. That one may have lost its sender and have all to bring
/// to a slow disk that the system's memory has taken from a fast network.
const WAIT_TIME: Duration = Duration::from_secs(120);
/// How often it is looked at meanwhile, or less often where so many wait that a look takes long.
const WAIT_TICK: Duration = Duration::from_millis(50);
const LOOKS_SHARE: u32 = 20;

/// Takes files that have to wait.
pub type Waiters = Sender<FileEntry>;

/// Decides on the files of one thread.
pub struct Decider<'a> {
    store: Store,
    arrivals: &'a Arrivals<'a>,
    verifier: ToVerifier,
}

enum Decision {
    /// All of it has to come.
    Want,
    /// Goes on where an earlier session was cut.
    GoOn(Kept),
    /// A file of that name and size is there, perhaps the same; if not, does it give way?
    Compare { existing: ExistingFile, gives_way: bool },
    /// Another session still has it.
    Wait,
}

impl Decision {
    fn of(left: LeftBehind, otherwise: Decision) -> Decision {
        match left {
            LeftBehind::Nothing => otherwise,
            LeftBehind::Kept(kept) => Decision::GoOn(kept),
            LeftBehind::InUse => Decision::Wait,
        }
    }
}

impl<'a> Decider<'a> {
    pub fn new(store: Store, arrivals: &'a Arrivals<'a>, verifier: ToVerifier) -> Self {
        Decider { store, arrivals, verifier }
    }

    /// What is there under the name decides what is wanted. Gives the entry back if it has to wait; it never has to unless
    /// it `may_wait`.
    pub fn decide(&mut self, entry: FileEntry, may_wait: bool) -> Result<Option<FileEntry>, RecvError> {
        let decided = match self.look(&entry) {
            // Between two looks another session may have given it its name.
            Ok(Decision::Want) if Arrivals::origin(&entry).is_some() => self.look(&entry),
            decided => decided,
        };
        let decided = decided.and_then(|decided| {
            let room = match &decided {
                Decision::Wait if may_wait => None,
                Decision::GoOn(kept) => room(&mut self.store, &entry, Some(kept))?,
                Decision::Want | Decision::Wait => room(&mut self.store, &entry, None)?,
                Decision::Compare { .. } => None,
            };
            Ok((decided, room))
        });
        match decided {
            Ok((Decision::Wait, _)) if may_wait => return Ok(Some(entry)),
            Ok((Decision::Compare { existing, gives_way }, _)) => {
                self.arrivals.compare(entry, existing, gives_way);
            }
            Ok((Decision::GoOn(kept), room)) => {
                if let Some(recheck) = self.arrivals.take_up(entry, kept, room) {
                    self.verifier.verify(ToVerify::Recheck(recheck))?;
                }
            }
            Ok((Decision::Want | Decision::Wait, room)) => self.arrivals.want(entry, room),
            // What is kept of it stays, for the time when it can land.
            Err(error) => self.arrivals.fail(&entry, &error),
        }
        Ok(None)
    }

    fn look(&mut self, entry: &FileEntry) -> Result<Decision, StoreError> {
        let policy = self.store.on_conflict();
        let different = StoreError::Exists { what: "a different file" };
        let occupant = self.store.occupant(&entry.path)?;
        let size_bytes = entry.layout.size_bytes();
        if policy == OnConflict::Rename
            && let Some(existing) = self.copy_of(&occupant, entry)?
        {
            let compare = Decision::Compare { existing, gives_way: true };
            return Ok(Decision::of(self.left_behind(entry)?, compare));
        }
        let taken = match occupant {
            Occupant::Nothing => None,
            Occupant::File(_) if policy == OnConflict::Error => Some(StoreError::Exists { what: "a file" }),
            Occupant::File(existing) if existing.size_bytes() == size_bytes => {
                let gives_way = policy.gives_way(&different);
                // Where a part of this very file is here, it was found to be different before.
                let left = if gives_way { self.left_behind(entry)? } else { LeftBehind::Nothing };
                return Ok(Decision::of(left, Decision::Compare { existing, gives_way }));
            }
            Occupant::File(_) => Some(different),
            Occupant::SpelledOtherwise => Some(StoreError::SpelledOtherwise),
            Occupant::Other(what) => Some(StoreError::Exists { what }),
        };
        match taken {
            Some(taken) if !policy.gives_way(&taken) => Err(taken),
            _ => Ok(Decision::of(self.left_behind(entry)?, Decision::Want)),
        }
    }

    /// What an earlier session put beside a name that was taken, where that is likelier to be the same file than what has
    /// the name.
    fn copy_of(
        &mut self,
        occupant: &Occupant,
        entry: &FileEntry,
    ) -> Result<Option<ExistingFile>, StoreError> {
        let (size_bytes, mtime) = (entry.layout.size_bytes(), entry.metadata.mtime);
        let has_its_size = match occupant {
            Occupant::Nothing => return Ok(None),
            Occupant::File(file) if file.size_bytes() == size_bytes => {
                if file.is_modified_at(mtime) {
                    return Ok(None);
                }
                true
            }
            _ => false,
        };
        let copy = self.store.copy_of_taken(&entry.path, size_bytes, mtime)?;
        Ok(copy.filter(|copy| !has_its_size || copy.is_modified_at(mtime)))
    }

    fn left_behind(&mut self, entry: &FileEntry) -> Result<LeftBehind, StoreError> {
        match Arrivals::origin(entry) {
            Some(origin) => self.store.take_up(&entry.path, origin),
            None => Ok(LeftBehind::Nothing),
        }
    }
}

/// Decides on files once nobody has them any more, or it took too long; until the queue is closed.
pub fn wait(mut decider: Decider<'_>, queue: Receiver<FileEntry>) {
    let mut waiting: Vec<(FileEntry, Instant)> = Vec::new();
    let mut tick = WAIT_TICK;
    loop {
        let next = match waiting.is_empty() {
            true => queue.recv().map_err(RecvTimeoutError::from),
            false => queue.recv_timeout(tick),
        };
        match next {
            Ok(entry) => {
                waiting.push((entry, Instant::now() + WAIT_TIME));
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let start = Instant::now();
        for (entry, give_up) in std::mem::take(&mut waiting) {
            let id = entry.id;
            if decider.arrivals.is_settled(id) {
                continue;
            }
            match decider.decide(entry, start < give_up) {
                Ok(Some(entry)) => waiting.push((entry, give_up)),
                Ok(None) => decider.arrivals.forget_if_settled(id),
                // The session is over.
                Err(_) => return,
            }
        }
        // A connection that is broken is noticed by its reader.
        let _ = decider.arrivals.speak().flush();
        tick = WAIT_TICK.max(start.elapsed() * LOOKS_SHARE);
    }
}
