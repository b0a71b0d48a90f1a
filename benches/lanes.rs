//! MD5 of many messages in lanes against the crate `md-5`: `cargo bench --bench lanes`.

use divan::Bencher;
use divan::counter::BytesCount;
use ftx::digest::{Md5, digest_many};
use md5::Digest as _;

/// (messages, bytes of each)
const SHAPES: [(usize, usize); 6] =
    [(16, 64 << 10), (16, 8 << 20), (10_000, 4 << 10), (10_000, 100), (4, 64 << 10), (1, 64 << 10)];

fn main() {
    divan::main();
}

fn messages((count, bytes): (usize, usize)) -> Vec<Vec<u8>> {
    (0..count).map(|number| (0..bytes).map(|n| (n * 31 + number) as u8).collect()).collect()
}

#[divan::bench(args = SHAPES)]
fn lanes(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let messages = messages(shape);
    let slices: Vec<&[u8]> = messages.iter().map(|message| &message[..]).collect();
    bencher.counter(BytesCount::new(shape.0 * shape.1)).bench(|| digest_many(&slices));
}

#[divan::bench(args = SHAPES)]
fn crate_md5(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    let messages = messages(shape);
    bencher.counter(BytesCount::new(shape.0 * shape.1)).bench(|| {
        messages
            .iter()
            .map(|message| Md5::from(<[u8; 16]>::from(md5::Md5::digest(message))))
            .collect::<Vec<_>>()
    });
}
