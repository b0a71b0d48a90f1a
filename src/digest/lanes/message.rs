//! The state of one message between two calls.

use super::schedule::{ChainState, Lane};
#[cfg(test)]
use super::{finish_many, update_many};

/// Chaining variables before the first block (RFC 1321, 3.3).
pub(super) const INITIAL: ChainState = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// One message being hashed, resumable at any byte.
#[derive(Clone, Debug)]
pub struct Md5Context {
    pub(super) state: ChainState,
    pub(super) tail: Tail,
}

impl Default for Md5Context {
    fn default() -> Self {
        Self { state: INITIAL, tail: Tail::default() }
    }
}

/// The bytes since the last whole block, and the length of the message so far.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    bytes: [u8; 64],
    length: u64,
}

impl Default for Tail {
    fn default() -> Self {
        Self { bytes: [0; 64], length: 0 }
    }
}

impl Tail {
    fn held(&self) -> usize {
        (self.length % 64) as usize
    }

    /// Passes the whole blocks of the held bytes and of `data` to `lane`, and keeps
    /// the rest.
    pub(super) fn feed<'a>(&mut self, mut data: &'a [u8], lane: &mut Lane<'a>) {
        let held = self.held();
        self.length = self.length.wrapping_add(data.len() as u64);
        if held > 0 {
            let (missing, rest) = data.split_at(data.len().min(64 - held));
            self.bytes[held..held + missing.len()].copy_from_slice(missing);
            if held + missing.len() < 64 {
                return;
            }
            lane.set_head(&self.bytes);
            data = rest;
        }
        let (body, rest) = data.as_chunks();
        lane.set_body(body);
        self.bytes[..rest.len()].copy_from_slice(rest);
    }

    pub(super) fn pad(&self, lane: &mut Lane<'_>) {
        lane.set_padding(&self.bytes[..self.held()], self.length);
    }
}

impl Md5Context {
    /// A message of no bytes yet.
    pub fn new() -> Self {
        Self::default()
    }

    #[cfg(test)]
    /// Adds `data`; for many messages, see [`update_many`].
    pub fn update(&mut self, data: &[u8]) {
        update_many(&mut [(self, data)]);
    }

    #[cfg(test)]
    /// The digest; for the digests of many messages, see [`finish_many`].
    pub fn finish(self) -> [u8; 16] {
        finish_many([(self, &[][..])])[0]
    }
}

/// The digest is a, b, c, d, low-order byte first (RFC 1321, 3.5).
pub(super) fn to_digest(state: ChainState) -> [u8; 16] {
    let mut digest = [0; 16];
    for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *bytes = word.to_le_bytes();
    }
    digest
}
