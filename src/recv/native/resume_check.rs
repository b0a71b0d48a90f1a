//! Reads the recorded parts of a partial file again and requests those that differ.

use crate::dest::local::SyncedFile;
use crate::digest::{Md5, PartLayout, digest_ranges};
use crate::recv::native::files::InboundFiles;
use crate::recv::native::work::ResumeCheck;

/// Parts that are read together.
const WINDOW: usize = 16;

/// Keeps those recorded parts that the staged file really has, and requests the others.
pub fn check(files: &InboundFiles<'_>, check: ResumeCheck) {
    let ResumeCheck { id, layout, written, mut digests } = check;
    let recorded = digests.count();
    // A hole is checked by one look-up, however many parts it has.
    let holes: Vec<_> = digests.holes().collect();
    for (first, parts) in holes {
        if !written.is_zero(layout.run(first, parts)) {
            digests.remove(first..=first + parts - 1);
        }
    }
    let parts: Vec<u64> = digests.parts().map(|(part, _)| part).collect();
    for window in parts.chunks(WINDOW) {
        for (&part, actual) in window.iter().zip(digests_of(&written, layout, window)) {
            if actual.is_none() || actual != digests.get(part) {
                digests.remove(part..=part);
            }
        }
    }
    files.request_missing(id, layout, digests, recorded);
}

/// The digests of parts of a staged file; `None` for a part that cannot be read, as in a truncated file.
fn digests_of(written: &SyncedFile, layout: PartLayout, parts: &[u64]) -> Vec<Option<Md5>> {
    let ranges: Vec<_> = parts.iter().filter_map(|&part| layout.range(part)).collect();
    match digest_ranges(&ranges, |_, buffer, offset| written.read_at(buffer, offset)) {
        Ok(digests) => digests.into_iter().map(Some).collect(),
        Err(_) if parts.len() == 1 => vec![None],
        Err(_) => parts.iter().flat_map(|part| digests_of(written, layout, &[*part])).collect(),
    }
}
