//! Sixteen lanes as two groups of eight: one 256-bit register holds one of
//! a, b, c, d of 8 messages.
//!
//! AVX2 has neither a rotate nor a three-input logic instruction, so the chain
//! of a step is about six cycles long and leaves the ports idle half of the
//! time. The second group fills them: its steps are taken in turn with those of
//! the first (measured: 1.25 to 1.45 times one group; a third group runs out of
//! the sixteen registers and loses). With eight lanes or fewer in use, the
//! second group would only delay the first, and it is left out.

#![allow(unsafe_code)] // Loads through pointers and CPU-specific instructions; each block states why it is sound.

use core::arch::x86_64::*;

use super::schedule::{Block, Columns, Compress, LANES, Runs, shortest};

/// Lanes in a register.
const WIDTH: usize = 8;

/// How far ahead of the block at work each stream is fetched, in bytes.
const AHEAD: usize = 256;

/// Proof that this CPU has AVX2: made only by [`Avx2::detect`].
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }
}

impl Compress for Avx2 {
    const SCALAR_LANES: usize = 1;

    fn compress(self, columns: &mut Columns, runs: &Runs<'_>, count: usize, active: usize) {
        if active <= WIDTH {
            // SAFETY: a value of this type exists only where AVX2 was detected.
            unsafe { compress::<1>(columns, runs, count) }
        } else {
            // SAFETY: as above.
            unsafe { compress::<2>(columns, runs, count) }
        }
    }
}

type Vector<const GROUPS: usize> = [__m256i; GROUPS];

/// Defines the step of one round. `$sum` adds the round function of b, c, d to
/// the sum s = a + word + k, which is ready early.
macro_rules! step {
    ($name:ident, |$s:ident, $b:ident, $c:ident, $d:ident| $sum:expr) => {
        #[inline]
        #[target_feature(enable = "avx2")]
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
                let k = _mm256_set1_epi32(k.cast_signed());
                let $s = _mm256_add_epi32(a[g], _mm256_add_epi32(word[g], k));
                let ($b, $c, $d) = (b[g], c[g], d[g]);
                let sum = $sum;
                let (left, right) = (_mm256_slli_epi32::<LEFT>(sum), _mm256_srli_epi32::<RIGHT>(sum));
                next[g] = _mm256_add_epi32($b, _mm256_or_si256(left, right));
            }
            next
        }
    };
}
// d ^ (b & (c ^ d)): of the forms of "b ? c : d" the one with b in two operations.
step!(f, |s, b, c, d| _mm256_add_epi32(s, _mm256_xor_si256(d, _mm256_and_si256(b, _mm256_xor_si256(c, d)))));
// The two halves of (b & d) | (c & !d) share no bit, so they can be added one
// after the other, and the half without b goes in early.
step!(g, |s, b, c, d| _mm256_add_epi32(
    _mm256_add_epi32(s, _mm256_andnot_si256(d, c)),
    _mm256_and_si256(b, d)
));
step!(h, |s, b, c, d| _mm256_add_epi32(s, _mm256_xor_si256(b, _mm256_xor_si256(c, d))));
step!(i, |s, b, c, d| {
    let not_d = _mm256_xor_si256(d, _mm256_set1_epi32(-1));
    _mm256_add_epi32(s, _mm256_xor_si256(c, _mm256_or_si256(b, not_d)))
});

/// Transposes the blocks of the groups: vector w of the result holds word w of
/// each block. The halves of a register are filled by inserting loads; what
/// remains is a 4 x 4 transposition inside each half.
#[inline]
#[target_feature(enable = "avx2")]
fn words<const GROUPS: usize>(blocks: &[&Block; LANES]) -> [Vector<GROUPS>; 16] {
    let zero = _mm256_setzero_si256();
    let mut words = [[zero; GROUPS]; 16];
    for (g, blocks) in blocks.as_chunks::<WIDTH>().0[..GROUPS].iter().enumerate() {
        for q in 0..4 {
            // rows[j]: words 4q..4q+4 of the blocks j and j + 4.
            let (mut rows, mut lane) = ([zero; 4], 0);
            while lane < 4 {
                let low = _mm256_castsi128_si256(quarter(blocks[lane], q));
                rows[lane] = _mm256_inserti128_si256::<1>(low, quarter(blocks[lane + 4], q));
                lane += 1;
            }
            let low01 = _mm256_unpacklo_epi32(rows[0], rows[1]);
            let high01 = _mm256_unpackhi_epi32(rows[0], rows[1]);
            let low23 = _mm256_unpacklo_epi32(rows[2], rows[3]);
            let high23 = _mm256_unpackhi_epi32(rows[2], rows[3]);
            words[4 * q][g] = _mm256_unpacklo_epi64(low01, low23);
            words[4 * q + 1][g] = _mm256_unpackhi_epi64(low01, low23);
            words[4 * q + 2][g] = _mm256_unpacklo_epi64(high01, high23);
            words[4 * q + 3][g] = _mm256_unpackhi_epi64(high01, high23);
        }
    }
    words
}

/// The `q`-th 16 bytes of a block.
#[inline]
#[target_feature(enable = "avx2")]
fn quarter(block: &Block, q: usize) -> __m128i {
    let bytes = &block.as_chunks::<16>().0[q];
    // SAFETY: `bytes` is 16 readable bytes and the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// Takes `count` blocks of the runs of the first `GROUPS` groups into their columns.
#[target_feature(enable = "avx2")]
fn compress<const GROUPS: usize>(columns: &mut Columns, runs: &Runs<'_>, count: usize) {
    assert!(count <= shortest(runs));
    let zero = [_mm256_setzero_si256(); GROUPS];
    let mut state = [zero; 4];
    for (vector, column) in state.iter_mut().zip(columns.iter()) {
        for (part, column) in vector.iter_mut().zip(column.as_chunks::<WIDTH>().0) {
            // SAFETY: `column` is eight words, 32 readable bytes; any alignment will do.
            *part = unsafe { _mm256_loadu_si256(column.as_ptr().cast()) };
        }
    }
    let [mut a, mut b, mut c, mut d] = state;
    for n in 0..count {
        let mut blocks = [&[0; 64]; LANES];
        for (block, run) in blocks.iter_mut().zip(runs).take(GROUPS * WIDTH) {
            // SAFETY: n < count, and no run is shorter than count (asserted above).
            *block = unsafe { run.get_unchecked(n) };
            // A hint: it reads nothing and cannot fault, so it may point past the run.
            _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().wrapping_add(AHEAD).cast());
        }
        let m = words::<GROUPS>(&blocks);
        let before = [a, b, c, d];
        md5_rounds!(f g h i, a b c d, m);
        for (after, before) in [&mut a, &mut b, &mut c, &mut d].into_iter().zip(before) {
            for g in 0..GROUPS {
                after[g] = _mm256_add_epi32(after[g], before[g]);
            }
        }
    }
    for (vector, column) in [a, b, c, d].into_iter().zip(columns) {
        for (part, column) in vector.into_iter().zip(column.as_chunks_mut::<WIDTH>().0) {
            // SAFETY: `column` is 32 writable bytes; any alignment will do.
            unsafe { _mm256_storeu_si256(column.as_mut_ptr().cast(), part) };
        }
    }
}
