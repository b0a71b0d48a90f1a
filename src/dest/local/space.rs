//! Is there room for a file that wants to come? Told before its first byte, where it can be known.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Access, AtFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::dir_tree::Dir;
use super::staged::{StagedFile, SyncedFile};
use super::{LocalSession, StoreError};
use crate::relpath::RelPath;

/// Smaller files are not worth the question: it takes as long to have their bytes thrown away.
const WORTH_ASKING_BYTES: u64 = 1 << 20;

/// File systems on which a file of so many bytes takes at least so much room, and on which statfs(2) tells what there
/// is: no compression, no deduplication, no machine behind it that knows better. ext2 to ext4, XFS, tmpfs, FAT, exFAT.
const FS_WITH_EXACT_FREE_SPACE: [i64; 5] = [0xef53, 0x5846_5342, 0x0102_1994, 0x4d44, 0x2011_bab0];
/// Bytes in the blocks that fstat(2) counts, on every file system.
const STAT_BLOCK_BYTES: u64 = 512;

/// To other sessions a file takes the room that it will fill in so long if it goes on as fast as it came up to now.
/// Whoever announces hundreds of gigabytes and sends none of them, or few, keeps nobody out.
const RATE_HORIZON: Duration = Duration::from_secs(60);
/// A rate over less time than this says little.
const MIN_RATE_WINDOW: Duration = Duration::from_secs(1);

/// What is promised to files in arrival, by all sessions of this process together.
#[derive(Clone, Debug, Default)]
pub struct SpaceLedger {
    reservations: Arc<Mutex<Reservations>>,
    /// Whose they are.
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
    /// Where it is collected, once that is so.
    staged: Option<StagedSize>,
}

#[derive(Debug)]
struct StagedSize {
    written: SyncedFile,
    since: Instant,
    /// What was there then.
    before_bytes: u64,
}

impl StagedSize {
    fn new(written: SyncedFile) -> Self {
        let mut landed = StagedSize { written, since: Instant::now(), before_bytes: 0 };
        landed.before_bytes = landed.there_bytes();
        landed
    }

    fn there_bytes(&self) -> u64 {
        let stat = rustix::fs::fstat(self.written.file());
        stat.map_or(0, |stat| stat.st_blocks as u64 * STAT_BLOCK_BYTES)
    }
}

impl Reservation {
    /// What it will still take.
    fn outstanding_bytes(&self) -> u64 {
        let there_bytes = self.staged.as_ref().map_or(0, StagedSize::there_bytes);
        self.size_bytes.saturating_sub(there_bytes)
    }

    /// What of that a session does not get: all of it in its own, and in another one what comes soon.
    fn kept_from(&self, session: u64, now: Instant) -> u64 {
        if self.session == session {
            return self.outstanding_bytes();
        }
        let Some(landed) = &self.staged else { return 0 };
        let there_bytes = landed.there_bytes();
        let came_bytes = u128::from(there_bytes.saturating_sub(landed.before_bytes));
        let time = now.saturating_duration_since(landed.since).max(MIN_RATE_WINDOW);
        let soon_bytes = came_bytes * RATE_HORIZON.as_millis() / time.as_millis();
        self.size_bytes.saturating_sub(there_bytes).min(soon_bytes.try_into().unwrap_or(u64::MAX))
    }
}

impl SpaceLedger {
    /// The same rooms, for a session of their own.
    pub fn for_session(&self) -> SpaceLedger {
        let mut reservations = self.lock();
        reservations.sessions += 1;
        SpaceLedger { reservations: Arc::clone(&self.reservations), session: reservations.sessions }
    }

