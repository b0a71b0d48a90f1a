//! Which message sits in which lane, and for how many blocks the kernel may run.
//!
//! ```text
//!  list of work                 lanes                        one turn
//!  m0 ████████████████          0  ████████┊███▒             count = the shortest
//!  m1 ██████            ──▶     1  ██████▒ ┊ m4 ...          run of blocks among
//!  m2 ███████████               2  ████████┊██▒              the lanes; the kernel
//!  m3 ██                        3  ██▒ m5 ...                takes so many blocks
//!  ...                          █ blocks  ▒ padding          of every lane at once
//! ```
//!
//! A lane whose message is used up takes the next one from the list; when the list
//! is empty, the last lane in use moves into the gap. The lanes beyond read the run
//! of lane 0 a second time and their result is dropped: only the caller's data is
//! read, and an idle lane costs no memory traffic.

/// The input of one call of the compression function.
pub(super) type Block = [u8; 64];

/// Chaining variables a, b, c, d of one message.
pub(super) type ChainState = [u32; 4];

/// Lanes of every kernel.
pub(super) const LANES: usize = 16;

/// Chaining variables of all lanes: row a, row b, row c, row d.
pub(super) type Columns = [[u32; LANES]; 4];

/// The remaining blocks of each lane.
pub(super) type Runs<'a> = [&'a [Block]; LANES];

/// A compression function for all lanes at once.
pub(super) trait Compress: Copy {
    /// With at most this many lanes in use, the scalar code is faster (measured).
    const SCALAR_LANES: usize;

    /// Takes the first `count` blocks of every run into its column. Only the first
    /// `active` columns are in use; the others may take any value.
    fn compress(self, columns: &mut Columns, runs: &Runs<'_>, count: usize, active: usize);
}

/// Length of the shortest run.
#[inline]
pub(super) fn shortest(runs: &Runs<'_>) -> usize {
    runs.iter().fold(usize::MAX, |least, run| least.min(run.len()))
}

/// The part of a message that a lane is working on.
#[derive(Clone, Copy, PartialEq)]
enum LaneStage {
    /// The block that begins with bytes of an earlier call.
    Head,
    /// The blocks in the caller's slice.
    Body,
    /// The last bytes with the padding.
    Padding,
}

/// One message and the blocks of it that remain.
pub(super) struct Lane<'a> {
    /// Where the chaining variables come from and go back to.
    state: Option<&'a mut ChainState>,
    stage: LaneStage,
    /// Blocks left in this stage.
    left: usize,
    body: &'a [Block],
    /// Copied blocks: the head, then one or two with the padding.
    copied: [Block; 3],
    heads: usize,
    paddings: usize,
}

impl<'a> Lane<'a> {
    pub(super) fn new() -> Self {
        Self {
            state: None,
            stage: LaneStage::Head,
            left: 0,
            body: &[],
            copied: [[0; 64]; 3],
            heads: 0,
            paddings: 0,
        }
    }

    /// Begins with a message that has no blocks yet.
    pub(super) fn begin(&mut self, state: &'a mut ChainState) {
        self.state = Some(state);
        (self.heads, self.paddings, self.body) = (0, 0, &[]);
    }

    /// Puts `block` before all others.
    pub(super) fn set_head(&mut self, block: &Block) {
        self.copied[0] = *block;
        self.heads = 1;
    }

    pub(super) fn set_body(&mut self, body: &'a [Block]) {
        self.body = body;
    }

    /// RFC 1321, 3.1 and 3.2: a one bit, zeros up to 56 bytes modulo 64, and the
    /// length of the message in bits.
    pub(super) fn set_padding(&mut self, tail: &[u8], length: u64) {
        self.paddings = if tail.len() < 56 { 1 } else { 2 };
        let padding = &mut self.copied[1..=self.paddings];
        padding.fill([0; 64]);
        padding[0][..tail.len()].copy_from_slice(tail);
        padding[0][tail.len()] = 0x80;
        let bits = length.wrapping_mul(8).to_le_bytes();
        padding[self.paddings - 1][56..].copy_from_slice(&bits);
    }

