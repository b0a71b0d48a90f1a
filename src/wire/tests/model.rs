//! The parts of the model in which two ends of a session meet: sources, the receiver's disk, random choices.

use std::collections::HashMap;

use crate::digest::{Md5, PART_BYTES, PartDigests, PartLayout};
use crate::relpath::{NamePolicy, RelPath};
use crate::wire::{FrameBuffer, Framing};

/// Stands for the bytes of a part: 0 for zeros, [`DAMAGED`] and above for bytes that no source holds.
pub type Token = u8;
pub const DAMAGED: Token = 100;

/// SplitMix64 (Steele et al. 2014).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    pub fn is_one_of(&mut self, number: usize) -> bool {
        number > 0 && self.below(number) == 0
    }
}

/// The digest of a part with this token; for a whole part of zeros, that of a hole.
pub fn digest(token: Token, len: u64) -> Md5 {
    if token == 0 && len == PART_BYTES {
        let mut zeros = PartDigests::new();
        zeros.insert_holes(0, 1);
        return zeros.get(0).unwrap();
    }
    Md5::of(&[&[token][..], &len.to_le_bytes()].concat())
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub size: u64,
    pub parts: Vec<Token>,
    pub is_sparse: bool,
    pub state: Md5,
}

impl Source {
    pub fn draw(random: &mut Random) -> Self {
        let size = match random.below(5) {
            0 => random.below(1000) as u64,
            _ => random.below(4) as u64 * PART_BYTES + random.below(2) as u64 * 5,
        };
        let parts =
            (0..PartLayout::new(size).count()).map(|_| random.below(4).saturating_sub(1) as Token).collect();
        let state = Md5::of(&random.below(usize::MAX).to_le_bytes());
        Source { size, parts, is_sparse: random.below(3) > 0, state }
    }

    pub fn layout(&self) -> PartLayout {
        PartLayout::new(self.size)
    }
}

/// A staged file, and the digests that are recorded for a later session.
#[derive(Clone)]
pub struct Staged {
    pub source: Md5,
    pub parts: Vec<Token>,
    pub recorded: PartDigests,
    /// What is not verified was never written, and reads as zeros.
    pub is_zero_filled: bool,
}

/// The receiver's disk, from one session to the next.
#[derive(Default)]
pub struct Disk {
    pub files: HashMap<Vec<u8>, (u64, Vec<Token>)>,
    pub staged: HashMap<Vec<u8>, Staged>,
}

/// The JSON of the frames in `bytes`, which must be whole frames.
pub fn frames(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut buffer, mut pushed, mut frames) = (FrameBuffer::new(), 0, Vec::new());
    loop {
        pushed += buffer.push(&bytes[pushed..]);
        match buffer.next_frame(Framing::Native).unwrap() {
            Some(json) => frames.push(json.to_vec()),
            None => break,
        }
    }
    assert!(pushed == bytes.len() && buffer.is_empty());
    frames
}

/// The name of an entry.
pub fn name(id: usize) -> RelPath {
    RelPath::new(format!("f{id}").as_bytes(), NamePolicy::Strict).unwrap()
}
