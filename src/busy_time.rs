//! What a transfer spends its time on, and what therefore limits it.

use std::fmt::{self, Display};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Adds up the time that threads spend on one thing.
#[derive(Debug, Default)]
pub struct Stopwatch(AtomicU64);

impl Stopwatch {
    /// Does `work` and counts how long it took.
    pub fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        self.add(start.elapsed());
        done
    }

    /// Counts time that was measured elsewhere.
    pub fn add(&self, time: Duration) {
        self.0.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// The sum of all threads.
    pub fn spent(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// What one end was busy with, in milliseconds of the thread that had most to do with it. The numbers overlap: its
/// threads work side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BusyTime {
    /// Reading, writing, naming and syncing files.
    pub disk_ms: u64,
    /// Digests.
    pub md5_ms: u64,
    /// At the sender, writing to connections; at the receiver, waiting for them.
    pub network_ms: u64,
}

/// What held a transfer up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The sender's disk.
    SendersDisk,
    /// The sender's digests.
    SendersMd5,
    /// The way between.
    Network,
    /// The receiver's disk.
    ReceiversDisk,
    /// The receiver's digests.
    ReceiversMd5,
    /// For a receiver, who does not see that far: the network or the sender.
    Arrival,
}

/// The stage that was busy for the greatest share of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bottleneck {
    /// Which.
    pub stage: Stage,
    /// The share of the time, 0 to 100.
    pub percent: u8,
}

impl Bottleneck {
    /// As the sender sees it, after a transfer that took `elapsed`; `None` where nothing took a measurable time.
    pub fn of_sender(sender: BusyTime, receiver: BusyTime, elapsed: Duration) -> Option<Bottleneck> {
        // A connection holds the transfer up while the sender cannot get rid of bytes and the receiver has none.
        let network_ms = sender.network_ms.min(receiver.network_ms);
        let stages = [
            (Stage::SendersDisk, sender.disk_ms),
            (Stage::SendersMd5, sender.md5_ms),
            (Stage::Network, network_ms),
            (Stage::ReceiversDisk, receiver.disk_ms),
            (Stage::ReceiversMd5, receiver.md5_ms),
        ];
        longest(&stages, elapsed)
    }

    /// As the receiver sees it.
    pub fn of_receiver(receiver: BusyTime, elapsed: Duration) -> Option<Bottleneck> {
        let stages = [
            (Stage::Arrival, receiver.network_ms),
            (Stage::ReceiversDisk, receiver.disk_ms),
            (Stage::ReceiversMd5, receiver.md5_ms),
        ];
        longest(&stages, elapsed)
    }
}

fn longest(stages: &[(Stage, u64)], elapsed: Duration) -> Option<Bottleneck> {
    let &(stage, ms) = stages.iter().max_by_key(|(_, ms)| *ms).filter(|(_, ms)| *ms > 0)?;
    let percent = u128::from(ms) * 100 / elapsed.as_millis().max(1);
    Some(Bottleneck { stage, percent: percent.min(100) as u8 })
}

impl Display for Bottleneck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::SendersDisk => "the sender's disk",
            Stage::SendersMd5 => "the sender's MD5",
            Stage::Network => "the network",
            Stage::ReceiversDisk => "the receiver's disk",
            Stage::ReceiversMd5 => "the receiver's MD5",
            Stage::Arrival => "the network or the sender",
        };
        write!(f, "{stage}, {} % of the time", self.percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_stage_limits() {
        let sender = BusyTime { disk_ms: 100, md5_ms: 50, network_ms: 900 };
        let slow_disk = BusyTime { disk_ms: 710, md5_ms: 60, network_ms: 80 };
        let limit = |receiver| Bottleneck::of_sender(sender, receiver, Duration::from_secs(1));
        assert_eq!(limit(slow_disk).unwrap().to_string(), "the receiver's disk, 71 % of the time");
        let waits = BusyTime { disk_ms: 10, md5_ms: 10, network_ms: 850 };
        assert_eq!(limit(waits), Some(Bottleneck { stage: Stage::Network, percent: 85 }));
        let sees = Bottleneck::of_receiver(waits, Duration::from_secs(1)).unwrap();
        assert_eq!(sees.stage, Stage::Arrival);
        assert_eq!(Bottleneck::of_sender(BusyTime::default(), BusyTime::default(), Duration::ZERO), None);
        let liar = BusyTime { disk_ms: u64::MAX, ..BusyTime::default() };
        assert_eq!(limit(liar).unwrap().percent, 100, "a peer's numbers cannot be trusted to make sense");
    }
}
