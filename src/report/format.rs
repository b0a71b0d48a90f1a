//! Numbers and durations in sentences.

use std::time::Duration;

/// `1 file`, `2 files`
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// `1,234,567`
pub fn count(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

/// `3.2 s`, `4 minutes`
pub fn duration(duration: Duration) -> String {
    if duration < Duration::from_secs(60) {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        indicatif::HumanDuration(duration).to_string()
    }
}

/// A duration in the largest unit of which there are at least two: `40 s`, `12 min`, `5 h`, `3 days`.
pub fn coarse(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7_200 => format!("{} min", seconds / 60),
        seconds @ ..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// `less than a day`, `1 more day`, `6 more days`
pub fn more_days(duration: Duration) -> String {
    match duration.as_secs() / 86_400 {
        0 => "less than a day".into(),
        1 => "1 more day".into(),
        days => format!("{days} more days"),
    }
}

/// The sentence with an upper-case first letter.
pub fn capitalized(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}
