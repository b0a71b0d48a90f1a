//! Writing to a peer that may be slow.

use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::idle_timer::IdleTimer;
use super::kernel_copy;
use super::min_rate::MinRate;
use super::polling::is_timeout;
use crate::sync::CancelToken;

/// After cancellation, a write that has begun may take this much longer.
pub const FLUSH_GRACE: Duration = Duration::from_millis(300);
/// Bytes that the kernel is asked to send at once; few enough to show progress.
const SEND_FILE_BYTES: u64 = 1 << 20;

/// Writes to a connection. A write fails with `TimedOut` when the peer accepts bytes more slowly than [`MinRate`] allows
/// and is silent for longer than the idle timer allows, or some time after cancellation.
#[derive(Debug)]
pub struct TimedWriter {
    connection: Connection,
    idle_timer: IdleTimer,
    min_rate: MinRate,
    cancel: CancelToken,
}

impl TimedWriter {
    /// For an established connection, which other threads may read meanwhile.
    pub fn new(connection: Connection, idle_timer: IdleTimer, cancel: CancelToken) -> Self {
        let min_rate = MinRate::new(idle_timer.limit());
        TimedWriter { connection, idle_timer, min_rate, cancel }
    }

    /// Sends `len` bytes of a file from `offset`, inside the kernel where that is possible; calls `sent` after each step.
    /// Returns how many bytes went out: fewer where the file ends early.
    pub fn send_file(
        &mut self,
        file: &File,
        offset: u64,
        len: u64,
        mut sent: impl FnMut(u64),
    ) -> io::Result<u64> {
        let mut done = 0;
        while done < len {
            let from = offset + done;
            let count = (len - done).min(SEND_FILE_BYTES) as usize;
            let step = self.retry_until_deadline(|to| kernel_copy::send_file(to, file, from, count))?;
            if step == 0 {
                break;
            }
            done += step as u64;
            sent(step as u64);
        }
        Ok(done)
    }

    fn retry_until_deadline(
        &mut self,
        mut send: impl FnMut(&Connection) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let start = Instant::now();
        let mut cancelled: Option<Instant> = None;
        loop {
            match send(&self.connection) {
                Err(error) if is_timeout(&error) => {
                    if self.cancel.is_cancelled()
                        && cancelled.get_or_insert_with(Instant::now).elapsed() > FLUSH_GRACE
                    {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    if start.elapsed() > self.idle_timer.limit() && self.idle_timer.is_expired() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(count) => {
                    self.idle_timer.add_taken(count as u64);
                    self.min_rate.add(count as u64);
                    if self.min_rate.is_too_slow(start.elapsed()) && self.idle_timer.is_expired() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    return Ok(count);
                }
            }
        }
    }
}

impl Write for TimedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.retry_until_deadline(|connection| connection.write(bytes))
    }

    /// Nothing is buffered here.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
