//! Waiting for a peer as long as it shows signs of life, and not longer.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::sendfile;
use rustix::io::Errno;

use super::{MinRate, is_timeout};
use crate::sync::{CancelToken, Wake};

/// When the peer was last heard of; shared by the threads of a connection.
#[derive(Clone, Debug)]
pub struct IdleTimer {
    start: Instant,
    touched_ms: Arc<AtomicU64>,
    taken_bytes: Arc<AtomicU64>,
    limit: Duration,
}

impl IdleTimer {
    /// Heard of just now; silence longer than `limit` is too long.
    pub fn new(limit: Duration) -> Self {
        IdleTimer { start: Instant::now(), touched_ms: Arc::default(), taken_bytes: Arc::default(), limit }
    }

    /// Bytes that the peer took from the writers of its connections so far.
    pub fn taken_bytes(&self) -> u64 {
        self.taken_bytes.load(Ordering::Relaxed)
    }

    /// The peer was heard of.
    pub fn touch(&self) {
        self.touched_ms.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Was it silent for longer than the limit?
    pub fn is_expired(&self) -> bool {
        let idle_timer = Duration::from_millis(self.touched_ms.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(idle_timer) > self.limit
    }

    /// A watch over the next frame.
    pub fn frame_deadline(&self) -> FrameDeadline {
        FrameDeadline { started: None, limit: self.limit }
    }
}

/// A frame that has begun has to be whole within the limit, whatever trickles in. Behind a damaged length the peer's
/// signs of life would be taken for the rest of the frame, and neither side would ever give up.
#[derive(Debug)]
pub struct FrameDeadline {
    started: Option<Instant>,
    limit: Duration,
}

impl FrameDeadline {
    /// Asked whenever more is needed; `is_begun` tells whether a first byte of the frame is there.
    pub fn is_expired(&mut self, is_begun: bool) -> bool {
        is_begun && self.started.get_or_insert_with(Instant::now).elapsed() > self.limit
    }
}

/// Writes to a connection, and waits with a peer that is slow as long as it takes bytes at a least rate ([`Pace`]) or
/// is heard of.
#[derive(Debug)]
pub struct TimedWriter {
    stream: Arc<TcpStream>,
    idle_timer: IdleTimer,
    pace: MinRate,
    cancel: CancelToken,
}

/// What was begun to be said when the program is to end may take this long to go out.
pub const FLUSH_GRACE: Duration = Duration::from_millis(300);

impl TimedWriter {
    /// Wraps a prepared connection, which others may read meanwhile. Once `interrupt` is rung, the patience ends.
    pub fn new(stream: impl Into<Arc<TcpStream>>, idle_timer: IdleTimer, cancel: CancelToken) -> Self {
        let pace = MinRate::new(idle_timer.limit);
        TimedWriter { stream: stream.into(), idle_timer, pace, cancel }
    }
}

/// Bytes that the kernel is asked to send at once; few enough to see progress.
const SEND_FILE_BYTES: u64 = 1 << 20;

impl TimedWriter {
    /// Has the kernel send `len` bytes of a file from `offset`, without a copy through this process. `sent` hears of
    /// every step. Returns how many bytes went out: fewer where the file ends early.
    pub fn send_file(
        &mut self,
        file: &File,
        offset: u64,
        len: u64,
        mut sent: impl FnMut(u64),
    ) -> io::Result<u64> {
        let mut done = 0;
        while done < len {
            let mut from = offset + done;
            let count = (len - done).min(SEND_FILE_BYTES) as usize;
            let step = match self
                .retry_until_deadline(|stream| Ok(sendfile(stream, file, Some(&mut from), count)?))
            {
                // A file system whose files the kernel cannot send by itself.
                Err(error) if is_unsupported(&error) => self.copy(file, offset + done, count)?,
                step => step?,
            };
            if step == 0 {
                break;
            }
            done += step as u64;
            sent(step as u64);
        }
        Ok(done)
    }

    fn copy(&mut self, file: &File, offset: u64, count: usize) -> io::Result<usize> {
        let mut buffer = vec![0; count];
        let read = file.read_at(&mut buffer, offset)?;
        self.write_all(&buffer[..read])?;
        Ok(read)
    }

    fn retry_until_deadline(
        &mut self,
        mut send: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let start = Instant::now();
        let mut interrupted: Option<Instant> = None;
        loop {
            match send(&self.stream) {
                Err(error) if is_timeout(&error) => {
                    if self.cancel.is_cancelled()
                        && interrupted.get_or_insert_with(Instant::now).elapsed() > FLUSH_GRACE
                    {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    let stuck = start.elapsed() > self.idle_timer.limit;
                    if stuck && self.idle_timer.is_expired() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(count) => {
                    self.idle_timer.taken_bytes.fetch_add(count as u64, Ordering::Relaxed);
                    self.pace.add(count as u64);
                    if self.pace.is_too_slow(start.elapsed()) && self.idle_timer.is_expired() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    return Ok(count);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP))
}

impl Write for TimedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.retry_until_deadline(|mut stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self.stream).flush()
    }
}

/// Bytes and time that a peer gets to stop talking after it was told why the session ended.
const DRAIN_BYTES: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// And when this program is to end.
const DRAIN_TIME_CANCELLED: Duration = Duration::from_millis(300);

/// Closes our half and takes what is still coming for a moment, a shorter one once `interrupt` is rung. Closing at once,
/// with bytes unread, would reset the connection, and the peer might never read our last words.
pub fn drain_and_close(stream: &TcpStream, cancel: &CancelToken) {
    if stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let mut limit = DRAIN_TIME;
    let mut start = Instant::now();
    let mut left = DRAIN_BYTES;
    let mut buffer = vec![0; 64 << 10];
    let mut reader = stream;
    // Looked for something else than this bell once it has been rung.
    let Ok(never) = CancelToken::new() else { return };
    let mut token = cancel;
    while start.elapsed() < limit && left > 0 {
        match token.wait(Some(stream.as_fd()), Some(limit.saturating_sub(start.elapsed()))) {
            Ok(Wake::Cancelled) => (token, limit, start) = (&never, DRAIN_TIME_CANCELLED, Instant::now()),
            Ok(Wake::TimedOut) => {}
            Ok(Wake::Ready) => match reader.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => left = left.saturating_sub(count),
                Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            },
            Err(_) => return,
        }
    }
}
