//! Reading from a peer: frames and bodies, each wait bounded.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use crate::digest::PartRange;
use crate::net::{self, Connection, CopyStep, FileReceiver, FrameDeadline, IdleTimer, MinRate};
use crate::recv::RecvError;
use crate::recv::handle::ConnectionHandle;
use crate::sync::{CancelToken, Wake};
use crate::sys::kernel_copy::write_all_at;
use crate::sys::wake::Interest;
use crate::wire::{Dialect, FrameBuffer, FrameError, Framing, WireError, dialect};

/// Bytes of a body in work at a time; small enough to stay in a core's cache between socket, hash and file.
pub const CHUNK_BYTES: usize = 256 << 10;

/// How long a peer has until its first frame is understood, whatever trickles in: enough for a packet that is lost
/// three times in a row, and far too little to keep others out.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// What is to be done while a connection is waited for: does what is due, and tells after how long something is again.
pub type IdleHook<'a> = &'a mut dyn FnMut() -> Result<Duration, RecvError>;

fn nothing() -> Result<Duration, RecvError> {
    Ok(net::POLL_INTERVAL)
}

/// One connection's bytes.
#[derive(Debug)]
pub struct ConnectionReader {
    handle: ConnectionHandle,
    buffer: FrameBuffer,
    idle_timer: IdleTimer,
    timeout: Duration,
    cancel: CancelToken,
    /// Until when the first frame has to be understood, and how long that was in all.
    handshake: Option<(Instant, Duration)>,
    /// Of bodies.
    min_rate: MinRate,
    /// The last read took all that was asked for: there may be more, and no need to wait for it.
    has_more: bool,
    /// Made for the first body: whoever has said nothing yet costs next to nothing.
    chunk: Box<[u8]>,
    /// Made for the first body that goes to a file.
    file_receiver: Option<FileReceiver>,
}

impl ConnectionReader {
    pub fn new(handle: ConnectionHandle, timeout: Duration, cancel: &CancelToken) -> Result<Self, RecvError> {
        handle.connection().establish().map_err(RecvError::Connection)?;
        let opening = timeout.min(HANDSHAKE_TIME);
        Ok(ConnectionReader {
            handle,
            buffer: FrameBuffer::new(),
            idle_timer: IdleTimer::new(timeout),
            timeout,
            cancel: cancel.clone(),
            handshake: Some((Instant::now() + opening, opening)),
            min_rate: MinRate::new(timeout),
            has_more: false,
            chunk: Box::default(),
            file_receiver: None,
        })
    }

    pub fn connection(&self) -> &Connection {
        self.handle.connection()
    }

    /// What the desk knows of the connection.
    pub fn handle(&self) -> &ConnectionHandle {
        &self.handle
    }

