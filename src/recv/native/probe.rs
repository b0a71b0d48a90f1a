//! What a receiver does for `ftx bench HOST`: one stage alone, within bounds, and nothing is left of it.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::dest::local::{LocalSession, StoreError};
use crate::measure::{self, Rate, WorkLimit};
use crate::recv::RecvError;
use crate::recv::connection_reader::ConnectionReader;
use crate::sync::CancelToken;
use crate::wire::message::{Measurable, Measure, Measured};

/// The longest that a peer can have this machine work; the step in work is finished.
const MAX_TIME: Duration = Duration::from_secs(2);

/// However many peers ask, one of them is served at a time: with one processor, and one file on the disk.
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
            reader.body(measure.size_bytes, "what the wire is measured with", |_| {})?;
            answer(Rate { bytes: measure.size_bytes, elapsed: start.elapsed() }, false)
        }
        Measurable::Md5 => {
            let _alone = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
            answer(measure::md5_lanes(limit, |_| !reader.cancel_token().is_cancelled()), false)
        }
        Measurable::Write => {
            let _alone = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
            write(limit, store, reader.cancel_token())
                .map_err(|error| RecvError::Store { name: "to measure the disk".into(), error })?
        }
    };
    // That took its time; the peer is not to blame for it.
    reader.idle_timer().touch();
    Ok(measured)
}

fn write(limit: WorkLimit, store: &mut LocalSession, cancel: &CancelToken) -> Result<Measured, StoreError> {
    let failed = |source| StoreError::Io { doing: "write a file", source };
    // Whoever else needs room gets some.
    let bytes = limit.bytes.min(store.available_bytes()? / 2);
    if bytes < limit.bytes.min(1) {
        return Err(failed(io::ErrorKind::StorageFull.into()));
    }
    let file = store.create_scratch_file()?;
    let rate =
        measure::write(&file, WorkLimit { bytes, ..limit }, |_| !cancel.is_cancelled()).map_err(failed)?;
    Ok(answer(rate, measure::is_in_memory(&file)))
}

fn answer(rate: Rate, memory: bool) -> Measured {
    let elapsed_ns = rate.elapsed.as_nanos().try_into().unwrap_or(u64::MAX);
    Measured { bytes: rate.bytes, elapsed_ns: elapsed_ns.max(1), memory }
}
