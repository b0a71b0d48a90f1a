//! ftx copies files and directories between two machines, verified by MD5 and durable.
//!
//! The program `ftx` is built from this library. [`send::send`] sends paths to a receiver; [`recv::Server`] receives into
//! a folder. Both block, and end early when their [`sync::CancelToken`] is cancelled. Progress is reported as
//! [`event::Event`]s; a session that reaches its end returns a [`summary::Summary`].
//!
//! # Example
//!
//! Sends a file to a receiver in the same process:
//!
//! ```
//! use std::net::Ipv4Addr;
//! use std::time::Duration;
//!
//! use ftx::dest::local::{OnConflict, Unfinished};
//! use ftx::event::{NullReporter, Reporter};
//! use ftx::net::{BindTo, Peer};
//! use ftx::recv::{Observer, RecvError, Server};
//! use ftx::summary::Summary;
//! use ftx::sync::CancelToken;
//!
//! /// Prints the result of each session.
//! struct PrintResults;
//!
//! impl Observer for PrintResults {
//!     fn unfinished(&self, _: &Unfinished) {}
//!     fn started(&self, _: &Peer) -> Box<dyn Reporter + '_> {
//!         Box::new(NullReporter)
//!     }
//!     fn lost(&self, _: &Peer, _: &RecvError, _: Duration) {}
//!     fn ended(&self, peer: &Peer, result: &Result<Summary, RecvError>) {
//!         match result {
//!             Ok(summary) => println!("{}: {} files", peer.host(), summary.files),
//!             Err(error) => println!("{}: {error}", peer.host()),
//!         }
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! std::fs::write(dir.path().join("hello.txt"), "hello")?;
//! let cancel = CancelToken::new()?;
//!
//! let server = Server::start(ftx::recv::Options {
//!     bind: Some(BindTo::Ip(Ipv4Addr::LOCALHOST.into())),
//!     port: 0,
//!     out: dir.path().join("inbox"),
//!     on_conflict: OnConflict::SkipSame,
//!     names: ftx::relpath::NamePolicy::Strict,
//!     sessions: Some(1),
//!     timeout: Duration::from_secs(60),
//!     keep_unfinished: Duration::from_secs(7 * 24 * 60 * 60),
//!     whole_digests: false,
//!     cancel: cancel.clone(),
//! })?;
//!
//! std::thread::scope(|scope| {
//!     let serving = scope.spawn(|| server.run(&PrintResults));
//!     let sent = ftx::send::send(
//!         &ftx::send::Options {
//!             paths: vec![dir.path().join("hello.txt")],
//!             target: server.bound().to_string().parse()?,
//!             port: ftx::net::DEFAULT_PORT,
//!             classic: None,
//!             streams: ftx::send::Streams::Auto,
//!             timeout: Duration::from_secs(60),
//!             retries: None,
//!             whole_digests: false,
//!             cancel: cancel.clone(),
//!         },
//!         &NullReporter,
//!     );
//!     // After a failed session the receiver would wait for another one.
//!     server.stop().cancel();
//!     serving.join().expect("no panic")?;
//!     assert!(sent?.confirmed, "the receiver confirms that the file is stored");
//!     Ok::<_, Box<dyn std::error::Error>>(())
//! })?;
//! assert_eq!(std::fs::read(dir.path().join("inbox/hello.txt"))?, b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! # Layers
//!
//! The boxes, from the program down to plain values. A file uses what is below it, not what is above or beside it;
//! `tests/layers.rs` checks the `use` lines.
//!
//! ```text
//! main   app                                   the command line
//! report                                       the screen, lists and manifests
//! bench                                        rates of the stages of a transfer
//! send   recv                                  the two drivers
//! link (frames over a connection)   source (reads files)   dest (stores files)   md5sum (whole files)   measure (one stage)
//! net   temp_dirs                              connections; folders that are removed at the end
//! wire                                         bytes in, bytes out: no I/O, no clock, no threads
//! sync   event                                 cancellation and threads; what the drivers report
//! digest                                       MD5
//! sys                                          the operating system
//! relpath   units   error_code   exit_code   summary   escape   busy_time    values
//! ```

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod busy_time;
pub mod dest;
pub mod digest;
pub mod error_code;
pub mod event;
pub mod net;
pub mod recv;
pub mod relpath;
pub mod send;
pub mod source;
pub mod summary;
pub mod sync;

// Public for the program, tests, fuzz targets and benchmarks. They may change in any version.
#[doc(hidden)]
pub mod app;
#[doc(hidden)]
pub mod bench;
#[doc(hidden)]
pub mod escape;
#[doc(hidden)]
pub mod exit_code;
#[doc(hidden)]
pub mod link;
#[doc(hidden)]
pub mod md5sum;
#[doc(hidden)]
pub mod measure;
#[doc(hidden)]
pub mod report;
#[doc(hidden)]
pub mod sys;
#[doc(hidden)]
pub mod temp_dirs;
#[doc(hidden)]
pub mod units;
#[doc(hidden)]
pub mod wire;
