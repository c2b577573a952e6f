//! The Node contract: what a store must do to grant leases, and no more.
//!
//! Everything else — quorum, validity, retries, undo — is built on top of it. [`MemoryNode`], `SqliteNode` and
//! `RedisNode` implement it; bring your own by implementing [`Node`], and hold it against the
//! `redsync-conformance` suite.

mod fault;
mod into;
mod list;
mod memory;
mod place;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg(feature = "sqlite")]
mod sqlite;
mod url;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Weak;
use std::time::Duration;

pub use self::fault::{Applied, FaultKind, NodeFault, Remedy};
pub use self::into::IntoNode;
pub use self::list::{Listed, Page, Search};
pub use self::memory::MemoryNode;
pub use self::place::{ClientId, Entered, Grant, Listener, Look, Place, Placed, QueueEntry, Succession};
#[cfg(feature = "redis")]
pub use self::redis::RedisNode;
#[cfg(feature = "sqlite")]
pub use self::sqlite::{Sharing, SqliteNode};
pub(crate) use self::url::open;
pub use self::url::{InvalidUrl, redacted};
pub(crate) use crate::protocol::show_owner;
pub use crate::protocol::{Acquired, Extended, Holder, IfFree, Released, TimeLeft};
use crate::protocol::{Expiry, LockName, Proposal, Token};

/// A node's answer to one request: a future that a caller may drop at any time.
///
/// Dropping it does not take the request back: the node may still apply it. Whoever drops it undoes.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, NodeFault>> + Send + 'a>>;

/// One independent store that grants leases.
///
/// Every method is required. A request is applied at most once and never replayed: after an error, the
/// [`NodeFault`] says whether it may have been applied. Requests have no deadline of their own; the caller drops
/// the answer when its time is over. Requests that one task makes one after the other, each after the former's
/// answer was awaited or dropped, are applied in that order, as long as the connection to the node is the same; a request
/// whose answer is dropped before it was first polled was never made.
///
/// [`Display`](fmt::Display) names the node in messages, without any password.
pub trait Node: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// A text that is the same for two nodes if, and only if, they are the same store. A server listed twice would
    /// vote twice. Redis: the server's run id.
    fn identity(&self) -> Answer<'_, String>;

    /// For how long the node has certainly remembered every lease it granted. Called after each acquisition where votes
    /// of restarted nodes are withheld, so it must be cheap; what it says must hold for the incarnation that granted
    /// last, or for a later one. Redis: the server's uptime, read when it was connected to.
    fn uptime(&self) -> Answer<'_, Uptime>;

    /// What makes this store unfit to hold locks, each in a few words for its operator; nothing if nothing is known.
    /// Redis: it is a replica, it may evict keys.
    fn health_warnings(&self) -> Answer<'_, Vec<String>>;

    /// Grants the lease if the name is free, or if this token has it already, in which case its expiry starts anew, unless it
    /// lasts longer anyway: a request that was held up does not shorten what was extended since. Otherwise says who has it,
    /// and changes nothing.
    ///
    /// Where the claim asks for a fence, the lock's counter is raised by the grant: by one at least, and to what is proposed
    /// where the node's clock allows that, which is at most a second ahead of it. A lock without a counter gets one, at most
    /// a second behind. Who has the lease already is told where the counter stands. The counter outlives leases, for the
    /// retention that was asked for last; a node that cannot count grants no fenced lease.
    fn acquire<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Acquired>;

    /// Lets the lease last `claim.expiry` from now on, longer or shorter, if this token has it; `if_free` says what
    /// happens when nobody has it. Another's lease is left as it is.
    ///
    /// Where the claim has a fence, the lock's counter is raised to it, if it is lower, wherever the token has the lease
    /// afterwards; and nowhere else.
    fn extend<'a>(&'a self, claim: &'a Claim, if_free: IfFree) -> Answer<'a, Extended>;

    /// Gives each of `places`, all of one name and all of `client`, its place in the queue, or renews it. Whoever has the lease
    /// already keeps it, and its expiry starts anew. If the name is free, the first in the queue gets it, who may be among
    /// these or not.
    ///
    /// A place that is not renewed for the claim's expiry is taken for that of a dead waiter. There must be one place at
    /// least.
    ///
    /// Where a place's claim asks for a fence, the counter is raised by the grant as by [`acquire`](Node::acquire), whenever
    /// that is. Where the counter cannot be raised, the lease is granted without a fence: a hand-over has nobody to tell.
    fn enter<'a>(&'a self, client: &'a ClientId, places: &'a [Place]) -> Answer<'a, Entered>;

    /// Takes the lease back from `place`'s token, if that has it, and gives it to the first in the queue: `place` among them, at
    /// its ticket. So it may be granted anew to the one who yielded it. If another has it, this is [`enter`](Node::enter).
    fn yield_lease<'a>(&'a self, client: &'a ClientId, place: &'a Place) -> Answer<'a, Entered>;

    /// Ends the lease if this token has it, and hands it over to the first in the queue in the same step, as `succession` says.
    /// Whoever is in the queue for this token leaves it. Another's lease is left as it is.
    ///
    /// In queue, whoever did not renew its place in time, and whoever cannot be told of its grant any more, is skipped in
    /// the same step.
    fn release<'a>(
        &'a self,
        name: &'a LockName,
        token: &'a Token,
        succession: Succession,
    ) -> Answer<'a, Released>;

    /// Says who has the lease and for how long, and who waits for it. Changes nothing.
    fn inspect<'a>(&'a self, name: &'a LockName) -> Answer<'a, Look>;

    /// Says which locks are held here whose names match the search, a page at a time; `from` is empty for the first page, then
    /// the [`next`](Page::next) of the page before. Changes nothing.
    ///
    /// What is held from before the first page is asked for until the last was answered is on a page, on several at worst;
    /// what comes or goes meanwhile may be. Each page costs the node a bounded time, and may hold no lock at all.
    fn list<'a>(&'a self, search: &'a Search, from: &'a str) -> Answer<'a, Page>;

    /// From here on, `listener` is told of what happens to those whom `client` has in the queue. Called once for each client,
    /// before its first [`enter`](Node::enter). A listener that is gone is told nothing, and those who wait for it are
    /// dead, to a node that can know: a server knows of connections.
    fn listen(&self, client: &ClientId, listener: Weak<dyn Listener>);
}

/// What is asked for: this name, for this token, for this long.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claim {
    /// The lock's name.
    pub name: LockName,
    /// The token of the attempt that asks.
    pub token: Token,
    /// How long the lease is to last, from the moment the node grants it.
    pub expiry: Expiry,
    /// The fence that is asked for, if one is.
    pub fence: Option<Proposal>,
}

impl Claim {
    /// A claim on `name` for `token` for `expiry`.
    pub const fn new(name: LockName, token: Token, expiry: Expiry) -> Self {
        Self { name, token, expiry, fence: None }
    }

    /// The same, with a fence.
    #[must_use]
    pub const fn fenced(mut self, proposal: Proposal) -> Self {
        self.fence = Some(proposal);
        self
    }
}

/// For how long a node has certainly remembered every lease that it granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uptime {
    /// It cannot have forgotten any: its leases are kept where a restart does not reach them, or end with those who
    /// hold them.
    Unbroken,
    /// At least for this long. It may have restarted, or taken over from another, before that.
    AtLeast(Duration),
    /// The node does not say.
    Unknown,
}
