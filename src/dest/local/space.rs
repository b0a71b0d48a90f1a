//! Free space, reserved for announced files before their first byte.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bytes::SyncedFile;
use super::dir::Dir;
use super::dir_tree::DirTree;
use super::staged::StagedFile;
use crate::dest::error::StoreError;
use crate::relpath::RelPath;
use crate::sys::{Errno, process};

/// No space is reserved for smaller files: receiving their bytes costs no more than the check.
const MIN_RESERVED_BYTES: u64 = 1 << 20;
/// For other sessions, a file occupies the space that it will fill within this time at its present rate. So a sender that
/// announces hundreds of gigabytes and sends nothing blocks no other.
const RATE_HORIZON: Duration = Duration::from_secs(60);
/// The shortest time over which that rate is taken.
const MIN_RATE_WINDOW: Duration = Duration::from_secs(1);

/// The space that all sessions of this process reserved. Each session has a clone of its own.
#[derive(Clone, Debug, Default)]
pub struct SpaceLedger {
    reservations: Arc<Mutex<Reservations>>,
    session: u64,
}

#[derive(Debug, Default)]
struct Reservations {
    sessions: u64,
    next: u64,
    by_number: BTreeMap<u64, Reservation>,
}

#[derive(Debug)]
struct Reservation {
    session: u64,
    device: u64,
    size_bytes: u64,
    /// The staged file, once it exists.
    staged: Option<StagedSize>,
}

/// How a staged file grows.
#[derive(Debug)]
struct StagedSize {
    bytes: SyncedFile,
    since: Instant,
    /// What it occupied then.
    before_bytes: u64,
}

impl StagedSize {
    fn new(bytes: SyncedFile) -> Self {
        let before_bytes = bytes.allocated_bytes();
        StagedSize { bytes, since: Instant::now(), before_bytes }
    }
}

impl Reservation {
    /// What the file will still occupy.
    fn outstanding_bytes(&self) -> u64 {
        let allocated_bytes = self.staged.as_ref().map_or(0, |staged| staged.bytes.allocated_bytes());
        self.size_bytes.saturating_sub(allocated_bytes)
    }

    /// What is not available to a session: everything outstanding to its own, and to others what will be written soon.
    fn kept_from(&self, session: u64, now: Instant) -> u64 {
        if self.session == session {
            return self.outstanding_bytes();
        }
        let Some(staged) = &self.staged else { return 0 };
        let allocated_bytes = staged.bytes.allocated_bytes();
        let written_bytes = u128::from(allocated_bytes.saturating_sub(staged.before_bytes));
        let time = now.saturating_duration_since(staged.since).max(MIN_RATE_WINDOW);
        let soon_bytes = written_bytes * RATE_HORIZON.as_millis() / time.as_millis();
        self.size_bytes.saturating_sub(allocated_bytes).min(soon_bytes.try_into().unwrap_or(u64::MAX))
    }
}

impl SpaceLedger {
    /// The same ledger, for a new session.
    pub fn for_session(&self) -> SpaceLedger {
        let mut reservations = self.lock();
        reservations.sessions += 1;
        SpaceLedger { reservations: Arc::clone(&self.reservations), session: reservations.sessions }
    }

    fn lock(&self) -> MutexGuard<'_, Reservations> {
        self.reservations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`LocalSession::reserve`](super::LocalSession::reserve). `None` for little space, and where the free space is
    /// unknown.
    pub fn reserve(
        &self,
        tree: &DirTree,
        path: &RelPath,
        size_bytes: u64,
        left: Option<&StagedFile>,
    ) -> Result<Option<SpaceReservation>, StoreError> {
        check_size_limit(size_bytes)?;
        let staged = left.and_then(StagedFile::written).map(StagedSize::new);
        let mut reservation = Reservation { session: self.session, device: 0, size_bytes, staged };
        let needs_bytes = reservation.outstanding_bytes();
        if needs_bytes < MIN_RESERVED_BYTES {
            return Ok(None);
        }
        let Some(dir) = nearest_existing_dir(tree, path.split().0) else { return Ok(None) };
        let Ok(is_read_only) = dir.handle.is_on_read_only_fs() else { return Ok(None) };
        if is_read_only {
            return Err(StoreError::io("create the file")(Errno::ROFS));
        }
        if let Err(errno @ (Errno::ACCESS | Errno::ROFS)) = dir.handle.check_writable() {
            return Err(StoreError::io("create the file")(errno));
        }
        reservation.device = dir.id.device;
        let mut reservations = self.lock();
        if let Some(available_bytes) = dir.handle.exact_available_bytes() {
            // Before the staged files are examined: what is written in between counts as free, and never twice.
            let reserved_bytes = reservations.kept_from(self.session, dir.id.device);
            let free_bytes = available_bytes.saturating_sub(reserved_bytes);
            if needs_bytes > free_bytes {
                return Err(StoreError::NoSpace { needs_bytes, free_bytes });
            }
        }
        let number = reservations.next;
        reservations.next += 1;
        reservations.by_number.insert(number, reservation);
        drop(reservations);
        Ok(Some(SpaceReservation { ledger: self.clone(), number }))
    }
}

