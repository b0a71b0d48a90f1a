//! The key of [`Source::state_digest`](super::Source::state_digest): a secret of this installation and the receiver's name.
//!
//! A receiver resumes a partial file of an earlier session if the digest of the source's state is the same. Without a
//! secret, anyone with a copy of the file could store other bytes at the receiver under that digest. The receiver's name makes the digests
//! that one receiver learns useless at another.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::digest::Md5;
use crate::error_code::in_words;
use crate::sys::stat::{FileStat, FileType};
use crate::sys::{self, process};

const SECRET_BYTES: usize = 32;
type Secret = [u8; SECRET_BYTES];

/// The key for one receiver. The secret is read, or created, when it is first needed.
#[derive(Debug)]
pub struct StateKey {
    /// The file with the secret; `None` if this user has no home directory.
    path: Option<PathBuf>,
    receiver: String,
    secret: OnceLock<Secret>,
}

impl StateKey {
    /// The key for a receiver with this name.
    pub fn new(receiver: &str) -> Self {
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state_dir = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
        Self::at(state_dir.map(|dir| dir.join("ftx/state-key")), receiver)
    }

    /// A key that is not stored.
    #[cfg(test)]
    pub fn of_this_process() -> Self {
        Self::at(None, "receiver")
    }

    fn at(path: Option<PathBuf>, receiver: &str) -> Self {
        let receiver = receiver.trim_end_matches('.').to_ascii_lowercase();
        StateKey { path, receiver, secret: OnceLock::new() }
    }

    /// The keyed digest of `text`. If the secret cannot be stored, this process uses one of its own, and passes the reason to
    /// `report`, once.
    pub fn digest(&self, text: &str, report: impl FnOnce(&str)) -> Md5 {
        let secret = self.secret.get_or_init(|| match self.load() {
            Ok(secret) => secret,
            Err(error) => {
                report(&in_words(&error));
                process::random_bytes().unwrap_or_default()
            }
        });
        let keyed = |text: &[u8]| Md5::of(&[secret.as_slice(), text].concat());
        // Twice, as in HMAC: the digest of a longer text cannot be derived from that of a shorter one.
        keyed(keyed(format!("{}\0{text}", self.receiver).as_bytes()).as_bytes())
    }

    fn load(&self) -> io::Result<Secret> {
        let path = self.path.as_deref().ok_or_else(|| io::Error::other("there is no home folder"))?;
        if let Some(secret) = read(path)? {
            return Ok(secret);
        }
        let dir = path.parent().unwrap_or(Path::new("/"));
        sys::dir::create_private_all(dir)?;
        let secret = process::random_bytes()?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(&secret)?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            Ok(_) => Ok(secret),
            // Another process created one meanwhile, or the existing one is not valid.
            Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => match read(path)? {
                Some(existing) => Ok(existing),
                None => failed.file.persist(path).map(|_| secret).map_err(|failed| failed.error),
            },
            Err(failed) => Err(failed.error),
        }
    }
}

/// Reads a stored secret; `None` if there is none, if other users could read or write it, or if it has the wrong size.
fn read(path: &Path) -> io::Result<Option<Secret>> {
    let mut file = match sys::file::open_without_link(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let stat = FileStat::of(&file)?;
    let is_private = stat.mode & 0o077 == 0 && stat.is_own();
    let has_size = stat.stamp.size_bytes == SECRET_BYTES as u64;
    if stat.file_type != FileType::File || !is_private || !has_size {
        return Ok(None);
    }
    let mut secret = [0; SECRET_BYTES];
    file.read_exact(&mut secret)?;
    Ok(Some(secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    fn digest(path: &Path, receiver: &str) -> Md5 {
        let key = StateKey::at(Some(path.to_owned()), receiver);
        key.digest("text", |why| panic!("{why}"))
    }

    #[test]
    fn digests_differ_between_receivers_and_installations() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a/b/state-key"), dir.path().join("other"));
        let nas = digest(&path, "nas");
        assert_eq!([digest(&path, "nas"), digest(&path, "NAS.")], [nas; 2]);
        assert_ne!(digest(&path, "nas2"), nas);
        assert_ne!(digest(&other, "nas"), nas, "another installation");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let key = StateKey::at(Some(path), "nas");
        assert_ne!(key.digest("texu", |_| {}), nas);
    }

    #[test]
    fn a_secret_that_other_users_can_read_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state-key");
        let first = digest(&path, "nas");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let second = digest(&path, "nas");
        assert_ne!(first, second);
        fs::write(&path, "short").unwrap();
        assert!(![first, second].contains(&digest(&path, "nas")));
        assert_eq!(digest(&path, "nas"), digest(&path, "nas"), "it is stored from then on");
    }

    #[test]
    fn processes_that_start_together_share_one_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state-key");
        let digests: Vec<Md5> = thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| digest(&path, "nas"))).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(digests.iter().all(|digest| *digest == digests[0]));
    }

    #[test]
    fn a_secret_that_cannot_be_stored_is_reported_once() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("state-key");
        fs::create_dir(&blocked).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
        for path in [None, Some(blocked), Some(dir.path().join("link"))] {
            let key = StateKey::at(path, "nas");
            let reports = RefCell::new(Vec::new());
            let report = |why: &str| reports.borrow_mut().push(why.to_owned());
            let first = key.digest("text", report);
            assert_eq!(key.digest("text", report), first, "the same in this process");
            assert_eq!(reports.borrow().len(), 1, "{reports:?}");
        }
    }
}
