//! What is to be sent: the paths given, the walk through them, and reading the files. Nothing is written here.

mod file;
mod no_links;
mod roots;
mod state_key;
mod walk;

use std::io;
use std::path::PathBuf;

use crate::error_code::in_words;
use crate::escape::Escaped;

pub use file::{OpenSource, ReadError, Source};
pub use roots::{Root, roots};
pub use state_key::StateKey;
pub use walk::{WalkItem, walk_dirs_and_links, walk_files};

/// A path on the command line that cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Not there, or not readable.
    #[error("cannot read {}: {}", Escaped::new(path.as_os_str().as_encoded_bytes()), in_words(source))]
    Unreadable {
        /// As typed.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `/`, which has no name to land under.
    #[error("{} has no name of its own to land under", Escaped::new(path.as_os_str().as_encoded_bytes()))]
    Nameless {
        /// As typed.
        path: PathBuf,
    },
    /// Two paths end in the same name.
    #[error("{} and {} would land under the same name", Escaped::new(first.as_os_str().as_encoded_bytes()), Escaped::new(second.as_os_str().as_encoded_bytes()))]
    SameName {
        /// The one.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Its name cannot travel.
    #[error("cannot send {}: {source}", Escaped::new(path.as_os_str().as_encoded_bytes()))]
    Name {
        /// As typed.
        path: PathBuf,
        /// What is wrong with it.
        source: crate::relpath::NameError,
    },
}
