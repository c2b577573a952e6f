//! A node inside this process: for tests, and for programs that want no server yet.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::place::{at_its_end, no_places};
use super::{
    Acquired, Answer, Claim, ClientId, Entered, Extended, Grant, Holder, IfFree, Listed, Listener, Look,
    Node, NodeFault, Page, Place, Placed, QueueEntry, Released, Search, Succession, TimeLeft, Uptime,
};
use crate::clock::{Clock, SystemClock};
use crate::protocol::{Fence, Instant, LockName, NodeQueue, Proposal, QueuedWaiter, Token};

/// A node that keeps its leases in this process's memory.
///
/// Tasks and threads of one process exclude one another with it; other processes do not see it. It is a node like
/// the others, held against the same conformance suite, and with a [`DrivenClock`](crate::DrivenClock) it makes
/// tests of hours take microseconds. Clones share one store.
#[derive(Clone)]
pub struct MemoryNode {
    store: Arc<Store>,
}

struct Store {
    label: String,
    identity: u64,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    locks: HashMap<LockName, Lock>,
    listeners: HashMap<ClientId, Weak<dyn Listener>>,
    /// With so many names, those of which only a counter was kept, for long enough, are looked for.
    sweep_at: usize,
}

/// What is kept of one name: who has it, who waits, and what was counted.
struct Lock {
    lease: Option<Lease>,
    queue: NodeQueue<ClientId>,
    counter: Option<Counter>,
}

struct Counter {
    fence: Fence,
    /// Somebody was granted the lease without a fence, the counter being at its end: it is not told another's.
    is_spent: bool,
    kept_until: Instant,
}

struct Lease {
    token: Token,
    end: Instant,
}

/// What somebody is to be told, when no lock is held any more.
type Told = Option<(Arc<dyn Listener>, Event)>;

enum Event {
    Granted(Grant),
    Freed(LockName),
}

impl MemoryNode {
    /// An empty node on the system's clock.
    pub fn new() -> Self {
        Self::with_clock(SystemClock)
    }

    /// An empty node on the given clock.
    pub fn with_clock(clock: impl Clock) -> Self {
        Self::named(None, Arc::new(clock))
    }

    pub(crate) fn named(name: Option<&str>, clock: Arc<dyn Clock>) -> Self {
        static CREATED: AtomicU64 = AtomicU64::new(1);
        let identity = CREATED.fetch_add(1, Ordering::Relaxed);
        let label = name.map_or_else(|| format!("memory:#{identity}"), |name| format!("memory:{name}"));
        Self { store: Arc::new(Store { label, identity, clock, state: Mutex::default() }) }
    }

    /// One step on one name, which nobody else comes between; and then whoever has to know is told.
    fn step<T>(&self, name: &LockName, step: impl FnOnce(&mut Step<'_>) -> T) -> T {
        let mut state = self.state();
        let State { locks, listeners, .. } = &mut *state;
        let mut entry = match locks.entry(name.clone()) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => {
                entry.insert_entry(Lock { lease: None, queue: NodeQueue::new(), counter: None })
            }
        };
        let (lock, now) = (entry.get_mut(), self.store.clock.now());
        lock.forget_what_is_over(now);
        let mut taken = Step { name, lock, listeners, now, clock: &self.store.clock, told: None };
        let done = step(&mut taken);
        let told = taken.told;
        if entry.get().is_forgotten() {
            entry.remove();
        }
        if state.locks.len() > state.sweep_at {
            state.sweep(now);
        }
        drop(state);
        match told {
            Some((listener, Event::Granted(grant))) => listener.granted(grant),
            Some((listener, Event::Freed(name))) => listener.freed(name),
            None => {}
        }
        done
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic cannot leave it half-changed: nothing below panics between two changes that belong together.
        self.store.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Forgets names of which only a counter was kept that nobody asked for in time.
    fn sweep(&mut self, now: Instant) {
        self.locks.retain(|_, lock| {
            lock.forget_what_is_over(now);
            !lock.is_forgotten()
        });
        self.sweep_at = SWEEP_LEAST.max(self.locks.len() * 2);
    }
}

impl Lock {
    fn forget_what_is_over(&mut self, now: Instant) {
        if self.lease.as_ref().is_some_and(|lease| lease.end <= now) {
            self.lease = None;
        }
        if self.counter.as_ref().is_some_and(|counter| counter.kept_until <= now) {
            self.counter = None;
        }
    }

