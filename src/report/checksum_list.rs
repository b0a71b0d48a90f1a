//! The lists of `--md5sum` and `--manifest`: the same lines, on standard output and in a file.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::manifest::{Manifest, ManifestError, ManifestLines, WriteMode};
use crate::app::args::ListArgs;

/// Where lines go.
#[derive(Debug, Default)]
pub struct ChecksumOutputs {
    to_stdout: bool,
    manifest: Option<Manifest>,
    /// The lines of a session that is over, where only a good end makes them the new list.
    waiting: Mutex<Option<SessionLines>>,
    /// Standard output takes no more.
    stdout_ended: Mutex<bool>,
}

/// What a session has collected for the manifest; an error is told when it is over.
#[derive(Debug)]
pub struct SessionLines(io::Result<ManifestLines>);

impl ChecksumOutputs {
    /// What `args` ask for.
    pub fn new(args: &ListArgs, earlier: WriteMode) -> Result<Self, ManifestError> {
        let prepare = |path: &Path| Manifest::prepare(path, earlier);
        let manifest = args.manifest.as_deref().map(prepare).transpose()?;
        Ok(ChecksumOutputs { to_stdout: args.md5sum, manifest, ..ChecksumOutputs::default() })
    }

    /// Does standard output belong to the list?
    pub fn own_stdout(&self) -> bool {
        self.to_stdout
    }

    /// Is there a manifest?
    pub fn has_manifest(&self) -> bool {
        self.manifest.is_some()
    }

    /// Is there one that stays as it was unless everything comes to a good end?
    pub fn is_replaced_at_the_end(&self) -> bool {
        self.manifest.as_ref().is_some_and(|manifest| manifest.mode() == WriteMode::Replace)
    }

    /// Prints a line. An error is for the caller to tell, and comes once. A reader that has read enough is none.
    pub fn print(&self, line: &[u8]) -> io::Result<()> {
        let mut ended = lock(&self.stdout_ended);
        if !self.to_stdout || *ended {
            return Ok(());
        }
        let printed = io::stdout().lock().write_all(line);
        *ended = printed.is_err();
        match printed {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            printed => printed,
        }
    }

    /// Adds a line to what a session has collected so far.
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

    /// A session is over. A receiver's lines are what they are; a sender's wait for a good end.
    pub fn session_over(&self, lines: Option<SessionLines>) -> Result<(), ManifestError> {
        match (&self.manifest, lines) {
            (Some(manifest), Some(SessionLines(lines))) if manifest.mode() == WriteMode::Append => {
                manifest.take(lines)
            }
            (_, lines) => {
                *lock(&self.waiting) = lines;
                Ok(())
            }
        }
    }

    /// The session that is over came to a good end: its lines, or none, are the new list.
    pub fn replace(&self) -> Result<(), ManifestError> {
        let Some(manifest) = &self.manifest else {
            return Ok(());
        };
        let waiting = lock(&self.waiting).take();
        manifest.take(waiting.map_or_else(|| manifest.lines(), |SessionLines(lines)| lines))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
