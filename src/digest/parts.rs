//! Parts of a file, their digests, and the etag computed from them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Hasher, Md5};

/// The size of every part but the last.
pub const PART_BYTES: u64 = if cfg!(feature = "tiny-parts") { 256 << 10 } else { 8 << 20 };

/// How a file of a given size divides into parts. A file of at most [`PART_BYTES`], an empty one too, is one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartLayout {
    size_bytes: u64,
}

/// The range of a part in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartRange {
    /// The offset of its first byte.
    pub offset: u64,
    /// Its length.
    pub len: u64,
}

impl PartLayout {
    /// The layout of a file of `size_bytes`.
    pub fn new(size_bytes: u64) -> Self {
        PartLayout { size_bytes }
    }

    /// The size of the file.
    pub fn size_bytes(self) -> u64 {
        self.size_bytes
    }

    /// The number of parts; at least one.
    pub fn count(self) -> u64 {
        self.size_bytes.div_ceil(PART_BYTES).max(1)
    }

    /// The bytes of a run of existing parts.
    pub fn bytes(self, run: &RangeInclusive<u64>) -> u64 {
        self.run(*run.start(), run.end() - run.start() + 1).len
    }

    /// The range of `parts` existing parts from `first` on.
    pub fn run(self, first: u64, parts: u64) -> PartRange {
        let offset = first.saturating_mul(PART_BYTES);
        let end = first.saturating_add(parts).saturating_mul(PART_BYTES).min(self.size_bytes);
        PartRange { offset, len: end.saturating_sub(offset) }
    }

    /// The range of part `index`, if there is such a part.
    pub fn range(self, index: u64) -> Option<PartRange> {
        (index < self.count()).then(|| {
            let offset = index * PART_BYTES;
            PartRange { offset, len: (self.size_bytes - offset).min(PART_BYTES) }
        })
    }
}

/// The digests of a file's parts, collected in any order. Memory grows with the number of digests; a run of holes counts
/// as one, however long it is. Part 0 is held inline: most files have only this part, and need no allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartDigests {
    first: Option<Md5>,
    /// Those of the other parts.
    digests: BTreeMap<u64, Md5>,
    /// Runs of full-size parts of zeros: first index and number.
    holes: BTreeMap<u64, u64>,
    count: u64,
}

/// A file of more parts (more than 8 TiB) has no etag: a sparse file can have far more parts than can be hashed one by
/// one.
pub const MAX_ETAG_PARTS: u64 = 1 << 20;

/// The digest of a whole part of zeros: `md5(b"\0" * 2**23)`.
#[cfg(not(feature = "tiny-parts"))]
const ZERO_PART: [u8; 16] =
    [0x96, 0x99, 0x5b, 0x58, 0xd4, 0xcb, 0xf6, 0xaa, 0xa9, 0x04, 0x1b, 0x4f, 0x00, 0xc7, 0xf6, 0xae];
#[cfg(feature = "tiny-parts")]
const ZERO_PART: [u8; 16] =
    [0xec, 0x87, 0xa8, 0x38, 0x93, 0x1d, 0x4d, 0x5d, 0x2e, 0x94, 0xa0, 0x46, 0x44, 0x78, 0x8a, 0x55];

impl PartDigests {
    /// No digests.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the digest of part `index`, which must not be in a run of zeros.
    pub fn insert(&mut self, index: u64, md5: Md5) {
        let before = if index == 0 { self.first.replace(md5) } else { self.digests.insert(index, md5) };
        self.count += u64::from(before.is_none());
    }

    /// Adds or replaces the digest of part `index`.
    pub fn replace(&mut self, index: u64, md5: Md5) {
        if self.is_hole(index) {
            self.remove(index..=index);
        }
        self.insert(index, md5);
    }

    /// Adds `count` full-size parts of zeros, replacing what was recorded of them.
    pub fn replace_holes(&mut self, first: u64, count: u64) {
        if self.contains_any(first, count) {
            self.remove(first..=first.saturating_add(count - 1));
        }
        self.insert_holes(first, count);
    }

