//! Who waits, and what is due when.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::request::Asking;
use crate::error::NodeError;
use crate::leases::LeaseSet;
use crate::node::Holder;
use crate::protocol::{Instant, Ticket, Token};

#[derive(Debug)]
pub(super) struct State {
    /// Who may be told of a grant: those who wait, holders who may still be granted on a slower node, and who is giving back.
    pub(super) waiters: HashMap<Token, Entry>,
    /// Who waits, in order.
    pub(super) order: BTreeSet<(Ticket, Token)>,
    pub(super) views: Box<[View]>,
    /// Who has too few leases, and when they are given back.
    pub(super) claims: BTreeMap<Key, Token>,
    /// When somebody had to wait, the last time.
    pub(super) queued_at: Instant,
    /// Since when nobody waits.
    pub(super) empty_since: Instant,
    pub(super) driver: Option<Driver>,
    pub(super) attendants: u64,
    /// The last one's runtime ended.
    pub(super) is_abandoned: bool,
    pub(super) keys: u64,
}

/// What happens when; unique.
pub(super) type Key = (Instant, u64);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) waiting: Arc<Waiting>,
    pub(super) ticket: Ticket,
    /// When the ticket was drawn.
    pub(super) drawn: Instant,
    pub(super) is_in_queue: bool,
    /// When its place is to be renewed, on each node.
    pub(super) due: Box<[Option<Key>]>,
    /// How often that has been done lately, on each node.
    paces: Box<[Pace]>,
    pub(super) claim: Option<Key>,
    /// How many times in a row it was granted at once what it had yielded.
    pub(super) yields: u32,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) leases: Arc<LeaseSet>,
    pub(super) changed: Notify,
}

/// What is known of the queue on one node.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) due: BTreeMap<Key, Token>,
    pub(super) holder: Option<Holder>,
    /// The place of the first of us.
    pub(super) position: u64,
    /// When the first of us asks, since the holder's time will be over.
    pub(super) look_at: Option<Instant>,
    pub(super) is_asking: bool,
    /// Why the node does not answer, or its answers do not count; and since when.
    pub(super) failing: Option<(NodeError, Instant)>,
    /// Why what it granted does not count yet.
    pub(super) doubt: Option<NodeError>,
    pub(super) failures: u32,
    pub(super) retry_at: Instant,
}

#[derive(Clone, Debug)]
pub(super) struct Driver {
    pub(super) number: u64,
    pub(super) looks_at: Instant,
    /// Something is due earlier than it knows. Each has its own: one that stands still must not be told in the place of one
    /// that does not.
    pub(super) is_earlier: Arc<Notify>,
}

