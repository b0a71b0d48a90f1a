//! The rate of each stage of a transfer alone: hashing, writing, reading, done as a transfer does it.

use std::convert::Infallible;
use std::fs::File;
use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

use crate::digest::{Hasher, PART_BYTES, PartRange, digest_ranges, lane_count};
use crate::sys::file::{read_at, will_need, write_all_at};

pub use crate::sys::page_cache::{drop_cached as drop_page_cache, is_cached, is_in_memory};

/// Bytes processed by a stage, and the time it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes.
    pub bytes: u64,
    /// Time taken.
    pub elapsed: Duration,
}

impl Rate {
    /// Bytes per second, rounded down.
    pub fn bytes_per_s(self) -> u64 {
        let ns = self.elapsed.as_nanos().max(1);
        (u128::from(self.bytes) * 1_000_000_000 / ns).try_into().unwrap_or(u64::MAX)
    }
}

/// When a measurement ends: after `bytes`, or after the first step that ends later than `time`.
#[derive(Clone, Copy, Debug)]
pub struct WorkLimit {
    /// Bytes.
    pub bytes: u64,
    /// Time limit.
    pub time: Duration,
}

impl WorkLimit {
    /// Repeats `step(offset, remaining bytes)`, which returns the number of bytes it processed; 0 ends the measurement.
    /// `on_step` gets the bytes of each step and returns whether to continue.
    fn measure<E>(
        self,
        mut on_step: impl FnMut(u64) -> bool,
        mut step: impl FnMut(u64, u64) -> Result<u64, E>,
    ) -> Result<Rate, E> {
        let start = Instant::now();
        let mut bytes = 0;
        while bytes < self.bytes && start.elapsed() < self.time {
            let processed = step(bytes, self.bytes - bytes)?;
            if processed == 0 {
                break;
            }
            bytes += processed;
            if !on_step(processed) {
                break;
            }
        }
        Ok(Rate { bytes, elapsed: start.elapsed() })
    }
}

/// Bytes per system call, or per call of a hasher.
const BLOCK_BYTES: usize = 1 << 20;
/// Bytes written between two syncs. Small enough that a measurement of a slow disk ends in time.
const SYNC_BYTES: u64 = 64 << 20;

/// MD5 of one stream.
pub fn md5_stream(limit: WorkLimit, on_step: impl FnMut(u64) -> bool) -> Rate {
    let mut hasher = Hasher::new();
    let block = pseudo_random(BLOCK_BYTES);
    let measured = limit.measure(on_step, |_, left| {
        let len = left.min(BLOCK_BYTES as u64);
        hasher.update(&block[..len as usize]);
        Ok::<_, Infallible>(len)
    });
    black_box(hasher.finish());
    let Ok(rate) = measured;
    rate
}

/// MD5 of as many parts in parallel as there are lanes, on one core.
pub fn md5_lanes(limit: WorkLimit, on_step: impl FnMut(u64) -> bool) -> Rate {
    let lanes = lane_count();
    let measured = limit.measure(on_step, |_, left| {
        let len = left.div_ceil(lanes as u64).min(PART_BYTES);
        let count = (left / len).min(lanes as u64);
        let ranges = vec![PartRange { offset: 0, len }; count as usize];
        black_box(digest_ranges(&ranges, |_, _, _| Ok::<_, Infallible>(()))?);
        Ok::<_, Infallible>(len * count)
    });
    let Ok(rate) = measured;
    rate
}

/// Writes a file from its start and syncs it.
///
/// # Errors
///
/// Writing or syncing failed.
pub fn write(file: &File, limit: WorkLimit, on_step: impl FnMut(u64) -> bool) -> io::Result<Rate> {
    let block = pseudo_random(BLOCK_BYTES);
    limit.measure(on_step, |offset, left| {
        let len = left.min(SYNC_BYTES);
        let mut done = 0;
        while done < len {
            let count = (len - done).min(BLOCK_BYTES as u64);
            write_all_at(file, &block[..count as usize], offset + done)?;
            done += count;
        }
        file.sync_all()?;
        Ok(len)
    })
}

/// Reads a file from its start, with read-ahead of the next part.
///
/// # Errors
///
/// Reading failed.
pub fn read(file: &File, limit: WorkLimit, on_step: impl FnMut(u64) -> bool) -> io::Result<Rate> {
    let mut block = vec![0; BLOCK_BYTES];
    limit.measure(on_step, |offset, left| {
        if offset % PART_BYTES == 0 {
            will_need(file, offset, 2 * PART_BYTES);
        }
        let len = left.min(BLOCK_BYTES as u64);
        Ok(read_at(file, &mut block[..len as usize], offset)? as u64)
    })
}

/// Incompressible bytes.
pub fn pseudo_random(len: usize) -> Vec<u8> {
    let mut random = PseudoRandom::default();
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next_u64().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Pseudo-random numbers, the same in every run (xorshift64, Marsaglia 2003).
#[derive(Clone, Debug)]
pub struct PseudoRandom(u64);

impl Default for PseudoRandom {
    fn default() -> Self {
        PseudoRandom(0x9e37_79b9_7f4a_7c15)
    }
}

impl PseudoRandom {
    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn every_stage_processes_exactly_the_given_bytes() {
        let file = tempfile::tempfile().unwrap();
        for bytes in [0, 1, 15, 17, 3_000_001] {
            let limit = WorkLimit { bytes, time: LONG };
            let mut reported = 0;
            let mut on_step = |step| {
                reported += step;
                true
            };
            assert_eq!(md5_stream(limit, &mut on_step).bytes, bytes);
            assert_eq!(md5_lanes(limit, &mut on_step).bytes, bytes);
            assert_eq!(write(&file, limit, &mut on_step).unwrap().bytes, bytes);
            assert_eq!(read(&file, limit, &mut on_step).unwrap().bytes, bytes);
            assert_eq!(reported, 4 * bytes);
        }
        assert_eq!(file.metadata().unwrap().len(), 3_000_001);
        let beyond = WorkLimit { bytes: 4_000_000, time: LONG };
        assert_eq!(read(&file, beyond, |_| true).unwrap().bytes, 3_000_001, "the file ends earlier");
    }

    #[test]
    fn a_stage_ends_when_its_caller_stops_it() {
        let limit = WorkLimit { bytes: u64::MAX, time: LONG };
        assert_eq!(md5_stream(limit, |_| false).bytes, BLOCK_BYTES as u64);
    }

    #[test]
    fn no_step_begins_when_the_time_is_up() {
        let limit = WorkLimit { bytes: u64::MAX, time: Duration::ZERO };
        assert_eq!(md5_lanes(limit, |_| true).bytes, 0);
        assert_eq!(write(&tempfile::tempfile().unwrap(), limit, |_| true).unwrap().bytes, 0);
    }

    #[test]
    fn rates_are_bytes_per_second() {
        let rate = |bytes, ms| Rate { bytes, elapsed: Duration::from_millis(ms) }.bytes_per_s();
        assert_eq!((rate(100, 500), rate(0, 1), rate(1 << 40, 1000)), (200, 0, 1 << 40));
        assert_eq!(rate(u64::MAX, 0), u64::MAX, "no division by zero");
    }
}