impl Reservations {
    /// What is reserved on a file system and not available to a session.
    fn kept_from(&self, session: u64, device: u64) -> u64 {
        let now = Instant::now();
        let here = self.by_number.values().filter(|reservation| reservation.device == device);
        here.map(|reservation| reservation.kept_from(session, now)).fold(0, u64::saturating_add)
    }
}

/// The space of one file, reserved until this is dropped.
#[derive(Debug)]
pub struct SpaceReservation {
    ledger: SpaceLedger,
    number: u64,
}

impl SpaceReservation {
    /// Attaches the staged file of the reservation: what is written to it is occupied, and no longer reserved.
    pub(crate) fn attach(&self, staged: Option<SyncedFile>) {
        if let Some(reservation) = self.ledger.lock().by_number.get_mut(&self.number) {
            reservation.staged = staged.map(StagedSize::new);
        }
    }
}

impl Drop for SpaceReservation {
    fn drop(&mut self) {
        self.ledger.lock().by_number.remove(&self.number);
    }
}

/// Checks the size of a file against the limit of this process (`RLIMIT_FSIZE`).
pub fn check_size_limit(size_bytes: u64) -> Result<(), StoreError> {
    match process::max_file_bytes() {
        Some(max_bytes) if size_bytes > max_bytes => Err(StoreError::io("create the file")(Errno::FBIG)),
        _ => Ok(()),
    }
}

/// The directory at `path` or the nearest existing one above it; `None` if an error hides it.
fn nearest_existing_dir(tree: &DirTree, mut path: &[u8]) -> Option<Arc<Dir>> {
    loop {
        match tree.open(path) {
            Ok(dir) => return Some(dir),
            Err(Errno::NOENT) if !path.is_empty() => {
                path = &path[..path.iter().rposition(|&b| b == b'/').unwrap_or(0)];
            }
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dest::OnConflict;
    use crate::dest::local::{ImplicitDirs, LocalDestination};
    use crate::relpath::NamePolicy;

    fn path(name: &str) -> RelPath {
        RelPath::new(name.as_bytes(), NamePolicy::Strict).unwrap()
    }

    #[test]
    fn reserved_space_is_not_reserved_again_and_written_bytes_are_not_counted_twice() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = LocalDestination::open(dir.path(), OnConflict::SkipSame).unwrap();
        let mut session = root.session(ImplicitDirs::Private).unwrap();
        let mut other = root.session(ImplicitDirs::Private).unwrap();
        let existing_dir = nearest_existing_dir(&session.tree, b"not/there").unwrap();
        let Some(available) = existing_dir.handle.exact_available_bytes() else {
            panic!("the file system in memory has no limit");
        };
        // Other tests use it as well: shares are large, with space between them.
        let share = available / 10;
        assert!(matches!(
            session.reserve(&path("a"), 3 * available, None),
            Err(StoreError::NoSpace { needs_bytes, .. }) if needs_bytes == 3 * available
        ));
        let six = session.reserve(&path("not/there/a"), 6 * share, None).unwrap().unwrap();
        assert!(matches!(session.reserve(&path("b"), 6 * share, None), Err(StoreError::NoSpace { .. })));
        let three = session.reserve(&path("b"), 3 * share, None).unwrap().unwrap();
        // For another session only what will be written soon counts.
        drop(other.reserve(&path("c"), 6 * share, None).unwrap().unwrap());
        let begun = session.land(&path("a"), 6 * share).unwrap();
        six.attach(begun.written());
        begun.write_at(&[1; 4096], 0).unwrap();
        drop(other.reserve(&path("c"), 6 * share, None).unwrap().unwrap());
        let kept_from = |session_number: u64, seconds: u64| {
            let reservations = session.ledger.lock();
            let reservation = reservations.by_number.values().next().unwrap();
            let since = reservation.staged.as_ref().unwrap().since;
            reservation.kept_from(session_number, since + Duration::from_secs(seconds))
        };
        let (own, of_other) = (session.ledger.session, other.ledger.session);
        assert_eq!([1, 3600].map(|seconds| kept_from(own, seconds)), [6 * share - 4096; 2]);
        assert_eq!(
            [0, 1, 2, 60].map(|seconds| kept_from(of_other, seconds)),
            [60, 60, 30, 1].map(|n| n * 4096)
        );
        assert_eq!(kept_from(of_other, 1_000_000), 0);
        assert!(matches!(session.reserve(&path("b"), 6 * share, None), Err(StoreError::NoSpace { .. })));
        drop(six);
        let six = session.reserve(&path("c"), 6 * share, None).unwrap().unwrap();
        drop((three, six));
        assert!(session.ledger.lock().by_number.is_empty());
        let eight = session.reserve(&path("d"), 8 << 20, None).unwrap().unwrap();
        let staged = session.land(&path("d"), 8 << 20).unwrap();
        eight.attach(staged.written());
        staged.write_at(&vec![1; 3 << 20], 0).unwrap();
        let outstanding =
            session.ledger.lock().by_number.values().map(Reservation::outstanding_bytes).sum::<u64>();
        assert_eq!(outstanding, 5 << 20);
        assert!(session.reserve(&path("small"), MIN_RESERVED_BYTES - 1, None).unwrap().is_none());
    }
}
