//! The 64 steps of RFC 1321 (section 3.4, step 4), written once for every
//! vector width.
//!
//! A kernel supplies one function for each of the four rounds. It takes one
//! step on all of its lanes:
//!
//! ```text
//! fn f<const LEFT: i32, const RIGHT: i32, const GROUPS: usize>(a, b, c, d, word, k)
//!     -> b + ((a + F(b, c, d) + word + k) <<< LEFT)            RIGHT = 32 - LEFT
//! ```
//!
//! The rotation is given both ways because AVX2 has no rotate instruction, only
//! two shifts, and stable Rust cannot compute one const generic from another.

/// Expands to the 64 steps on the variables `$a $b $c $d`; `$m` holds the
/// sixteen words of the block and `$f $g $h $i` are the kernel's step functions.
///
/// A macro and not a generic function over a trait: the step functions carry
/// `#[target_feature]`, which the methods of a trait cannot, and only between
/// functions of the same features is inlining certain.
macro_rules! md5_rounds {
    ($f:ident $g:ident $h:ident $i:ident, $a:ident $b:ident $c:ident $d:ident, $m:ident) => {
        // A pair is [index of the message word, additive constant T[i]].
        md5_rounds!(@round $f, [$a $b $c $d], $m, [7 25] [12 20] [17 15] [22 10],
            [0 0xd76a_a478] [1 0xe8c7_b756] [2 0x2420_70db] [3 0xc1bd_ceee]
            [4 0xf57c_0faf] [5 0x4787_c62a] [6 0xa830_4613] [7 0xfd46_9501]
            [8 0x6980_98d8] [9 0x8b44_f7af] [10 0xffff_5bb1] [11 0x895c_d7be]
            [12 0x6b90_1122] [13 0xfd98_7193] [14 0xa679_438e] [15 0x49b4_0821]);
        md5_rounds!(@round $g, [$a $b $c $d], $m, [5 27] [9 23] [14 18] [20 12],
            [1 0xf61e_2562] [6 0xc040_b340] [11 0x265e_5a51] [0 0xe9b6_c7aa]
            [5 0xd62f_105d] [10 0x0244_1453] [15 0xd8a1_e681] [4 0xe7d3_fbc8]
            [9 0x21e1_cde6] [14 0xc337_07d6] [3 0xf4d5_0d87] [8 0x455a_14ed]
            [13 0xa9e3_e905] [2 0xfcef_a3f8] [7 0x676f_02d9] [12 0x8d2a_4c8a]);
        md5_rounds!(@round $h, [$a $b $c $d], $m, [4 28] [11 21] [16 16] [23 9],
            [5 0xfffa_3942] [8 0x8771_f681] [11 0x6d9d_6122] [14 0xfde5_380c]
            [1 0xa4be_ea44] [4 0x4bde_cfa9] [7 0xf6bb_4b60] [10 0xbebf_bc70]
            [13 0x289b_7ec6] [0 0xeaa1_27fa] [3 0xd4ef_3085] [6 0x0488_1d05]
            [9 0xd9d4_d039] [12 0xe6db_99e5] [15 0x1fa2_7cf8] [2 0xc4ac_5665]);
        md5_rounds!(@round $i, [$a $b $c $d], $m, [6 26] [10 22] [15 17] [21 11],
            [0 0xf429_2244] [7 0x432a_ff97] [14 0xab94_23a7] [5 0xfc93_a039]
            [12 0x655b_59c3] [3 0x8f0c_cc92] [10 0xffef_f47d] [1 0x8584_5dd1]
            [8 0x6fa8_7e4f] [15 0xfe2c_e6e0] [6 0xa301_4314] [13 0x4e08_11a1]
            [4 0xf753_7e82] [11 0xbd3a_f235] [2 0x2ad7_d2bb] [9 0xeb86_d391]);
    };

    // Each step writes the variable that is first in turn; after four steps the
    // roles of a, b, c, d are back where they were.
    (@round $step:ident, [$a:ident $b:ident $c:ident $d:ident], $m:ident,
        $r0:tt $r1:tt $r2:tt $r3:tt, $($k0:tt $k1:tt $k2:tt $k3:tt)+) => {
        $(
            md5_rounds!(@step $step, [$a $b $c $d], $m, $r0, $k0);
            md5_rounds!(@step $step, [$d $a $b $c], $m, $r1, $k1);
            md5_rounds!(@step $step, [$c $d $a $b], $m, $r2, $k2);
            md5_rounds!(@step $step, [$b $c $d $a], $m, $r3, $k3);
        )+
    };

    (@step $step:ident, [$a:ident $b:ident $c:ident $d:ident], $m:ident,
        [$left:literal $right:literal], [$word:literal $k:literal]) => {
        $a = $step::<$left, $right, _>($a, $b, $c, $d, $m[$word], $k);
    };
}
