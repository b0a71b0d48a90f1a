//! The only box that prints. Results go to standard output, everything else to standard error, and all of it but the lists
//! of `--md5sum` by way of `output`.

mod bars;
mod checksum_list;
mod console;
mod interrupt_notice;
mod manifest;
mod screen;
mod text;

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::app::args::{CommonArgs, ListArgs, ProgressWhen};
use crate::app::explain::{Exit, Explained, exit_of_summary};
use crate::bench::{self, Report};
use crate::dest::local::Unfinished;
use crate::error_code::ErrorCode;
use crate::escape::Escaped;
use crate::event::{Reporter, Summary};
use crate::net::{Bound, DEFAULT_PORT, Peer, reachable_addresses};
use crate::recv::{Observer, RecvError};

use bars::Bars;
use checksum_list::{ChecksumOutputs, SessionLines};
use console::{Stream, WhenFull};
use screen::Screen;

pub use interrupt_notice::{ForcedExit, InterruptNotice, Role};
pub use manifest::{ManifestError, WriteMode};

/// Screen and logs of one program run.
pub struct Ui {
    screen: Screen,
    quiet: bool,
    outputs: ChecksumOutputs,
    interrupt_notice: InterruptNotice,
    /// The code of the first session that failed.
    exit: Mutex<Exit>,
}

impl Ui {
    /// What `args` ask for.
    pub fn new(args: &CommonArgs) -> Self {
        let has_bars = match args.progress {
            ProgressWhen::Auto => std::io::stderr().is_terminal() && !args.quiet,
            ProgressWhen::Always => true,
            ProgressWhen::Never => false,
        };
        let screen = Screen::new(has_bars);
        Ui {
            interrupt_notice: InterruptNotice::new(screen.clone(), args.quiet),
            screen,
            quiet: args.quiet,
            outputs: ChecksumOutputs::default(),
            exit: Mutex::new(Exit::Ok),
        }
    }

    /// What an interrupted program says at its end.
    pub fn interrupt_notice(&self) -> InterruptNotice {
        self.interrupt_notice.clone()
    }

    /// What that line is about.
    pub fn set_role(&self, role: Role) {
        self.interrupt_notice.set_role(role);
    }

    /// The program was interrupted, and has ended what it was at.
    pub fn interrupted(&self, exit: Exit) -> Exit {
        self.interrupt_notice.print_once();
        self.list_as_before();
        exit
    }

    /// Makes sure that the lists that `args` ask for can be written.
    pub fn open_lists(&mut self, args: &ListArgs, earlier: WriteMode) -> Result<(), ManifestError> {
        self.outputs = ChecksumOutputs::new(args, earlier)?;
        Ok(())
    }

    /// A line for the lists, if there are any.
    fn list(&self, line: impl FnOnce() -> Vec<u8>, collected: &Mutex<Option<SessionLines>>) {
        if !self.outputs.own_stdout() && !self.outputs.has_manifest() {
            return;
        }
        let line = line();
        self.outputs.collect(&line, collected);
        // Bars are only in the way where both are on a terminal. Where they are not, a session waits for the reader of its
        // list, and nothing that draws does.
        let printed =
            if self.screen.has_bars() && self.outputs.own_stdout() && std::io::stdout().is_terminal() {
                self.screen.print(Stream::Stdout, line, WhenFull::Wait);
                Ok(())
            } else {
                self.outputs.print(&line)
            };
        if let Err(error) = printed {
            self.print_error(&format!("ftx: cannot write the list to standard output: {error}"));
            self.failed(Exit::FileIo);
        }
    }

    /// A session is over, and these are its lines.
    fn session_over(&self, lines: Option<SessionLines>) {
        self.listed(self.outputs.session_over(lines));
    }

    fn listed(&self, listed: Result<(), ManifestError>) {
        if let Err(error) = listed {
            self.failed(self.explain(&Explained::from(&error), WhenFull::Drop));
        }
    }

    /// Notes the first code that is none of success.
    fn failed(&self, exit: Exit) {
        let mut first = self.exit.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *first == Exit::Ok {
            *first = exit;
        }
    }

    /// Something a person wants to know while it happens.
    pub fn note(&self, line: &str) {
        if !self.quiet {
            self.print_error(line);
        }
    }

    /// Something a person has to know, even with `--quiet`.
    fn print_error(&self, line: &str) {
        self.screen.line(Stream::Stderr, line, WhenFull::Drop);
    }

    /// A result, on standard output, unless that belongs to a list.
    fn result(&self, line: &str, when_full: WhenFull) {
        if !self.quiet {
            let stream = if self.outputs.own_stdout() { Stream::Stderr } else { Stream::Stdout };
            self.screen.line(stream, line, when_full);
        }
    }

