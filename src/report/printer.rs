//! Lines for people: which stream they go to, and whether `--quiet` drops them.

use super::console::{StdStream, WhenFull};
use super::diagnostic::Diagnostic;
use super::screen::Screen;
use crate::exit_code::ExitCode;

/// Prints lines beside the bars.
#[derive(Clone, Debug)]
pub struct Printer {
    screen: Screen,
    quiet: bool,
    /// Where results go: standard output, unless a list owns it.
    result_stream: StdStream,
}

impl Printer {
    /// `quiet` drops notes and results.
    pub fn new(screen: Screen, quiet: bool) -> Self {
        Printer { screen, quiet, result_stream: StdStream::Stdout }
    }

    /// Sends results to standard error, because standard output carries a list.
    pub fn redirect_results(&mut self) {
        self.result_stream = StdStream::Stderr;
    }

    /// The screen below.
    pub fn screen(&self) -> &Screen {
        &self.screen
    }

    /// Prints a line that `--quiet` drops.
    pub fn note(&self, line: &str) {
        if !self.quiet {
            self.failure(line);
        }
    }

    /// Prints a line about a failure, even with `--quiet`.
    pub fn failure(&self, line: &str) {
        self.screen.line(StdStream::Stderr, line, WhenFull::Drop);
    }

    /// Prints a result, which `--quiet` drops.
    pub fn result(&self, line: &str, when_full: WhenFull) {
        if !self.quiet {
            self.screen.line(self.result_stream, line, when_full);
        }
    }

    /// Prints an error: the sentence, then the advice on a line of its own.
    pub fn diagnostic(&self, diagnostic: &Diagnostic, when_full: WhenFull) -> ExitCode {
        let sentence = format!("ftx: {}", diagnostic.sentence);
        let advice = diagnostic.advice.map(|advice| format!("     {advice}"));
        for line in [Some(sentence), advice].iter().flatten() {
            self.screen.line(StdStream::Stderr, line, when_full);
        }
        diagnostic.exit
    }
}
