//! The names of the files that a receiver makes for itself. Nothing else is ever removed.
//!
//! | name | file |
//! | --- | --- |
//! | `.ftx-<16 hex digits>-<number>` | staged by one session, whose digits these are |
//! | `.ftx-part-<32 hex digits>` | staged and resumable; the digits follow from the final name and the source version |
//! | `.ftx-part-<32 hex digits>.journal` | its journal |
//! | `.ftx-part-<32 hex digits>.journal.new` | a journal that will replace it |

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::dest::SourceVersion;
use crate::digest::Md5;
use crate::relpath::RESERVED_PREFIX;
use crate::sync;
use crate::sys::{Errno, process};

const RANDOM_BYTES: usize = 8;
const STAGED_PREFIX: &str = ".ftx-part-";
const DIGEST_DIGITS: usize = 32;
pub const JOURNAL_SUFFIX: &str = ".journal";
/// Behind the name of a journal: the name of the one that will replace it.
pub const NEW_SUFFIX: &str = ".new";

/// Unpredictable names with the digits of one session. While a clone exists, the session's files are in use.
#[derive(Clone, Debug)]
pub struct TempNames(Arc<SessionNames>);

#[derive(Debug)]
struct SessionNames {
    digits: Box<str>,
    next: AtomicU64,
    live: LiveSessions,
}

/// The digits of all sessions of this process.
#[derive(Clone, Debug, Default)]
pub struct LiveSessions(Arc<Mutex<HashSet<Box<str>>>>);

impl LiveSessions {
    fn lock(&self) -> MutexGuard<'_, HashSet<Box<str>>> {
        sync::lock(&self.0)
    }
}

impl Drop for SessionNames {
    fn drop(&mut self) {
        self.live.lock().remove(&self.digits);
    }
}

impl TempNames {
    pub fn new(live: &LiveSessions) -> Result<Self, Errno> {
        let digits: Box<str> = hex::encode(process::random_bytes::<RANDOM_BYTES>()?).into();
        live.lock().insert(digits.clone());
        Ok(TempNames(Arc::new(SessionNames { digits, next: AtomicU64::new(0), live: live.clone() })))
    }

    pub fn next(&self) -> Box<str> {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        format!("{}{}-{number}", String::from_utf8_lossy(RESERVED_PREFIX), self.0.digits).into()
    }

    /// Is it a name of a session of this process that has not ended?
    pub fn is_live(&self, name: &str) -> bool {
        session_digits(name).is_some_and(|digits| self.0.live.lock().contains(digits))
    }
}

/// The digits of the session that made a name.
fn session_digits(name: &str) -> Option<&str> {
    let (digits, number) = name.strip_prefix(std::str::from_utf8(RESERVED_PREFIX).ok()?)?.split_once('-')?;
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    (is_number && digits.len() == 2 * RANDOM_BYTES && is_hex(digits)).then_some(digits)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl SourceVersion {
    /// The name of the staged file for this version of the file `name`.
    pub fn staged_name(self, name: &[u8]) -> String {
        let mtime = self.mtime.map_or_else(|| "-".to_owned(), |mtime| mtime.0.to_string());
        let text = format!("{} {} {mtime} {}", hex::encode(name), self.size_bytes, self.state);
        format!("{STAGED_PREFIX}{}", Md5::of(text.as_bytes()))
    }
}

/// The names of the staged file and of the journal for one version of the file `name`.
pub fn resumable_names(name: &[u8], version: SourceVersion) -> (Box<str>, Box<str>) {
    let staged = version.staged_name(name);
    let journal = format!("{staged}{JOURNAL_SUFFIX}");
    (staged.into(), journal.into())
}

/// The kinds of names in the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnName<'a> {
    /// A file staged by one session.
    Private,
    /// A resumable staged file.
    Resumable,
    /// A journal, or one that will replace it, of the staged file with this name.
    Journal(&'a str),
}

impl<'a> OwnName<'a> {
    /// `None` for every name that no receiver makes.
    pub fn parse(name: &'a str) -> Option<Self> {
        if let Some((digest, suffix)) = name
            .strip_prefix(STAGED_PREFIX)
            .and_then(|rest| rest.split_at_checked(DIGEST_DIGITS))
            .filter(|(digest, _)| is_hex(digest))
        {
            return match suffix.strip_prefix(JOURNAL_SUFFIX) {
                None => suffix.is_empty().then_some(OwnName::Resumable),
                Some("" | NEW_SUFFIX) => Some(OwnName::Journal(&name[..STAGED_PREFIX.len() + digest.len()])),
                Some(_) => None,
            };
        }
        session_digits(name).map(|_| OwnName::Private)
    }
}
