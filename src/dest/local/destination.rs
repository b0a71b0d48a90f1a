//! The root directory, shared by all sessions.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::dir::Dir;
use super::dir_tree::{DirTree, ImplicitDirs};
use super::session::LocalSession;
use super::space::SpaceLedger;
use super::sweep::{Expiry, sweep};
use super::temp_names::{LiveSessions, TempNames};
use crate::dest::{OnConflict, RootError, Unfinished};
use crate::sys::dir::DirHandle;
use crate::sys::{Errno, process};

/// The root directory, shared by all sessions.
#[derive(Clone, Debug)]
pub struct LocalDestination {
    path: PathBuf,
    on_conflict: OnConflict,
    /// The mode bits that new files and directories do not get.
    umask: u32,
    ledger: SpaceLedger,
    live: LiveSessions,
}

impl LocalDestination {
    /// Opens the directory, and creates it if it is missing. To be called before threads start: it reads the umask.
    pub fn open(path: &Path, on_conflict: OnConflict) -> Result<Self, RootError> {
        let open = || {
            create_durable(path)?;
            let path = path.canonicalize()?;
            process::check_writable(&path)?;
            Ok(path)
        };
        let path = open().map_err(|source| RootError::new(path, source))?;
        Ok(LocalDestination {
            path,
            on_conflict,
            umask: process::umask(),
            ledger: SpaceLedger::default(),
            live: LiveSessions::default(),
        })
    }

    /// Its absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what interrupted sessions left and nothing has changed for `max_age`, and reports what it removed and what it
    /// kept; ends when `go_on` returns `false`. It removes only files with a name that a session makes.
    pub fn sweep(
        &self,
        max_age: Duration,
        go_on: impl Fn() -> bool,
        report: impl FnMut(Unfinished),
    ) -> Result<(), RootError> {
        let session = self.session(ImplicitDirs::Private)?;
        let expiry = Expiry { now: SystemTime::now(), max_age };
        sweep(&session.tree, &session.names, &self.path, expiry, go_on, report);
        Ok(())
    }

    /// Begins a session. Each has handles of its own, because the kernel reports a failed write-back once for each handle: a
    /// session must not receive the error of another one.
    pub fn session(&self, implicit_dirs: ImplicitDirs) -> Result<LocalSession, RootError> {
        let failed = |errno: Errno| RootError::new(&self.path, errno.into());
        let root = DirHandle::open(&self.path).and_then(Dir::new).map_err(failed)?;
        Ok(LocalSession {
            tree: DirTree::new(root, implicit_dirs),
            on_conflict: self.on_conflict,
            umask: self.umask,
            names: TempNames::new(&self.live).map_err(failed)?,
            ledger: self.ledger.for_session(),
        })
    }
}

/// Creates a directory and those above it, and syncs the name of each.
fn create_durable(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_durable(parent)?;
    match std::fs::create_dir(path) {
        Err(error) if !path.is_dir() => return Err(error),
        _ => {}
    }
    std::fs::File::open(parent)?.sync_all()
}
