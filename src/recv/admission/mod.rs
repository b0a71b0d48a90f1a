//! Admission control: limits the number of connections and of sessions, and evicts some where others need their place.
//!
//! ```text
//! accept ──▶ handshake ──first frame──▶ active ──▶ ended
//!               │                          │
//!               └──────── evicting ────────┴─────▶ ended, or closed after a second
//! ```
//!
//! A connection whose first frame is not complete costs a thread and a descriptor. When there are too many of them, one that
//! has waited long is closed in favour of a new one. A session that has delivered nothing, or nothing for some time, is evicted
//! when its slot is needed. Both are taken from the client that has most of them, so that connections of one client only
//! displace each other. A session without a slot is refused with [`ErrorCode::Busy`](crate::error_code::ErrorCode::Busy).
//!
//! Sessions also hold memory and descriptors for their entries in flight. Where those run short, the session with the largest
//! product of entries and idle time is evicted. A native sender reconnects and resumes.
//!
//! Where sessions are counted, one whose connection was lost is an entry with a deadline until its sender reconnects. It holds
//! no thread and no connection, and there are at most as many as there are slots.
//!
//! Senders of the classic dialect cannot be told of an error, and many have gone when their bytes are read. So no connection
//! with an unread first frame is evicted, and a classic session waits for a slot. It keeps the slot once it has received a
//! byte of a body.

mod client;
pub mod evict;
pub mod limits;
mod permit;
mod resumable;
mod table;

pub use limits::{Limits, PROCESS_FD_FRACTION, SESSION_FD_FRACTION, fd_headroom_below};
pub use permit::{Permit, SharedAdmission};
pub use resumable::LostSession;
pub use table::{AdmissionControl, AtCapacity, Kind};

#[cfg(test)]
mod tests;
