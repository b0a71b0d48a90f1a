//! The thread that finds the files, folders and links to send.

use crossbeam_channel::Sender;

use crate::event::{Event, Reporter};
use crate::source::{self, Root, WalkItem};

/// What the walker hands to the announcer.
pub enum WalkEvent {
    Item(WalkItem),
    /// All files are found; folders and links follow.
    FilesComplete,
}

/// Sends everything below `roots` to `announcer`, files first, until that is closed or `go_on` returns `false`.
pub fn walk(
    roots: &[Root],
    announcer: Sender<WalkEvent>,
    progress: &dyn Reporter,
    go_on: impl Fn() -> bool + Copy,
) {
    let reported = source::walk_files(roots, go_on, |found| {
        if let WalkItem::File(source) = &found {
            progress.report(Event::Planned { files: 1, bytes: source.size_bytes });
        }
        announcer.send(WalkEvent::Item(found)).is_ok()
    });
    if !go_on() {
        return;
    }
    progress.report(Event::PlanComplete);
    if announcer.send(WalkEvent::FilesComplete).is_ok() {
        source::walk_dirs_and_links(roots, &reported, go_on, |found| {
            announcer.send(WalkEvent::Item(found)).is_ok()
        });
    }
}
