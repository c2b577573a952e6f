//! Redsync and its builder: the nodes, the clock, and the work in the background.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Operation};
use crate::events::{self, RequestKind};
use crate::fan_out::{FanOut, NodeRequest, Nodes, Returned};
use crate::guard::Guard;
use crate::identity::this_process;
use crate::inspection::{HealthWarning, Inspection, NodeReport};
use crate::lease::Lease;
use crate::leases::Core;
use crate::mutex::Mutex;
use crate::node::{self, IntoNode, Look, Node, Uptime};
use crate::protocol::{LockName, OwnerLabel, Quorum};
use crate::roll::{Roll, Voter};
use crate::service::{Keeper, TaskTracker, Waiters};

/// Locks over one node, or over N independent ones of which a majority must agree. Go's redsync: `Redsync`, `New`.
///
/// Cheap to clone; clones share connections and background work. Make one for the process and keep it.
///
/// It works in the tokio runtime that it is first used in. **Do not** run the nodes of one `Redsync` as primary and
/// replicas of each other: they must not share data, or a majority of them means nothing.
#[derive(Clone)]
pub struct Redsync {
    pub(crate) core: Arc<Core>,
    pub(crate) process: OwnerLabel,
}

impl Redsync {
    /// How long a node may take to answer when it is only looked at.
    pub(crate) const LOOK: Duration = Duration::from_secs(1);

    /// How long a shutdown may take.
    const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

    /// How much longer the rest of the nodes may take to say who they are, when a majority has: so many times as long as
    /// that took, within these bounds. A node that is not hung is as near as the others, as a rule.
    const IDENTIFY_GRACE_FACTOR: u32 = 2;
    const IDENTIFY_GRACE_LEAST: Duration = Duration::from_millis(8);
    const IDENTIFY_GRACE_MOST: Duration = Duration::from_millis(250);

