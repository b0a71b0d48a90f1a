//! Progress of a measurement.

use crate::event::Reporter;

/// Shows the progress of a measurement.
pub trait StageObserver {
    /// A stage of this process begins, and ends when the returned reporter is dropped.
    fn stage(&self, title: &str) -> Box<dyn Reporter + '_>;
    /// A stage of the receiver begins, and ends when the returned value is dropped. It has no events.
    fn remote_stage(&self, text: &str) -> Box<dyn Send + '_>;
}
