//! Where received entries are stored.

mod content;
mod error;
pub mod local;
mod partial;
mod policy;

pub use content::{Content, Digests};
pub use error::{RootError, StoreError};
pub use partial::{SourceVersion, Unfinished};
pub use policy::{OnConflict, Placed};