impl State {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            waiters: HashMap::new(),
            order: BTreeSet::new(),
            views: (0..nodes).map(|_| View::default()).collect(),
            claims: BTreeMap::new(),
            queued_at: Instant::default(),
            empty_since: Instant::default(),
            driver: None,
            attendants: 0,
            is_abandoned: false,
            keys: 0,
        }
    }

    /// Makes `leases` one of those who wait, with a ticket that was drawn at `drawn`.
    pub(super) fn admit(
        &mut self,
        leases: &Arc<LeaseSet>,
        ticket: Ticket,
        drawn: Instant,
        now: Instant,
    ) -> Arc<Waiting> {
        let token = leases.config.claim.token.clone();
        let waiting = Arc::new(Waiting { leases: Arc::clone(leases), changed: Notify::new() });
        let entry = Entry {
            waiting: Arc::clone(&waiting),
            ticket,
            drawn,
            is_in_queue: true,
            due: vec![None; self.views.len()].into(),
            paces: vec![Pace::default(); self.views.len()].into(),
            claim: None,
            yields: 0,
        };
        self.waiters.insert(token.clone(), entry);
        self.order.insert((ticket, token.clone()));
        // The first time, the caller asks itself.
        (0..self.views.len()).for_each(|index| self.schedule(&token, index, now + leases.refresh()));
        waiting
    }

    /// Exchanges `token`'s ticket for another.
    pub(super) fn exchange(&mut self, token: &Token, ticket: Ticket) {
        if let Some(entry) = self.waiters.get_mut(token).filter(|entry| entry.is_in_queue) {
            self.order.remove(&(entry.ticket, token.clone()));
            self.order.insert((ticket, token.clone()));
            entry.ticket = ticket;
        }
    }

    /// The places that are to be renewed on node `index` now, if it is not being asked already.
    pub(super) fn take_due(&mut self, index: usize, now: Instant) -> Vec<Asking> {
        if self.views[index].look_at.is_some_and(|at| at <= now) {
            self.views[index].look_at = None;
            self.schedule_first(index, now);
        }
        let view = &mut self.views[index];
        let mut asked = Vec::new();
        if view.is_asking || now < view.retry_at {
            return asked;
        }
        let mut until = now;
        let mut too_soon = Vec::new();
        while asked.len() < BATCH
            && let Some(first) = view.due.first_entry()
            && first.key().0 <= until
        {
            let token = first.remove();
            let Some(entry) = self.waiters.get_mut(&token) else { continue };
            entry.due[index] = None;
            let waiting = Arc::clone(&entry.waiting);
            if let Err(later) = entry.paces[index].take(now, waiting.leases.refresh()) {
                too_soon.push((token, later));
                continue;
            }
            // What comes due soon after comes along.
            until = until.max(now + waiting.leases.refresh() / 8);
            let (number, sent) = waiting.leases.ask_to_enter(&[index]);
            asked.push(Asking { waiting, ticket: entry.ticket, number, sent });
        }
        view.is_asking = !asked.is_empty();
        for (token, later) in too_soon {
            self.schedule(&token, index, later);
        }
        asked
    }

    /// The leases that are to be yielded now, each with its node.
    pub(super) fn take_claims(&mut self, now: Instant) -> Vec<(usize, Asking)> {
        let mut yielded = Vec::new();
        while let Some(first) = self.claims.first_entry()
            && first.key().0 <= now
        {
            let token = first.remove();
            let Some(entry) = self.waiters.get_mut(&token) else { continue };
            entry.claim = None;
            let Some((number, minority)) = entry.waiting.leases.ask_to_yield() else { continue };
            let (waiting, ticket) = (&entry.waiting, entry.ticket);
            yielded.extend(
                minority
                    .into_iter()
                    .map(|index| (index, Asking { waiting: Arc::clone(waiting), ticket, number, sent: now })),
            );
        }
        yielded
    }

    pub(super) fn key(&mut self, at: Instant) -> Key {
        self.keys += 1;
        (at, self.keys)
    }

    /// Has `token`'s place on node `index` renewed at `at`.
    pub(super) fn schedule(&mut self, token: &Token, index: usize, at: Instant) {
        let key = self.key(at);
        let Some(entry) = self.waiters.get_mut(token).filter(|entry| entry.is_in_queue) else { return };
        if let Some(former) = entry.due[index].replace(key) {
            self.views[index].due.remove(&former);
        }
        self.views[index].due.insert(key, token.clone());
    }

    /// Has everybody's place on node `index` renewed at `at`.
    pub(super) fn schedule_all(&mut self, index: usize, at: Instant) {
        let tokens: Vec<Token> = self.order.iter().map(|(_, token)| token.clone()).collect();
        tokens.iter().for_each(|token| self.schedule(token, index, at));
    }

    pub(super) fn schedule_first(&mut self, index: usize, at: Instant) {
        if let Some((_, token)) = self.order.first().cloned() {
            self.schedule(&token, index, at);
        }
    }

    /// Takes `token` out of the queue: it has the lock, or does not want it any more.
    pub(super) fn unline(&mut self, token: &Token, now: Instant) {
        let Some(entry) = self.waiters.get_mut(token).filter(|entry| entry.is_in_queue) else { return };
        entry.is_in_queue = false;
        self.order.remove(&(entry.ticket, token.clone()));
        for (view, key) in self.views.iter_mut().zip(&mut entry.due) {
            key.take().map(|key| view.due.remove(&key));
        }
        entry.claim.take().map(|key| self.claims.remove(&key));
        if self.order.is_empty() {
            self.empty_since = now;
        }
    }

    /// When the driver has something to do.
    pub(super) fn next_look(&self, now: Instant) -> Instant {
        if self.order.is_empty() {
            return self.empty_since + LINGER;
        }
        let idle = self.views.iter().filter(|view| !view.is_asking);
        let due = idle.filter_map(|view| {
            let first = view.due.keys().next().map(|key| key.0);
            let next = first.into_iter().chain(view.look_at).min();
            next.map(|next| next.max(view.retry_at))
        });
        let claim = self.claims.keys().next().map(|key| key.0);
        let next = due.chain(claim).min();
        next.unwrap_or(now + IDLE)
    }

    /// How to tell the driver, if something that is due at `at` is earlier than it knows.
    pub(super) fn is_earlier(&mut self, at: Instant) -> Option<Arc<Notify>> {
        let driver = self.driver.as_mut().filter(|driver| at < driver.looks_at)?;
        driver.looks_at = at;
        Some(Arc::clone(&driver.is_earlier))
    }
}

