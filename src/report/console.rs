//! Standard output and error behind queues, each written to by a thread of its own, so that a log that is not read, or a
//! terminal that was stopped, holds no session up.
//!
//! | what | while the queue is full and nothing is read |
//! | --- | --- |
//! | notes, failed entries, closing lines of a receiver's sessions | left out; how many is told when reading goes on |
//! | progress bars | left out |
//! | the last lines of the program, and lists with bars beside them on one terminal | waited for |
//!
//! As long as anything is read, however slowly, nothing is left out. Lists that go to a pipe or a file do not come by
//! here: each session writes its own lines, and is held up by their reader, because none may be lost.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fd::AsFd;

/// Lines may wait up to so many bytes.
const MAX_QUEUED_BYTES: usize = 1 << 20;
/// Bars are drawn only where less than this waits: they are of no use later.
const MAX_QUEUED_BYTES_FOR_BARS: usize = 16 << 10;
/// A destination that has taken nothing for so long is not read.
const BLOCKED_TIME: Duration = Duration::from_millis(500);
/// A thread that has had nothing to write for so long ends.
const IDLE_TIME: Duration = Duration::from_secs(1);

/// A standard stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// For results.
    Stdout,
    /// For all the rest.
    Stderr,
}

/// What to do where a queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Wait while anything is read, then leave the line out.
    Drop,
    /// Wait, however long that takes.
    Wait,
}

/// Where lines go.
#[derive(Clone, Debug)]
pub struct Output(Arc<Destination>);

#[derive(Debug)]
struct Destination {
    state: Mutex<State>,
    changed: Condvar,
    write: fn(Stream, &[u8]),
}

#[derive(Debug)]
struct State {
    queue: VecDeque<(Stream, Vec<u8>)>,
    queued_bytes: usize,
    /// Lines that found no room since the last one that did.
    left_out: u64,
    /// When the destination last took anything, or had nothing to take.
    took: Instant,
    has_thread: bool,
}

impl State {
    fn is_full(&self) -> bool {
        self.queued_bytes >= MAX_QUEUED_BYTES
    }

    fn push(&mut self, stream: Stream, bytes: Vec<u8>) {
        if self.queue.is_empty() && self.queued_bytes == 0 {
            self.took = Instant::now();
        }
        self.queued_bytes += bytes.len();
        self.queue.push_back((stream, bytes));
    }

    fn push_left_out(&mut self) {
        let count = std::mem::take(&mut self.left_out);
        if count > 0 {
            let lines = if count == 1 { "1 line was" } else { &format!("{count} lines were") };
            let notice = format!("ftx: {lines} left out here, because nothing was read\n");
            self.push(Stream::Stderr, notice.into_bytes());
        }
    }
}

impl Output {
    /// Standard output and standard error: with one queue where they lead to the same file, pipe or terminal, so that lines
    /// keep their order there, and with one each otherwise, so that neither waits for the other.
    pub fn standard() -> (Self, Self) {
        let stdout = Output::new(write_standard);
        let id = |fd: &dyn AsFd| rustix::fs::fstat(fd.as_fd()).map(|stat| (stat.st_dev, stat.st_ino)).ok();
        let out = id(&io::stdout());
        let is_same = out.is_some() && out == id(&io::stderr());
        let stderr = if is_same { stdout.clone() } else { Output::new(write_standard) };
        (stdout, stderr)
    }

    fn new(write: fn(Stream, &[u8])) -> Self {
        let state = State {
            queue: VecDeque::new(),
            queued_bytes: 0,
            left_out: 0,
            took: Instant::now(),
            has_thread: false,
        };
        Output(Arc::new(Destination { state: Mutex::new(state), changed: Condvar::new(), write }))
    }

