//! What becomes of a file that is announced: it is wanted, all or the rest of it; or compared with what is there; or it
//! waits until another session that still has it is done, which must not keep anything else of its session waiting.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::dest::local::{
    Existing, ExistingFile, LocalSession, OnConflict, PartialFile, Resumable, StoreError,
};
use crate::recv::RecvError;
use crate::recv::native::files::{InboundFiles, reserve_space};
use crate::recv::native::verifier::{VerifyJob, VerifyQueue};
use crate::wire::receiver::FileEntry;

/// How long a file waits for another session that still has it. That one may have lost its sender and have all to bring
/// to a slow disk that the system's memory has taken from a fast network.
const WAIT_TIME: Duration = Duration::from_secs(120);
/// How often it is looked at meanwhile, or less often where so many wait that a look takes long.
const WAIT_TICK: Duration = Duration::from_millis(50);
const LOOKUP_FRACTION: u32 = 20;

/// Takes files that have to wait.
pub type Deferred = Sender<FileEntry>;

/// Decides on the files of one thread.
pub struct Planner<'a> {
    store: LocalSession,
    files: &'a InboundFiles<'a>,
    verifier: VerifyQueue,
}

enum Plan {
    /// All of it has to come.
    Fetch,
    /// Goes on where an earlier session was cut.
    Resume(PartialFile),
    /// A file of that name and size is there, perhaps the same; if not, does it give way?
    Compare { existing: ExistingFile, gives_way: bool },
    /// Another session still has it.
    Defer,
}

impl Plan {
    fn of(left: Resumable, otherwise: Plan) -> Plan {
        match left {
            Resumable::Nothing => otherwise,
            Resumable::Partial(kept) => Plan::Resume(kept),
            Resumable::InUse => Plan::Defer,
        }
    }
}

impl<'a> Planner<'a> {
    pub fn new(store: LocalSession, inbound: &'a InboundFiles<'a>, verifier: VerifyQueue) -> Self {
        Planner { store, files: inbound, verifier }
    }

    /// What is there under the name decides what is wanted. Gives the entry back if it has to wait; it never has to unless
    /// it `may_wait`.
    pub fn plan(&mut self, entry: FileEntry, may_wait: bool) -> Result<Option<FileEntry>, RecvError> {
        let decided = match self.lookup(&entry) {
            // Between two looks another session may have given it its name.
            Ok(Plan::Fetch) if InboundFiles::origin(&entry).is_some() => self.lookup(&entry),
            decided => decided,
        };
        let decided = decided.and_then(|decided| {
            let reservation = match &decided {
                Plan::Defer if may_wait => None,
                Plan::Resume(kept) => reserve_space(&mut self.store, &entry, Some(kept))?,
                Plan::Fetch | Plan::Defer => reserve_space(&mut self.store, &entry, None)?,
                Plan::Compare { .. } => None,
            };
            Ok((decided, reservation))
        });
        match decided {
            Ok((Plan::Defer, _)) if may_wait => return Ok(Some(entry)),
            Ok((Plan::Compare { existing, gives_way }, _)) => {
                self.files.request_digests(entry, existing, gives_way);
            }
            Ok((Plan::Resume(kept), reservation)) => {
                if let Some(recheck) = self.files.resume(entry, kept, reservation) {
                    self.verifier.verify(VerifyJob::Recheck(recheck))?;
                }
            }
            Ok((Plan::Fetch | Plan::Defer, reservation)) => self.files.request_all(entry, reservation),
            // What is kept of it stays, for the time when it can land.
            Err(error) => self.files.fail(&entry, &error),
        }
        Ok(None)
    }

    fn lookup(&mut self, entry: &FileEntry) -> Result<Plan, StoreError> {
        let policy = self.store.on_conflict();
        let different = StoreError::Exists { what: "a different file" };
        let occupant = self.store.occupant(&entry.path)?;
        let size_bytes = entry.layout.size_bytes();
        if policy == OnConflict::Rename
            && let Some(existing) = self.copy_of(&occupant, entry)?
        {
            let compare = Plan::Compare { existing, gives_way: true };
            return Ok(Plan::of(self.find_resumable(entry)?, compare));
        }
        let taken = match occupant {
            Existing::Nothing => None,
            Existing::File(_) if policy == OnConflict::Error => Some(StoreError::Exists { what: "a file" }),
            Existing::File(existing) if existing.size_bytes() == size_bytes => {
                let gives_way = policy.allows_replacing(&different);
                // Where a part of this very file is here, it was found to be different before.
                let left = if gives_way { self.find_resumable(entry)? } else { Resumable::Nothing };
                return Ok(Plan::of(left, Plan::Compare { existing, gives_way }));
            }
            Existing::File(_) => Some(different),
            Existing::EquivalentName => Some(StoreError::EquivalentName),
            Existing::Other(what) => Some(StoreError::Exists { what }),
        };
        match taken {
            Some(taken) if !policy.allows_replacing(&taken) => Err(taken),
            _ => Ok(Plan::of(self.find_resumable(entry)?, Plan::Fetch)),
        }
    }

    /// What an earlier session put beside a name that was taken, where that is likelier to be the same file than what has
    /// the name.
    fn copy_of(
        &mut self,
        occupant: &Existing,
        entry: &FileEntry,
    ) -> Result<Option<ExistingFile>, StoreError> {
        let (size_bytes, mtime) = (entry.layout.size_bytes(), entry.metadata.mtime);
        let has_its_size = match occupant {
            Existing::Nothing => return Ok(None),
            Existing::File(file) if file.size_bytes() == size_bytes => {
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

    fn find_resumable(&mut self, entry: &FileEntry) -> Result<Resumable, StoreError> {
        match InboundFiles::origin(entry) {
            Some(origin) => self.store.take_up(&entry.path, origin),
            None => Ok(Resumable::Nothing),
        }
    }
}

/// Decides on files once nobody has them any more, or it took too long; until the queue is closed.
pub fn run_deferred(mut planner: Planner<'_>, queue: Receiver<FileEntry>) {
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
            if planner.files.is_settled(id) {
                continue;
            }
            match planner.plan(entry, start < give_up) {
                Ok(Some(entry)) => waiting.push((entry, give_up)),
                Ok(None) => planner.files.discard_if_settled(id),
                // The session is over.
                Err(_) => return,
            }
        }
        // A connection that is broken is noticed by its reader.
        let _ = planner.files.lock_session().flush();
        tick = WAIT_TICK.max(start.elapsed() * LOOKUP_FRACTION);
    }
}
