//! The closing line of a session.

use std::time::Duration;

use indicatif::DecimalBytes;

use super::format::{count, counted, duration};
use crate::busy_time::Bottleneck;
use crate::escape::Escaped;
use crate::event::Summary;

/// The bottleneck of a shorter transfer is not reported.
const MIN_TIME_FOR_BOTTLENECK: Duration = Duration::from_secs(1);
/// A stage that was busy for a smaller share of the time is not reported as bottleneck.
const MIN_BOTTLENECK_PERCENT: u8 = 50;

/// Printed after a closing line with failures of the kind `exists`.
pub const NAME_TAKEN_ADVICE: &str =
    "     start the receiver with --on-conflict overwrite to replace them, or rename to keep both";

/// `Sent 3 files (1.20 GB) in 2.1 s, 571.00 MB/s to nas. Checked by MD5, durable at the receiver.`
pub fn sent(summary: &Summary, host: &str) -> String {
    let phrases = Phrases {
        done: "Sent",
        nothing: "Nothing to send",
        peer: format!("to {}", Escaped::new(host)),
        resumed: "were received in an earlier attempt",
        durable: "durable at the receiver",
    };
    closing_line(summary, &phrases)
}

/// `Received 3 files (1.20 GB) in 2.1 s, 571.00 MB/s from 10.0.0.7. Checked by MD5, durable.`
pub fn received(summary: &Summary, peer: &str) -> String {
    if summary.measures > 0 {
        return format!("Measured for {peer} in {}. Nothing was stored.", duration(summary.elapsed));
    }
    let phrases = Phrases {
        done: "Received",
        nothing: "Nothing new",
        peer: format!("from {peer}"),
        // By an earlier session, or by an earlier connection of this one.
        resumed: "were received before",
        durable: "durable",
    };
    closing_line(summary, &phrases)
}

/// The phrases in which the closing lines of sender and receiver differ.
struct Phrases {
    done: &'static str,
    nothing: &'static str,
    peer: String,
    /// After a number of bytes.
    resumed: &'static str,
    durable: &'static str,
}

/// Reports what was stored, skipped and not transferred, what confirms it, and the remarks. If nothing new was stored, a
/// failure comes first.
fn closing_line(summary: &Summary, phrases: &Phrases) -> String {
    let mut line = outcome(summary, phrases);
    let (new, failed) = (summary.new_files(), summary.failed());
    if new > 0 && failed > 0 {
        line += &format!(" {} NOT transferred.", counted(failed, "entry was", "entries were"));
    }
    let durable = phrases.durable;
    line += &match (summary.confirmed, summary.files + summary.others, failed) {
        (_, 0, _) => String::new(),
        (false, ..) => " Not confirmed: classic receivers give no receipt.".to_owned(),
        (true, _, 0) => format!(" Checked by MD5, {durable}."),
        (true, ..) => format!(" The rest is checked by MD5, {durable}."),
    };
    line + &remarks(summary)
}

fn outcome(summary: &Summary, phrases: &Phrases) -> String {
    let Phrases { done, nothing, peer, .. } = phrases;
    let (new, skipped, failed) = (summary.new_files(), summary.skipped_files, summary.failed());
    let stored = summary.files + summary.others;
    let identical = || {
        let files = counted(skipped, "file", "files");
        format!("{files} ({}) identical, skipped.", DecimalBytes(summary.skipped_bytes))
    };
    if new > 0 {
        let skipped = match skipped {
            0 => String::new(),
            skipped => format!("; {} skipped, identical", count(skipped)),
        };
        format!("{done} {} {peer}{skipped}.", new_files(summary, phrases))
    } else if failed > 0 {
        let total = counted(stored + failed, "entry", "entries");
        let skipped = if skipped > 0 { format!(" {}", identical()) } else { String::new() };
        format!("NOT transferred {peer}: {} of {total}.{skipped}", count(failed))
    } else if skipped > 0 {
        let others = if summary.others > 0 { " but folders and links" } else { "" };
        format!("{nothing} {peer}{others}: {}", identical())
    } else if stored > 0 {
        let (others, took) =
            (counted(stored, "folder or link", "folders and links"), duration(summary.elapsed));
        format!("{done} {others} {peer} in {took}.")
    } else {
        format!("{done} nothing {peer}.")
    }
}

