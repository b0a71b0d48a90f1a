//! Journals of staged files, from which an interrupted transfer is resumed.

use std::time::Duration;

use crate::recv::native::files::InboundFiles;

/// How often verified parts are recorded in the journals: a crash costs no more than this.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);

/// Syncs staged files and records their verified parts; with `close`, for the last time. A file whose bytes cannot be synced
/// fails, because its journal would name parts that are not on the disk.
pub fn checkpoint(files: &InboundFiles<'_>, close: bool) {
    for checkpoint in files.table.take_records(close) {
        if let Err(error) = checkpoint.journal.record(&checkpoint.written, &checkpoint.records, close) {
            files.fail_file(checkpoint.id, &error);
        }
    }
}
