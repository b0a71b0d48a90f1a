//! Queues before standard output and standard error, each drained by its own thread, so that a log that is not read or
//! a stopped terminal does not block a session.
//!
//! | output | if the queue is full and the destination takes nothing |
//! | --- | --- |
//! | notes, failed entries, closing lines of a receiver's sessions | dropped; their number is printed later |
//! | progress bars | dropped |
//! | last lines of the program; lists on a terminal with bars | the caller waits |
//!
//! While the destination takes anything, however slowly, no line is dropped. Lists that go to a pipe or a file bypass the
//! queues: each session writes its own lines and waits for their reader, because no line may be lost.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::sync::{lock, wait, wait_timeout};
use crate::sys::terminal;

/// Capacity of a queue.
const MAX_QUEUED_BYTES: usize = 1 << 20;
/// Bars are queued only below this fill level: drawn late, they are useless.
const MAX_QUEUED_BYTES_FOR_BARS: usize = 16 << 10;
/// A destination that takes nothing for this long counts as not read.
const BLOCKED_TIME: Duration = Duration::from_millis(500);
/// A thread that has nothing to write for this long ends.
const IDLE_TIME: Duration = Duration::from_secs(1);

/// A standard stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdStream {
    /// Results.
    Stdout,
    /// Everything else.
    Stderr,
}

/// What to do with a line if the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Wait while the destination takes anything, then drop the line.
    Drop,
    /// Wait without a limit.
    Wait,
}

/// A queue and its destination. Clones share them.
#[derive(Clone, Debug)]
pub struct Output(Arc<Destination>);

#[derive(Debug)]
struct Destination {
    state: Mutex<OutputQueue>,
    changed: Condvar,
    write: fn(StdStream, &[u8]),
}

#[derive(Debug)]
struct OutputQueue {
    queue: VecDeque<(StdStream, Vec<u8>)>,
    queued_bytes: usize,
    /// Lines dropped since the last queued one.
    dropped: u64,
    /// When the destination last took bytes, or the queue was empty.
    last_write: Instant,
    has_thread: bool,
}

impl OutputQueue {
    fn is_full(&self) -> bool {
        self.queued_bytes >= MAX_QUEUED_BYTES
    }

    fn push(&mut self, stream: StdStream, bytes: Vec<u8>) {
        if self.queue.is_empty() && self.queued_bytes == 0 {
            self.last_write = Instant::now();
        }
        self.queued_bytes += bytes.len();
        self.queue.push_back((stream, bytes));
    }

    fn push_dropped(&mut self) {
        let count = std::mem::take(&mut self.dropped);
        if count > 0 {
            let lines = if count == 1 { "1 line was" } else { &format!("{count} lines were") };
            let notice = format!("ftx: {lines} dropped, because the output was not read\n");
            self.push(StdStream::Stderr, notice.into_bytes());
        }
    }
}

impl Output {
    /// Standard output and standard error: one queue if both are the same file, pipe or terminal, so that lines keep
    /// their order; two queues otherwise, so that neither blocks the other.
    pub fn standard() -> (Self, Self) {
        let stdout = Output::new(write_standard);
        let is_same = terminal::stdout_is_stderr();
        let stderr = if is_same { stdout.clone() } else { Output::new(write_standard) };
        (stdout, stderr)
    }

    fn new(write: fn(StdStream, &[u8])) -> Self {
        let state = OutputQueue {
            queue: VecDeque::new(),
            queued_bytes: 0,
            dropped: 0,
            last_write: Instant::now(),
            has_thread: false,
        };
        Output(Arc::new(Destination { state: Mutex::new(state), changed: Condvar::new(), write }))
    }

    /// Waits until there is room for a line, or until the line may be dropped. Call it without locks that other sessions
    /// need.
    pub fn wait_for_room(&self, when_full: WhenFull) {
        let mut state = self.lock();
        while state.is_full() && (when_full == WhenFull::Wait || state.last_write.elapsed() < BLOCKED_TIME) {
            state = wait_timeout(&self.0.changed, state, BLOCKED_TIME);
        }
    }

