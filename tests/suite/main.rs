//! The integration tests: the real program, started as a process of its own, against real sockets and files.
//!
//! One crate, so that `ftx` is linked once. `cargo test --test suite resume::` runs one module. All tests share this
//! process: a test changes environment, limits, umask, working directory and signal handlers of the programs it starts
//! and not of the process itself.

mod common;

mod bad_input;
mod bench;
mod changing_sources;
mod classic_interop;
mod durability_order;
mod end_to_end;
mod environment_faults;
mod flipped_bytes;
mod folding_names;
mod golden_frames;
mod holes;
mod hostile_crowd;
mod kill;
mod landing_steps;
mod lost_peer;
mod md5sum;
mod odd_sessions;
mod races;
mod reconnect;
mod resume;
mod second_implementation;
mod signals;
mod store_faults;
mod streams;
mod syscall_faults;
mod terminal_safety;
mod transfer;
mod unasked;
mod unix_sockets;
mod unread_output;
