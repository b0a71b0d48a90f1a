//! `measure` and `measured`: the speed of one stage of the receiver.

use serde::{Deserialize, Serialize};

use super::json::null_as_default;

/// The keys of `measure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// The stage.
    pub what: Measurable,
    /// The largest number of bytes to use; for the wire, the size of the body that follows.
    #[serde(rename = "size")]
    pub size_bytes: u64,
}

/// A stage of the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measurable {
    /// MD5, with as many messages in parallel as the receiver has lanes.
    Md5,
    /// Writing and syncing a file, which is then removed.
    Write,
    /// Receiving a body, which is discarded.
    Wire,
}

/// The keys of `measured`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Bytes processed, at most those requested: the time of a stage is bounded as well.
    pub bytes: u64,
    /// The time by the receiver's clock, at least one nanosecond.
    #[serde(rename = "ns")]
    pub elapsed_ns: u64,
    /// The file was written to a file system in memory.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "std::ops::Not::not")]
    pub memory: bool,
}
