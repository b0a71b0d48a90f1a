//! Who is connected, and who gives way when there are too many.
//!
//! ```text
//! accept ──▶ opening ──first frame understood──▶ served ──▶ gone
//!               │                                  │
//!               └──────────── gives way ───────────┴──────▶ gone
//! ```
//!
//! A connection whose first frame is not understood yet costs a thread and a descriptor and is worth nothing: when there
//! are too many of them, one that has waited long is closed in favour of a new one. A session that was served and has
//! delivered nothing, or nothing for some time, gives way likewise. Both are taken from the address that has most of them,
//! so that a crowd from one address pushes out itself and nobody else. Whoever does not fit is told so
//! ([`Fault::Busy`](crate::fault::Fault)).
//!
//! Sessions also hold memory and descriptors, by the entries that they have in flight. Where those run short, the one that
//! was idle with most of them for longest gives way. A sender comes back by itself and goes on where it was.
//!
//! Senders of the classic dialect cannot be told, and many of them are gone when what they sent is read. So no connection
//! gives way whose first words wait to be read, and sessions of theirs that have sent anything wait for a place and keep it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, getrlimit};

use super::failed::Failed;
use super::line::Line;
use crate::wire::{MAX_ENTRIES_IN_FLIGHT, SessionId};

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Whose first frame is not understood yet.
    pub openings: usize,
    /// Sessions, and the further connections that they may have.
    pub served: usize,
}

/// At most; a system with few descriptors has fewer.
const MOST: Limits = Limits { openings: 64, served: 192 };
/// And always at least so many.
const FEWEST: Limits = Limits { openings: 4, served: 2 };
/// One address may have this part of those that are served.
const ADDRESS_SHARE: usize = 2;
/// Further connections are promised to sessions as long as no more than this part of the places is taken or promised.
const PROMISED_SHARE: usize = 2;

/// The first words of a new connection may be on their way: so long it does not give way.
const FIRST_WORDS_TIME: Duration = Duration::from_millis(250);
/// And so long not one that is understood and waits for a place.
const PLACE_TIME: Duration = Duration::from_secs(2);

/// A session that has delivered something is idle after so long without more, or the longest silence where that is less.
/// A slow disk has a part read and hashed by then at either end, and has woken up.
const IDLE_TIME: Duration = Duration::from_secs(15);
/// In flight in all sessions, before those that are idle give way: as many as four sessions may have, in about 75 MB.
const MAX_ENTRIES: usize = 4 * MAX_ENTRIES_IN_FLIGHT;
/// And before any gives way.
const MOST_ENTRIES: usize = 2 * MAX_ENTRIES;
/// So long a session that gives way may take to say so.
const LEAVING_TIME: Duration = Duration::from_secs(1);

/// Descriptors that are kept for the program itself and for files that arrive.
const KEPT_DESCRIPTORS: u64 = 144;
/// Descriptors of a session beside its files: its connection, its bell, a pipe for each connection, folders.
const SESSION_DESCRIPTORS: u64 = 8;

/// Who comes in finds this part of all descriptors, enough for its session and a file, if any idle session holds more.
pub const FREE_FOR_SESSIONS: u64 = 16;
/// And this part is left by sessions that have some landings already.
pub const FREE_FOR_OTHERS: u64 = 8;

/// How many descriptors this process may have.
pub fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Is less than this part of all descriptors free? The next one gets the least number that is.
pub fn are_few_free(any: impl AsFd, part: u64) -> bool {
    let all = descriptors();
    fcntl_dupfd_cloexec(any, 0).map_or(true, |next| next.as_raw_fd() as u64 >= all - all / part)
}

impl Limits {
    /// For a process that may have so many descriptors.
    pub fn for_descriptors(descriptors: u64) -> Self {
        let between = |least: usize, number: u64, most: usize| (number as usize).clamp(least, most);
        let openings = between(FEWEST.openings, descriptors / 8, MOST.openings);
        let left = descriptors.saturating_sub(KEPT_DESCRIPTORS + openings as u64);
        Limits { openings, served: between(FEWEST.served, left / SESSION_DESCRIPTORS, MOST.served) }
    }

    /// All connections, and room for some that are on their way out.
    fn total(self) -> usize {
        self.openings + self.served + self.openings / 2
    }
}

/// There is no place for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// See the module's page.
#[derive(Debug)]
pub struct Desk {
    limits: Limits,
    /// Whoever has delivered nothing for so long is idle.
    pub idle_time: Duration,
    /// Everyone who is connected, by a number that tells who came first.
    guests: BTreeMap<u64, Guest>,
    came: u64,
    /// Sessions in work; one whose sender has come back is still the same one.
    pub active: u64,
    /// Sessions that have ended.
    pub finished: u64,
    /// Was any of them cut because this program is to end?
    pub interrupted: bool,
    /// Nobody comes in any more.
    closed: bool,
    /// Sessions that count and whose sender may come back, or has.
    counted: HashMap<SessionId, Counted>,
}

#[derive(Debug)]
struct Counted {
    /// Is its sender here on another connection?
    is_back: bool,
    failed: Failed,
}

