//! Directories that stay open, so that the files of one directory do not resolve its path again and again.

use std::collections::HashMap;
use std::sync::Arc;

use super::dir::Dir;
use crate::sys::descriptors::max_descriptors;

/// A generation of handles. Two generations are kept: the directories used last, and as many used before. Smaller where
/// the process may have few descriptors.
const MAX_GENERATION: u64 = 64;
const MIN_GENERATION: u64 = 4;
/// A generation has at most one of this many descriptors of the process.
const DESCRIPTORS_PER_HANDLE: u64 = 16;

/// Open directories by path, and one path where no directory is.
#[derive(Debug)]
pub struct DirCache {
    max_generation: usize,
    recent: HashMap<Box<[u8]>, Arc<Dir>>,
    older: HashMap<Box<[u8]>, Arc<Dir>>,
    /// The path of the directory that was looked up last and did not exist.
    pub missing: Option<Box<[u8]>>,
}

impl Default for DirCache {
    fn default() -> Self {
        let max_generation =
            (max_descriptors() / DESCRIPTORS_PER_HANDLE).clamp(MIN_GENERATION, MAX_GENERATION);
        DirCache {
            max_generation: max_generation as usize,
            recent: HashMap::new(),
            older: HashMap::new(),
            missing: None,
        }
    }
}

impl DirCache {
    pub fn get(&mut self, path: &[u8]) -> Option<Arc<Dir>> {
        if let Some(dir) = self.recent.get(path) {
            return Some(Arc::clone(dir));
        }
        let (path, dir) = self.older.remove_entry(path)?;
        self.insert(path, Arc::clone(&dir));
        Some(dir)
    }

    pub fn insert(&mut self, path: Box<[u8]>, dir: Arc<Dir>) {
        if self.recent.len() >= self.max_generation {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(path, dir);
    }

    pub fn remove(&mut self, path: &[u8]) {
        self.recent.remove(path);
        self.older.remove(path);
    }
}
