//! The file of `--manifest`, written atomically and durably.
//!
//! The lines of a session are collected in an unnamed file in the manifest's folder, so that no listing or transfer of
//! that folder shows them and a crash leaves nothing. At the end of the session they are committed:
//!
//! | command | commit | after a crash |
//! | --- | --- | --- |
//! | `ftx send` | a copy under a hidden name, synced, renamed over the manifest | the old list or the new one |
//! | `ftx recv` | appended, synced; cut off again if that fails | the list, and perhaps the first lines of a session |

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::escape::Escaped;
use crate::sync::lock;
use crate::sys::permissions;

/// How new lines are written to an existing list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// They replace it.
    Replace,
    /// They are appended.
    Append,
}

/// The manifest cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the list {}: {source}", Escaped::new(path.as_os_str().as_encoded_bytes()))]
pub struct ManifestError {
    path: PathBuf,
    source: io::Error,
}

/// The list and where it is.
#[derive(Debug)]
pub struct Manifest {
    path: PathBuf,
    folder: PathBuf,
    mode: WriteMode,
    /// Serialises the commits of concurrent sessions.
    append_lock: Mutex<()>,
}

impl Manifest {
    /// Checks, before the transfer, that the list can be written to `path`.
    ///
    /// # Errors
    ///
    /// It cannot.
    pub fn prepare(path: &Path, mode: WriteMode) -> Result<Self, ManifestError> {
        // A symbolic link stays, and its target is the list.
        let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        let folder = parent.unwrap_or(Path::new(".")).to_owned();
        let manifest = Manifest { path: target, folder, mode, append_lock: Mutex::new(()) };
        manifest.check_writable().map_err(|source| ManifestError { path: path.to_owned(), source })?;
        Ok(manifest)
    }

    /// How new lines are written.
    pub fn mode(&self) -> WriteMode {
        self.mode
    }

    fn check_writable(&self) -> io::Result<()> {
        match fs::metadata(&self.path) {
            Ok(metadata) if metadata.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(metadata) if !metadata.is_file() => return Err(io::Error::other("it is not a regular file")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.lines()?;
        if self.mode == WriteMode::Append {
            self.open()?;
        }
        Ok(())
    }

    /// An empty collection for the lines of one session.
    ///
    /// # Errors
    ///
    /// No file can be created in the folder of the list.
    pub fn lines(&self) -> io::Result<ManifestLines> {
        Ok(ManifestLines { file: BufWriter::new(tempfile::tempfile_in(&self.folder)?) })
    }

    /// Writes the lines of a session to the list and syncs it.
    ///
    /// # Errors
    ///
    /// The collection failed before, or the list cannot be written.
    pub fn commit(&self, lines: io::Result<ManifestLines>) -> Result<(), ManifestError> {
        let _guard = lock(&self.append_lock);
        let committed = lines.and_then(ManifestLines::rewind).and_then(|lines| match self.mode {
            WriteMode::Replace => self.replace(lines),
            WriteMode::Append => self.append(lines),
        });
        committed.map_err(|source| ManifestError { path: self.path.clone(), source })
    }

    fn replace(&self, mut lines: impl Read) -> io::Result<()> {
        let mode = fs::metadata(&self.path).ok().map(|old| old.permissions());
        let new = tempfile::Builder::new()
            .prefix(".ftx-")
            .permissions(permissions::new_file())
            .tempfile_in(&self.folder)?;
        if let Some(mode) = mode {
            new.as_file().set_permissions(mode)?;
        }
        io::copy(&mut lines, &mut new.as_file())?;
        new.as_file().sync_all()?;
        new.persist(&self.path)?;
        self.sync_folder()
    }

    fn append(&self, mut lines: impl Read) -> io::Result<()> {
        let mut list = self.open()?;
        let old_bytes = list.metadata()?.len();
        let appended = (|| {
            if !ends_a_line(&mut list)? {
                // A crash truncated the last line: begin a new one.
                list.write_all(b"\n")?;
            }
            io::copy(&mut lines, &mut list)?;
            list.sync_all()
        })();
        if appended.is_err() {
            // Remove a partly written session. The error is reported even if this fails.
            let _ = list.set_len(old_bytes);
        }
        appended
    }

    fn open(&self) -> io::Result<File> {
        let is_new = !self.path.exists();
        let list = OpenOptions::new().read(true).append(true).create(true).open(&self.path)?;
        if is_new {
            self.sync_folder()?;
        }
        Ok(list)
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

fn ends_a_line(list: &mut File) -> io::Result<bool> {
    if list.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    list.seek(SeekFrom::End(-1))?;
    list.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// The lines collected in a session.
#[derive(Debug)]
pub struct ManifestLines {
    file: BufWriter<File>,
}

impl ManifestLines {
    /// Adds a line, which ends with a line feed.
    ///
    /// # Errors
    ///
    /// The write failed.
    pub fn add(&mut self, line: &[u8]) -> io::Result<()> {
        self.file.write_all(line)
    }

    fn rewind(self) -> io::Result<BufReader<File>> {
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(BufReader::new(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn lines(manifest: &Manifest, text: &str) -> io::Result<ManifestLines> {
        let mut lines = manifest.lines()?;
        lines.add(text.as_bytes())?;
        Ok(lines)
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn replacing_keeps_links_permissions_and_the_old_list_until_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        fs::write(&path, "old\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("list", dir.path().join("link")).unwrap();
        let manifest = Manifest::prepare(&dir.path().join("link"), WriteMode::Replace).unwrap();
        let collected = lines(&manifest, "new\n");
        assert_eq!(names(dir.path()), ["link", "list"], "the collected lines have no name");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old\n");
        manifest.commit(collected).unwrap();
        assert_eq!(names(dir.path()), ["link", "list"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(dir.path().join("link")).unwrap().is_symlink());
    }

    #[test]
    fn sessions_are_appended_and_a_truncated_line_stays_separate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        let manifest = Manifest::prepare(&path, WriteMode::Append).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "", "it exists from the start");
        manifest.commit(lines(&manifest, "one\n")).unwrap();
        manifest.commit(lines(&manifest, "two\n")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        fs::write(&path, "one\ntw").unwrap();
        manifest.commit(lines(&manifest, "three\n")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntw\nthree\n");
        fs::remove_file(&path).unwrap();
        manifest.commit(lines(&manifest, "four\n")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "four\n", "after log rotation");
    }

    #[test]
    fn an_unwritable_list_is_found_before_the_transfer() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        for mode in [WriteMode::Replace, WriteMode::Append] {
            for bad in ["", "no/such/folder", "file/below"] {
                let path = dir.path().join(bad);
                let error = Manifest::prepare(&path, mode).unwrap_err().to_string();
                assert!(error.starts_with("cannot write the list "), "{error}");
            }
            let error = Manifest::prepare(Path::new("/dev/null"), mode).unwrap_err().to_string();
            assert_eq!(error, "cannot write the list /dev/null: it is not a regular file");
        }
        assert_eq!(names(dir.path()), ["file"]);
    }
}
