//! The closing lines.

use std::net::IpAddr;
use std::time::Duration;

use indicatif::DecimalBytes;

use crate::escape::Shown;
use crate::progress::Summary;

/// `Sent 3 files (1.2 GB) to nas in 2.1 s, 571 MB/s. ...`
pub fn sent(summary: &Summary, host: &str) -> String {
    let vouched = if summary.confirmed {
        "Checked by MD5, durable at the receiver."
    } else {
        "Not confirmed: classic receivers give no receipt."
    };
    format!("Sent {} to {}. {vouched}{}", what_moved(summary), Shown::new(host), remarks(summary))
}

/// `Received 3 files (1.2 GB) from 10.0.0.7 in 2.1 s, 571 MB/s. ...`
pub fn received(summary: &Summary, peer: IpAddr) -> String {
    format!("Received {} from {peer}. Checked by MD5, durable.{}", what_moved(summary), remarks(summary))
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
    if summary.hole_bytes > 0 {
        remarks += &format!(" {} of holes did not have to move.", DecimalBytes(summary.hole_bytes));
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
    use crate::fault::Fault;

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
