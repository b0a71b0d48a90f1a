//! The line that an interrupted program ends with: what is done by now, and how to go on.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::console::{Stream, WhenFull};
use super::screen::Screen;
use super::text;
use crate::escape::Escaped;
use crate::event::Event;

/// Says it, once, from whichever thread gets to it.
#[derive(Clone, Debug)]
pub struct InterruptNotice {
    screen: Screen,
    quiet: bool,
    counters: Arc<Counters>,
}

/// What the program is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It sends.
    Sender {
        /// Where to, as typed.
        host: String,
        /// With a receiver that confirms nothing?
        classic: bool,
    },
    /// It receives.
    Receiver {
        /// Where things land.
        out: PathBuf,
    },
}

/// Why the end was not in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForcedExit {
    /// It was asked for twice.
    SecondSignal,
    /// Something did not answer in time.
    Timeout,
}

/// What all sessions of this program did together.
#[derive(Debug, Default)]
pub struct Counters {
    role: OnceLock<Role>,
    files_planned: AtomicU64,
    /// In place, those that were there before included.
    files_done: AtomicU64,
    files_there: AtomicU64,
    files_dropped: AtomicU64,
    plan_complete: AtomicBool,
    is_printed: AtomicBool,
}

impl Counters {
    /// Counts.
    pub fn event(&self, event: &Event<'_>) {
        let add = |to: &AtomicU64, number| {
            to.fetch_add(number, Ordering::Relaxed);
        };
        match event {
            Event::Planned { files, .. } => add(&self.files_planned, *files),
            Event::PlanComplete => self.plan_complete.store(true, Ordering::Relaxed),
            Event::FileDone { there_bytes, .. } => {
                add(&self.files_done, 1);
                add(&self.files_there, u64::from(there_bytes.is_some()));
            }
            Event::FileDropped { .. } => add(&self.files_dropped, 1),
            _ => {}
        }
    }

    fn sentence(&self) -> String {
        let done = self.files_done.load(Ordering::Relaxed);
        let planned = self.files_planned.load(Ordering::Relaxed).max(done);
        let is_complete = self.plan_complete.load(Ordering::Relaxed);
        let files = |number: u64| if number == 1 { "file" } else { "files" };
        let (is, was) =
            if done == 1 || is_complete && planned == 1 { ("is", "was") } else { ("are", "were") };
        let (shown_done, shown_planned) = (text::count(done), text::count(planned));
        let of = if is_complete {
            format!("{shown_done} of {shown_planned} {}", files(planned))
        } else {
            format!("{shown_done} {}", files(done))
        };
        let so_far = if is_complete { String::new() } else { format!(", of {shown_planned} found so far") };
        match self.role.get() {
            None => "interrupted.".to_owned(),
            Some(Role::Sender { host, classic: true }) => {
                let host = Escaped::new(host);
                format!(
                    "interrupted. {of} {was} sent to {host}{so_far}; a classic receiver confirms nothing."
                )
            }
            Some(Role::Sender { host, .. }) if planned == 0 => {
                format!("interrupted. Nothing was sent to {} yet.", Escaped::new(host))
            }
            Some(Role::Sender { host, .. }) => {
                let host = Escaped::new(host);
                format!("interrupted. {of} {is} stored at {host}{so_far}; send the same again to go on.")
            }
            Some(Role::Receiver { out }) => {
                let out = Escaped::new(out.as_os_str().as_encoded_bytes());
                let open = planned > done + self.files_dropped.load(Ordering::Relaxed);
                let again = if open { "; whoever sends the same again goes on" } else { "" };
                let were = |number| if number == 1 { "was" } else { "were" };
                let there_before = self.files_there.load(Ordering::Relaxed);
                let stored = done.saturating_sub(there_before);
                let there = match there_before {
                    0 => String::new(),
                    there => format!(", {} {} there already", text::count(there), were(there)),
                };
                let (shown, files, were) = (text::count(stored), files(stored), were(stored));
                format!("interrupted. {shown} {files} {were} stored in {out}{there}{again}.")
            }
        }
    }
}

