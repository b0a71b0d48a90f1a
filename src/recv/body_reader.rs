//! Reads the bodies of a connection, to memory or to a file, at the minimum rate or above.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use crate::digest::PartRange;
use crate::net::{CopyStep, FileReceiver};
use crate::recv::connection_reader::{ConnectionReader, IdleHook, no_hook};
use crate::recv::error::RecvError;
use crate::sys::kernel_copy::write_all_at;

/// Bytes of a body in memory at a time; few enough to stay in a core's cache between socket, hash and file.
const CHUNK_BYTES: usize = 256 << 10;

impl ConnectionReader {
    /// Reads a body of `len` bytes and passes it to `take` in chunks. `name` is for errors.
    pub fn body(&mut self, len: u64, name: &str, take: impl FnMut(&[u8])) -> Result<(), RecvError> {
        self.take_body(len, name, |_| name.to_owned(), take, &mut no_hook)
    }

    /// Like [`ConnectionReader::body`], for all of the file `name`: the error of an early end names the missing bytes.
    pub fn whole_body(
        &mut self,
        len: u64,
        name: &str,
        take: impl FnMut(&[u8]),
        hook: IdleHook<'_>,
    ) -> Result<(), RecvError> {
        let cut = |left| format!("{name}, {left} bytes before its end");
        self.take_body(len, name, cut, take, hook)
    }

    fn take_body(
        &mut self,
        len: u64,
        name: &str,
        cut: impl Fn(u64) -> String,
        mut take: impl FnMut(&[u8]),
        hook: IdleHook<'_>,
    ) -> Result<(), RecvError> {
        // The timer is touched after each write, which may have taken long.
        let mut left = len;
        let buffered = self.buffer.take_body(usize::try_from(len).unwrap_or(usize::MAX));
        if !buffered.is_empty() {
            take(buffered);
            left -= buffered.len() as u64;
            self.handle.record_bytes(buffered.len() as u64);
            self.idle_timer.touch();
        }
        if left > 0 {
            self.make_chunk(left);
        }
        while left > 0 {
            let wanted = left.min(CHUNK_BYTES as u64) as usize;
            let mut filled = 0;
            while filled < wanted {
                self.wait_for_body(hook)?;
                match self.handle.connection().read(&mut self.chunk[filled..wanted]) {
                    Ok(0) => return Err(RecvError::Truncated(cut(left - filled as u64))),
                    Ok(count) => {
                        self.on_received(count);
                        filled += count;
                        self.has_more = filled == wanted;
                    }
                    Err(error) => self.classify_error(error, name)?,
                }
            }
            take(&self.chunk[..wanted]);
            left -= wanted as u64;
            self.idle_timer.touch();
        }
        Ok(())
    }

    /// Has the kernel move a body to `range` of a file. `moved` is called for every step; `name` is for errors. The inner error
    /// is that of the file; the whole body is read nevertheless.
    pub fn body_to_file(
        &mut self,
        range: PartRange,
        name: impl Fn() -> String,
        file: &File,
        moved: impl Fn(&CopyStep),
    ) -> Result<io::Result<()>, RecvError> {
        let buffered = self.buffer.take_body(usize::try_from(range.len).unwrap_or(usize::MAX));
        let mut written = write_all_at(file, buffered, range.offset);
        let mut done = buffered.len() as u64;
        self.handle.record_bytes(done);
        moved(&CopyStep {
            taken: buffered.len(),
            is_full: false,
            written: Ok(()),
            waited: Duration::ZERO,
            wrote: Duration::ZERO,
        });
        let connection = self.connection().clone();
        let receiver = self.file_receiver.take().map_or_else(|| FileReceiver::new(&connection), Ok);
        let mut receiver = receiver.map_err(RecvError::Connection)?;
        while done < range.len && written.is_ok() {
            self.wait_for_body(&mut no_hook)?;
            match receiver.step(&connection, file, range.offset + done, range.len - done) {
                Ok(CopyStep { taken: 0, .. }) => return Err(RecvError::Truncated(name())),
                Ok(step) => {
                    done += step.taken as u64;
                    self.has_more = step.is_full;
                    self.on_received(step.taken);
                    moved(&step);
                    written = step.written;
                }
                Err(error) => self.classify_error(error, &name())?,
            }
        }
        self.file_receiver = Some(receiver);
        if done < range.len {
            self.body(range.len - done, &name(), |_| {})?;
        }
        Ok(written)
    }

    fn make_chunk(&mut self, body_bytes: u64) {
        // Small files need less.
        let needed = body_bytes.min(CHUNK_BYTES as u64) as usize;
        if self.chunk.len() < needed {
            self.chunk = vec![0; needed.next_power_of_two()].into();
        }
    }

    /// Counts received bytes of a body.
    fn on_received(&mut self, bytes: usize) {
        self.idle_timer.touch();
        self.handle.record_bytes(bytes as u64);
        self.min_rate.add(bytes as u64);
    }

    /// Waits for more of a body, and checks its minimum rate.
    fn wait_for_body(&mut self, hook: IdleHook<'_>) -> Result<(), RecvError> {
        loop {
            if self.handle.is_evicted() {
                return Err(RecvError::Evicted);
            }
            let limit = self.call_hook(hook)?;
            let start = Instant::now();
            let is_ready = self.is_ready(limit)?;
            if self.min_rate.is_too_slow(start.elapsed()) {
                return Err(RecvError::TooSlow(self.min_rate.window()));
            }
            if is_ready {
                return Ok(());
            }
            self.check_silence()?;
        }
    }
}
