//! Every number that the protocol page states as a limit is the one in the code.

use std::collections::BTreeMap;

use crate::digest::{MAX_ETAG_PARTS, PART_BYTES};
use crate::net::MIN_RATE_BYTES_PER_S;
use crate::recv::admission::evict::MAX_ENTRIES;
use crate::recv::admission::limits::{CLIENT_FRACTION, MAX_LIMITS};
use crate::recv::connection_reader::HANDSHAKE_TIME;
use crate::recv::native::file_table::MAX_STAGED;
use crate::recv::registry::MAX_JOINED;
use crate::relpath::{MAX_COMPONENT_BYTES, MAX_COMPONENTS, MAX_PATH_BYTES};
use crate::wire::frame::{MAX_JSON_BYTES, MAX_JSON_DEPTH};
use crate::wire::id_ranges::MAX_RANGES;
use crate::wire::limits::{MAX_DIGESTS_A_FRAME, MAX_HOLES_AHEAD, MAX_SENTENCE_BYTES};
use crate::wire::{
    MAX_ENTRIES_IN_FLIGHT, MAX_ETAGS_A_FRAME, MAX_KEPT_DIGESTS, MAX_KEPT_IN_FLIGHT, MAX_MEASURE_BYTES,
    MAX_MEASURES, MAX_NAME_BYTES_IN_FLIGHT, MAX_TRIES_A_PART, SMALL_FILE_BYTES,
};

const PAGE: &str = include_str!("../../docs/protocol.md");

#[test]
fn the_table_of_limits_is_that_of_the_code() {
    let table =
        PAGE.split("\n## 11. Limits\n").nth(1).and_then(|rest| rest.split("\nThe limits of time").next());
    let rows: BTreeMap<&str, &str> = table
        .expect("a table of limits")
        .lines()
        .filter_map(|handle| {
            let mut cells = handle.strip_prefix("| ")?.split(" | ");
            Some((cells.next()?, cells.next()?))
        })
        .collect();
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    for (what, limit) in [
        ("JSON of a frame", format!("1 to {MAX_JSON_BYTES} bytes")),
        ("nesting of the JSON", MAX_JSON_DEPTH.to_string()),
        ("entries in flight", MAX_ENTRIES_IN_FLIGHT.to_string()),
        (
            "names of entries in flight, with the targets of links",
            format!("less than {} before another `entry`", mib(MAX_NAME_BYTES_IN_FLIGHT as u64)),
        ),
        ("entries in one `want` or `stored`", MAX_ENTRIES_IN_FLIGHT.to_string()),
        ("size of a part", mib(PART_BYTES)),
        ("a file that is sent unasked", format!("{} KiB", SMALL_FILE_BYTES >> 10)),
        ("one part damaged in a row", MAX_TRIES_A_PART.to_string()),
        ("files in arrival at once, at this receiver", MAX_STAGED.to_string()),
        (
            "separate runs of zeros in a file, at this receiver",
            format!("{MAX_HOLES_AHEAD} more than parts with digests or bodies"),
        ),
        ("a path, a link's target", format!("{MAX_PATH_BYTES} bytes")),
        ("a component", format!("{MAX_COMPONENT_BYTES} bytes")),
        ("components of a path", MAX_COMPONENTS.to_string()),
        ("`message` of an `error`", format!("{MAX_SENTENCE_BYTES} bytes")),
        ("size of a `measure`", format!("{} GiB", MAX_MEASURE_BYTES >> 30)),
        ("`measure` in a session", MAX_MEASURES.to_string()),
        (
            "from the connection to the end of the first frame",
            format!("{} seconds, or `--timeout` where that is less", HANDSHAKE_TIME.as_secs()),
        ),
        (
            "a body that is waited for, at a receiver",
            format!("{MIN_RATE_BYTES_PER_S} bytes a second, averaged over 5 times the silence (5 minutes)"),
        ),
        ("connections that are not served yet, at this receiver", MAX_LIMITS.pending.to_string()),
        (
            "sessions, at this receiver",
            format!("{}, {} of one address", MAX_LIMITS.active, MAX_LIMITS.active / CLIENT_FRACTION),
        ),
        ("entries in flight in all sessions, at this receiver", MAX_ENTRIES.to_string()),
    ] {
        assert_eq!(rows.get(what), Some(&limit.as_str()), "{what}");
    }
}

#[test]
fn the_limits_in_the_text_are_those_of_the_code() {
    // However the lines are broken.
    let words: Vec<&str> = PAGE.split_whitespace().collect();
    let text = words.join(" ");
    for sentence in [
        format!("further connections may join the session, at most {MAX_JOINED} |"),
        format!("ftx writes at most {MAX_RANGES} runs in one frame"),
        format!("the digests of this part and of those behind it; at most {MAX_DIGESTS_A_FRAME}"),
        format!("of more than {MAX_KEPT_DIGESTS} digests or runs of zeros"),
        format!("beyond {MAX_KEPT_IN_FLIGHT} digests and runs of files in flight"),
        format!("ftx names at most {MAX_ETAGS_A_FRAME} entries in a frame with etags"),
        format!("A file of more than {MAX_ETAG_PARTS} parts"),
        format!("A file is divided into parts of 8 MiB ({PART_BYTES} bytes)"),
        format!("ftx takes {MAX_STAGED}, and fails the next file"),
        format!("(ftx: {MAX_HOLES_AHEAD} more than the parts whose digests or bodies have arrived)"),
    ] {
        assert!(text.contains(&sentence), "{sentence}");
    }
}