    /// Enters the first stage that has blocks; false if there is none.
    fn enter(&mut self) -> bool {
        self.stage = LaneStage::Head;
        self.left = self.heads;
        self.left > 0 || self.next_stage()
    }

    fn next_stage(&mut self) -> bool {
        while self.left == 0 {
            (self.stage, self.left) = match self.stage {
                LaneStage::Head => (LaneStage::Body, self.body.len()),
                LaneStage::Body => (LaneStage::Padding, self.paddings),
                LaneStage::Padding => return false,
            };
        }
        true
    }

    /// The blocks of this stage.
    fn run(&self) -> &[Block] {
        match self.stage {
            LaneStage::Head => &self.copied[..1],
            LaneStage::Body => self.body,
            LaneStage::Padding => &self.copied[1 + self.paddings - self.left..=self.paddings],
        }
    }

    /// Steps over `count` blocks of this stage; false at the end of the message.
    fn advance(&mut self, count: usize) -> bool {
        self.left -= count;
        if self.stage == LaneStage::Body {
            self.body = &self.body[count..];
        }
        self.left > 0 || self.next_stage()
    }

    /// Processes the rest without a kernel.
    fn finish(&mut self) {
        let Some(state) = self.state.take() else {
            return;
        };
        loop {
            md5::block_api::compress(state, self.run());
            if !self.advance(self.left) {
                return;
            }
        }
    }
}

/// Fills `lane` with the next message that has any block; false if none is left.
fn refill<'a>(lane: &mut Lane<'a>, next: &mut impl FnMut(&mut Lane<'a>) -> bool) -> bool {
    while next(lane) {
        if lane.enter() {
            return true;
        }
    }
    false
}

fn load(columns: &mut Columns, column: usize, lane: &Lane<'_>) {
    if let Some(state) = &lane.state {
        for (row, &word) in columns.iter_mut().zip(state.iter()) {
            row[column] = word;
        }
    }
}

fn store(columns: &Columns, column: usize, lane: &mut Lane<'_>) {
    if let Some(state) = &mut lane.state {
        for (row, word) in columns.iter().zip(state.iter_mut()) {
            *word = row[column];
        }
    }
}

/// Hashes all messages that `next` puts into a lane, many at a time.
pub(super) fn run_lanes<'a, K: Compress>(kernel: K, mut next: impl FnMut(&mut Lane<'a>) -> bool) {
    let mut lanes: Vec<Lane<'a>> = Vec::with_capacity(LANES);
    let mut columns: Columns = [[0; LANES]; 4];
    while lanes.len() < LANES {
        let mut lane = Lane::new();
        if !refill(&mut lane, &mut next) {
            break;
        }
        load(&mut columns, lanes.len(), &lane);
        lanes.push(lane);
    }
    while lanes.len() > K::SCALAR_LANES {
        let mut runs: Runs<'_> = [lanes[0].run(); LANES];
        for (run, lane) in runs.iter_mut().zip(&lanes) {
            *run = lane.run();
        }
        let count = shortest(&runs);
        kernel.compress(&mut columns, &runs, count, lanes.len());

        let mut at = 0;
        while at < lanes.len() {
            if lanes[at].advance(count) {
                at += 1;
                continue;
            }
            store(&columns, at, &mut lanes[at]);
            if refill(&mut lanes[at], &mut next) {
                load(&mut columns, at, &lanes[at]);
                at += 1;
            } else {
                lanes.swap_remove(at);
                for row in &mut columns {
                    row[at] = row[lanes.len()];
                }
            }
        }
    }
    for (at, lane) in lanes.iter_mut().enumerate() {
        store(&columns, at, lane);
        lane.finish();
    }
}

/// Hashes all messages one after the other.
pub(super) fn run_scalar<'a>(mut next: impl FnMut(&mut Lane<'a>) -> bool) {
    let mut lane = Lane::new();
    while refill(&mut lane, &mut next) {
        lane.finish();
    }
}
