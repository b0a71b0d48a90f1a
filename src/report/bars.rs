//! Progress bars: one for the whole session, and under it the name of the current file.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{DecimalBytes, HumanDuration, ProgressBar, ProgressStyle};

use super::format;
use super::screen::{Screen, columns};
use super::throttle::Throttle;
use super::totals::{Snapshot, Totals};
use crate::escape::Escaped;
use crate::event::{Event, Reporter};

const OVERALL: &str = "{prefix:<9} {wide_bar} {msg}";
const FILE: &str = "          {wide_msg}";

/// Minimal widths of the prefix and of the bar.
const PREFIX_COLUMNS: usize = 9;
const BAR_COLUMNS: usize = 6;

/// How often the bars are redrawn. Drawing each of thousands of files per second would slow the transfer down.
const REFRESH_INTERVAL: Duration = Duration::from_millis(50);
/// The names of larger files are always shown, because their transfer takes a while.
const LARGE_BYTES: u64 = 1 << 20;

/// The progress bars of one session.
pub struct Bars<'a> {
    screen: &'a Screen,
    overall: ProgressBar,
    file: ProgressBar,
    refresh_throttle: Throttle,
    name_throttle: Throttle,
    totals: Totals,
    /// Never drawn: estimates the rate of transferred bytes.
    rate: ProgressBar,
    /// Bytes to hash after everything is transferred; 0 before that.
    digest_bytes: AtomicU64,
}

impl<'a> Bars<'a> {
    /// Adds the bars to the screen; `title` is printed before them.
    pub fn new(screen: &'a Screen, title: &str) -> Self {
        // A bar of length 0 would be drawn as full.
        let overall = screen.multi().add(ProgressBar::new(1));
        let file = screen.multi().insert_after(&overall, ProgressBar::new(0));
        let style = |template| {
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
        };
        overall.set_style(style(OVERALL).progress_chars("█▉▊▋▌▍▎▏ "));
        file.set_style(style(FILE));
        overall.set_prefix(title.to_owned());
        Bars {
            screen,
            overall,
            file,
            refresh_throttle: Throttle::new(REFRESH_INTERVAL),
            name_throttle: Throttle::new(REFRESH_INTERVAL),
            totals: Totals::default(),
            rate: ProgressBar::hidden(),
            digest_bytes: AtomicU64::new(0),
        }
    }

    fn show_file(&self, path: &[u8], size_bytes: u64) {
        if self.screen.has_bars() && (size_bytes >= LARGE_BYTES || self.name_throttle.is_due()) {
            self.file.set_message(Escaped::new(path).to_string());
        }
    }

    fn show_digesting(&self, remaining_bytes: u64) {
        let total = self.digest_bytes.load(Ordering::Relaxed);
        if total == 0 {
            self.digest_bytes.store(remaining_bytes, Ordering::Relaxed);
            self.overall.set_prefix("md5sum");
            self.rate.reset();
            self.draw(0, remaining_bytes, 0);
        } else {
            let done = total.saturating_sub(remaining_bytes);
            self.draw(done, total, done);
        }
    }

    /// Redraws the bars if that is due, and always when everything is done: no other event may follow for a while.
    fn refresh(&self) {
        if self.screen.has_bars() && (self.refresh_throttle.is_due() || self.totals.snapshot().is_complete())
        {
            self.show_totals();
        }
    }

    fn show_totals(&self) {
        // While files are hashed after the transfer, the bars show that instead.
        if self.digest_bytes.load(Ordering::Relaxed) == 0 {
            let Snapshot { bytes_done, bytes_planned, bytes_transferred, .. } = self.totals.snapshot();
            self.draw(bytes_done, bytes_planned, bytes_transferred);
        }
    }