    /// Connects to the nodes that `urls` name, and checks that a majority answers and none is listed twice.
    ///
    /// URLs: `redis://`, `rediss://`, `valkey://`, `valkeys://`, `redis+unix://` (see `RedisNode::open`),
    /// `sqlite:///path` (the path as it stands, nothing is decoded), `memory:` (a store of its own) and `memory:NAME` (one
    /// store for the process).
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), redsync::Error> {
    /// let redsync = redsync::Redsync::connect(["redis://10.0.0.1", "redis://10.0.0.2", "redis://10.0.0.3"]).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidUrl`], [`Error::InvalidOption`] (no URLs), [`Error::DuplicateNode`], or [`Error::NoQuorum`]
    /// when fewer than a majority answered.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any point; nothing stays behind.
    pub async fn connect<U: AsRef<str>>(urls: impl IntoIterator<Item = U>) -> Result<Self, Error> {
        let mut builder = Self::builder();
        for url in urls {
            builder = builder.url(url.as_ref());
        }
        let redsync = builder.build()?;
        redsync.check_nodes().await?;
        Ok(redsync)
    }

    /// Locks over `nodes`, which may be of any kind, your own among them. Nothing is asked of them yet. Go's redsync:
    /// `New(pools...)`.
    ///
    /// Nodes of one type are given as they are, or as [`Arc`]s; nodes of different types as `Arc<dyn Node>`.
    ///
    /// ```
    /// use redsync::{MemoryNode, Redsync};
    ///
    /// let redsync = Redsync::new([MemoryNode::new(), MemoryNode::new(), MemoryNode::new()])?;
    /// # Ok::<(), redsync::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] when there are none; [`Error::DuplicateNode`] when two have one name.
    pub fn new<N: IntoNode>(nodes: impl IntoIterator<Item = N>) -> Result<Self, Error> {
        let mut builder = Self::builder();
        for node in nodes {
            builder = builder.node(node);
        }
        builder.build()
    }

    /// For what [`connect`](Redsync::connect) and [`new`](Redsync::new) do not offer.
    pub fn builder() -> Builder {
        Builder {
            nodes: Vec::new(),
            clock: Arc::new(SystemClock),
            owner: None,
            restart_guard: None,
            confirm_grants: false,
        }
    }

    /// The lock called `name`: any non-empty text up to 1 KiB. Go's redsync: `NewMutex`.
    ///
    /// Nothing is asked of any node yet; what is wrong with the name is said when the lock is taken.
    pub fn mutex(&self, name: impl Into<String>) -> Mutex {
        Mutex::new(Arc::clone(&self.core), self.process.clone(), name.into())
    }

    /// Takes over a held lock by its lease, with the lease's expiry and default options; see [`Mutex::adopt`].
    ///
    /// # Errors
    ///
    /// As [`Mutex::adopt`].
    ///
    /// # Cancel safety
    ///
    /// As [`Mutex::adopt`].
    pub async fn adopt(&self, lease: &Lease) -> Result<Guard, Error> {
        self.mutex(lease.name().as_str()).expiry(lease.expiry()).adopt(lease).await
    }

    /// Says who holds the lock called `name`, on each node and by majority, without taking it.
    ///
    /// Waits for every node, up to a second.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for a name that no lock can have. Nodes that fail are part of the answer.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any point; nothing is changed.
    pub async fn inspect(&self, name: impl AsRef<str>) -> Result<Inspection, Error> {
        let name = LockName::new(name)?;
        self.core.enter()?;
        let answers = self
            .ask_all(move |node| {
                let name = name.clone();
                Box::pin(async move {
                    let looked = node.inspect(&name).await?;
                    Ok((looked, node.uptime().await.unwrap_or(Uptime::Unknown)))
                })
            })
            .await;
        let reports = self.core.nodes.iter().zip(answers);
        let reports = reports.map(|(node, answer)| {
            let node = node.to_string();
            match answer {
                Ok((looked, uptime)) => {
                    let Look { holder, queue, waiting, fence } = looked;
                    NodeReport { node, answer: Ok(holder), queue, waiting, fence, uptime }
                }
                Err(error) => NodeReport {
                    node,
                    answer: Err(error),
                    queue: Vec::new(),
                    waiting: 0,
                    fence: None,
                    uptime: Uptime::Unknown,
                },
            }
        });
        Ok(Inspection::new(self.core.quorum, reports.collect()))
    }

    /// Asks every node who it is, and checks that a majority answers and that no two are the same server.
    ///
    /// A node that hangs delays this by a moment only: twice as long as the others took, and 8 ms at least. From then on each node votes once it has said who it
    /// is. One that turns out to be the same server as another does not vote; [`health_warnings`](Self::health_warnings) and an
    /// event of the name `node is listed twice` tell it.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateNode`], else [`Error::NoQuorum`] when fewer than a majority answered within a second.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any point; nothing is changed on the nodes.
    pub async fn check_nodes(&self) -> Result<(), Error> {
        let began = self.core.enter()?;
        let Some(roll) = &self.core.roll else { return self.check_only_node().await };
        roll.begin();
        let mut fan_out = self.fan_out(|node| Box::pin(async move { node.identity().await }));
        let (mut known, mut errors) = (0, Vec::new());
        let (majority, clock) = (self.core.quorum.majority(), &self.core.clock);
        let mut end = None;
        loop {
            let answer = if known < majority {
                fan_out.next().await
            } else {
                let now = clock.now();
                let moment = now.saturating_since(began).saturating_mul(Self::IDENTIFY_GRACE_FACTOR);
                let end = *end
                    .get_or_insert(now + moment.clamp(Self::IDENTIFY_GRACE_LEAST, Self::IDENTIFY_GRACE_MOST));
                tokio::select! {
                    biased;
                    answer = fan_out.next() => answer,
                    () = clock.sleep_until(end) => None,
                }
            };
            match answer {
                None => break,
                Some((_, Err(error))) => errors.push(error),
                Some((index, Ok(identity))) => {
                    if let Some(other) = roll.said(index, identity) {
                        let (first, second) = (roll.name(index.min(other)), roll.name(index.max(other)));
                        return Err(Error::DuplicateNode { first, second });
                    }
                    known += 1;
                }
            }
        }
        if known < majority {
            let total = self.core.quorum.nodes();
            return Err(Error::NoQuorum { name: None, operation: Operation::Connect, total, nodes: errors });
        }
        Ok(())
    }

    async fn check_only_node(&self) -> Result<(), Error> {
        let mut fan_out = self.fan_out(|node| Box::pin(async move { node.identity().await }));
        match fan_out.next().await {
            Some((_, Err(error))) => {
                let (name, operation, nodes) = (None, Operation::Connect, vec![error]);
                Err(Error::NoQuorum { name, operation, total: 1, nodes })
            }
            _ => Ok(()),
        }
    }

    /// What makes nodes unfit to hold locks, as far as they say: a replica grants nothing, an evicting server forgets.
    /// Events of the name `node is unfit to hold locks` tell the same each time that such a node is connected to.
    ///
    /// Nodes that do not answer within a second are left out.
    ///
    /// # Errors
    ///
    /// [`Error::Runtime`] outside of a runtime.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any point; nothing is changed.
    pub async fn health_warnings(&self) -> Result<Vec<HealthWarning>, Error> {
        self.core.enter()?;
        let answers = self.ask_all(|node| Box::pin(async move { node.health_warnings().await })).await;
        let told = self.core.nodes.iter().zip(answers).flat_map(|(node, answer)| {
            let named = move |warning| HealthWarning { node: node.to_string(), warning };
            answer.unwrap_or_default().into_iter().map(named)
        });
        Ok(told.collect())
    }

    /// Completes when the background has finished what was given to it before: releases of dropped guards, undo of
    /// cancelled attempts. At most `within`.
    ///
    /// For the end of a program whose runtime would else be gone before they were sent. Returns whether all is done;
    /// what is not goes on as long as the runtime does.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any point; the work goes on.
    pub async fn drain(&self, within: Duration) -> bool {
        let end = self.core.clock.now() + within;
        tokio::select! {
            biased;
            () = self.core.tasks.drain() => true,
            () = self.core.clock.sleep_until(end) => false,
        }
    }

    /// Ends the background work: no lock is taken any more, no guard renewed, and what was dropped or cancelled before is
    /// released. Completes when that is done, or after 5 s; returns whether it is.
    ///
    /// Guards that are still alive stay exclusive until their [`valid_until`](Guard::valid_until), can be extended by hand,
    /// and can be unlocked. Where the last `Redsync`, `Mutex` and `Guard` are dropped without this, the background ends by
    /// itself when it has done what it was given.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any point; the background ends all the same.
    pub async fn shutdown(&self) -> bool {
        let guards = self.core.keeper.shut();
        self.core.waiters.wake_all();
        if guards > 0 {
            tracing::warn!(guards, "redsync is shut down while guards are alive; they are renewed no more");
        }
        let end = self.core.clock.now() + Self::SHUTDOWN_TIMEOUT;
        let done = async {
            self.core.keeper.drain().await;
            self.core.tasks.drain().await;
        };
        tokio::select! {
            biased;
            () = done => true,
            () = self.core.clock.sleep_until(end) => false,
        }
    }

    /// Has all background work done in `runtime`.
    #[cfg(feature = "blocking")]
    pub(crate) fn live_in(&self, runtime: tokio::runtime::Handle) {
        self.core.tasks.move_in(runtime);
    }

    /// One question to every node; the answers in the nodes' order.
    pub(crate) async fn ask_all<T>(
        &self,
        question: impl Fn(Arc<dyn Node>) -> NodeRequest<T>,
    ) -> Vec<Returned<T>> {
        let mut fan_out = self.fan_out(question);
        let mut answers: Vec<(usize, Returned<T>)> = Vec::with_capacity(self.core.quorum.nodes());
        while let Some(answer) = fan_out.next().await {
            answers.push(answer);
        }
        answers.sort_by_key(|(index, _)| *index);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    fn fan_out<T>(&self, question: impl Fn(Arc<dyn Node>) -> NodeRequest<T>) -> FanOut<T> {
        let everyone = 0..self.core.quorum.nodes();
        FanOut::open(&self.core, RequestKind::Look, self.core.clock.now(), everyone, Self::LOOK, question)
    }
}

impl fmt::Debug for Redsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redsync").field("nodes", &self.core.nodes).finish_non_exhaustive()
    }
}

