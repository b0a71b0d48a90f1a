//! Where things land. Everything is reached from one directory handle and nothing leaves it.
//!
//! A file is collected in a [`Landing`] beside its destination and gets its final name in [`Store::commit`]:
//!
//! | step | a crash after it leaves |
//! | --- | --- |
//! | 1. exclusive create of `.ftx-<random>`, mode 0600 (that of the file, if it is verified already) | a landing |
//! | 2. write and verify every part | a landing |
//! | 3. mode and time through the handle | a landing |
//! | 4. sync the data | a landing |
//! | 5. rename, never replacing unasked | the final name, whole; perhaps not yet on the disk |
//! | 6. sync the folder | the final name, whole and durable |
//! | 7. only now: `stored` | the same |

mod commit;
mod dir_tree;
mod dirty_dirs;
mod existing;
mod journal;
mod resume;
mod scratch;
mod space;
mod staged;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode as FsMode, OFlags};
use rustix::io::Errno;

use crate::error_code::{ErrorCode, in_words};
use crate::escape::Escaped;
use crate::relpath::RelPath;
use crate::units::{Metadata, MtimeNs, bytes_text};

use dir_tree::{Dir, DirTree, EQUIVALENT_NAME};
use space::SpaceLedger;
use staged::{KEEP_HANDLE_BYTES, LiveSessions, TempNames};

pub use commit::{Content, Digests, Item, Placed};
pub use existing::{Existing, ExistingFile};
pub use journal::{Journal, JournalContents, Record, Records, SourceVersion, parse as parse_journal};
pub use resume::{PartialFile, Resumable, Unfinished};
pub use space::{SpaceReservation, check_size_limit};
pub use staged::{StagedFile, SyncedFile};

/// What to do when something is there already under the name of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// Skip an identical file, refuse a different one.
    SkipSame,
    /// Skip an identical file, replace a different one.
    Overwrite,
    /// Skip an identical file, put a different one beside it: `name (1).ext`.
    Rename,
    /// Refuse whatever is there, identical or not.
    Error,
}

impl OnConflict {
    /// May an entry come although its name is `taken`?
    pub fn allows_replacing(self, taken: &StoreError) -> bool {
        match self {
            OnConflict::Overwrite => {
                !matches!(taken, StoreError::Exists { what: "a folder" } | StoreError::SpelledOtherwise)
            }
            OnConflict::Rename => true,
            OnConflict::SkipSame | OnConflict::Error => false,
        }
    }
}

/// Why something could not land.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something else is there.
    #[error("{what} of that name is there already")]
    Exists {
        /// "a different file", "a folder", ...
        what: &'static str,
    },
    /// Something else is there, which this file system finds under the name although it has another.
    #[error("something is there whose name is spelled otherwise, but the same to this file system")]
    SpelledOtherwise,
    /// What is there was written to or replaced while it was compared.
    #[error("the file of that name that is there changed while it was compared")]
    Changed,
    /// A link, or something that is not a folder, or not the right one, lies on the way to the name.
    #[error("the way to it leads over {what}")]
    Blocked {
        /// "a symbolic link", "something that is not a folder", ...
        what: &'static str,
    },
    /// It certainly does not fit.
    #[error("no space left (needs {}, {} free)", bytes_text(*needs_bytes), bytes_text(*free_bytes))]
    NoRoom {
        /// What it needs.
        needs_bytes: u64,
        /// What there is, less what is promised to others.
        free_bytes: u64,
    },
    /// The system refused.
    #[error("cannot {doing}: {}", why(source))]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl StoreError {
    fn io(doing: &'static str) -> impl FnOnce(Errno) -> StoreError {
        move |errno| match errno {
            Errno::LOOP => StoreError::Blocked { what: "a symbolic link" },
            Errno::NOTDIR => StoreError::Blocked { what: "something that is not a folder" },
            EQUIVALENT_NAME => StoreError::Blocked {
                what: "a folder whose name is spelled otherwise, but the same to this file system",
            },
            errno => StoreError::Io { doing, source: errno.into() },
        }
    }

    /// The stable reason.
    pub fn fault(&self) -> ErrorCode {
        match self {
            StoreError::Exists { .. }
            | StoreError::SpelledOtherwise
            | StoreError::Changed
            | StoreError::Blocked { .. } => ErrorCode::Exists,
            StoreError::NoRoom { .. } => ErrorCode::NoSpace,
            StoreError::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                    ErrorCode::NoSpace
                }
                io::ErrorKind::ReadOnlyFilesystem => ErrorCode::ReadOnly,
                io::ErrorKind::PermissionDenied => ErrorCode::Permission,
                _ => ErrorCode::FileIo,
            },
        }
    }
}

