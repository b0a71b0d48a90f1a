//! The content of a staged or an existing file.

use std::fs::File;
use std::io;
use std::sync::{Arc, OnceLock};

use super::sticky_sync::StickySync;
use crate::dest::error::StoreError;
use crate::digest::PartRange;
use crate::sys;
use crate::sys::stat::FileStat;

/// Blocks of zeros of this size are not written to a sparse file: the size of a page and of most file systems' blocks.
const HOLE_BLOCK_BYTES: usize = 4096;
/// Bytes that are read at once to look for anything but zeros.
const ZERO_CHUNK_BYTES: usize = 256 << 10;
/// Zeros that are written at once where no hole can be made.
const MAX_ZEROS_BYTES: u64 = 1 << 20;

/// An open file, with its time of modification once it is complete.
#[derive(Debug)]
pub struct StagedBytes {
    pub file: File,
    sealed_mtime: OnceLock<(i64, i64)>,
    sync: StickySync,
}

impl StagedBytes {
    pub fn new(file: File) -> Self {
        StagedBytes { file, sealed_mtime: OnceLock::new(), sync: StickySync::default() }
    }

    /// Syncs data and metadata; an error on every call after the first failure.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.sync.run(|| sys::file::sync(&self.file)).map_err(StoreError::io("sync the file"))
    }

    /// Remembers the time of modification: nothing may be written from now on.
    pub fn seal(&self) -> Result<(), StoreError> {
        let mtime = self.mtime()?;
        self.sealed_mtime.get_or_init(|| mtime);
        Ok(())
    }

    fn mtime(&self) -> Result<(i64, i64), StoreError> {
        let stat = FileStat::of(&self.file).map_err(StoreError::io("examine the file"))?;
        Ok(stat.stamp.mtime)
    }
}

/// The content of a file, for threads that write or verify it. It stays readable when the file loses its name.
#[derive(Clone, Debug)]
pub struct SyncedFile(Arc<StagedBytes>);

impl SyncedFile {
    pub(super) fn new(bytes: Arc<StagedBytes>) -> Self {
        SyncedFile(bytes)
    }

    /// Of an existing file that was last modified at `mtime`.
    pub(super) fn existing(file: File, mtime: (i64, i64)) -> Self {
        SyncedFile(Arc::new(StagedBytes { sealed_mtime: mtime.into(), ..StagedBytes::new(file) }))
    }

    /// The open file, for the kernel to copy into.
    pub(crate) fn file(&self) -> &File {
        &self.0.file
    }

    /// Bytes that it occupies on the disk; 0 if unknown.
    pub(super) fn allocated_bytes(&self) -> u64 {
        FileStat::of(&self.0.file).map_or(0, |stat| stat.allocated_bytes)
    }

    /// Syncs the data; an error on every call after the first failure.
    pub(super) fn sync_data(&self) -> Result<(), StoreError> {
        self.0.sync.run(|| sys::file::sync_data(&self.0.file)).map_err(StoreError::io("sync the file"))
    }

    /// Checks that the file was not written to after it was complete.
    pub(crate) fn check_unchanged(&self) -> Result<(), StoreError> {
        let sealed = self.0.sealed_mtime.get();
        if sealed.is_none_or(|sealed| self.0.mtime().is_ok_and(|now| now == *sealed)) {
            return Ok(());
        }
        let source = io::Error::other("another process wrote to it");
        Err(StoreError::Io { doing: "read the received file", source })
    }

    /// Fills `buffer` from an offset.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        sys::file::read_exact_at(&self.0.file, buffer, offset)
            .map_err(|source| StoreError::Io { doing: "read back the received bytes", source })
    }

    /// Writes bytes at an offset.
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        sys::file::write_all_at(&self.0.file, bytes, offset)
            .map_err(|source| StoreError::Io { doing: "write the file", source })
    }

    /// Writes bytes at an offset, but no blocks of zeros: a fresh sparse file consists of zeros.
    pub(crate) fn write_sparse_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        // Blocks are aligned in the file, not in `bytes`.
        let misaligned = (offset % HOLE_BLOCK_BYTES as u64) as usize;
        let first = ((HOLE_BLOCK_BYTES - misaligned) % HOLE_BLOCK_BYTES).min(bytes.len());
        let blocks = [&bytes[..first]].into_iter().chain(bytes[first..].chunks(HOLE_BLOCK_BYTES));
        let (mut start, mut end) = (0, 0);
        for block in blocks {
            if block.iter().all(|byte| *byte == 0) {
                if start < end {
                    self.write_at(&bytes[start..end], offset + start as u64)?;
                }
                start = end + block.len();
            }
            end += block.len();
        }
        if start < end { self.write_at(&bytes[start..end], offset + start as u64) } else { Ok(()) }
    }

    /// Makes a range zeros, as a hole if possible.
    pub(crate) fn clear(&self, range: PartRange) -> Result<(), StoreError> {
        let punched = sys::file::punch_hole(&self.0.file, range.offset, range.len);
        if punched.map_err(StoreError::io("make a hole in the file"))? {
            return Ok(());
        }
        let zeros = vec![0; range.len.min(MAX_ZEROS_BYTES) as usize];
        let end = range.offset + range.len;
        (range.offset..end).step_by(zeros.len().max(1)).try_for_each(|offset| {
            let len = (end - offset).min(zeros.len() as u64) as usize;
            self.write_at(&zeros[..len], offset)
        })
    }

    /// Does the file contain the whole range, and only zeros in it? Holes are not read.
    pub(crate) fn is_zero(&self, range: PartRange) -> bool {
        let has_range = self.0.file.metadata().is_ok_and(|file| file.len() >= range.offset + range.len);
        has_range && is_zero(&self.0.file, range).unwrap_or(false)
    }
}

/// Does a range of a file contain only zeros? The range behind the end of the file counts as zeros.
pub fn is_zero(file: &File, range: PartRange) -> io::Result<bool> {
    let mut buffer = vec![0; ZERO_CHUNK_BYTES];
    let (mut offset, end) = (range.offset, range.offset + range.len);
    while offset < end {
        match sys::file::next_data(file, offset) {
            Ok(Some(data)) if data < end => offset = data,
            Ok(_) => return Ok(true),
            // The file system does not report holes.
            Err(_) => {}
        }
        let chunk = &mut buffer[..(end - offset).min(ZERO_CHUNK_BYTES as u64) as usize];
        sys::file::read_exact_at(file, chunk, offset)?;
        if chunk.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        offset += chunk.len() as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn blocks_of_zeros_are_not_written_wherever_a_piece_begins() {
        // Every other block is one of zeros.
        let block = |number: usize| [(number % 2) as u8; HOLE_BLOCK_BYTES];
        let whole: Vec<u8> = (0..64).flat_map(block).collect();
        let file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile()).unwrap();
        file.set_len(whole.len() as u64).unwrap();
        let bytes = SyncedFile::new(Arc::new(StagedBytes::new(file)));
        let mut offset = 0;
        for piece in [1, 4095, 4097, 10_000, 3, usize::MAX] {
            let piece = &whole[offset..offset + piece.min(whole.len() - offset)];
            bytes.write_sparse_at(piece, offset as u64).unwrap();
            offset += piece.len();
        }
        let mut read = vec![9; whole.len()];
        bytes.read_at(&mut read, 0).unwrap();
        assert!(read == whole);
        let allocated = bytes.file().metadata().unwrap().blocks() * 512;
        let most = (whole.len() / 2 + HOLE_BLOCK_BYTES) as u64;
        assert!(allocated <= most, "{allocated} bytes of {}", whole.len());
    }
}
