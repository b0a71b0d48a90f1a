//! A staged or existing file, read from its start to its end for its MD5.

use crate::dest::local::{ExistingFile, StoreError, SyncedFile};
use crate::error_code::ErrorCode;
use crate::md5sum::{self, DigestUnavailable};

/// A staged file by its handle, or an existing file that is opened when it is read.
pub struct ReceivedFile {
    bytes: Option<SyncedFile>,
    existing: Option<ExistingFile>,
}

impl ReceivedFile {
    /// A staged file, read through its handle whatever its name is by then.
    pub fn staged(bytes: Option<SyncedFile>) -> Self {
        ReceivedFile { bytes, existing: None }
    }

    /// An existing file that was compared.
    pub fn existing(file: &ExistingFile) -> Self {
        ReceivedFile { bytes: None, existing: Some(file.clone()) }
    }

    fn bytes(&mut self) -> Result<&SyncedFile, DigestUnavailable> {
        let opened = match (self.bytes.take(), &self.existing) {
            (Some(bytes), _) => bytes,
            (None, Some(file)) => file.bytes().map_err(unread)?,
            (None, None) => {
                return Err(DigestUnavailable {
                    code: ErrorCode::Other,
                    reason: "it was closed already".into(),
                });
            }
        };
        Ok(self.bytes.insert(opened))
    }
}

impl md5sum::HashInput for ReceivedFile {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), DigestUnavailable> {
        self.bytes()?.read_at(buffer, offset).map_err(unread)
    }

    fn check_unchanged(&mut self) -> Result<(), DigestUnavailable> {
        self.bytes()?.check_unchanged().map_err(unread)
    }
}

fn unread(error: StoreError) -> DigestUnavailable {
    DigestUnavailable { code: error.code(), reason: error.to_string() }
}
