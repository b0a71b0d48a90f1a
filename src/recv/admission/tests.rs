use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::client::ClientNetwork;
use super::evict::{FIRST_BODY_GRACE, HANDSHAKE_GRACE, HARD_MAX_ENTRIES, MAX_ENTRIES, QUEUE_GRACE};
use super::limits::{MAX_LIMITS, MIN_LIMITS};
use super::table::EVICTION_GRACE;
use super::{AdmissionControl, AtCapacity, Kind, Limits, LostSession};
use crate::net::Peer;
use crate::net::tests::pair_with;
use crate::recv::error::RecvError;
use crate::recv::failure_log::FailureLog;
use crate::recv::handle::ConnectionHandle;
use crate::wire::SessionId;

const FEW: Limits = Limits { pending: 4, active: 8 };
const TIMEOUT: Duration = Duration::from_secs(60);

fn ip(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

/// The socket of a peer at `10.0.0.last`, and the handle of its connection.
fn connect(last: u8) -> (Socket, ConnectionHandle) {
    let (peer, connection) = pair_with(Peer::Ip((ip(last), 1).into()));
    (peer, ConnectionHandle::new(connection))
}

/// One more connection from `10.0.0.last`, after the handshake grace of all earlier ones.
fn enter(admission: &mut AdmissionControl, last: u8) -> (u64, ConnectionHandle) {
    let (_, handle) = connect(last);
    let now = Instant::now();
    let number = admission.register(handle.clone(), now);
    if admission.has_too_many_pending() {
        admission.evict_unidentified(now + HANDSHAKE_GRACE);
    }
    (number, handle)
}

fn served(admission: &mut AdmissionControl, last: u8) -> Result<(u64, ConnectionHandle), AtCapacity> {
    let (number, handle) = enter(admission, last);
    admission.try_admit(number, Kind::Native, Instant::now()).map(|()| (number, handle))
}

#[test]
fn connection_without_bytes_is_evicted_oldest_first() {
    let mut admission = AdmissionControl::new(FEW, TIMEOUT, None);
    let silent: Vec<_> = (1..=4).map(|last| enter(&mut admission, last).1).collect();
    assert!(silent.iter().all(|handle| !handle.is_evicted()));
    enter(&mut admission, 5);
    let gone: Vec<_> = silent.iter().map(ConnectionHandle::is_evicted).collect();
    assert_eq!(gone, [true, false, false, false]);
}

#[test]
fn flood_from_one_address_evicts_only_its_own() {
    let mut admission = AdmissionControl::new(FEW, TIMEOUT, None);
    let honest = enter(&mut admission, 1).1;
    let crowd: Vec<_> = (0..100).map(|_| enter(&mut admission, 2).1).collect();
    assert!(!honest.is_evicted());
    assert_eq!(crowd.iter().filter(|handle| !handle.is_evicted()).count(), 3, "what is left");
    for last in 3..=4 {
        (0..100).for_each(|_| drop(enter(&mut admission, last)));
    }
    assert!(!honest.is_evicted(), "nor does a crowd from three");
}

#[test]
fn connection_with_unread_bytes_is_not_evicted() {
    let mut admission = AdmissionControl::new(FEW, TIMEOUT, None);
    let (mut peer, handle) = connect(1);
    let now = Instant::now();
    let number = admission.register(handle.clone(), now);
    assert!(!admission.evict_unidentified(now), "it is new");
    peer.write_all(b"x").unwrap();
    while !handle.has_unread() {}
    assert!(!admission.evict_unidentified(now + HANDSHAKE_GRACE), "its bytes are unread");
    admission.enqueue(number, now);
    assert!(!admission.evict_unidentified(now + HANDSHAKE_GRACE), "it waits for a place");
    assert!(admission.evict_unidentified(now + QUEUE_GRACE) && handle.is_evicted(), "not for ever");
}

#[test]
fn sessions_that_deliver_nothing_are_evicted_and_the_others_are_not() {
    let mut admission = AdmissionControl::new(FEW, TIMEOUT, None);
    let idle = served(&mut admission, 1).unwrap().1;
    for _ in 1..4 {
        served(&mut admission, 1).unwrap().1.record_bytes(0);
    }
    let one_more = served(&mut admission, 1).unwrap().1;
    assert!(idle.is_evicted() && !one_more.is_evicted());
    one_more.record_bytes(0);
    assert_eq!(served(&mut admission, 1).unwrap_err(), AtCapacity, "the address has its share");
    for last in [2, 2, 2, 3] {
        served(&mut admission, last).unwrap().1.record_bytes(0);
    }
    assert_eq!(served(&mut admission, 4).unwrap_err(), AtCapacity, "all places are taken");
}

#[test]
fn slot_is_free_again_when_its_session_has_ended() {
    let mut admission = AdmissionControl::new(FEW, TIMEOUT, None);
    let sessions: Vec<_> = (0..4).map(|_| served(&mut admission, 1).unwrap()).collect();
    sessions.iter().for_each(|(_, handle)| handle.record_bytes(0));
    served(&mut admission, 1).unwrap_err();
    admission.remove(sessions[2].0);
    assert!(served(&mut admission, 1).is_ok());
}

#[test]
fn idle_session_is_evicted_after_those_that_delivered_nothing() {
    // All sessions are idle at once.
    let mut admission = AdmissionControl::new(FEW, Duration::ZERO, None);
    let worked = served(&mut admission, 1).unwrap().1;
    let (number, classic) = enter(&mut admission, 1);
    admission.try_admit(number, Kind::Classic, Instant::now()).unwrap();
    let silent = [(); 2].map(|()| served(&mut admission, 1).unwrap().1);
    [&worked, &classic].iter().for_each(|handle| handle.record_bytes(0));
    for _ in 0..2 {
        served(&mut admission, 1).unwrap().1.record_bytes(0);
    }
    assert!(silent.iter().all(ConnectionHandle::is_evicted) && !worked.is_evicted());
    served(&mut admission, 1).unwrap();
    assert!(worked.is_evicted());
    assert!(!classic.is_evicted(), "its sender could not be told");
}

#[test]
fn above_the_entry_limit_the_idle_session_is_evicted() {
    let mut admission = AdmissionControl::new(FEW, TIMEOUT, None);
    let [works, idle, poor] = [1, 2, 3].map(|last| served(&mut admission, last).unwrap().1);
    works.record_bytes(0);
    [&works, &idle].iter().for_each(|handle| handle.set_in_flight(MAX_ENTRIES / 2));
    admission.enforce_entry_limit(Instant::now());
    assert!(!idle.is_evicted(), "that is not too much");
    poor.set_in_flight(1);
    admission.release_descriptors(Instant::now());
    assert!(!idle.is_evicted(), "it has just come");
    admission.enforce_entry_limit(Instant::now());
    assert!(idle.is_evicted() && !works.is_evicted() && !poor.is_evicted());
    works.set_in_flight(MAX_ENTRIES);
    admission.enforce_entry_limit(Instant::now());
    assert!(!poor.is_evicted(), "it holds less than most");
    works.set_in_flight(HARD_MAX_ENTRIES + 1);
    admission.enforce_entry_limit(Instant::now());
    assert!(works.is_evicted(), "far too much");
}

#[test]
fn streams_are_reserved_while_slots_are_free() {
    let mut admission = AdmissionControl::new(Limits { pending: 4, active: 64 }, TIMEOUT, None);
    let promised = |admission: &mut AdmissionControl| {
        let number = served(admission, 1).unwrap().0;
        admission.reserve_streams(number, 7)
    };
    assert_eq!([(); 4].map(|()| promised(&mut admission)), [true, true, false, false]);
    let (joined, handle) = enter(&mut admission, 1);
    admission.join(joined);
    handle.record_bytes(0);
    assert_eq!(admission.slots_in_use(None), 2 + 2 * 8, "a connection that joined has its session's place");
}

#[test]
fn session_is_reattached_once_and_its_id_is_unique() {
    let mut admission = AdmissionControl::new(FEW, TIMEOUT, None);
    let id = SessionId::new([7; 16]);
    assert!(admission.reattach(id).is_none(), "no such session");
    assert!(admission.track(id, FailureLog::default()));
    assert!(admission.may_reattach(id) && admission.reattach(id).is_some());
    assert!(!admission.may_reattach(id) && admission.reattach(id).is_none());
    assert!(!admission.track(id, FailureLog::default()), "a second one would undo that");
    assert!(admission.finish_tracking(id) && !admission.finish_tracking(id));
}

#[test]
fn a_network_counts_as_one_address_and_loopback_as_itself() {
    let of = |ip: &str| ClientNetwork::of(&Peer::Ip((ip.parse::<IpAddr>().unwrap(), 1).into()));
    assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
    assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
    assert_ne!(of("127.0.0.1"), of("127.0.0.2"));
    assert_ne!(of("::1"), of("127.0.0.1"));
    assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
}

#[test]
fn few_descriptors_or_threads_make_few_slots() {
    assert_eq!(Limits::new(u64::MAX, u64::MAX), MAX_LIMITS);
    assert_eq!(Limits::new(4096, 4096), MAX_LIMITS);
    assert_eq!(Limits::new(512, 4096), Limits { pending: 64, active: 38 });
    assert_eq!(Limits::new(4096, 512), Limits { pending: 64, active: 62 });
    assert_eq!(Limits::new(0, 4096), MIN_LIMITS);
    assert_eq!(Limits::new(4096, 24), MIN_LIMITS);
}

#[test]
fn without_descriptors_an_idle_session_that_holds_some_is_evicted() {
    let mut admission = AdmissionControl::new(FEW, Duration::ZERO, None);
    let [holder, other] = [1, 2].map(|last| served(&mut admission, last).unwrap().1);
    admission.release_descriptors(Instant::now());
    assert!(!holder.is_evicted() && !other.is_evicted(), "they hold nothing");
    holder.set_in_flight(3);
    admission.release_descriptors(Instant::now());
    assert!(holder.is_evicted() && !other.is_evicted());
}

fn lost(deadline: Instant) -> LostSession {
    LostSession { peer: Peer::Ip((ip(1), 1).into()), error: RecvError::Busy.into(), wait: TIMEOUT, deadline }
}

/// A session that counts, whose connection was lost.
fn lose(admission: &mut AdmissionControl, id: u8, deadline: Instant) -> SessionId {
    let id = SessionId::new([id; 16]);
    assert!(admission.track(id, FailureLog::default()));
    admission.active += 1;
    admission.detach(id, lost(deadline)).unwrap();
    id
}

#[test]
fn a_lost_session_ends_at_its_deadline_unless_its_sender_reconnects() {
    let mut admission = AdmissionControl::new(FEW, TIMEOUT, None);
    let (now, deadline) = (Instant::now(), Instant::now() + TIMEOUT);
    let [first, second] = [1, 2].map(|id| lose(&mut admission, id, deadline));
    assert_eq!(admission.next_deadline(), Some(deadline));
    assert!(admission.take_expired(now).is_empty());
    assert!(admission.reattach(first).is_some() && admission.reattach(first).is_none());
    assert_eq!(admission.take_expired(deadline).len(), 1);
    assert_eq!((admission.active, admission.finished), (1, 1), "the first goes on");
    assert!(admission.reattach(second).is_none() && admission.next_deadline().is_none());
    lose(&mut admission, 3, deadline);
    admission.stop_accepting(now);
    assert_eq!(admission.take_expired(now).len(), 1, "no sender can reconnect any more");
    assert!(
        admission.track(first, FailureLog::default()) && admission.detach(first, lost(deadline)).is_err()
    );
}

#[test]
fn of_too_many_lost_sessions_the_oldest_ends() {
    let mut admission = AdmissionControl::new(FEW, TIMEOUT, None);
    let deadline = Instant::now() + TIMEOUT;
    let ids = 0..FEW.active as u8;
    let ids: Vec<_> =
        ids.map(|id| lose(&mut admission, id, deadline + Duration::from_secs(id.into()))).collect();
    assert!(admission.take_expired(Instant::now()).is_empty());
    lose(&mut admission, 100, deadline + TIMEOUT);
    assert_eq!(admission.take_expired(Instant::now()).len(), 1);
    assert!(admission.reattach(ids[0]).is_none() && admission.reattach(ids[1]).is_some());
}

#[test]
fn evicted_connection_is_closed_after_the_grace_time() {
    use std::io::Read;
    let (mut peer, handle) = connect(1);
    peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut admission = AdmissionControl::new(FEW, TIMEOUT, None);
    let start = Instant::now();
    let number = admission.register(handle.clone(), start);
    assert!(admission.next_deadline().is_none());
    assert!(admission.evict_unidentified(start + HANDSHAKE_GRACE));
    // It gets no place any more, and no other way to stay.
    assert_eq!(admission.try_admit(number, Kind::Native, Instant::now()), Err(AtCapacity));
    admission.join(number);
    let deadline = admission.next_deadline().expect("a deadline");
    assert_eq!(deadline, start + HANDSHAKE_GRACE + EVICTION_GRACE);
    admission.close_overdue(start);
    assert_eq!(admission.next_deadline(), Some(deadline), "it may still say why");
    admission.close_overdue(deadline);
    assert!(admission.next_deadline().is_none());
    assert_eq!(peer.read(&mut [0]).unwrap(), 0, "closed");
}

#[test]
fn without_descriptors_a_classic_session_whose_body_has_stopped_is_evicted() {
    let mut admission = AdmissionControl::new(FEW, Duration::ZERO, None);
    let mut peers = Vec::new();
    let [stopped, comes, between_files] = [1, 2, 3].map(|last| {
        let (peer, handle) = connect(last);
        peers.push(peer);
        let number = admission.register(handle.clone(), Instant::now());
        admission.try_admit(number, Kind::Classic, Instant::now()).unwrap();
        handle.record_bytes(0);
        handle
    });
    [&stopped, &comes].iter().for_each(|handle| handle.set_in_flight(1));
    peers[1].write_all(b"more").unwrap();
    while !comes.has_unread() {}
    for _ in 0..3 {
        admission.release_descriptors(Instant::now());
    }
    assert!(stopped.is_evicted() && !comes.is_evicted() && !between_files.is_evicted());
}

#[test]
fn a_classic_session_keeps_its_slot_from_the_first_byte_of_a_body_on() {
    let now = Instant::now();
    for (has_body, is_kept) in [(false, false), (true, true)] {
        let mut admission = AdmissionControl::new(Limits { pending: 4, active: 1 }, TIMEOUT, None);
        let (number, classic) = enter(&mut admission, 1);
        admission.try_admit(number, Kind::Classic, now).unwrap();
        if has_body {
            classic.record_bytes(1);
        }
        let native = enter(&mut admission, 2).0;
        let admitted = admission.try_admit(native, Kind::Native, now);
        assert_eq!(admitted, Err(AtCapacity), "its body may be in transit");
        let admitted = admission.try_admit(native, Kind::Native, now + FIRST_BODY_GRACE);
        assert_eq!((admitted.is_err(), classic.is_evicted()), (is_kept, !is_kept));
    }
}
