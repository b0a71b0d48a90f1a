//! The screen and the lists of one run of the program.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::bars::Bars;
use super::bench_table;
use super::checksum_list::ChecksumOutputs;
use super::console::WhenFull;
use super::counters::Role;
use super::diagnostic::Diagnostic;
use super::fanout::Fanout;
use super::first_failure::FirstFailure;
use super::interrupt_notice::InterruptNotice;
use super::list_reporter::ListReporter;
use super::manifest::{ManifestError, WriteMode};
use super::notes::{self, Notes};
use super::printer::Printer;
use super::screen::Screen;
use super::summary;
use crate::bench;
use crate::dest::local::Unfinished;
use crate::error_code::ErrorCode;
use crate::escape::Escaped;
use crate::event::{Reporter, Summary};
use crate::exit_code::ExitCode;
use crate::net::{Bound, DEFAULT_PORT, reachable_addresses};
use crate::recv::RecvError;

/// What to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputOptions {
    /// Only errors.
    pub quiet: bool,
    /// Draw progress bars.
    pub has_bars: bool,
}

/// The screen and the lists of one run of the program. Waits in its destructor until everything is written.
pub struct Ui {
    printer: Printer,
    outputs: ChecksumOutputs,
    interrupt_notice: InterruptNotice,
    first_failure: FirstFailure,
}

impl Ui {
    /// Without lists.
    pub fn new(options: OutputOptions) -> Self {
        let screen = Screen::new(options.has_bars);
        Ui {
            interrupt_notice: InterruptNotice::new(screen.clone(), options.quiet),
            printer: Printer::new(screen, options.quiet),
            outputs: ChecksumOutputs::default(),
            first_failure: FirstFailure::default(),
        }
    }

    /// The last line of an interrupted program.
    pub fn interrupt_notice(&self) -> InterruptNotice {
        self.interrupt_notice.clone()
    }

    /// Sets what the last line of an interrupted program is about.
    pub fn set_role(&self, role: Role) {
        self.interrupt_notice.counters().set_role(role);
    }

    /// Opens the lists of `--md5sum` (on standard output) and `--manifest`.
    ///
    /// # Errors
    ///
    /// The manifest cannot be written.
    pub fn open_lists(
        &mut self,
        md5sum: bool,
        manifest: Option<&Path>,
        mode: WriteMode,
    ) -> Result<(), ManifestError> {
        self.outputs = ChecksumOutputs::new(md5sum, manifest, mode)?;
        if md5sum {
            self.printer.redirect_results();
        }
        Ok(())
    }

    /// Prints a line that `--quiet` drops.
    pub fn note(&self, line: &str) {
        self.printer.note(line);
    }

