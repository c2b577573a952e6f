//! A node: what it grants, who waits there, and what it counts. The contract of the library's `Node`, for one name, as a
//! function of time: nothing here knows of clients' clocks, connections or beliefs.
//!
//! Times are microseconds on the node's own clock. Tokens are numbers, which sort as their texts do elsewhere.

use crate::rules::Rule;
use redsync_proto::{Fence, Ticket};

/// An owner's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u16);

/// Who is told of grants; below 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u8);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// For whom.
    pub token: Token,
    /// For how long, in microseconds.
    pub expiry: u64,
    /// The fence that is asked for, if one is.
    pub fence: Option<Proposal>,
}

/// A fence that is proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// The number.
    pub fence: u64,
    /// How long the counter is kept, in microseconds.
    pub retention: u64,
}

/// A place in the queue that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// What is waited for.
    pub claim: Claim,
    /// Where in the queue.
    pub ticket: u64,
    /// The request's number.
    pub round: u32,
}

/// The answer to [`ModelNode::acquire`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Acquired {
    /// The token has the lease; and where a fence was asked for, this is where the counter stands.
    Granted(Option<Fence>),
    /// Another has it.
    Taken(Token),
    /// A fence was asked for, and the counter is at its end. Nothing was done.
    Uncountable,
}

/// The answer to [`ModelNode::extend`].
pub type Extended = redsync_proto::Extended<Token>;

/// The answer to [`ModelNode::release`].
pub type Released = redsync_proto::Released<Token>;

/// What became of one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placed {
    /// The token has the lease; and where a fence was asked for, this is where the counter stands.
    Granted(Option<Fence>),
    /// The token is in this position; 1 is next.
    Queued(u64),
}

/// What [`ModelNode::release`] does with the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Succession {
    /// The first in the queue gets it.
    HandOver,
    /// Whoever asks first gets it; the first in the queue is told.
    Barging,
}

/// What a client is told by the step of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Told {
    /// The lease was granted.
    Granted {
        /// Who is told.
        client: ClientId,
        /// To whom.
        token: Token,
        /// The round of the place that was granted.
        round: u32,
        /// Where the counter stands, if a fence was asked for.
        fence: Option<Fence>,
        /// The place had been renewed in time. Nodes keep this to themselves; it is what a rule is about.
        was_alive: bool,
    },
    /// The lock was let go of.
    Freed {
        /// Who is told.
        client: ClientId,
    },
}

/// An answer, and who is told of what by the same step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<T> {
    /// What the caller hears.
    pub reply: T,
    /// What another hears.
    pub told: Option<Told>,
}

/// What a node shows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Who has the lease, and until when.
    pub holder: Option<(Token, u64)>,
    /// Who waits, and with which ticket; the next first.
    pub queue: Vec<(Token, u64)>,
    /// Where the counter stands.
    pub fence: Option<Fence>,
}

