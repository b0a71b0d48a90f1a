//! The file of `--manifest`: never half a list, never a lost one.
//!
//! The lines of a session are collected in a file without a name beside the manifest, so that a folder that is being
//! sent or received never shows it and a crash leaves nothing. At the end of the session they go where they belong:
//!
//! | | how | a crash leaves |
//! | --- | --- | --- |
//! | `ftx send` | a copy under a hidden name, synced, renamed over the manifest | the old list or the new one |
//! | `ftx recv` | appended, synced; cut off again if that fails | the list, and perhaps the first lines of a session |

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::escape::Escaped;

/// What becomes of the list that was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// The new list takes its place.
    Replace,
    /// The new lines come after it.
    Append,
}

/// The manifest cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the list {}: {source}", Escaped::new(path.as_os_str().as_encoded_bytes()))]
pub struct ManifestError {
    path: PathBuf,
    source: io::Error,
}

/// Where the list goes.
#[derive(Debug)]
pub struct Manifest {
    path: PathBuf,
    folder: PathBuf,
    mode: WriteMode,
    /// One session at a time adds its lines.
    append_lock: Mutex<()>,
}

impl Manifest {
    /// Finds out, before anything moves, whether the list can be written to `path`.
    pub fn prepare(path: &Path, earlier: WriteMode) -> Result<Self, ManifestError> {
        // A link stays a link to the list.
        let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        let folder = parent.unwrap_or(Path::new(".")).to_owned();
        let manifest = Manifest { path: target, folder, mode: earlier, append_lock: Mutex::new(()) };
        manifest.check_writable().map_err(|source| ManifestError { path: path.to_owned(), source })?;
        Ok(manifest)
    }

    /// What becomes of the list that was there.
    pub fn mode(&self) -> WriteMode {
        self.mode
    }

    fn check_writable(&self) -> io::Result<()> {
        match fs::metadata(&self.path) {
            Ok(metadata) if metadata.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(metadata) if !metadata.is_file() => return Err(io::Error::other("it is no regular file")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.lines()?;
        if self.mode == WriteMode::Append {
            self.open()?;
        }
        Ok(())
    }

    /// A place for the lines of one session.
    pub fn lines(&self) -> io::Result<ManifestLines> {
        Ok(ManifestLines { file: BufWriter::new(tempfile::tempfile_in(&self.folder)?) })
    }

    /// Takes over the lines of a session, durably.
    pub fn take(&self, lines: io::Result<ManifestLines>) -> Result<(), ManifestError> {
        let _guard = self.append_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = lines.and_then(ManifestLines::rewind).and_then(|lines| match self.mode {
            WriteMode::Replace => self.replace(lines),
            WriteMode::Append => self.append(lines),
        });
        taken.map_err(|source| ManifestError { path: self.path.clone(), source })
    }

    fn replace(&self, mut lines: impl Read) -> io::Result<()> {
        let mode = fs::metadata(&self.path).ok().map(|old| old.permissions());
        let new = tempfile::Builder::new()
            .prefix(".ftx-")
            // Less the umask, like any new file.
            .permissions(fs::Permissions::from_mode(0o666))
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
                // A line that a crash cut: what comes now must not become part of it.
                list.write_all(b"\n")?;
            }
            io::copy(&mut lines, &mut list)?;
            list.sync_all()
        })();
        if appended.is_err() {
            // Half a session is worse than none; if even this fails, the error says so all the same.
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

/// The lines of a session that goes on.
#[derive(Debug)]
pub struct ManifestLines {
    file: BufWriter<File>,
}

impl ManifestLines {
    /// Adds a line.
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
    fn a_list_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        fs::write(&path, "old\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("list", dir.path().join("link")).unwrap();
        let manifest = Manifest::prepare(&dir.path().join("link"), WriteMode::Replace).unwrap();
        let collected = lines(&manifest, "new\n");
        assert_eq!(names(dir.path()), ["link", "list"], "what is collected has no name");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old\n");
        manifest.take(collected).unwrap();
        assert_eq!(names(dir.path()), ["link", "list"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(dir.path().join("link")).unwrap().is_symlink());
    }

    #[test]
    fn sessions_are_added_and_a_cut_line_stays_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        let manifest = Manifest::prepare(&path, WriteMode::Append).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "", "it is there from the start");
        manifest.take(lines(&manifest, "one\n")).unwrap();
        manifest.take(lines(&manifest, "two\n")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        fs::write(&path, "one\ntw").unwrap();
        manifest.take(lines(&manifest, "three\n")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntw\nthree\n");
        fs::remove_file(&path).unwrap();
        manifest.take(lines(&manifest, "four\n")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "four\n", "somebody rotates it");
    }

    #[test]
    fn what_cannot_be_a_list_is_found_out_first() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        for earlier in [WriteMode::Replace, WriteMode::Append] {
            for bad in ["", "no/such/folder", "file/below"] {
                let path = dir.path().join(bad);
                let error = Manifest::prepare(&path, earlier).unwrap_err().to_string();
                assert!(error.starts_with("cannot write the list "), "{error}");
            }
            let error = Manifest::prepare(Path::new("/dev/null"), earlier).unwrap_err().to_string();
            assert_eq!(error, "cannot write the list /dev/null: it is no regular file");
        }
        assert_eq!(names(dir.path()), ["file"]);
    }
}