/// Puts a [`Redsync`] together from URLs, nodes, a clock and a label.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct Builder {
    nodes: Vec<Listed>,
    clock: Arc<dyn Clock>,
    owner: Option<String>,
    restart_guard: Option<bool>,
    confirm_grants: bool,
}

enum Listed {
    Url(String),
    Node(Arc<dyn Node>),
}

impl fmt::Debug for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(&node::redacted(url)),
            Self::Node(node) => fmt::Debug::fmt(node, f),
        }
    }
}

impl Builder {
    /// One more node, by its URL; see [`Redsync::connect`].
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.nodes.push(Listed::Url(url.into()));
        self
    }

    /// One more node, of any kind.
    pub fn node(mut self, node: impl IntoNode) -> Self {
        self.nodes.push(Listed::Node(node.into_node()));
        self
    }

    /// The clock to measure validity on and to sleep on. Default [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The label that shows people who holds, for all locks; see [`Mutex::owner`]. Default `host:pid`.
    pub fn owner(mut self, label: impl Into<String>) -> Self {
        self.owner = Some(label.into());
        self
    }

    /// Whether votes of restarted nodes are withheld, for all locks that do not say so themselves; see
    /// [`Mutex::restart_guard`]. Default: with more than one node.
    pub fn restart_guard(mut self, guard: bool) -> Self {
        self.restart_guard = Some(guard);
        self
    }

    /// Whether waiters ask the node before they believe that a release handed the lock to them, for all locks that do not say
    /// so themselves; see [`Mutex::confirm_grants`]. Default: off.
    pub fn confirm_grants(mut self, confirm: bool) -> Self {
        self.confirm_grants = confirm;
        self
    }

    /// The finished [`Redsync`]. Nothing is connected to yet; [`Redsync::check_nodes`] does.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidUrl`]; [`Error::InvalidOption`] for no nodes or an impossible label;
    /// [`Error::DuplicateNode`] when two nodes have one name.
    pub fn build(self) -> Result<Redsync, Error> {
        let mut nodes: Vec<Arc<dyn Node>> = Vec::with_capacity(self.nodes.len());
        for listed in self.nodes {
            let node = match listed {
                Listed::Url(url) => node::open(&url, &self.clock)?,
                Listed::Node(node) => node,
            };
            let name = node.to_string();
            if nodes.iter().any(|other| other.to_string() == name) {
                return Err(Error::DuplicateNode { first: name.clone(), second: name });
            }
            nodes.push(node);
        }
        let quorum = Quorum::of(nodes.len())?;
        let process = self.owner.map_or_else(|| Ok(this_process()), OwnerLabel::new)?;
        let roll = (quorum.nodes() > 1).then(|| Arc::new(Roll::of(&nodes)));
        if let Some(roll) = &roll {
            for (index, node) in nodes.iter_mut().enumerate() {
                *node = Arc::new(Voter::new(Arc::clone(node), index, Arc::clone(roll)));
            }
        }
        let (nodes, clock, tasks, keeper): (Nodes, _, _, _) =
            (nodes.into(), self.clock, TaskTracker::new(), Keeper::new());
        // With one node, there is no quorum to break; and its restart is met on the first day.
        let restart_guard = self.restart_guard.unwrap_or(quorum.nodes() > 1);
        let waiters = Waiters::new(quorum.nodes());
        events::describe(&nodes);
        let (confirm_grants, is_described) = (self.confirm_grants, AtomicBool::new(false));
        let core = Core {
            nodes,
            roll,
            quorum,
            clock,
            tasks,
            keeper,
            waiters,
            restart_guard,
            confirm_grants,
            is_described,
        };
        Ok(Redsync { core: Arc::new(core), process })
    }
}
