//! The sessions of a receiver, as the screen shows them.

use std::time::Duration;

use crate::dest::local::Unfinished;
use crate::event::{Reporter, Summary};
use crate::net::Peer;
use crate::recv::{Observer, RecvError};
use crate::report::{Diagnostic, Ui};

/// Passes the sessions of a receiver to the screen.
pub struct SessionObserver<'a> {
    ui: &'a Ui,
    /// Printed before the bars instead of the address of the peer.
    title: Option<&'static str>,
}

impl<'a> SessionObserver<'a> {
    /// The address of the peer is the title of each session.
    pub fn new(ui: &'a Ui) -> Self {
        SessionObserver { ui, title: None }
    }

    /// With `title` for each session.
    pub fn with_title(ui: &'a Ui, title: &'static str) -> Self {
        SessionObserver { ui, title: Some(title) }
    }
}

impl Observer for SessionObserver<'_> {
    fn unfinished(&self, unfinished: &Unfinished) {
        self.ui.unfinished(unfinished);
    }

    fn started(&self, peer: &Peer) -> Box<dyn Reporter + '_> {
        Box::new(match self.title {
            Some(title) => self.ui.session(title),
            None => self.ui.session(&format!("from {}", peer.host())),
        })
    }

    fn lost(&self, peer: &Peer, error: &RecvError, wait: Duration) {
        self.ui.session_lost(&peer.host(), error, wait);
    }

    fn ended(&self, peer: &Peer, outcome: &Result<Summary, RecvError>) {
        match outcome {
            Ok(summary) => self.ui.received(&peer.host(), summary),
            Err(RecvError::Interrupted) => self.ui.session_interrupted(),
            Err(error) => self.ui.session_failed(&peer.host(), error, Diagnostic::from(error)),
        }
    }
}
