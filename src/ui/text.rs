//! The closing lines.

use std::net::IpAddr;
use std::time::Duration;

use indicatif::{BinaryBytes, DecimalBytes};

use crate::bench::{Options, Report, shown_dir};
use crate::escape::Shown;
use crate::fault::Fault;
use crate::progress::Summary;
use crate::recv::RecvError;
use crate::store::Unfinished;
use crate::units::rate_text;
use crate::wire::WireError;

/// Nobody asks what limited a transfer that was over at once.
const WORTH_EXPLAINING: Duration = Duration::from_secs(1);

/// `Sent 3 files (1.2 GB) to nas in 2.1 s, 571 MB/s. ...`
pub fn sent(summary: &Summary, host: &str) -> String {
    let vouched = if summary.confirmed {
        "Checked by MD5, durable at the receiver."
    } else {
        "Not confirmed: classic receivers give no receipt."
    };
    format!("Sent {} to {}. {vouched}{}", what_moved(summary), Shown::new(host), remarks(summary))
}

/// What a sender can do about names that are taken.
pub const TAKEN: &str = "     to take them, the receiver has to be started with --on-conflict overwrite, or rename to \
                         keep both";

/// `Unfinished: a.img, 9.6 GB of 10.7 GB are here, from 2 h ago, kept for 6 more days. ...`
pub fn unfinished(left: &Unfinished) -> String {
    let (name, age) = (Shown::new(&left.path), coarse(left.age));
    let (there, size) = (DecimalBytes(left.there_bytes), DecimalBytes(left.size_bytes));
    match left.is_removed {
        true => format!("Removed what was left of {name}: {there} of {size}, from {age} ago."),
        false => format!(
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
pub fn about(peer: IpAddr, error: &RecvError) -> String {
    match error {
        RecvError::Wire(WireError::PeerGaveUp { fault: Fault::Interrupted, .. }) => {
            format!("{peer} was interrupted; what was complete is stored")
        }
        RecvError::NotBack { .. } => format!("{peer} {error}"),
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

/// `Received 3 files (1.2 GB) from 10.0.0.7 in 2.1 s, 571 MB/s. ...`
pub fn received(summary: &Summary, peer: IpAddr) -> String {
    if summary.measures > 0 {
        return format!("Measured for {peer} in {}. Nothing was stored.", duration(summary.elapsed));
    }
    format!("Received {} from {peer}. Checked by MD5, durable.{}", what_moved(summary), remarks(summary))
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

fn what_moved(summary: &Summary) -> String {
    let files = if summary.files == 1 { "file" } else { "files" };
    let seconds = summary.elapsed.as_secs_f64().max(1e-3);
    let rate = DecimalBytes((summary.moved_bytes as f64 / seconds) as u64);
    let (count, bytes) = (count(summary.files), DecimalBytes(summary.moved_bytes));
    format!("{count} {files} ({bytes}) in {}, {rate}/s", duration(summary.elapsed))
}

fn remarks(summary: &Summary) -> String {
    let mut remarks = String::new();
    if summary.skipped_files > 0 {
        remarks += &format!(" {} of them were there already.", count(summary.skipped_files));
    }
    match summary.reconnects {
        0 => {}
        1 => remarks += " The connection was lost once.",
        times => remarks += &format!(" The connection was lost {times} times."),
    }
    if summary.resumed_bytes > 0 {
        let bytes = DecimalBytes(summary.resumed_bytes);
        remarks += &format!(" {bytes} of it were there from an earlier attempt.");
    }
    if summary.hole_bytes > 0 {
        remarks += &format!(" {} of holes did not have to move.", DecimalBytes(summary.hole_bytes));
    }
    if let Some(limit) = summary.limit.filter(|_| summary.elapsed >= WORTH_EXPLAINING) {
        remarks += &format!(" Limited by: {limit}.");
    }
    if summary.repaired_parts > 0 {
        remarks += &format!(" {} damaged parts were fetched again.", count(summary.repaired_parts));
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
    match summary.failed() {
        0 => {}
        1 => remarks += " 1 entry was NOT transferred.",
        failed => remarks += &format!(" {} entries were NOT transferred.", count(failed)),
    }
    remarks
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
    use crate::bench::Row;
    use crate::measure::Rate;

    fn summary() -> Summary {
        Summary {
            files: 1234,
            moved_bytes: 2_300_000_000,
            elapsed: Duration::from_millis(3200),
            confirmed: true,
            ..Summary::default()
        }
    }

    #[test]
    fn the_closing_line_says_what_moved_how_fast_and_what_is_vouched_for() {
        assert_eq!(
            sent(&summary(), "nas"),
            "Sent 1,234 files (2.30 GB) in 3.2 s, 718.75 MB/s to nas. Checked by MD5, durable at the receiver."
        );
        let classic = Summary { confirmed: false, ..summary() };
        assert!(sent(&classic, "nas").ends_with("Not confirmed: classic receivers give no receipt."));
    }

    fn row(label: &'static str, mb_per_s: u64, limits_as: Option<&'static str>) -> Row {
        let rate = Rate { bytes: mb_per_s * 1_000_000, elapsed: Duration::from_secs(1) };
        Row { label, rate, note: "here".into(), limits_as }
    }

    #[test]
    fn the_slowest_stage_is_named() {
        let dir = std::env::temp_dir();
        let (port, size_bytes, timeout) = (1, 256 << 20, Duration::ZERO);
        let host = Some("nas".parse().unwrap());
        let interrupt = crate::net::Bell::new().unwrap();
        let options = Options { host, port, dir, size_bytes, timeout, interrupt };
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
                size_bytes: 300_000_000,
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
    }

    #[test]
    fn failures_are_not_overlooked() {
        let mut summary = summary();
        summary.count_failure(Fault::Exists);
        summary.skipped_files = 7;
        let line = received(&summary, "10.0.0.7".parse().unwrap());
        assert!(line.ends_with("7 of them were there already. 1 entry was NOT transferred."), "{line}");
        summary.undigested.insert(Fault::SourceChanged, 2);
        assert!(sent(&summary, "nas").contains(" 2 files are in place, but not in the list"), "{summary:?}");
    }
}
