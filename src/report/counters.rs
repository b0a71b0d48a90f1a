//! What all sessions of the program did together, for the line of an interrupted program.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::format;
use crate::escape::Escaped;
use crate::event::{Event, Reporter};

/// What the program does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It sends.
    Sender {
        /// The receiver, as typed.
        host: String,
        /// Whether the receiver confirms nothing.
        classic: bool,
    },
    /// It receives.
    Receiver {
        /// The destination folder.
        out: PathBuf,
    },
}

/// Counts the files of all sessions.
#[derive(Debug, Default)]
pub struct Counters {
    role: OnceLock<Role>,
    files_planned: AtomicU64,
    /// Stored files, skipped ones included.
    files_done: AtomicU64,
    files_skipped: AtomicU64,
    files_dropped: AtomicU64,
    plan_complete: AtomicBool,
}

impl Reporter for Counters {
    fn report(&self, event: Event<'_>) {
        let add = |to: &AtomicU64, number| {
            to.fetch_add(number, Ordering::Relaxed);
        };
        match event {
            Event::Planned { files, .. } => add(&self.files_planned, files),
            Event::PlanComplete => self.plan_complete.store(true, Ordering::Relaxed),
            Event::FileDone { there_bytes, .. } => {
                add(&self.files_done, 1);
                add(&self.files_skipped, u64::from(there_bytes.is_some()));
            }
            Event::FileDropped { .. } => add(&self.files_dropped, 1),
            _ => {}
        }
    }
}

impl Counters {
    /// Sets the role; only the first call counts.
    pub fn set_role(&self, role: Role) {
        let _ = self.role.set(role);
    }

    /// The role, once it is set.
    pub fn role(&self) -> Option<&Role> {
        self.role.get()
    }

    /// What is done so far and how to continue: `interrupted. 3 of 20 files are stored at nas; ...`
    pub fn sentence(&self) -> String {
        match self.role.get() {
            None => "interrupted.".to_owned(),
            Some(Role::Sender { host, classic }) => self.sender_sentence(&Escaped::new(host), *classic),
            Some(Role::Receiver { out }) => {
                self.receiver_sentence(&Escaped::new(out.as_os_str().as_encoded_bytes()))
            }
        }
    }

    fn sender_sentence(&self, host: &Escaped<'_>, classic: bool) -> String {
        let done = self.files_done.load(Ordering::Relaxed);
        let planned = self.files_planned.load(Ordering::Relaxed).max(done);
        let is_complete = self.plan_complete.load(Ordering::Relaxed);
        if planned == 0 && !classic {
            return format!("interrupted. Nothing was sent to {host} yet.");
        }
        let (is, was) =
            if done == 1 || is_complete && planned == 1 { ("is", "was") } else { ("are", "were") };
        let (shown_done, shown_planned) = (format::count(done), format::count(planned));
        let (files, so_far) = if is_complete {
            (format!("{shown_done} of {shown_planned} {}", file_or_files(planned)), String::new())
        } else {
            let so_far = format!(", of {shown_planned} found so far");
            (format!("{shown_done} {}", file_or_files(done)), so_far)
        };
        if classic {
            format!("interrupted. {files} {was} sent to {host}{so_far}; a classic receiver confirms nothing.")
        } else {
            format!("interrupted. {files} {is} stored at {host}{so_far}; send the same again to resume.")
        }
    }

    fn receiver_sentence(&self, out: &Escaped<'_>) -> String {
        let done = self.files_done.load(Ordering::Relaxed);
        let planned = self.files_planned.load(Ordering::Relaxed).max(done);
        let skipped = self.files_skipped.load(Ordering::Relaxed);
        let stored = done.saturating_sub(skipped);
        let skipped = match skipped {
            0 => String::new(),
            skipped => format!(", {} skipped as identical", format::count(skipped)),
        };
        let is_open = planned > done + self.files_dropped.load(Ordering::Relaxed);
        let advice = if is_open { "; send the same again to resume" } else { "" };
        let stored = format::counted(stored, "file was", "files were");
        format!("interrupted. {stored} stored in {out}{skipped}{advice}.")
    }
}

fn file_or_files(number: u64) -> &'static str {
    if number == 1 { "file" } else { "files" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(role: Option<Role>, planned: u64, done: u64, is_complete: bool) -> String {
        let counters = Counters::default();
        role.into_iter().for_each(|role| counters.set_role(role));
        counters.report(Event::Planned { files: planned, bytes: 0 });
        if is_complete {
            counters.report(Event::PlanComplete);
        }
        (0..done).for_each(|_| counters.report(Event::FileDone { path: b"a", md5: None, there_bytes: None }));
        counters.sentence()
    }

    #[test]
    fn skipped_files_are_not_counted_as_stored() {
        let counters = Counters::default();
        counters.set_role(Role::Receiver { out: "/in".into() });
        counters.report(Event::Planned { files: 4, bytes: 0 });
        for there_bytes in [None, None, Some(0)] {
            counters.report(Event::FileDone { path: b"a", md5: None, there_bytes });
        }
        counters.report(Event::FileDropped { remaining_bytes: 0 });
        assert_eq!(counters.sentence(), "interrupted. 2 files were stored in /in, 1 skipped as identical.");
    }

    #[test]
    fn failed_files_count_as_planned() {
        let counters = Counters::default();
        counters.set_role(Role::Sender { host: "nas".into(), classic: false });
        counters.report(Event::Planned { files: 70, bytes: 0 });
        counters.report(Event::PlanComplete);
        counters.report(Event::FileDropped { remaining_bytes: 0 });
        let line = counters.sentence();
        assert!(line.starts_with("interrupted. 0 of 70 files are stored at nas"), "{line}");
    }

    #[test]
    fn the_sentence_has_the_numbers_and_how_to_resume() {
        let sender = |classic| Some(Role::Sender { host: "nas".into(), classic });
        let receiver = || Some(Role::Receiver { out: "/in".into() });
        assert_eq!(
            sentence(sender(false), 20_000, 1204, true),
            "interrupted. 1,204 of 20,000 files are stored at nas; send the same again to resume."
        );
        assert_eq!(
            sentence(sender(false), 20_000, 1, false),
            "interrupted. 1 file is stored at nas, of 20,000 found so far; send the same again to resume."
        );
        assert_eq!(
            sentence(sender(false), 1, 0, true),
            "interrupted. 0 of 1 file is stored at nas; send the same again to resume."
        );
        assert_eq!(sentence(sender(false), 0, 0, false), "interrupted. Nothing was sent to nas yet.");
        assert_eq!(
            sentence(sender(true), 3, 2, true),
            "interrupted. 2 of 3 files were sent to nas; a classic receiver confirms nothing."
        );
        assert_eq!(sentence(receiver(), 2, 2, true), "interrupted. 2 files were stored in /in.");
        assert_eq!(
            sentence(receiver(), 9, 1, true),
            "interrupted. 1 file was stored in /in; send the same again to resume."
        );
        assert_eq!(
            sentence(receiver(), 1, 0, true),
            "interrupted. 0 files were stored in /in; send the same again to resume."
        );
        assert_eq!(sentence(None, 9, 1, true), "interrupted.");
    }
}
