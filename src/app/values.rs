//! Parsers of option values.

use crate::wire::MAX_MEASURE_BYTES;

/// Smaller measurements show mostly overhead.
const MIN_BENCH_BYTES: u64 = 1 << 20;

/// `ftx bench --size`: a number of bytes, or of KiB, MiB, GiB with the suffix `K`, `M`, `G`.
pub fn bench_size(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.strip_suffix(['K', 'M', 'G', 'k', 'm', 'g']) {
        Some(digits) if text.ends_with(['K', 'k']) => (digits, 1 << 10),
        Some(digits) if text.ends_with(['M', 'm']) => (digits, 1 << 20),
        Some(digits) => (digits, 1 << 30),
        None => (text, 1),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    let bytes = bytes.ok_or("expected a size such as 1048576, 1024K, 64M or 1G")?;
    if !(MIN_BENCH_BYTES..=MAX_MEASURE_BYTES).contains(&bytes) {
        return Err("expected 1M to 1G".into());
    }
    Ok(bytes)
}

/// `ftx recv --keep-unfinished`.
pub fn whole_days(text: &str) -> Result<u32, &'static str> {
    text.parse().map_err(|_| "expected a whole number of days, 0 or more")
}

/// `ftx recv DIR` is refused with a hint: the folder is an option.
pub fn no_folder_here(text: &str) -> Result<String, String> {
    Err(format!("use --out {text} to choose the folder"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bounded() {
        for (text, bytes) in [("1048576", 1 << 20), ("2048k", 2 << 20), ("64M", 64 << 20), ("1G", 1 << 30)] {
            assert_eq!(bench_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "M", "0", "1023K", "1025M", "2G", "-1M", "1.5M", "1T", "18446744073709551616G"] {
            assert!(bench_size(bad).is_err(), "{bad}");
        }
    }
}