    /// Waits until a line may be queued, or is to be left out. Locks that other sessions need must not be held here.
    pub fn wait_for_room(&self, when_full: WhenFull) {
        let mut state = self.lock();
        while state.is_full() && (when_full == WhenFull::Wait || state.took.elapsed() < BLOCKED_TIME) {
            state =
                self.0.changed.wait_timeout(state, BLOCKED_TIME).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Queues a line if there is room for it.
    pub fn line(&self, stream: Stream, line: Vec<u8>) {
        let mut state = self.lock();
        if state.is_full() {
            state.left_out += 1;
        } else {
            state.push_left_out();
            state.push(stream, line);
            self.start(state);
        }
    }

    /// Queues what is drawn on a terminal, if that is not late with what came before.
    pub fn drawing(&self, bytes: Vec<u8>) {
        let mut state = self.lock();
        if state.queued_bytes < MAX_QUEUED_BYTES_FOR_BARS {
            state.push(Stream::Stderr, bytes);
            self.start(state);
        }
    }

    /// Waits until everything is written.
    pub fn flush(&self) {
        let mut state = self.lock();
        while state.queued_bytes > 0 || state.left_out > 0 {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn start(&self, mut state: MutexGuard<'_, State>) {
        if state.has_thread {
            drop(state);
            self.0.changed.notify_all();
            return;
        }
        state.has_thread = true;
        drop(state);
        let output = self.clone();
        let thread = thread::Builder::new().name("output".into()).spawn(move || output.write_all(IDLE_TIME));
        if thread.is_err() {
            // The system is short of threads: the one that prints writes by itself.
            self.write_all(Duration::ZERO);
        }
    }

    /// Writes what is queued, until nothing more has come for so long.
    fn write_all(&self, idle: Duration) {
        let mut state = self.lock();
        loop {
            let Some((stream, bytes)) = state.queue.pop_front() else {
                if state.left_out > 0 {
                    state.push_left_out();
                    continue;
                }
                let waited = self.0.changed.wait_timeout(state, idle);
                let (again, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                state = again;
                if timeout.timed_out() && state.queue.is_empty() && state.left_out == 0 {
                    state.has_thread = false;
                    return;
                }
                continue;
            };
            drop(state);
            (self.0.write)(stream, &bytes);
            state = self.lock();
            state.queued_bytes -= bytes.len();
            state.took = Instant::now();
            self.0.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transfer does not fail because its log cannot be written.
fn write_standard(stream: Stream, bytes: &[u8]) {
    let _ = match stream {
        Stream::Stdout => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        }
        Stream::Stderr => io::stderr().write_all(bytes),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was written, and whether anything more is read.
    static WRITTEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    static IS_READ: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

    fn write_when_read(_: Stream, bytes: &[u8]) {
        let mut is_read = IS_READ.0.lock().unwrap();
        while !*is_read {
            is_read = IS_READ.1.wait(is_read).unwrap();
        }
        WRITTEN.lock().unwrap().extend_from_slice(bytes);
    }

    #[test]
    fn what_is_not_read_blocks_no_thread_and_what_is_left_out_is_counted() {
        let output = Output::new(write_when_read);
        let line = |number: usize| format!("{number:01023}\n").into_bytes();
        let print = |number, when_full| {
            output.wait_for_room(when_full);
            output.line(Stream::Stderr, line(number));
        };
        let start = Instant::now();
        (0..1500).for_each(|number| print(number, WhenFull::Drop));
        // It was waited once for the time that shows that nothing is read.
        assert!(start.elapsed() < BLOCKED_TIME * 5, "{:?}", start.elapsed());
        let last = thread::spawn({
            let output = output.clone();
            move || {
                output.wait_for_room(WhenFull::Wait);
                output.line(Stream::Stderr, b"the last line\n".to_vec());
            }
        });
        *IS_READ.0.lock().unwrap() = true;
        IS_READ.1.notify_all();
        last.join().unwrap();
        output.flush();
        let written = String::from_utf8(WRITTEN.lock().unwrap().clone()).unwrap();
        let kept = MAX_QUEUED_BYTES / line(0).len();
        let lines: Vec<&str> = written.lines().collect();
        assert_eq!(lines.len(), kept + 2, "{lines:?}");
        for (number, written) in lines[..kept].iter().enumerate() {
            assert_eq!(written.as_bytes(), line(number).trim_ascii_end());
        }
        let notice = format!("ftx: {} lines were left out here, because nothing was read", 1500 - kept);
        assert_eq!(lines[kept..], [&notice, "the last line"]);
        output.drawing(b"bars".to_vec());
        output.flush();
        assert!(WRITTEN.lock().unwrap().ends_with(b"bars"));
    }
}
