//! ftx moves files and directories between two machines, checked by MD5 and durable before it says so.
//!
//! The boxes, from the program down to plain values; a file uses what stands below it, never above or beside it
//! (`tests/layers.rs` reads the `use` lines and keeps it so):
//!
//! ```text
//! main   app                                   the command line
//! report                                       the screen, lists and manifests
//! bench
//! send   recv                                  the two drivers
//! link (frames over a connection)   source (reads files)   dest (stores files)   md5sum (whole files)   measure (one stage alone)
//! net                                          connections
//! wire                                         bytes in, bytes out: no I/O, no clock, no threads
//! sync   event                                 cancellation and threads; what the drivers report
//! digest                                       MD5
//! sys                                          the operating system
//! relpath   units   error_code   escape   busy_time   temp_dirs    values
//! ```

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod app;
pub mod bench;
pub mod busy_time;
pub mod dest;
pub mod digest;
pub mod error_code;
pub mod escape;
pub mod event;
pub mod link;
pub mod md5sum;
pub mod measure;
pub mod net;
pub mod recv;
pub mod relpath;
pub mod report;
pub mod send;
pub mod source;
pub mod sync;
pub mod sys;
pub mod temp_dirs;
pub mod units;
pub mod wire;
