//! The table of all connections, and the counts of sessions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::client::ClientNetwork;
use super::limits::Limits;
use super::resumable::{LostSession, ResumableSessions};
use crate::recv::failure_log::FailureLog;
use crate::recv::handle::ConnectionHandle;
use crate::wire::SessionId;

/// Further connections are reserved for sessions as long as no more than this part of the slots is in use or reserved.
const RESERVED_FRACTION: usize = 2;
/// A session that has delivered something is idle after this long without more, or after the limit for silence if that is
/// less. By then a slow disk has read a part, and hashed it, at either end.
const IDLE_TIME: Duration = Duration::from_secs(15);
/// How long an evicted connection may take to send its error; then it is closed.
pub const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// No slot is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtCapacity;

/// See the module documentation.
#[derive(Debug)]
pub struct AdmissionControl {
    pub(super) limits: Limits,
    /// A session that has delivered nothing for this long is idle.
    pub idle_time: Duration,
    /// All connections by number, in the order of their arrival.
    pub(super) connections: BTreeMap<u64, ConnectionEntry>,
    last_number: u64,
    /// The receiver ends after this many sessions.
    wanted: Option<u64>,
    /// Sessions that have begun and not ended. A session whose sender has reconnected is still the same one.
    pub active: u64,
    /// Sessions that have ended.
    pub finished: u64,
    /// Was a session cut because this program is to end?
    pub interrupted: bool,
    /// No connection is accepted any more.
    closed: bool,
    resumable: ResumableSessions,
    /// Is [`AdmissionControl::next_deadline`] possibly nearer than before?
    pub(super) has_new_deadline: bool,
}

/// A connection.
#[derive(Debug)]
pub struct ConnectionEntry {
    pub handle: ConnectionHandle,
    pub client: ClientNetwork,
    pub phase: Phase,
    /// The beginning of the phase.
    pub since: Instant,
    /// Of its session.
    pub kind: Kind,
    /// Slots of its session: its own, and those reserved for further connections.
    pub slots: usize,
}

/// The dialect of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its sender waits for answers, and can be told of an error.
    Native,
    /// Its sender cannot be told, and may have gone when its bytes are read.
    Classic,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its first frame is not complete.
    Handshake,
    /// Its session waits for a slot.
    Queued,
    /// Its session has a slot.
    Active,
    /// It joined the session of another connection.
    Joined,
    /// It was told to end.
    Evicting,
    /// It had not ended in time, and was closed.
    Closed,
}

impl AdmissionControl {
    /// For peers that may be silent for `timeout`, and a receiver that ends after `wanted` sessions.
    pub fn new(limits: Limits, timeout: Duration, wanted: Option<u64>) -> Self {
        AdmissionControl {
            limits,
            idle_time: timeout.min(IDLE_TIME),
            connections: BTreeMap::new(),
            last_number: 0,
            wanted,
            active: 0,
            finished: 0,
            interrupted: false,
            closed: false,
            resumable: ResumableSessions::default(),
            has_new_deadline: false,
        }
    }

    /// Adds a connection; returns its number.
    pub fn register(&mut self, handle: ConnectionHandle, now: Instant) -> u64 {
        let client = ClientNetwork::of(handle.connection().peer());
        self.last_number += 1;
        let entry = ConnectionEntry {
            handle,
            client,
            phase: Phase::Handshake,
            since: now,
            kind: Kind::Native,
            slots: 1,
        };
        self.connections.insert(self.last_number, entry);
        self.last_number
    }

    /// How many more sessions have to end before the receiver does.
    pub fn sessions_left(&self) -> u64 {
        self.wanted.map_or(u64::MAX, |wanted| wanted.saturating_sub(self.finished))
    }

    /// Removes a connection that has ended.
    pub fn remove(&mut self, number: u64) {
        self.connections.remove(&number);
    }

    /// Do so many connections wait for a session that one of them must be evicted before another one is accepted?
    pub fn has_too_many_pending(&self) -> bool {
        self.connections.values().filter(|entry| entry.is_pending()).count() > self.limits.pending
    }

    /// Are there so many connections, evicted ones included, that none can be accepted now?
    pub fn is_at_capacity(&self) -> bool {
        self.connections.len() > self.limits.total()
    }

    /// Begins a session, if a slot is free or can be freed, and its connection was not evicted.
    pub fn try_admit(&mut self, number: u64, kind: Kind, now: Instant) -> Result<(), AtCapacity> {
        let entry = self.connections.get(&number).filter(|entry| entry.phase != Phase::Evicting);
        let client = entry.ok_or(AtCapacity)?.client;
        for (client, limit) in [(Some(client), self.limits.per_client()), (None, self.limits.active)] {
            if self.slots_in_use(client) >= limit && !self.evict_session(client, now) {
                return Err(AtCapacity);
            }
        }
        if let Some(entry) = self.connections.get_mut(&number) {
            (entry.phase, entry.kind, entry.since) = (Phase::Active, kind, now);
        }
        Ok(())
    }

