//! Decides what is requested of an announced file: all of it, the rest of a partial one, its digests for a comparison with an
//! existing file, or nothing as long as another session receives the same file.

use crate::dest::local::{
    Existing, ExistingFile, LocalSession, OnConflict, PartialFile, Resumable, StoreError,
};
use crate::recv::error::RecvError;
use crate::recv::native::files::{InboundFiles, reserve_space, source_version};
use crate::recv::native::work::{VerifyJob, VerifyQueue};
use crate::wire::receiver::FileEntry;

/// Plans the files of one thread.
pub struct Planner<'a> {
    store: LocalSession,
    pub files: &'a InboundFiles<'a>,
    verifier: VerifyQueue,
}

enum Plan {
    /// All of it is requested.
    Fetch,
    /// A partial file of an earlier session is resumed.
    Resume(PartialFile),
    /// The existing file of its name and size is compared with it.
    Compare { existing: ExistingFile, may_replace: bool },
    /// Another session still receives it.
    Defer,
}

impl Plan {
    fn of(resumable: Resumable, otherwise: Plan) -> Plan {
        match resumable {
            Resumable::Nothing => otherwise,
            Resumable::Partial(partial) => Plan::Resume(partial),
            Resumable::InUse => Plan::Defer,
        }
    }
}

impl<'a> Planner<'a> {
    pub fn new(store: LocalSession, files: &'a InboundFiles<'a>, verifier: VerifyQueue) -> Self {
        Planner { store, files, verifier }
    }

    /// Requests what is needed of a file. Returns the entry if it is to be planned again later, which happens only if it
    /// `may_wait`.
    pub fn plan(&mut self, entry: FileEntry, may_wait: bool) -> Result<Option<FileEntry>, RecvError> {
        let plan = match self.lookup(&entry) {
            // Between two look-ups another session may have stored it.
            Ok(Plan::Fetch) if source_version(&entry).is_some() => self.lookup(&entry),
            plan => plan,
        };
        let plan = plan.and_then(|plan| {
            let reservation = match &plan {
                Plan::Defer if may_wait => None,
                Plan::Resume(partial) => reserve_space(&mut self.store, &entry, Some(partial))?,
                Plan::Fetch | Plan::Defer => reserve_space(&mut self.store, &entry, None)?,
                Plan::Compare { .. } => None,
            };
            Ok((plan, reservation))
        });
        match plan {
            Ok((Plan::Defer, _)) if may_wait => return Ok(Some(entry)),
            Ok((Plan::Compare { existing, may_replace }, _)) => {
                self.files.request_digests(entry, existing, may_replace);
            }
            Ok((Plan::Resume(partial), reservation)) => {
                if let Some(check) = self.files.resume(entry, partial, reservation) {
                    self.verifier.push(VerifyJob::Resume(check))?;
                }
            }
            Ok((Plan::Fetch | Plan::Defer, reservation)) => self.files.request_all(entry, reservation),
            // A partial file of it stays, for a time when the file can be stored.
            Err(error) => self.files.fail(&entry, &error),
        }
        Ok(None)
    }

    fn lookup(&mut self, entry: &FileEntry) -> Result<Plan, StoreError> {
        let policy = self.store.on_conflict();
        let different = StoreError::Exists { what: "a different file" };
        let occupant = self.store.lookup(&entry.path)?;
        let size_bytes = entry.layout.size_bytes();
        if policy == OnConflict::Rename
            && let Some(existing) = self.copy_of(&occupant, entry)?
        {
            let compare = Plan::Compare { existing, may_replace: true };
            return Ok(Plan::of(self.find_resumable(entry)?, compare));
        }
        let taken = match occupant {
            Existing::Nothing => None,
            Existing::File(_) if policy == OnConflict::Error => Some(StoreError::Exists { what: "a file" }),
            Existing::File(existing) if existing.size_bytes() == size_bytes => {
                let may_replace = policy.allows_replacing(&different);
                // A partial file means that an earlier session found the existing one to differ.
                let resumable = if may_replace { self.find_resumable(entry)? } else { Resumable::Nothing };
                return Ok(Plan::of(resumable, Plan::Compare { existing, may_replace }));
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

    /// The copy that an earlier session stored under another name because the name was taken, if it is more likely to be
    /// the announced file than the file that has the name.
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
        let copy = self.store.find_copy(&entry.path, size_bytes, mtime)?;
        Ok(copy.filter(|copy| !has_its_size || copy.is_modified_at(mtime)))
    }

    fn find_resumable(&mut self, entry: &FileEntry) -> Result<Resumable, StoreError> {
        match source_version(entry) {
            Some(version) => self.store.resume(&entry.path, version),
            None => Ok(Resumable::Nothing),
        }
    }
}
