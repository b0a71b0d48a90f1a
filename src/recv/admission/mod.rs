//! Who is connected, and who gives way when there are too many.
//!
//! ```text
//! accept ──▶ opening ──first frame understood──▶ served ──▶ gone
//!               │                                  │
//!               └──────────── gives way ───────────┴──────▶ gone, or cut after a second
//! ```
//!
//! A connection whose first frame is not understood yet costs a thread and a descriptor and is worth nothing: when there
//! are too many of them, one that has waited long is closed in favour of a new one. A session that was served and has
//! delivered nothing, or nothing for some time, gives way likewise. Both are taken from the address that has most of them,
//! so that a crowd from one address pushes out itself and nobody else. Whoever does not fit is told so
//! ([`Fault::Busy`](crate::error_code::Fault)).
//!
//! Sessions also hold memory and descriptors, by the entries that they have in flight. Where those run short, the one that
//! was idle with most of them for longest gives way. A sender comes back by itself and goes on where it was.
//!
//! Where sessions are counted, one whose connection was lost is an entry with a deadline until its sender reconnects: it holds
//! no thread and no connection, and there are as many as there are places at most.
//!
//! Senders of the classic dialect cannot be told, and many of them are gone when what they sent is read. So no connection
//! gives way whose first words wait to be read, and sessions of theirs that have sent anything wait for a place and keep it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use crate::net::Peer;
use crate::recv::RecvError;
use crate::recv::failure_log::FailureLog;
use crate::recv::handle::ConnectionHandle;
use crate::sys::descriptors::{max_descriptors, next_descriptor};
use crate::wire::{MAX_ENTRIES_IN_FLIGHT, SessionId};

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Whose first frame is not understood yet.
    pub pending: usize,
    /// Sessions, and the further connections that they may have.
    pub active: usize,
}

/// At most; a system with few descriptors has fewer.
pub const MAX_LIMITS: Limits = Limits { pending: 64, active: 192 };
/// And always at least so many.
const MIN_LIMITS: Limits = Limits { pending: 4, active: 2 };
/// One address may have this part of those that are served.
pub const CLIENT_FRACTION: usize = 2;
/// Further connections are promised to sessions as long as no more than this part of the places is taken or promised.
const RESERVED_FRACTION: usize = 2;

/// The first words of a new connection may be on their way: so long it does not give way.
const HANDSHAKE_GRACE: Duration = Duration::from_millis(250);
/// And so long not one that is understood and waits for a place.
const QUEUE_GRACE: Duration = Duration::from_secs(2);

/// A session that has delivered something is idle after so long without more, or the longest silence where that is less.
/// A slow disk has a part read and hashed by then at either end, and has woken up.
const IDLE_TIME: Duration = Duration::from_secs(15);
/// In flight in all sessions, before those that are idle give way: as many as four sessions may have, in about 75 MB.
pub const MAX_ENTRIES: usize = 4 * MAX_ENTRIES_IN_FLIGHT;
/// And before any gives way.
const HARD_MAX_ENTRIES: usize = 2 * MAX_ENTRIES;
/// So long a connection that gives way may take to say so; after that it is cut.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// Descriptors that are kept for the program itself and for files that arrive.
const RESERVED_DESCRIPTORS: u64 = 144;
/// Descriptors of a session beside its files: its connection, its bell, a pipe for each connection, folders.
const SESSION_DESCRIPTORS: u64 = 8;

/// Threads that are kept for the program itself.
const RESERVED_THREADS: u64 = 8;
/// Threads of a session on one connection: those of `native`, one that waits for the end of the program, and the lister's.
/// A further connection, which has a place like a session, has two.
const SESSION_THREADS: u64 = 9;

/// Who comes in finds this part of all descriptors, enough for its session and a file, if any idle session holds more.
pub const SESSION_FD_FRACTION: u64 = 16;
/// And this part is left by sessions that have some landings already.
pub const PROCESS_FD_FRACTION: u64 = 8;

/// How many threads this process may have: by its user's limit, and by those of its control groups less what they have.
pub fn threads() -> u64 {
    let of_user = getrlimit(Resource::Nproc).current.unwrap_or(u64::MAX);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    of_user.min(threads_in_groups(&groups, Path::new("/sys/fs/cgroup")))
}

