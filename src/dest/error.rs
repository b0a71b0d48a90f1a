//! Why an entry could not be stored, or the destination not be opened.

use std::io;
use std::path::{Path, PathBuf};

use crate::error_code::{ErrorCode, in_words};
use crate::escape::Escaped;
use crate::sys::Errno;
use crate::units::bytes_text;

/// What a directory is called in messages.
pub(super) const FOLDER: &str = "a folder";

/// A lookup of a directory found one with another name, which the file system treats as equal. None of the system calls
/// that are made here fails with this number.
pub(super) const EQUIVALENT_NAME: Errno = Errno::NOTUNIQ;

/// Why an entry could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The name is taken.
    #[error("{what} with that name exists")]
    Exists {
        /// "a different file", "a folder", ...
        what: &'static str,
    },
    /// An entry has a name that this file system treats as equal.
    #[error("a file with an equivalent name exists (this file system ignores case or normalisation)")]
    EquivalentName,
    /// The existing file was written to or replaced while it was compared.
    #[error("the existing file changed while it was compared")]
    Changed,
    /// A parent of the name is not a directory with the name it should have.
    #[error("a parent directory is {what}")]
    Blocked {
        /// "a symbolic link", "not a folder", ...
        what: &'static str,
    },
    /// The file certainly does not fit.
    #[error("no space left (needs {}, {} free)", bytes_text(*needs_bytes), bytes_text(*free_bytes))]
    NoSpace {
        /// Bytes that it needs.
        needs_bytes: u64,
        /// Free bytes, less what is reserved for other files.
        free_bytes: u64,
    },
    /// A system call failed.
    #[error("cannot {doing}: {}", reason(source))]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Its error.
        source: io::Error,
    },
}

impl StoreError {
    /// Converts the error of a system call that works on a path.
    pub(super) fn io(doing: &'static str) -> impl FnOnce(Errno) -> StoreError {
        move |errno| match errno {
            Errno::LOOP => StoreError::Blocked { what: "a symbolic link" },
            Errno::NOTDIR => StoreError::Blocked { what: "not a folder" },
            EQUIVALENT_NAME => StoreError::Blocked {
                what: "spelled differently (this file system ignores case or normalisation)",
            },
            errno => StoreError::Io { doing, source: errno.into() },
        }
    }

    /// The stable code of the error.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            StoreError::Exists { .. }
            | StoreError::EquivalentName
            | StoreError::Changed
            | StoreError::Blocked { .. } => ErrorCode::Exists,
            StoreError::NoSpace { .. } => ErrorCode::NoSpace,
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

/// The text for an error of the file system, plainer than the system's for those that users can resolve.
fn reason(error: &io::Error) -> String {
    match (error.kind(), Errno::from_io_error(error)) {
        (io::ErrorKind::StorageFull, _) => "no space left".into(),
        (io::ErrorKind::QuotaExceeded, _) => "the disk quota is used up".into(),
        (io::ErrorKind::FileTooLarge, _) => {
            "the file size limit is exceeded (file system, or ulimit -f)".into()
        }
        (io::ErrorKind::ReadOnlyFilesystem, _) => "the file system is read-only".into(),
        (io::ErrorKind::PermissionDenied, _) => "no permission".into(),
        (_, Some(Errno::NOENT)) => "the file or its folder was removed".into(),
        (_, Some(Errno::IO)) => "the disk failed (input/output error)".into(),
        _ => in_words(error),
    }
}

/// Why the root directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// It is not a directory.
    #[error("{} is {what}, not a folder", escaped(path))]
    NoFolder {
        /// As typed.
        path: PathBuf,
        /// "a file", ...
        what: &'static str,
    },
    /// The user of this process may not write there.
    #[error("no permission to write in {}", escaped(path))]
    Permission {
        /// The directory, or the nearest existing one above it.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot use the folder {}: {}", escaped(path), root_reason(source))]
    Io {
        /// The directory.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

impl RootError {
    pub(super) fn new(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::AlreadyExists => {
                RootError::NoFolder { what: if path.is_file() { "a file" } else { "something else" }, path }
            }
            io::ErrorKind::PermissionDenied => {
                let existing = path.ancestors().find(|dir| dir.is_dir()).map(Path::to_owned);
                RootError::Permission { path: existing.unwrap_or(path) }
            }
            _ => RootError::Io { path, source },
        }
    }

    /// What is wrong, without the path, which peers must not see.
    pub(crate) fn why(&self) -> String {
        match self {
            RootError::NoFolder { what, .. } => format!("it is {what}"),
            RootError::Permission { .. } => "no permission".into(),
            RootError::Io { source, .. } => root_reason(source),
        }
    }

    /// The stable code of the error.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            RootError::Permission { .. } => ErrorCode::Permission,
            RootError::NoFolder { .. } | RootError::Io { .. } => ErrorCode::FileIo,
        }
    }
}

fn root_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it was removed".into(),
        _ => reason(error),
    }
}

fn escaped(path: &Path) -> String {
    Escaped::new(path.as_os_str().as_encoded_bytes()).to_string()
}
