//! The queue in the file: who waits for a name, who is next, and what of it concerns those who look.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::fences::{self, fence, retention};
use super::process::Process;
use super::store::{Change, Standing, Store, nanos, now_nanos, standing};
use crate::node::{
    ClientId, Entered, Grant, Holder, Look, NodeFault, Place, Placed, QueueEntry, Released, Succession,
    TimeLeft,
};
use crate::protocol::{LockName, Proposal, Round, Ticket, Token};

impl Store {
    pub(super) fn enter(&mut self, client: &ClientId, places: &[Place]) -> Result<Entered, NodeFault> {
        let Some(first) = places.first() else {
            return Err(NodeFault::refused("PLACES", "a place in the queue was asked for nobody"));
        };
        let name = &first.claim.name;
        self.make_room()?;
        self.change(|change| {
            let standing = change.standing(name)?;
            for place in places {
                match &standing {
                    Some(lease) if lease.token == place.claim.token.as_str() => {
                        change.grant(&place.claim)?;
                        place.claim.fence.map(|proposal| change.keep(name, proposal)).transpose()?;
                    }
                    _ => change.take_place(client, place)?,
                }
            }
            if standing.is_none() {
                change.hand_over(name, places)?;
            }
            change.entered(name, places)
        })
    }

    pub(super) fn yield_lease(&mut self, client: &ClientId, place: &Place) -> Result<Entered, NodeFault> {
        let (name, token, places) = (&place.claim.name, &place.claim.token, std::slice::from_ref(place));
        self.make_room()?;
        self.change(|change| {
            change.take_place(client, place)?;
            if change.standing(name)?.is_none_or(|lease| lease.token == token.as_str()) {
                change.hand_over(name, places)?;
            }
            change.entered(name, places)
        })
    }

    pub(super) fn release(
        &mut self,
        name: &LockName,
        token: &Token,
        succession: Succession,
    ) -> Result<Released, NodeFault> {
        self.change(|change| change.release(name, token, succession))
    }

    /// Releases each of `places`, all in one step.
    pub(super) fn leave(&mut self, places: &[(LockName, Token)]) -> Result<(), NodeFault> {
        if places.is_empty() {
            return Ok(());
        }
        self.change(|change| {
            for (name, token) in places {
                change.release(name, token, Succession::HandOver)?;
            }
            Ok(())
        })
    }

    pub(super) fn inspect(&mut self, name: &LockName) -> Result<Look, NodeFault> {
        let clock = Arc::clone(&self.clock);
        self.read(|connection, boot| {
            // One view of the file for all that is said of it. It is only read in: there is nothing to commit.
            let view = connection.unchecked_transaction()?;
            let holder = standing(&view, name, boot, || now_nanos(&*clock))?.map(Standing::holder);
            let queue = view
                .prepare_cached(
                    "SELECT token, ticket FROM redsync_line WHERE name = ?1 ORDER BY ticket, token LIMIT ?2",
                )?
                .query_map((name.as_str(), Look::SHOWN as i64), |row| {
                    Ok(QueueEntry::new(row.get::<_, String>(0)?, ticket(row.get(1)?)))
                })?
                .collect::<rusqlite::Result<_>>()?;
            Ok(Look::new(holder, queue, length(&view, name)?).fenced(fence(&view, name, &*clock)?))
        })
    }

    /// The leases that were handed over after `since`, and stand; and when the last of them was.
    pub(super) fn handed_over(&mut self, since: i64) -> Result<(Vec<Grant>, i64), NodeFault> {
        let clock = Arc::clone(&self.clock);
        self.read(|connection, boot| {
            let mut statement = connection.prepare_cached(
                "SELECT name, token, granted, round, fence FROM redsync_leases
                 WHERE round IS NOT NULL AND granted > ?1 AND ends > ?2 AND boot = ?3 ORDER BY granted",
            )?;
            let mut rows = statement.query((since, now_nanos(&*clock), boot))?;
            let (mut grants, mut last) = (Vec::new(), since);
            while let Some(row) = rows.next()? {
                last = row.get(2)?;
                if let Some((name, token)) = whose(row)? {
                    let fence = row.get::<_, Option<i64>>(4)?.and_then(fences::read);
                    grants.push(Grant::new(name, token, Round::new(row.get(3)?)).fenced(fence));
                }
            }
            Ok((grants, last))
        })
    }