/// What the limits in these control groups and those above them leave, in either version of their file system below
/// `root`; cgroups(7). A group that cannot be read has no limit.
fn threads_in_groups(groups: &str, root: &Path) -> u64 {
    let mut most = u64::MAX;
    for handle in groups.lines() {
        let mut parts = handle.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let root = match controllers {
            "" => root.to_owned(),
            _ if controllers.split(',').any(|controller| controller == "pids") => root.join("pids"),
            _ => continue,
        };
        let group = root.join(group.trim_start_matches('/'));
        for group in group.ancestors().take_while(|group| group.starts_with(&root)) {
            let number = |file: &str| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
            if let Some(limit) = number("pids.max") {
                most = most.min(limit.saturating_sub(number("pids.current").unwrap_or(0)));
            }
        }
    }
    most
}

/// Whether less than this part of all descriptors is free; the next one gets the lowest free number.
pub fn fd_headroom_below(part: u64) -> bool {
    let all = max_descriptors();
    next_descriptor().is_none_or(|next| next >= all - all / part)
}

impl Limits {
    /// For a process that may have so many descriptors and threads.
    pub fn new(descriptors: u64, threads: u64) -> Self {
        let between = |least: usize, number: u64, most: usize| (number as usize).clamp(least, most);
        let openings = between(MIN_LIMITS.pending, descriptors.min(threads) / 8, MAX_LIMITS.pending);
        // Each of them has one of either.
        let left = |all: u64, kept: u64| all.saturating_sub(kept + openings as u64);
        let by_descriptors = left(descriptors, RESERVED_DESCRIPTORS) / SESSION_DESCRIPTORS;
        let by_threads = left(threads, RESERVED_THREADS) / SESSION_THREADS;
        Limits {
            pending: openings,
            active: between(MIN_LIMITS.active, by_descriptors.min(by_threads), MAX_LIMITS.active),
        }
    }

    /// All connections, and room for some that are on their way out.
    fn total(self) -> usize {
        self.pending + self.active + self.pending / 2
    }
}

/// There is no place for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtCapacity;

/// The desk, shared by all threads of the receiver.
#[derive(Debug)]
pub struct SharedAdmission {
    control: Mutex<AdmissionControl>,
    changed: Condvar,
}

impl SharedAdmission {
    pub fn new(admission: AdmissionControl) -> Self {
        SharedAdmission { control: Mutex::new(admission), changed: Condvar::new() }
    }

    pub fn lock(&self) -> MutexGuard<'_, AdmissionControl> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it, and wakes the thread that enforces deadlines if there is a nearer one.
    pub fn update<T>(&self, change: impl FnOnce(&mut AdmissionControl) -> T) -> T {
        let mut admission = self.lock();
        let changed = change(&mut admission);
        self.notify_of_deadline(&mut admission);
        changed
    }

    fn notify_of_deadline(&self, admission: &mut AdmissionControl) {
        if std::mem::take(&mut admission.has_new_deadline) {
            self.notify();
        }
    }

