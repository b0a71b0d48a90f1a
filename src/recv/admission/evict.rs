//! Which connection or session is evicted when slots, descriptors or memory run short.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::client::ClientNetwork;
use super::table::{AdmissionControl, ConnectionEntry, Kind, Phase};
use crate::wire::MAX_ENTRIES_IN_FLIGHT;

/// The first bytes of a new connection may be in transit for this long.
pub const HANDSHAKE_GRACE: Duration = Duration::from_millis(250);
/// A session in the queue for a slot is not evicted before.
pub const QUEUE_GRACE: Duration = Duration::from_secs(2);
/// The first body of a classic session may be in transit for this long.
pub const FIRST_BODY_GRACE: Duration = Duration::from_secs(2);
/// Entries in flight in all sessions before idle ones are evicted: as many as four sessions may have, in about 75 MB.
pub const MAX_ENTRIES: usize = 4 * MAX_ENTRIES_IN_FLIGHT;
/// Entries in flight in all sessions before any may be evicted.
pub const HARD_MAX_ENTRIES: usize = 2 * MAX_ENTRIES;

impl AdmissionControl {
    /// Evicts a connection whose session has not begun; `false` if none may be evicted. A connection with unread bytes is
    /// kept: a classic sender may have sent everything and gone.
    pub fn evict_unidentified(&mut self, now: Instant) -> bool {
        self.evict_oldest(None, now, ConnectionEntry::is_pending, |entry| {
            let age = now.saturating_duration_since(entry.since);
            match entry.phase {
                Phase::Handshake => age >= HANDSHAKE_GRACE && !entry.handle.has_unread(),
                _ => age >= QUEUE_GRACE,
            }
        })
    }

    /// Evicts a session for its slot: one that has delivered nothing, or else an idle one.
    pub(super) fn evict_session(&mut self, client: Option<ClientNetwork>, now: Instant) -> bool {
        let idle_time = self.idle_time;
        let is_active = |entry: &ConnectionEntry| entry.phase == Phase::Active;
        self.evict_oldest(client, now, is_active, |entry| entry.has_delivered_nothing(now))
            || self.evict_oldest(client, now, is_active, |entry| entry.is_idle(idle_time))
    }

    /// Above [`MAX_ENTRIES`] in flight, evicts one session that has at least the average and is idle or has delivered
    /// nothing; above [`HARD_MAX_ENTRIES`], one that has at least the average. Sessions below the average are never evicted.
    pub fn enforce_entry_limit(&mut self, now: Instant) {
        let in_flight = self.connections.values().filter(|entry| entry.phase == Phase::Active);
        let in_flight: Vec<usize> =
            in_flight.map(|entry| entry.handle.in_flight()).filter(|entries| *entries > 0).collect();
        let entries: usize = in_flight.iter().sum();
        if entries > MAX_ENTRIES {
            let (average, idle_time) = (entries / in_flight.len(), self.idle_time);
            self.evict_largest_holder(now, |entry| {
                entry.handle.in_flight() >= average
                    && (entries > HARD_MAX_ENTRIES || !entry.handle.was_active() || entry.is_idle(idle_time))
            });
        }
    }

    /// Evicts an idle session that holds descriptors.
    pub fn release_descriptors(&mut self, now: Instant) {
        let idle_time = self.idle_time;
        self.evict_largest_holder(now, |entry| {
            entry.handle.in_flight() > 0 && (entry.is_idle(idle_time) || entry.is_stalled(idle_time, now))
        });
    }

    /// Evicts the candidate with the largest product of entries in flight and idle time.
    fn evict_largest_holder(&mut self, now: Instant, may: impl Fn(&ConnectionEntry) -> bool) {
        let candidates =
            self.connections.values_mut().filter(|entry| entry.phase == Phase::Active && may(entry));
        let weight = |entry: &&mut ConnectionEntry| {
            entry.handle.in_flight() as u128 * (1 + entry.handle.idle().as_millis())
        };
        if let Some(entry) = candidates.max_by_key(weight) {
            entry.evict(now);
            self.has_new_deadline = true;
        }
    }

    /// Of the connections that are `of_kind`, evicts the oldest one that `may` be evicted, of the client that has most of the
    /// kind; or of one client. `false` if there is none.
    pub(super) fn evict_oldest(
        &mut self,
        client: Option<ClientNetwork>,
        now: Instant,
        of_kind: impl Fn(&ConnectionEntry) -> bool,
        may: impl Fn(&ConnectionEntry) -> bool,
    ) -> bool {
        let mut counts: HashMap<ClientNetwork, usize> = HashMap::new();
        for entry in self.connections.values().filter(|entry| of_kind(entry)) {
            *counts.entry(entry.client).or_default() += 1;
        }
        let candidates = self
            .connections
            .values_mut()
            .filter(|entry| entry.is_from(client) && of_kind(entry) && may(entry));
        // `max_by_key` returns the last maximum; the iterator runs newest first, so that is the oldest connection.
        let Some(entry) = candidates.rev().max_by_key(|entry| counts[&entry.client]) else {
            return false;
        };
        entry.evict(now);
        self.has_new_deadline = true;
        true
    }
}

impl ConnectionEntry {
    /// Whether nothing that the session needs has arrived. A classic session has time for its first body, and unread bytes of
    /// it may be all that its sender had to send.
    fn has_delivered_nothing(&self, now: Instant) -> bool {
        if self.handle.was_active() {
            return false;
        }
        let age = now.saturating_duration_since(self.since);
        self.kind == Kind::Native || age >= FIRST_BODY_GRACE && !self.handle.has_unread()
    }

    /// Has a native session delivered nothing for this long?
    fn is_idle(&self, time: Duration) -> bool {
        self.kind == Kind::Native && self.handle.idle() >= time
    }

    /// Has a classic session received nothing for this long in the middle of a body? Its sender cannot take it for done.
    fn is_stalled(&self, time: Duration, now: Instant) -> bool {
        let idle = self.handle.idle().min(now.saturating_duration_since(self.since));
        self.kind == Kind::Classic && idle >= time && !self.handle.has_unread()
    }

    fn evict(&mut self, now: Instant) {
        (self.phase, self.since) = (Phase::Evicting, now);
        self.handle.evict();
    }
}