    /// Adds `count` full-size parts of zeros, none of which is recorded.
    pub fn insert_holes(&mut self, first: u64, count: u64) {
        self.count += count;
        let (mut first, mut count) = (first, count);
        // Adjacent runs are merged, so that a sender of one-part holes costs no more memory than one of long holes.
        if let Some((&before, &parts)) =
            self.holes.range(..first).next_back().filter(|(at, n)| *at + *n == first)
        {
            (first, count) = (before, parts + count);
        }
        if let Some(parts) = self.holes.remove(&first.saturating_add(count)) {
            count += parts;
        }
        self.holes.insert(first, count);
    }

    /// The numbers of digests and of runs of zeros.
    pub fn runs(&self) -> (usize, usize) {
        (self.own(), self.holes.len())
    }

    /// The number of parts with a digest of their own.
    fn own(&self) -> usize {
        self.digests.len() + usize::from(self.first.is_some())
    }

    /// The digest of part `index`, if it is recorded.
    pub fn get(&self, index: u64) -> Option<Md5> {
        let in_hole = || self.is_hole(index).then_some(Md5::from(ZERO_PART));
        let own = if index == 0 { self.first } else { self.digests.get(&index).copied() };
        own.or_else(in_hole)
    }

    /// Is part `index` in a run of zeros?
    pub fn is_hole(&self, index: u64) -> bool {
        let before = self.holes.range(..=index).next_back();
        before.is_some_and(|(first, count)| index - first < *count)
    }

    /// Is part `index` recorded?
    pub fn contains(&self, index: u64) -> bool {
        (index == 0 && self.first.is_some()) || self.digests.contains_key(&index) || self.is_hole(index)
    }

    /// Is any of `count` parts from `first` recorded?
    pub fn contains_any(&self, first: u64, count: u64) -> bool {
        let end = first.saturating_add(count);
        (first < 1.min(count) && self.first.is_some())
            || self.is_hole(first)
            || self.holes.range(first..end).next().is_some()
            || self.digests.range(first..end).next().is_some()
    }

    /// Is any of `count` parts from `first` recorded with a digest other than that of zeros?
    pub fn differs_from_zeros(&self, first: u64, count: u64) -> bool {
        let differs = |md5: &Md5| *md5 != Md5::from(ZERO_PART);
        let end = first.saturating_add(count);
        (first == 0 && self.first.is_some_and(|md5| differs(&md5)))
            || self.digests.range(first..end).any(|(_, md5)| differs(md5))
    }

    /// The parts with a digest of their own, ascending. A sparse file can have too many parts to visit one by one:
    /// iterate over these and over the holes.
    pub fn parts(&self) -> impl Iterator<Item = (u64, Md5)> {
        let first = self.first.map(|md5| (0, md5));
        first.into_iter().chain(self.digests.iter().map(|(&part, &md5)| (part, md5)))
    }

    /// The runs of full-size parts of zeros: first index and number, ascending.
    pub fn holes(&self) -> impl Iterator<Item = (u64, u64)> {
        self.holes.iter().map(|(&first, &parts)| (first, parts))
    }

    /// The runs of recorded parts, ascending, adjacent ones merged.
    pub fn recorded(&self) -> Vec<RangeInclusive<u64>> {
        let parts = self.parts().map(|(part, _)| (part, 1));
        let mut all: Vec<(u64, u64)> = parts.chain(self.holes()).collect();
        all.sort_unstable();
        let mut runs: Vec<RangeInclusive<u64>> = Vec::new();
        for (first, parts) in all {
            let last = first + parts - 1;
            match runs.last_mut() {
                Some(run) if first <= run.end() + 1 => *run = *run.start()..=last.max(*run.end()),
                _ => runs.push(first..=last),
            }
        }
        runs
    }

    /// The runs of the first `count` parts that are not recorded, ascending.
    pub fn missing(&self, count: u64) -> Vec<RangeInclusive<u64>> {
        let mut missing = Vec::new();
        let mut next = 0;
        for run in self.recorded() {
            if *run.start() > next {
                missing.push(next..=run.start() - 1);
            }
            next = run.end() + 1;
        }
        if next < count {
            missing.push(next..=count - 1);
        }
        missing
    }

