//! Byte counts of one file, over all sessions of a transfer.

/// What was sent of a file, and what the receiver had of it. Bytes that are sent again after a lost connection are
/// counted again.
#[derive(Debug, Default)]
pub struct ByteLedger {
    /// Sent in this session.
    body_bytes: u64,
    hole_bytes: u64,
    /// Sent in sessions whose connection was lost.
    lost_body_bytes: u64,
    lost_hole_bytes: u64,
    /// Present at the receiver when this session requested the file.
    present_bytes: u64,
    /// Present at the receiver before this transfer.
    resumed_bytes: u64,
    /// The maximum of `present_bytes` over all sessions.
    max_present_bytes: u64,
    /// Reported as done by lost sessions, until it is known what the receiver has of it.
    uncertain_bytes: u64,
}

/// The origin of a stored file's bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ByteTotals {
    /// Present before this transfer.
    pub resumed_bytes: u64,
    /// Holes, which have no bytes on the wire.
    pub hole_bytes: u64,
    /// Sent again because a connection was lost.
    pub repeated_bytes: u64,
}

impl ByteLedger {
    pub fn add_sent(&mut self, body_bytes: u64, hole_bytes: u64) {
        self.body_bytes += body_bytes;
        self.hole_bytes += hole_bytes;
    }

    /// Uncounts bytes of a body that were not sent, because the connection ended, or were damaged on the way.
    pub fn undo_sent(&mut self, bytes: u64) {
        self.body_bytes = self.body_bytes.saturating_sub(bytes);
    }

    /// Uncounts all bodies of this session, which the receiver did not need. Returns their bytes.
    pub fn revoke(&mut self) -> u64 {
        std::mem::take(&mut self.body_bytes)
    }

    /// Sets how many bytes of the file the receiver has. Returns by how many that exceeds the maximum so far.
    pub fn set_present(&mut self, bytes: u64) -> u64 {
        self.present_bytes = bytes;
        if !self.was_lost() {
            self.resumed_bytes = bytes;
        }
        let growth = bytes.saturating_sub(self.max_present_bytes);
        self.max_present_bytes += growth;
        growth
    }

    /// The session lost its connection.
    pub fn on_connection_lost(&mut self) {
        self.uncertain_bytes += self.done_bytes();
        self.lost_body_bytes += std::mem::take(&mut self.body_bytes);
        self.lost_hole_bytes += std::mem::take(&mut self.hole_bytes);
        self.present_bytes = 0;
    }

    /// Was any of it sent in a session whose connection was lost?
    pub fn was_lost(&self) -> bool {
        self.lost_body_bytes + self.lost_hole_bytes > 0
    }

    /// Bytes that were present when this session began, or were sent in it.
    pub fn done_bytes(&self) -> u64 {
        self.present_bytes + self.body_bytes + self.hole_bytes
    }

    /// Returns the bytes that lost sessions reported as done, once: the caller reports them as undone when this
    /// session's share is known.
    pub fn take_uncertain(&mut self) -> u64 {
        std::mem::take(&mut self.uncertain_bytes)
    }

    /// The totals of a stored file.
    pub fn totals(&self, size_bytes: u64) -> ByteTotals {
        // The receiver may have discarded what was present before.
        let resumed_bytes = self.resumed_bytes.min(self.present_bytes);
        let hole_bytes = self.lost_hole_bytes + self.hole_bytes;
        let sent_bytes = self.lost_body_bytes + self.body_bytes + hole_bytes;
        let repeated = sent_bytes.saturating_sub(size_bytes - resumed_bytes.min(size_bytes));
        // Repeated bytes are counted as holes first: which ones they were is unknown.
        let repeated_holes = hole_bytes.min(repeated);
        ByteTotals {
            resumed_bytes,
            hole_bytes: hole_bytes - repeated_holes,
            repeated_bytes: repeated - repeated_holes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_lost_session_do_not_count_as_resumed() {
        let mut file = ByteLedger::default();
        file.add_sent(200, 0);
        file.undo_sent(10);
        file.on_connection_lost();
        assert_eq!((file.done_bytes(), file.take_uncertain(), file.take_uncertain()), (0, 190, 0));
        file.set_present(150);
        file.add_sent(50, 0);
        file.on_connection_lost();
        file.set_present(180);
        file.add_sent(120, 0);
        assert_eq!(file.done_bytes(), 300);
        assert_eq!(file.totals(300), ByteTotals { repeated_bytes: 60, ..ByteTotals::default() });
    }

    #[test]
    fn bytes_of_an_earlier_run_count_once_after_several_reconnects() {
        let mut file = ByteLedger::default();
        file.set_present(100);
        file.on_connection_lost();
        file.set_present(100);
        file.add_sent(120, 0);
        file.on_connection_lost();
        file.set_present(200);
        file.add_sent(100, 0);
        let totals = ByteTotals { resumed_bytes: 100, hole_bytes: 0, repeated_bytes: 20 };
        assert_eq!(file.totals(300), totals);
        // The receiver discarded its copy.
        file.on_connection_lost();
        file.add_sent(300, 0);
        assert_eq!(file.totals(300).resumed_bytes, 0);
    }

    #[test]
    fn holes_are_limited_by_the_size_of_the_file() {
        let mut file = ByteLedger::default();
        file.add_sent(10, 80);
        file.on_connection_lost();
        file.add_sent(20, 80);
        assert_eq!(file.totals(100), ByteTotals { hole_bytes: 70, ..ByteTotals::default() });
    }

    #[test]
    fn only_growth_beyond_the_maximum_counts_as_progress() {
        let mut file = ByteLedger::default();
        let growth = [100, 100, 50, 120, 0, 120, 130].map(|bytes| {
            file.on_connection_lost();
            file.set_present(bytes)
        });
        assert_eq!(growth, [100, 0, 0, 20, 0, 0, 10]);
    }

    #[test]
    fn revoked_bytes_are_counted_once() {
        let mut file = ByteLedger::default();
        file.add_sent(7, 0);
        assert_eq!((file.revoke(), file.revoke(), file.done_bytes()), (7, 0, 0));
    }
}
