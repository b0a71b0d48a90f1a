//! The contiguous prefix of a file whose ranges become available in any order.

use std::collections::BTreeMap;

use crate::digest::PartRange;

/// The bytes from the start of a file to its first gap.
#[derive(Debug, Default)]
pub struct ContiguousPrefix {
    bytes: u64,
    /// Available ranges behind the gap: offset and length.
    ahead: BTreeMap<u64, u64>,
}

impl ContiguousPrefix {
    /// A prefix of this many bytes.
    pub fn at(bytes: u64) -> Self {
        ContiguousPrefix { bytes, ahead: BTreeMap::new() }
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a range. Ranges must not overlap.
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
    fn the_prefix_ends_at_the_first_gap() {
        let mut prefix = ContiguousPrefix::default();
        for (offset, len, bytes) in [(8, 8, 0), (32, 4, 0), (0, 8, 16), (0, 8, 16), (16, 16, 36)] {
            prefix.add(PartRange { offset, len });
            assert_eq!(prefix.bytes(), bytes, "after {offset}");
        }
        assert!(prefix.ahead.is_empty());
    }
}