    /// Queues a line, or drops it if the queue is full.
    pub fn line(&self, stream: StdStream, line: Vec<u8>) {
        let mut state = self.lock();
        if state.is_full() {
            state.dropped += 1;
        } else {
            state.push_dropped();
            state.push(stream, line);
            self.start(state);
        }
    }

    /// Queues a drawing of the bars, or drops it if much is queued.
    pub fn drawing(&self, bytes: Vec<u8>) {
        let mut state = self.lock();
        if state.queued_bytes < MAX_QUEUED_BYTES_FOR_BARS {
            state.push(StdStream::Stderr, bytes);
            self.start(state);
        }
    }

    /// Waits until everything is written.
    pub fn flush(&self) {
        let mut state = self.lock();
        while state.queued_bytes > 0 || state.dropped > 0 {
            state = wait(&self.0.changed, state);
        }
    }

    fn start(&self, mut state: MutexGuard<'_, OutputQueue>) {
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
            // No thread can be started: this thread writes.
            self.write_all(Duration::ZERO);
        }
    }

    /// Writes the queued bytes; returns when nothing was queued for the time `idle`.
    fn write_all(&self, idle: Duration) {
        let mut state = self.lock();
        loop {
            let Some((stream, bytes)) = state.queue.pop_front() else {
                if state.dropped > 0 {
                    state.push_dropped();
                    continue;
                }
                let start = Instant::now();
                state = wait_timeout(&self.0.changed, state, idle);
                if start.elapsed() >= idle && state.queue.is_empty() && state.dropped == 0 {
                    state.has_thread = false;
                    return;
                }
                continue;
            };
            drop(state);
            (self.0.write)(stream, &bytes);
            state = self.lock();
            state.queued_bytes -= bytes.len();
            state.last_write = Instant::now();
            self.0.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, OutputQueue> {
        lock(&self.0.state)
    }
}

/// Errors are ignored: a transfer does not fail because its log cannot be written.
fn write_standard(stream: StdStream, bytes: &[u8]) {
    let _ = match stream {
        StdStream::Stdout => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        }
        StdStream::Stderr => io::stderr().write_all(bytes),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The destination of this test, and whether it takes bytes.
    static WRITTEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    static IS_READ: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

    fn write_when_read(_: StdStream, bytes: &[u8]) {
        let mut is_read = IS_READ.0.lock().unwrap();
        while !*is_read {
            is_read = IS_READ.1.wait(is_read).unwrap();
        }
        WRITTEN.lock().unwrap().extend_from_slice(bytes);
    }

    #[test]
    fn an_unread_output_blocks_no_thread_and_dropped_lines_are_counted() {
        let output = Output::new(write_when_read);
        let line = |number: usize| format!("{number:01023}\n").into_bytes();
        let print = |number, when_full| {
            output.wait_for_room(when_full);
            output.line(StdStream::Stderr, line(number));
        };
        let start = Instant::now();
        (0..1500).for_each(|number| print(number, WhenFull::Drop));
        // Only the first line that does not fit waits for `BLOCKED_TIME`.
        assert!(start.elapsed() < BLOCKED_TIME * 5, "{:?}", start.elapsed());
        let last = thread::spawn({
            let output = output.clone();
            move || {
                output.wait_for_room(WhenFull::Wait);
                output.line(StdStream::Stderr, b"the last line\n".to_vec());
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
        let notice = format!("ftx: {} lines were dropped, because the output was not read", 1500 - kept);
        assert_eq!(lines[kept..], [&notice, "the last line"]);
        output.drawing(b"bars".to_vec());
        output.flush();
        assert!(WRITTEN.lock().unwrap().ends_with(b"bars"));
    }
}