    fn lock(&self) -> MutexGuard<'_, Reservations> {
        self.reservations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The room of a file in arrival: others do not get it until this is dropped.
#[derive(Debug)]
pub struct SpaceReservation {
    ledger: SpaceLedger,
    number: u64,
}

impl SpaceReservation {
    /// The file has its landing: what is written there is not promised any more, it is taken.
    pub fn attach(&self, staged: Option<SyncedFile>) {
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

/// Checks a file of `size_bytes` against the limit on file sizes that this process has (`RLIMIT_FSIZE`).
pub fn check_size_limit(size_bytes: u64) -> Result<(), StoreError> {
    match getrlimit(Resource::Fsize).current {
        Some(most) if size_bytes > most => Err(StoreError::io("create the file")(Errno::FBIG)),
        _ => Ok(()),
    }
}

impl LocalSession {
    /// Promises room to a file of `size_bytes`, all of which will be written, or the rest of which if an earlier session
    /// left a landing; nothing is promised where that is little.
    ///
    /// # Errors
    ///
    /// It certainly does not fit, or the folder where it belongs certainly takes nothing. Where it is not certain, the
    /// file may come, and whatever is wrong shows when it is written.
    pub fn reserve(
        &mut self,
        path: &RelPath,
        size_bytes: u64,
        left: Option<&StagedFile>,
    ) -> Result<Option<SpaceReservation>, StoreError> {
        check_size_limit(size_bytes)?;
        let staged = left.and_then(StagedFile::written).map(StagedSize::new);
        let session = self.ledger.session;
        let mut reservation = Reservation { session, device: 0, size_bytes, staged };
        let needs_bytes = reservation.outstanding_bytes();
        if needs_bytes < WORTH_ASKING_BYTES {
            return Ok(None);
        }
        let Some(folder) = self.nearest_existing_dir(path.split().0) else { return Ok(None) };
        let Ok(space) = rustix::fs::fstatvfs(&folder) else { return Ok(None) };
        if space.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(StoreError::io("create the file")(Errno::ROFS));
        }
        if let Err(errno @ (Errno::ACCESS | Errno::ROFS)) =
            rustix::fs::accessat(&folder, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
        {
            return Err(StoreError::io("create the file")(errno));
        }
        reservation.device = folder.device;
        let mut reservations = self.ledger.lock();
        if let Some(available_bytes) = available_bytes(&folder) {
            // Asked after that: what is written in between counts as free, never as taken twice.
            let (here, now) =
                (|reservation: &&Reservation| reservation.device == folder.device, Instant::now());
            let promised: u64 = reservations
                .by_number
                .values()
                .filter(here)
                .map(|reservation| reservation.kept_from(session, now))
                .fold(0, u64::saturating_add);
            let free_bytes = available_bytes.saturating_sub(promised);
            if needs_bytes > free_bytes {
                return Err(StoreError::NoRoom { needs_bytes, free_bytes });
            }
        }
        let number = reservations.next;
        reservations.next += 1;
        reservations.by_number.insert(number, reservation);
        drop(reservations);
        Ok(Some(SpaceReservation { ledger: self.ledger.clone(), number }))
    }

    /// The folder `dir`, or the nearest one above it that is there; `None` if that cannot be told.
    fn nearest_existing_dir(&mut self, mut dir: &[u8]) -> Option<Arc<Dir>> {
        loop {
            match self.tree.open(dir) {
                Ok(folder) => return Some(folder),
                Err(Errno::NOENT) if !dir.is_empty() => {
                    dir = &dir[..dir.iter().rposition(|&b| b == b'/').unwrap_or(0)];
                }
                Err(_) => return None,
            }
        }
    }
}

/// What this process may still write on a file system; `None` where that is not certain.
fn available_bytes(folder: &Dir) -> Option<u64> {
    let fs = rustix::fs::fstatfs(folder).ok()?;
    // The width of the fields differs from machine to machine.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    let (kind, blocks) = (fs.f_type as i64, u64::from(fs.f_blocks));
    // A tmpfs without a limit says that it has no blocks at all.
    if !FS_WITH_EXACT_FREE_SPACE.contains(&kind) || blocks == 0 {
        return None;
    }
    // What is set aside for the superuser is there for the superuser.
    let is_root = rustix::process::geteuid().is_root();
    let free = if is_root { fs.f_bfree } else { fs.f_bavail };
    Some(free.saturating_mul(fs.f_bsize as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dest::local::{ImplicitDirs, LocalDestination, OnConflict};
    use crate::relpath::NamePolicy;

    fn path(name: &str) -> RelPath {
        RelPath::new(name.as_bytes(), NamePolicy::Strict).unwrap()
    }

    #[test]
    fn what_is_promised_is_not_promised_again_and_what_is_written_is_not_counted_twice() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = LocalDestination::open(dir.path(), OnConflict::SkipSame).unwrap();
        let mut store = root.session(ImplicitDirs::Private).unwrap();
        let mut other = root.session(ImplicitDirs::Private).unwrap();
        let folder = store.nearest_existing_dir(b"not/there").unwrap();
        let Some(available) = available_bytes(&folder) else {
            panic!("this memory has no limit");
        };
        // Other tests use it as well: whole shares of it, with room between them.
        let share = available / 10;
        assert!(matches!(
            store.reserve(&path("a"), 3 * available, None),
            Err(StoreError::NoRoom { needs_bytes, .. }) if needs_bytes == 3 * available
        ));
        let six = store.reserve(&path("not/there/a"), 6 * share, None).unwrap().unwrap();
        assert!(matches!(store.reserve(&path("b"), 6 * share, None), Err(StoreError::NoRoom { .. })));
        let three = store.reserve(&path("b"), 3 * share, None).unwrap().unwrap();
        // To another session only what comes soon counts.
        drop(other.reserve(&path("c"), 6 * share, None).unwrap().unwrap());
        let begun = store.land(&path("a"), 6 * share).unwrap();
        six.attach(begun.written());
        begun.write_at(&[1; 4096], 0).unwrap();
        drop(other.reserve(&path("c"), 6 * share, None).unwrap().unwrap());
        let kept_from = |session: u64, seconds: u64| {
            let reservations = store.ledger.lock();
            let reservation = reservations.by_number.values().next().unwrap();
            let since = reservation.staged.as_ref().unwrap().since;
            reservation.kept_from(session, since + Duration::from_secs(seconds))
        };
        let (own, of_other) = (store.ledger.session, other.ledger.session);
        assert_eq!([1, 3600].map(|seconds| kept_from(own, seconds)), [6 * share - 4096; 2]);
        assert_eq!(
            [0, 1, 2, 60].map(|seconds| kept_from(of_other, seconds)),
            [60, 60, 30, 1].map(|n| n * 4096)
        );
        assert_eq!(kept_from(of_other, 1_000_000), 0);
        assert!(matches!(store.reserve(&path("b"), 6 * share, None), Err(StoreError::NoRoom { .. })));
        drop(six);
        let six = store.reserve(&path("c"), 6 * share, None).unwrap().unwrap();
        drop((three, six));
        assert!(store.ledger.lock().by_number.is_empty());
        let eight = store.reserve(&path("d"), 8 << 20, None).unwrap().unwrap();
        let staged = store.land(&path("d"), 8 << 20).unwrap();
        eight.attach(staged.written());
        staged.write_at(&vec![1; 3 << 20], 0).unwrap();
        let outstanding =
            store.ledger.lock().by_number.values().map(Reservation::outstanding_bytes).sum::<u64>();
        assert_eq!(outstanding, 5 << 20);
        assert!(store.reserve(&path("small"), WORTH_ASKING_BYTES - 1, None).unwrap().is_none());
    }
}
