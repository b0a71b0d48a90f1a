//! MD5 of many independent messages at once.
//!
//! MD5 (RFC 1321) is a chain: every step needs the one before it, so one message
//! cannot be spread over the width of a vector register. Many messages can:
//! each gets a lane, and one instruction takes the same step for all of them.
//!
//! ```text
//!               lane 0    lane 1    lane 2         lane 15
//!             ┌─────────┬─────────┬─────────┬─ ─ ─┬─────────┐
//!  register a │ a of m0 │ a of m1 │ a of m2 │     │ a of m15│   chaining
//!  register b │ b of m0 │ b of m1 │ b of m2 │     │ b of m15│   variables
//!  register c │ c of m0 │ c of m1 │ c of m2 │     │ c of m15│
//!  register d │ d of m0 │ d of m1 │ d of m2 │     │ d of m15│
//!             ├─────────┼─────────┼─────────┼─ ─ ─┼─────────┤
//!  register 0 │ word 0  │ word 0  │ word 0  │     │ word 0  │   the block of each
//!     ...     │   ...   │   ...   │   ...   │     │   ...   │   message, transposed
//!  register 15│ word 15 │ word 15 │ word 15 │     │ word 15 │
//!             └─────────┴─────────┴─────────┴─ ─ ─┴─────────┘
//!    AVX-512: 16 lanes of 32 bits in a register.   AVX2: 8, and two registers.
//! ```
//!
//! A [`Md5Context`] holds a message between calls; `schedule` assigns the messages
//! to lanes; `avx512` and `avx2` are the compression functions and `rounds` the 64
//! steps they share. On other CPUs, and for a single short message, the crate
//! `md-5` is used.
//!
//! Source: RFC 1321, The MD5 Message-Digest Algorithm, section 3.

#[cfg(target_arch = "x86_64")]
#[macro_use]
mod rounds;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod message;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // no kernel for its lanes
mod schedule;
#[cfg(test)]
mod tests;

use core::cmp::Reverse;

pub use message::Md5Context;
use message::{INITIAL, to_digest};
use schedule::{ChainState, Lane, run_scalar};

/// A message that is alone and no longer than this, in bytes, goes to the scalar
/// kernel: to set up the lanes costs more than they could save.
const ALONE: usize = 256;

/// Takes into every message its own slice. There may be any number of messages,
/// and the slices may have any lengths, including none.
pub fn update_many(work: &mut [(&mut Md5Context, &[u8])]) {
    update_many_with(Kernel::best(), work);
}

/// Takes into every message its last slice, which may be empty, and returns the
/// digests in the same order. The padding runs in the lanes too.
pub fn finish_many<'d>(work: impl IntoIterator<Item = (Md5Context, &'d [u8])>) -> Vec<[u8; 16]> {
    finish_many_with(Kernel::best(), work)
}

/// The digest of each message.
pub fn digest_many(messages: &[&[u8]]) -> Vec<[u8; 16]> {
    digest_many_with(Kernel::best(), messages)
}

/// How many messages the best kernel of this CPU takes at once.
pub fn lane_count() -> usize {
    Kernel::best().lanes()
}

/// Name of the best kernel of this CPU.
pub fn kernel_name() -> &'static str {
    Kernel::best().name()
}

/// The implementations of the compression function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Sixteen lanes in a 512-bit register.
    Avx512,
    /// Sixteen lanes in two 256-bit registers.
    Avx2,
    /// One message after the other, by the crate `md-5`.
    Scalar,
}

impl Kernel {
    /// From the fastest to the slowest.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Scalar];

    /// The fastest kernel that this CPU can run.
    pub fn best() -> Self {
        Self::ALL.into_iter().find(|kernel| kernel.is_available()).unwrap_or(Self::Scalar)
    }

    /// Whether this CPU can run the kernel.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::Avx512::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::Avx2::detect().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => false,
            Self::Scalar => true,
        }
    }

    /// How many messages it takes at once.
    pub fn lanes(self) -> usize {
        if self == Self::Scalar { 1 } else { schedule::LANES }
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Scalar => "scalar",
        }
    }

    /// Hashes the messages that `next` puts into a lane. A kernel that the CPU lacks
    /// is replaced by the scalar one.
    fn run<'a>(self, next: impl FnMut(&mut Lane<'a>) -> bool) {
        #[cfg(target_arch = "x86_64")]
        match self {
            Self::Avx512 => {
                if let Some(kernel) = avx512::Avx512::detect() {
                    return schedule::run_lanes(kernel, next);
                }
            }
            Self::Avx2 => {
                if let Some(kernel) = avx2::Avx2::detect() {
                    return schedule::run_lanes(kernel, next);
                }
            }
            Self::Scalar => {}
        }
        run_scalar(next);
    }
}

/// [`update_many`] by a given kernel, for tests and measurements.
pub fn update_many_with(kernel: Kernel, work: &mut [(&mut Md5Context, &[u8])]) {
    work_off(kernel, work.iter_mut(), |(_, data)| data.len(), load_next);
}

/// [`finish_many`] by a given kernel, for tests and measurements.
pub fn finish_many_with<'d>(
    kernel: Kernel,
    work: impl IntoIterator<Item = (Md5Context, &'d [u8])>,
) -> Vec<[u8; 16]> {
    let mut work: Vec<_> = work.into_iter().collect();
    work_off(kernel, work.iter_mut(), |(_, data)| data.len(), load_last);
    work.into_iter().map(|(message, _)| to_digest(message.state)).collect()
}

/// [`digest_many`] by a given kernel, for tests and measurements.
pub fn digest_many_with(kernel: Kernel, messages: &[&[u8]]) -> Vec<[u8; 16]> {
    let mut states = vec![INITIAL; messages.len()];
    let work = states.iter_mut().zip(messages);
    work_off(kernel, work, |(_, data)| data.len(), load_whole);
    states.into_iter().map(to_digest).collect()
}

fn load_next<'w>((message, data): &'w mut (&mut Md5Context, &[u8]), lane: &mut Lane<'w>) {
    lane.begin(&mut message.state);
    message.tail.feed(data, lane);
}

fn load_last<'w>((message, data): &'w mut (Md5Context, &[u8]), lane: &mut Lane<'w>) {
    lane.begin(&mut message.state);
    message.tail.feed(data, lane);
    message.tail.pad(lane);
}

fn load_whole<'a>((state, data): (&'a mut ChainState, &&'a [u8]), lane: &mut Lane<'a>) {
    let (body, tail) = data.as_chunks();
    lane.begin(state);
    lane.set_body(body);
    lane.set_padding(tail, data.len() as u64);
}

/// Puts the items of `work` into the lanes by `load`, the longest first: that
/// keeps the lanes full to the end, and with equal lengths side by side, many
/// lanes change messages in the same turn. Even for messages of one or two
/// blocks the sorting costs less than it saves (measured).
fn work_off<'a, T>(
    kernel: Kernel,
    work: impl Iterator<Item = T>,
    length: impl Fn(&T) -> usize,
    load: impl Fn(T, &mut Lane<'a>),
) {
    let mut order: Vec<T> = work.collect();
    let alone = order.len() == 1 && order.iter().all(|item| length(item) <= ALONE);
    let kernel = if alone { Kernel::Scalar } else { kernel };
    if order.len() > kernel.lanes() && kernel != Kernel::Scalar {
        order.sort_unstable_by_key(|item| Reverse(length(item)));
    }
    let mut work = order.into_iter();
    kernel.run(|lane| work.next().map(|item| load(item, lane)).is_some());
}
