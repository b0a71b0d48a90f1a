//! The stages of a transfer, each alone: hashing, writing, reading. What is measured is what a transfer does.

use std::convert::Infallible;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags};

use crate::digest::{Hasher, PART_BYTES, PartRange, digest_ranges, lane_count};

/// How much went through a stage in what time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes.
    pub bytes: u64,
    /// The time they took.
    pub elapsed: Duration,
}

impl Rate {
    /// Bytes per second, rounded down.
    pub fn bytes_per_s(self) -> u64 {
        let ns = self.elapsed.as_nanos().max(1);
        (u128::from(self.bytes) * 1_000_000_000 / ns).try_into().unwrap_or(u64::MAX)
    }
}

/// When a measurement ends: after so many bytes, or when its time is up and the step in work is done.
#[derive(Clone, Copy, Debug)]
pub struct WorkLimit {
    /// Bytes.
    pub bytes: u64,
    /// Time.
    pub time: Duration,
}

impl WorkLimit {
    /// Repeats `step`, which is told where it begins and how many bytes are left, and says how many of them it took;
    /// none ends the measurement. `moved` hears of every step, and says whether to go on.
    fn measure<E>(
        self,
        mut moved: impl FnMut(u64) -> bool,
        mut step: impl FnMut(u64, u64) -> Result<u64, E>,
    ) -> Result<Rate, E> {
        let start = Instant::now();
        let mut bytes = 0;
        while bytes < self.bytes && start.elapsed() < self.time {
            let taken = step(bytes, self.bytes - bytes)?;
            if taken == 0 {
                break;
            }
            bytes += taken;
            if !moved(taken) {
                break;
            }
        }
        Ok(Rate { bytes, elapsed: start.elapsed() })
    }
}

/// Bytes that one system call, or one call of a hasher, takes.
const BLOCK_BYTES: usize = 1 << 20;
/// Written bytes are brought to stable storage in steps of this size, so that a slow disk can be left in time.
const SYNC_BYTES: u64 = 64 << 20;

/// MD5 of one message.
pub fn md5_stream(limit: WorkLimit, moved: impl FnMut(u64) -> bool) -> Rate {
    let mut hasher = Hasher::new();
    let block = pseudo_random(BLOCK_BYTES);
    let measured = limit.measure(moved, |_, left| {
        let len = left.min(BLOCK_BYTES as u64);
        hasher.update(&block[..len as usize]);
        Ok::<_, Infallible>(len)
    });
    black_box(hasher.finish());
    let Ok(rate) = measured;
    rate
}

/// MD5 of parts side by side, as many as there are lanes, on one core.
pub fn md5_lanes(limit: WorkLimit, moved: impl FnMut(u64) -> bool) -> Rate {
    let lanes = lane_count();
    let measured = limit.measure(moved, |_, left| {
        // Rounded up, but not beyond what is left.
        let len = left.div_ceil(lanes as u64).min(PART_BYTES);
        let count = (left / len).min(lanes as u64);
        let ranges = vec![PartRange { offset: 0, len }; count as usize];
        black_box(digest_ranges(&ranges, |_, _, _| Ok::<_, Infallible>(()))?);
        Ok::<_, Infallible>(len * count)
    });
    let Ok(rate) = measured;
    rate
}

/// Writes to a file from its start, and brings that to stable storage.
///
/// # Errors
///
/// What the system says of writing and syncing.
pub fn write(file: &File, limit: WorkLimit, moved: impl FnMut(u64) -> bool) -> io::Result<Rate> {
    let block = pseudo_random(BLOCK_BYTES);
    limit.measure(moved, |offset, left| {
        let len = left.min(SYNC_BYTES);
        let mut done = 0;
        while done < len {
            let count = (len - done).min(BLOCK_BYTES as u64);
            file.write_all_at(&block[..count as usize], offset + done)?;
            done += count;
        }
        file.sync_all()?;
        Ok(len)
    })
}

