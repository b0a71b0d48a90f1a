//! The standard streams and the terminal behind them.

use std::io;

use rustix::fd::AsFd;

/// Columns and rows of the terminal behind standard error; `None` if it is no terminal or reports no size.
pub fn stderr_size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok()?;
    (size.ws_col > 0).then_some((size.ws_col, size.ws_row))
}

/// Whether standard output and standard error are the same file, pipe or terminal.
pub fn stdout_is_stderr() -> bool {
    let id = |fd: &dyn AsFd| rustix::fs::fstat(fd.as_fd()).map(|stat| (stat.st_dev, stat.st_ino)).ok();
    let stdout = id(&io::stdout());
    stdout.is_some() && stdout == id(&io::stderr())
}