/// What people understand, for the errors that they can do something about.
fn why(error: &io::Error) -> String {
    match (error.kind(), Errno::from_io_error(error)) {
        (io::ErrorKind::StorageFull, _) => "no space left".into(),
        (io::ErrorKind::QuotaExceeded, _) => "the disk quota is used up".into(),
        (io::ErrorKind::FileTooLarge, _) => {
            "it is larger than a file may be there (file system, or ulimit -f)".into()
        }
        (io::ErrorKind::ReadOnlyFilesystem, _) => "the file system is read-only".into(),
        (io::ErrorKind::PermissionDenied, _) => "no permission".into(),
        (_, Some(Errno::NOENT)) => "it, or the folder it belongs in, was removed meanwhile".into(),
        (_, Some(Errno::IO)) => "the disk failed (input/output error)".into(),
        _ => in_words(error),
    }
}

/// The root cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// It is something else.
    #[error("{} is {what}, not a folder", escaped(path))]
    NoFolder {
        /// As typed.
        path: PathBuf,
        /// "a file", ...
        what: &'static str,
    },
    /// Whoever runs this may not write there.
    #[error("you may not write in {}", escaped(path))]
    Permission {
        /// The folder, or the one above it that is there.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot use the folder {}: {}", escaped(path), why_root(source))]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl RootError {
    fn new(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::AlreadyExists => {
                RootError::NoFolder { what: if path.is_file() { "a file" } else { "something else" }, path }
            }
            io::ErrorKind::PermissionDenied => {
                let there = path.ancestors().find(|above| above.is_dir()).map(Path::to_owned);
                RootError::Permission { path: there.unwrap_or(path) }
            }
            _ => RootError::Io { path, source },
        }
    }

    /// What is wrong with it, without its name, which is no business of a peer's.
    pub fn why(&self) -> String {
        match self {
            RootError::NoFolder { what, .. } => format!("it is {what}"),
            RootError::Permission { .. } => "no permission".into(),
            RootError::Io { source, .. } => why_root(source),
        }
    }

    /// The stable reason.
    pub fn fault(&self) -> ErrorCode {
        match self {
            RootError::Permission { .. } => ErrorCode::Permission,
            RootError::NoFolder { .. } | RootError::Io { .. } => ErrorCode::FileIo,
        }
    }
}

fn why_root(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it was removed".into(),
        _ => why(error),
    }
}

fn escaped(path: &Path) -> String {
    Escaped::new(path.as_os_str().as_encoded_bytes()).to_string()
}

/// The folder everything lands in, shared by all sessions.
#[derive(Clone, Debug)]
pub struct LocalDestination {
    path: PathBuf,
    on_conflict: OnConflict,
    /// The bits that new files and folders do not get.
    umask: u32,
    ledger: SpaceLedger,
    live: LiveSessions,
}

impl LocalDestination {
    /// Opens the folder, making it where it is missing. Call it before threads start: it reads the process's umask.
    pub fn open(path: &Path, on_conflict: OnConflict) -> Result<Self, RootError> {
        let open = || {
            make_durable(path)?;
            let path = path.canonicalize()?;
            rustix::fs::accessat(
                rustix::fs::CWD,
                &path,
                rustix::fs::Access::WRITE_OK,
                rustix::fs::AtFlags::EACCESS,
            )?;
            Ok(path)
        };
        let path = open().map_err(|source| RootError::new(path, source))?;
        // The umask can only be read by setting it.
        let umask = rustix::process::umask(FsMode::empty());
        rustix::process::umask(umask);
        Ok(LocalDestination {
            path,
            on_conflict,
            umask: umask.bits(),
            ledger: SpaceLedger::default(),
            live: LiveSessions::default(),
        })
    }

