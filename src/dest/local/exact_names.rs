//! Which names exist in exactly this spelling, in directories that ignore case or normalisation.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use super::dir::Dir;
use crate::sys::Errno;

/// Above this number all names are forgotten, and their directories listed again when needed.
const MAX_EXACT_NAMES: usize = 1 << 20;

/// Names that were listed in this spelling, each as a hash of its path.
#[derive(Debug, Default)]
pub struct ExactNames {
    hasher: RandomState,
    listed: HashSet<u64>,
}

impl ExactNames {
    fn hash(&self, path: &[u8], name: &[u8]) -> u64 {
        self.hasher.hash_one((path, name))
    }

    /// `name` exists in this spelling in the directory at `path`.
    pub fn insert(&mut self, path: &[u8], name: &[u8]) {
        self.listed.insert(self.hash(path, name));
    }

    /// Does `name` exist in this spelling in `dir`, the directory at `path`? Lists the directory if that is unknown.
    pub fn contains(&mut self, dir: &Dir, path: &[u8], name: &[u8]) -> Result<bool, Errno> {
        let wanted = self.hash(path, name);
        if self.listed.contains(&wanted) {
            return Ok(true);
        }
        if self.listed.len() > MAX_EXACT_NAMES {
            self.listed.clear();
        }
        dir.handle.for_each_name(|name| self.insert(path, name))?;
        Ok(self.listed.contains(&wanted))
    }
}
