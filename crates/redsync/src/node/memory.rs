//! A node inside this process: for tests, and for programs that want no server yet.

use std::collections::HashMap;
use std::fmt;
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Acquired, Answer, Claim, Extended, Holder, IfFree, Node, NodeFault, Released, TimeLeft, Uptime};
use crate::clock::{Clock, SystemClock};
use crate::protocol::{Instant, LockName, Token};

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
    leases: Mutex<HashMap<LockName, Lease>>,
}

struct Lease {
    token: Token,
    end: Instant,
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
        Self { store: Arc::new(Store { label, identity, clock, leases: Mutex::default() }) }
    }

    fn leases(&self) -> MutexGuard<'_, HashMap<LockName, Lease>> {
        // A panic cannot leave the map half-changed: each step below is one insertion or removal.
        self.store.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    fn holder_of(&self, lease: &Lease) -> Holder {
        let left = lease.end.saturating_since(self.clock.now());
        Holder::new(lease.token.as_str(), TimeLeft::For(left))
    }

    fn lease_for(&self, claim: &Claim) -> Lease {
        Lease { token: claim.token.clone(), end: self.clock.now() + claim.expiry.as_duration() }
    }

    /// Removes the name's lease if its time is over.
    fn expire(&self, leases: &mut HashMap<LockName, Lease>, name: &LockName) {
        if leases.get(name).is_some_and(|lease| lease.end <= self.clock.now()) {
            leases.remove(name);
        }
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

    fn concerns(&self) -> Answer<'_, Vec<String>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Acquired> {
        at_once(move || {
            let mut leases = self.leases();
            self.store.expire(&mut leases, &claim.name);
            match leases.get(&claim.name) {
                Some(lease) if lease.token != claim.token => Acquired::Taken(self.store.holder_of(lease)),
                _ => {
                    leases.insert(claim.name.clone(), self.store.lease_for(claim));
                    Acquired::Granted
                }
            }
        })
    }

    fn extend<'a>(&'a self, claim: &'a Claim, if_free: IfFree) -> Answer<'a, Extended> {
        at_once(move || {
            let mut leases = self.leases();
            self.store.expire(&mut leases, &claim.name);
            let done = match (leases.get(&claim.name), if_free) {
                (Some(lease), _) if lease.token != claim.token => {
                    return Extended::HeldByAnother(self.store.holder_of(lease));
                }
                (Some(_), _) => Extended::Extended,
                (None, IfFree::Retake) => Extended::Retaken,
                (None, IfFree::Leave) => return Extended::NotHeld,
            };
            leases.insert(claim.name.clone(), self.store.lease_for(claim));
            done
        })
    }

    fn release<'a>(&'a self, name: &'a LockName, token: &'a Token) -> Answer<'a, Released> {
        at_once(move || {
            let mut leases = self.leases();
            self.store.expire(&mut leases, name);
            match leases.get(name) {
                None => Released::NotHeld,
                Some(lease) if lease.token != *token => Released::HeldByAnother(self.store.holder_of(lease)),
                Some(_) => {
                    leases.remove(name);
                    Released::Released
                }
            }
        })
    }

    fn inspect<'a>(&'a self, name: &'a LockName) -> Answer<'a, Option<Holder>> {
        at_once(move || {
            let mut leases = self.leases();
            self.store.expire(&mut leases, name);
            leases.get(name).map(|lease| self.store.holder_of(lease))
        })
    }
}

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
