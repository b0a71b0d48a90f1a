//! Reading from a peer: frames and bodies, each wait bounded.

use std::fs::File;
use std::io::{self, Read};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::RecvError;
use super::line::Line;
use crate::digest::PartRange;
use crate::net::{self, Bell, FrameWatch, LastHeard, Pace, Spliced, Splicer, Woken};
use crate::wire::{Dialect, Form, FrameError, Inbox, WireError, dialect};

/// Bytes of a body in work at a time; small enough to stay in a core's cache between socket, hash and file.
pub const CHUNK_BYTES: usize = 256 << 10;

/// How long a peer has until its first frame is understood, whatever trickles in: enough for a packet that is lost
/// three times in a row, and far too little to keep others out.
pub const OPENING_TIME: Duration = Duration::from_secs(10);

/// What is to be done while a connection is waited for: does what is due, and tells after how long something is again.
pub type WhileWaiting<'a> = &'a mut dyn FnMut() -> Result<Duration, RecvError>;

fn nothing() -> Result<Duration, RecvError> {
    Ok(net::TICK)
}

/// One connection's bytes.
#[derive(Debug)]
pub struct Input {
    line: Line,
    inbox: Inbox,
    heard: LastHeard,
    timeout: Duration,
    interrupt: Bell,
    /// Until when the first frame has to be understood, and how long that was in all.
    opening: Option<(Instant, Duration)>,
    /// Of bodies.
    pace: Pace,
    /// The last read took all that was asked for: there may be more, and no need to wait for it.
    has_more: bool,
    /// Made for the first body: whoever has said nothing yet costs next to nothing.
    chunk: Box<[u8]>,
    /// Made for the first body that goes to a file.
    splicer: Option<Splicer>,
}

impl Input {
    pub fn new(line: Line, timeout: Duration, interrupt: &Bell) -> Result<Self, RecvError> {
        net::prepare(line.stream()).map_err(RecvError::Connection)?;
        let opening = timeout.min(OPENING_TIME);
        Ok(Input {
            line,
            inbox: Inbox::new(),
            heard: LastHeard::new(timeout),
            timeout,
            interrupt: interrupt.clone(),
            opening: Some((Instant::now() + opening, opening)),
            pace: Pace::new(timeout),
            has_more: false,
            chunk: Box::default(),
            splicer: None,
        })
    }

    pub fn stream(&self) -> &TcpStream {
        self.line.stream()
    }

    /// For whoever writes while this reads.
    pub fn shared_stream(&self) -> Arc<TcpStream> {
        self.line.shared_stream()
    }

