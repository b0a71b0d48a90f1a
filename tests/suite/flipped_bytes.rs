//! **Promised: no silent corruption.** A proxy between the two programs flips bits of one byte, in either direction:
//! in every length, dictionary and CRC of a session, in bodies of small files and of parts, and anywhere by chance.
//!
//! After each flip both programs have ended; under each final name there is nothing or the whole file; the sender's 0
//! means that all of it is there. A flip in a frame is always noticed; one in a body is repaired in the same session.
//!
//! If the receiver took a part without comparing its digest, the flips in bodies would find the damaged file under its
//! name. If a frame's CRC were not compared, a flip in a name, a mode or a time would end with 0 and another listing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::proofs::{Chance, assert_nothing_or_whole, contents, each, figures, is_long, rounds};
use crate::common::proxy::{Place, Proxy, Then, Way};
use crate::common::{Ended, Receiver, listing, send};
use ftx::digest::PART_BYTES;

/// One bit, the highest bit, upper case for lower case, all of them, some.
const PATTERNS: [u8; 5] = [0x01, 0x80, 0x20, 0xff, 0x5a];
/// Rounds wait more than they work: many are under way at once.
const AT_ONCE: usize = 12;
/// Far more than any round needs.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
enum Flip {
    /// The byte at this offset of what goes this way.
    At(Way, u64, u8),
    /// The byte at `at` of every body of this file and part that comes, up to `times` of them.
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

    /// All that has to hold whatever was flipped. Returns the sender's end, and how many bytes were flipped.
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
                _ => return Then::Pass,
            };
            if let Some(byte) = at.checked_sub(begin).filter(|n| *n < end as u64) {
                piece.bytes[byte as usize] ^= pattern;
                count.fetch_add(1, Ordering::SeqCst);
            }
            Then::Pass
        });
        let start = Instant::now();
        let sent = send(&["--retries", "0", "--timeout", timeout], &[&self.path], &proxy.host());
        let received = receiver.wait_or_end();
        drop(proxy);
        // Signs of life must not keep a session that cannot go on: it once took minutes to end.
        assert!(start.elapsed() < ENDS_WITHIN, "it took {:?} to end", start.elapsed());
        let landings = assert_nothing_or_whole(out.path(), &self.whole, &flip);
        assert_eq!(landings, 0, "a program that ends by itself takes its landings with it");
        for (who, ended) in [("sender", &sent), ("receiver", &received)] {
            assert!(!ended.stderr.contains("panicked"), "{who}: {ended:?}");
            if ended.code == 0 {
                assert_eq!(listing(out.path()), self.listing, "{who} says 0: {ended:?}");
            }
        }
        (sent, flipped.load(Ordering::SeqCst))
    }
}

/// A few names of each kind.
fn small_tree(from: &Path) -> Tree {
    fs::create_dir_all(from.join("t/d")).unwrap();
    fs::write(from.join("t/d/a.txt"), "abc").unwrap();
    fs::write(from.join("t/empty"), "").unwrap();
    symlink("d/a.txt", from.join("t/link")).unwrap();
    Tree::new(from)
}

/// Bytes that go each way when nothing is flipped, and which of them are in frames.
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
        Then::Pass
    });
    assert_eq!(send(&[], &[&tree.path], &proxy.host()).code, 0);
    assert_eq!(receiver.wait().code, 0);
    drop(proxy);
    assert_eq!(listing(out.path()), tree.listing);
    Arc::into_inner(bytes).unwrap().into_inner().unwrap()
}

