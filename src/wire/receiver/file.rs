//! One file in flight at the receiver.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::event::{FileEntry, HoleHeader, PartHeader, ReceiverEvent};
use super::resume::remaining_ranges;
use crate::digest::{PART_BYTES, PartDigests, PartRange};
use crate::wire::limits::{MAX_HOLES_AHEAD, SMALL_FILE_BYTES};
use crate::wire::message::{Hole, Part};

/// What is requested of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncomingStage {
    /// Nothing yet.
    Undecided,
    /// The digests of its parts.
    Offers,
    /// The bytes of its parts.
    Bodies,
}

/// How a part arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartKind {
    /// As `part`: its body follows.
    Body,
    /// As `offer`.
    Offer,
}

/// The state of a file that is announced, and neither complete nor failed.
#[derive(Debug)]
pub struct IncomingFile {
    pub entry: FileEntry,
    pub stage: IncomingStage,
    /// Parts whose `part` or `offer` has arrived and that are not verified yet.
    pending: BTreeSet<u64>,
    pub verified: PartDigests,
    verified_bytes: u64,
    /// How often each damaged part has arrived.
    tries: BTreeMap<u64, u32>,
}

impl IncomingFile {
    pub fn new(entry: FileEntry) -> Self {
        IncomingFile {
            entry,
            stage: IncomingStage::Undecided,
            pending: BTreeSet::new(),
            verified: PartDigests::new(),
            verified_bytes: 0,
            tries: BTreeMap::new(),
        }
    }

    pub fn name_bytes(&self) -> usize {
        self.entry.path.as_bytes().len()
    }

    /// The bytes of parts that are not verified.
    pub fn remaining_bytes(&self) -> u64 {
        self.entry.layout.size_bytes() - self.verified_bytes
    }

    /// Has every requested part arrived? Some may not be verified yet.
    pub fn is_drained(&self) -> bool {
        let arrived = self.pending.len() as u64 + self.verified.count();
        self.stage != IncomingStage::Undecided && arrived == self.entry.layout.count()
    }

    pub fn is_complete(&self) -> bool {
        self.verified.count() == self.entry.layout.count()
    }

    pub fn request_offers(&mut self) {
        self.stage = IncomingStage::Offers;
    }

    pub fn request_all(&mut self) {
        self.stage = IncomingStage::Bodies;
        self.pending.clear();
        self.verified = PartDigests::new();
        self.verified_bytes = 0;
    }

    /// Requests the parts that are not `present`; returns their runs.
    pub fn request_missing(&mut self, mut present: PartDigests) -> Vec<RangeInclusive<u64>> {
        let layout = self.entry.layout;
        let missing = remaining_ranges(&mut present, layout);
        self.stage = IncomingStage::Bodies;
        self.verified_bytes = layout.size_bytes() - missing.iter().map(|run| layout.bytes(run)).sum::<u64>();
        self.verified = present;
        missing
    }

    /// Handles a `part` or `offer`.
    pub fn on_part(&mut self, part: Part, kind: PartKind) -> Result<ReceiverEvent, String> {
        let is_small = self.entry.layout.size_bytes() <= SMALL_FILE_BYTES;
        let event: fn(PartHeader) -> ReceiverEvent = match (kind, self.stage) {
            (PartKind::Body, IncomingStage::Bodies) => ReceiverEvent::Body,
            // It was sent unasked, before the request for offers had arrived.
            (PartKind::Body, IncomingStage::Offers) if is_small => ReceiverEvent::OfferAndBody,
            (PartKind::Body, _) => return Err("unrequested part".to_owned()),
            (PartKind::Offer, IncomingStage::Offers) => ReceiverEvent::Offer,
            // It was in transit when the bodies were requested.
            (PartKind::Offer, IncomingStage::Bodies) => return Ok(ReceiverEvent::Nothing),
            (PartKind::Offer, IncomingStage::Undecided) => return Err("unrequested offer".to_owned()),
        };
        let Some(range) = self.entry.layout.range(part.part) else {
            return Err("the file has no such part".to_owned());
        };
        if range.len != part.size_bytes {
            return Err(format!("{} bytes, {} expected", part.size_bytes, range.len));
        }
        if self.verified.contains(part.part) || !self.pending.insert(part.part) {
            return Err("sent twice".to_owned());
        }
        Ok(event(PartHeader {
            id: part.entry,
            part: part.part,
            range,
            md5: part.md5,
            is_repair: self.tries.contains_key(&part.part),
            is_offer: self.stage == IncomingStage::Offers,
        }))
    }

