//! A file that landed, or was there, read from its start to its end for its MD5.

use crate::fault::Fault;
use crate::md5sum::{self, Unread};
use crate::store::{ExistingFile, StoreError, Written};

/// Its bytes as they are on this side, and what to open when its turn comes if it was there before.
pub struct Whole {
    bytes: Option<Written>,
    existing: Option<ExistingFile>,
}

impl Whole {
    /// In arrival, or arrived: read through the landing's handle, whatever name it has by then.
    pub fn landed(bytes: Option<Written>) -> Self {
        Whole { bytes, existing: None }
    }

    /// There before, and compared.
    pub fn there(file: &ExistingFile) -> Self {
        Whole { bytes: None, existing: Some(file.clone()) }
    }

    fn bytes(&mut self) -> Result<&Written, Unread> {
        let opened = match (self.bytes.take(), &self.existing) {
            (Some(bytes), _) => bytes,
            (None, Some(file)) => file.bytes().map_err(unread)?,
            (None, None) => {
                return Err(Unread { fault: Fault::Other, reason: "it was closed already".into() });
            }
        };
        Ok(self.bytes.insert(opened))
    }
}

impl md5sum::Whole for Whole {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), Unread> {
        self.bytes()?.read_at(buffer, offset).map_err(unread)
    }

    fn check(&mut self) -> Result<(), Unread> {
        self.bytes()?.check_unchanged().map_err(unread)
    }
}

fn unread(error: StoreError) -> Unread {
    Unread { fault: error.fault(), reason: error.to_string() }
}
