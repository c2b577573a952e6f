//! A network of delays, and of connections that break: between a client of the simulation and a memory node.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use redsync::{
    Acquired, Answer, Claim, ClientId, Clock, DrivenClock, Entered, Extended, Grant, IfFree, Instant,
    Listener, LockName, Look, MemoryNode, Node, NodeFault, Page, Place, Released, Search, Succession, Token,
    Uptime,
};
use tokio::sync::oneshot;

/// One client's way to one node: what it sends comes in order, and so does what comes back.
#[derive(Clone)]
pub(crate) struct Route(Arc<Shared>);

struct Shared {
    node: MemoryNode,
    clock: DrivenClock,
    random: Mutex<SmallRng>,
    longest: Duration,
    lanes: Mutex<Lanes>,
    /// Grows each time that the connection breaks: what was under way on a former one is lost.
    connection: AtomicU64,
    listeners: Mutex<Vec<Heard>>,
    this: Weak<Shared>,
}

/// Who hears the node, and through whom.
type Heard = (Arc<Relay>, Weak<dyn Listener>);

#[derive(Default)]
struct Lanes {
    there: Instant,
    back: Instant,
}

impl Route {
    /// A way to `node` on which each message takes up to `longest`.
    pub(crate) fn new(node: &MemoryNode, clock: &DrivenClock, seed: u64, longest: Duration) -> Self {
        Self(Arc::new_cyclic(|this| Shared {
            node: node.clone(),
            clock: clock.clone(),
            random: Mutex::new(SmallRng::seed_from_u64(seed)),
            longest,
            lanes: Mutex::default(),
            connection: AtomicU64::new(0),
            listeners: Mutex::default(),
            this: this.clone(),
        }))
    }

    /// Breaks the connection: answers and requests that are under way are lost; of the requests, half are applied all the
    /// same, some of them seconds later. Half of the pushes are still heard, some seconds later, too. There is another connection at
    /// once, and what is sent by it may overtake all that.
    pub(crate) fn cut(&self) {
        self.0.connection.fetch_add(1, Ordering::SeqCst);
        *self.0.lanes.lock().unwrap() = Lanes::default();
        let listeners: Vec<_> =
            self.0.listeners.lock().unwrap().iter().map(|(_, heard)| heard.clone()).collect();
        for listener in listeners.iter().filter_map(Weak::upgrade) {
            listener.interrupted();
        }
    }

    /// The process at this end is gone: nobody hears the node any more.
    pub(crate) fn hang_up(&self) {
        self.0.connection.fetch_add(1, Ordering::SeqCst);
        self.0.listeners.lock().unwrap().clear();
    }
}

impl Shared {
    fn delay(&self) -> Duration {
        let longest = u64::try_from(self.longest.as_micros()).unwrap();
        Duration::from_micros(self.random.lock().unwrap().random_range(1..=longest.max(1)))
    }

    /// Whether something is read after its connection broke, and that is when this completes.
    async fn is_read_late(&self) -> bool {
        let (is_read, late) = {
            let mut random = self.random.lock().unwrap();
            (random.random_bool(0.5), Duration::from_millis(random.random_range(0..4_000)))
        };
        if is_read {
            self.clock.sleep_until(self.clock.now() + late).await;
        }
        is_read
    }

    fn there(&self) -> Instant {
        let at = self.clock.now() + self.delay();
        let mut lanes = self.lanes.lock().unwrap();
        lanes.there = at.max(lanes.there + Duration::from_nanos(1));
        lanes.there
    }

    fn back(&self) -> Instant {
        let at = self.clock.now() + self.delay();
        let mut lanes = self.lanes.lock().unwrap();
        lanes.back = at.max(lanes.back + Duration::from_nanos(1));
        lanes.back
    }

