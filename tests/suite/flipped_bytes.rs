//! **Promised: no silent corruption.** A proxy between the two programs flips bits of one byte, in either direction: in
//! every length, dictionary and CRC of a session, in bodies of small files and of parts, and at random offsets.
//!
//! After each flip both programs end, each final name is absent or complete, and exit code 0 of the sender means that the
//! tree is complete. A flip in a frame is always detected; a flip in a body is repaired in the same session.
//!
//! If the receiver did not compare a part's digest, flips in bodies would leave a damaged file under its name. If it did
//! not compare a frame's CRC, a flip in a name, mode or time would end with 0 and another listing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::proofs::{
    Random, assert_absent_or_complete, contents, is_long_run, report_figures, rounds, run_parallel,
};
use crate::common::proxy::{Action, Place, Proxy, Way};
use crate::common::{Ended, Receiver, listing, send};
use ftx::digest::PART_BYTES;

/// The lowest bit, the highest bit, the bit of letter case, all bits, some bits.
const PATTERNS: [u8; 5] = [0x01, 0x80, 0x20, 0xff, 0x5a];
/// Rounds mostly wait, so many run at once.
const AT_ONCE: usize = 12;
/// Limit of a round; a round needs far less.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
enum Flip {
    /// The byte at this offset of the stream in this direction, and the bits to flip.
    At(Way, u64, u8),
    /// The byte at `at` of the first `times` bodies of this part.
    Body { size: u64, part: u64, at: u64, pattern: u8, times: usize },
}

struct Tree {
    path: PathBuf,
    whole: BTreeMap<String, String>,
    listing: Vec<String>,
}

impl Tree {
    fn new(from: &Path) -> Self {
        Tree { path: from.join("t"), whole: contents(from), listing: listing(from) }
    }

    /// Sends the tree with one flip and checks what must hold after any flip. Returns the sender's result and the number of
    /// flipped bytes.
    fn send_with(&self, flip: Flip, timeout: &str) -> (Ended, usize) {
        let out = tempfile::tempdir().unwrap();
        let receiver = Receiver::start(out.path(), &["--once", "--timeout", timeout]);
        let flipped = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&flipped);
        let proxy = Proxy::start(receiver.port, move |piece| {
            let (begin, end, at, pattern) = match flip {
                Flip::At(way, at, pattern) if way == piece.way => {
                    (piece.offset, piece.bytes.len(), at, pattern)
                }
                Flip::Body { size, part, at, pattern, times }
                    if piece.place == Place::Body
                        && count.load(Ordering::SeqCst) < times
                        && piece.frame.is_some_and(|f| f["size"] == size && f["part"] == part) =>
                {
                    (piece.within, piece.bytes.len(), at, pattern)
                }
                _ => return Action::Pass,
            };
            if let Some(byte) = at.checked_sub(begin).filter(|n| *n < end as u64) {
                piece.bytes[byte as usize] ^= pattern;
                count.fetch_add(1, Ordering::SeqCst);
            }
            Action::Pass
        });
        let start = Instant::now();
        let sent = send(&["--retries", "0", "--timeout", timeout], &[&self.path], &proxy.host());
        let received = receiver.wait_or_end();
        drop(proxy);
        // Keepalives must not prolong a session that cannot continue.
        assert!(start.elapsed() < ENDS_WITHIN, "it took {:?} to end", start.elapsed());
        let staged = assert_absent_or_complete(out.path(), &self.whole, &flip);
        assert_eq!(staged, 0, "a receiver that is not killed leaves no staged file");
        for (who, ended) in [("sender", &sent), ("receiver", &received)] {
            assert!(!ended.stderr.contains("panicked"), "{who}: {ended:?}");
            if ended.code == 0 {
                assert_eq!(listing(out.path()), self.listing, "{who}, exit code 0: {ended:?}");
            }
        }
        (sent, flipped.load(Ordering::SeqCst))
    }
}

/// A small tree with an entry of each type.
fn small_tree(from: &Path) -> Tree {
    fs::create_dir_all(from.join("t/d")).unwrap();
    fs::write(from.join("t/d/a.txt"), "abc").unwrap();
    fs::write(from.join("t/empty"), "").unwrap();
    symlink("d/a.txt", from.join("t/link")).unwrap();
    Tree::new(from)
}

/// Offsets of all frame bytes of a session without flips, per direction.
fn layout(tree: &Tree) -> Vec<(Way, u64)> {
    let out = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(out.path(), &["--once"]);
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&bytes);
    let proxy = Proxy::start(receiver.port, move |piece| {
        if piece.place == Place::Frame {
            let (begin, end) = (piece.offset, piece.offset + piece.bytes.len() as u64);
            seen.lock().unwrap().extend((begin..end).map(|offset| (piece.way, offset)));
        }
        Action::Pass
    });
    assert_eq!(send(&[], &[&tree.path], &proxy.host()).code, 0);
    assert_eq!(receiver.wait().code, 0);
    drop(proxy);
    assert_eq!(listing(out.path()), tree.listing);
    Arc::into_inner(bytes).unwrap().into_inner().unwrap()
}