#[test]
fn a_flip_in_any_frame_is_noticed() {
    let from = tempfile::tempdir().unwrap();
    let tree = small_tree(from.path());
    let mut chance = Chance::new(1);
    let mut offsets = layout(&tree);
    for index in 0..offsets.len() {
        let other = index as u64 + chance.below((offsets.len() - index) as u64);
        offsets.swap(index, other as usize);
    }
    let first: Vec<u64> = offsets.iter().map(|_| chance.below(PATTERNS.len() as u64)).collect();
    // Each offset before any comes twice, each time with another pattern. The long form leaves none out.
    let turns = 0..PATTERNS.len();
    let all = turns.flat_map(|turn| {
        offsets.iter().zip(&first).map(move |((way, offset), first)| {
            Flip::At(*way, *offset, PATTERNS[(*first as usize + turn) % PATTERNS.len()])
        })
    });
    let least = if is_long() { offsets.len() } else { 0 };
    let flips: Vec<Flip> = all.take(rounds(220).max(least)).collect();
    let (noticed, reached) = (AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
    each(&flips, AT_ONCE, |flip| {
        let (sent, flipped) = tree.send_with(*flip, "1");
        if flipped > 0 {
            assert_ne!(sent.code, 0, "a flip in a frame was not noticed: {sent:?}");
            noticed.fetch_add(1, Ordering::SeqCst);
            let Flip::At(way, offset, _) = *flip else { unreachable!() };
            reached.lock().unwrap().insert((way == Way::ToSender, offset));
        }
    });
    let (noticed, reached) = (noticed.into_inner(), reached.into_inner().unwrap().len());
    // Frames differ a little from run to run, so that the last offsets may not be reached.
    assert!(noticed * 10 >= flips.len() * 8, "{noticed} of {} flips happened", flips.len());
    figures(&format!(
        "flips in frames: {} rounds, {noticed} flipped, at {reached} of {} offsets, all noticed",
        flips.len(),
        offsets.len()
    ));
}

#[test]
fn a_flip_in_a_body_is_repaired_in_the_same_session() {
    let from = tempfile::tempdir().unwrap();
    let mut chance = Chance::new(2);
    let tail = 70_000;
    fs::create_dir(from.path().join("t")).unwrap();
    fs::write(from.path().join("t/small"), chance.bytes(1000)).unwrap();
    fs::write(from.path().join("t/middle"), chance.bytes(300_000)).unwrap();
    fs::write(from.path().join("t/large"), chance.bytes(PART_BYTES as usize + tail)).unwrap();
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
        let (size, part) = *chance.pick(&bodies);
        let (at, pattern, times) =
            (chance.below(size), *chance.pick(&PATTERNS), 1 + chance.below(2) as usize);
        flips.push(Flip::Body { size, part, at, pattern, times });
    }
    each(&flips, 4, |flip| {
        let (sent, flipped) = tree.send_with(*flip, "60");
        let Flip::Body { times, .. } = flip else { unreachable!() };
        assert_eq!(flipped, *times);
        assert_eq!(sent.code, 0, "not repaired: {sent:?}");
    });
    figures(&format!("flips in bodies: {} rounds, all repaired in the same session", flips.len()));
}

#[test]
fn a_body_that_is_damaged_every_time_is_never_named() {
    let from = tempfile::tempdir().unwrap();
    let mut chance = Chance::new(3);
    fs::create_dir(from.path().join("t")).unwrap();
    fs::write(from.path().join("t/small"), chance.bytes(1000)).unwrap();
    fs::write(from.path().join("t/large"), chance.bytes(PART_BYTES as usize + 5000)).unwrap();
    let tree = Tree::new(from.path());
    for (size, part) in [(1000, 0), (PART_BYTES, 0), (5000, 1)] {
        let flip = Flip::Body { size, part, at: size / 3, pattern: 0x10, times: 9 };
        let (sent, flipped) = tree.send_with(flip, "60");
        assert_eq!((sent.code, flipped), (40, 3), "{sent:?}");
    }
}

#[test]
fn a_flip_anywhere_by_chance_is_never_taken_for_good() {
    let from = tempfile::tempdir().unwrap();
    let mut chance = Chance::new(4);
    fs::create_dir(from.path().join("t")).unwrap();
    for number in 0..40 {
        let size = chance.below(3000) as usize;
        fs::write(from.path().join(format!("t/{number}")), chance.bytes(size)).unwrap();
    }
    fs::write(from.path().join("t/middle"), chance.bytes(200_000)).unwrap();
    let tree = Tree::new(from.path());
    let flips: Vec<Flip> = (0..rounds(40))
        .map(|_| match chance.below(3) {
            0 => Flip::At(Way::ToSender, chance.below(300), *chance.pick(&PATTERNS)),
            // Where most of the frames are, then everywhere.
            1 => Flip::At(Way::ToReceiver, chance.below(6000), *chance.pick(&PATTERNS)),
            _ => Flip::At(Way::ToReceiver, chance.below(260_000), *chance.pick(&PATTERNS)),
        })
        .collect();
    let (flipped, good) = (AtomicUsize::new(0), AtomicUsize::new(0));
    each(&flips, AT_ONCE, |flip| {
        let (sent, count) = tree.send_with(*flip, "1");
        flipped.fetch_add(count, Ordering::SeqCst);
        good.fetch_add(usize::from(sent.code == 0), Ordering::SeqCst);
    });
    figures(&format!("flips by chance: {} rounds, {flipped:?} flipped, {good:?} ended well", flips.len()));
}
