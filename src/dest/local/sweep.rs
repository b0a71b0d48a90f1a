//! Removes what interrupted sessions left, once it is old.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::dir::Dir;
use super::dir_tree::DirTree;
use super::journal::JournalContents;
use super::journal_file::Journal;
use super::own_files::{Locked, is_safe_to_reuse, open_locked};
use super::resume::open_journal;
use super::temp_names::{JOURNAL_SUFFIX, OwnName, TempNames};
use crate::dest::Unfinished;
use crate::digest::PartLayout;
use crate::sys::Errno;
use crate::sys::stat::FileStat;

/// A file that cannot be resumed is removed after this time without a change: a crash left it.
const ORPHAN_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Which files are too old.
#[derive(Clone, Copy, Debug)]
pub struct Expiry {
    pub now: SystemTime,
    /// The age at which resumable files are removed.
    pub max_age: Duration,
}

/// Looks for staged files and journals below `root`, removes those that are too old, and reports each removal and each
/// resumable file that is kept; ends when `go_on` returns `false`. Files in use are ignored, and so are those of another
/// receiver whose root is below this one. Other file systems that are mounted below the root are not visited.
pub fn sweep(
    tree: &DirTree,
    names: &TempNames,
    root: &Path,
    expiry: Expiry,
    go_on: impl Fn() -> bool,
    mut report: impl FnMut(Unfinished),
) {
    for entry in walkdir::WalkDir::new(root).same_file_system(true).into_iter().filter_map(Result::ok) {
        if !go_on() {
            return;
        }
        let name = entry.file_name().to_str();
        let Some((name, kind)) = name.and_then(|name| Some((name, OwnName::parse(name)?))) else { continue };
        let parent = entry.path().parent().and_then(|parent| parent.strip_prefix(root).ok());
        let Some(parent) = parent.filter(|_| entry.file_type().is_file()) else { continue };
        // By handle from here on: the path may lead elsewhere by now.
        let parent = parent.as_os_str().as_encoded_bytes();
        let Ok(dir) = tree.open(parent) else { continue };
        let sweep = Sweep { names, root_inode: tree.root_inode(), dir, parent, expiry };
        if let Some(unfinished) = sweep.visit(name, kind) {
            report(unfinished);
        }
    }
}

/// The sweep of one directory.
struct Sweep<'a> {
    names: &'a TempNames,
    root_inode: u64,
    dir: Arc<Dir>,
    /// The path of the directory.
    parent: &'a [u8],
    expiry: Expiry,
}

impl Sweep<'_> {
    fn visit(&self, name: &str, kind: OwnName<'_>) -> Option<Unfinished> {
        match kind {
            OwnName::Journal(staged) => {
                let stat = self.dir.handle.stat_entry(name).ok().filter(is_safe_to_reuse)?;
                let is_orphan = matches!(self.dir.handle.stat_entry(staged), Err(Errno::NOENT));
                is_orphan.then(|| self.remove_orphan(name, &stat))?
            }
            OwnName::Private if self.names.is_live(name) => None,
            OwnName::Private => match open_locked(&self.dir, name) {
                Ok(Locked::Own(_locked, stat)) => self.remove_orphan(name, &stat),
                _ => None,
            },
            OwnName::Resumable => match open_locked(&self.dir, name) {
                Ok(Locked::Own(_locked, stat)) => self.visit_resumable(name, &stat),
                _ => None,
            },
        }
    }

    /// A resumable file that is locked.
    fn visit_resumable(&self, name: &str, stat: &FileStat) -> Option<Unfinished> {
        let journal_name = format!("{name}{JOURNAL_SUFFIX}");
        let (journal, contents) = open_journal(&self.dir, &journal_name).ok()?.unzip();
        let contents = contents.filter(|contents| contents.header.inode == stat.id.inode);
        let root = contents.as_ref().and_then(|contents| contents.header.root);
        if root.is_some_and(|root| root != self.root_inode) {
            return None;
        }
        let is_expired = self.age(stat)? >= self.expiry.max_age;
        let Some(contents) = contents.filter(|contents| contents.digests.count() > 0) else {
            let removed = if is_expired { self.remove_orphan(name, stat) } else { None };
            if removed.is_some() {
                journal.iter().for_each(Journal::remove);
            }
            return removed;
        };
        let is_removed = is_expired && self.remove(name);
        if is_removed {
            journal.iter().for_each(Journal::remove);
        }
        self.unfinished(&contents, stat, is_removed)
    }

    fn unfinished(
        &self,
        contents: &JournalContents,
        stat: &FileStat,
        is_removed: bool,
    ) -> Option<Unfinished> {
        let layout = PartLayout::new(contents.header.size);
        let missing = contents.digests.missing(layout.count());
        let missing_bytes: u64 = missing.iter().map(|run| layout.bytes(run)).sum();
        let age = self.age(stat)?;
        Some(Unfinished {
            path: self.path(&hex::decode(&contents.header.name_hex).ok()?),
            size_bytes: Some(layout.size_bytes()),
            there_bytes: layout.size_bytes() - missing_bytes,
            age,
            kept_for: self.expiry.max_age.saturating_sub(age),
            is_removed,
        })
    }

    /// Removes a file that no session can resume, if it is old enough.
    fn remove_orphan(&self, name: &str, stat: &FileStat) -> Option<Unfinished> {
        let age = self.age(stat)?;
        (age >= ORPHAN_TTL && self.remove(name)).then(|| Unfinished {
            path: self.path(name.as_bytes()),
            size_bytes: None,
            there_bytes: stat.stamp.size_bytes,
            age,
            kept_for: Duration::ZERO,
            is_removed: true,
        })
    }

    /// `false` if it cannot be removed; the next sweep tries again.
    fn remove(&self, name: &str) -> bool {
        self.dir.handle.remove_file(name).is_ok()
    }

    fn age(&self, stat: &FileStat) -> Option<Duration> {
        let changed = Duration::new(stat.stamp.ctime.0.try_into().ok()?, 0);
        self.expiry.now.duration_since(UNIX_EPOCH + changed).ok()
    }

    fn path(&self, name: &[u8]) -> Vec<u8> {
        if self.parent.is_empty() { name.to_vec() } else { [self.parent, b"/", name].concat() }
    }
}