/// The size is that of the new files; the rate is that of the transferred bytes.
fn new_files(summary: &Summary, phrases: &Phrases) -> String {
    let files = counted(summary.new_files(), "file", "files");
    let resumed = match summary.resumed_bytes {
        0 => String::new(),
        bytes => format!(", of which {} {}", DecimalBytes(bytes), phrases.resumed),
    };
    let rate = match summary.moved_bytes as f64 / summary.elapsed.as_secs_f64().max(1e-3) {
        ..1.0 => String::new(),
        rate => format!(", {}/s", DecimalBytes(rate as u64)),
    };
    format!("{files} ({}{resumed}) in {}{rate}", DecimalBytes(summary.new_bytes), duration(summary.elapsed))
}

fn remarks(summary: &Summary) -> String {
    let mut remarks = String::new();
    if summary.reconnects > 0 {
        let again = match summary.repeated_bytes {
            0 => String::new(),
            bytes => format!("; {} were transferred again", DecimalBytes(bytes)),
        };
        let times =
            if summary.reconnects == 1 { "once".into() } else { format!("{} times", summary.reconnects) };
        remarks += &format!(" The connection was lost {times}{again}.");
    }
    if summary.hole_bytes > 0 {
        remarks += &format!(" {} of holes were not transferred.", DecimalBytes(summary.hole_bytes));
    }
    let is_reported = |limit: &Bottleneck| {
        limit.percent >= MIN_BOTTLENECK_PERCENT && summary.elapsed >= MIN_TIME_FOR_BOTTLENECK
    };
    if let Some(bottleneck) = summary.limit.filter(is_reported) {
        remarks += &format!(" Limited by: {bottleneck}.");
    }
    if summary.repaired_parts > 0 {
        let parts = counted(summary.repaired_parts, "damaged part was", "damaged parts were");
        remarks += &format!(" {parts} fetched again.");
    }
    match summary.undigested.values().sum() {
        0 => {}
        1 => remarks += " 1 file is stored, but not in the list: its MD5 could not be computed.",
        files => {
            let files = count(files);
            remarks +=
                &format!(" {files} files are stored, but not in the list: their MD5 could not be computed.");
        }
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::busy_time::TransferStage;
    use crate::error_code::ErrorCode;

    fn summary() -> Summary {
        Summary {
            files: 1234,
            new_bytes: 2_300_000_000,
            moved_bytes: 2_300_000_000,
            elapsed: Duration::from_millis(3200),
            confirmed: true,
            ..Summary::default()
        }
    }

    /// A session that stored nothing new.
    fn without_new(skipped_files: u64, others: u64, failed: u64) -> Summary {
        let (files, skipped_bytes) = (skipped_files, skipped_files * 1_000_000);
        let failures = [(ErrorCode::Exists, failed)].into();
        Summary {
            confirmed: true,
            files,
            skipped_files,
            skipped_bytes,
            others,
            failures,
            ..Summary::default()
        }
    }

    fn from(summary: &Summary) -> String {
        received(summary, "10.0.0.7")
    }

    #[test]
    fn the_closing_line_has_the_bytes_the_rate_and_the_confirmation() {
        assert_eq!(
            sent(&summary(), "nas"),
            "Sent 1,234 files (2.30 GB) in 3.2 s, 718.75 MB/s to nas. Checked by MD5, durable at the receiver."
        );
        assert_eq!(
            from(&Summary { files: 1, ..summary() }),
            "Received 1 file (2.30 GB) in 3.2 s, 718.75 MB/s from 10.0.0.7. Checked by MD5, durable."
        );
        let classic = Summary { confirmed: false, ..summary() };
        assert!(sent(&classic, "nas").ends_with("Not confirmed: classic receivers give no receipt."));
    }

    #[test]
    fn a_session_without_new_files_begins_with_its_failures() {
        let to_nas = |skipped, others, failed| sent(&without_new(skipped, others, failed), "nas");
        let checked = "Checked by MD5, durable at the receiver.";
        assert_eq!(to_nas(0, 0, 1), "NOT transferred to nas: 1 of 1 entry.");
        assert_eq!(
            to_nas(2, 0, 1),
            "NOT transferred to nas: 1 of 3 entries. 2 files (2.00 MB) identical, skipped. The rest is \
             checked by MD5, durable at the receiver."
        );
        assert_eq!(
            to_nas(1, 0, 0),
            format!("Nothing to send to nas: 1 file (1.00 MB) identical, skipped. {checked}")
        );
        assert_eq!(
            to_nas(2, 1, 0),
            format!(
                "Nothing to send to nas but folders and links: 2 files (2.00 MB) identical, skipped. {checked}"
            )
        );
        assert_eq!(to_nas(0, 1, 0), format!("Sent 1 folder or link to nas in 0.0 s. {checked}"));
        assert_eq!(
            from(&without_new(1, 0, 0)),
            "Nothing new from 10.0.0.7: 1 file (1.00 MB) identical, skipped. Checked by MD5, durable."
        );
        assert_eq!(from(&without_new(0, 0, 2)), "NOT transferred from 10.0.0.7: 2 of 2 entries.");
        assert_eq!(from(&without_new(0, 0, 0)), "Received nothing from 10.0.0.7.");
    }

    #[test]
    fn empty_files_have_no_rate() {
        let empty = Summary { files: 2, new_bytes: 0, moved_bytes: 0, ..summary() };
        assert!(
            sent(&empty, "nas").starts_with("Sent 2 files (0 B) in 3.2 s to nas. "),
            "{}",
            sent(&empty, "nas")
        );
    }

    #[test]
    fn resumed_and_repeated_bytes_are_reported() {
        let resumed = Summary { resumed_bytes: 1_900_000_000, moved_bytes: 400_000_000, ..summary() };
        let line = sent(&resumed, "nas");
        let begin = "Sent 1,234 files (2.30 GB, of which 1.90 GB were received in an earlier attempt) in 3.2 s, 125.00 MB/s";
        assert!(line.starts_with(begin), "{line}");
        assert!(from(&resumed).contains(" (2.30 GB, of which 1.90 GB were received before) in "));
        let lost = Summary { reconnects: 1, repeated_bytes: 16_780_000, ..summary() };
        let line = sent(&lost, "nas");
        assert!(line.ends_with(" The connection was lost once; 16.78 MB were transferred again."), "{line}");
        let lost = Summary { reconnects: 2, ..summary() };
        assert!(sent(&lost, "nas").ends_with(" The connection was lost 2 times."));
    }

    #[test]
    fn a_stage_that_is_busy_for_less_than_half_of_the_time_is_no_bottleneck() {
        let limited = |percent| {
            let limit = Some(Bottleneck { stage: TransferStage::ReceiversMd5, percent });
            sent(&Summary { limit, ..summary() }, "nas")
        };
        assert!(
            limited(50).ends_with(" Limited by: the receiver's MD5, 50 % of the time."),
            "{}",
            limited(50)
        );
        assert!(!limited(49).contains("Limited by"), "{}", limited(49));
    }

    #[test]
    fn failures_are_reported_beside_new_files() {
        let mut summary = summary();
        summary.count_failure(ErrorCode::Exists);
        summary.count_skipped(7);
        assert_eq!(
            from(&summary),
            "Received 1,234 files (2.30 GB) in 3.2 s, 718.75 MB/s from 10.0.0.7; 1 skipped, identical. 1 entry was NOT \
             transferred. The rest is checked by MD5, durable."
        );
        summary.undigested.insert(ErrorCode::SourceChanged, 2);
        assert!(sent(&summary, "nas").contains(" 2 files are stored, but not in the list"), "{summary:?}");
    }
}