    /// Sends `request` when it is first polled. From then on it goes its way, whether or not the answer is waited for.
    fn ask<'a, T, F>(&self, request: impl FnOnce(MemoryNode) -> F + Send + 'a) -> Answer<'a, T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, NodeFault>> + Send + 'static,
    {
        let shared = self.this.upgrade().expect("it is asked");
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let (at, connection) = (shared.there(), shared.connection.load(Ordering::SeqCst));
            let applied = request(shared.node.clone());
            tokio::spawn(async move {
                shared.clock.sleep_until(at).await;
                let is_lost = || shared.connection.load(Ordering::SeqCst) != connection;
                if is_lost() && !shared.is_read_late().await {
                    return;
                }
                let said = applied.await;
                let at = shared.back();
                shared.clock.sleep_until(at).await;
                if !is_lost() {
                    let _ = answer.send(said);
                }
            });
            answered.await.unwrap_or_else(|_| Err(NodeFault::disconnected("the connection broke")))
        })
    }
}

impl Node for Route {
    fn identity(&self) -> Answer<'_, String> {
        self.0.node.identity()
    }

    fn uptime(&self) -> Answer<'_, Uptime> {
        self.0.node.uptime()
    }

    fn health_warnings(&self) -> Answer<'_, Vec<String>> {
        self.0.node.health_warnings()
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Acquired> {
        let claim = claim.clone();
        self.0.ask(|node| async move { node.acquire(&claim).await })
    }

    fn enter<'a>(&'a self, client: &'a ClientId, places: &'a [Place]) -> Answer<'a, Entered> {
        let (client, places) = (client.clone(), places.to_vec());
        self.0.ask(|node| async move { node.enter(&client, &places).await })
    }

    fn yield_lease<'a>(&'a self, client: &'a ClientId, place: &'a Place) -> Answer<'a, Entered> {
        let (client, place) = (client.clone(), place.clone());
        self.0.ask(|node| async move { node.yield_lease(&client, &place).await })
    }

    fn extend<'a>(&'a self, claim: &'a Claim, if_free: IfFree) -> Answer<'a, Extended> {
        let claim = claim.clone();
        self.0.ask(move |node| async move { node.extend(&claim, if_free).await })
    }

    fn release<'a>(
        &'a self,
        name: &'a LockName,
        token: &'a Token,
        succession: Succession,
    ) -> Answer<'a, Released> {
        let (name, token) = (name.clone(), token.clone());
        self.0.ask(move |node| async move { node.release(&name, &token, succession).await })
    }

    fn inspect<'a>(&'a self, name: &'a LockName) -> Answer<'a, Look> {
        self.0.node.inspect(name)
    }

    fn list<'a>(&'a self, search: &'a Search, from: &'a str) -> Answer<'a, Page> {
        self.0.node.list(search, from)
    }

    fn listen(&self, client: &ClientId, listener: Weak<dyn Listener>) {
        let relay = Arc::new(Relay { route: self.0.this.clone(), to: listener.clone() });
        let heard: Weak<dyn Listener> = Arc::<Relay>::downgrade(&relay);
        self.0.node.listen(client, heard);
        self.0.listeners.lock().unwrap().push((relay, listener));
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Route({})", self.0.node)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.node.fmt(f)
    }
}

/// Passes on what the node tells, later.
#[derive(Debug)]
struct Relay {
    route: Weak<Shared>,
    to: Weak<dyn Listener>,
}

impl Relay {
    fn later(&self, tell: impl FnOnce(&dyn Listener) + Send + 'static) {
        let Some(route) = self.route.upgrade() else { return };
        let (at, connection) = (route.back(), route.connection.load(Ordering::SeqCst));
        let to = self.to.clone();
        tokio::spawn(async move {
            route.clock.sleep_until(at).await;
            let is_lost = route.connection.load(Ordering::SeqCst) != connection;
            let is_heard = !is_lost || route.is_read_late().await;
            if let Some(listener) = to.upgrade().filter(|_| is_heard) {
                tell(&*listener);
            }
        });
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

impl Listener for Relay {
    fn granted(&self, grant: Grant) {
        self.later(move |listener| listener.granted(grant));
    }

    fn freed(&self, name: LockName) {
        self.later(move |listener| listener.freed(name));
    }

    fn interrupted(&self) {}
}
