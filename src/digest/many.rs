//! Digests of many messages in parallel, from memory or from ranges that are read.

use super::lanes::{self, Md5Context};
use super::{Md5, PartRange};

/// Bytes of each range that are hashed at a time. Sixteen of these stay in a core's second-level cache.
const SLICE_BYTES: usize = 64 << 10;

/// The number of messages that are hashed in parallel.
pub fn lane_count() -> usize {
    lanes::lane_count()
}

/// The instructions in use: `avx512`, `avx2` or `scalar`.
pub fn kernel_name() -> &'static str {
    lanes::kernel_name()
}

/// The digest of each message.
pub fn digest_many(messages: &[&[u8]]) -> Vec<Md5> {
    lanes::digest_many(messages).into_iter().map(Md5::from).collect()
}

/// The digest of each range, computed in parallel. `read` fills a buffer for the range with an index, from an offset of
/// its source.
///
/// # Errors
///
/// The first error of `read`.
pub fn digest_ranges<E>(
    ranges: &[PartRange],
    mut read: impl FnMut(usize, &mut [u8], u64) -> Result<(), E>,
) -> Result<Vec<Md5>, E> {
    let mut digests = Vec::with_capacity(ranges.len());
    for (first, group) in (0..).step_by(lane_count()).zip(ranges.chunks(lane_count())) {
        let longest = group.iter().map(|range| range.len).max().unwrap_or(0);
        let slice_bytes = longest.min(SLICE_BYTES as u64) as usize;
        let mut buffer = vec![0; slice_bytes * group.len()];
        let mut messages = vec![Md5Context::new(); group.len()];
        let mut done = 0;
        while done < longest {
            let mut work = Vec::with_capacity(group.len());
            let slices = buffer.chunks_exact_mut(slice_bytes.max(1));
            for (((index, range), message), slice) in (first..).zip(group).zip(&mut messages).zip(slices) {
                let len = range.len.saturating_sub(done).min(slice_bytes as u64) as usize;
                let slice = &mut slice[..len];
                if len > 0 {
                    read(index, slice, range.offset + done)?;
                }
                work.push((message, &*slice));
            }
            lanes::update_many(&mut work);
            done += slice_bytes as u64;
        }
        let finished = lanes::finish_many(messages.into_iter().map(|message| (message, &[][..])));
        digests.extend(finished.into_iter().map(Md5::from));
    }
    Ok(digests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{PART_BYTES, PartLayout};
    use std::convert::Infallible;

    fn range_digests(content: &[u8], ranges: &[PartRange]) -> Vec<Md5> {
        digest_ranges(ranges, |_, buffer, offset| {
            buffer.copy_from_slice(&content[offset as usize..][..buffer.len()]);
            Ok::<_, Infallible>(())
        })
        .unwrap()
    }

    #[test]
    fn ranges_of_any_length_agree_with_the_plain_digest() {
        let content: Vec<u8> =
            (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let lengths = [0u64, 1, 63, 64, 65, 65_535, 65_536, 65_537, 200_000, 1_000_000];
        let ranges: Vec<PartRange> = (0..40)
            .map(|n| PartRange { offset: n * 1_000, len: lengths[n as usize % lengths.len()] })
            .collect();
        let expected: Vec<Md5> =
            ranges.iter().map(|r| Md5::of(&content[r.offset as usize..][..r.len as usize])).collect();
        assert_eq!(range_digests(&content, &ranges), expected);
        assert_eq!(range_digests(&content, &[]), []);
    }

    #[test]
    fn the_parts_of_a_file_agree_with_the_plain_digest() {
        let content = vec![7; (2 * PART_BYTES + 5) as usize];
        let layout = PartLayout::new(content.len() as u64);
        let ranges: Vec<PartRange> = (0..layout.count()).map(|part| layout.range(part).unwrap()).collect();
        let expected: Vec<Md5> = content.chunks(PART_BYTES as usize).map(Md5::of).collect();
        assert_eq!(range_digests(&content, &ranges), expected);
    }

    #[test]
    fn read_errors_are_returned() {
        let range = PartRange { offset: 0, len: 1 };
        assert_eq!(digest_ranges(&[range], |_, _, _| Err("gone")), Err("gone"));
    }
}
