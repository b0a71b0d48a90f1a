//! What of a file has gone to the receiver, over all connections of a run.

/// The bytes of one file. What had to go again because a connection was lost counts again.
#[derive(Debug, Default)]
pub struct ByteLedger {
    /// On this connection.
    body_bytes: u64,
    hole_bytes: u64,
    /// On connections that were lost.
    lost_body_bytes: u64,
    lost_hole_bytes: u64,
    /// What the receiver had when this connection took the file up, and what when the run began.
    there_bytes: u64,
    resumed_bytes: u64,
    /// The most that it ever had.
    kept_bytes: u64,
    /// What a lost connection did, as long as nobody knows what has become of it.
    uncertain_bytes: u64,
}

/// How the bytes of a file in place came there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ByteTotals {
    /// There before this run.
    pub resumed_bytes: u64,
    /// Holes, which did not have to move.
    pub hole_bytes: u64,
    /// Went once more than they had to, because a connection was lost.
    pub repeated_bytes: u64,
}

impl ByteLedger {
    /// These go now.
    pub fn sent(&mut self, body_bytes: u64, hole_bytes: u64) {
        self.body_bytes += body_bytes;
        self.hole_bytes += hole_bytes;
    }

    /// So much of a body that was counted did not arrive after all: its connection ended before, or it was damaged.
    pub fn unsent(&mut self, bytes: u64) {
        self.body_bytes = self.body_bytes.saturating_sub(bytes);
    }

    /// What went on this connection was of no use: returns how much that is.
    pub fn revoke(&mut self) -> u64 {
        std::mem::take(&mut self.body_bytes)
    }

    /// The receiver has so much of the file. Returns by how much that is more than it ever had before.
    pub fn set_present(&mut self, bytes: u64) -> u64 {
        self.there_bytes = bytes;
        if !self.was_lost() {
            self.resumed_bytes = bytes;
        }
        let grown = bytes.saturating_sub(self.kept_bytes);
        self.kept_bytes += grown;
        grown
    }

    /// The connection is lost.
    pub fn lost(&mut self) {
        self.uncertain_bytes += self.done_bytes();
        self.lost_body_bytes += std::mem::take(&mut self.body_bytes);
        self.lost_hole_bytes += std::mem::take(&mut self.hole_bytes);
        self.there_bytes = 0;
    }

    /// Has any of it gone on a connection that was lost?
    pub fn was_lost(&self) -> bool {
        self.lost_body_bytes + self.lost_hole_bytes > 0
    }

    /// How much of the file is there or has gone, as this connection knows.
    pub fn done_bytes(&self) -> u64 {
        self.there_bytes + self.body_bytes + self.hole_bytes
    }

    /// What was done on lost connections, when it becomes known what this one has to do.
    pub fn take_uncertain(&mut self) -> u64 {
        std::mem::take(&mut self.uncertain_bytes)
    }

    /// The file is in place.
    pub fn totals(&self, size_bytes: u64) -> ByteTotals {
        // Unless the receiver did not believe it later.
        let resumed_bytes = self.resumed_bytes.min(self.there_bytes);
        let hole_bytes = self.lost_hole_bytes + self.hole_bytes;
        let gone_bytes = self.lost_body_bytes + self.body_bytes + hole_bytes;
        let twice = gone_bytes.saturating_sub(size_bytes - resumed_bytes.min(size_bytes));
        // Where nobody knows which, it was holes.
        let holes_twice = hole_bytes.min(twice);
        ByteTotals {
            resumed_bytes,
            hole_bytes: hole_bytes - holes_twice,
            repeated_bytes: twice - holes_twice,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_run_brought_before_it_lost_its_connection_was_not_there_before() {
        let mut file = ByteLedger::default();
        file.sent(200, 0);
        file.unsent(10);
        file.lost();
        assert_eq!((file.done_bytes(), file.take_uncertain(), file.take_uncertain()), (0, 190, 0));
        file.set_present(150);
        file.sent(50, 0);
        file.lost();
        file.set_present(180);
        file.sent(120, 0);
        assert_eq!(file.done_bytes(), 300);
        assert_eq!(file.totals(300), ByteTotals { repeated_bytes: 60, ..ByteTotals::default() });
    }

    #[test]
    fn what_an_earlier_run_left_counts_once_however_often_it_is_taken_up() {
        let mut file = ByteLedger::default();
        file.set_present(100);
        file.lost();
        file.set_present(100);
        file.sent(120, 0);
        file.lost();
        file.set_present(200);
        file.sent(100, 0);
        let account = ByteTotals { resumed_bytes: 100, hole_bytes: 0, repeated_bytes: 20 };
        assert_eq!(file.totals(300), account);
        // The receiver began anew.
        file.lost();
        file.sent(300, 0);
        assert_eq!(file.totals(300).resumed_bytes, 0);
    }

    #[test]
    fn holes_do_not_move_and_are_not_more_than_the_file() {
        let mut file = ByteLedger::default();
        file.sent(10, 80);
        file.lost();
        file.sent(20, 80);
        assert_eq!(file.totals(100), ByteTotals { hole_bytes: 70, ..ByteTotals::default() });
    }

    #[test]
    fn what_is_kept_grows_only_beyond_what_it_ever_was() {
        let mut file = ByteLedger::default();
        let grown = [100, 100, 50, 120, 0, 120, 130].map(|bytes| {
            file.lost();
            file.set_present(bytes)
        });
        assert_eq!(grown, [100, 0, 0, 20, 0, 0, 10]);
    }

    #[test]
    fn what_was_of_no_use_is_taken_back() {
        let mut file = ByteLedger::default();
        file.sent(7, 0);
        assert_eq!((file.revoke(), file.revoke(), file.done_bytes()), (7, 0, 0));
    }
}
