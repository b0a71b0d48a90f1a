//! Options of `ftx bench`.

use std::path::PathBuf;
use std::time::Duration;

use crate::net::Target;
use crate::sync::CancelToken;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// The receiver; `None` measures this machine alone.
    pub host: Option<Target>,
    /// The port, if `host` has none.
    pub port: u16,
    /// The folder for the sample file that is written and read.
    pub dir: PathBuf,
    /// Maximal number of bytes per stage.
    pub size_bytes: u64,
    /// How long the receiver may send nothing.
    pub timeout: Duration,
    /// Ends the measurement when it is cancelled.
    pub cancel: CancelToken,
}
