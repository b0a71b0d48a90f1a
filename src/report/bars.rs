//! Progress bars: one for the whole session, the file in work under it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, HumanDuration, ProgressBar, ProgressStyle};

use super::Ui;
use super::checksum_list::SessionLines;
use super::screen::columns;
use super::text;
use crate::escape::Escaped;
use crate::event::{Event, Reporter};
use crate::md5sum;

const OVERALL: &str = "{prefix:<9} {wide_bar} {msg}";
const FILE: &str = "          {wide_msg}";

/// What the prefix takes at least, and the bar.
const PREFIX_COLUMNS: usize = 9;
const BAR_COLUMNS: usize = 6;

/// How often the bars are brought up to date. Thousands of files a second would cost more to show than to send.
const REFRESH: Duration = Duration::from_millis(50);
/// The name of a file of this size is always shown: it may stay for a while.
const LARGE_BYTES: u64 = 1 << 20;

/// The bars of one session, and the lines about its entries.
pub struct Bars<'a> {
    ui: &'a Ui,
    overall: ProgressBar,
    file: ProgressBar,
    shown: Throttle,
    named: Throttle,
    bytes_planned: AtomicU64,
    /// There already, or moved and not known to be lost.
    bytes_done: AtomicU64,
    /// All that moved.
    bytes_moved: AtomicU64,
    /// Never drawn: knows how fast that grows.
    pace: ProgressBar,
    files_planned: AtomicU64,
    files_done: AtomicU64,
    plan_complete: AtomicBool,
    /// What there is to hash after everything has moved.
    digest_bytes: AtomicU64,
    lines: Mutex<Option<SessionLines>>,
}

impl<'a> Bars<'a> {
    pub(super) fn new(ui: &'a Ui, title: &str) -> Self {
        // A bar of no length would be full.
        let overall = ui.screen.multi().add(ProgressBar::new(1));
        let file = ui.screen.multi().insert_after(&overall, ProgressBar::new(0));
        let style = |template| {
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
        };
        overall.set_style(style(OVERALL).progress_chars("█▉▊▋▌▍▎▏ "));
        file.set_style(style(FILE));
        overall.set_prefix(title.to_owned());
        Bars {
            ui,
            overall,
            file,
            shown: Throttle::new(),
            named: Throttle::new(),
            bytes_planned: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
            bytes_moved: AtomicU64::new(0),
            pace: ProgressBar::hidden(),
            files_planned: AtomicU64::new(0),
            files_done: AtomicU64::new(0),
            plan_complete: AtomicBool::new(false),
            digest_bytes: AtomicU64::new(0),
            lines: Mutex::new(None),
        }
    }

    fn show_digesting(&self, remaining_bytes: u64) {
        let total = self.digest_bytes.load(Ordering::Relaxed);
        if total == 0 {
            self.digest_bytes.store(remaining_bytes, Ordering::Relaxed);
            let left = DecimalBytes(remaining_bytes);
            self.ui.note(&format!("Everything has moved; {left} are left to hash for the list"));
            self.overall.set_prefix("md5sum");
            self.pace.reset();
            self.draw(0, remaining_bytes, 0);
        } else {
            let done = total.saturating_sub(remaining_bytes);
            self.draw(done, total, done);
        }
    }

    /// Brings the bars up to date if that was long ago, or all is there: then nothing else may happen for a while.
    fn refresh(&self) {
        let is_all = |done: &AtomicU64, planned: &AtomicU64| {
            done.load(Ordering::Relaxed) >= planned.load(Ordering::Relaxed)
        };
        let is_last = || {
            self.plan_complete.load(Ordering::Relaxed)
                && is_all(&self.bytes_done, &self.bytes_planned)
                && is_all(&self.files_done, &self.files_planned)
        };
        if self.ui.screen.has_bars() && (self.shown.is_due() || is_last()) {
            self.show();
        }
    }

    fn show(&self) {
        // Of what is hashed after everything has moved, others tell.
        if self.digest_bytes.load(Ordering::Relaxed) == 0 {
            let [done, planned, moved] =
                [&self.bytes_done, &self.bytes_planned, &self.bytes_moved].map(|n| n.load(Ordering::Relaxed));
            self.draw(done, planned, moved);
        }
    }

