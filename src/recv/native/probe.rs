//! Measures one stage for `ftx bench HOST`, within bounds; no file stays.

use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::dest::local::{LocalSession, StoreError};
use crate::measure::{self, Rate, WorkLimit};
use crate::recv::connection_reader::ConnectionReader;
use crate::recv::error::RecvError;
use crate::sync::{CancelToken, lock};
use crate::wire::message::{Measurable, Measure, Measured};

/// The longest time of one measurement; the step in progress is completed.
const MAX_TIME: Duration = Duration::from_secs(2);

/// One measurement at a time, however many peers ask: one processor, and one file on the disk.
static RUNNING: Mutex<()> = Mutex::new(());

/// Measures a stage. The wire is measured from its frame to the last byte of its body.
pub fn run_probe(
    measure: Measure,
    reader: &mut ConnectionReader,
    store: &mut LocalSession,
) -> Result<Measured, RecvError> {
    let limit = WorkLimit { bytes: measure.size_bytes, time: MAX_TIME };
    let measured = match measure.what {
        Measurable::Wire => {
            let start = Instant::now();
            reader.body(measure.size_bytes, "the body of a measurement", |_| {})?;
            measured(Rate { bytes: measure.size_bytes, elapsed: start.elapsed() }, false)
        }
        Measurable::Md5 => {
            let _alone = lock(&RUNNING);
            measured(measure::md5_lanes(limit, |_| !reader.cancel_token().is_cancelled()), false)
        }
        Measurable::Write => {
            let _alone = lock(&RUNNING);
            write(limit, store, reader.cancel_token())
                .map_err(|error| RecvError::Store { name: "to measure the disk".into(), error })?
        }
    };
    // Nothing was read meanwhile.
    reader.idle_timer().touch();
    Ok(measured)
}

fn write(limit: WorkLimit, store: &mut LocalSession, cancel: &CancelToken) -> Result<Measured, StoreError> {
    let failed = |source| StoreError::Io { doing: "write a file", source };
    // Half of the free space stays free.
    let bytes = limit.bytes.min(store.available_bytes()? / 2);
    if bytes < limit.bytes.min(1) {
        return Err(failed(io::ErrorKind::StorageFull.into()));
    }
    let file = store.create_scratch_file()?;
    let rate =
        measure::write(&file, WorkLimit { bytes, ..limit }, |_| !cancel.is_cancelled()).map_err(failed)?;
    Ok(measured(rate, measure::is_in_memory(&file)))
}

fn measured(rate: Rate, memory: bool) -> Measured {
    let elapsed_ns = rate.elapsed.as_nanos().try_into().unwrap_or(u64::MAX);
    Measured { bytes: rate.bytes, elapsed_ns: elapsed_ns.max(1), memory }
}