    /// Removes the parts of a run.
    pub fn remove(&mut self, run: RangeInclusive<u64>) {
        let holes: Vec<(u64, u64)> = self.holes.iter().map(|(&first, &parts)| (first, parts)).collect();
        for (first, parts) in holes {
            let last = first + parts - 1;
            if first > *run.end() || last < *run.start() {
                continue;
            }
            // The rest of the hole, outside the run, stays.
            self.holes.remove(&first);
            if first < *run.start() {
                self.holes.insert(first, run.start() - first);
            }
            if last > *run.end() {
                self.holes.insert(run.end() + 1, last - run.end());
            }
        }
        if run.contains(&0) {
            self.first = None;
        }
        let within: Vec<u64> = self.digests.range(run).map(|(&part, _)| part).collect();
        for part in within {
            self.digests.remove(&part);
        }
        self.count = self.own() as u64 + self.holes.values().sum::<u64>();
    }

    /// How many are in.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The MD5 of the whole file, where it is just one part and that is in.
    pub fn whole(&self, layout: PartLayout) -> Option<Md5> {
        if layout.count() == 1 { self.get(0) } else { None }
    }

    /// The etag of the whole file, once all parts of `layout` are in, which are at most [`MAX_ETAG_PARTS`].
    pub fn etag(&self, layout: PartLayout) -> Option<Etag> {
        if self.count() != layout.count() || layout.count() > MAX_ETAG_PARTS {
            return None;
        }
        if let Some(md5) = self.whole(layout) {
            return Some(Etag { md5, parts: 1 });
        }
        let mut hasher = Hasher::new();
        for index in 0..layout.count() {
            hasher.update(self.get(index)?.as_bytes());
        }
        Some(Etag { md5: hasher.finish(), parts: layout.count() })
    }
}

/// The MD5 of a file as object stores write it: the plain digest for one part, `md5(part digests)-N` for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Etag {
    md5: Md5,
    parts: u64,
}

/// A text that is no etag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an etag is 32 hex digits, and for several parts a minus and their number")]
pub struct EtagError;

impl FromStr for Etag {
    type Err = EtagError;

    fn from_str(text: &str) -> Result<Self, EtagError> {
        let (digits, parts) = match text.split_once('-') {
            // One way to write each: no sign, no zeros in front, and one part has no number.
            Some((digits, parts)) if parts.starts_with(|digit: char| matches!(digit, '1'..='9')) => {
                (digits, parts.parse().ok().filter(|parts| *parts > 1).ok_or(EtagError)?)
            }
            Some(_) => return Err(EtagError),
            None => (text, 1),
        };
        Ok(Etag { md5: digits.parse().map_err(|_| EtagError)?, parts })
    }
}

impl Serialize for Etag {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.parts == 1 { self.md5.serialize(serializer) } else { serializer.collect_str(self) }
    }
}