    /// So much is done of so much; `moved` is what that took until now.
    fn draw(&self, done: u64, planned: u64, moved: u64) {
        self.pace.set_position(moved);
        let rate = self.pace.per_sec();
        let mut parts = Vec::new();
        if planned > 0 {
            parts.push(format!("{}/{}", DecimalBytes(done), DecimalBytes(planned)));
        }
        if rate >= 1.0 {
            parts.push(format!("{}/s", DecimalBytes(rate as u64)));
            let left = Duration::try_from_secs_f64(planned.saturating_sub(done) as f64 / rate);
            parts.push(format!("{:#} left", HumanDuration(left.unwrap_or(Duration::MAX))));
        }
        // Some work has bytes, but no files.
        let files = self.files_planned.load(Ordering::Relaxed);
        if files > 0 {
            let done = self.files_done.load(Ordering::Relaxed);
            // As long as the walk goes on, the total is a lower bound.
            let more = if self.plan_complete.load(Ordering::Relaxed) { "" } else { "+" };
            parts.push(format!("{}/{}{more} files", text::count(done), text::count(files)));
        }
        let prefix = self.overall.prefix().chars().count().max(PREFIX_COLUMNS);
        self.overall.set_message(fitting(&parts, usize::from(columns()), prefix));
        self.overall.update(|state| {
            state.set_len(planned.max(1));
            state.set_pos(done);
        });
    }
}

/// As many of the parts, the first ones first, as leave room for a bar.
fn fitting(parts: &[String], columns: usize, prefix: usize) -> String {
    let room = columns.saturating_sub(prefix + 1 + BAR_COLUMNS + 1);
    let lines = (1..=parts.len()).rev().map(|count| parts[..count].join("  "));
    lines.into_iter().find(|line| line.chars().count() <= room).unwrap_or_default()
}

/// Says that it is time for something, once in a while, the first time at once.
struct Throttle {
    began: Instant,
    /// The next time, in milliseconds since it began.
    due_ms: AtomicU64,
}

impl Throttle {
    fn new() -> Self {
        Throttle { began: Instant::now(), due_ms: AtomicU64::new(0) }
    }

    /// True for one thread each time.
    fn is_due(&self) -> bool {
        let now = self.began.elapsed().as_millis() as u64;
        let due = self.due_ms.load(Ordering::Relaxed);
        let next = now + REFRESH.as_millis() as u64;
        now >= due && self.due_ms.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// What a peer says of its files may not add up: no further up than there are numbers.
fn saturating_add(number: &AtomicU64, by: u64) {
    // It is never refused.
    let _ =
        number.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |number| Some(number.saturating_add(by)));
}

/// And no further down than zero.
fn saturating_sub(number: &AtomicU64, by: u64) {
    let lowered = |number: u64| Some(number.saturating_sub(by));
    // It is never refused.
    let _ = number.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lowered);
}

impl Reporter for Bars<'_> {
    fn report(&self, event: Event<'_>) {
        self.ui.interrupt_notice.counters().event(&event);
        match event {
            Event::Planned { files, bytes } => {
                saturating_add(&self.files_planned, files);
                saturating_add(&self.bytes_planned, bytes);
                self.refresh();
            }
            Event::PlanComplete => {
                self.plan_complete.store(true, Ordering::Relaxed);
                self.refresh();
            }
            Event::FileStarted { path, size_bytes } => {
                if self.ui.screen.has_bars() && (size_bytes >= LARGE_BYTES || self.named.is_due()) {
                    self.file.set_message(Escaped::new(path).to_string());
                }
            }
            Event::Transferred { bytes } => {
                saturating_add(&self.bytes_done, bytes);
                saturating_add(&self.bytes_moved, bytes);
                self.refresh();
            }
            Event::Resumed { path, bytes, size_bytes } => {
                saturating_add(&self.bytes_done, bytes);
                self.refresh();
                let percent = u128::from(bytes) * 100 / u128::from(size_bytes.max(1));
                self.ui.note(&format!(
                    "{}: going on at {percent} %, {} of {} are there already",
                    Escaped::new(path),
                    DecimalBytes(bytes),
                    DecimalBytes(size_bytes)
                ));
            }
            Event::FileDone { path, md5, there_bytes } => {
                if let Some(md5) = md5 {
                    self.ui.list(|| md5sum::line(md5, path), &self.lines);
                }
                self.files_done.fetch_add(1, Ordering::Relaxed);
                saturating_add(&self.bytes_done, there_bytes.unwrap_or(0));
                self.refresh();
            }
            Event::FileDropped { remaining_bytes } => {
                saturating_sub(&self.files_planned, 1);
                saturating_sub(&self.bytes_planned, remaining_bytes);
                self.refresh();
            }
            Event::Failed { name, fault, reason } => {
                let line =
                    format!("not transferred: {}: {} [{fault}]", Escaped::new(name), Escaped::new(reason));
                self.ui.print_error(&line);
            }
            Event::DigestUnavailable { path, fault, reason } => {
                let (path, reason) = (Escaped::new(path), Escaped::new(reason));
                self.ui.print_error(&format!("in place, but not in the list: {path}: {reason} [{fault}]"));
            }
            Event::Digesting { remaining_bytes } => self.show_digesting(remaining_bytes),
            Event::Renamed { from, to } => {
                self.ui.note(&format!("{} landed as {}", Escaped::new(from), Escaped::new(to)));
            }
            Event::Undone { bytes } => {
                saturating_sub(&self.bytes_done, bytes);
                self.refresh();
            }
            Event::Lost { reason, pause } => {
                self.overall.set_message("reconnecting");
                let reason = text::capitalized(reason);
                self.ui.note(&format!(
                    "{}. Trying again in {:.1} s.",
                    Escaped::new(&reason),
                    pause.as_secs_f64()
                ));
            }
            Event::Retrying { pause } => {
                let seconds = pause.as_secs_f32();
                self.ui.note(&format!("Nobody listens there yet; trying again in {seconds:.1} s"));
            }
            Event::NoStateKey { reason } => self.ui.note(&format!(
                "A later run cannot resume large files of this one: no key can be kept in XDG_STATE_HOME or \
                 ~/.local/state ({})",
                Escaped::new(reason)
            )),
            Event::Waiting { path } => {
                self.ui.note(&format!("{}: waits for another session that still has it", Escaped::new(path)));
            }
            Event::Repairing { path, part } => {
                self.ui.note(&format!(
                    "{}: part {part} arrived damaged and is fetched again",
                    Escaped::new(path)
                ));
            }
        }
    }
}

