//! The state table of `want`.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use super::file::{OutgoingFile, OutgoingStage};
use crate::wire::message::WantedParts;

/// What a `want` changes at one file.
#[derive(Debug, PartialEq, Eq)]
pub enum Transition {
    /// All of a file that is sent unasked is requested: nothing else changes.
    ConfirmUnasked,
    /// The part that was sent unasked counts as its offer.
    CountAsOffer,
    /// All parts are requested, as offers or bodies.
    RequestAll(OutgoingStage),
    /// These bodies are requested; the receiver has the other parts.
    RequestRest(VecDeque<RangeInclusive<u64>>),
    /// Nothing more: an identical file exists.
    Finish,
}

impl OutgoingFile {
    /// The transition for a request, or why the request is invalid.
    pub fn transition(&self, parts: &WantedParts) -> Result<Transition, &'static str> {
        use OutgoingStage::{Bodies, Offers, Unasked, Undecided};
        let has_all = |last: Option<u64>| last.is_some_and(|last| last < self.layout.count());
        Ok(match (self.stage, parts) {
            (Unasked, WantedParts::All) => Transition::ConfirmUnasked,
            (Unasked, WantedParts::Parts(runs)) if runs.last() == Some(0) => Transition::ConfirmUnasked,
            (Unasked, WantedParts::Offers) if self.sent > 0 => Transition::CountAsOffer,
            (Unasked | Undecided, WantedParts::Offers) => Transition::RequestAll(Offers),
            (Undecided | Offers, WantedParts::All) => Transition::RequestAll(Bodies),
            (Undecided | Offers, WantedParts::Parts(runs)) if has_all(runs.last()) => {
                Transition::RequestRest(runs.iter().collect())
            }
            (Undecided | Offers, WantedParts::Parts(_)) => return Err("parts that do not exist"),
            (Offers, WantedParts::None) if self.sent == self.requested => Transition::Finish,
            _ => return Err("wrong state"),
        })
    }

    /// Applies a transition of this file.
    pub fn apply(&mut self, transition: Transition) {
        match transition {
            Transition::ConfirmUnasked => self.stage = OutgoingStage::Bodies,
            Transition::CountAsOffer => self.stage = OutgoingStage::Offers,
            Transition::RequestAll(stage) => {
                self.is_unasked_revoked |= self.stage == OutgoingStage::Unasked;
                self.request(stage, [0..=self.layout.count() - 1].into());
            }
            Transition::RequestRest(parts) => self.request(OutgoingStage::Bodies, parts),
            Transition::Finish => self.request(OutgoingStage::Identical, VecDeque::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Md5, PART_BYTES, PartLayout};
    use crate::wire::id_ranges::IdRanges;

    const STAGES: [OutgoingStage; 6] = [
        OutgoingStage::Undecided,
        OutgoingStage::Unasked,
        OutgoingStage::Unasked,
        OutgoingStage::Offers,
        OutgoingStage::Bodies,
        OutgoingStage::Identical,
    ];

    /// A file of one part in each stage; unasked with its part unsent and sent.
    fn files() -> Vec<OutgoingFile> {
        let mut files: Vec<OutgoingFile> = STAGES
            .into_iter()
            .map(|stage| {
                let mut file = OutgoingFile::unasked(PartLayout::new(PART_BYTES));
                file.stage = stage;
                file
            })
            .collect();
        files[2].on_part_sent(0, Md5::of(b"a"));
        files[3].on_part_sent(0, Md5::of(b"a"));
        files
    }

    fn row(parts: WantedParts) -> Vec<Result<Transition, &'static str>> {
        files().iter().map(|file| file.transition(&parts)).collect()
    }

    #[test]
    fn each_request_in_each_stage() {
        use OutgoingStage::{Bodies, Offers};
        use Transition::{ConfirmUnasked, CountAsOffer, Finish, RequestAll, RequestRest};
        let wrong = || Err("wrong state");
        let rest = || Ok(RequestRest([0..=0].into()));
        let missing = || Err("parts that do not exist");
        // The columns are the files: undecided, unasked (unsent, sent), offers, bodies, identical.
        let all = [
            Ok(RequestAll(Bodies)),
            Ok(ConfirmUnasked),
            Ok(ConfirmUnasked),
            Ok(RequestAll(Bodies)),
            wrong(),
            wrong(),
        ];
        assert_eq!(row(WantedParts::All), all);
        let offers =
            [Ok(RequestAll(Offers)), Ok(RequestAll(Offers)), Ok(CountAsOffer), wrong(), wrong(), wrong()];
        assert_eq!(row(WantedParts::Offers), offers);
        let none = [wrong(), wrong(), wrong(), Ok(Finish), wrong(), wrong()];
        assert_eq!(row(WantedParts::None), none);
        let first = [rest(), Ok(ConfirmUnasked), Ok(ConfirmUnasked), rest(), wrong(), wrong()];
        assert_eq!(row(WantedParts::Parts(IdRanges::one(0))), first);
        let other = [missing(), wrong(), wrong(), missing(), wrong(), wrong()];
        assert_eq!(row(WantedParts::Parts(IdRanges::one(1))), other);
        assert_eq!(row(WantedParts::Parts(IdRanges::default())), other);
    }
}