    /// It is known what the connection is for.
    pub fn handshake_done(&mut self) {
        self.handshake = None;
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    pub fn idle_timer(&self) -> &IdleTimer {
        &self.idle_timer
    }

    /// From now on, the peer counts as heard of when it says anything on any connection of its session, and what it
    /// delivers here counts for its first connection.
    pub fn join_session(&mut self, (idle_timer, first): &(IdleTimer, ConnectionHandle)) {
        self.idle_timer = idle_timer.clone();
        self.handle.attribute_to(first);
    }

    /// Rung when the program is to end.
    pub fn cancel_token(&self) -> &CancelToken {
        &self.cancel
    }

    /// Waits until something can be read, or the peer was silent for too long; `false` if the bell rang instead.
    pub fn wait_unless(&self, token: &CancelToken) -> Result<bool, RecvError> {
        loop {
            let tokens = [&self.cancel, token];
            let woken = self.connection().wait(Interest::Readable, &tokens, Some(net::POLL_INTERVAL));
            match woken.map_err(RecvError::Connection)? {
                Wake::Cancelled if self.cancel.is_cancelled() => return Err(RecvError::Interrupted),
                Wake::Cancelled => return Ok(false),
                _ if self.handle.is_evicted() => return Err(RecvError::Evicted),
                Wake::Ready => return Ok(true),
                Wake::TimedOut if self.idle_timer.is_expired() => {
                    return Err(RecvError::IdleTimeout(self.timeout));
                }
                Wake::TimedOut => {}
            }
        }
    }

    /// Lets some time go by; `false` if the bell rang instead.
    pub fn sleep(&self, token: &CancelToken, time: Duration) -> Result<bool, RecvError> {
        match CancelToken::wait_any(&[&self.cancel, token], None, Some(time))
            .map_err(RecvError::Connection)?
        {
            Wake::Cancelled if self.cancel.is_cancelled() => Err(RecvError::Interrupted),
            Wake::Cancelled => Ok(false),
            _ if self.handle.is_evicted() => Err(RecvError::Evicted),
            _ => Ok(true),
        }
    }

    /// What the first bytes say; `None` if there are none.
    pub fn detect_dialect(&mut self) -> Result<Option<Dialect>, RecvError> {
        let mut watch = self.idle_timer.frame_deadline();
        loop {
            if let Some(dialect) = dialect::detect(&self.buffer)? {
                return Ok(Some(dialect));
            }
            match self.fill_frame(&mut watch, &mut nothing) {
                Ok(true) => {}
                Ok(false) | Err(RecvError::Truncated(_) | RecvError::Interrupted)
                    if self.buffer.is_empty() =>
                {
                    return Ok(None);
                }
                Ok(false) => return Err(RecvError::Truncated("a header".into())),
                Err(error) => return Err(error),
            }
        }
    }

    /// Does anything more come within this time, be it the end? Bytes that come are kept.
    pub fn poll_activity(&mut self, limit: Duration) -> bool {
        if !self.buffer.is_empty() {
            return true;
        }
        match self.connection().wait_readable(&self.cancel, limit) {
            Ok(Wake::TimedOut) => false,
            // The end of this program, or what is wrong here: whoever reads next finds out.
            Ok(Wake::Cancelled) | Err(_) => true,
            Ok(Wake::Ready) => match self.handle.connection().read(self.buffer.space()) {
                Ok(count) => {
                    self.buffer.filled(count);
                    self.idle_timer.touch();
                    true
                }
                Err(error) => !net::is_timeout(&error),
            },
        }
    }

    /// Like [`Input::frame`], but silence, or a connection that is cut, is an end like any other where a frame could
    /// have begun: nothing is missing then.
    pub fn frame_or_end(
        &mut self,
        form: Framing,
        meanwhile: IdleHook<'_>,
    ) -> Result<Option<&[u8]>, RecvError> {
        let mut watch = self.idle_timer.frame_deadline();
        while !self.buffer.has_frame(form).map_err(frame_error)? {
            match self.fill_frame(&mut watch, meanwhile) {
                Ok(true) => {}
                Err(RecvError::IdleTimeout(_) | RecvError::Truncated(_)) | Ok(false)
                    if self.buffer.is_empty() =>
                {
                    return Ok(None);
                }
                Ok(false) => return Err(RecvError::Truncated("a header".into())),
                Err(error) => return Err(error),
            }
        }
        self.buffer.next_frame(form).map_err(frame_error)
    }

    /// Is a whole frame there, without reading more?
    pub fn has_frame(&self, form: Framing) -> bool {
        // An error is for whoever takes the frame.
        self.buffer.has_frame(form).unwrap_or(true)
    }

    /// The JSON of the next frame; `None` if the peer closed between frames.
    pub fn frame(&mut self, form: Framing) -> Result<Option<&[u8]>, RecvError> {
        let mut watch = self.idle_timer.frame_deadline();
        self.check_cancelled()?;
        loop {
            // Asked twice, because a frame that is returned borrows the inbox.
            if self.buffer.has_frame(form).map_err(frame_error)? {
                return self.buffer.next_frame(form).map_err(frame_error);
            }
            if !self.fill_frame(&mut watch, &mut nothing)? {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(RecvError::Truncated("a header".into()))
                };
            }
        }
    }