impl Drop for Bars<'_> {
    fn drop(&mut self) {
        self.file.finish_and_clear();
        self.overall.finish_and_clear();
        self.ui.screen.multi().remove(&self.file);
        self.ui.screen.multi().remove(&self.overall);
        self.ui.session_over(self.lines.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::interrupt_notice::InterruptNotice;
    use crate::report::{ChecksumOutputs, Exit, Screen};

    fn ui() -> Ui {
        let screen = Screen::new(true);
        screen.clear_bars();
        Ui {
            interrupt_notice: InterruptNotice::new(screen.clone(), true),
            screen,
            quiet: true,
            outputs: ChecksumOutputs::default(),
            exit: Mutex::new(Exit::Ok),
        }
    }

    /// Bytes that are done, and of how many.
    fn shown(bars: &Bars<'_>) -> (u64, u64) {
        bars.show();
        (bars.overall.position(), bars.overall.length().unwrap())
    }

    #[test]
    fn a_bar_is_empty_while_nothing_is_known() {
        let ui = ui();
        let bars = Bars::new(&ui, "sending");
        assert_eq!((bars.overall.position(), bars.overall.length()), (0, Some(1)));
        bars.report(Event::Planned { files: 1, bytes: 0 });
        assert_eq!(shown(&bars), (0, 1));
        assert_eq!(bars.overall.message(), "0/1+ files");
    }

    #[test]
    fn what_is_there_is_done_and_the_total_stays() {
        let ui = ui();
        let bars = Bars::new(&ui, "sending");
        bars.report(Event::Planned { files: 2, bytes: 350 });
        bars.report(Event::Resumed { path: b"a", bytes: 120, size_bytes: 300 });
        assert_eq!(shown(&bars), (120, 350));
        bars.report(Event::Transferred { bytes: 80 });
        bars.report(Event::Lost { reason: "", pause: Duration::ZERO });
        assert_eq!(shown(&bars), (200, 350));
        // On the next connection.
        bars.report(Event::Undone { bytes: 200 });
        bars.report(Event::Resumed { path: b"a", bytes: 160, size_bytes: 300 });
        assert_eq!(shown(&bars), (160, 350));
        bars.report(Event::Transferred { bytes: 140 });
        bars.report(Event::FileDone { path: b"b", md5: None, there_bytes: Some(50) });
        assert_eq!(shown(&bars), (350, 350));
        assert_eq!(bars.bytes_moved.load(Ordering::Relaxed), 220, "the rate is that of what moved");
    }

    #[test]
    fn what_does_not_fit_beside_a_bar_is_left_out() {
        let parts = ["292.94 MB/300.00 MB", "123.61 MB/s", "11s left", "1,204/20,000 files"];
        let parts: Vec<_> = parts.map(str::to_owned).into();
        let line = |columns| fitting(&parts, columns, PREFIX_COLUMNS);
        assert_eq!(line(80), "292.94 MB/300.00 MB  123.61 MB/s  11s left  1,204/20,000 files");
        assert_eq!(line(78), "292.94 MB/300.00 MB  123.61 MB/s  11s left");
        assert_eq!(line(40), "292.94 MB/300.00 MB");
        assert_eq!(line(10), "");
        let widest = |columns| PREFIX_COLUMNS + 1 + BAR_COLUMNS + 1 + line(columns).chars().count();
        assert!((20..200).all(|columns| widest(columns) <= columns));
    }
}