    /// The outputs of one session: bars with `title` before them, lists, notes, and the counters of the program.
    pub fn session(&self, title: &str) -> Fanout<'_> {
        Fanout(vec![
            Box::new(self.interrupt_notice.counters()),
            Box::new(Bars::new(self.printer.screen(), title)),
            Box::new(ListReporter::new(&self.outputs, &self.printer, &self.first_failure)),
            Box::new(Notes::new(&self.printer)),
        ])
    }

    /// Shows `text` with a moving sign until the value is dropped.
    pub fn spinner(&self, text: &str) -> Spinner {
        let bar = self.printer.screen().multi().add(ProgressBar::new_spinner().with_message(text.to_owned()));
        bar.set_style(
            ProgressStyle::with_template("{spinner} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        bar.enable_steady_tick(Duration::from_millis(100));
        Spinner(bar)
    }

    /// A receiver listens: prints its address and what to type at the sender. The first line is sufficient.
    pub fn listening(&self, bound: &Bound, out: &Path) {
        match bound {
            Bound::Ip(addr) => self.note_address(*addr),
            Bound::Unix(path) => {
                let path = Escaped::new(path.as_os_str().as_encoded_bytes());
                self.note(&format!(
                    "Listening on unix:{path}. On this machine: ftx send PATH... unix:{path}"
                ));
            }
        }
        self.note(&format!("Receiving into {}", Escaped::new(out.as_os_str().as_encoded_bytes())));
        if let Bound::Ip(addr) = bound
            && !addr.ip().is_loopback()
        {
            self.note(
                "Anyone who can reach this port can send: use it only in trusted networks. Stop with Ctrl-C.",
            );
        }
    }

    fn note_address(&self, addr: SocketAddr) {
        let port = if addr.port() == DEFAULT_PORT { String::new() } else { format!(":{}", addr.port()) };
        let hosts: Vec<String> = reachable_addresses(addr.ip())
            .iter()
            .map(|ip| match ip {
                IpAddr::V6(ip) if !port.is_empty() => format!("[{ip}]{port}"),
                ip => format!("{ip}{port}"),
            })
            .collect();
        let hosts = if hosts.is_empty() { format!("127.0.0.1{port}") } else { hosts.join(" or ") };
        self.note(&format!("Listening on {addr}. From another machine: ftx send PATH... {hosts}"));
    }

    /// A sender's session reached its end. Writes the list.
    pub fn sent(&self, summary: &Summary, host: &str) -> ExitCode {
        self.printer.result(&summary::sent(summary, host), WhenFull::Wait);
        if summary.failures.contains_key(&ErrorCode::Exists) {
            self.note(summary::NAME_TAKEN_ADVICE);
        }
        if let Err(error) = self.outputs.replace() {
            self.first_failure.record(self.printer.diagnostic(&Diagnostic::from(&error), WhenFull::Drop));
        }
        match ExitCode::of_summary(summary) {
            ExitCode::Ok => self.first_failure(),
            exit => exit,
        }
    }

    /// A sender's session failed.
    pub fn not_sent(&self, diagnostic: &Diagnostic) -> ExitCode {
        let exit = self.error(diagnostic);
        self.note_unchanged_list();
        exit
    }

    /// The program was interrupted, and its sessions have ended.
    pub fn interrupted(&self, exit: ExitCode) -> ExitCode {
        self.interrupt_notice.print_once();
        self.note_unchanged_list();
        exit
    }

    fn note_unchanged_list(&self) {
        if self.outputs.is_replaced_at_the_end() {
            self.note("     the list was not written; the previous one is unchanged");
        }
    }

    /// A receiver found or removed a partial file.
    pub fn unfinished(&self, unfinished: &Unfinished) {
        self.note(&notes::unfinished_text(unfinished));
    }

    /// A session of a receiver lost its connection; its sender has the time `wait` to reconnect.
    pub fn session_lost(&self, peer: &str, error: &RecvError, wait: Duration) {
        self.note(&notes::session_lost_text(peer, error, wait));
    }

    /// A session of a receiver reached its end.
    pub fn received(&self, peer: &str, summary: &Summary) {
        self.printer.result(&summary::received(summary, peer), WhenFull::Drop);
        self.first_failure.record(ExitCode::of_summary(summary));
    }

    /// A session of a receiver failed; `diagnostic` describes `error`.
    pub fn session_failed(&self, peer: &str, error: &RecvError, diagnostic: Diagnostic) {
        let sentence = notes::session_error_text(peer, error);
        let exit = self.printer.diagnostic(&Diagnostic { sentence, ..diagnostic }, WhenFull::Drop);
        // A connection without a session does not decide the exit code.
        if !error.is_no_session() {
            self.first_failure.record(exit);
        }
    }

    /// A session of a receiver was interrupted. The notice of the interrupted program covers it.
    pub fn session_interrupted(&self) {
        self.first_failure.record(ExitCode::Interrupted);
    }

    /// Prints the table of `ftx bench`.
    pub fn bench(&self, options: &bench::Options, report: &bench::Report) {
        for line in bench_table::lines(options, report) {
            self.printer.result(&line, WhenFull::Wait);
        }
    }

    /// Prints an error.
    pub fn error(&self, diagnostic: &Diagnostic) -> ExitCode {
        self.printer.diagnostic(diagnostic, WhenFull::Wait)
    }

    /// The exit code of the first session that failed; [`ExitCode::Ok`] if none did.
    pub fn first_failure(&self) -> ExitCode {
        self.first_failure.get()
    }
}

impl Drop for Ui {
    fn drop(&mut self) {
        self.printer.screen().flush();
    }
}

impl bench::StageObserver for Ui {
    fn stage(&self, title: &str) -> Box<dyn Reporter + '_> {
        Box::new(self.session(title))
    }

    fn remote_stage(&self, text: &str) -> Box<dyn Send + '_> {
        Box::new(self.spinner(text))
    }
}

/// A moving sign on the screen; removed when dropped.
pub struct Spinner(ProgressBar);

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