    /// Draws `done` of `planned` bytes; the rate is that of `processed`.
    fn draw(&self, done: u64, planned: u64, processed: u64) {
        self.rate.set_position(processed);
        let rate = self.rate.per_sec();
        let mut parts = Vec::new();
        if planned > 0 {
            parts.push(format!("{}/{}", DecimalBytes(done), DecimalBytes(planned)));
        }
        if rate >= 1.0 {
            parts.push(format!("{}/s", DecimalBytes(rate as u64)));
            let left = Duration::try_from_secs_f64(planned.saturating_sub(done) as f64 / rate);
            parts.push(format!("{:#} left", HumanDuration(left.unwrap_or(Duration::MAX))));
        }
        // `ftx bench` has bytes, but no files.
        let totals = self.totals.snapshot();
        if totals.files_planned > 0 {
            // During the walk the total is a lower bound.
            let more = if totals.plan_complete { "" } else { "+" };
            let (done, planned) = (format::count(totals.files_done), format::count(totals.files_planned));
            parts.push(format!("{done}/{planned}{more} files"));
        }
        let prefix_columns = self.overall.prefix().chars().count().max(PREFIX_COLUMNS);
        self.overall.set_message(join_fitting(&parts, usize::from(columns()), prefix_columns));
        self.overall.update(|state| {
            state.set_len(planned.max(1));
            state.set_pos(done);
        });
    }
}

/// Joins as many of the parts, in order, as leave columns for the bar.
fn join_fitting(parts: &[String], columns: usize, prefix_columns: usize) -> String {
    let available = columns.saturating_sub(prefix_columns + 1 + BAR_COLUMNS + 1);
    let lines = (1..=parts.len()).rev().map(|count| parts[..count].join("  "));
    lines.into_iter().find(|line| line.chars().count() <= available).unwrap_or_default()
}

impl Reporter for Bars<'_> {
    fn report(&self, event: Event<'_>) {
        match event {
            Event::FileStarted { path, size_bytes } => self.show_file(path, size_bytes),
            Event::Digesting { remaining_bytes } => self.show_digesting(remaining_bytes),
            Event::Lost { .. } => self.overall.set_message("reconnecting"),
            event => {
                if self.totals.count(&event) {
                    self.refresh();
                }
            }
        }
    }
}

impl Drop for Bars<'_> {
    fn drop(&mut self) {
        self.file.finish_and_clear();
        self.overall.finish_and_clear();
        self.screen.multi().remove(&self.file);
        self.screen.multi().remove(&self.overall);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_empty_before_anything_is_planned() {
        let screen = Screen::new(true);
        screen.clear_bars();
        let bars = Bars::new(&screen, "sending");
        assert_eq!((bars.overall.position(), bars.overall.length()), (0, Some(1)));
        bars.report(Event::Planned { files: 1, bytes: 0 });
        bars.show_totals();
        assert_eq!((bars.overall.position(), bars.overall.length()), (0, Some(1)));
        assert_eq!(bars.overall.message(), "0/1+ files");
        bars.report(Event::Planned { files: 1, bytes: 300 });
        bars.report(Event::Transferred { bytes: 120 });
        bars.show_totals();
        assert_eq!((bars.overall.position(), bars.overall.length()), (120, Some(300)));
    }

    #[test]
    fn parts_that_do_not_fit_beside_a_bar_are_dropped() {
        let parts = ["292.94 MB/300.00 MB", "123.61 MB/s", "11s left", "1,204/20,000 files"];
        let parts: Vec<_> = parts.map(str::to_owned).into();
        let line = |columns| join_fitting(&parts, columns, PREFIX_COLUMNS);
        assert_eq!(line(80), "292.94 MB/300.00 MB  123.61 MB/s  11s left  1,204/20,000 files");
        assert_eq!(line(78), "292.94 MB/300.00 MB  123.61 MB/s  11s left");
        assert_eq!(line(40), "292.94 MB/300.00 MB");
        assert_eq!(line(10), "");
        let widest = |columns| PREFIX_COLUMNS + 1 + BAR_COLUMNS + 1 + line(columns).chars().count();
        assert!((20..200).all(|columns| widest(columns) <= columns));
    }
}