    /// Bars for one session; `title` stands before them.
    pub fn session(&self, title: &str) -> Bars<'_> {
        Bars::new(self, title)
    }

    /// A moving sign for work without a measure.
    pub fn spinner(&self, words: &str) -> ProgressBar {
        let spinner = self.screen.multi().add(ProgressBar::new_spinner().with_message(words.to_owned()));
        spinner.set_style(
            ProgressStyle::with_template("{spinner} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        spinner.enable_steady_tick(Duration::from_millis(100));
        spinner
    }

    /// Where the receiver listens and what to type at the other end; the first line says it all.
    pub fn listening(&self, bound: &Bound, out: &Path) {
        let addr = match bound {
            Bound::Ip(addr) => addr,
            Bound::Unix(path) => {
                let path = Escaped::new(path.as_os_str().as_encoded_bytes());
                self.note(&format!(
                    "Listening on unix:{path}. On this machine: ftx send PATH... unix:{path}"
                ));
                self.note(&format!(
                    "What arrives lands in {}",
                    Escaped::new(out.as_os_str().as_encoded_bytes())
                ));
                return;
            }
        };
        let suffix = if addr.port() == DEFAULT_PORT { String::new() } else { format!(":{}", addr.port()) };
        let hosts: Vec<String> = reachable_addresses(addr.ip())
            .iter()
            .map(|ip| match ip {
                std::net::IpAddr::V6(ip) if !suffix.is_empty() => format!("[{ip}]{suffix}"),
                ip => format!("{ip}{suffix}"),
            })
            .collect();
        let hosts = if hosts.is_empty() { format!("127.0.0.1{suffix}") } else { hosts.join(" or ") };
        self.note(&format!("Listening on {addr}. From another machine: ftx send PATH... {hosts}"));
        self.note(&format!("What arrives lands in {}", Escaped::new(out.as_os_str().as_encoded_bytes())));
        if !addr.ip().is_loopback() {
            self.note(
                "Whoever reaches this port can send: use it in networks that you trust. Ctrl-C ends it.",
            );
        }
    }

    /// The closing line of a sender.
    pub fn sent(&self, summary: &Summary, host: &str) -> Exit {
        self.result(&text::sent(summary, host), WhenFull::Wait);
        if summary.failures.contains_key(&ErrorCode::Exists) {
            self.note(text::NAME_TAKEN_ADVICE);
        }
        self.listed(self.outputs.replace());
        match exit_of_summary(summary) {
            Exit::Ok => self.first_failure(),
            exit => exit,
        }
    }

    /// A sender's session did not come to its end.
    pub fn not_sent(&self, explained: &Explained) -> Exit {
        let exit = self.error(explained);
        self.list_as_before();
        exit
    }

    fn list_as_before(&self) {
        if self.outputs.is_replaced_at_the_end() {
            self.note("     the list was not written: it is as it was before");
        }
    }

    /// The table of `ftx bench`, and the sentence under it.
    pub fn bench(&self, options: &bench::Options, report: &Report) {
        text::bench(options, report).iter().for_each(|line| self.result(line, WhenFull::Wait));
    }

    /// An error: the sentence, then what can be done about it.
    pub fn error(&self, explained: &Explained) -> Exit {
        self.explain(explained, WhenFull::Wait)
    }

    fn explain(&self, explained: &Explained, when_full: WhenFull) -> Exit {
        let sentence = format!("ftx: {}", explained.sentence);
        let advice = explained.advice.map(|advice| format!("     {advice}"));
        for line in [Some(sentence), advice].iter().flatten() {
            self.screen.line(Stream::Stderr, line, when_full);
        }
        explained.exit
    }

    /// The code of the first session that failed; [`Exit::Ok`] if none did.
    pub fn first_failure(&self) -> Exit {
        *self.exit.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Nothing that was to be printed is lost when the program ends.
impl Drop for Ui {
    fn drop(&mut self) {
        self.screen.flush();
    }
}

/// The receiver's sessions.
impl Observer for Ui {
    fn unfinished(&self, unfinished: &Unfinished) {
        self.note(&text::unfinished(unfinished));
    }

    fn started(&self, peer: &Peer) -> Box<dyn Reporter + '_> {
        Box::new(self.session(&format!("from {}", peer.host())))
    }

    fn lost(&self, peer: &Peer, error: &RecvError, wait: Duration) {
        let about = text::about(&peer.host(), error);
        self.note(&format!("{about}. Waiting {} s for the sender to come back.", wait.as_secs()));
    }

    fn ended(&self, peer: &Peer, outcome: &Result<Summary, RecvError>) {
        let exit = match outcome {
            Ok(summary) => {
                self.result(&text::received(summary, &peer.host()), WhenFull::Drop);
                exit_of_summary(summary)
            }
            // Of the end of this program another line tells.
            Err(RecvError::Interrupted) => Exit::Interrupted,
            Err(error) => {
                let explained = Explained::from(error);
                let sentence = text::about(&peer.host(), error);
                let exit = self.explain(&Explained { sentence, ..explained }, WhenFull::Drop);
                // A connection that was no session has failed nothing here.
                if error.is_no_session() { Exit::Ok } else { exit }
            }
        };
        self.failed(exit);
    }
}