#[derive(Debug)]
struct Guest {
    line: Line,
    address: Address,
    stage: Stage,
    /// Since when it has been in this stage.
    since: Instant,
    /// Of a session.
    kind: Kind,
    /// Connections of the session, its own included.
    places: usize,
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
enum Stage {
    Opening,
    /// Understood, but there is no place yet.
    Waiting,
    Served,
    /// Its session answers for it.
    Joined,
    Leaving,
}

/// Whom connections are counted for: an IPv4 address, or the 64 bits of an IPv6 address that tell the network, because a
/// host in it may have as many of the others as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Address([u8; 8]);

impl Address {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            // No network begins with zeros; `::1` is an address of its own.
            IpAddr::V4(four) => {
                let [a, b, c, d] = four.octets();
                Address([0, 0, 0, 4, a, b, c, d])
            }
            IpAddr::V6(six) => {
                let [a, b, c, d, e, f, g, h, ..] = six.octets();
                Address([a, b, c, d, e, f, g, h])
            }
        }
    }
}

impl Desk {
    /// For peers that may be silent for so long.
    pub fn new(limits: Limits, timeout: Duration) -> Self {
        Desk {
            limits,
            idle_time: timeout.min(IDLE_TIME),
            guests: BTreeMap::new(),
            came: 0,
            active: 0,
            finished: 0,
            interrupted: false,
            closed: false,
            counted: HashMap::new(),
        }
    }

    /// A connection comes.
    pub fn enter(&mut self, line: Line, ip: IpAddr, now: Instant) -> u64 {
        self.came += 1;
        let guest = Guest {
            line,
            address: Address::of(ip),
            stage: Stage::Opening,
            since: now,
            kind: Kind::Native,
            places: 1,
        };
        self.guests.insert(self.came, guest);
        self.came
    }

    /// A connection has ended.
    pub fn leave(&mut self, number: u64) {
        self.guests.remove(&number);
    }

    /// Too many wait to be served: one of them should give way before anybody else comes in.
    pub fn is_crowded(&self) -> bool {
        self.guests.values().filter(|guest| guest.is_unserved()).count() > self.limits.openings
    }

    /// So many are here, some on their way out, that nobody else should come in just now.
    pub fn is_full(&self) -> bool {
        self.guests.len() > self.limits.total()
    }

    /// Has one that is not served give way, if there is any that may; which one is on the module's page.
    pub fn make_room(&mut self, now: Instant) -> bool {
        self.oldest_gives_way(None, Guest::is_unserved, |guest| {
            let age = now.saturating_duration_since(guest.since);
            match guest.stage {
                Stage::Opening => age >= FIRST_WORDS_TIME && !guest.line.has_unread(),
                _ => age >= PLACE_TIME,
            }
        })
    }

    /// A session begins.
    pub fn serve(&mut self, number: u64, kind: Kind) -> Result<(), Full> {
        let Some(address) = self.guests.get(&number).map(|guest| guest.address) else {
            return Err(Full);
        };
        for (whose, limit) in [(Some(address), share(self.limits.served)), (None, self.limits.served)] {
            let idle_time = self.idle_time;
            let brought_nothing = |guest: &Guest| {
                let may_have_gone = guest.kind == Kind::Classic && guest.line.has_unread();
                !guest.line.has_worked() && !may_have_gone
            };
            if self.places(whose) >= limit
                && !self.oldest_gives_way(whose, Guest::is_served, brought_nothing)
                && !self.oldest_gives_way(whose, Guest::is_served, |guest| guest.is_idle(idle_time))
            {
                return Err(Full);
            }
        }
        if let Some(guest) = self.guests.get_mut(&number) {
            (guest.stage, guest.kind) = (Stage::Served, kind);
        }
        Ok(())
    }

    /// Memory runs short where too many entries are in flight: somebody has to give way, but not one that has just come and
    /// holds little, for those that only seem to work.
    pub fn limit_entries(&mut self, now: Instant) {
        let served = self.guests.values().filter(|guest| guest.is_served());
        let held: Vec<usize> = served.map(|guest| guest.line.entries()).filter(|held| *held > 0).collect();
        let entries: usize = held.iter().sum();
        if entries > MAX_ENTRIES {
            // Those that do not even take their last words are not waited for.
            let is_late = |guest: &&Guest| {
                guest.stage == Stage::Leaving && now.saturating_duration_since(guest.since) >= LEAVING_TIME
            };
            self.guests.values().filter(is_late).for_each(|guest| guest.line.cut());
            let (average, idle_time) = (entries / held.len(), self.idle_time);
            self.holder_gives_way(now, |guest| {
                guest.line.entries() >= average
                    && (entries > MOST_ENTRIES || !guest.line.has_worked() || guest.is_idle(idle_time))
            });
        }
    }

    /// Descriptors run short: an idle session that holds some gives way.
    pub fn spare_descriptors(&mut self, now: Instant) {
        let idle_time = self.idle_time;
        self.holder_gives_way(now, |guest| guest.line.entries() > 0 && guest.is_idle(idle_time));
    }