    /// Takes a body of `len` bytes and gives it to `take` in chunks. `name` is for errors.
    pub fn body(&mut self, len: u64, name: &str, take: impl FnMut(&[u8])) -> Result<(), RecvError> {
        self.take_body(len, name, |_| name.to_owned(), take, &mut nothing)
    }

    /// Like [`Input::body`], for one that is all there is of `name`: an early end tells how much is missing.
    pub fn whole_body(
        &mut self,
        len: u64,
        name: &str,
        take: impl FnMut(&[u8]),
        meanwhile: IdleHook<'_>,
    ) -> Result<(), RecvError> {
        let cut = |left| format!("{name}, {left} bytes before its end");
        self.take_body(len, name, cut, take, meanwhile)
    }

    fn take_body(
        &mut self,
        len: u64,
        name: &str,
        cut: impl Fn(u64) -> String,
        mut take: impl FnMut(&[u8]),
        meanwhile: IdleHook<'_>,
    ) -> Result<(), RecvError> {
        // Whenever some of it is taken, it counts as heard: writing may have taken its time, and the peer is not to blame.
        let mut left = len;
        let here = self.buffer.take_body(usize::try_from(len).unwrap_or(usize::MAX));
        if !here.is_empty() {
            take(here);
            left -= here.len() as u64;
            self.handle.record_bytes(here.len() as u64);
            self.idle_timer.touch();
        }
        if left > 0 {
            self.make_chunk(left);
        }
        while left > 0 {
            let reservation = left.min(CHUNK_BYTES as u64) as usize;
            let mut filled = 0;
            while filled < reservation {
                self.wait_for_body(meanwhile)?;
                match self.handle.connection().read(&mut self.chunk[filled..reservation]) {
                    Ok(0) => return Err(RecvError::Truncated(cut(left - filled as u64))),
                    Ok(count) => {
                        self.on_received(count);
                        filled += count;
                        self.has_more = filled == reservation;
                    }
                    Err(error) => self.classify_error(error, name)?,
                }
            }
            take(&self.chunk[..reservation]);
            left -= reservation as u64;
            self.idle_timer.touch();
        }
        Ok(())
    }

