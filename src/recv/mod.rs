//! The receiver: accepts connections, and stores what their sessions send below one folder.
//!
//! ```text
//! server ──▶ accept ──▶ connection ──▶ native or classic
//!                           │
//!                admission, registry
//! ```

mod accept;
mod admission;
mod body_reader;
mod classic;
mod connection;
mod connection_reader;
#[cfg(all(test, not(feature = "tiny-parts")))]
mod documented_limits;
mod error;
mod failure_log;
mod first_message;
mod handle;
mod native;
mod options;
mod received_file;
mod registry;
mod server;
mod tracked;

pub use error::{FailureKind, RecvError};
pub use options::{Observer, Options, StartError, StopReason};
pub use server::Server;
