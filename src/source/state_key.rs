//! The key of [`Source::state_digest`](super::Source::state_digest): a secret of this installation and the receiver's name.
//!
//! A receiver goes on with what an earlier session left of a file if the digest of the source's state is the same. Without
//! a secret in it, anyone who knows the file could leave other bytes there under that digest. With the receiver's name in
//! it, what one receiver has learnt of a file is of no use at another.

use std::fs::{self, DirBuilder};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::digest::Md5;
use crate::error_code::in_words;

const SECRET_BYTES: usize = 32;
type Secret = [u8; SECRET_BYTES];

/// See the module's page. The secret is read, or made, when it is first needed.
#[derive(Debug)]
pub struct StateKey {
    /// Where the secret is kept; `None` where this user has no place for it.
    path: Option<PathBuf>,
    receiver: String,
    secret: OnceLock<Secret>,
}

impl StateKey {
    /// For files that go to a receiver of this name.
    pub fn new(receiver: &str) -> Self {
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
        Self::at(state.map(|state| state.join("ftx/state-key")), receiver)
    }

    /// One that is not kept anywhere.
    #[cfg(test)]
    pub fn of_this_process() -> Self {
        Self::at(None, "receiver")
    }

    fn at(path: Option<PathBuf>, receiver: &str) -> Self {
        let receiver = receiver.trim_end_matches('.').to_ascii_lowercase();
        StateKey { path, receiver, secret: OnceLock::new() }
    }

    /// The keyed digest of `text`. Where the secret cannot be kept, it is one of this process alone, and `tell` gets the
    /// reason, once.
    pub fn digest(&self, text: &str, tell: impl FnOnce(&str)) -> Md5 {
        let secret = self.secret.get_or_init(|| match self.load() {
            Ok(secret) => secret,
            Err(error) => {
                tell(&in_words(&error));
                random().unwrap_or_default()
            }
        });
        let keyed = |text: &[u8]| Md5::of(&[secret.as_slice(), text].concat());
        // Twice, as in HMAC: the digest of a longer text does not follow from that of a shorter one.
        keyed(keyed(format!("{}\0{text}", self.receiver).as_bytes()).as_bytes())
    }

    fn load(&self) -> io::Result<Secret> {
        let path = self.path.as_deref().ok_or_else(|| io::Error::other("there is no home folder"))?;
        if let Some(secret) = read(path)? {
            return Ok(secret);
        }
        let folder = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let made = random()?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&made)?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            Ok(_) => Ok(made),
            // Another process made one meanwhile, or one that does not count is in the way.
            Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => match read(path)? {
                Some(secret) => Ok(secret),
                None => failed.file.persist(path).map(|_| made).map_err(|failed| failed.error),
            },
            Err(failed) => Err(failed.error),
        }
    }
}

fn random() -> io::Result<Secret> {
    let mut secret = [0; SECRET_BYTES];
    getrandom(&mut secret, GetRandomFlags::empty())?;
    Ok(secret)
}

/// The secret that is kept there; `None` if there is none, or one that others could read or write, or not a whole one.
fn read(path: &Path) -> io::Result<Option<Secret>> {
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32;
    let mut file = match fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    let is_private = metadata.mode() & 0o077 == 0 && metadata.uid() == rustix::process::geteuid().as_raw();
    if !metadata.is_file() || !is_private || metadata.len() != SECRET_BYTES as u64 {
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
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    fn digest(path: &Path, receiver: &str) -> Md5 {
        let key = StateKey::at(Some(path.to_owned()), receiver);
        key.digest("text", |why| panic!("{why}"))
    }

    #[test]
    fn it_is_the_same_for_one_receiver_and_no_other() {
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
    fn a_secret_that_others_could_know_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state-key");
        let first = digest(&path, "nas");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let second = digest(&path, "nas");
        assert_ne!(first, second);
        fs::write(&path, "short").unwrap();
        assert!(![first, second].contains(&digest(&path, "nas")));
        assert_eq!(digest(&path, "nas"), digest(&path, "nas"), "it is kept from then on");
    }

    #[test]
    fn processes_that_start_together_agree() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state-key");
        let digests: Vec<Md5> = thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| digest(&path, "nas"))).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(digests.iter().all(|digest| *digest == digests[0]));
    }

    #[test]
    fn where_it_cannot_be_kept_that_is_said_once() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("state-key");
        fs::create_dir(&blocked).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
        for path in [None, Some(blocked), Some(dir.path().join("link"))] {
            let key = StateKey::at(path, "nas");
            let told = RefCell::new(Vec::new());
            let tell = |why: &str| told.borrow_mut().push(why.to_owned());
            let first = key.digest("text", tell);
            assert_eq!(key.digest("text", tell), first, "this process knows it");
            assert_eq!(told.borrow().len(), 1, "{told:?}");
        }
    }
}