    /// What the desk knows of the connection.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// It is known what the connection is for.
    pub fn opened(&mut self) {
        self.opening = None;
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    pub fn heard(&self) -> &LastHeard {
        &self.heard
    }

    /// From now on, the peer counts as heard of when it says anything on any connection of its session, and what it
    /// delivers here counts for its first connection.
    pub fn share(&mut self, (heard, first): &(LastHeard, Line)) {
        self.heard = heard.clone();
        self.line.belongs_to(first);
    }

    /// Rung when the program is to end.
    pub fn interrupt(&self) -> &Bell {
        &self.interrupt
    }

    /// Waits until something can be read, or the peer was silent for too long; `false` if the bell rang instead.
    pub fn wait_unless(&self, bell: &Bell) -> Result<bool, RecvError> {
        loop {
            let woken = self.interrupt.wait_either(bell, Some(self.stream().as_fd()), Some(net::TICK));
            match woken.map_err(RecvError::Connection)? {
                Woken::Bell if self.interrupt.is_rung() => return Err(RecvError::Interrupted),
                Woken::Bell => return Ok(false),
                _ if self.line.has_given_way() => return Err(RecvError::GaveWay),
                Woken::Ready => return Ok(true),
                Woken::Nothing if self.heard.is_too_long_ago() => {
                    return Err(RecvError::Silent(self.timeout));
                }
                Woken::Nothing => {}
            }
        }
    }

    /// Lets some time go by; `false` if the bell rang instead.
    pub fn pause_unless(&self, bell: &Bell, time: Duration) -> Result<bool, RecvError> {
        match self.interrupt.wait_either(bell, None, Some(time)).map_err(RecvError::Connection)? {
            Woken::Bell if self.interrupt.is_rung() => Err(RecvError::Interrupted),
            Woken::Bell => Ok(false),
            _ if self.line.has_given_way() => Err(RecvError::GaveWay),
            _ => Ok(true),
        }
    }

    /// What the first bytes say; `None` if there are none.
    pub fn first(&mut self) -> Result<Option<Dialect>, RecvError> {
        let mut watch = self.heard.frame_watch();
        loop {
            if let Some(dialect) = dialect::detect(&self.inbox)? {
                return Ok(Some(dialect));
            }
            match self.fill_frame(&mut watch, &mut nothing) {
                Ok(true) => {}
                Ok(false) | Err(RecvError::Truncated(_) | RecvError::Interrupted)
                    if self.inbox.is_empty() =>
                {
                    return Ok(None);
                }
                Ok(false) => return Err(RecvError::Truncated("a header".into())),
                Err(error) => return Err(error),
            }
        }
    }

    /// Does anything more come within this time, be it the end? Bytes that come are kept.
    pub fn stirs(&mut self, limit: Duration) -> bool {
        if !self.inbox.is_empty() {
            return true;
        }
        match self.interrupt.wait(Some(self.stream().as_fd()), Some(limit)) {
            Ok(Woken::Nothing) => false,
            // The end of this program, or what is wrong here: whoever reads next finds out.
            Ok(Woken::Bell) | Err(_) => true,
            Ok(Woken::Ready) => match self.line.stream().read(self.inbox.space()) {
                Ok(count) => {
                    self.inbox.filled(count);
                    self.heard.now();
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
        form: Form,
        meanwhile: WhileWaiting<'_>,
    ) -> Result<Option<&[u8]>, RecvError> {
        let mut watch = self.heard.frame_watch();
        while !self.inbox.has_frame(form).map_err(frame_error)? {
            match self.fill_frame(&mut watch, meanwhile) {
                Ok(true) => {}
                Err(RecvError::Silent(_) | RecvError::Truncated(_)) | Ok(false) if self.inbox.is_empty() => {
                    return Ok(None);
                }
                Ok(false) => return Err(RecvError::Truncated("a header".into())),
                Err(error) => return Err(error),
            }
        }
        self.inbox.next_frame(form).map_err(frame_error)
    }

    /// Is a whole frame there, without reading more?
    pub fn has_frame(&self, form: Form) -> bool {
        // An error is for whoever takes the frame.
        self.inbox.has_frame(form).unwrap_or(true)
    }

    /// The JSON of the next frame; `None` if the peer closed between frames.
    pub fn frame(&mut self, form: Form) -> Result<Option<&[u8]>, RecvError> {
        let mut watch = self.heard.frame_watch();
        self.go_on()?;
        loop {
            // Asked twice, because a frame that is returned borrows the inbox.
            if self.inbox.has_frame(form).map_err(frame_error)? {
                return self.inbox.next_frame(form).map_err(frame_error);
            }
            if !self.fill_frame(&mut watch, &mut nothing)? {
                return if self.inbox.is_empty() {
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
        meanwhile: WhileWaiting<'_>,
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
        meanwhile: WhileWaiting<'_>,
    ) -> Result<(), RecvError> {
        // Whenever some of it is taken, it counts as heard: writing may have taken its time, and the peer is not to blame.
        let mut left = len;
        let here = self.inbox.take_body(usize::try_from(len).unwrap_or(usize::MAX));
        if !here.is_empty() {
            take(here);
            left -= here.len() as u64;
            self.line.delivers(here.len() as u64);
            self.heard.now();
        }
        if left > 0 {
            self.make_chunk(left);
        }
        while left > 0 {
            let room = left.min(CHUNK_BYTES as u64) as usize;
            let mut filled = 0;
            while filled < room {
                self.wait_for_body(meanwhile)?;
                match self.line.stream().read(&mut self.chunk[filled..room]) {
                    Ok(0) => return Err(RecvError::Truncated(cut(left - filled as u64))),
                    Ok(count) => {
                        self.came(count);
                        filled += count;
                        self.has_more = filled == room;
                    }
                    Err(error) => self.wait_on(error, name)?,
                }
            }
            take(&self.chunk[..room]);
            left -= room as u64;
            self.heard.now();
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
        moved: impl Fn(&Spliced),
    ) -> Result<io::Result<()>, RecvError> {
        let here = self.inbox.take_body(usize::try_from(range.len).unwrap_or(usize::MAX));
        let mut written = file.write_all_at(here, range.offset);
        let mut done = here.len() as u64;
        self.line.delivers(done);
        moved(&Spliced {
            taken: here.len(),
            is_full: false,
            written: Ok(()),
            waited: Duration::ZERO,
            wrote: Duration::ZERO,
        });
        let splicer = self.splicer.take().map_or_else(Splicer::new, Ok).map_err(RecvError::Connection)?;
        while done < range.len && written.is_ok() {
            self.wait_for_body(&mut nothing)?;
            match splicer.step(self.line.stream(), file, range.offset + done, range.len - done) {
                Ok(Spliced { taken: 0, .. }) => return Err(RecvError::Truncated(name())),
                Ok(step) => {
                    done += step.taken as u64;
                    self.has_more = step.is_full;
                    self.came(step.taken);
                    moved(&step);
                    written = step.written;
                }
                Err(error) => self.wait_on(error, &name())?,
            }
        }
        self.splicer = Some(splicer);
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
    fn came(&mut self, bytes: usize) {
        self.heard.now();
        self.line.delivers(bytes as u64);
        self.pace.moved(bytes as u64);
    }

    /// Waits for more of a body, with a peer that is slow and not too slow.
    fn wait_for_body(&mut self, meanwhile: WhileWaiting<'_>) -> Result<(), RecvError> {
        loop {
            if self.line.has_given_way() {
                return Err(RecvError::GaveWay);
            }
            let limit = self.do_meanwhile(meanwhile)?;
            let start = Instant::now();
            let is_ready = self.is_ready(limit)?;
            if self.pace.is_too_slow(start.elapsed()) {
                return Err(RecvError::TooSlow(self.pace.window()));
            }
            if is_ready {
                return Ok(());
            }
            self.check_silence()?;
        }
    }

    /// Reads more of a frame; `false` at the end of the connection.
    fn fill_frame(&mut self, watch: &mut FrameWatch, meanwhile: WhileWaiting<'_>) -> Result<bool, RecvError> {
        loop {
            self.go_on()?;
            self.check_deadlines(watch)?;
            let limit = self.do_meanwhile(meanwhile)?;
            if !self.is_ready(limit)? {
                self.check_deadlines(watch)?;
                self.check_silence()?;
                continue;
            }
            match self.line.stream().read(self.inbox.space()) {
                Ok(0) if self.line.has_given_way() => return Err(RecvError::GaveWay),
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.inbox.filled(count);
                    self.has_more = false;
                    self.heard.now();
                    return Ok(true);
                }
                Err(error) => self.wait_on(error, "a header")?,
            }
        }
    }

    /// The limits of a frame. What it is silent for is another matter.
    fn check_deadlines(&self, watch: &mut FrameWatch) -> Result<(), RecvError> {
        let is_begun = !self.inbox.is_empty();
        match self.opening {
            Some((end, limit)) if Instant::now() >= end => Err(match is_begun {
                true => RecvError::Unfinished(limit),
                false => RecvError::Silent(limit),
            }),
            _ if watch.is_overdue(is_begun) => Err(RecvError::Unfinished(self.timeout)),
            _ if self.line.has_given_way() && !self.line.has_unread() => Err(RecvError::GaveWay),
            _ => Ok(()),
        }
    }

    fn check_silence(&self) -> Result<(), RecvError> {
        if self.heard.is_too_long_ago() { Err(RecvError::Silent(self.timeout)) } else { Ok(()) }
    }

    fn go_on(&self) -> Result<(), RecvError> {
        if self.interrupt.is_rung() { Err(RecvError::Interrupted) } else { Ok(()) }
    }

    /// Does what is due, and tells how long the next wait may be.
    fn do_meanwhile(&mut self, meanwhile: WhileWaiting<'_>) -> Result<Duration, RecvError> {
        let start = Instant::now();
        let limit = meanwhile()?;
        if start.elapsed() >= net::TICK {
            // That took its time, and the peer is not to blame.
            self.heard.now();
        }
        Ok(limit.min(net::TICK))
    }

    /// Waits a moment for something to read, or the end, where a read might wait for it: only here the bell is heard.
    fn is_ready(&self, limit: Duration) -> Result<bool, RecvError> {
        self.go_on()?;
        if self.has_more {
            return Ok(true);
        }
        let woken = self.interrupt.wait(Some(self.stream().as_fd()), Some(limit));
        match woken.map_err(RecvError::Connection)? {
            Woken::Bell => Err(RecvError::Interrupted),
            woken => Ok(woken == Woken::Ready),
        }
    }

    /// Is a read that failed to be tried again?
    fn wait_on(&mut self, error: std::io::Error, what: &str) -> Result<(), RecvError> {
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
        net::reset_on_close(self.stream());
    }

    /// Ends the connection so that the peer can read our last words.
    pub fn close(&self) {
        net::linger(self.stream(), &self.interrupt);
    }
}

fn frame_error(error: FrameError) -> RecvError {
    RecvError::Wire(WireError::Frame(error))
}