impl InterruptNotice {
    pub(super) fn new(screen: Screen, quiet: bool) -> Self {
        InterruptNotice { screen, quiet, counters: Arc::default() }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn set_role(&self, role: Role) {
        let _ = self.counters.role.set(role);
    }

    /// Says it, if nobody has.
    pub fn print_once(&self) {
        if !self.counters.is_printed.swap(true, Ordering::SeqCst) && !self.is_unremarkable() {
            let line = format!("ftx: {}", self.counters.sentence());
            self.screen.line(Stream::Stderr, &line, WhenFull::Drop);
        }
    }

    /// The process ends now: clears the screen, and says it with the reason. Returns when all of that is written.
    pub fn forced_exit(&self, why: ForcedExit) {
        self.screen.clear_bars();
        self.print_once();
        let why = match why {
            ForcedExit::SecondSignal => "ended at once",
            ForcedExit::Timeout => "ended without waiting any longer for the disk, the network or the screen",
        };
        self.screen.line(Stream::Stderr, &format!("     {why}"), WhenFull::Drop);
        self.screen.flush_errors();
    }

    /// A receiver ends that way every day: no reason to say so where only errors are wanted.
    fn is_unremarkable(&self) -> bool {
        self.quiet && matches!(self.counters.role.get(), Some(Role::Receiver { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(role: Option<Role>, planned: u64, done: u64, is_complete: bool) -> String {
        let counters = Counters::default();
        role.into_iter().for_each(|role| counters.role.set(role).unwrap());
        counters.event(&Event::Planned { files: planned, bytes: 0 });
        if is_complete {
            counters.event(&Event::PlanComplete);
        }
        (0..done).for_each(|_| counters.event(&Event::FileDone { path: b"a", md5: None, there_bytes: None }));
        counters.sentence()
    }

    #[test]
    fn what_was_there_already_is_not_called_stored() {
        let counters = Counters::default();
        counters.role.set(Role::Receiver { out: "/in".into() }).unwrap();
        counters.event(&Event::Planned { files: 4, bytes: 0 });
        for there_bytes in [None, None, Some(0)] {
            counters.event(&Event::FileDone { path: b"a", md5: None, there_bytes });
        }
        counters.event(&Event::FileDropped { remaining_bytes: 0 });
        assert_eq!(counters.sentence(), "interrupted. 2 files were stored in /in, 1 was there already.");
    }

    #[test]
    fn a_file_that_failed_is_one_of_those_that_were_to_be_sent() {
        let counters = Counters::default();
        counters.role.set(Role::Sender { host: "nas".into(), classic: false }).unwrap();
        counters.event(&Event::Planned { files: 70, bytes: 0 });
        counters.event(&Event::PlanComplete);
        counters.event(&Event::FileDropped { remaining_bytes: 0 });
        let line = counters.sentence();
        assert!(line.starts_with("interrupted. 0 of 70 files are stored at nas"), "{line}");
    }

    #[test]
    fn the_line_has_the_numbers_and_says_how_to_go_on() {
        let sender = |classic| Some(Role::Sender { host: "nas".into(), classic });
        let receiver = || Some(Role::Receiver { out: "/in".into() });
        assert_eq!(
            sentence(sender(false), 20_000, 1204, true),
            "interrupted. 1,204 of 20,000 files are stored at nas; send the same again to go on."
        );
        assert_eq!(
            sentence(sender(false), 20_000, 1, false),
            "interrupted. 1 file is stored at nas, of 20,000 found so far; send the same again to go on."
        );
        assert_eq!(
            sentence(sender(false), 1, 0, true),
            "interrupted. 0 of 1 file is stored at nas; send the same again to go on."
        );
        assert_eq!(sentence(sender(false), 0, 0, false), "interrupted. Nothing was sent to nas yet.");
        assert_eq!(
            sentence(sender(true), 3, 2, true),
            "interrupted. 2 of 3 files were sent to nas; a classic receiver confirms nothing."
        );
        assert_eq!(sentence(receiver(), 2, 2, true), "interrupted. 2 files were stored in /in.");
        assert_eq!(
            sentence(receiver(), 9, 1, true),
            "interrupted. 1 file was stored in /in; whoever sends the same again goes on."
        );
        assert_eq!(
            sentence(receiver(), 1, 0, true),
            "interrupted. 0 files were stored in /in; whoever sends the same again goes on."
        );
        assert_eq!(sentence(None, 9, 1, true), "interrupted.");
    }
}
