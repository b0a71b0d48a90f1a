//! Against the test suite of RFC 1321 (appendix A.5) and against the crate `md-5`.

use md5::{Digest, Md5};
use proptest::prelude::*;

use super::*;

fn kernels() -> impl Iterator<Item = Kernel> {
    Kernel::ALL.into_iter().filter(|kernel| kernel.is_available())
}

fn reference(data: &[u8]) -> [u8; 16] {
    Md5::digest(data).into()
}

fn hex(digest: [u8; 16]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that differ from block to block and from message to message.
fn random(length: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()[3]
    };
    (0..length).map(step).collect()
}

const SUITE: [(&str, &str); 7] = [
    ("", "d41d8cd98f00b204e9800998ecf8427e"),
    ("a", "0cc175b9c0f1b6a831c399e269772661"),
    ("abc", "900150983cd24fb0d6963f7d28e17f72"),
    ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
    ("abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"),
    ("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", "d174ab98d277d9f5a5611c2c9f419d9f"),
    (
        "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
        "57edf4a22be3c955ac49da2e2107b67a",
    ),
];

#[test]
fn rfc_1321_suite_in_every_kernel() {
    for kernel in kernels() {
        let messages: Vec<_> = SUITE.iter().map(|(text, _)| text.as_bytes()).collect();
        let digests = digest_many_with(kernel, &messages);
        for (digest, (text, expected)) in digests.into_iter().zip(SUITE) {
            assert_eq!(hex(digest), expected, "{text:?} by {}", kernel.name());
        }
    }
}

#[test]
fn every_length_up_to_four_kib_and_a_bit() {
    let data = random(4200, 1);
    let messages: Vec<_> = (0..data.len()).map(|length| &data[..length]).collect();
    let expected: Vec<_> = messages.iter().map(|data| reference(data)).collect();
    for kernel in kernels() {
        assert_eq!(digest_many_with(kernel, &messages), expected, "{}", kernel.name());
    }
}

#[test]
fn every_number_of_messages_up_to_forty() {
    for count in 0..=40 {
        let data: Vec<_> = (0..count).map(|i| random(i * 37 % 300, i as u64)).collect();
        let messages: Vec<_> = data.iter().map(Vec::as_slice).collect();
        let expected: Vec<_> = messages.iter().map(|data| reference(data)).collect();
        for kernel in kernels() {
            assert_eq!(digest_many_with(kernel, &messages), expected, "{count} messages");
        }
    }
}

/// Every pair of a held length and an added length around the block boundaries.
#[test]
fn every_split_around_the_block_boundaries() {
    let data = random(64 * 5, 7);
    let cuts: Vec<_> =
        (0..=130).flat_map(|a| [0, 1, 55, 56, 63, 64, 65, 127, 128, 190].map(|b| (a, a + b))).collect();
    let expected: Vec<_> = cuts.iter().map(|&(_, end)| reference(&data[..end])).collect();
    for kernel in kernels() {
        let mut messages = vec![Md5Context::new(); cuts.len()];
        let mut work: Vec<_> =
            messages.iter_mut().zip(&cuts).map(|(m, &(cut, _))| (m, &data[..cut])).collect();
        update_many_with(kernel, &mut work);
        let last = messages.into_iter().zip(&cuts).map(|(m, &(cut, end))| (m, &data[cut..end]));
        assert_eq!(finish_many_with(kernel, last), expected, "{}", kernel.name());
    }
}

#[test]
fn lone_message_like_the_crate() {
    let data = random(1000, 3);
    let mut message = Md5Context::new();
    for part in data.chunks(77) {
        message.update(part);
    }
    assert_eq!(message.finish(), reference(&data));
}

/// Longer than [`ALONE`], so that a kernel that takes one message by itself does;
/// in a buffer of its own, so that a sanitizer sees a read past its end.
#[test]
fn few_long_messages_in_every_kernel() {
    for kernel in kernels() {
        for count in 1..=20 {
            let data: Vec<_> = (0..count).map(|i| random(ALONE + 1 + 64 * (i % 3) + i, 9)).collect();
            let messages: Vec<_> = data.iter().map(Vec::as_slice).collect();
            let expected: Vec<_> = messages.iter().map(|data| reference(data)).collect();
            assert_eq!(digest_many_with(kernel, &messages), expected, "{count} messages");
        }
    }
}

#[test]
fn names_and_lanes_belong_together() {
    assert_eq!(lane_count(), Kernel::best().lanes());
    assert_eq!(kernel_name(), Kernel::best().name());
    assert!(Kernel::Scalar.is_available());
}

/// More messages than lanes are taken by length; the digests must come back in
/// the order of the list.
#[test]
fn sorted_work_keeps_its_order() {
    let data: Vec<_> = (0..50).map(|i| random((i * 977) % 9000 + 1, i as u64)).collect();
    let messages: Vec<_> = data.iter().map(Vec::as_slice).collect();
    let expected: Vec<_> = messages.iter().map(|data| reference(data)).collect();
    for kernel in kernels() {
        assert_eq!(digest_many_with(kernel, &messages), expected);
        let mut states = vec![Md5Context::new(); messages.len()];
        let mut work: Vec<_> = states.iter_mut().zip(messages.iter().copied()).collect();
        update_many_with(kernel, &mut work);
        assert_eq!(finish_many_with(kernel, states.into_iter().map(|m| (m, &[][..]))), expected);
    }
}

/// One message: its length, and where it is cut into the slices of several calls.
fn lengths_and_cuts() -> impl Strategy<Value = Vec<(usize, Vec<usize>)>> {
    let length = prop_oneof![
        0..4096_usize,
        (0..=64_usize, 0..3_usize).prop_map(|(b, d)| (b * 64 + d).saturating_sub(1)),
        50..70_usize
    ];
    let message = (length, prop::collection::vec(0..4096_usize, 0..6));
    prop::collection::vec(message, 0..=40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cut_anywhere_like_the_crate(plan in lengths_and_cuts(), seed: u64) {
        let data: Vec<_> =
            plan.iter().enumerate().map(|(i, (length, _))| random(*length, seed ^ i as u64)).collect();
        let slices: Vec<Vec<&[u8]>> = data.iter().zip(&plan).map(|(data, (_, cuts))| {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (data.len() + 1)).collect();
            cuts.extend([0, data.len()]);
            cuts.sort_unstable();
            cuts.windows(2).map(|pair| &data[pair[0]..pair[1]]).collect()
        }).collect();
        let expected: Vec<_> = data.iter().map(|data| reference(data)).collect();
        let whole: Vec<_> = data.iter().map(Vec::as_slice).collect();
        for kernel in kernels() {
            prop_assert_eq!(&digest_many_with(kernel, &whole), &expected);
            let mut messages = vec![Md5Context::new(); plan.len()];
            // Calls of different make-up: a message takes part as long as it has slices.
            for call in 0..6 {
                let mut work: Vec<_> = messages.iter_mut().zip(&slices)
                    .filter(|(_, slices)| call + 1 < slices.len())
                    .map(|(message, slices)| (message, slices[call]))
                    .collect();
                update_many_with(kernel, &mut work);
            }
            let last = messages.into_iter().zip(&slices).map(|(m, slices)| (m, slices[slices.len() - 1]));
            prop_assert_eq!(&finish_many_with(kernel, last), &expected);
        }
    }
}