    /// Has all threads that wait look again.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits for [`SharedDesk::notify`], or until the time is up.
    pub fn wait<'a>(
        &self,
        mut admission: MutexGuard<'a, AdmissionControl>,
        limit: Option<Duration>,
    ) -> MutexGuard<'a, AdmissionControl> {
        self.notify_of_deadline(&mut admission);
        match limit {
            Some(limit) => {
                self.changed.wait_timeout(admission, limit).unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.changed.wait(admission).unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// See the module's page.
#[derive(Debug)]
pub struct AdmissionControl {
    limits: Limits,
    /// Whoever has delivered nothing for so long is idle.
    pub idle_time: Duration,
    /// Everyone who is connected, by a number that tells who came first.
    connections: BTreeMap<u64, ConnectionEntry>,
    last_number: u64,
    /// Sessions in work; one whose sender has come back is still the same one.
    pub active: u64,
    /// Sessions that have ended.
    pub finished: u64,
    /// Was any of them cut because this program is to end?
    pub interrupted: bool,
    /// Nobody comes in any more.
    closed: bool,
    /// Sessions that count and whose sender may come back, or has.
    resumable: HashMap<SessionId, ResumableSession>,
    /// [`Desk::next_deadline`] may be nearer than it was.
    has_new_deadline: bool,
}

#[derive(Debug)]
struct ResumableSession {
    sender: SenderPresence,
    failures: FailureLog,
}

/// The sender of a session that counts.
#[derive(Debug)]
enum SenderPresence {
    Connected,
    /// Its connection was lost, and nothing is left of it here.
    Lost(LostSession),
    /// It has reconnected before the end of its first connection was noticed.
    Reattached,
}

/// A session whose connection was lost and whose sender may still reconnect. It holds no thread and no connection.
#[derive(Debug)]
pub struct LostSession {
    pub peer: Peer,
    /// How it was lost.
    pub error: Box<RecvError>,
    /// How long its sender has to reconnect, in all.
    pub wait: Duration,
    pub deadline: Instant,
}

#[derive(Debug)]
struct ConnectionEntry {
    handle: ConnectionHandle,
    address: ClientNetwork,
    phase: Phase,
    /// Since when it has been in this stage.
    since: Instant,
    /// Of a session.
    kind: Kind,
    /// Connections of the session, its own included.
    slots: usize,
}

/// Who has a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It waits for answers, and can be told.
    Native,
    /// It may be gone when its words are read.
    Classic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Handshake,
    /// Understood, but there is no place yet.
    Queued,
    Active,
    /// Its session answers for it.
    Joined,
    /// Told to go.
    Evicting,
    /// It was not gone in time: its connection is closed, and its thread ends.
    Closed,
}

/// Whom connections are counted for: an IPv4 address, or the 64 bits of an IPv6 address that tell the network, because a
/// host in it may have as many of the others as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ClientNetwork([u8; 8]);

impl ClientNetwork {
    fn of(peer: &Peer) -> Self {
        match peer {
            Peer::Ip(address) => ClientNetwork::of_address(address.ip()),
            // No network begins with these bytes either.
            Peer::Unix { uid, .. } => {
                let [a, b, c, d] = uid.to_le_bytes();
                ClientNetwork([0, 0, 0, 1, a, b, c, d])
            }
        }
    }

    fn of_address(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            // No network begins with zeros; `::1` is an address of its own.
            IpAddr::V4(four) => {
                let [a, b, c, d] = four.octets();
                ClientNetwork([0, 0, 0, 4, a, b, c, d])
            }
            IpAddr::V6(six) => {
                let [a, b, c, d, e, f, g, h, ..] = six.octets();
                ClientNetwork([a, b, c, d, e, f, g, h])
            }
        }
    }
}

impl AdmissionControl {
    /// For peers that may be silent for so long.
    pub fn new(limits: Limits, timeout: Duration) -> Self {
        AdmissionControl {
            limits,
            idle_time: timeout.min(IDLE_TIME),
            connections: BTreeMap::new(),
            last_number: 0,
            active: 0,
            finished: 0,
            interrupted: false,
            closed: false,
            resumable: HashMap::new(),
            has_new_deadline: false,
        }
    }

    /// A connection comes.
    pub fn register(&mut self, handle: ConnectionHandle, now: Instant) -> u64 {
        let client = ClientNetwork::of(handle.connection().peer());
        self.last_number += 1;
        let connection = ConnectionEntry {
            handle,
            address: client,
            phase: Phase::Handshake,
            since: now,
            kind: Kind::Native,
            slots: 1,
        };
        self.connections.insert(self.last_number, connection);
        self.last_number
    }

    /// A connection has ended.
    pub fn remove(&mut self, number: u64) {
        self.connections.remove(&number);
    }

    /// Too many wait to be served: one of them should give way before anybody else comes in.
    pub fn has_too_many_pending(&self) -> bool {
        self.connections.values().filter(|connection| connection.is_pending()).count() > self.limits.pending
    }

    /// So many are here, some on their way out, that nobody else should come in just now.
    pub fn is_at_capacity(&self) -> bool {
        self.connections.len() > self.limits.total()
    }

