//! ftx moves files and directories between two machines, checked by MD5 and durable before it says so.
//!
//! The boxes, from the program down to plain values; a file uses what stands below it, never above or beside it
//! (`tests/layers.rs` reads the `use` lines and keeps it so):
//!
//! ```text
//! main   program   cli   config   bench   demo   error   signals   scrap   ui
//! send   recv                                  the two drivers
//! plan (reads files)   store (writes files)   net (sockets)   md5sum (whole files)   measure (each stage alone)
//! wire                                         bytes in, bytes out: no I/O, no clock, no threads
//! relpath   digest   units   fault   escape   progress   spent    values
//! ```

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod bench;
pub mod cli;
pub mod config;
pub mod demo;
pub mod digest;
pub mod error;
pub mod escape;
pub mod fault;
pub mod md5sum;
pub mod measure;
pub mod net;
pub mod plan;
pub mod program;
pub mod progress;
pub mod recv;
pub mod relpath;
pub mod scrap;
pub mod send;
pub mod signals;
pub mod spent;
pub mod store;
pub mod ui;
pub mod units;
pub mod wire;
