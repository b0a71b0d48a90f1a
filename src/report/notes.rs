//! Lines about single events, printed while a session runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::DecimalBytes;

use super::format::{capitalized, coarse, more_days};
use super::printer::Printer;
use crate::dest::local::Unfinished;
use crate::error_code::ErrorCode;
use crate::escape::Escaped;
use crate::event::{Event, Reporter};
use crate::recv::RecvError;
use crate::wire::WireError;

/// Prints the lines of one session.
pub struct Notes<'a> {
    printer: &'a Printer,
    is_digesting: AtomicBool,
}

impl<'a> Notes<'a> {
    /// For one session.
    pub fn new(printer: &'a Printer) -> Self {
        Notes { printer, is_digesting: AtomicBool::new(false) }
    }
}

impl Reporter for Notes<'_> {
    fn report(&self, event: Event<'_>) {
        if let Some(line) = failure_text(&event) {
            self.printer.failure(&line);
        } else if let Event::Digesting { remaining_bytes } = event {
            if !self.is_digesting.swap(true, Ordering::Relaxed) {
                let remaining = DecimalBytes(remaining_bytes);
                self.printer
                    .note(&format!("Transfer complete; hashing the remaining {remaining} for the list"));
            }
        } else if let Some(line) = note_text(&event) {
            self.printer.note(&line);
        }
    }
}

/// Lines that are printed even with `--quiet`.
fn failure_text(event: &Event<'_>) -> Option<String> {
    Some(match event {
        Event::Failed { name, code, reason } => {
            format!("not transferred: {}: {} [{code}]", Escaped::new(name), Escaped::new(reason))
        }
        Event::DigestUnavailable { path, code, reason } => {
            format!("stored, but not in the list: {}: {} [{code}]", Escaped::new(path), Escaped::new(reason))
        }
        _ => return None,
    })
}

/// Other lines.
fn note_text(event: &Event<'_>) -> Option<String> {
    Some(match event {
        Event::Resumed { path, bytes, size_bytes } => {
            let percent = u128::from(*bytes) * 100 / u128::from((*size_bytes).max(1));
            let (bytes, size) = (DecimalBytes(*bytes), DecimalBytes(*size_bytes));
            format!("{}: resuming at {percent} %, {bytes} of {size} already received", Escaped::new(path))
        }
        Event::Renamed { from, to } => {
            format!("{} was stored as {}", Escaped::new(from), Escaped::new(to))
        }
        Event::Lost { reason, pause } => {
            let (reason, seconds) = (capitalized(reason), pause.as_secs_f64());
            format!("{}. Trying again in {seconds:.1} s.", Escaped::new(&reason))
        }
        Event::Retrying { pause } => {
            format!(
                "The receiver does not accept connections yet; trying again in {:.1} s",
                pause.as_secs_f32()
            )
        }
        Event::NoStateKey { reason } => format!(
            "Large files of this run cannot be resumed by a later one: cannot store a key in XDG_STATE_HOME or \
             ~/.local/state ({})",
            Escaped::new(reason)
        ),
        Event::Waiting { path } => {
            format!("{}: waiting for another session that is receiving it", Escaped::new(path))
        }
        Event::Repairing { path, part } => {
            format!("{}: part {part} arrived damaged and is fetched again", Escaped::new(path))
        }
        _ => return None,
    })
}

/// `Unfinished: a.img, 9.6 GB of 10.7 GB received 2 h ago, kept for 6 more days. Send it again to resume.`
pub fn unfinished_text(left: &Unfinished) -> String {
    let (name, age, stored) = (Escaped::new(&left.path), coarse(left.age), DecimalBytes(left.there_bytes));
    match left.size_bytes.map(DecimalBytes) {
        None => format!("Removed {name}: {stored} of a partial file, left by a crash {age} ago."),
        Some(size) if left.is_removed => {
            format!("Removed partial file {name}: {stored} of {size}, {age} old.")
        }
        Some(size) => format!(
            "Unfinished: {name}, {stored} of {size} received {age} ago, kept for {}. Send it again to resume.",
            more_days(left.kept_for)
        ),
    }
}

/// A failed session of a receiver: `10.0.0.7: the connection was lost in the middle of a.img`.
pub fn session_error_text(peer: &str, error: &RecvError) -> String {
    match error {
        RecvError::Wire(WireError::PeerAborted { code: ErrorCode::Interrupted, .. }) => {
            format!("{peer} was interrupted; complete files are stored")
        }
        RecvError::ReconnectTimeout { .. } => format!("{peer} {error}"),
        _ => format!("{peer}: {error}"),
    }
}

/// A lost session that its sender may resume.
pub fn session_lost_text(peer: &str, error: &RecvError, wait: Duration) -> String {
    let error = session_error_text(peer, error);
    format!("{error}. Waiting {} s for the sender to reconnect.", wait.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_file_is_described_with_its_age_and_how_long_it_is_kept() {
        for (hours, kept) in [(167, "6 more days"), (47, "1 more day"), (23, "less than a day")] {
            let left = Unfinished {
                path: b"big.tif".to_vec(),
                size_bytes: Some(300_000_000),
                there_bytes: 150_990_000,
                age: Duration::from_secs(2),
                kept_for: Duration::from_secs(hours * 3600),
                is_removed: false,
            };
            let line = format!(
                "Unfinished: big.tif, 150.99 MB of 300.00 MB received 2 s ago, kept for {kept}. Send it again to resume."
            );
            assert_eq!(unfinished_text(&left), line);
        }
        let left = Unfinished {
            path: b"d/.ftx-0123456789abcdef-7".to_vec(),
            size_bytes: None,
            there_bytes: 150_990_000,
            age: Duration::from_secs(25 * 3600),
            kept_for: Duration::ZERO,
            is_removed: true,
        };
        assert_eq!(
            unfinished_text(&left),
            "Removed d/.ftx-0123456789abcdef-7: 150.99 MB of a partial file, left by a crash 25 h ago."
        );
        let left = Unfinished { path: b"a".to_vec(), size_bytes: Some(300_000_000), ..left };
        assert_eq!(unfinished_text(&left), "Removed partial file a: 150.99 MB of 300.00 MB, 25 h old.");
    }

    #[test]
    fn foreign_names_are_escaped() {
        let line = note_text(&Event::Renamed { from: b"a\x1b[2J", to: b"b\n" }).unwrap();
        assert_eq!(line, "a\\x1b[2J was stored as b\\n");
    }
}
