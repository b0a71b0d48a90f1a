//! Lines of a session for the checksum lists.

use std::io::IsTerminal;
use std::sync::Mutex;

use super::checksum_list::{ChecksumOutputs, SessionLines};
use super::console::{StdStream, WhenFull};
use super::diagnostic::Diagnostic;
use super::first_failure::FirstFailure;
use super::printer::Printer;
use crate::event::{Event, Reporter};
use crate::exit_code::ExitCode;
use crate::md5sum;
use crate::sync::lock;

/// Adds a line to the lists for each stored file. When it is dropped, the session's lines go to the manifest.
pub struct ListReporter<'a> {
    outputs: &'a ChecksumOutputs,
    printer: &'a Printer,
    first_failure: &'a FirstFailure,
    lines: Mutex<Option<SessionLines>>,
}

impl<'a> ListReporter<'a> {
    /// For one session. Errors are printed and recorded in `first_failure`.
    pub fn new(outputs: &'a ChecksumOutputs, printer: &'a Printer, first_failure: &'a FirstFailure) -> Self {
        ListReporter { outputs, printer, first_failure, lines: Mutex::new(None) }
    }

    fn add(&self, line: Vec<u8>) {
        self.outputs.collect(&line, &self.lines);
        // Only a list on the terminal of the bars has to be printed beside them. Elsewhere the session waits for the
        // reader of the list, and must not hold the lock of the bars.
        let screen = self.printer.screen();
        let is_beside_bars =
            screen.has_bars() && self.outputs.own_stdout() && std::io::stdout().is_terminal();
        if is_beside_bars {
            screen.print(StdStream::Stdout, line, WhenFull::Wait);
        } else if let Err(error) = self.outputs.print(&line) {
            self.printer.failure(&format!("ftx: cannot write the list to standard output: {error}"));
            self.first_failure.record(ExitCode::FileIo);
        }
    }
}

impl Reporter for ListReporter<'_> {
    fn report(&self, event: Event<'_>) {
        if let Event::FileDone { path, md5: Some(md5), .. } = event
            && self.outputs.is_wanted()
        {
            self.add(md5sum::line(md5, path));
        }
    }
}

impl Drop for ListReporter<'_> {
    fn drop(&mut self) {
        let lines = lock(&self.lines).take();
        if let Err(error) = self.outputs.session_over(lines) {
            self.first_failure.record(self.printer.diagnostic(&Diagnostic::from(&error), WhenFull::Drop));
        }
    }
}
