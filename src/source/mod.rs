//! What is sent: the paths of the command line, the walk through them, and reading the files. Nothing is written here.

mod file;
mod roots;
mod state_key;
mod walk;

use std::io;
use std::path::PathBuf;

use crate::error_code::in_words;
use crate::escape::Escaped;

pub(crate) use file::{OpenSource, ReadError, Source};
pub(crate) use roots::{Root, roots};
pub(crate) use state_key::StateKey;
pub(crate) use walk::{WalkItem, walk_dirs_and_links, walk_files};

/// A path of the command line that cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It does not exist or is not readable.
    #[error("cannot read {}: {}", Escaped::new(path.as_os_str().as_encoded_bytes()), in_words(source))]
    Unreadable {
        /// As typed.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// `/`, which has no name to be stored under.
    #[error("{} has no file name", Escaped::new(path.as_os_str().as_encoded_bytes()))]
    Nameless {
        /// As typed.
        path: PathBuf,
    },
    /// Two paths have the same last component.
    #[error("{} and {} would get the same name", Escaped::new(first.as_os_str().as_encoded_bytes()), Escaped::new(second.as_os_str().as_encoded_bytes()))]
    SameName {
        /// The first one.
        first: PathBuf,
        /// The second one.
        second: PathBuf,
    },
    /// Its name cannot be transferred.
    #[error("cannot send {}: {source}", Escaped::new(path.as_os_str().as_encoded_bytes()))]
    Name {
        /// As typed.
        path: PathBuf,
        /// Why not.
        source: crate::relpath::NameError,
    },
}