    /// Marks a connection as waiting for a slot.
    pub fn enqueue(&mut self, number: u64, now: Instant) {
        let entry = self.connections.get_mut(&number);
        if let Some(entry) = entry.filter(|entry| entry.phase == Phase::Handshake) {
            (entry.phase, entry.since) = (Phase::Queued, now);
        }
    }

    /// Reserves slots for further connections of a session; `false` if there are too few.
    pub fn reserve_streams(&mut self, number: u64, further: usize) -> bool {
        let Some(client) = self.connections.get(&number).map(|entry| entry.client) else {
            return false;
        };
        let fits = self.slots_in_use(Some(client)) + further <= self.limits.per_client() / RESERVED_FRACTION
            && self.slots_in_use(None) + further <= self.limits.active / RESERVED_FRACTION;
        if let Some(entry) = self.connections.get_mut(&number).filter(|_| fits) {
            entry.slots += further;
        }
        fits
    }

    /// A connection joins a session, which has a slot for it. One that was evicted still has to end in time.
    pub fn join(&mut self, number: u64) {
        let entry = self.connections.get_mut(&number);
        if let Some(entry) = entry.filter(|entry| entry.phase != Phase::Evicting) {
            entry.phase = Phase::Joined;
        }
    }

    /// Slots in use or reserved, of one client or of all.
    pub fn slots_in_use(&self, client: Option<ClientNetwork>) -> usize {
        let is_counted = |entry: &&ConnectionEntry| entry.phase == Phase::Active && entry.is_from(client);
        self.connections.values().filter(is_counted).map(|entry| entry.slots).sum()
    }

    /// See [`ResumableSessions::track`].
    pub fn track(&mut self, id: SessionId, failures: FailureLog) -> bool {
        self.resumable.track(id, failures)
    }

    /// See [`ResumableSessions::reattach`].
    pub fn reattach(&mut self, id: SessionId) -> Option<FailureLog> {
        self.resumable.reattach(id)
    }

    /// May the sender of this session still reconnect?
    pub fn may_reattach(&self, id: SessionId) -> bool {
        !self.closed && self.resumable.may_reattach(id)
    }

    /// The connection of a counted session was lost. The session stays active until its sender reconnects or
    /// [`AdmissionControl::take_expired`] returns it.
    ///
    /// # Errors
    ///
    /// The sender has reconnected, or cannot any more.
    pub fn detach(&mut self, id: SessionId, lost: LostSession) -> Result<(), LostSession> {
        if !self.may_reattach(id) {
            return Err(lost);
        }
        self.resumable.detach(id, lost, self.limits.active);
        self.has_new_deadline = true;
        Ok(())
    }

    /// Ends and returns the sessions whose sender did not reconnect in time, or cannot any more.
    pub fn take_expired(&mut self, now: Instant) -> Vec<LostSession> {
        let expired = self.resumable.take_expired(now, self.closed);
        self.active -= expired.len() as u64;
        self.finished += expired.len() as u64;
        expired
    }

    /// A counted session has ended; `true` if its sender has reconnected, so that it goes on elsewhere.
    pub fn finish_tracking(&mut self, id: SessionId) -> bool {
        self.resumable.finish(id)
    }

    /// Closes evicted connections that have not ended in time, as where the peer does not read the error.
    pub fn close_overdue(&mut self, now: Instant) {
        for entry in self.connections.values_mut() {
            if entry.eviction_deadline().is_some_and(|deadline| deadline <= now) {
                entry.phase = Phase::Closed;
                entry.handle.shutdown();
            }
        }
    }

    /// When [`AdmissionControl::take_expired`] or [`AdmissionControl::close_overdue`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let evictions = self.connections.values().filter_map(ConnectionEntry::eviction_deadline);
        evictions.chain(self.resumable.next_deadline()).min()
    }

    /// Have all connections ended, and is none accepted any more?
    pub fn is_drained(&self) -> bool {
        self.closed && self.connections.is_empty()
    }

    /// Accepts no further connection, and waits for no sender to reconnect. Evicts the connections without a first frame.
    pub fn stop_accepting(&mut self, now: Instant) {
        self.closed = true;
        while self.evict_oldest(None, now, |entry| entry.phase == Phase::Handshake, |_| true) {}
    }
}

impl ConnectionEntry {
    /// When it must have ended, if it was evicted.
    fn eviction_deadline(&self) -> Option<Instant> {
        (self.phase == Phase::Evicting).then(|| self.since + EVICTION_GRACE)
    }

    /// Has its session not begun?
    pub fn is_pending(&self) -> bool {
        matches!(self.phase, Phase::Handshake | Phase::Queued)
    }

    pub fn is_from(&self, client: Option<ClientNetwork>) -> bool {
        client.is_none_or(|client| client == self.client)
    }
}