    fn listed(&self, name: &LockName, now: Instant) -> Option<Listed> {
        let lease = self.lease.as_ref().filter(|lease| now < lease.end)?;
        let holder = Holder::new(lease.token.as_str(), TimeLeft::For(lease.end.saturating_since(now)));
        let counter = self.counter.as_ref().filter(|counter| !counter.is_spent && now < counter.kept_until);
        let waiting = self.queue.len() as u64;
        Some(Listed::new(name.clone(), holder, waiting).fenced(counter.map(|counter| counter.fence)))
    }

    fn is_forgotten(&self) -> bool {
        self.lease.is_none() && self.queue.is_empty() && self.counter.is_none()
    }
}

/// One step on one name.
struct Step<'a> {
    name: &'a LockName,
    lock: &'a mut Lock,
    listeners: &'a HashMap<ClientId, Weak<dyn Listener>>,
    now: Instant,
    clock: &'a Arc<dyn Clock>,
    told: Told,
}

impl Step<'_> {
    fn holder(&self) -> Option<Holder> {
        let lease = self.lock.lease.as_ref()?;
        Some(Holder::new(lease.token.as_str(), TimeLeft::For(lease.end.saturating_since(self.now))))
    }

    /// Another's lease than `token`'s.
    fn other_than(&self, token: &Token) -> Option<Holder> {
        self.holder().filter(|holder| holder.token() != token.as_str())
    }

    /// Whether the lease would last longer if it started anew.
    fn ends_before(&self, claim: &Claim) -> bool {
        let end = self.now + claim.expiry.as_duration();
        self.lock.lease.as_ref().is_some_and(|lease| lease.end < end)
    }

    /// Grants the lease, or lets it start anew where the token has it.
    fn grant(&mut self, claim: &Claim) {
        let end = self.now + claim.expiry.as_duration();
        self.lock.lease = Some(Lease { token: claim.token.clone(), end });
    }

    /// Counts a grant to one who asks for a fence. Nothing where the counter is at its end.
    fn count(&mut self, proposal: Proposal) -> Option<Fence> {
        if self.lock.counter.as_ref().is_some_and(|counter| counter.is_spent) {
            return None;
        }
        let counted = Fence::count(self.fence(), proposal.fence, self.clock.wall_micros())?;
        self.raise(Proposal { fence: counted, ..proposal })
    }

    /// Raises the counter, if it is lower, and says where it stands.
    fn raise(&mut self, proposal: Proposal) -> Option<Fence> {
        let fresh = Counter { fence: proposal.fence, is_spent: false, kept_until: self.now };
        let counter = self.lock.counter.get_or_insert(fresh);
        counter.fence = counter.fence.max(proposal.fence);
        self.keep(proposal)
    }

    /// Keeps the counter, if there is one, for as long as is asked for from now on, and says where it stands.
    fn keep(&mut self, proposal: Proposal) -> Option<Fence> {
        self.lock.counter.as_mut()?.kept_until = self.now + proposal.retention;
        self.fence()
    }

    fn fence(&self) -> Option<Fence> {
        self.lock.counter.as_ref().filter(|counter| !counter.is_spent).map(|counter| counter.fence)
    }

    fn take_place(&mut self, client: &ClientId, place: &Place) {
        let waiter = QueuedWaiter {
            ticket: place.ticket,
            round: place.round,
            expiry: place.claim.expiry,
            fence: place.claim.fence,
            deadline: self.now + place.claim.expiry.as_duration(),
            contact: client.clone(),
        };
        self.lock.queue.enter(&place.claim.token, waiter);
    }

    /// Gives the lease to the first in the queue, who is told unless it is the one who asks.
    fn hand_over(&mut self, asking: impl Fn(&Token) -> bool) {
        let mut listener = None;
        let next = self.lock.queue.next(self.now, |token, waiter| {
            listener = self.listeners.get(&waiter.contact).and_then(Weak::upgrade);
            listener.is_some() || asking(token)
        });
        self.lock.lease = None;
        let Some((token, waiter)) = next else { return };
        let fence = waiter.fence.and_then(|proposal| self.count(proposal));
        if let (Some(proposal), None, Some(counter)) = (waiter.fence, fence, &mut self.lock.counter) {
            counter.is_spent = true;
            self.keep(proposal);
        }
        if !asking(&token) {
            let grant = Grant::new(self.name.clone(), token.clone(), waiter.round).fenced(fence);
            self.told = listener.map(|listener| (listener, Event::Granted(grant)));
        }
        self.lock.lease = Some(Lease { token, end: self.now + waiter.expiry.as_duration() });
    }

    /// Tells the first in the queue, who keeps its place, that it may ask.
    fn wake_first(&mut self) {
        let listening =
            |waiter: &QueuedWaiter<ClientId>| self.listeners.get(&waiter.contact).and_then(Weak::upgrade);
        let mut alive = self.lock.queue.iter().filter(|(_, waiter)| self.now < waiter.deadline);
        let first = alive.find_map(|(_, waiter)| listening(waiter));
        self.told = first.map(|listener| (listener, Event::Freed(self.name.clone())));
    }

    /// The answer to those who entered.
    fn entered(&self, places: &[Place], micros: u64) -> Entered {
        let holds = |token: &Token| self.lock.lease.as_ref().is_some_and(|lease| lease.token == *token);
        let placed = places.iter().map(|place| match self.lock.queue.position(&place.claim.token) {
            _ if holds(&place.claim.token) => Placed::Granted(place.claim.fence.and_then(|_| self.fence())),
            position => Placed::Queued(position.unwrap_or_default()),
        });
        let nobody = || Holder::new("", TimeLeft::Unknown);
        Entered::new(placed.collect(), self.holder().unwrap_or_else(nobody), micros)
    }
}

