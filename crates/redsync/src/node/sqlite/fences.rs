//! The counters of fences in the file. They outlive leases, processes and boots.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::store::Change;
use crate::clock::{Clock, SystemClock};
use crate::protocol::{Fence, LockName, Proposal};

impl Change<'_> {
    /// Counts a grant to one who asks for a fence. Nothing where the counter is at its end.
    pub(super) fn count_grant(&self, name: &LockName, proposal: Proposal) -> rusqlite::Result<Option<Fence>> {
        let counted = Fence::count(self.fence(name)?, proposal.fence, SystemClock.wall_micros());
        counted.map(|counted| self.raise(name, Proposal { fence: counted, ..proposal })).transpose()
    }

    /// Raises the counter, if it is lower, and says where it stands.
    pub(super) fn raise(&self, name: &LockName, proposal: Proposal) -> rusqlite::Result<Fence> {
        let fence = self.fence(name)?.map_or(proposal.fence, |fence| fence.max(proposal.fence));
        let kept_until = micros(SystemClock.wall_micros()).saturating_add(retention(proposal.retention));
        self.transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO redsync_fences (name, fence, kept_until) VALUES (?1, ?2, ?3)",
            )?
            .execute((name.as_str(), fence.as_u64().cast_signed(), kept_until))?;
        Ok(fence)
    }

    pub(super) fn fence(&self, name: &LockName) -> rusqlite::Result<Option<Fence>> {
        fence(&self.transaction, name)
    }
}

/// Where the lock's counter stands, if it has one.
pub(super) fn fence(connection: &Connection, name: &LockName) -> rusqlite::Result<Option<Fence>> {
    connection
        .prepare_cached("SELECT fence FROM redsync_fences WHERE name = ?1 AND kept_until > ?2")?
        .query_row((name.as_str(), micros(SystemClock.wall_micros())), |row| row.get(0).map(read))
        .optional()
}

/// What is no fence was not written by this library: nothing is larger.
pub(super) fn read(column: i64) -> Fence {
    Fence::new(column.cast_unsigned()).unwrap_or(Fence::MAX)
}

/// Microseconds, as a column holds them.
pub(super) fn micros(micros: u64) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX)
}

pub(super) fn retention(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
