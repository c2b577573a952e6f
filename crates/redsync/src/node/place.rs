//! Waiting on one node: places in the queue, what becomes of them, and who is told.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

use super::{Claim, Holder, NodeFault};
use crate::protocol::{Fence, LockName, Round, Ticket, Token};

/// A place in the queue that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// What is waited for; the lease is granted for the claim's expiry when its turn comes.
    pub claim: Claim,
    /// Where in the queue.
    pub ticket: Ticket,
    /// The request's number, which a later grant carries.
    pub round: Round,
}

impl Place {
    /// A place for `claim` at `ticket`, asked for by the request numbered `round`.
    pub const fn new(claim: Claim, ticket: Ticket, round: Round) -> Self {
        Self { claim, ticket, round }
    }
}

/// The answer to [`Node::enter`](super::Node::enter) and [`Node::yield_lease`](super::Node::yield_lease).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entered {
    /// What became of each place, in the order in which they were asked for.
    pub places: Vec<Placed>,
    /// Who has the lease now, and for how long.
    pub holder: Holder,
    /// The node's own clock: microseconds since 1970, as far as it knows.
    pub micros: u64,
    /// How soon to ask again, where the node cannot tell of a grant.
    pub ask_within: Option<Duration>,
}

impl Entered {
    /// What became of each of `places` on a node where `holder` has the lease, at `micros` by its clock.
    pub const fn new(places: Vec<Placed>, holder: Holder, micros: u64) -> Self {
        Self { places, holder, micros, ask_within: None }
    }

    /// The same of a node that cannot tell of a grant: it has to be asked again that soon.
    #[must_use]
    pub fn unless_asked_within(self, duration: Duration) -> Self {
        Self { ask_within: Some(duration), ..self }
    }
}

/// What became of one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// The token has the lease, for its expiry from now on; and where a fence was asked for, this is where the lock's counter
    /// stands.
    Granted(Option<Fence>),
    /// The token is in the queue, in this position; 1 is next.
    Queued(u64),
}

/// A lease that a node granted to one who waited, when another let go of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// The lock.
    pub name: LockName,
    /// Who has it now.
    pub token: Token,
    /// The round of the place that was granted.
    pub round: Round,
    /// Where the lock's counter stands, if a fence was asked for.
    pub fence: Option<Fence>,
}

impl Grant {
    /// The grant of `name` to `token`, whose place was last renewed in `round`.
    pub const fn new(name: LockName, token: Token, round: Round) -> Self {
        Self { name, token, round, fence: None }
    }

    /// The same, of a lock whose counter stands at `fence`.
    #[must_use]
    pub fn fenced(self, fence: Option<Fence>) -> Self {
        Self { fence, ..self }
    }
}

/// Who is told by a node what happens to those who wait there. Its methods return at once.
pub trait Listener: fmt::Debug + Send + Sync + 'static {
    /// A lease was granted.
    fn granted(&self, grant: Grant);

    /// The lock of this name was let go of without being handed over: whoever waits for it may ask.
    fn freed(&self, name: LockName);

    /// Something may have happened that was not told, as when a connection broke: whoever waits should ask.
    fn interrupted(&self);
}

/// What [`Node::release`](super::Node::release) does with the lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Succession {
    /// Hands it over to the first in the queue.
    #[default]
    HandOver,
    /// Lets it go, and tells the first in the queue. Whoever asks first gets it: programs that do not wait in the queue, too.
    Barging,
}

/// The answer to who asks for no place at all.
pub(super) fn no_places() -> NodeFault {
    NodeFault::refused("PLACES", "one place at least has to be asked for")
}

/// The answer to who asks for a fence where none can be counted.
pub(super) fn at_its_end() -> NodeFault {
    NodeFault::refused("FENCE", "the lock's fence counter is at its end: 2^53 - 1")
}

/// One process's, or rather one [`Redsync`](crate::Redsync)'s, name on the nodes: where its grants are sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(Arc<str>);

impl ClientId {
    /// One that nobody has had before: 16 hexadecimal digits.
    pub fn random() -> Self {
        let mut random = [0_u8; 8];
        rand::rng().fill_bytes(&mut random);
        Self(format!("{:016x}", u64::from_be_bytes(random)).into())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ClientId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a node says of a lock, in answer to [`Node::inspect`](super::Node::inspect).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Look {
    /// Who has the lease, if anybody. The time left is never [`Unknown`](super::TimeLeft::Unknown) here.
    pub holder: Option<Holder>,
    /// Who waits, the next first; the first [`Look::SHOWN`] of them.
    pub queue: Vec<QueueEntry>,
    /// How many wait in all.
    pub waiting: u64,
    /// Where the lock's counter stands, if it has one.
    pub fence: Option<Fence>,
}

impl Look {
    /// How many of those who wait are told of.
    pub const SHOWN: usize = 100;

    /// What a node says where `holder` has the lease, and `waiting` wait, of whom `line` are the first.
    pub const fn new(holder: Option<Holder>, queue: Vec<QueueEntry>, waiting: u64) -> Self {
        Self { holder, queue, waiting, fence: None }
    }

    /// The same, of a lock whose counter stands at `fence`.
    #[must_use]
    pub fn fenced(self, fence: Option<Fence>) -> Self {
        Self { fence, ..self }
    }
}

/// One who waits in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueEntry {
    token: String,
    ticket: Ticket,
}

impl QueueEntry {
    /// Who waits with `token`, and came at `ticket`.
    pub fn new(token: impl Into<String>, ticket: Ticket) -> Self {
        Self { token: token.into(), ticket }
    }

    /// The token's text.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The owner's label at the token's end, if it has one.
    pub fn owner(&self) -> Option<&str> {
        crate::protocol::owner_in(&self.token)
    }

    /// When it came.
    pub const fn ticket(&self) -> Ticket {
        self.ticket
    }
}

/// The owner's label, or the token's beginning where it has none.
impl fmt::Display for QueueEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::show_owner(&self.token, f)
    }
}