impl Default for MemoryNode {
    fn default() -> Self {
        Self::new()
    }
}

impl Node for MemoryNode {
    fn identity(&self) -> Answer<'_, String> {
        Box::pin(ready(Ok(format!("memory {}", self.store.identity))))
    }

    fn uptime(&self) -> Answer<'_, Uptime> {
        // All who lock on it end with it.
        Box::pin(ready(Ok(Uptime::Unbroken)))
    }

    fn health_warnings(&self) -> Answer<'_, Vec<String>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Acquired> {
        Box::pin(async move {
            self.step(&claim.name, |step| {
                if let Some(holder) = step.other_than(&claim.token) {
                    return Ok(Acquired::Taken(holder));
                }
                let is_new = step.lock.lease.is_none();
                let fence = match claim.fence {
                    Some(proposal) if is_new || step.fence().is_none() => {
                        Some(step.count(proposal).ok_or_else(at_its_end)?)
                    }
                    Some(proposal) => step.keep(proposal),
                    None => None,
                };
                if is_new || step.ends_before(claim) {
                    step.grant(claim);
                }
                Ok(Acquired::Granted(fence))
            })
        })
    }

    fn enter<'a>(&'a self, client: &'a ClientId, places: &'a [Place]) -> Answer<'a, Entered> {
        if places.is_empty() {
            return Box::pin(ready(Err(no_places())));
        }
        at_once(move || {
            let micros = self.store.clock.wall_micros();
            self.step(&places[0].claim.name, |step| {
                for place in places {
                    let is_holder =
                        step.lock.lease.as_ref().is_some_and(|lease| lease.token == place.claim.token);
                    match is_holder {
                        true => {
                            step.grant(&place.claim);
                            place.claim.fence.and_then(|proposal| step.keep(proposal));
                        }
                        false => step.take_place(client, place),
                    }
                }
                if step.lock.lease.is_none() {
                    step.hand_over(|token| places.iter().any(|place| place.claim.token == *token));
                }
                step.entered(places, micros)
            })
        })
    }

    fn yield_lease<'a>(&'a self, client: &'a ClientId, place: &'a Place) -> Answer<'a, Entered> {
        at_once(move || {
            let (micros, token) = (self.store.clock.wall_micros(), &place.claim.token);
            self.step(&place.claim.name, |step| {
                step.take_place(client, place);
                if step.other_than(token).is_none() {
                    step.hand_over(|next| next == token);
                }
                step.entered(std::slice::from_ref(place), micros)
            })
        })
    }

    fn extend<'a>(&'a self, claim: &'a Claim, if_free: IfFree) -> Answer<'a, Extended> {
        at_once(move || {
            self.step(&claim.name, |step| {
                let done = match (step.holder(), if_free) {
                    (Some(holder), _) if holder.token() != claim.token.as_str() => {
                        return Extended::HeldByAnother(holder);
                    }
                    (Some(_), _) => Extended::Extended(claim.fence.and_then(|proposal| step.raise(proposal))),
                    (None, IfFree::Retake) => {
                        claim.fence.and_then(|proposal| step.raise(proposal));
                        Extended::Retaken
                    }
                    (None, IfFree::Leave) => return Extended::NotHeld,
                };
                step.grant(claim);
                done
            })
        })
    }

    fn release<'a>(
        &'a self,
        name: &'a LockName,
        token: &'a Token,
        succession: Succession,
    ) -> Answer<'a, Released> {
        at_once(move || {
            self.step(name, |step| {
                let has_left = step.lock.queue.leave(token);
                let other = step.other_than(token);
                let had_it = other.is_none() && step.lock.lease.is_some();
                if other.is_none() {
                    step.lock.lease = None;
                    match succession {
                        Succession::HandOver => step.hand_over(|_| false),
                        Succession::Barging => step.wake_first(),
                    }
                }
                match other {
                    _ if had_it => Released::Released,
                    _ if has_left => Released::Left,
                    Some(holder) => Released::HeldByAnother(holder),
                    None => Released::NotHeld,
                }
            })
        })
    }

    fn inspect<'a>(&'a self, name: &'a LockName) -> Answer<'a, Look> {
        at_once(move || {
            self.step(name, |step| {
                let queue = step.lock.queue.iter().take(Look::SHOWN);
                let queue = queue.map(|(token, waiter)| QueueEntry::new(token.as_str(), waiter.ticket));
                Look::new(step.holder(), queue.collect(), step.lock.queue.len() as u64).fenced(step.fence())
            })
        })
    }

    fn list<'a>(&'a self, search: &'a Search, _: &'a str) -> Answer<'a, Page> {
        at_once(move || {
            let (state, now) = (self.state(), self.store.clock.now());
            let held = state.locks.iter().filter(|(name, _)| search.pattern.matches(name.as_str()));
            let locks = held.filter_map(|(name, lock)| lock.listed(name, now)).collect();
            // All that a process keeps in its memory can be told at once.
            Page::new(locks, None)
        })
    }

    fn listen(&self, client: &ClientId, listener: Weak<dyn Listener>) {
        let mut state = self.state();
        state.listeners.retain(|_, listener| listener.strong_count() > 0);
        state.listeners.insert(client.clone(), listener);
    }
}

