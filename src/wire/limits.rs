//! The numbers that both ends of a native session must agree on. `docs/protocol.md` lists them.

/// The protocol version that this crate supports.
pub const VERSION: u32 = 1;

/// Entries that may be announced and not yet settled. It bounds the memory of both ends. It is far more than a receiver
/// collects before it commits a batch, so that neither end waits for the other, even over a link with a long round trip.
pub const MAX_ENTRIES_IN_FLIGHT: usize = 16 << 10;

/// An entry may be announced while the names and link targets in flight have fewer bytes than this.
pub const MAX_NAME_BYTES_IN_FLIGHT: usize = 2 << 20;

/// Files up to this size are small: hundreds of them fit into memory, and they may be sent unasked before the `welcome`.
pub const SMALL_FILE_BYTES: u64 = 128 << 10;

/// A part that arrives damaged this many times in a row fails its entry.
pub const MAX_TRIES_A_PART: u32 = 3;

/// The largest size of one `measure`.
pub const MAX_MEASURE_BYTES: u64 = 1 << 30;

/// The number of `measure` frames in one session. Finding the speed of the wire takes several.
pub const MAX_MEASURES: u32 = 16;

/// A receiver sends `kept` for a file with at most this many digests and this many runs of zeros, which is enough for 1 TiB.
pub const MAX_KEPT_DIGESTS: usize = 1 << 17;

/// Digests and runs from `kept` that a sender holds for all entries in flight. Further ones are not compared.
pub const MAX_KEPT_IN_FLIGHT: usize = 1 << 20;

/// Entries in one `stored` with etags, so that the frame stays below its limit for any numbers.
pub const MAX_ETAGS_A_FRAME: usize = 512;

/// Digests in one `kept`, so that the frame stays below its limit.
pub const MAX_DIGESTS_A_FRAME: usize = 1024;

/// Bytes of the message in an `error` frame; a longer one is truncated.
pub const MAX_SENTENCE_BYTES: usize = 1024;

/// The largest size of a file on any system: the largest signed 64-bit offset.
pub const MAX_FILE_BYTES: u64 = i64::MAX as u64;

/// Separate runs of zeros of one file that may arrive before the parts between them, which take longer. The receiver
/// holds the runs in memory.
pub const MAX_HOLES_AHEAD: usize = 1024;