impl<'de> Deserialize<'de> for Etag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts {
            1 => self.md5.fmt(f),
            n => write!(f, "{}-{n}", self.md5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_file_is_one_empty_part() {
        let layout = PartLayout::new(0);
        assert_eq!(layout.count(), 1);
        assert_eq!(layout.range(0), Some(PartRange { offset: 0, len: 0 }));
        assert_eq!(layout.range(1), None);
    }

    #[test]
    fn the_largest_file_has_a_layout() {
        let layout = PartLayout::new(u64::MAX);
        assert!(layout.range(layout.count() - 1).is_some());
        assert_eq!(layout.range(u64::MAX), None);
    }

    #[test]
    fn the_etag_is_the_md5_of_the_part_digests() {
        let layout = PartLayout::new(PART_BYTES + 3);
        let mut digests = PartDigests::new();
        digests.insert(1, Md5::of(b"abc"));
        assert_eq!(digests.etag(layout), None);
        digests.insert(0, Md5::of(&vec![0; PART_BYTES as usize]));
        // python3: md5(md5(b"\0" * 2**23).digest() + md5(b"abc").digest()).hexdigest() + "-2"
        assert_eq!(digests.etag(layout).unwrap().to_string(), "ee4b078cb6871973042a2af26c6fc93d-2");
        let mut single = PartDigests::new();
        single.insert(0, Md5::of(b"abc"));
        assert_eq!(single.etag(PartLayout::new(3)).unwrap().to_string(), Md5::of(b"abc").to_string());
    }

    #[test]
    fn a_run_of_holes_counts_as_its_parts() {
        assert_eq!(Md5::of(&vec![0; PART_BYTES as usize]), Md5::from(ZERO_PART));
        let layout = PartLayout::new(4 * PART_BYTES);
        let (mut holes, mut parts) = (PartDigests::new(), PartDigests::new());
        holes.insert(0, Md5::of(b"x"));
        assert!(!holes.contains_any(1, 3));
        holes.insert_holes(1, 3);
        parts.insert(0, Md5::of(b"x"));
        (1..4).for_each(|index| parts.insert(index, Md5::from(ZERO_PART)));
        assert_eq!((holes.count(), holes.etag(layout)), (4, parts.etag(layout)));
        assert_eq!((holes.recorded(), holes.missing(6)), (vec![0..=3], vec![4..=5]));
        holes.remove(2..=2);
        assert_eq!((holes.recorded(), holes.missing(4)), (vec![0..=1, 3..=3], vec![2..=2]));
        holes.insert_holes(2, 1);
        assert!(holes.etag(layout).is_some() && holes.contains(3) && !holes.contains(4));
        for (first, count, any) in
            [(0, 1, true), (2, 1, true), (3, 9, true), (4, 9, false), (4, u64::MAX, false)]
        {
            assert_eq!(holes.contains_any(first, count), any, "{first} {count}");
        }
    }

    #[test]
    fn etags_are_written_in_one_way() {
        let md5 = "ee4b078cb6871973042a2af26c6fc93d";
        for good in [md5.to_owned(), format!("{md5}-2"), format!("{md5}-18446744073709551615")] {
            assert_eq!(good.parse::<Etag>().unwrap().to_string(), good);
            let json = serde_json::to_string(&good.parse::<Etag>().unwrap()).unwrap();
            assert_eq!(serde_json::from_str::<Etag>(&json).unwrap().to_string(), good);
        }
        for bad in ["", "-1", "-02", "-+2", "-0", "-", "-2-2", "-18446744073709551616", "- 2"] {
            let bad = if bad.is_empty() { md5[1..].to_owned() } else { format!("{md5}{bad}") };
            assert_eq!(bad.parse::<Etag>(), Err(EtagError), "{bad}");
        }
    }

    #[test]
    fn a_file_of_too_many_parts_has_no_etag() {
        let layout = PartLayout::new((MAX_ETAG_PARTS + 1) * PART_BYTES);
        let mut holes = PartDigests::new();
        holes.insert_holes(0, MAX_ETAG_PARTS + 1);
        assert_eq!((holes.count(), holes.etag(layout)), (layout.count(), None));
    }

    proptest! {
        /// Any records in any order give the same result as a map of digests.
        #[test]
        fn replaced_digests_count_once(
            steps in proptest::collection::vec((0u64..12, 1u64..5, 0u8..4), 0..40)
        ) {
            let (mut digests, mut model) = (PartDigests::new(), BTreeMap::new());
            for (first, count, what) in steps {
                match what {
                    0 => {
                        digests.replace_holes(first, count);
                        (first..first + count).for_each(|part| { model.insert(part, Md5::from(ZERO_PART)); });
                    }
                    1 => {
                        digests.remove(first..=first + count - 1);
                        (first..first + count).for_each(|part| { model.remove(&part); });
                    }
                    _ => {
                        digests.replace(first, Md5::of(&[count as u8]));
                        model.insert(first, Md5::of(&[count as u8]));
                    }
                }
                prop_assert_eq!(digests.count(), model.len() as u64);
                for part in 0..20 {
                    prop_assert_eq!(digests.get(part), model.get(&part).copied());
                    prop_assert_eq!(digests.contains_any(part, 3), (part..part + 3).any(|part| model.contains_key(&part)));
                }
                let recorded: Vec<u64> = digests.recorded().into_iter().flatten().collect();
                prop_assert_eq!(recorded, model.keys().copied().collect::<Vec<_>>());
            }
        }

        #[test]
        fn parts_cover_a_file_without_gap_or_overlap(size in 0u64..(64 * PART_BYTES)) {
            let layout = PartLayout::new(size);
            let mut end = 0;
            for index in 0..layout.count() {
                let range = layout.range(index).unwrap();
                prop_assert_eq!(range.offset, end);
                prop_assert!(range.len <= PART_BYTES && (range.len > 0 || size == 0));
                end += range.len;
            }
            prop_assert_eq!(end, size);
            prop_assert_eq!(layout.range(layout.count()), None);
        }
    }
}