    /// Has one that is not served give way, if there is any that may; which one is on the module's page.
    pub fn evict_unidentified(&mut self, now: Instant) -> bool {
        self.evict_oldest(None, ConnectionEntry::is_pending, |connection| {
            let age = now.saturating_duration_since(connection.since);
            match connection.phase {
                Phase::Handshake => age >= HANDSHAKE_GRACE && !connection.handle.has_unread(),
                _ => age >= QUEUE_GRACE,
            }
        })
    }

    /// A session begins; not on a connection that was told to go.
    pub fn try_admit(&mut self, number: u64, kind: Kind) -> Result<(), AtCapacity> {
        let stays = |connection: &&ConnectionEntry| connection.phase != Phase::Evicting;
        let Some(address) = self.connections.get(&number).filter(stays).map(|connection| connection.address)
        else {
            return Err(AtCapacity);
        };
        for (whose, limit) in
            [(Some(address), per_client_limit(self.limits.active)), (None, self.limits.active)]
        {
            let idle_time = self.idle_time;
            let brought_nothing = |connection: &ConnectionEntry| {
                let may_have_gone = connection.kind == Kind::Classic && connection.handle.has_unread();
                !connection.handle.was_active() && !may_have_gone
            };
            if self.slots_in_use(whose) >= limit
                && !self.evict_oldest(whose, ConnectionEntry::is_active, brought_nothing)
                && !self.evict_oldest(whose, ConnectionEntry::is_active, |connection| {
                    connection.is_idle(idle_time)
                })
            {
                return Err(AtCapacity);
            }
        }
        if let Some(connection) = self.connections.get_mut(&number) {
            (connection.phase, connection.kind) = (Phase::Active, kind);
        }
        Ok(())
    }

    /// Memory runs short where too many entries are in flight: somebody has to give way, but not one that has just come and
    /// holds little, for those that only seem to work.
    pub fn enforce_entry_limit(&mut self, now: Instant) {
        let served = self.connections.values().filter(|connection| connection.is_active());
        let held: Vec<usize> =
            served.map(|connection| connection.handle.in_flight()).filter(|held| *held > 0).collect();
        let entries: usize = held.iter().sum();
        if entries > MAX_ENTRIES {
            let (average, idle_time) = (entries / held.len(), self.idle_time);
            self.evict_largest_holder(now, |connection| {
                connection.handle.in_flight() >= average
                    && (entries > HARD_MAX_ENTRIES
                        || !connection.handle.was_active()
                        || connection.is_idle(idle_time))
            });
        }
    }

    /// Descriptors run short: an idle session that holds some gives way.
    pub fn release_descriptors(&mut self, now: Instant) {
        let idle_time = self.idle_time;
        self.evict_largest_holder(now, |connection| {
            connection.handle.in_flight() > 0
                && (connection.is_idle(idle_time) || connection.is_stalled(idle_time))
        });
    }

    /// Of the sessions that `may` go, the one that was idle with most entries in flight for longest gives way.
    fn evict_largest_holder(&mut self, now: Instant, may: impl Fn(&ConnectionEntry) -> bool) {
        let candidates =
            self.connections.values_mut().filter(|connection| connection.is_active() && may(connection));
        let held = |connection: &&mut ConnectionEntry| {
            connection.handle.in_flight() as u128 * (1 + connection.handle.idle().as_millis())
        };
        if let Some(connection) = candidates.max_by_key(held) {
            connection.evict(now);
            self.has_new_deadline = true;
        }
    }

    /// It waits for a place, because nobody could be told that there is none.
    pub fn enqueue(&mut self, number: u64, now: Instant) {
        if let Some(connection) =
            self.connections.get_mut(&number).filter(|connection| connection.phase == Phase::Handshake)
        {
            (connection.phase, connection.since) = (Phase::Queued, now);
        }
    }

