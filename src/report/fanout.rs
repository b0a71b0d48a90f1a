//! One event, several outputs.

use crate::event::{Event, Reporter};

/// Passes each event of a session to all its reporters, in order. They are dropped in the same order.
pub struct Fanout<'a>(pub(super) Vec<Box<dyn Reporter + 'a>>);

impl Reporter for Fanout<'_> {
    fn report(&self, event: Event<'_>) {
        self.0.iter().for_each(|reporter| reporter.report(event));
    }
}
