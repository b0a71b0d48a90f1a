//! Sets of ids as runs: `[[0,499],[502,502]]`.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// Ascending runs of ids, each `[first, last]`, both inclusive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>")]
pub struct IdRanges(Vec<(u64, u64)>);

/// Runs that overlap, descend, or end before they begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("runs of ids must ascend")]
pub struct IdRangesError;

/// Runs in one frame, so that the frame stays below its limit for any numbers.
pub const MAX_RANGES: usize = 1000;

impl IdRanges {
    /// One id.
    pub fn one(id: u64) -> Self {
        IdRanges(vec![(id, id)])
    }

    /// Everything from `first` to `last`.
    pub fn span(first: u64, last: u64) -> Self {
        debug_assert!(first <= last);
        IdRanges(vec![(first, last)])
    }

    /// From ascending, separate runs, at most [`MAX_RANGES`].
    pub fn from_ranges(runs: &[RangeInclusive<u64>]) -> Self {
        debug_assert!(runs.len() <= MAX_RANGES);
        IdRanges(runs.iter().map(|run| (*run.start(), *run.end())).collect())
    }

    /// Merges ids, in any order, into runs, in as few sets as frames are needed.
    pub fn pack(mut ids: Vec<u64>) -> Vec<IdRanges> {
        ids.sort_unstable();
        ids.dedup();
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for id in ids {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == id => *last = id,
                _ => runs.push((id, id)),
            }
        }
        runs.chunks(MAX_RANGES).map(|chunk| IdRanges(chunk.to_vec())).collect()
    }

    /// The runs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = RangeInclusive<u64>> {
        self.0.iter().map(|&(first, last)| first..=last)
    }

    /// The largest id, if there is one.
    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|run| run.1)
    }

    /// The number of ids. A peer can make it huge in few bytes: check it before expanding the runs.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, (first, last)| sum.saturating_add((last - first).saturating_add(1)))
    }
}

impl TryFrom<Vec<(u64, u64)>> for IdRanges {
    type Error = IdRangesError;

    fn try_from(runs: Vec<(u64, u64)>) -> Result<Self, IdRangesError> {
        let are_ranges = runs.iter().all(|(first, last)| first <= last);
        let ascend = runs.windows(2).all(|pair| pair[0].1 < pair[1].0);
        if are_ranges && ascend { Ok(IdRanges(runs)) } else { Err(IdRangesError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn runs_that_do_not_ascend_are_refused() {
        for bad in ["[[1,0]]", "[[0,1],[1,2]]", "[[5,6],[0,1]]", "[[0]]", "[0]", "[[0,-1]]", "[[0,1.5]]"] {
            assert!(serde_json::from_str::<IdRanges>(bad).is_err(), "{bad}");
        }
        let huge: IdRanges = serde_json::from_str("[[0,18446744073709551615]]").unwrap();
        assert_eq!(huge.count(), u64::MAX);
    }

    proptest! {
        #[test]
        fn packing_keeps_every_id_once(ids in proptest::collection::vec(0u64..5000, 0..3000)) {
            let packed = IdRanges::pack(ids.clone());
            let unpacked: Vec<u64> = packed.iter().flat_map(IdRanges::iter).flatten().collect();
            let mut expected = ids;
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(unpacked, expected);
            for runs in packed {
                let json = serde_json::to_string(&runs).unwrap();
                prop_assert_eq!(serde_json::from_str::<IdRanges>(&json).unwrap(), runs);
            }
        }
    }
}