    /// May a session have so many further connections? If so, there is room for them from now on.
    pub fn reserve_streams(&mut self, number: u64, further: usize) -> bool {
        let Some(address) = self.connections.get(&number).map(|connection| connection.address) else {
            return false;
        };
        let fits = self.slots_in_use(Some(address)) + further
            <= per_client_limit(self.limits.active) / RESERVED_FRACTION
            && self.slots_in_use(None) + further <= self.limits.active / RESERVED_FRACTION;
        if let Some(connection) = self.connections.get_mut(&number).filter(|_| fits) {
            connection.slots += further;
        }
        fits
    }

    /// A connection belongs to a session, which has a place for it.
    pub fn join(&mut self, number: u64) {
        // One that was told to go still has to be gone in time.
        if let Some(connection) =
            self.connections.get_mut(&number).filter(|connection| connection.phase != Phase::Evicting)
        {
            connection.phase = Phase::Joined;
        }
    }

    /// A session begins whose sender may come back by this name; the record of what failed is for it then.
    /// `false` if one of that name counts already: names are random, and this sender has itself to blame.
    pub fn track(&mut self, id: SessionId, failed: FailureLog) -> bool {
        let is_new = !self.resumable.contains_key(&id);
        self.resumable
            .entry(id)
            .or_insert(ResumableSession { sender: SenderPresence::Connected, failures: failed });
        is_new
    }

    /// The sender of a session that counts is here on another connection, which takes over its part in `active`, and the
    /// record of what failed. `None` if there is no such session, or somebody has taken it over already.
    pub fn reattach(&mut self, id: SessionId) -> Option<FailureLog> {
        let counted = self.resumable.get_mut(&id)?;
        match counted.sender {
            SenderPresence::Connected => {
                counted.sender = SenderPresence::Reattached;
                Some(counted.failures.clone())
            }
            SenderPresence::Lost(_) => self.resumable.remove(&id).map(|counted| counted.failures),
            SenderPresence::Reattached => None,
        }
    }

    /// Is there any use in waiting for the sender of this session?
    pub fn may_reattach(&self, id: SessionId) -> bool {
        let is_connected = |counted: &ResumableSession| matches!(counted.sender, SenderPresence::Connected);
        !self.closed && self.resumable.get(&id).is_some_and(is_connected)
    }

    /// A session that counts has lost its connection, and stays active until its sender is back or [`Desk::take_expired`]
    /// gives it back. Given back at once if its sender is back already, or no session begins any more. Of too many, the one
    /// whose deadline is next expires now.
    pub fn detach(&mut self, id: SessionId, lost: LostSession) -> Result<(), LostSession> {
        if !self.may_reattach(id) {
            return Err(lost);
        }
        if let Some(counted) = self.resumable.get_mut(&id) {
            counted.sender = SenderPresence::Lost(lost);
        }
        self.has_new_deadline = true;
        let most = self.limits.active;
        let mut lost: Vec<&mut LostSession> =
            self.resumable.values_mut().filter_map(|counted| counted.sender.lost_mut()).collect();
        if lost.len() > most
            && let Some(first) = lost.iter_mut().min_by_key(|lost| lost.deadline)
        {
            first.deadline = Instant::now();
        }
        Ok(())
    }

    /// Sessions whose sender did not reconnect in time, or cannot any more. They have ended.
    pub fn take_expired(&mut self, now: Instant) -> Vec<LostSession> {
        let closed = self.closed;
        let expired = |counted: &ResumableSession| matches!(&counted.sender, SenderPresence::Lost(lost) if closed || lost.deadline <= now);
        let expired: Vec<LostSession> = self
            .resumable
            .extract_if(|_, counted| expired(counted))
            .filter_map(|(_, counted)| match counted.sender {
                SenderPresence::Lost(lost) => Some(lost),
                SenderPresence::Connected | SenderPresence::Reattached => None,
            })
            .collect();
        self.active -= expired.len() as u64;
        self.finished += expired.len() as u64;
        expired
    }

    /// A session that counts is over; has its sender come back? Nobody can any more.
    pub fn finish_tracking(&mut self, id: SessionId) -> bool {
        self.resumable.remove(&id).is_some_and(|lost| matches!(lost.sender, SenderPresence::Reattached))
    }

