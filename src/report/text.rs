//! The closing lines.

use std::time::Duration;

use indicatif::{BinaryBytes, DecimalBytes};

use crate::bench::{Options, Report, shown_dir};
use crate::busy_time::Bottleneck;
use crate::dest::local::Unfinished;
use crate::error_code::ErrorCode;
use crate::escape::Escaped;
use crate::event::Summary;
use crate::recv::RecvError;
use crate::units::rate_text;
use crate::wire::WireError;

/// Nobody asks what limited a transfer that was over at once.
const WORTH_EXPLAINING: Duration = Duration::from_secs(1);
/// What is busy for a smaller share of the time is no limit.
const LIMITS_PERCENT: u8 = 50;

/// `Sent 3 files (1.20 GB) in 2.1 s, 571.00 MB/s to nas. Checked by MD5, ...`
pub fn sent(summary: &Summary, host: &str) -> String {
    let words = Phrases {
        done: "Sent",
        nothing: "Nothing to send",
        peer: format!("to {}", Escaped::new(host)),
        resumed: "were there from an earlier attempt",
        durable: "durable at the receiver",
    };
    closing_line(summary, &words)
}

/// What a sender can do about names that are taken.
pub const NAME_TAKEN_ADVICE: &str = "     to take them, the receiver has to be started with --on-conflict overwrite, or rename to \
                         keep both";

/// `Unfinished: a.img, 9.6 GB of 10.7 GB are here, from 2 h ago, kept for 6 more days. ...`
pub fn unfinished(left: &Unfinished) -> String {
    let (name, age, there) = (Escaped::new(&left.path), coarse(left.age), DecimalBytes(left.there_bytes));
    match left.size_bytes.map(DecimalBytes) {
        None => format!("Removed {name}: {there} of a file in arrival, left by a crash {age} ago."),
        Some(size) if left.is_removed => {
            format!("Removed what was left of {name}: {there} of {size}, from {age} ago.")
        }
        Some(size) => format!(
            "Unfinished: {name}, {there} of {size} are here, from {age} ago, kept for {}. Sent again, it goes on there.",
            more_days(left.kept_for)
        ),
    }
}

fn more_days(duration: Duration) -> String {
    match duration.as_secs() / 86_400 {
        0 => "less than a day".into(),
        1 => "1 more day".into(),
        days => format!("{days} more days"),
    }
}

/// `10.0.0.7: the connection was lost in the middle of a.img`, or what a sender did: `10.0.0.7 was interrupted; ...`
pub fn about(peer: &str, error: &RecvError) -> String {
    match error {
        RecvError::Wire(WireError::PeerGaveUp { fault: ErrorCode::Interrupted, .. }) => {
            format!("{peer} was interrupted; what was complete is stored")
        }
        RecvError::ReconnectTimeout { .. } => format!("{peer} {error}"),
        _ => format!("{peer}: {error}"),
    }
}