/// How often one place is renewed on one node, whatever the node says: the answers of one that lies, or whose clock runs
/// wild, may each be a reason to ask again.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// When it will have been idle for long enough to forget what was.
    idle_at: Instant,
}

impl Pace {
    /// Takes down that the place is renewed now; or gives the time at which it may be, for one that is renewed every `refresh`
    /// as a rule.
    fn take(&mut self, now: Instant, refresh: Duration) -> Result<(), Instant> {
        let every = PACE.min(refresh / 4);
        let idle_at = self.idle_at.max(now) + every;
        let burst = every * PACE_BURST;
        if idle_at.saturating_since(now) > burst {
            return Err(now + (idle_at.saturating_since(now) - burst));
        }
        self.idle_at = idle_at;
        Ok(())
    }
}

impl View {
    pub(super) fn failed(&mut self, error: NodeError, since: Instant) {
        let since = self.failing.take().map_or(since, |(_, former)| former);
        self.failing = Some((error, since));
        self.failures = self.failures.saturating_add(1);
    }

    pub(super) fn recovered(&mut self) {
        self.failing = None;
        self.doubt = None;
        self.failures = 0;
    }

    /// The node granted what does not count. One that will never say since when it remembers is as good as one that fails.
    pub(super) fn unconfirmed(&mut self, doubt: NodeError, since: Instant) {
        match doubt {
            NodeError::Withheld { wait: Some(_), .. } => self.doubt = Some(doubt),
            _ => self.failed(doubt, since),
        }
    }
}

/// How many places are asked for at once: a script that asks for so many keeps a server from others for a millisecond.
const BATCH: usize = 256;

/// How often a place is renewed at most, in the long run, unless it is to be renewed oftener anyway.
const PACE: Duration = Duration::from_millis(20);

/// So many times it may be renewed as often as there is a reason to.
const PACE_BURST: u32 = 32;

/// A queue that nobody waits in any more is kept for so long; and for so long after somebody had to wait, whoever comes asks
/// for a place at once.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// How long the driver sleeps where nothing is planned.
pub(super) const IDLE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_renewed_at_once_some_times_and_then_at_a_steady_pace() {
        let (mut pace, refresh) = (Pace::default(), Duration::from_secs(1));
        let began = Instant::default() + Duration::from_secs(100);
        let (mut now, mut renewals) = (began, 0);
        while now < began + Duration::from_secs(10) {
            match pace.take(now, refresh) {
                Ok(()) => renewals += 1,
                Err(later) => {
                    assert!(later > now, "time goes on");
                    now = later;
                }
            }
        }
        assert!((500..=540).contains(&renewals), "{renewals} in 10 s");
        now = now + Duration::from_secs(10);
        assert!((0..PACE_BURST).all(|_| pace.take(now, refresh).is_ok()), "what was long ago is forgotten");
        assert!(pace.take(now, refresh).is_err());
    }

    #[test]
    fn a_place_that_is_renewed_often_anyway_is_not_held_up() {
        let (mut pace, refresh) = (Pace::default(), Duration::from_millis(8));
        let mut now = Instant::default();
        for _ in 0..1_000 {
            now = now + refresh / 2;
            assert!(pace.take(now, refresh).is_ok());
        }
    }
}
