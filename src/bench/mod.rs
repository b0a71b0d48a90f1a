//! `ftx bench`: the rate of disk, MD5 and wire, each alone and then together, and the bottleneck.
//!
//! A receiver measures the wire: the one at `host`, or one in this process behind a loopback connection. Without `host`,
//! "together" is a real transfer from this machine to itself. With `host` nothing is transferred, so that no file stays
//! there, and "together" is the rate of the slowest stage.

mod error;
mod local;
pub mod loopback;
mod options;
mod peer;
mod remote;
mod report;
mod stage_observer;

pub use error::BenchError;
pub use options::Options;
pub use report::{Report, StageResult};
pub use stage_observer::StageObserver;

use local::Local;

/// Measures all stages.
///
/// # Errors
///
/// [`BenchError::Interrupted`] if it was cancelled, otherwise the first stage that failed.
pub fn run(options: &Options, observer: &dyn StageObserver) -> Result<Report, BenchError> {
    measure_all(options, observer)
        .map_err(|error| if options.cancel.is_cancelled() { BenchError::Interrupted } else { error })
}

fn measure_all(options: &Options, observer: &dyn StageObserver) -> Result<Report, BenchError> {
    match &options.host {
        Some(host) => {
            let remote = remote::measure(options, host, observer)?;
            let local = Local::new(options, observer)?;
            local.write()?;
            let mut rows = local.read()?;
            rows.extend(local.md5()?);
            rows.extend(remote);
            Ok(Report { rows, together: None })
        }
        None => {
            let local = Local::new(options, observer)?;
            let write = local.write()?;
            let mut rows = local.read()?;
            rows.extend(local.md5()?);
            let (wire, together) = local.wire_and_transfer()?;
            rows.extend([wire, write]);
            Ok(Report { rows, together: Some(together) })
        }
    }
}