#[test]
fn a_flip_in_any_frame_is_detected() {
    let from = tempfile::tempdir().unwrap();
    let tree = small_tree(from.path());
    let mut random = Random::new(1);
    let mut offsets = layout(&tree);
    for index in 0..offsets.len() {
        let other = index as u64 + random.below((offsets.len() - index) as u64);
        offsets.swap(index, other as usize);
    }
    let first: Vec<u64> = offsets.iter().map(|_| random.below(PATTERNS.len() as u64)).collect();
    // Every offset once before any offset twice, each time with another pattern. The long form covers all offsets.
    let turns = 0..PATTERNS.len();
    let all = turns.flat_map(|turn| {
        offsets.iter().zip(&first).map(move |((way, offset), first)| {
            Flip::At(*way, *offset, PATTERNS[(*first as usize + turn) % PATTERNS.len()])
        })
    });
    let least = if is_long_run() { offsets.len() } else { 0 };
    let flips: Vec<Flip> = all.take(rounds(220).max(least)).collect();
    let (noticed, reached) = (AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
    run_parallel(&flips, AT_ONCE, |flip| {
        let (sent, flipped) = tree.send_with(*flip, "1");
        if flipped > 0 {
            assert_ne!(sent.code, 0, "a flip in a frame was not noticed: {sent:?}");
            noticed.fetch_add(1, Ordering::SeqCst);
            let Flip::At(way, offset, _) = *flip else { unreachable!() };
            reached.lock().unwrap().insert((way == Way::ToSender, offset));
        }
    });
    let (noticed, reached) = (noticed.into_inner(), reached.into_inner().unwrap().len());
    // Frame lengths vary between runs, so the last offsets may not be reached.
    assert!(noticed * 10 >= flips.len() * 8, "{noticed} of {} flips happened", flips.len());
    report_figures(&format!(
        "flips in frames: {} rounds, {noticed} flipped, at {reached} of {} offsets, all noticed",
        flips.len(),
        offsets.len()
    ));
}

#[test]
fn a_flip_in_a_body_is_repaired_in_the_same_session() {
    let from = tempfile::tempdir().unwrap();
    let mut random = Random::new(2);
    let tail = 70_000;
    fs::create_dir(from.path().join("t")).unwrap();
    fs::write(from.path().join("t/small"), random.bytes(1000)).unwrap();
    fs::write(from.path().join("t/middle"), random.bytes(300_000)).unwrap();
    fs::write(from.path().join("t/large"), random.bytes(PART_BYTES as usize + tail)).unwrap();
    let tree = Tree::new(from.path());
    let bodies = [(1000, 0), (300_000, 0), (PART_BYTES, 0), (tail as u64, 1)];
    let mut flips = Vec::new();
    for (size, part) in bodies {
        for (at, pattern) in [(0, 0x01), (size / 2, 0xff), (size - 1, 0x80)] {
            flips.push(Flip::Body { size, part, at, pattern, times: 1 });
        }
        flips.push(Flip::Body { size, part, at: 7, pattern: 0x5a, times: 2 });
    }
    let fixed = flips.len();
    while flips.len() < rounds(fixed + 4).max(fixed) {
        let (size, part) = *random.pick(&bodies);
        let (at, pattern, times) =
            (random.below(size), *random.pick(&PATTERNS), 1 + random.below(2) as usize);
        flips.push(Flip::Body { size, part, at, pattern, times });
    }
    run_parallel(&flips, 4, |flip| {
        let (sent, flipped) = tree.send_with(*flip, "60");
        let Flip::Body { times, .. } = flip else { unreachable!() };
        assert_eq!(flipped, *times);
        assert_eq!(sent.code, 0, "not repaired: {sent:?}");
    });
    report_figures(&format!("flips in bodies: {} rounds, all repaired in the same session", flips.len()));
}

#[test]
fn a_body_damaged_on_every_try_is_never_committed() {
    let from = tempfile::tempdir().unwrap();
    let mut random = Random::new(3);
    fs::create_dir(from.path().join("t")).unwrap();
    fs::write(from.path().join("t/small"), random.bytes(1000)).unwrap();
    fs::write(from.path().join("t/large"), random.bytes(PART_BYTES as usize + 5000)).unwrap();
    let tree = Tree::new(from.path());
    for (size, part) in [(1000, 0), (PART_BYTES, 0), (5000, 1)] {
        let flip = Flip::Body { size, part, at: size / 3, pattern: 0x10, times: 9 };
        let (sent, flipped) = tree.send_with(flip, "60");
        assert_eq!((sent.code, flipped), (40, 3), "{sent:?}");
    }
}

#[test]
fn random_flips_never_store_a_damaged_file() {
    let from = tempfile::tempdir().unwrap();
    let mut random = Random::new(4);
    fs::create_dir(from.path().join("t")).unwrap();
    for number in 0..40 {
        let size = random.below(3000) as usize;
        fs::write(from.path().join(format!("t/{number}")), random.bytes(size)).unwrap();
    }
    fs::write(from.path().join("t/middle"), random.bytes(200_000)).unwrap();
    let tree = Tree::new(from.path());
    let flips: Vec<Flip> = (0..rounds(40))
        .map(|_| match random.below(3) {
            0 => Flip::At(Way::ToSender, random.below(300), *random.pick(&PATTERNS)),
            // The first bytes, mostly frames; then any byte.
            1 => Flip::At(Way::ToReceiver, random.below(6000), *random.pick(&PATTERNS)),
            _ => Flip::At(Way::ToReceiver, random.below(260_000), *random.pick(&PATTERNS)),
        })
        .collect();
    let (flipped, good) = (AtomicUsize::new(0), AtomicUsize::new(0));
    run_parallel(&flips, AT_ONCE, |flip| {
        let (sent, count) = tree.send_with(*flip, "1");
        flipped.fetch_add(count, Ordering::SeqCst);
        good.fetch_add(usize::from(sent.code == 0), Ordering::SeqCst);
    });
    report_figures(&format!(
        "flips by random: {} rounds, {flipped:?} flipped, {good:?} ended well",
        flips.len()
    ));
}
