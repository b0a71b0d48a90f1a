//! Results of `ftx bench`.

use crate::measure::Rate;

/// The result of one stage: a line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageResult {
    /// Name of the stage in the table.
    pub label: &'static str,
    /// Its rate.
    pub rate: Rate,
    /// Where and how it was measured.
    pub note: String,
    /// Name of the stage as a bottleneck; `None` if a transfer does not use it this way.
    pub limits_as: Option<&'static str>,
}

/// All results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The stages, in the order in which bytes pass them.
    pub rows: Vec<StageResult>,
    /// The rate of the local transfer; `None` if nothing was transferred.
    pub together: Option<Rate>,
}

/// A transfer that reaches this share of the rate of its slowest stage is limited by that stage.
const SHARED_THRESHOLD_PERCENT: u64 = 75;

impl Report {
    /// The slowest stage as a bottleneck, and its rate in bytes per second.
    pub fn slowest(&self) -> Option<(&'static str, u64)> {
        let stages = self.rows.iter().filter_map(|row| Some((row.limits_as?, row.rate.bytes_per_s())));
        stages.min_by_key(|(_, rate)| *rate)
    }

    /// Whether the transfer is clearly slower than its slowest stage, because both ends share one machine.
    pub fn is_shared(&self) -> bool {
        let (Some(together), Some((_, slowest))) = (self.together, self.slowest()) else { return false };
        together.bytes_per_s() < slowest / 100 * SHARED_THRESHOLD_PERCENT
    }
}
