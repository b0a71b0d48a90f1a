//! Where received entries are stored.

pub mod local;