    /// Takes a body that belongs to `range` of a file and has the kernel put it there. `moved` hears of every step;
    /// `name` is for errors. The inner error is the file's: the body is taken all the same.
    pub fn body_to_file(
        &mut self,
        range: PartRange,
        name: impl Fn() -> String,
        file: &File,
        moved: impl Fn(&CopyStep),
    ) -> Result<io::Result<()>, RecvError> {
        let here = self.buffer.take_body(usize::try_from(range.len).unwrap_or(usize::MAX));
        let mut written = write_all_at(file, here, range.offset);
        let mut done = here.len() as u64;
        self.handle.record_bytes(done);
        moved(&CopyStep {
            taken: here.len(),
            is_full: false,
            written: Ok(()),
            waited: Duration::ZERO,
            wrote: Duration::ZERO,
        });
        let connection = self.connection().clone();
        let receiver = self.file_receiver.take().map_or_else(|| FileReceiver::new(&connection), Ok);
        let mut receiver = receiver.map_err(RecvError::Connection)?;
        while done < range.len && written.is_ok() {
            self.wait_for_body(&mut nothing)?;
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
        // A session of nothing but small files needs little.
        let needed = body_bytes.min(CHUNK_BYTES as u64) as usize;
        if self.chunk.len() < needed {
            self.chunk = vec![0; needed.next_power_of_two()].into();
        }
    }

    /// So much of a body came.
    fn on_received(&mut self, bytes: usize) {
        self.idle_timer.touch();
        self.handle.record_bytes(bytes as u64);
        self.min_rate.add(bytes as u64);
    }

    /// Waits for more of a body, with a peer that is slow and not too slow.
    fn wait_for_body(&mut self, meanwhile: IdleHook<'_>) -> Result<(), RecvError> {
        loop {
            if self.handle.is_evicted() {
                return Err(RecvError::Evicted);
            }
            let limit = self.do_meanwhile(meanwhile)?;
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

    /// Reads more of a frame; `false` at the end of the connection.
    fn fill_frame(&mut self, watch: &mut FrameDeadline, meanwhile: IdleHook<'_>) -> Result<bool, RecvError> {
        loop {
            self.check_cancelled()?;
            self.check_deadlines(watch)?;
            let limit = self.do_meanwhile(meanwhile)?;
            if !self.is_ready(limit)? {
                self.check_deadlines(watch)?;
                self.check_silence()?;
                continue;
            }
            match self.handle.connection().read(self.buffer.space()) {
                Ok(0) if self.handle.is_evicted() => return Err(RecvError::Evicted),
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.buffer.filled(count);
                    self.has_more = false;
                    self.idle_timer.touch();
                    return Ok(true);
                }
                Err(error) => self.classify_error(error, "a header")?,
            }
        }
    }

    /// The limits of a frame. What it is silent for is another matter.
    fn check_deadlines(&self, watch: &mut FrameDeadline) -> Result<(), RecvError> {
        let is_begun = !self.buffer.is_empty();
        match self.handshake {
            Some((end, limit)) if Instant::now() >= end => Err(match is_begun {
                true => RecvError::HeaderTimeout(limit),
                false => RecvError::IdleTimeout(limit),
            }),
            _ if watch.is_expired(is_begun) => Err(RecvError::HeaderTimeout(self.timeout)),
            _ if self.handle.is_evicted() && !self.handle.has_unread() => Err(RecvError::Evicted),
            _ => Ok(()),
        }
    }

    fn check_silence(&self) -> Result<(), RecvError> {
        if self.idle_timer.is_expired() { Err(RecvError::IdleTimeout(self.timeout)) } else { Ok(()) }
    }

    fn check_cancelled(&self) -> Result<(), RecvError> {
        if self.cancel.is_cancelled() { Err(RecvError::Interrupted) } else { Ok(()) }
    }

    /// Does what is due, and tells how long the next wait may be.
    fn do_meanwhile(&mut self, meanwhile: IdleHook<'_>) -> Result<Duration, RecvError> {
        let start = Instant::now();
        let limit = meanwhile()?;
        if start.elapsed() >= net::POLL_INTERVAL {
            // That took its time, and the peer is not to blame.
            self.idle_timer.touch();
        }
        Ok(limit.min(net::POLL_INTERVAL))
    }

    /// Waits a moment for something to read, or the end, where a read might wait for it: only here the bell is heard.
    fn is_ready(&self, limit: Duration) -> Result<bool, RecvError> {
        self.check_cancelled()?;
        if self.has_more {
            return Ok(true);
        }
        let woken = self.connection().wait_readable(&self.cancel, limit);
        match woken.map_err(RecvError::Connection)? {
            Wake::Cancelled => Err(RecvError::Interrupted),
            woken => Ok(woken == Wake::Ready),
        }
    }

    /// Is a read that failed to be tried again?
    fn classify_error(&mut self, error: std::io::Error, what: &str) -> Result<(), RecvError> {
        if net::is_timeout(&error) {
            // It was taken for ready and was not.
            self.has_more = false;
            return self.check_silence();
        }
        if error.kind() == std::io::ErrorKind::Interrupted {
            return Ok(());
        }
        if net::is_disconnect(&error) {
            return Err(RecvError::Truncated(what.to_owned()));
        }
        Err(RecvError::Connection(error))
    }

    /// Ends the connection with a reset: to a peer that is told nothing, the one sign that something was refused.
    pub fn reset(&self) {
        self.connection().reset_on_close();
    }

    /// Ends the connection so that the peer can read our last words.
    pub fn close(&self) {
        net::drain_and_close(self.connection(), &self.cancel);
    }
}

fn frame_error(error: FrameError) -> RecvError {
    RecvError::Wire(WireError::Frame(error))
}
