//! Who waits for which lock, and who is told when a node grants one.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use super::queue::{Queue, Waiter};
use super::tickets::Tickets;
use crate::leases::{Core, LeaseSet};
use crate::node::{ClientId, Grant, Listener, Node, Succession};
use crate::protocol::{Instant, LockName, Ticket, Token};

/// All who wait in the queue through one [`Redsync`](crate::Redsync), by the name of what they wait for.
pub(crate) struct Waiters {
    pub(super) client: ClientId,
    queues: Mutex<HashMap<LockName, Arc<Queue>>>,
    /// Whether there may be any: most locks are free, and look no further.
    has_queues: AtomicBool,
    ears: OnceLock<Vec<Arc<GrantListener>>>,
    /// Who waited here and is somebody else's now: what comes late for them must not be given back.
    handed_on: Mutex<VecDeque<Token>>,
    pub(crate) tickets: Tickets,
}

impl Waiters {
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            client: ClientId::random(),
            queues: Mutex::default(),
            has_queues: AtomicBool::new(false),
            ears: OnceLock::new(),
            handed_on: Mutex::default(),
            tickets: Tickets::new(nodes),
        }
    }

    /// Whether somebody of this process waits for `name`, or did a moment ago: then there is a queue to be asked for a place
    /// in, and no lease.
    pub(crate) fn is_contended(&self, name: &LockName, now: impl FnOnce() -> Instant) -> bool {
        self.has_queues.load(Ordering::Relaxed)
            && self.queue(name).is_some_and(|queue| queue.is_contended(now()))
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
        let mut queues = self.queues();
        self.has_queues.store(true, Ordering::Relaxed);
        let queue = queues
            .entry(name.clone())
            .or_insert_with(|| Arc::new(Queue::new(name.clone(), core.nodes.len())));
        // With the map's lock held: a queue that nobody is in is taken from it.
        Waiter::join(queue, leases, ticket, drawn)
    }

    /// Takes a line away that nobody is in.
    pub(super) fn close(&self, queue: &Arc<Queue>) {
        let mut queues = self.queues();
        let is_ours = queues.get(&queue.name).is_some_and(|present| Arc::ptr_eq(present, queue));
        if is_ours && queue.is_deserted() {
            queues.remove(&queue.name);
            self.has_queues.store(!queues.is_empty(), Ordering::Relaxed);
        }
    }

    /// Nothing that is told is for `token` any more.
    pub(crate) fn forget(&self, name: &LockName, token: &Token) {
        let queue = self.queue(name);
        if let Some(queue) = queue {
            queue.forget(token);
            if queue.is_deserted() && !queue.is_attended() {
                self.close(&queue);
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
        let queues: Vec<Arc<Queue>> = self.queues().values().cloned().collect();
        queues.iter().for_each(|queue| queue.wake_all());
    }

    fn queue(&self, name: &LockName) -> Option<Arc<Queue>> {
        self.queues().get(name).cloned()
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<LockName, Arc<Queue>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
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
        let is_wanted = match core.waiters.queue(&grant.name) {
            Some(queue) => queue.granted(&core, self.index, &grant),
            None => false,
        };
        if is_wanted || core.waiters.is_handed_on(&grant.token) {
            return;
        }
        // Nobody here wants it any more: on to the next in the queue.
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
        if let Some(queue) = core.waiters.queue(&name) {
            queue.freed(self.index, core.clock.now());
        }
    }

    fn interrupted(&self) {
        let Some(core) = self.core.upgrade() else { return };
        let queues: Vec<Arc<Queue>> = core.waiters.queues().values().cloned().collect();
        if queues.is_empty() {
            return;
        }
        let now = core.clock.now();
        let later = core.waiters.tickets.draw(&core.clock, now);
        queues.iter().for_each(|queue| queue.interrupted(self.index, now, later));
    }
}

impl fmt::Debug for GrantListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GrantListener(node {})", self.index)
    }
}

impl fmt::Debug for Waiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Waiters({} lines)", self.queues().len())
    }
}

/// How many tokens that were handed on are remembered.
const REMEMBERED: usize = 1_000;

/// How long giving back a lease that nobody wants may take.
const GIVE_BACK: Duration = Duration::from_secs(2);
