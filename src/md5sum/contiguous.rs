//! How far a file that arrives in any order is there without a gap.

use std::collections::BTreeMap;

use crate::digest::PartRange;

/// The bytes from the start of a file to its first gap.
#[derive(Debug, Default)]
pub struct ContiguousPrefix {
    bytes: u64,
    /// What is there behind the gap: offset and length.
    ahead: BTreeMap<u64, u64>,
}

impl ContiguousPrefix {
    /// So many bytes are there.
    pub fn at(bytes: u64) -> Self {
        ContiguousPrefix { bytes, ahead: BTreeMap::new() }
    }

    /// How many are there without a gap.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A range is there now. Ranges do not overlap.
    pub fn add(&mut self, range: PartRange) {
        if range.offset > self.bytes {
            self.ahead.insert(range.offset, range.len);
        } else if range.offset == self.bytes {
            self.bytes += range.len;
            while let Some(len) = self.ahead.remove(&self.bytes) {
                self.bytes += len;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_stops_at_the_first_gap() {
        let mut front = ContiguousPrefix::default();
        for (offset, len, bytes) in [(8, 8, 0), (32, 4, 0), (0, 8, 16), (0, 8, 16), (16, 16, 36)] {
            front.add(PartRange { offset, len });
            assert_eq!(front.bytes(), bytes, "after {offset}");
        }
        assert!(front.ahead.is_empty());
    }
}