/// As the beginning of a line.
pub fn capitalized(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

/// In the largest unit that is not too coarse: `40 s`, `12 min`, `5 h`, `3 days`.
fn coarse(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7_200 => format!("{} min", seconds / 60),
        seconds @ ..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// `Received 3 files (1.20 GB) in 2.1 s, 571.00 MB/s from 10.0.0.7. Checked by MD5, durable.`
pub fn received(summary: &Summary, peer: &str) -> String {
    if summary.measures > 0 {
        return format!("Measured for {peer} in {}. Nothing was stored.", duration(summary.elapsed));
    }
    let words = Phrases {
        done: "Received",
        nothing: "Nothing new",
        peer: format!("from {peer}"),
        // An earlier connection of the same sender may have brought them.
        resumed: "were there already",
        durable: "durable",
    };
    closing_line(summary, &words)
}

/// The table of `ftx bench`, and the sentence under it.
pub fn bench(options: &Options, report: &Report) -> Vec<String> {
    let (size, dir) = (BinaryBytes(options.size_bytes), shown_dir(&options.dir));
    let where_to = options.host.as_ref().map_or(String::new(), |host| format!(" and to {host}"));
    let mut lines = vec![format!("Each stage alone, with up to {size}, in {dir}{where_to}:"), String::new()];
    let line = |label: &str, rate: u64, note: &str| format!("{label:<12} {:>9}  {note}", rate_text(rate));
    lines.extend(report.rows.iter().map(|row| line(row.label, row.rate.bytes_per_s(), &row.note)));
    let Some((limit, slowest)) = report.slowest() else { return lines };
    let (together, note) = match report.together {
        Some(rate) => (rate.bytes_per_s(), "transferred: ftx send to ftx recv on this machine"),
        None => (slowest, "calculated: the slowest stage; nothing was transferred"),
    };
    lines.push(line("together", together, note));
    let expect = rate_text(together);
    lines.push(String::new());
    lines.push(match report.together {
        None => format!("What limits is {limit}: a transfer can expect about {expect} at best."),
        Some(_) if report.is_shared() => format!(
            "What limits is that both ends share this machine: a transfer on it runs at about {expect}, although the \
             slowest stage, {limit}, reaches {} alone.",
            rate_text(slowest)
        ),
        Some(_) => format!("What limits is {limit}: a transfer on this machine runs at about {expect}."),
    });
    lines
}

/// How one end tells of a session.
struct Phrases {
    done: &'static str,
    nothing: &'static str,
    peer: String,
    /// Of bytes.
    resumed: &'static str,
    durable: &'static str,
}

/// What became of the entries, what vouches for them, and what else there is to know. Where nothing new is in place, a
/// failure comes first.
fn closing_line(summary: &Summary, words: &Phrases) -> String {
    let Phrases { done, nothing, peer, durable, .. } = words;
    let (new, skipped, failed) = (summary.new_files(), summary.skipped_files, summary.failed());
    let in_place = summary.files + summary.others;
    let took = duration(summary.elapsed);
    let identical = format!(
        "{} ({}) {} there already, identical.",
        counted(skipped, "file", "files"),
        DecimalBytes(summary.skipped_bytes),
        if skipped == 1 { "is" } else { "are" }
    );
    let mut line = if new > 0 {
        let there = match skipped {
            0 => String::new(),
            _ => format!("; {} there already", counted(skipped, "was", "were")),
        };
        format!("{done} {} {peer}{there}.", received_counts(summary, words))
    } else if failed > 0 {
        let of = counted(in_place + failed, "entry", "entries");
        let there = if skipped > 0 { format!(" {identical}") } else { String::new() };
        format!("NOT transferred {peer}: {} of {of}.{there}", count(failed))
    } else if skipped > 0 {
        let but = if summary.others > 0 { " but folders and links" } else { "" };
        format!("{nothing} {peer}{but}: {identical}")
    } else if in_place > 0 {
        format!("{done} {} {peer} in {took}.", counted(in_place, "folder or link", "folders and links"))
    } else {
        format!("{done} nothing {peer}.")
    };
    if new > 0 && failed > 0 {
        line += &format!(" {} NOT transferred.", counted(failed, "entry was", "entries were"));
    }
    line += &match (summary.confirmed, in_place, failed) {
        (_, 0, _) => String::new(),
        (false, ..) => " Not confirmed: classic receivers give no receipt.".to_owned(),
        (true, _, 0) => format!(" Checked by MD5, {durable}."),
        (true, ..) => format!(" The rest is checked by MD5, {durable}."),
    };
    line + &remarks(summary)
}

/// The size is that of the files, and the rate that of what moved for them.
fn received_counts(summary: &Summary, words: &Phrases) -> String {
    let files = counted(summary.new_files(), "file", "files");
    let resumed = match summary.resumed_bytes {
        0 => String::new(),
        bytes => format!(", of which {} {}", DecimalBytes(bytes), words.resumed),
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
            bytes => format!("; {} had to move again", DecimalBytes(bytes)),
        };
        let lost =
            if summary.reconnects == 1 { "once".into() } else { format!("{} times", summary.reconnects) };
        remarks += &format!(" The connection was lost {lost}{again}.");
    }
    if summary.hole_bytes > 0 {
        remarks += &format!(" {} of holes did not have to move.", DecimalBytes(summary.hole_bytes));
    }
    let limits = |limit: &Bottleneck| limit.percent >= LIMITS_PERCENT && summary.elapsed >= WORTH_EXPLAINING;
    if let Some(limit) = summary.limit.filter(limits) {
        remarks += &format!(" Limited by: {limit}.");
    }
    if summary.repaired_parts > 0 {
        let parts = counted(summary.repaired_parts, "damaged part was", "damaged parts were");
        remarks += &format!(" {parts} fetched again.");
    }
    match summary.undigested.values().sum() {
        0 => {}
        1 => remarks += " 1 file is in place, but not in the list: its MD5 could not be taken.",
        files => {
            let files = count(files);
            remarks +=
                &format!(" {files} files are in place, but not in the list: their MD5 could not be taken.");
        }
    }
    remarks
}

/// `1 file`, `2 files`
fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// `1,234,567`
pub fn count(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

fn duration(duration: Duration) -> String {
    if duration < Duration::from_secs(60) {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        indicatif::HumanDuration(duration).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::StageResult;
    use crate::busy_time::Stage;
    use crate::measure::Rate;

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

    /// A session in which nothing new came.
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
    fn the_closing_line_says_what_moved_how_fast_and_what_is_vouched_for() {
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
    fn a_session_in_which_nothing_moved_does_not_open_like_one_that_went_well() {
        let to_nas = |skipped, others, failed| sent(&without_new(skipped, others, failed), "nas");
        let vouched = "Checked by MD5, durable at the receiver.";
        assert_eq!(to_nas(0, 0, 1), "NOT transferred to nas: 1 of 1 entry.");
        assert_eq!(
            to_nas(2, 0, 1),
            "NOT transferred to nas: 1 of 3 entries. 2 files (2.00 MB) are there already, identical. The rest is \
             checked by MD5, durable at the receiver."
        );
        assert_eq!(
            to_nas(1, 0, 0),
            format!("Nothing to send to nas: 1 file (1.00 MB) is there already, identical. {vouched}")
        );
        assert_eq!(
            to_nas(2, 1, 0),
            format!(
                "Nothing to send to nas but folders and links: 2 files (2.00 MB) are there already, identical. {vouched}"
            )
        );
        assert_eq!(to_nas(0, 1, 0), format!("Sent 1 folder or link to nas in 0.0 s. {vouched}"));
        assert_eq!(
            from(&without_new(1, 0, 0)),
            "Nothing new from 10.0.0.7: 1 file (1.00 MB) is there already, identical. Checked by MD5, durable."
        );
        assert_eq!(from(&without_new(0, 0, 2)), "NOT transferred from 10.0.0.7: 2 of 2 entries.");
        assert_eq!(from(&without_new(0, 0, 0)), "Received nothing from 10.0.0.7.");
    }

    #[test]
    fn where_files_have_no_bytes_there_is_no_rate() {
        let empty = Summary { files: 2, new_bytes: 0, moved_bytes: 0, ..summary() };
        assert!(
            sent(&empty, "nas").starts_with("Sent 2 files (0 B) in 3.2 s to nas. "),
            "{}",
            sent(&empty, "nas")
        );
    }

    #[test]
    fn what_was_there_and_what_moved_again_are_told_apart() {
        let resumed = Summary { resumed_bytes: 1_900_000_000, moved_bytes: 400_000_000, ..summary() };
        let line = sent(&resumed, "nas");
        let there = "Sent 1,234 files (2.30 GB, of which 1.90 GB were there from an earlier attempt) in 3.2 s, 125.00 MB/s";
        assert!(line.starts_with(there), "{line}");
        assert!(from(&resumed).contains(" (2.30 GB, of which 1.90 GB were there already) in "));
        let lost = Summary { reconnects: 1, repeated_bytes: 16_780_000, ..summary() };
        let line = sent(&lost, "nas");
        assert!(line.ends_with(" The connection was lost once; 16.78 MB had to move again."), "{line}");
        let lost = Summary { reconnects: 2, ..summary() };
        assert!(sent(&lost, "nas").ends_with(" The connection was lost 2 times."));
    }

    fn row(label: &'static str, mb_per_s: u64, limits_as: Option<&'static str>) -> StageResult {
        let rate = Rate { bytes: mb_per_s * 1_000_000, elapsed: Duration::from_secs(1) };
        StageResult { label, rate, note: "here".into(), limits_as }
    }

    #[test]
    fn the_slowest_stage_is_named() {
        let dir = std::env::temp_dir();
        let (port, size_bytes, timeout) = (1, 256 << 20, Duration::ZERO);
        let host = Some("nas".parse().unwrap());
        let interrupt = crate::sync::CancelToken::new().unwrap();
        let options = Options { host, port, dir, size_bytes, timeout, cancel: interrupt };
        let rows = vec![
            row("MD5", 500, None),
            row("wire", 110, Some("the wire")),
            row("disk write", 1100, Some("the disk")),
        ];
        let there = bench(&options, &Report { rows: rows.clone(), together: None });
        assert!(there[0].starts_with("Each stage alone, with up to 256.00 MiB, in /"), "{there:?}");
        assert!(there[0].ends_with(" and to nas:"), "{there:?}");
        assert_eq!(
            there[2..],
            [
                "MD5           500 MB/s  here",
                "wire          110 MB/s  here",
                "disk write   1.10 GB/s  here",
                "together      110 MB/s  calculated: the slowest stage; nothing was transferred",
                "",
                "What limits is the wire: a transfer can expect about 110 MB/s at best.",
            ]
        );
        let together = |mb_per_s| Some(row("", mb_per_s, None).rate);
        let here = bench(&options, &Report { rows: rows.clone(), together: together(100) });
        assert_eq!(
            here.last().unwrap(),
            "What limits is the wire: a transfer on this machine runs at about 100 MB/s."
        );
        let shared = bench(&options, &Report { rows, together: together(50) });
        let sentence = shared.last().unwrap();
        assert!(sentence.contains("share this machine"), "{sentence}");
        assert!(sentence.contains("the wire, reaches 110 MB/s alone."), "{sentence}");
    }

    #[test]
    fn what_is_unfinished_says_how_long_it_is_kept() {
        for (hours, words) in [(167, "6 more days"), (47, "1 more day"), (23, "less than a day")] {
            let left = Unfinished {
                path: b"big.tif".to_vec(),
                size_bytes: Some(300_000_000),
                there_bytes: 150_990_000,
                age: Duration::from_secs(2),
                kept_for: Duration::from_secs(hours * 3600),
                is_removed: false,
            };
            let line = format!(
                "Unfinished: big.tif, 150.99 MB of 300.00 MB are here, from 2 s ago, kept for {words}. Sent again, it \
                 goes on there."
            );
            assert_eq!(unfinished(&left), line);
        }
        let left = Unfinished {
            path: b"d/.ftx-0123456789abcdef-7".to_vec(),
            size_bytes: None,
            there_bytes: 150_990_000,
            age: Duration::from_secs(25 * 3600),
            kept_for: Duration::ZERO,
            is_removed: true,
        };
        let line =
            "Removed d/.ftx-0123456789abcdef-7: 150.99 MB of a file in arrival, left by a crash 25 h ago.";
        assert_eq!(unfinished(&left), line);
    }

    #[test]
    fn what_is_busy_for_less_than_half_of_the_time_is_no_limit() {
        let limited = |percent| {
            let limit = Some(Bottleneck { stage: Stage::ReceiversMd5, percent });
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
    fn failures_are_not_overlooked() {
        let mut summary = summary();
        summary.count_failure(ErrorCode::Exists);
        summary.count_skipped(7);
        assert_eq!(
            from(&summary),
            "Received 1,234 files (2.30 GB) in 3.2 s, 718.75 MB/s from 10.0.0.7; 1 was there already. 1 entry was NOT \
             transferred. The rest is checked by MD5, durable."
        );
        summary.undigested.insert(ErrorCode::SourceChanged, 2);
        assert!(sent(&summary, "nas").contains(" 2 files are in place, but not in the list"), "{summary:?}");
    }
}