    /// Who was to be told after `since` that the lock was let go of; and when the last of them was.
    pub(super) fn freed(&mut self, since: i64) -> Result<(Vec<(LockName, Token)>, i64), NodeFault> {
        self.read(|connection, _| {
            let mut statement = connection.prepare_cached(
                "SELECT name, token, freed FROM redsync_line WHERE freed IS NOT NULL AND freed > ?1 ORDER BY freed",
            )?;
            let mut rows = statement.query([since])?;
            let (mut freed, mut last) = (Vec::new(), since);
            while let Some(row) = rows.next()? {
                last = row.get(2)?;
                freed.extend(whose(row)?);
            }
            Ok((freed, last))
        })
    }
}

/// One who waits.
struct Waiter {
    token: String,
    round: u32,
    expiry: i64,
    /// What it asks for, if it asks for a fence.
    fence: Option<Proposal>,
    deadline: i64,
    boot: String,
    client: String,
    process: Process,
}

impl Change<'_> {
    /// Gives `place` to its token, or renews it.
    fn take_place(&self, client: &ClientId, place: &Place) -> rusqlite::Result<()> {
        let (claim, expiry) = (&place.claim, nanos(place.claim.expiry));
        let row = (
            claim.name.as_str(),
            claim.token.as_str(),
            place.ticket.as_micros().cast_signed(),
            place.round.as_u32(),
            expiry,
            self.after(expiry),
            &self.boot,
            client.as_str(),
            self.process.namespace,
            self.process.pid,
            self.process.begun,
            claim.fence.map(|proposal| proposal.fence.as_u64().cast_signed()),
            claim.fence.map(|proposal| retention(proposal.retention)),
        );
        // Most often a place is renewed, which leaves the order alone.
        let renewed = self
            .transaction
            .prepare_cached(
                "UPDATE redsync_line SET round = ?4, expiry = ?5, deadline = ?6, boot = ?7, client = ?8,
                 namespace = ?9, pid = ?10, begun = ?11, proposal = ?12, retention = ?13, freed = NULL
                 WHERE name = ?1 AND token = ?2 AND ticket = ?3",
            )?
            .execute(row)?;
        if renewed == 0 {
            self.leave(&claim.name, claim.token.as_str())?;
            self.transaction
                .prepare_cached(
                    "INSERT INTO redsync_line
                     (name, token, ticket, round, expiry, deadline, boot, client, namespace, pid, begun,
                      proposal, retention)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
                )?
                .execute(row)?;
        }
        Ok(())
    }

    /// Takes the place from `token`, and says whether it had one.
    fn leave(&self, name: &LockName, token: &str) -> rusqlite::Result<bool> {
        self.transaction
            .prepare_cached("DELETE FROM redsync_line WHERE name = ?1 AND token = ?2")?
            .execute((name.as_str(), token))
            .map(|left| left > 0)
    }

    fn release(&self, name: &LockName, token: &Token, succession: Succession) -> rusqlite::Result<Released> {
        let has_left = self.leave(name, token.as_str())?;
        let (had_it, other) = match self.standing(name)? {
            Some(lease) if lease.token == token.as_str() => (true, None),
            Some(lease) => (false, Some(lease.holder())),
            None => (false, None),
        };
        if other.is_none() {
            match succession {
                Succession::HandOver => self.hand_over(name, &[])?,
                Succession::Barging => self.let_go(name)?,
            }
        }
        Ok(match other {
            _ if had_it => Released::Released,
            _ if has_left => Released::Left,
            Some(holder) => Released::HeldByAnother(holder),
            None => Released::NotHeld,
        })
    }

    /// Gives the lease to the first in the queue, who is told unless it is among those `asking`. Where nobody waits, it ends.
    fn hand_over(&self, name: &LockName, asking: &[Place]) -> rusqlite::Result<()> {
        let Some(first) = self.first(name)? else { return self.end(name) };
        self.leave(name, &first.token)?;
        let is_asking = asking.iter().any(|place| place.claim.token.as_str() == first.token);
        let fence = match first.fence {
            Some(proposal) => self.count_hand_over(name, proposal)?,
            None => None,
        };
        self.let_hold(name, &first.token, first.expiry, (!is_asking).then_some(first.round), fence)
    }

    /// Ends the lease, and leaves a mark for the first in the queue, who keeps its place, that it may ask.
    fn let_go(&self, name: &LockName) -> rusqlite::Result<()> {
        self.end(name)?;
        let Some(first) = self.first(name)? else { return Ok(()) };
        self.transaction
            .prepare_cached("UPDATE redsync_line SET freed = ?3 WHERE name = ?1 AND token = ?2")?
            .execute((name.as_str(), &first.token, self.now))
            .map(drop)
    }

    /// The first in the queue who is alive; of those before it, [`MOST_DROPPED`] are dropped, and the others are passed over.
    ///
    /// SAFETY RULE (protocol §7): whoever let its deadline pass, or cannot be told, is skipped in the same step.
    fn first(&self, name: &LockName) -> rusqlite::Result<Option<Waiter>> {
        let mut statement = self.transaction.prepare_cached(
            "SELECT token, round, expiry, deadline, boot, client, pid, namespace, begun, proposal, retention, ticket
             FROM redsync_line
             WHERE name = ?1 ORDER BY ticket, token",
        )?;
        let (mut rows, mut judged) = (statement.query([name.as_str()])?, HashMap::new());
        let (mut first, mut last_dead, mut dead) = (None, None, 0);
        while let Some(row) = rows.next()? {
            let waiter = Waiter::read(row)?;
            if self.is_alive(&waiter, &mut judged) {
                first = Some(waiter);
                break;
            }
            dead += 1;
            if dead <= MOST_DROPPED {
                last_dead = Some((row.get::<_, i64>(11)?, waiter.token));
            }
        }
        drop(rows);
        if let Some((ticket, token)) = last_dead {
            self.transaction
                .prepare_cached("DELETE FROM redsync_line WHERE name = ?1 AND (ticket, token) <= (?2, ?3)")?
                .execute((name.as_str(), ticket, token))?;
        }
        Ok(first)
    }

    /// A killed process may have left many places behind: each process is judged once.
    fn is_alive(&self, waiter: &Waiter, judged: &mut HashMap<Process, bool>) -> bool {
        // Where boots have no names, a place from the future is one from before a reboot.
        let is_of_this_boot =
            waiter.boot == self.boot && waiter.deadline.saturating_sub(waiter.expiry) <= self.now;
        is_of_this_boot
            && self.now < waiter.deadline
            && !self.listeners.is_gone(&waiter.client)
            && !*judged.entry(waiter.process).or_insert_with(|| waiter.process.is_gone(self.process))
    }

    /// The answer to those who entered.
    fn entered(&self, name: &LockName, places: &[Place]) -> rusqlite::Result<Entered> {
        let holder = self.standing(name)?.map(Standing::holder);
        let holds = |place: &Place| {
            holder.as_ref().is_some_and(|holder| holder.token() == place.claim.token.as_str())
        };
        let positions = match places {
            [only] if holds(only) => vec![0],
            places => self.positions(name, places)?,
        };
        let fence = self.fence(name)?;
        let placed = places.iter().zip(positions).map(|(place, position)| match holds(place) {
            true => Placed::Granted(place.claim.fence.and(fence)),
            false => Placed::Queued(position),
        });
        let placed = placed.collect();
        let holder = holder.unwrap_or_else(|| Holder::new("", TimeLeft::Unknown));
        Ok(Entered::new(placed, holder, self.clock.wall_micros()))
    }

    /// Each place's position in the queue, counted from 1.
    ///
    /// The queue is walked along once at most, however many ask; and where they are among the last, as those who come
    /// are, hardly at all.
    fn positions(&self, name: &LockName, places: &[Place]) -> rusqlite::Result<Vec<u64>> {
        let mut order: Vec<usize> = (0..places.len()).collect();
        order.sort_unstable_by_key(|&at| whereabouts(&places[at]));
        let mut positions = vec![0; places.len()];
        let Some(last) = order.last() else { return Ok(positions) };
        let behind = self.count_behind(name, whereabouts(&places[*last]))?;
        if behind < SEEN_BEHIND {
            let mut position = length(&self.transaction, name)?.saturating_sub(behind);
            positions[*last] = position;
            for pair in order.windows(2).rev() {
                let between = (whereabouts(&places[pair[0]]), whereabouts(&places[pair[1]]));
                position = position.saturating_sub(self.count(name, between.0, between.1)?);
                positions[pair[0]] = position;
            }
        } else {
            let (mut position, mut former) = (0, (-1, ""));
            for at in order {
                let this = whereabouts(&places[at]);
                position += self.count(name, former, this)?;
                positions[at] = position;
                former = this;
            }
        }
        Ok(positions)
    }

    /// How many stand behind `former`, up to `this` and with it.
    fn count(
        &self,
        name: &LockName,
        former: Whereabouts<'_>,
        this: Whereabouts<'_>,
    ) -> rusqlite::Result<u64> {
        self.transaction
            .prepare_cached(
                "SELECT count(*) FROM redsync_line
                 WHERE name = ?1 AND (ticket, token) > (?2, ?3) AND (ticket, token) <= (?4, ?5)",
            )?
            .query_row((name.as_str(), former.0, former.1, this.0, this.1), |row| row.get(0))
            .map(i64::cast_unsigned)
    }

    /// How many stand behind `this`; [`SEEN_BEHIND`] at most.
    fn count_behind(&self, name: &LockName, this: Whereabouts<'_>) -> rusqlite::Result<u64> {
        self.transaction
            .prepare_cached(
                "SELECT count(*) FROM
                 (SELECT 1 FROM redsync_line WHERE name = ?1 AND (ticket, token) > (?2, ?3) LIMIT ?4)",
            )?
            .query_row((name.as_str(), this.0, this.1, SEEN_BEHIND.cast_signed()), |row| row.get(0))
            .map(i64::cast_unsigned)
    }
}

