//! The lists of `--md5sum` and `--manifest`: the same lines, on standard output and in a file.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

use super::manifest::{Manifest, ManifestError, ManifestLines, WriteMode};
use crate::sync::lock;

/// Where the lines of the lists go.
#[derive(Debug, Default)]
pub struct ChecksumOutputs {
    to_stdout: bool,
    manifest: Option<Manifest>,
    /// Lines of the finished session, until [`ChecksumOutputs::replace`] makes them the new list.
    finished: Mutex<Option<SessionLines>>,
    /// Standard output failed or was closed.
    stdout_closed: Mutex<bool>,
}

/// Lines of one session for the manifest, or the error that stopped the collection. It is reported at the end.
#[derive(Debug)]
pub struct SessionLines(io::Result<ManifestLines>);

impl ChecksumOutputs {
    /// Opens the lists.
    ///
    /// # Errors
    ///
    /// The manifest cannot be written.
    pub fn new(to_stdout: bool, manifest: Option<&Path>, mode: WriteMode) -> Result<Self, ManifestError> {
        let manifest = manifest.map(|path| Manifest::prepare(path, mode)).transpose()?;
        Ok(ChecksumOutputs { to_stdout, manifest, ..ChecksumOutputs::default() })
    }

    /// Whether standard output carries the list.
    pub fn own_stdout(&self) -> bool {
        self.to_stdout
    }

    /// Whether there is any list.
    pub fn is_wanted(&self) -> bool {
        self.to_stdout || self.manifest.is_some()
    }

    /// Whether there is a manifest that changes only when the session succeeds.
    pub fn is_replaced_at_the_end(&self) -> bool {
        self.manifest.as_ref().is_some_and(|manifest| manifest.mode() == WriteMode::Replace)
    }

    /// Prints a line on standard output, if that carries the list.
    ///
    /// # Errors
    ///
    /// The first failed write, once; later calls do nothing. A closed pipe is no error: its reader has read enough.
    pub fn print(&self, line: &[u8]) -> io::Result<()> {
        let mut closed = lock(&self.stdout_closed);
        if !self.to_stdout || *closed {
            return Ok(());
        }
        let printed = io::stdout().lock().write_all(line);
        *closed = printed.is_err();
        match printed {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            printed => printed,
        }
    }

    /// Adds a line to the collected lines of a session, if there is a manifest.
    pub fn collect(&self, line: &[u8], collected: &Mutex<Option<SessionLines>>) {
        let Some(manifest) = &self.manifest else {
            return;
        };
        let mut collected = lock(collected);
        let SessionLines(lines) = collected.get_or_insert_with(|| SessionLines(manifest.lines()));
        if let Ok(open) = lines
            && let Err(error) = open.add(line)
        {
            *lines = Err(error);
        }
    }

    /// A session ended. A receiver appends its lines to the manifest; a sender keeps them for
    /// [`ChecksumOutputs::replace`].
    ///
    /// # Errors
    ///
    /// The manifest cannot be written.
    pub fn session_over(&self, lines: Option<SessionLines>) -> Result<(), ManifestError> {
        match (&self.manifest, lines) {
            (Some(manifest), Some(SessionLines(lines))) if manifest.mode() == WriteMode::Append => {
                manifest.commit(lines)
            }
            (_, lines) => {
                *lock(&self.finished) = lines;
                Ok(())
            }
        }
    }

    /// The sender's session succeeded: its lines, even if there are none, become the new list.
    ///
    /// # Errors
    ///
    /// The manifest cannot be written.
    pub fn replace(&self) -> Result<(), ManifestError> {
        let Some(manifest) = &self.manifest else {
            return Ok(());
        };
        let finished = lock(&self.finished).take();
        manifest.commit(finished.map_or_else(|| manifest.lines(), |SessionLines(lines)| lines))
    }
}
