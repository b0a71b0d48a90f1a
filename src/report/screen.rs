//! The standard streams with progress bars on standard error.

use std::fmt;
use std::io::{self, IsTerminal};
use std::mem;
use std::sync::Mutex;

use indicatif::{MultiProgress, ProgressDrawTarget, TermLike};

use super::console::{Output, StdStream, WhenFull};
use crate::escape::Escaped;
use crate::sync::lock;
use crate::sys::terminal;

/// Size of a terminal that does not report its own.
const DEFAULT_SIZE: (u16, u16) = (80, 24);
/// Width of the bars in a log.
const LOG_COLUMNS: u16 = 100;

/// Redraws of the bars per second, on a terminal and in a log.
const TERMINAL_HZ: u8 = 20;
const LOG_HZ: u8 = 2;

/// Both standard streams and the bars. Clones share them.
#[derive(Clone, Debug)]
pub struct Screen {
    multi: MultiProgress,
    has_bars: bool,
    stdout: Output,
    stderr: Output,
}

impl Screen {
    /// With or without bars.
    pub fn new(has_bars: bool) -> Self {
        let (stdout, stderr) = Output::standard();
        let drawing = stderr.clone();
        let target = if !has_bars {
            ProgressDrawTarget::hidden()
        } else if io::stderr().is_terminal() {
            let terminal = Terminal { output: drawing, drawn: Mutex::default() };
            ProgressDrawTarget::term_like_with_hz(Box::new(terminal), TERMINAL_HZ)
        } else {
            ProgressDrawTarget::term_like_with_hz(Box::new(Log(drawing)), LOG_HZ)
        };
        Screen { multi: MultiProgress::with_draw_target(target), has_bars, stdout, stderr }
    }

    /// The bars.
    pub fn multi(&self) -> &MultiProgress {
        &self.multi
    }

    /// Whether bars are drawn.
    pub fn has_bars(&self) -> bool {
        self.has_bars
    }

    /// Prints a line, escaped as a whole: the last safeguard for foreign text that was not escaped before.
    pub fn line(&self, stream: StdStream, line: &str, when_full: WhenFull) {
        self.print(stream, shown(line), when_full);
    }

    /// Prints a line with its line feed, not escaped.
    pub fn print(&self, stream: StdStream, line: Vec<u8>, when_full: WhenFull) {
        let output = match stream {
            StdStream::Stdout => &self.stdout,
            StdStream::Stderr => &self.stderr,
        };
        // Before the bars are suspended: meanwhile no other thread can draw.
        output.wait_for_room(when_full);
        if self.has_bars {
            self.multi.suspend(|| output.line(stream, line));
        } else {
            output.line(stream, line);
        }
    }

    /// Removes the bars and draws no more.
    pub fn clear_bars(&self) {
        let _ = self.multi.clear();
        self.multi.set_draw_target(ProgressDrawTarget::hidden());
    }

    /// Waits until everything is written.
    pub fn flush(&self) {
        self.stdout.flush();
        self.flush_errors();
    }

    /// Waits until everything is written to standard error.
    pub fn flush_errors(&self) {
        self.stderr.flush();
    }
}

/// One buffer, because standard error is unbuffered.
fn shown(line: &str) -> Vec<u8> {
    format!("{}\n", Escaped::new(line)).into_bytes()
}

/// Width of the bars.
pub fn columns() -> u16 {
    if io::stderr().is_terminal() { size().0 } else { LOG_COLUMNS }
}

/// Columns and rows of the terminal behind standard error.
fn size() -> (u16, u16) {
    terminal::stderr_size().unwrap_or(DEFAULT_SIZE)
}

/// The terminal behind standard error; drawings pass through the queue.
struct Terminal {
    output: Output,
    /// Bytes since the last flush.
    drawn: Mutex<Vec<u8>>,
}

impl Terminal {
    fn draw(&self, text: &str) -> io::Result<()> {
        lock(&self.drawn).extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn move_cursor(&self, count: usize, direction: char) -> io::Result<()> {
        if count == 0 { Ok(()) } else { self.draw(&format!("\x1b[{count}{direction}")) }
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Terminal")
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        size().0
    }
    fn height(&self) -> u16 {
        size().1
    }
    fn move_cursor_up(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'A')
    }
    fn move_cursor_down(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'B')
    }
    fn move_cursor_right(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'C')
    }
    fn move_cursor_left(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'D')
    }
    fn write_line(&self, line: &str) -> io::Result<()> {
        self.draw(line)?;
        self.draw("\n")
    }
    fn write_str(&self, text: &str) -> io::Result<()> {
        self.draw(text)
    }
    fn clear_line(&self) -> io::Result<()> {
        self.draw("\r\x1b[2K")
    }
    fn flush(&self) -> io::Result<()> {
        let drawn = mem::take(&mut *lock(&self.drawn));
        if !drawn.is_empty() {
            self.output.drawing(drawn);
        }
        Ok(())
    }
}

/// `--progress always` without a terminal: lines without cursor movement.
#[derive(Debug)]
struct Log(Output);

impl TermLike for Log {
    fn width(&self) -> u16 {
        LOG_COLUMNS
    }
    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn write_line(&self, line: &str) -> io::Result<()> {
        self.write_str(line)
    }
    fn write_str(&self, text: &str) -> io::Result<()> {
        let text = text.trim();
        if !text.is_empty() {
            self.0.drawing(shown(text));
        }
        Ok(())
    }
    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