    /// Handles a `hole`.
    pub fn on_hole(&self, hole: Hole) -> Result<ReceiverEvent, &'static str> {
        let Hole { entry: id, part, parts, is_offer: was_offered } = hole;
        // Only the staged file of a sparse file begins as zeros.
        if !self.entry.is_sparse {
            return Err("the file was not announced as sparse");
        }
        if self.stage == IncomingStage::Undecided {
            return Err("unrequested hole");
        }
        let range = self.hole_range(part, parts)?;
        let is_offer = self.stage == IncomingStage::Offers;
        if was_offered && !is_offer {
            // It was in transit when the bodies were requested.
            return Ok(ReceiverEvent::Nothing);
        }
        if self.has_any(part, parts) {
            return Err("sent twice");
        }
        let (digests, holes) = self.verified.runs();
        let is_separate =
            !(part > 0 && self.verified.is_hole(part - 1) || self.verified.is_hole(part + parts));
        if is_separate && holes >= digests + self.pending.len() + MAX_HOLES_AHEAD {
            return Err("too many separate holes");
        }
        // The staged file contains the bytes of a part that arrived damaged.
        let must_clear = self.has_damaged(part, parts);
        Ok(ReceiverEvent::Hole(HoleHeader { id, part, parts, range, is_offer, must_clear }))
    }

    /// The range of `parts` full-size parts.
    fn hole_range(&self, part: u64, parts: u64) -> Result<PartRange, &'static str> {
        let last = parts.checked_sub(1).and_then(|more| part.checked_add(more));
        let last = last.and_then(|last| self.entry.layout.range(last));
        let (Some(first), Some(last)) = (self.entry.layout.range(part), last) else {
            return Err("the file has no such parts");
        };
        if last.len != PART_BYTES {
            return Err("not a full-size part");
        }
        Ok(PartRange { offset: first.offset, len: last.offset + last.len - first.offset })
    }

    /// Has any of these parts arrived?
    fn has_any(&self, part: u64, parts: u64) -> bool {
        self.pending.range(part..part + parts).next().is_some() || self.verified.contains_any(part, parts)
    }

    /// Has any of these parts arrived damaged, and not been verified since?
    fn has_damaged(&self, part: u64, parts: u64) -> bool {
        self.tries.range(part..part + parts).next().is_some()
    }

    /// Was this verified for the current request? A result for an offer is not one for a body.
    fn is_current(&self, is_offer: bool) -> bool {
        self.stage == if is_offer { IncomingStage::Offers } else { IncomingStage::Bodies }
    }

    /// Counts a verified part; `false` if it does not count.
    pub fn verify_part(&mut self, header: &PartHeader) -> bool {
        if !self.is_current(header.is_offer) {
            return false;
        }
        self.tries.remove(&header.part);
        self.pending.remove(&header.part);
        self.verified.insert(header.part, header.md5);
        self.verified_bytes += header.range.len;
        true
    }

    /// Counts verified holes; `false` if they do not count.
    pub fn verify_holes(&mut self, hole: &HoleHeader) -> bool {
        let (part, parts) = (hole.part, hole.parts);
        // Since the hole was handled, another connection may have delivered a part of it, intact or damaged.
        let is_outdated = self.has_any(part, parts) || !hole.must_clear && self.has_damaged(part, parts);
        if !self.is_current(hole.is_offer) || is_outdated {
            return false;
        }
        self.tries.retain(|damaged, _| !(part..part + parts).contains(damaged));
        self.verified.insert_holes(part, parts);
        self.verified_bytes += hole.range.len;
        true
    }

    /// Records that a part arrived damaged; returns how often in a row.
    pub fn on_damaged(&mut self, part: u64) -> u32 {
        self.pending.remove(&part);
        let tries = self.tries.entry(part).or_default();
        *tries += 1;
        *tries
    }
}