    /// Of the sessions that `may` go, the one that was idle with most entries in flight for longest gives way.
    fn holder_gives_way(&mut self, now: Instant, may: impl Fn(&Guest) -> bool) {
        let candidates = self.guests.values_mut().filter(|guest| guest.is_served() && may(guest));
        let held = |guest: &&mut Guest| guest.line.entries() as u128 * (1 + guest.line.idle().as_millis());
        if let Some(guest) = candidates.max_by_key(held) {
            guest.gives_way(now);
        }
    }

    /// It waits for a place, because nobody could be told that there is none.
    pub fn wait(&mut self, number: u64, now: Instant) {
        if let Some(guest) = self.guests.get_mut(&number).filter(|guest| guest.stage == Stage::Opening) {
            (guest.stage, guest.since) = (Stage::Waiting, now);
        }
    }

    /// May a session have so many further connections? If so, there is room for them from now on.
    pub fn promise(&mut self, number: u64, further: usize) -> bool {
        let Some(address) = self.guests.get(&number).map(|guest| guest.address) else {
            return false;
        };
        let fits = self.places(Some(address)) + further <= share(self.limits.served) / PROMISED_SHARE
            && self.places(None) + further <= self.limits.served / PROMISED_SHARE;
        if let Some(guest) = self.guests.get_mut(&number).filter(|_| fits) {
            guest.places += further;
        }
        fits
    }

    /// A connection belongs to a session, which has a place for it.
    pub fn join(&mut self, number: u64) {
        if let Some(guest) = self.guests.get_mut(&number) {
            guest.stage = Stage::Joined;
        }
    }

    /// A session begins whose sender may come back by this name; the record of what failed is for it then.
    /// `false` if one of that name counts already: names are random, and this sender has itself to blame.
    pub fn count(&mut self, id: SessionId, failed: Failed) -> bool {
        let is_new = !self.counted.contains_key(&id);
        self.counted.entry(id).or_insert(Counted { is_back: false, failed });
        is_new
    }

    /// The sender of a session that counts is here on another connection, which takes over its part in `active`, and the
    /// record of what failed. `None` if there is no such session, or somebody has taken it over already.
    pub fn come_back(&mut self, id: SessionId) -> Option<Failed> {
        let lost = self.counted.get_mut(&id).filter(|lost| !lost.is_back)?;
        lost.is_back = true;
        Some(lost.failed.clone())
    }

    /// Is there any use in waiting for the sender of this session?
    pub fn may_come_back(&self, id: SessionId) -> bool {
        !self.closed && self.counted.get(&id).is_some_and(|lost| !lost.is_back)
    }

    /// A session that counts is over; has its sender come back? Nobody can any more.
    pub fn is_back(&mut self, id: SessionId) -> bool {
        self.counted.remove(&id).is_some_and(|lost| lost.is_back)
    }

    /// Nobody is waited for who has not said what it wants, or who might come back.
    pub fn close(&mut self) {
        self.closed = true;
        while self.oldest_gives_way(None, |guest| guest.stage == Stage::Opening, |_| true) {}
    }

    /// Of those who are `of_kind` and `may` go, the oldest one of the address that has most of the kind leaves; or of
    /// one address. `false` if there is none.
    fn oldest_gives_way(
        &mut self,
        whose: Option<Address>,
        of_kind: impl Fn(&Guest) -> bool,
        may: impl Fn(&Guest) -> bool,
    ) -> bool {
        let mut crowds: HashMap<Address, usize> = HashMap::new();
        for guest in self.guests.values().filter(|guest| of_kind(guest)) {
            *crowds.entry(guest.address).or_default() += 1;
        }
        let candidates =
            self.guests.values_mut().filter(|guest| guest.is_of(whose) && of_kind(guest) && may(guest));
        // Of several largest the last is taken: turned round, that is the oldest.
        let Some(guest) = candidates.rev().max_by_key(|guest| crowds[&guest.address]) else {
            return false;
        };
        guest.gives_way(Instant::now());
        true
    }

    /// Places that are taken or promised.
    fn places(&self, whose: Option<Address>) -> usize {
        let served = |guest: &&Guest| guest.is_served() && guest.is_of(whose);
        self.guests.values().filter(served).map(|guest| guest.places).sum()
    }
}

impl Guest {
    fn is_unserved(&self) -> bool {
        matches!(self.stage, Stage::Opening | Stage::Waiting)
    }

    fn is_served(&self) -> bool {
        self.stage == Stage::Served
    }

    /// Has nothing come for so long, of a sender that can be told?
    fn is_idle(&self, time: Duration) -> bool {
        self.kind == Kind::Native && self.line.idle() >= time
    }

    fn gives_way(&mut self, now: Instant) {
        (self.stage, self.since) = (Stage::Leaving, now);
        self.line.give_way();
    }

    fn is_of(&self, whose: Option<Address>) -> bool {
        whose.is_none_or(|address| address == self.address)
    }
}

fn share(all: usize) -> usize {
    (all / ADDRESS_SHARE).max(1)
}

#[cfg(test)]
mod tests;
