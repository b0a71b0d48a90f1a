//! Sixteen lanes: one 512-bit register holds one of a, b, c, d of 16 messages.
//!
//! A step is bound by its chain of dependent instructions, not by their number:
//! `vpternlogd` (the round function), `vpaddd`, `vprold`, `vpaddd`, four cycles,
//! so 256 cycles for a block of every lane. Everything else (the additions of
//! word and constant, the transposition of the next block) fits in the gaps.
//! Two groups of 16 lanes taken in turn therefore gain nothing (measured), and 32
//! streams at a power-of-two distance overflow the 12 ways of a cache set.

#![allow(unsafe_code)] // Loads through pointers and CPU-specific instructions; each block states why it is sound.

use core::arch::x86_64::*;

use super::schedule::{Block, Columns, Compress, LANES, Runs, shortest};

/// How far ahead of the block at work each stream is fetched, in bytes. Sixteen
/// streams are more than a hardware prefetcher follows well.
const AHEAD: usize = 256;

/// Proof that this CPU has AVX-512F: made only by [`Avx512::detect`].
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Self(()))
    }
}

impl Compress for Avx512 {
    const SCALAR_LANES: usize = 0;

    fn compress(self, columns: &mut Columns, runs: &Runs<'_>, count: usize, _active: usize) {
        // SAFETY: a value of this type exists only where AVX-512F was detected.
        unsafe { compress(columns, runs, count) }
    }
}

/// An array of one register, so that the steps have the shape that AVX2 uses
/// for one or two registers.
type Vector<const GROUPS: usize> = [__m512i; GROUPS];

/// Hides from the optimiser how `sum` was made; emits no instruction.
///
/// Without it LLVM reorders `(a + word + k) + F` to `((a + word) + F) + k`, as
/// constants go last, which puts one more addition in the chain of every step
/// (measured: 16 % slower).
#[inline]
#[target_feature(enable = "avx512f")]
fn fence(mut sum: __m512i) -> __m512i {
    // SAFETY: the template is a comment, so no register, flag or memory changes.
    unsafe {
        core::arch::asm!("/* {0} */", inlateout(zmm_reg) sum,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// Defines the step of one round. `$truth` is the truth table of the round
/// function for `vpternlogd`: bit 4b + 2c + d holds its value.
macro_rules! step {
    ($name:ident, $truth:literal) => {
        #[inline]
        #[target_feature(enable = "avx512f")]
        fn $name<const LEFT: i32, const RIGHT: i32, const GROUPS: usize>(
            a: Vector<GROUPS>,
            b: Vector<GROUPS>,
            c: Vector<GROUPS>,
            d: Vector<GROUPS>,
            word: Vector<GROUPS>,
            k: u32,
        ) -> Vector<GROUPS> {
            let mut next = a;
            for g in 0..GROUPS {
                let k = _mm512_set1_epi32(k.cast_signed());
                let early = fence(_mm512_add_epi32(a[g], _mm512_add_epi32(word[g], k)));
                let mixed = _mm512_ternarylogic_epi32::<$truth>(b[g], c[g], d[g]);
                let sum = _mm512_rol_epi32::<LEFT>(_mm512_add_epi32(early, mixed));
                next[g] = _mm512_add_epi32(b[g], sum);
            }
            next
        }
    };
}
step!(f, 0b1100_1010); // b ? c : d
step!(g, 0b1110_0100); // d ? b : c
step!(h, 0b1001_0110); // b ^ c ^ d
step!(i, 0b0011_1001); // c ^ (b | !d)

/// Transposes sixteen blocks: register w of the result holds word w of each.
///
/// The 128-bit quarters of a register are first filled by broadcasting loads,
/// which need no shuffle port; what remains is a 4 x 4 transposition inside
/// each quarter, 32 shuffles instead of the 64 of a full 16 x 16 one.
#[inline]
#[target_feature(enable = "avx512f")]
fn words(blocks: &[&Block; LANES]) -> [Vector<1>; 16] {
    let zero = _mm512_setzero_si512();
    let mut words = [[zero]; 16];
    for q in 0..4 {
        // rows[j]: words 4q..4q+4 of the blocks j, j + 4, j + 8, j + 12.
        let (mut rows, mut lane) = ([zero; 4], 0);
        while lane < 4 {
            let row = _mm512_castsi128_si512(quarter(blocks[lane], q));
            let row = _mm512_mask_broadcast_i32x4(row, 0x00f0, quarter(blocks[lane + 4], q));
            let row = _mm512_mask_broadcast_i32x4(row, 0x0f00, quarter(blocks[lane + 8], q));
            let row = _mm512_mask_broadcast_i32x4(row, 0xf000, quarter(blocks[lane + 12], q));
            rows[lane] = row;
            lane += 1;
        }
        let low01 = _mm512_unpacklo_epi32(rows[0], rows[1]);
        let high01 = _mm512_unpackhi_epi32(rows[0], rows[1]);
        let low23 = _mm512_unpacklo_epi32(rows[2], rows[3]);
        let high23 = _mm512_unpackhi_epi32(rows[2], rows[3]);
        words[4 * q] = [_mm512_unpacklo_epi64(low01, low23)];
        words[4 * q + 1] = [_mm512_unpackhi_epi64(low01, low23)];
        words[4 * q + 2] = [_mm512_unpacklo_epi64(high01, high23)];
        words[4 * q + 3] = [_mm512_unpackhi_epi64(high01, high23)];
    }
    words
}

/// The `q`-th 16 bytes of a block.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarter(block: &Block, q: usize) -> __m128i {
    let bytes = &block.as_chunks::<16>().0[q];
    // SAFETY: `bytes` is 16 readable bytes and the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// Takes `count` blocks of every run into its column.
#[target_feature(enable = "avx512f")]
fn compress(columns: &mut Columns, runs: &Runs<'_>, count: usize) {
    assert!(count <= shortest(runs));
    // SAFETY: a column is sixteen words, 64 readable bytes; any alignment will do.
    let [mut a, mut b, mut c, mut d] =
        columns.each_ref().map(|column| unsafe { [_mm512_loadu_si512(column.as_ptr().cast())] });
    for n in 0..count {
        let mut blocks = [&[0; 64]; LANES];
        for (block, run) in blocks.iter_mut().zip(runs) {
            // SAFETY: n < count, and no run is shorter than count (asserted above).
            *block = unsafe { run.get_unchecked(n) };
            // A hint: it reads nothing and cannot fault, so it may point past the run.
            _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().wrapping_add(AHEAD).cast());
        }
        let m = words(&blocks);
        let before = [a, b, c, d];
        md5_rounds!(f g h i, a b c d, m);
        for (after, before) in [&mut a, &mut b, &mut c, &mut d].into_iter().zip(before) {
            after[0] = _mm512_add_epi32(after[0], before[0]);
        }
    }
    for (column, [vector]) in columns.iter_mut().zip([a, b, c, d]) {
        // SAFETY: a column is 64 writable bytes; any alignment will do.
        unsafe { _mm512_storeu_si512(column.as_mut_ptr().cast(), vector) };
    }
}
