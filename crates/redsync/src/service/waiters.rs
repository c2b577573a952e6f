//! Who waits for which lock, and who is told when a node grants one.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use super::line::{Line, Waiter};
use super::tickets::Tickets;
use crate::leases::{Core, LeaseSet};
use crate::node::{ClientId, Grant, Listener, Node, Succession};
use crate::protocol::{Instant, LockName, Ticket, Token};

/// All who wait in line through one [`Redsync`](crate::Redsync), by the name of what they wait for.
pub(crate) struct Waiters {
    pub(super) client: ClientId,
    lines: Mutex<HashMap<LockName, Arc<Line>>>,
    /// Whether there may be any: most locks are free, and look no further.
    has_lines: AtomicBool,
    ears: OnceLock<Vec<Arc<GrantListener>>>,
    /// Who waited here and is somebody else's now: what comes late for them must not be given back.
    handed_on: Mutex<VecDeque<Token>>,
    pub(crate) tickets: Tickets,
}

impl Waiters {
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            client: ClientId::random(),
            lines: Mutex::default(),
            has_lines: AtomicBool::new(false),
            ears: OnceLock::new(),
            handed_on: Mutex::default(),
            tickets: Tickets::new(nodes),
        }
    }

    /// Whether somebody of this process waits for `name`, or did a moment ago: then there is a line to be asked for a place
    /// in, and no lease.
    pub(crate) fn is_contended(&self, name: &LockName, now: impl FnOnce() -> Instant) -> bool {
        self.has_lines.load(Ordering::Relaxed) && self.line(name).is_some_and(|line| line.is_contended(now()))
    }

    /// Makes `leases` one of those who wait, with a ticket that was drawn at `drawn`.
    pub(crate) fn join(&self, leases: &Arc<LeaseSet>, ticket: Ticket, drawn: Instant) -> Waiter {
        let core = &leases.core;
        self.ears.get_or_init(|| {
            let ears: Vec<Arc<GrantListener>> = (0..core.nodes.len())
                .map(|index| Arc::new(GrantListener { index, core: Arc::downgrade(core) }))
                .collect();
            for (node, grant_listener) in core.nodes.iter().zip(&ears) {
                let grant_listener: Weak<dyn Listener> = Arc::<GrantListener>::downgrade(grant_listener);
                node.listen(&self.client, grant_listener);
            }
            ears
        });
        let name = &leases.config.claim.name;
        let mut lines = self.lines();
        self.has_lines.store(true, Ordering::Relaxed);
        let line =
            lines.entry(name.clone()).or_insert_with(|| Arc::new(Line::new(name.clone(), core.nodes.len())));
        // With the map's lock held: a line that nobody is in is taken from it.
        Waiter::join(line, leases, ticket, drawn)
    }

    /// Takes a line away that nobody is in.
    pub(super) fn close(&self, line: &Arc<Line>) {
        let mut lines = self.lines();
        let is_ours = lines.get(&line.name).is_some_and(|present| Arc::ptr_eq(present, line));
        if is_ours && line.is_deserted() {
            lines.remove(&line.name);
            self.has_lines.store(!lines.is_empty(), Ordering::Relaxed);
        }
    }

    /// Nothing that is told is for `token` any more.
    pub(crate) fn forget(&self, name: &LockName, token: &Token) {
        let line = self.line(name);
        if let Some(line) = line {
            line.forget(token);
            if line.is_deserted() && !line.is_attended() {
                self.close(&line);
            }
        }
    }

    /// As [`forget`](Self::forget), for a token that somebody else goes on with.
    pub(crate) fn hand_on(&self, name: &LockName, token: &Token) {
        {
            let mut handed_on = self.handed_on.lock().unwrap_or_else(PoisonError::into_inner);
            if handed_on.len() == REMEMBERED {
                handed_on.pop_front();
            }
            handed_on.push_back(token.clone());
        }
        self.forget(name, token);
    }

    fn is_handed_on(&self, token: &Token) -> bool {
        self.handed_on.lock().unwrap_or_else(PoisonError::into_inner).contains(token)
    }

    /// Has everybody look at how things stand.
    pub(crate) fn wake_all(&self) {
        let lines: Vec<Arc<Line>> = self.lines().values().cloned().collect();
        lines.iter().for_each(|line| line.wake_all());
    }

    fn line(&self, name: &LockName) -> Option<Arc<Line>> {
        self.lines().get(name).cloned()
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<LockName, Arc<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears one node.
struct GrantListener {
    index: usize,
    core: Weak<Core>,
}

impl Listener for GrantListener {
    fn granted(&self, grant: Grant) {
        let Some(core) = self.core.upgrade() else { return };
        if core.roll.as_ref().is_some_and(|roll| !roll.votes(self.index)) {
            // It may be another's, told twice. Asking finds out who this node is, too.
            return self.interrupted();
        }
        let is_wanted = match core.waiters.line(&grant.name) {
            Some(line) => line.granted(&core, self.index, &grant),
            None => false,
        };
        if is_wanted || core.waiters.is_handed_on(&grant.token) {
            return;
        }
        // Nobody here wants it any more: on to the next in line.
        let node: Arc<dyn Node> = Arc::clone(&core.nodes[self.index]);
        let deadline = core.clock.sleep_until(core.clock.now() + GIVE_BACK);
        core.tasks.run(async move {
            tokio::select! {
                biased;
                _ = node.release(&grant.name, &grant.token, Succession::HandOver) => {}
                () = deadline => {}
            }
        });
    }

    fn freed(&self, name: LockName) {
        let Some(core) = self.core.upgrade() else { return };
        if let Some(line) = core.waiters.line(&name) {
            line.freed(self.index, core.clock.now());
        }
    }

    fn interrupted(&self) {
        let Some(core) = self.core.upgrade() else { return };
        let lines: Vec<Arc<Line>> = core.waiters.lines().values().cloned().collect();
        if lines.is_empty() {
            return;
        }
        let now = core.clock.now();
        let later = core.waiters.tickets.draw(&core.clock, now);
        lines.iter().for_each(|line| line.interrupted(self.index, now, later));
    }
}

impl fmt::Debug for GrantListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GrantListener(node {})", self.index)
    }
}

impl fmt::Debug for Waiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Waiters({} lines)", self.lines().len())
    }
}

/// How many tokens that were handed on are remembered.
const REMEMBERED: usize = 1_000;

/// How long giving back a lease that nobody wants may take.
const GIVE_BACK: Duration = Duration::from_secs(2);