/// One node, for one name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct ModelNode {
    lease: Option<Lease>,
    /// By ticket, then token.
    queue: Vec<Waiter>,
    counter: Option<Counter>,
    /// The clients that can be told, one bit for each.
    listening: u32,
    broken: Option<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Lease {
    token: Token,
    end: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Counter {
    fence: Fence,
    /// Somebody was granted the lease without a fence, the counter being at its end: it is not told another's.
    is_spent: bool,
    kept_until: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Waiter {
    place: Place,
    client: ClientId,
    deadline: u64,
}

impl ModelNode {
    /// A node on which nothing is kept.
    pub fn new() -> Self {
        Self::default()
    }

    /// A node that breaks a rule.
    pub(crate) fn breaking(broken: Option<Rule>) -> Self {
        Self { broken, ..Self::default() }
    }

    /// `client` can be told from here on.
    pub fn listen(&mut self, client: ClientId) {
        self.listening |= 1 << client.0;
    }

    /// `client` is gone, and the node knows.
    pub fn stop_listening(&mut self, client: ClientId) {
        self.listening &= !(1 << client.0);
    }

    /// Grants the lease if the name is free, or lets it start anew if the token has it.
    pub fn acquire(&mut self, now: u64, claim: Claim) -> Step<Acquired> {
        self.forget_what_is_over(now);
        if let Some(other) = self.other_than(claim.token) {
            return alone(Acquired::Taken(other));
        }
        let is_new = self.lease.is_none();
        let fence = match claim.fence {
            Some(proposal) if is_new || self.fence().is_none() => match self.count(now, proposal) {
                None => return alone(Acquired::Uncountable),
                counted => counted,
            },
            Some(proposal) => self.keep(now, proposal),
            None => None,
        };
        // A request that was held up does not shorten what was extended since.
        if self.lease.is_none_or(|lease| lease.end < now + claim.expiry) {
            self.grant(now, claim);
        }
        alone(Acquired::Granted(fence))
    }

    /// Gives each of `places` its place in the queue, or renews it; whoever has the lease keeps it, and it starts anew. If the
    /// name is free, the first in the queue gets it.
    pub fn enter(&mut self, now: u64, client: ClientId, places: &[Place]) -> Step<Vec<Placed>> {
        self.forget_what_is_over(now);
        for place in places {
            match self.lease.is_some_and(|lease| lease.token == place.claim.token) {
                true => {
                    self.grant(now, place.claim);
                    place.claim.fence.and_then(|proposal| self.keep(now, proposal));
                }
                false => self.take_place(now, client, *place),
            }
        }
        let asking = |token: Token| places.iter().any(|place| place.claim.token == token);
        let told = if self.lease.is_none() { self.hand_over(now, asking) } else { None };
        Step { reply: self.placed(places), told }
    }

    /// Takes the lease back from the place's token, if that has it, and gives it to the first in the queue, that place among them.
    pub fn yield_lease(&mut self, now: u64, client: ClientId, place: Place) -> Step<Placed> {
        self.forget_what_is_over(now);
        let token = place.claim.token;
        self.take_place(now, client, place);
        let told =
            if self.other_than(token).is_none() { self.hand_over(now, |next| next == token) } else { None };
        Step { reply: self.placed(&[place])[0], told }
    }

    /// Lets the lease last for the claim's expiry from now on, if the token has it; or, where nobody has and `retakes`, grants
    /// it again. Raises the counter wherever the token has the lease afterwards.
    pub fn extend(&mut self, now: u64, claim: Claim, retakes: bool) -> Step<Extended> {
        self.forget_what_is_over(now);
        let holder = self.lease.map(|lease| lease.token);
        let done = match holder {
            Some(token) if token == claim.token => {
                Extended::Extended(claim.fence.and_then(|proposal| self.raise(now, proposal)))
            }
            _ if self.broken == Some(Rule::ConfirmingChecksTheOwner) && claim.fence.is_some() => {
                return alone(Extended::Extended(claim.fence.and_then(|proposal| self.raise(now, proposal))));
            }
            Some(other) => return alone(Extended::HeldByAnother(other)),
            None if retakes => {
                claim.fence.and_then(|proposal| self.raise(now, proposal));
                Extended::Retaken
            }
            None => return alone(Extended::NotHeld),
        };
        self.grant(now, claim);
        alone(done)
    }

    /// Ends the lease if the token has it, and leaves the queue. A lease that nobody has then is handed over, or let go of.
    pub fn release(&mut self, now: u64, token: Token, succession: Succession) -> Step<Released> {
        self.forget_what_is_over(now);
        let has_left = self.leave(token);
        let other = self.other_than(token).filter(|_| self.broken != Some(Rule::ReleasingChecksTheOwner));
        let had_it = other.is_none() && self.lease.is_some();
        let told = match (other, succession) {
            (Some(_), _) => None,
            (None, Succession::HandOver) => {
                self.lease = None;
                self.hand_over(now, |_| false)
            }
            (None, Succession::Barging) => {
                self.lease = None;
                let mut alive = self.queue.iter().filter(|waiter| now < waiter.deadline);
                let first = alive.find(|waiter| self.is_listening(waiter.client));
                first.map(|waiter| Told::Freed { client: waiter.client })
            }
        };
        let reply = match other {
            _ if had_it => Released::Released,
            _ if has_left => Released::Left,
            Some(other) => Released::HeldByAnother(other),
            None => Released::NotHeld,
        };
        Step { reply, told }
    }

    /// Who has the lease, who waits, and what was counted. Changes nothing that could be seen otherwise.
    pub fn inspect(&self, now: u64) -> Look {
        let holder = self.lease.filter(|lease| now < lease.end).map(|lease| (lease.token, lease.end));
        let queue = self.queue.iter().map(|waiter| (waiter.place.claim.token, waiter.place.ticket)).collect();
        let fence = self.fence().filter(|_| self.counter.is_some_and(|counter| now < counter.kept_until));
        Look { holder, queue, fence }
    }

    /// Starts again, with what it kept, or without. Nobody listens any more.
    pub fn restart(&mut self, keeps_data: bool) {
        match keeps_data {
            true => self.listening = 0,
            false => *self = Self::breaking(self.broken),
        }
    }

    /// Until when `token` has the lease.
    pub(crate) fn end_for(&self, token: Token) -> Option<u64> {
        self.lease.filter(|lease| lease.token == token).map(|lease| lease.end)
    }

    /// Whether `token` has a place in the queue that is alive.
    pub(crate) fn has_place(&self, now: u64, token: Token) -> bool {
        self.queue.iter().any(|waiter| waiter.place.claim.token == token && now < waiter.deadline)
    }

    /// Whether nobody has the lease, and nobody waits who is alive.
    pub(crate) fn is_empty(&self, now: u64) -> bool {
        self.lease.is_none_or(|lease| lease.end <= now)
            && self.queue.iter().all(|waiter| waiter.deadline <= now)
    }

    /// Drops what time has ended, so that states that cannot be told apart are the same.
    pub(crate) fn forget_what_is_over(&mut self, now: u64) {
        if self.lease.is_some_and(|lease| lease.end <= now) {
            self.lease = None;
        }
        if self.counter.is_some_and(|counter| counter.kept_until <= now) {
            self.counter = None;
        }
    }

    fn other_than(&self, token: Token) -> Option<Token> {
        self.lease.map(|lease| lease.token).filter(|holder| *holder != token)
    }

    fn fence(&self) -> Option<Fence> {
        self.counter.filter(|counter| !counter.is_spent).map(|counter| counter.fence)
    }

    fn grant(&mut self, now: u64, claim: Claim) {
        self.lease = Some(Lease { token: claim.token, end: now + claim.expiry });
    }

    /// Counts a grant. Nothing where the counter is at its end.
    fn count(&mut self, now: u64, proposal: Proposal) -> Option<Fence> {
        if self.counter.is_some_and(|counter| counter.is_spent) {
            return None;
        }
        let counted = match self.broken {
            Some(Rule::CountersFollowTime) => fence_of(self.fence().map_or(1, |fence| fence.as_u64() + 1)),
            _ => Fence::count(self.fence(), fence_of(proposal.fence), now)?,
        };
        self.raise(now, Proposal { fence: counted.as_u64(), ..proposal })
    }

    /// Raises the counter, if it is lower, and says where it stands.
    fn raise(&mut self, now: u64, proposal: Proposal) -> Option<Fence> {
        let proposed = fence_of(proposal.fence);
        let fresh = Counter { fence: proposed, is_spent: false, kept_until: now };
        let counter = self.counter.get_or_insert(fresh);
        counter.fence = counter.fence.max(proposed);
        self.keep(now, proposal)
    }

    /// Keeps the counter, if there is one, for as long as is asked for from now on, and says where it stands.
    fn keep(&mut self, now: u64, proposal: Proposal) -> Option<Fence> {
        self.counter.as_mut()?.kept_until = now + proposal.retention;
        self.fence()
    }

    fn is_listening(&self, client: ClientId) -> bool {
        self.listening & (1 << client.0) != 0
    }

    fn take_place(&mut self, now: u64, client: ClientId, place: Place) {
        self.leave(place.claim.token);
        let key = (place.ticket, place.claim.token);
        let at = self.queue.partition_point(|waiter| (waiter.place.ticket, waiter.place.claim.token) < key);
        self.queue.insert(at, Waiter { place, client, deadline: now + place.claim.expiry });
    }

    fn leave(&mut self, token: Token) -> bool {
        let before = self.queue.len();
        self.queue.retain(|waiter| waiter.place.claim.token != token);
        self.queue.len() < before
    }

    /// Gives the lease to the first in the queue who is alive, and tells it unless it is the one who asks; those before it are
    /// dropped.
    fn hand_over(&mut self, now: u64, asking: impl Fn(Token) -> bool) -> Option<Told> {
        self.lease = None;
        let skips_the_dead = self.broken != Some(Rule::TheDeadAreSkipped);
        while !self.queue.is_empty() {
            let waiter = self.queue.remove(0);
            let claim = waiter.place.claim;
            let was_alive =
                now < waiter.deadline && (asking(claim.token) || self.is_listening(waiter.client));
            if skips_the_dead && !was_alive {
                continue;
            }
            let fence = match self.broken {
                Some(Rule::HandingOverCounts) if !asking(claim.token) => {
                    claim.fence.and_then(|_| self.fence())
                }
                _ => claim.fence.and_then(|proposal| self.count(now, proposal)),
            };
            if let (Some(proposal), None, Some(counter)) = (claim.fence, fence, &mut self.counter) {
                counter.is_spent = true;
                self.keep(now, proposal);
            }
            self.grant(now, claim);
            let (client, token, round) = (waiter.client, claim.token, waiter.place.round);
            return (!asking(token)).then_some(Told::Granted { client, token, round, fence, was_alive });
        }
        None
    }

    fn placed(&self, places: &[Place]) -> Vec<Placed> {
        let position = |token: Token| self.queue.iter().position(|waiter| waiter.place.claim.token == token);
        let placed = places.iter().map(|place| {
            let token = place.claim.token;
            match self.lease.is_some_and(|lease| lease.token == token) {
                true => Placed::Granted(place.claim.fence.and_then(|_| self.fence())),
                false => Placed::Queued(position(token).map_or(0, |index| index as u64 + 1)),
            }
        });
        placed.collect()
    }
}

/// A step that nobody else hears of.
const fn alone<T>(reply: T) -> Step<T> {
    Step { reply, told: None }
}

/// The fence of this number, or the nearest to it that is one.
fn fence_of(number: u64) -> Fence {
    Ticket::from_micros(number).into()
}
