//! One file in flight at the sender.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use super::event::Job;
use crate::digest::{Md5, PART_BYTES, PartDigests, PartLayout};
use crate::wire::limits::{MAX_KEPT_IN_FLIGHT, MAX_TRIES_A_PART};
use crate::wire::message::{EntryId, KeptParts, KeptRun};

/// What the receiver has requested of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutgoingStage {
    /// Nothing yet.
    Undecided,
    /// Nothing yet, but it is sent as if its only part was requested.
    Unasked,
    /// The digests of its parts.
    Offers,
    /// The bytes of its parts.
    Bodies,
    /// Nothing: an identical file exists.
    Identical,
}

/// The state of a file that is announced and not settled.
#[derive(Debug)]
pub struct OutgoingFile {
    pub layout: PartLayout,
    pub stage: OutgoingStage,
    /// The receiver requested offers before the unasked part was sent: a job for that part must not be done any more.
    pub is_unasked_revoked: bool,
    /// Requested parts that were not taken as jobs.
    pub todo: VecDeque<RangeInclusive<u64>>,
    /// The number of parts that were requested last.
    pub requested: u64,
    /// How many of these were sent.
    pub sent: u64,
    tries: BTreeMap<u64, u32>,
    /// The known digests of parts: hashed here, or received in `kept`.
    pub digests: PartDigests,
    /// How many digests and runs were received in `kept`.
    pub kept: usize,
}

impl OutgoingFile {
    pub fn new(layout: PartLayout) -> Self {
        OutgoingFile {
            layout,
            stage: OutgoingStage::Undecided,
            is_unasked_revoked: false,
            todo: VecDeque::new(),
            requested: 0,
            sent: 0,
            tries: BTreeMap::new(),
            digests: PartDigests::new(),
            kept: 0,
        }
    }

    /// A file of one part, which is sent unasked.
    pub fn unasked(layout: PartLayout) -> Self {
        let mut file = OutgoingFile::new(layout);
        file.request(OutgoingStage::Unasked, [0..=0].into());
        file
    }

    /// Replaces the last request by one for `parts`.
    pub fn request(&mut self, stage: OutgoingStage, parts: VecDeque<RangeInclusive<u64>>) {
        self.stage = stage;
        self.requested = parts.iter().map(|run| run.end() - run.start() + 1).sum();
        self.sent = 0;
        self.todo = parts;
    }

    /// Takes the next part as a job.
    pub fn next_job(&mut self, entry: EntryId) -> Option<Job> {
        let run = self.todo.pop_front()?;
        let part = *run.start();
        if part < *run.end() {
            self.todo.push_front(part + 1..=*run.end());
        }
        // Requests are checked against the layout, so the part exists.
        let range = self.layout.range(part)?;
        let is_unasked = self.stage == OutgoingStage::Unasked;
        Some(Job {
            entry,
            part,
            range,
            wants_body: is_unasked || self.stage == OutgoingStage::Bodies,
            is_unasked,
        })
    }

    /// Takes the parts after that of `job` which follow it directly in the request, at most `most`; returns their number.
    pub fn take_following(&mut self, job: &Job, most: u64) -> u64 {
        let Some(run) = self.todo.front_mut().filter(|run| *run.start() == job.part + 1) else {
            return 0;
        };
        let count = most.min(run.end() - run.start() + 1);
        if run.start() + count > *run.end() {
            self.todo.pop_front();
        } else {
            *run = run.start() + count..=*run.end();
        }
        count
    }

    /// Is `job` still what the receiver requests?
    pub fn is_current(&self, job: &Job) -> bool {
        let is_requested = match self.stage {
            OutgoingStage::Unasked | OutgoingStage::Bodies => job.wants_body,
            OutgoingStage::Offers => !job.wants_body,
            OutgoingStage::Undecided | OutgoingStage::Identical => false,
        };
        is_requested && !(job.is_unasked && self.is_unasked_revoked)
    }

    pub fn on_part_sent(&mut self, part: u64, md5: Md5) {
        self.sent += 1;
        self.digests.replace(part, md5);
    }

    pub fn on_holes_sent(&mut self, first: u64, parts: u64) {
        self.sent += parts;
        self.digests.replace_holes(first, parts);
    }

    /// Are all requested bodies sent?
    pub fn is_sent(&self) -> bool {
        let has_bodies = matches!(self.stage, OutgoingStage::Unasked | OutgoingStage::Bodies);
        has_bodies && self.sent == self.requested
    }

    /// A part arrived damaged and is requested again.
    pub fn on_again(&mut self, part: u64) -> Result<(), String> {
        if !matches!(self.stage, OutgoingStage::Unasked | OutgoingStage::Bodies) {
            return Err("again for what was not sent".to_owned());
        }
        let is_unsent = self.todo.iter().any(|run| run.contains(&part));
        if self.layout.range(part).is_none() || is_unsent || self.sent == 0 {
            return Err("again for a part that was not sent".to_owned());
        }
        let tries = self.tries.entry(part).or_default();
        *tries += 1;
        if *tries >= MAX_TRIES_A_PART {
            return Err(format!("again for one part {MAX_TRIES_A_PART} times"));
        }
        self.sent -= 1;
        self.todo.push_front(part..=part);
        Ok(())
    }

    /// Adds the digests of kept parts; `false` if one of them differs from the digest that the sender has. `held` counts the
    /// digests and runs of all files in flight.
    pub fn on_kept(&mut self, kept: KeptRun, held: &mut usize) -> Result<bool, &'static str> {
        let KeptRun { part: first, parts, .. } = kept;
        if self.stage != OutgoingStage::Undecided {
            return Err("wrong state");
        }
        let last = parts.count().checked_sub(1).and_then(|more| first.checked_add(more));
        let Some(last) = last.filter(|last| *last < self.layout.count()) else {
            return Err("parts that do not exist");
        };
        match parts {
            KeptParts::Digests(digests) => {
                // Compare all of them before adding any: added digests stay counted until the file is settled.
                let differs =
                    |(part, md5): (u64, &Md5)| self.digests.get(part).is_some_and(|known| known != *md5);
                if (first..).zip(&digests).any(differs) {
                    return Ok(false);
                }
                for (part, md5) in (first..).zip(digests) {
                    if self.digests.get(part).is_none() && *held < MAX_KEPT_IN_FLIGHT {
                        self.digests.insert(part, md5);
                        self.kept += 1;
                        *held += 1;
                    }
                }
            }
            KeptParts::Zeros(count) => {
                if self.layout.range(last).is_none_or(|range| range.len != PART_BYTES) {
                    return Err("zeros that include a short part");
                }
                if self.digests.differs_from_zeros(first, count) {
                    return Ok(false);
                }
                // A run counts as one, however long it is.
                if *held < MAX_KEPT_IN_FLIGHT {
                    self.digests.replace_holes(first, count);
                    self.kept += 1;
                    *held += 1;
                }
            }
        }
        Ok(true)
    }
}