    /// The folder's absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks through the folder for what cut sessions left behind, removes what nobody has touched for `max_age`, and
    /// tells of it; until `goes_on` says no. What it removes has a name of the very form that a store makes.
    pub fn sweep(
        &self,
        max_age: Duration,
        goes_on: impl Fn() -> bool,
        tell: impl FnMut(Unfinished),
    ) -> Result<(), RootError> {
        let store = self.session(ImplicitDirs::Private)?;
        resume::sweep(&store, &self.path, SystemTime::now(), max_age, goes_on, tell);
        Ok(())
    }

    /// A store for one session. Each has handles of its own, because the kernel reports a failed write-back once for
    /// each handle: with a shared one, a session could take the error that another one needed to hear.
    pub fn session(&self, new_dirs: ImplicitDirs) -> Result<LocalSession, RootError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let failed = |errno: Errno| RootError::new(&self.path, errno.into());
        let root = rustix::fs::open(&self.path, flags, FsMode::empty()).and_then(Dir::new).map_err(failed)?;
        Ok(LocalSession {
            tree: DirTree::new(root, new_dirs),
            on_conflict: self.on_conflict,
            umask: self.umask,
            hidden: TempNames::new(&self.live).map_err(failed)?,
            ledger: self.ledger.for_session(),
        })
    }
}

/// Makes a folder and those above it, each synced into its parent.
fn make_durable(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_durable(parent)?;
    match std::fs::create_dir(path) {
        Err(error) if !path.is_dir() => return Err(error),
        _ => {}
    }
    std::fs::File::open(parent)?.sync_all()
}

/// The mode of folders that are made on the way to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImplicitDirs {
    /// 0700, with a mark; the sender announces each folder, with its mode, once everything is in it.
    Private,
    /// 0777 less the umask; nobody will announce them.
    Umask,
}

/// What one session reads and writes below the root.
#[derive(Debug)]
pub struct LocalSession {
    tree: DirTree,
    on_conflict: OnConflict,
    umask: u32,
    hidden: TempNames,
    ledger: SpaceLedger,
}

impl LocalSession {
    /// Looks at what is under the name of a file that wants to come.
    pub fn occupant(&mut self, path: &RelPath) -> Result<Existing, StoreError> {
        existing::lookup_cached(&self.tree, path)
    }

    /// What an earlier session may have made of a file that wants to come, because its name was taken.
    pub fn copy_of_taken(
        &mut self,
        path: &RelPath,
        size_bytes: u64,
        mtime: Option<MtimeNs>,
    ) -> Result<Option<ExistingFile>, StoreError> {
        existing::lookup_copy(&self.tree, path, size_bytes, mtime)
    }

    /// The policy of this receiver.
    pub fn on_conflict(&self) -> OnConflict {
        self.on_conflict
    }

    /// Makes the private file in which `path` is collected, a file of `size_bytes`.
    pub fn land(&mut self, path: &RelPath, size_bytes: u64) -> Result<StagedFile, StoreError> {
        let staged = staged::create(&self.tree, path, &self.hidden, self.umask, None)?;
        if size_bytes > KEEP_HANDLE_BYTES {
            staged.lock();
        }
        Ok(staged)
    }

    /// Takes up what an earlier session left of a file of several parts, if it is of the very same state of the file.
    pub fn take_up(&mut self, path: &RelPath, origin: SourceVersion) -> Result<Resumable, StoreError> {
        resume::resume(&self.tree, path, origin, self.umask)
    }

    /// Makes the private file in which a file of several parts is collected, and kept if the session is cut.
    pub fn land_parts(&mut self, path: &RelPath, origin: SourceVersion) -> Result<StagedFile, StoreError> {
        resume::create(&self.tree, path, origin, &self.hidden, self.umask)
    }

    /// Makes the landing of a file whose verified bytes are all at hand, with everything but its name.
    pub fn land_whole(
        &mut self,
        path: &RelPath,
        bytes: &[u8],
        metadata: Metadata,
    ) -> Result<StagedFile, StoreError> {
        let mut staged = staged::create(&self.tree, path, &self.hidden, self.umask, metadata.mode)?;
        staged.write_at(bytes, 0)?;
        staged.seal(metadata, bytes.len() as u64)?;
        Ok(staged)
    }

    /// The same store for another thread of the session.
    pub fn fork(&self) -> LocalSession {
        LocalSession {
            tree: self.tree.clone(),
            on_conflict: self.on_conflict,
            umask: self.umask,
            hidden: self.hidden.clone(),
            ledger: self.ledger.clone(),
        }
    }
}
