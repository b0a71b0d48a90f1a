//! The stages that involve a receiver: the wire, and the receiver's own MD5 and disk.

use super::error::BenchError;
use super::options::Options;
use super::peer::{MeasuringPeer, rate};
use super::report::StageResult;
use super::stage_observer::StageObserver;
use crate::event::Event;
use crate::net::Target;
use crate::wire::message::Measurable;

/// Measures the wire to `host`, its MD5 and its disk, in this order.
pub fn measure(
    options: &Options,
    host: &Target,
    observer: &dyn StageObserver,
) -> Result<[StageResult; 3], BenchError> {
    let mut peer = MeasuringPeer::connect(host, options.port, options.timeout, &options.cancel)?;
    let wire = measure_wire(&mut peer, options.size_bytes, observer)?;
    let mut stage = |what, text| {
        let _shown = observer.remote_stage(text);
        peer.stage(what, options.size_bytes)
    };
    let md5 = stage(Measurable::Md5, "The receiver measures its MD5")?;
    let write = stage(Measurable::Write, "The receiver measures its disk")?;
    peer.finish()?;
    Ok([
        StageResult { note: format!("to {host}, one connection"), ..wire },
        StageResult {
            label: "MD5",
            rate: rate(md5),
            note: "at the receiver, parts in parallel".into(),
            limits_as: Some("MD5 at the receiver"),
        },
        StageResult {
            label: "disk write",
            rate: rate(write),
            note: format!("at the receiver, {}", write_note(write.memory)),
            limits_as: Some(if write.memory { "writing at the receiver" } else { "the receiver's disk" }),
        },
    ])
}

/// How a disk write was measured.
pub fn write_note(in_memory: bool) -> &'static str {
    if in_memory { "no disk: the folder is in memory (tmpfs)" } else { "synced" }
}

/// Measures the wire to `peer` with at most `max_bytes` at a time.
pub fn measure_wire(
    peer: &mut MeasuringPeer,
    max_bytes: u64,
    observer: &dyn StageObserver,
) -> Result<StageResult, BenchError> {
    let reporter = observer.stage("wire");
    let on_round = |bytes| reporter.report(Event::Planned { files: 0, bytes });
    let on_sent = |bytes| reporter.report(Event::Transferred { bytes });
    let rate = peer.wire(max_bytes, on_round, on_sent)?;
    Ok(StageResult { label: "wire", rate, note: String::new(), limits_as: Some("the wire") })
}
