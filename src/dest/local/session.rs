//! What one session reads and writes below the root.

use super::dir_tree::DirTree;
use super::existing::{self, Existing, ExistingFile};
use super::resume::{self, Resumable};
use super::space::{SpaceLedger, SpaceReservation};
use super::staged::{self, KEEP_HANDLE_BYTES, StagedFile};
use super::temp_names::TempNames;
use crate::dest::error::StoreError;
use crate::dest::{OnConflict, SourceVersion};
use crate::relpath::RelPath;
use crate::units::{Metadata, MtimeNs};

/// What one session reads and writes below the root.
#[derive(Clone, Debug)]
pub struct LocalSession {
    pub(super) tree: DirTree,
    pub(super) on_conflict: OnConflict,
    pub(super) umask: u32,
    pub(super) names: TempNames,
    pub(super) ledger: SpaceLedger,
}

impl LocalSession {
    /// The same session, for another thread.
    pub(crate) fn fork(&self) -> LocalSession {
        self.clone()
    }

    /// The policy of this receiver.
    pub(crate) fn on_conflict(&self) -> OnConflict {
        self.on_conflict
    }

    /// Finds what has the name of an announced file.
    pub(crate) fn occupant(&mut self, path: &RelPath) -> Result<Existing, StoreError> {
        existing::lookup_cached(&self.tree, path)
    }

    /// Finds the copy of an announced file that an earlier session may have stored because the name was taken.
    pub(crate) fn copy_of_taken(
        &mut self,
        path: &RelPath,
        size_bytes: u64,
        mtime: Option<MtimeNs>,
    ) -> Result<Option<ExistingFile>, StoreError> {
        existing::find_copy(&self.tree, path, size_bytes, mtime)
    }

    /// Reserves space for a file of `size_bytes`, less what an earlier session `left` of it.
    ///
    /// # Errors
    ///
    /// The file certainly does not fit, or its directory is certainly not writable. If that is uncertain, the error shows
    /// when the file is written.
    pub(crate) fn reserve(
        &mut self,
        path: &RelPath,
        size_bytes: u64,
        left: Option<&StagedFile>,
    ) -> Result<Option<SpaceReservation>, StoreError> {
        self.ledger.reserve(&self.tree, path, size_bytes, left)
    }

    /// Creates the staged file for a file of `size_bytes`.
    pub(crate) fn land(&mut self, path: &RelPath, size_bytes: u64) -> Result<StagedFile, StoreError> {
        let staged = staged::create(&self.tree, path, &self.names, self.umask, None)?;
        if size_bytes > KEEP_HANDLE_BYTES {
            staged.lock();
        }
        Ok(staged)
    }

    /// Creates the staged file for a file whose verified bytes are all in memory; only its name is missing.
    pub(crate) fn land_whole(
        &mut self,
        path: &RelPath,
        bytes: &[u8],
        metadata: Metadata,
    ) -> Result<StagedFile, StoreError> {
        let mut staged = staged::create(&self.tree, path, &self.names, self.umask, metadata.mode)?;
        staged.write_at(bytes, 0)?;
        staged.seal(metadata, bytes.len() as u64)?;
        Ok(staged)
    }

    /// Creates the staged file for a file of several parts, which is kept if the session is interrupted.
    pub fn land_parts(&mut self, path: &RelPath, version: SourceVersion) -> Result<StagedFile, StoreError> {
        resume::create(&self.tree, path, version, &self.names, self.umask)
    }

    /// Opens what an earlier session left of this version of a file.
    pub(crate) fn take_up(
        &mut self,
        path: &RelPath,
        version: SourceVersion,
    ) -> Result<Resumable, StoreError> {
        resume::resume(&self.tree, path, version, self.umask)
    }
}
