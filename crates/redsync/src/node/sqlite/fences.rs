//! The counters of fences in the file. They outlive leases, processes and boots.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::store::Change;
use crate::clock::Clock;
use crate::protocol::{Fence, LockName, Proposal};

impl Change<'_> {
    /// Counts a grant to one who asks for a fence. Nothing where the counter is at its end.
    pub(super) fn count_grant(&self, name: &LockName, proposal: Proposal) -> rusqlite::Result<Option<Fence>> {
        let counter = self.counter(name)?;
        let fence = counter.and_then(read);
        if counter.is_some() && fence.is_none() {
            return Ok(None);
        }
        match Fence::count(fence, proposal.fence, self.clock.wall_micros()) {
            Some(counted) => self.raise(name, Proposal { fence: counted, ..proposal }),
            None => Ok(None),
        }
    }

    /// The same of a hand-over, which is granted whether it can be counted or not.
    pub(super) fn count_hand_over(
        &self,
        name: &LockName,
        proposal: Proposal,
    ) -> rusqlite::Result<Option<Fence>> {
        let counted = self.count_grant(name, proposal)?;
        if counted.is_none() {
            self.write(name, SPENT, proposal.retention)?;
        }
        Ok(counted)
    }

    /// Raises the counter, if it is lower, and says where it stands.
    pub(super) fn raise(&self, name: &LockName, proposal: Proposal) -> rusqlite::Result<Option<Fence>> {
        let proposed = proposal.fence.as_u64().cast_signed();
        let number = self.counter(name)?.map_or(proposed, |counter| counter.max(proposed));
        self.write(name, number, proposal.retention)?;
        Ok(read(number))
    }

    /// Keeps the counter, if there is one, for as long as is asked for from now on, and says where it stands.
    pub(super) fn keep(&self, name: &LockName, proposal: Proposal) -> rusqlite::Result<Option<Fence>> {
        let Some(number) = self.counter(name)? else { return Ok(None) };
        self.write(name, number, proposal.retention)?;
        Ok(read(number))
    }

    fn write(&self, name: &LockName, number: i64, kept: Duration) -> rusqlite::Result<()> {
        let kept_until = micros(self.clock.wall_micros()).saturating_add(retention(kept));
        self.transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO redsync_fences (name, fence, kept_until) VALUES (?1, ?2, ?3)",
            )?
            .execute((name.as_str(), number, kept_until))
            .map(drop)
    }

    pub(super) fn fence(&self, name: &LockName) -> rusqlite::Result<Option<Fence>> {
        Ok(self.counter(name)?.and_then(read))
    }

    fn counter(&self, name: &LockName) -> rusqlite::Result<Option<i64>> {
        counter(&self.transaction, name, &*self.clock)
    }
}

/// Where the lock's counter stands, if it has one.
pub(super) fn fence(
    connection: &Connection,
    name: &LockName,
    clock: &dyn Clock,
) -> rusqlite::Result<Option<Fence>> {
    Ok(counter(connection, name, clock)?.and_then(read))
}

fn counter(connection: &Connection, name: &LockName, clock: &dyn Clock) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT fence FROM redsync_fences WHERE name = ?1 AND kept_until > ?2")?
        .query_row((name.as_str(), micros(clock.wall_micros())), |row| row.get(0))
        .optional()
}

/// The fence that a column holds.
pub(super) fn read(column: i64) -> Option<Fence> {
    Fence::new(column.cast_unsigned()).ok()
}

/// Stands in place of a counter that was at its end when somebody was granted the lease, who is not told another's fence.
const SPENT: i64 = i64::MAX;

/// Microseconds, as a column holds them.
pub(super) fn micros(micros: u64) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX)
}

pub(super) fn retention(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
