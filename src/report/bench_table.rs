//! The table of `ftx bench`.

use std::path::Path;

use indicatif::BinaryBytes;

use crate::bench::{Options, Report};
use crate::escape::Escaped;
use crate::units::rate_text;

/// The rows, then a sentence about the bottleneck.
pub fn lines(options: &Options, report: &Report) -> Vec<String> {
    let (size, dir) = (BinaryBytes(options.size_bytes), absolute_text(&options.dir));
    let target = options.host.as_ref().map_or(String::new(), |host| format!(" and to {host}"));
    let mut lines = vec![format!("Each stage alone, with up to {size}, in {dir}{target}:"), String::new()];
    let line = |label: &str, rate: u64, note: &str| format!("{label:<12} {:>9}  {note}", rate_text(rate));
    lines.extend(report.rows.iter().map(|row| line(row.label, row.rate.bytes_per_s(), &row.note)));
    let Some((stage, slowest)) = report.slowest() else { return lines };
    let (together, note) = match report.together {
        Some(rate) => (rate.bytes_per_s(), "transferred: ftx send to ftx recv on this machine"),
        None => (slowest, "calculated: the slowest stage; nothing was transferred"),
    };
    lines.push(line("together", together, note));
    lines.push(String::new());
    let expected = rate_text(together);
    lines.push(match report.together {
        None => format!("Bottleneck: {stage}. A transfer can reach about {expected} at best."),
        Some(_) if report.is_shared() => format!(
            "Bottleneck: both ends share this machine. A transfer on it runs at about {expected}; the slowest stage, \
             {stage}, reaches {} alone.",
            rate_text(slowest)
        ),
        Some(_) => format!("Bottleneck: {stage}. A transfer on this machine runs at about {expected}."),
    });
    lines
}

fn absolute_text(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    Escaped::new(dir.as_os_str().as_encoded_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::StageResult;
    use crate::measure::Rate;
    use std::time::Duration;

    fn row(label: &'static str, mb_per_s: u64, limits_as: Option<&'static str>) -> StageResult {
        let rate = Rate { bytes: mb_per_s * 1_000_000, elapsed: Duration::from_secs(1) };
        StageResult { label, rate, note: "here".into(), limits_as }
    }

    #[test]
    fn the_slowest_stage_is_named() {
        let dir = std::env::temp_dir();
        let (port, size_bytes, timeout) = (1, 256 << 20, Duration::ZERO);
        let host = Some("nas".parse().unwrap());
        let cancel = crate::sync::CancelToken::new().unwrap();
        let options = Options { host, port, dir, size_bytes, timeout, cancel };
        let rows = vec![
            row("MD5", 500, None),
            row("wire", 110, Some("the wire")),
            row("disk write", 1100, Some("the disk")),
        ];
        let remote = lines(&options, &Report { rows: rows.clone(), together: None });
        assert!(remote[0].starts_with("Each stage alone, with up to 256.00 MiB, in /"), "{remote:?}");
        assert!(remote[0].ends_with(" and to nas:"), "{remote:?}");
        assert_eq!(
            remote[2..],
            [
                "MD5           500 MB/s  here",
                "wire          110 MB/s  here",
                "disk write   1.10 GB/s  here",
                "together      110 MB/s  calculated: the slowest stage; nothing was transferred",
                "",
                "Bottleneck: the wire. A transfer can reach about 110 MB/s at best.",
            ]
        );
        let together = |mb_per_s| Some(row("", mb_per_s, None).rate);
        let local = lines(&options, &Report { rows: rows.clone(), together: together(100) });
        assert_eq!(
            local.last().unwrap(),
            "Bottleneck: the wire. A transfer on this machine runs at about 100 MB/s."
        );
        let shared = lines(&options, &Report { rows, together: together(50) });
        let sentence = shared.last().unwrap();
        assert!(sentence.contains("share this machine"), "{sentence}");
        assert!(sentence.contains("the slowest stage, the wire, reaches 110 MB/s alone."), "{sentence}");
    }
}