/// With fewer names than this, none is looked for that can be forgotten.
const SWEEP_LEAST: usize = 1_024;

/// An answer that is given when it is first polled, as a server's would be: an answer that is dropped before then
/// was never asked for.
fn at_once<'a, T: Send + 'a>(step: impl FnOnce() -> T + Send + 'a) -> Answer<'a, T> {
    Box::pin(async move { Ok::<T, NodeFault>(step()) })
}

impl fmt::Display for MemoryNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.store.label)
    }
}

impl fmt::Debug for MemoryNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryNode({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;
    use crate::protocol::{Expiry, Round, Ticket};

    #[derive(Debug)]
    struct Hearing(mpsc::UnboundedSender<Token>);

    impl Listener for Hearing {
        fn granted(&self, grant: Grant) {
            let _ = self.0.send(grant.token);
        }

        fn freed(&self, _: LockName) {}

        fn interrupted(&self) {}
    }

    fn place(token: &str, ticket: u64) -> Place {
        let (name, token) = (LockName::new("name").unwrap(), Token::from_text(token).unwrap());
        let claim = Claim::new(name, token, Expiry::new(Duration::from_secs(8)).unwrap());
        Place::new(claim, Ticket::from_micros(ticket), Round::new(1))
    }

    #[tokio::test]
    async fn who_is_not_there_to_be_told_any_more_is_skipped() {
        let node = MemoryNode::new();
        let (gone, present) = (ClientId::random(), ClientId::random());
        let (told, mut hears) = mpsc::unbounded_channel();
        let (deaf, hearing) = (Arc::new(Hearing(told.clone())), Arc::new(Hearing(told)));
        node.listen(&gone, Arc::<Hearing>::downgrade(&deaf) as Weak<dyn Listener>);
        node.listen(&present, Arc::<Hearing>::downgrade(&hearing) as Weak<dyn Listener>);
        let holder = place("holder", 1).claim;
        node.acquire(&holder).await.unwrap();
        node.enter(&gone, &[place("gone", 2)]).await.unwrap();
        let next = place("next", 3);
        node.enter(&present, std::slice::from_ref(&next)).await.unwrap();

        drop(deaf);
        node.release(&holder.name, &holder.token, Succession::HandOver).await.unwrap();

        assert_eq!(hears.recv().await, Some(next.claim.token));
        assert_eq!(node.inspect(&holder.name).await.unwrap().waiting, 0);
    }

    #[tokio::test]
    async fn who_asks_itself_need_not_be_told() {
        let node = MemoryNode::new();
        let entered = node.enter(&ClientId::random(), &[place("alone", 1)]).await.unwrap();
        assert_eq!(entered.places, [Placed::Granted(None)]);
    }
}
