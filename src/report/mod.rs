//! Output for people: the screen, progress bars, closing lines, checksum lists.
//!
//! The only box that prints. Results go to standard output, everything else to standard error. All of it goes through
//! the queues of `console`, except the lists of `--md5sum`, which must not lose a line.

mod bars;
mod bench_table;
mod checksum_list;
mod console;
mod counters;
mod diagnostic;
mod fanout;
mod first_failure;
mod format;
mod interrupt_notice;
mod list_reporter;
mod manifest;
mod notes;
mod printer;
mod screen;
mod summary;
mod throttle;
mod totals;
mod ui;

pub use counters::Role;
pub use diagnostic::Diagnostic;
pub use fanout::Fanout;
pub use interrupt_notice::{ForcedExit, InterruptNotice};
pub use manifest::{ManifestError, WriteMode};
pub use ui::{OutputOptions, Spinner, Ui};
