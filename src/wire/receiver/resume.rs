//! Files of which an earlier session left parts at the receiver.

use std::ops::RangeInclusive;

use crate::digest::{Md5, PartDigests, PartLayout};
use crate::wire::id_ranges::MAX_RANGES;
use crate::wire::limits::{MAX_DIGESTS_A_FRAME, MAX_KEPT_DIGESTS};
use crate::wire::message::{EntryId, KeptParts, KeptRun};

/// The runs of parts to request, if `present` is kept. Removes from `present` the parts that must be sent nevertheless: the
/// last one of a complete file, because a request names at least one part; and all parts from one of the gaps on, if
/// there are more gaps than a frame can list.
pub fn remaining_ranges(present: &mut PartDigests, layout: PartLayout) -> Vec<RangeInclusive<u64>> {
    let last = layout.count() - 1;
    let mut missing = present.missing(layout.count());
    if missing.is_empty() {
        missing.push(last..=last);
    }
    if let Some(first) = missing.get(MAX_RANGES - 1).map(|run| *run.start()) {
        missing.truncate(MAX_RANGES - 1);
        missing.push(first..=last);
    }
    missing.iter().for_each(|run| present.remove(run.clone()));
    missing
}

/// The contents of the `kept` frames for these digests; none if there are too many.
pub fn kept_runs(entry: EntryId, kept: &PartDigests) -> Vec<KeptRun> {
    let (digests, holes) = kept.runs();
    if digests.max(holes) > MAX_KEPT_DIGESTS {
        return Vec::new();
    }
    let mut runs: Vec<(u64, Vec<Md5>)> = Vec::new();
    for (part, md5) in kept.parts() {
        match runs.last_mut() {
            Some((first, run)) if part == *first + run.len() as u64 && run.len() < MAX_DIGESTS_A_FRAME => {
                run.push(md5);
            }
            _ => runs.push((part, vec![md5])),
        }
    }
    let digests = runs.into_iter().map(|(part, run)| (part, KeptParts::Digests(run)));
    let zeros = kept.holes().map(|(part, parts)| (part, KeptParts::Zeros(parts)));
    digests.chain(zeros).map(|(part, parts)| KeptRun { entry, part, parts }).collect()
}