impl Waiter {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let (proposal, retention): (Option<i64>, Option<i64>) = (row.get(9)?, row.get(10)?);
        let retention = Duration::from_micros(retention.unwrap_or_default().unsigned_abs());
        Ok(Self {
            fence: proposal.and_then(fences::read).map(|fence| Proposal::new(fence, retention)),
            token: row.get(0)?,
            round: row.get(1)?,
            expiry: row.get(2)?,
            deadline: row.get(3)?,
            boot: row.get(4)?,
            client: row.get(5)?,
            process: Process { pid: row.get(6)?, namespace: row.get(7)?, begun: row.get(8)? },
        })
    }
}

/// How many dead waiters one step drops: the file is closed to other writers meanwhile, and dropping one takes longer than
/// passing it over.
const MOST_DROPPED: usize = 256;

/// What the queue is in order of: the ticket, then the token.
type Whereabouts<'a> = (i64, &'a str);

fn whereabouts(place: &Place) -> Whereabouts<'_> {
    (place.ticket.as_micros().cast_signed(), place.claim.token.as_str())
}

fn ticket(column: i64) -> Ticket {
    Ticket::from_micros(column.cast_unsigned())
}

/// The name and the token that a row begins with; nothing if this library wrote neither.
fn whose(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<(LockName, Token)>> {
    let (name, token): (String, String) = (row.get(0)?, row.get(1)?);
    Ok(LockName::new(name).ok().zip(Token::from_text(token).ok()))
}

/// How many wait.
fn length(connection: &Connection, name: &LockName) -> rusqlite::Result<u64> {
    let waiting = connection
        .prepare_cached("SELECT waiting FROM redsync_lengths WHERE name = ?1")?
        .query_row([name.as_str()], |row| row.get(0))
        .optional()?;
    Ok(waiting.map_or(0, i64::cast_unsigned))
}

/// So many may stand behind one who counts as one of the last.
const SEEN_BEHIND: u64 = 256;
