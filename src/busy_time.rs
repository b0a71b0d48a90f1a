//! Busy time of the stages of a transfer, and the bottleneck that follows from it.

use std::fmt::{self, Display};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Sums the time that several threads spend in one stage.
#[derive(Debug, Default)]
pub struct Stopwatch(AtomicU64);

impl Stopwatch {
    /// Runs `work` and adds its duration.
    pub fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        self.add(start.elapsed());
        done
    }

    /// Adds a duration measured by the caller.
    pub fn add(&self, time: Duration) {
        self.0.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// The sum of all threads.
    pub fn spent(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// Busy time of one end, in milliseconds of the busiest thread of each stage. The stages overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BusyTime {
    /// Reading, writing, renaming and syncing files.
    pub disk_ms: u64,
    /// Computing digests.
    pub md5_ms: u64,
    /// At the sender, writing to connections; at the receiver, waiting for them.
    pub network_ms: u64,
}

/// A stage of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferStage {
    /// The sender's disk.
    SendersDisk,
    /// The sender's digests.
    SendersMd5,
    /// The network.
    Network,
    /// The receiver's disk.
    ReceiversDisk,
    /// The receiver's digests.
    ReceiversMd5,
    /// The network or the sender, which a receiver cannot distinguish.
    NetworkOrSender,
}

/// The stage that was busy longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bottleneck {
    /// The stage.
    pub stage: TransferStage,
    /// Its share of the elapsed time, 0 to 100.
    pub percent: u8,
}

impl Bottleneck {
    /// The bottleneck of a transfer that took `elapsed`, from the times of both ends; `None` if all times are 0.
    pub fn of_sender(sender: BusyTime, receiver: BusyTime, elapsed: Duration) -> Option<Bottleneck> {
        // The network is the bottleneck while the sender waits to write and the receiver waits for bytes.
        let network_ms = sender.network_ms.min(receiver.network_ms);
        let stages = [
            (TransferStage::SendersDisk, sender.disk_ms),
            (TransferStage::SendersMd5, sender.md5_ms),
            (TransferStage::Network, network_ms),
            (TransferStage::ReceiversDisk, receiver.disk_ms),
            (TransferStage::ReceiversMd5, receiver.md5_ms),
        ];
        longest(&stages, elapsed)
    }

    /// The bottleneck as far as the receiver alone can tell.
    pub fn of_receiver(receiver: BusyTime, elapsed: Duration) -> Option<Bottleneck> {
        let stages = [
            (TransferStage::NetworkOrSender, receiver.network_ms),
            (TransferStage::ReceiversDisk, receiver.disk_ms),
            (TransferStage::ReceiversMd5, receiver.md5_ms),
        ];
        longest(&stages, elapsed)
    }
}

fn longest(stages: &[(TransferStage, u64)], elapsed: Duration) -> Option<Bottleneck> {
    let &(stage, ms) = stages.iter().max_by_key(|(_, ms)| *ms).filter(|(_, ms)| *ms > 0)?;
    let percent = u128::from(ms) * 100 / elapsed.as_millis().max(1);
    Some(Bottleneck { stage, percent: percent.min(100) as u8 })
}

impl Display for Bottleneck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            TransferStage::SendersDisk => "the sender's disk",
            TransferStage::SendersMd5 => "the sender's MD5",
            TransferStage::Network => "the network",
            TransferStage::ReceiversDisk => "the receiver's disk",
            TransferStage::ReceiversMd5 => "the receiver's MD5",
            TransferStage::NetworkOrSender => "the network or the sender",
        };
        write!(f, "{stage}, {} % of the time", self.percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_stage_is_the_bottleneck() {
        let sender = BusyTime { disk_ms: 100, md5_ms: 50, network_ms: 900 };
        let slow_disk = BusyTime { disk_ms: 710, md5_ms: 60, network_ms: 80 };
        let limit = |receiver| Bottleneck::of_sender(sender, receiver, Duration::from_secs(1));
        assert_eq!(limit(slow_disk).unwrap().to_string(), "the receiver's disk, 71 % of the time");
        let idle = BusyTime { disk_ms: 10, md5_ms: 10, network_ms: 850 };
        assert_eq!(limit(idle), Some(Bottleneck { stage: TransferStage::Network, percent: 85 }));
        let receiver_view = Bottleneck::of_receiver(idle, Duration::from_secs(1)).unwrap();
        assert_eq!(receiver_view.stage, TransferStage::NetworkOrSender);
        assert_eq!(Bottleneck::of_sender(BusyTime::default(), BusyTime::default(), Duration::ZERO), None);
        let wrong = BusyTime { disk_ms: u64::MAX, ..BusyTime::default() };
        assert_eq!(limit(wrong).unwrap().percent, 100, "a peer may report wrong numbers");
    }
}