    /// Closes the connections of those that were told to go and are still here after [`LEAVING_TIME`], as where the peer
    /// does not take the last words.
    pub fn close_overdue(&mut self, now: Instant) {
        for connection in self
            .connections
            .values_mut()
            .filter(|connection| connection.eviction_deadline().is_some_and(|end| end <= now))
        {
            connection.phase = Phase::Closed;
            connection.handle.shutdown();
        }
    }

    /// When there is something to do for [`Desk::take_expired`] or [`Desk::cut_late`].
    pub fn next_deadline(&self) -> Option<Instant> {
        let lost = self.resumable.values().filter_map(|counted| match &counted.sender {
            SenderPresence::Lost(lost) => Some(lost.deadline),
            SenderPresence::Connected | SenderPresence::Reattached => None,
        });
        self.connections.values().filter_map(ConnectionEntry::eviction_deadline).chain(lost).min()
    }

    /// Has the last connection ended, and none comes any more?
    pub fn is_drained(&self) -> bool {
        self.closed && self.connections.is_empty()
    }

    /// Nobody is waited for who has not said what it wants, or who might come back.
    pub fn stop_accepting(&mut self) {
        self.closed = true;
        while self.evict_oldest(None, |connection| connection.phase == Phase::Handshake, |_| true) {}
    }

    /// Of those who are `of_kind` and `may` go, the oldest one of the address that has most of the kind leaves; or of
    /// one address. `false` if there is none.
    fn evict_oldest(
        &mut self,
        whose: Option<ClientNetwork>,
        of_kind: impl Fn(&ConnectionEntry) -> bool,
        may: impl Fn(&ConnectionEntry) -> bool,
    ) -> bool {
        let mut crowds: HashMap<ClientNetwork, usize> = HashMap::new();
        for connection in self.connections.values().filter(|connection| of_kind(connection)) {
            *crowds.entry(connection.address).or_default() += 1;
        }
        let candidates = self
            .connections
            .values_mut()
            .filter(|connection| connection.is_from(whose) && of_kind(connection) && may(connection));
        // Of several largest the last is taken: turned round, that is the oldest.
        let Some(connection) = candidates.rev().max_by_key(|connection| crowds[&connection.address]) else {
            return false;
        };
        connection.evict(Instant::now());
        self.has_new_deadline = true;
        true
    }

    /// Places that are taken or promised.
    fn slots_in_use(&self, whose: Option<ClientNetwork>) -> usize {
        let served = |connection: &&ConnectionEntry| connection.is_active() && connection.is_from(whose);
        self.connections.values().filter(served).map(|connection| connection.slots).sum()
    }
}

impl SenderPresence {
    fn lost_mut(&mut self) -> Option<&mut LostSession> {
        match self {
            SenderPresence::Lost(lost) => Some(lost),
            SenderPresence::Connected | SenderPresence::Reattached => None,
        }
    }
}

impl ConnectionEntry {
    /// By when it has to be gone, if it was told to go.
    fn eviction_deadline(&self) -> Option<Instant> {
        (self.phase == Phase::Evicting).then(|| self.since + EVICTION_GRACE)
    }

    fn is_pending(&self) -> bool {
        matches!(self.phase, Phase::Handshake | Phase::Queued)
    }

    fn is_active(&self) -> bool {
        self.phase == Phase::Active
    }

    /// Has nothing come for so long, of a sender that can be told?
    fn is_idle(&self, time: Duration) -> bool {
        self.kind == Kind::Native && self.handle.idle() >= time
    }

    /// Is it a classic session whose body has stopped for so long? Its sender is not done and cannot take it for done.
    fn is_stalled(&self, time: Duration) -> bool {
        self.kind == Kind::Classic && self.handle.idle() >= time && !self.handle.has_unread()
    }

    fn evict(&mut self, now: Instant) {
        (self.phase, self.since) = (Phase::Evicting, now);
        self.handle.evict();
    }

    fn is_from(&self, whose: Option<ClientNetwork>) -> bool {
        whose.is_none_or(|address| address == self.address)
    }
}

fn per_client_limit(all: usize) -> usize {
    (all / CLIENT_FRACTION).max(1)
}

#[cfg(test)]
mod tests;
