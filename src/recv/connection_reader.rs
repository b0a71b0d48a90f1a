//! Reads the frames of a connection, each wait bounded. `body_reader` reads the bodies.

use std::io;
use std::time::{Duration, Instant};

use crate::net::{self, Connection, FileReceiver, FrameDeadline, IdleTimer, MinRate};
use crate::recv::error::RecvError;
use crate::recv::handle::ConnectionHandle;
use crate::sync::{CancelToken, Wake};
use crate::sys::wake::Interest;
use crate::wire::{Dialect, FrameBuffer, FrameError, Framing, WireError, dialect};

/// How long the first frame may take: enough for a packet that is lost three times in a row, and too short to block other
/// connections.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Work to be done while a connection is waited for; returns after how long it is to be called again.
pub type IdleHook<'a> = &'a mut dyn FnMut() -> Result<Duration, RecvError>;

/// An [`IdleHook`] without work.
pub fn no_hook() -> Result<Duration, RecvError> {
    Ok(net::POLL_INTERVAL)
}

/// Reads one connection.
#[derive(Debug)]
pub struct ConnectionReader {
    pub(super) handle: ConnectionHandle,
    pub(super) buffer: FrameBuffer,
    pub(super) idle_timer: IdleTimer,
    timeout: Duration,
    cancel: CancelToken,
    /// The deadline of the first frame, and the time until then; `None` once the frame is complete.
    handshake: Option<(Instant, Duration)>,
    /// The minimum rate of bodies.
    pub(super) min_rate: MinRate,
    /// The last read filled its buffer, so the next one needs no wait.
    pub(super) has_more: bool,
    /// A buffer for bodies, allocated for the first one.
    pub(super) chunk: Box<[u8]>,
    /// Created for the first body that the kernel moves to a file.
    pub(super) file_receiver: Option<FileReceiver>,
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

    /// The connection and its activity, as admission control sees it.
    pub fn handle(&self) -> &ConnectionHandle {
        &self.handle
    }

