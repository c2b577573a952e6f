//! A node in this process's memory whose messages come late: requests that are applied, and pushes that are told, when the
//! test says so.

use std::fmt;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use redsync::{
    Acquired, Answer, Claim, ClientId, Entered, Extended, Grant, IfFree, Listener, LockName, MemoryNode,
    Node, NodeFault, Place, Redsync, Released, Succession, Token,
};
use tokio::sync::oneshot;

use crate::delegate::delegate;
use crate::support::DEADLINE;

/// A memory node behind a network that holds messages back.
#[derive(Debug)]
pub(crate) struct Late {
    node: MemoryNode,
    state: Mutex<State>,
}

/// What becomes of requests of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Way {
    /// They are applied and answered.
    #[default]
    Open,
    /// They are on their way, until they are [delivered](Late::deliver).
    Slow,
    /// They are lost with their connection, and nobody knows whether they were applied.
    Cut,
}

#[derive(Debug, Default)]
struct State {
    enters: Way,
    yields: Way,
    releases: Way,
    is_down: bool,
    held_back: Vec<HeldBack>,
    /// Releases on their way.
    releasing: Vec<oneshot::Sender<()>>,
    ears: Vec<Arc<GrantListener>>,
    /// What was ever asked for.
    entered: Vec<Place>,
    yielded: Vec<Place>,
    released: Vec<Token>,
}

/// A request on its way.
#[derive(Debug)]
struct HeldBack {
    client: ClientId,
    places: Vec<Place>,
    is_yield: bool,
    answer: oneshot::Sender<Result<Entered, NodeFault>>,
}