/// Reads a file from its start, asking for the part after the one in work ahead of time.
///
/// # Errors
///
/// What the system says of reading.
pub fn read(file: &File, limit: WorkLimit, moved: impl FnMut(u64) -> bool) -> io::Result<Rate> {
    let mut block = vec![0; BLOCK_BYTES];
    limit.measure(moved, |offset, left| {
        if offset % PART_BYTES == 0 {
            // Only a hint.
            let _ = fadvise(file, offset, NonZeroU64::new(2 * PART_BYTES), Advice::WillNeed);
        }
        let len = left.min(BLOCK_BYTES as u64);
        Ok(file.read_at(&mut block[..len as usize], offset)? as u64)
    })
}

/// Asks the system to drop a synced file from memory, so that it must be read from the disk.
pub fn drop_page_cache(file: &File) {
    // Only a hint; `is_cached` tells what became of it.
    let _ = fadvise(file, 0, None, Advice::DontNeed);
}

/// Does the system hold the byte at `offset` in memory? `None` where it does not tell.
pub fn is_cached(file: &File, offset: u64) -> Option<bool> {
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    match rustix::io::preadv2(file, &mut buffers, offset, ReadWriteFlags::NOWAIT) {
        Ok(_) => Some(true),
        Err(Errno::AGAIN) => Some(false),
        Err(_) => None,
    }
}

/// `statfs(2)`: file systems without anything behind them.
const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// Is the file on a file system in memory?
pub fn is_in_memory(file: &File) -> bool {
    // The width of the field differs from machine to machine.
    #[allow(clippy::unnecessary_cast)]
    rustix::fs::fstatfs(file).is_ok_and(|fs| [TMPFS_MAGIC, RAMFS_MAGIC].contains(&(fs.f_type as i64)))
}

/// Bytes that nothing on the way can compress.
pub fn pseudo_random(len: usize) -> Vec<u8> {
    let mut random = PseudoRandom::default();
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next_u64().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Numbers that repeat in every run and look like chance (xorshift64, Marsaglia 2003).
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
    fn every_stage_takes_the_bytes_that_it_was_given() {
        let file = tempfile::tempfile().unwrap();
        for bytes in [0, 1, 15, 17, 3_000_001] {
            let limit = WorkLimit { bytes, time: LONG };
            let mut told = 0;
            let mut tell = |step| {
                told += step;
                true
            };
            assert_eq!(md5_stream(limit, &mut tell).bytes, bytes);
            assert_eq!(md5_lanes(limit, &mut tell).bytes, bytes);
            assert_eq!(write(&file, limit, &mut tell).unwrap().bytes, bytes);
            assert_eq!(read(&file, limit, &mut tell).unwrap().bytes, bytes);
            assert_eq!(told, 4 * bytes);
        }
        assert_eq!(file.metadata().unwrap().len(), 3_000_001);
        let beyond = WorkLimit { bytes: 4_000_000, time: LONG };
        assert_eq!(read(&file, beyond, |_| true).unwrap().bytes, 3_000_001, "the file ends earlier");
    }

    #[test]
    fn a_stage_ends_when_nobody_wants_to_know_any_more() {
        let limit = WorkLimit { bytes: u64::MAX, time: LONG };
        assert_eq!(md5_stream(limit, |_| false).bytes, BLOCK_BYTES as u64);
    }

    #[test]
    fn nothing_begins_when_the_time_is_up() {
        let limit = WorkLimit { bytes: u64::MAX, time: Duration::ZERO };
        assert_eq!(md5_lanes(limit, |_| true).bytes, 0);
        assert_eq!(write(&tempfile::tempfile().unwrap(), limit, |_| true).unwrap().bytes, 0);
    }

    #[test]
    fn rates_are_bytes_in_a_second() {
        let rate = |bytes, ms| Rate { bytes, elapsed: Duration::from_millis(ms) }.bytes_per_s();
        assert_eq!((rate(100, 500), rate(0, 1), rate(1 << 40, 1000)), (200, 0, 1 << 40));
        assert_eq!(rate(u64::MAX, 0), u64::MAX, "no division by zero");
    }
}
