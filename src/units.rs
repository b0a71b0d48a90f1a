//! Types for times and modes, and texts for sizes and rates.

/// A time of modification in nanoseconds since 1970-01-01T00:00:00Z, negative before; years 1677 to 2262.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MtimeNs(pub i64);

const NS_PER_S: i64 = 1_000_000_000;

impl MtimeNs {
    /// From the pair that `stat` returns; `None` outside the range of 64 bits of nanoseconds.
    pub fn from_parts(seconds: i64, nanoseconds: i64) -> Option<Self> {
        seconds.checked_mul(NS_PER_S)?.checked_add(nanoseconds).map(MtimeNs)
    }

    /// Whole seconds (rounded down) and the nanoseconds above them, `0..1_000_000_000`.
    pub fn to_parts(self) -> (i64, i64) {
        (self.0.div_euclid(NS_PER_S), self.0.rem_euclid(NS_PER_S))
    }
}

/// The nine permission bits of a file. Setuid, setgid and sticky are not transferred, because they grant rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(u32);

impl Mode {
    const PERMISSION_BITS: u32 = 0o777;

    /// Keeps the permission bits of `bits` and drops the rest.
    pub fn new(bits: u32) -> Self {
        Mode(bits & Self::PERMISSION_BITS)
    }

    /// The bits, at most `0o777`.
    pub fn bits(self) -> u32 {
        self.0
    }
}

/// The transferred metadata of an entry; `None` leaves the default of the receiver's system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits.
    pub mode: Option<Mode>,
    /// Time of modification.
    pub mtime: Option<MtimeNs>,
}

/// A rate of bytes per second with three significant digits: `33.6 MB/s`, `1.19 GB/s`.
pub fn rate_text(bytes_per_s: u64) -> String {
    let (mut value, mut unit) = (bytes_per_s as f64, "B/s");
    for larger in ["kB/s", "MB/s", "GB/s", "TB/s"] {
        // A value that rounds to 1000 is written in the next unit.
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1000.0, larger);
    }
    let decimals = match value {
        _ if unit == "B/s" => 0,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

/// A size, in the same way: `33.6 MB`, `1.19 GB`.
pub fn bytes_text(bytes: u64) -> String {
    rate_text(bytes).trim_end_matches("/s").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_three_significant_digits() {
        for (bytes_per_s, text) in [
            (0, "0 B/s"),
            (999, "999 B/s"),
            (1000, "1.00 kB/s"),
            (9_996, "10.0 kB/s"),
            (99_960, "100 kB/s"),
            (999_600, "1.00 MB/s"),
            (33_559_000, "33.6 MB/s"),
            (310_960_000, "311 MB/s"),
            (1_188_000_000, "1.19 GB/s"),
            (2_000_000_000_000_000, "2000 TB/s"),
        ] {
            assert_eq!(rate_text(bytes_per_s), text);
        }
        assert_eq!(bytes_text(3_100_000_000), "3.10 GB");
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let time = MtimeNs::from_parts(-1, 999_999_999).unwrap();
        assert_eq!(time.0, -1);
        assert_eq!(time.to_parts(), (-1, 999_999_999));
        let (seconds, nanoseconds) = MtimeNs(i64::MIN).to_parts();
        assert!((0..NS_PER_S).contains(&nanoseconds));
        assert!(seconds < 0);
        assert_eq!(MtimeNs::from_parts(i64::MAX, 0), None);
    }

    #[test]
    fn setuid_is_dropped() {
        assert_eq!(Mode::new(0o104755).bits(), 0o755);
    }
}