impl Late {
    /// An empty node, through which everything passes.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { node: MemoryNode::new(), state: Mutex::default() })
    }

    /// The node itself, for those whose messages are not late.
    pub(crate) fn punctual(&self) -> Arc<dyn Node> {
        Arc::new(self.node.clone())
    }

    pub(crate) fn enters(&self, way: Way) {
        self.state().enters = way;
    }

    pub(crate) fn yields(&self, way: Way) {
        self.state().yields = way;
    }

    pub(crate) fn releases(&self, way: Way) {
        self.state().releases = way;
    }

    /// Applies and answers all releases that were held back.
    pub(crate) fn deliver_releases(&self) {
        // Whoever asked may have given up.
        self.state().releasing.drain(..).for_each(|release| _ = release.send(()));
    }

    /// Loses all releases that were held back, with their connection.
    pub(crate) fn lose_releases(&self) {
        self.state().releasing.clear();
    }

    /// From here on the node cannot be reached, nor tell anybody.
    pub(crate) fn go_down(&self) {
        self.state().is_down = true;
        self.hold_pushes();
    }

    /// Applies all requests that were held back; and answers them, or not.
    pub(crate) async fn deliver(&self, is_answered: bool) {
        let held_back = std::mem::take(&mut self.state().held_back);
        for HeldBack { client, places, is_yield, answer } in held_back {
            let applied = match is_yield {
                true => self.node.yield_lease(&client, &places[0]).await,
                false => self.node.enter(&client, &places).await,
            };
            if is_answered {
                // Whoever asked may have given up.
                let _ = answer.send(applied);
            }
        }
    }

    /// How many requests are on their way.
    pub(crate) fn held_back(&self) -> usize {
        self.state().held_back.len()
    }

    /// From here on, grants are not told.
    pub(crate) fn hold_pushes(&self) {
        self.state().ears.iter().for_each(|grant_listener| grant_listener.held_back.lock().unwrap().0 = true);
    }

    /// Tells of all grants that were held back, and says of how many.
    pub(crate) fn deliver_pushes(&self) -> usize {
        let ears = self.state().ears.clone();
        let mut delivered = 0;
        for grant_listener in ears {
            let grants = std::mem::take(&mut grant_listener.held_back.lock().unwrap().1);
            let Some(listener) = grant_listener.listener.upgrade() else { continue };
            delivered += grants.len();
            grants.into_iter().for_each(|grant| listener.granted(grant));
        }
        delivered
    }

    /// Tells all who listen that something may not have been heard, so that they ask anew at once.
    pub(crate) fn interrupt(&self) {
        let ears = self.state().ears.clone();
        ears.iter()
            .filter_map(|grant_listener| grant_listener.listener.upgrade())
            .for_each(|listener| listener.interrupted());
    }

    /// The places that were asked for until now, in order.
    pub(crate) fn entered(&self) -> Vec<Place> {
        self.state().entered.clone()
    }

    /// The places for which leases were to be yielded until now, in order.
    pub(crate) fn yielded(&self) -> Vec<Place> {
        self.state().yielded.clone()
    }

    /// The tokens that were to be released until now, in order.
    pub(crate) fn released(&self) -> Vec<Token> {
        self.state().released.clone()
    }

    /// How many wait for `name`.
    pub(crate) async fn waiting(&self, name: &str) -> u64 {
        self.node.inspect(&LockName::new(name).unwrap()).await.unwrap().waiting
    }

    /// Whether somebody has a lease on `name`.
    pub(crate) async fn is_held(&self, name: &str) -> bool {
        self.node.inspect(&LockName::new(name).unwrap()).await.unwrap().holder.is_some()
    }

    /// What happens to a request: nothing, it is failed, or it goes on its way.
    fn around<'a, T: Send + 'a>(&'a self, request: Answer<'a, T>) -> Answer<'a, T> {
        match self.state().is_down {
            true => Box::pin(async { Err(NodeFault::unreachable("the test says so")) }),
            false => request,
        }
    }

    async fn ask(
        &self,
        way: Way,
        client: &ClientId,
        places: &[Place],
        is_yield: bool,
    ) -> Result<Entered, NodeFault> {
        let is_down = self.state().is_down;
        match way {
            _ if is_down => Err(NodeFault::unreachable("the test says so")),
            Way::Open if is_yield => self.node.yield_lease(client, &places[0]).await,
            Way::Open => self.node.enter(client, places).await,
            Way::Cut => Err(NodeFault::disconnected("the test says so")),
            Way::Slow => {
                let (answer, answered) = oneshot::channel();
                let (client, places) = (client.clone(), places.to_vec());
                self.state().held_back.push(HeldBack { client, places, is_yield, answer });
                match answered.await {
                    Ok(answer) => answer,
                    Err(_) => pending().await,
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.fmt(f)
    }
}

impl Node for Late {
    delegate!(node: identity, uptime, health_warnings, inspect, list);

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Acquired> {
        self.around(self.node.acquire(claim))
    }

    fn extend<'a>(&'a self, claim: &'a Claim, if_free: IfFree) -> Answer<'a, Extended> {
        self.around(self.node.extend(claim, if_free))
    }

    fn enter<'a>(&'a self, client: &'a ClientId, places: &'a [Place]) -> Answer<'a, Entered> {
        let way = {
            let mut state = self.state();
            state.entered.extend_from_slice(places);
            state.enters
        };
        Box::pin(self.ask(way, client, places, false))
    }

    fn yield_lease<'a>(&'a self, client: &'a ClientId, place: &'a Place) -> Answer<'a, Entered> {
        let way = {
            let mut state = self.state();
            state.yielded.push(place.clone());
            state.yields
        };
        Box::pin(self.ask(way, client, std::slice::from_ref(place), true))
    }

    fn release<'a>(
        &'a self,
        name: &'a LockName,
        token: &'a Token,
        succession: Succession,
    ) -> Answer<'a, Released> {
        let way = {
            let mut state = self.state();
            state.released.push(token.clone());
            state.releases
        };
        let lost = || NodeFault::disconnected("the test says so");
        let request = self.around(self.node.release(name, token, succession));
        match way {
            Way::Open => request,
            Way::Cut => Box::pin(async move { Err(lost()) }),
            Way::Slow => {
                let (release, released) = oneshot::channel();
                self.state().releasing.push(release);
                Box::pin(async move {
                    released.await.map_err(|_| lost())?;
                    request.await
                })
            }
        }
    }

    fn listen(&self, client: &ClientId, listener: Weak<dyn Listener>) {
        let is_holding = self.state().is_down;
        let grant_listener =
            Arc::new(GrantListener { listener, held_back: Mutex::new((is_holding, Vec::new())) });
        let telling: Weak<dyn Listener> = Arc::<GrantListener>::downgrade(&grant_listener);
        self.state().ears.push(grant_listener);
        self.node.listen(client, telling);
    }
}

/// Stands between the node and who listens to it.
#[derive(Debug)]
struct GrantListener {
    listener: Weak<dyn Listener>,
    /// Whether grants are held back, and those that were.
    held_back: Mutex<(bool, Vec<Grant>)>,
}

impl Listener for GrantListener {
    fn granted(&self, grant: Grant) {
        {
            let mut held_back = self.held_back.lock().unwrap();
            if held_back.0 {
                held_back.1.push(grant);
                return;
            }
        }
        if let Some(listener) = self.listener.upgrade() {
            listener.granted(grant);
        }
    }

    fn freed(&self, name: LockName) {
        if let Some(listener) = self.listener.upgrade() {
            listener.freed(name);
        }
    }

    fn interrupted(&self) {
        if let Some(listener) = self.listener.upgrade() {
            listener.interrupted();
        }
    }
}

/// A [`Redsync`] over `nodes`.
pub(crate) fn over_nodes(nodes: impl IntoIterator<Item = Arc<dyn Node>>) -> Redsync {
    let builder = Redsync::builder().restart_guard(false);
    nodes.into_iter().fold(builder, redsync::Builder::node).build().expect("there are nodes")
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn until(what: &str, condition: impl AsyncFn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let began = Instant::now();
        while !condition().await {
            assert!(began.elapsed() < DEADLINE, "{caller}: waited in vain until {what}");
            // Between two looks.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Has this thread's runtime finish what runs in the background and waits for nothing.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}