    /// The first frame is complete.
    pub fn handshake_done(&mut self) {
        self.handshake = None;
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    pub fn idle_timer(&self) -> &IdleTimer {
        &self.idle_timer
    }

    /// Shares the timer for silence and the activity of the session's primary connection.
    pub fn join_session(&mut self, idle_timer: &IdleTimer, primary: &ConnectionHandle) {
        self.idle_timer = idle_timer.clone();
        self.handle.attribute_to(primary);
    }

    /// Cancelled when the program is to end.
    pub fn cancel_token(&self) -> &CancelToken {
        &self.cancel
    }

    /// Waits until something can be read; `false` if `token` is cancelled first.
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

    /// Waits for `time`; `false` if `token` is cancelled first.
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

    /// The dialect of the first bytes; `None` if there are none.
    pub fn detect_dialect(&mut self) -> Result<Option<Dialect>, RecvError> {
        let mut deadline = self.idle_timer.frame_deadline();
        loop {
            if let Some(dialect) = dialect::detect(&self.buffer)? {
                return Ok(Some(dialect));
            }
            match self.fill_frame(&mut deadline, &mut no_hook) {
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

    /// Waits up to `limit` for bytes, which are kept, or the end of the connection; `false` if there is neither.
    pub fn poll_activity(&mut self, limit: Duration) -> bool {
        if !self.buffer.is_empty() {
            return true;
        }
        match self.connection().wait_readable(&self.cancel, limit) {
            Ok(Wake::TimedOut) => false,
            // The next read returns the error.
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

    /// Like [`ConnectionReader::frame`], but silence and a reset between frames count as the end of the connection.
    pub fn frame_or_end(&mut self, framing: Framing, hook: IdleHook<'_>) -> Result<Option<&[u8]>, RecvError> {
        let mut deadline = self.idle_timer.frame_deadline();
        while !self.buffer.has_frame(framing).map_err(frame_error)? {
            match self.fill_frame(&mut deadline, hook) {
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
        self.buffer.next_frame(framing).map_err(frame_error)
    }

    /// Is a whole frame in the buffer?
    pub fn has_frame(&self, framing: Framing) -> bool {
        // `frame` returns the error.
        self.buffer.has_frame(framing).unwrap_or(true)
    }

    /// Whether bytes beyond the last frame have arrived.
    pub fn has_buffered(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The JSON of the next frame; `None` if the peer closed between frames.
    pub fn frame(&mut self, framing: Framing) -> Result<Option<&[u8]>, RecvError> {
        let mut deadline = self.idle_timer.frame_deadline();
        self.check_cancelled()?;
        loop {
            // Two calls, because the returned frame borrows the buffer.
            if self.buffer.has_frame(framing).map_err(frame_error)? {
                return self.buffer.next_frame(framing).map_err(frame_error);
            }
            if !self.fill_frame(&mut deadline, &mut no_hook)? {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(RecvError::Truncated("a header".into()))
                };
            }
        }
    }

    /// Reads more of a frame; `false` at the end of the connection.
    fn fill_frame(&mut self, deadline: &mut FrameDeadline, hook: IdleHook<'_>) -> Result<bool, RecvError> {
        loop {
            self.check_cancelled()?;
            self.check_deadlines(deadline)?;
            let limit = self.call_hook(hook)?;
            if !self.is_ready(limit)? {
                self.check_deadlines(deadline)?;
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

    /// Checks the time limits of a frame; silence is checked separately.
    fn check_deadlines(&self, deadline: &mut FrameDeadline) -> Result<(), RecvError> {
        let is_begun = !self.buffer.is_empty();
        match self.handshake {
            Some((end, limit)) if Instant::now() >= end => Err(match is_begun {
                true => RecvError::HeaderTimeout(limit),
                false => RecvError::IdleTimeout(limit),
            }),
            _ if deadline.is_expired(is_begun) => Err(RecvError::HeaderTimeout(self.timeout)),
            _ if self.handle.is_evicted() && !self.handle.has_unread() => Err(RecvError::Evicted),
            _ => Ok(()),
        }
    }

    pub(super) fn check_silence(&self) -> Result<(), RecvError> {
        if self.idle_timer.is_expired() { Err(RecvError::IdleTimeout(self.timeout)) } else { Ok(()) }
    }

    fn check_cancelled(&self) -> Result<(), RecvError> {
        if self.cancel.is_cancelled() { Err(RecvError::Interrupted) } else { Ok(()) }
    }

    /// Calls the hook; returns how long the next wait may be.
    pub(super) fn call_hook(&mut self, hook: IdleHook<'_>) -> Result<Duration, RecvError> {
        let start = Instant::now();
        let limit = hook()?;
        if start.elapsed() >= net::POLL_INTERVAL {
            // The peer may have sent something meanwhile.
            self.idle_timer.touch();
        }
        Ok(limit.min(net::POLL_INTERVAL))
    }

    /// Waits up to `limit` for something to read. A read itself does not react to cancellation.
    pub(super) fn is_ready(&self, limit: Duration) -> Result<bool, RecvError> {
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

    /// `Ok` if a failed read is to be repeated.
    pub(super) fn classify_error(&mut self, error: io::Error, what: &str) -> Result<(), RecvError> {
        if net::is_timeout(&error) {
            // `has_more` was wrong.
            self.has_more = false;
            return self.check_silence();
        }
        if error.kind() == io::ErrorKind::Interrupted {
            return Ok(());
        }
        if net::is_disconnect(&error) {
            return Err(RecvError::Truncated(what.to_owned()));
        }
        Err(RecvError::Connection(error))
    }

    /// Makes the end of the connection a reset, which tells a classic sender that a file was refused.
    pub fn reset(&self) {
        self.connection().reset_on_close();
    }

    /// Closes the connection so that the peer can still read the last frames.
    pub fn close(&self) {
        net::drain_and_close(self.connection(), &self.cancel);
    }
}

fn frame_error(error: FrameError) -> RecvError {
    RecvError::Wire(WireError::Frame(error))
}
