//! Frames over a connection: what the sender, the receiver and `ftx bench` share.

mod frame_reader;

pub use frame_reader::{Fill, FrameReadError, FrameReader};
