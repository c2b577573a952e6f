//! A client: its attempts, and how each stands. What an attempt believes of the nodes is the library's own ledger.

use std::sync::Arc;

use crate::node::Token;
use crate::rules::Rule;
use crate::terms::Terms;
use redsync_proto::leases::{Leases, RequestNumber};
use redsync_proto::{Fence, Instant, Quorum, Tally};

/// One process that wants the lock, for one caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    /// The last is the one that the caller waits for, or holds by.
    pub(crate) attempts: Vec<Arc<Attempt>>,
    pub(crate) is_crashed: bool,
    /// Kept from one token to the next, while the same call goes on.
    pub(crate) call: Option<Call>,
    /// The nodes on which its place is to be renewed, one bit for each.
    pub(crate) due: u8,
    /// How many more times it may extend, yield, and give up.
    pub(crate) extensions: u8,
    pub(crate) yields: u8,
}

/// One call of `lock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Call {
    pub(crate) ticket: u64,
    /// The highest fence that had been agreed on when it began.
    pub(crate) floor: Option<Fence>,
}

/// One token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Attempt {
    pub(crate) token: Token,
    pub(crate) call: Call,
    pub(crate) ledger: Leases,
    pub(crate) phase: Phase,
    pub(crate) fan_out: Option<FanOut>,
    /// Nodes may tell of grants.
    pub(crate) is_told: bool,
    pub(crate) fence: Option<Fence>,
    /// How often the nodes were asked to agree on one.
    pub(crate) rounds: u8,
    /// Its caller was told that it is over.
    pub(crate) was_lost: bool,
    /// A request of its came to a node so late that its time was over.
    pub(crate) is_haunted: bool,
}

/// What an attempt is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// It asks all nodes at once.
    Asking,
    /// It has a place in the queue.
    Waiting,
    /// It holds, and agrees with the nodes on a fence.
    Agreeing,
    /// The caller has the guard.
    Held,
    /// It was given back, or came to nothing.
    Ended,
}

/// One question to several nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FanOut {
    pub(crate) number: RequestNumber,
    pub(crate) tally: Tally,
}

/// How the leases stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Held,
    Lost,
    Not,
}

impl Client {
    pub(crate) fn attempt(&self) -> Option<&Attempt> {
        self.attempts.last().map(|attempt| &**attempt)
    }

    /// The attempt that is at something, if there is one.
    pub(crate) fn current(&self) -> Option<&Attempt> {
        self.attempt().filter(|attempt| attempt.phase != Phase::Ended)
    }
}

impl Attempt {
    pub(crate) fn new(token: Token, call: Call, quorum: Quorum) -> Self {
        Self {
            token,
            call,
            ledger: Leases::new(quorum),
            phase: Phase::Asking,
            fan_out: None,
            is_told: false,
            fence: None,
            rounds: 0,
            was_lost: false,
            is_haunted: false,
        }
    }

    /// Records that leases are about to be asked for.
    pub(crate) fn ask(&mut self, terms: &Terms, now: Instant) -> RequestNumber {
        self.ledger.ask(now, terms.trusted, now + terms.expiry)
    }

    /// How the token stands, as `LeaseSet::standing` tells it.
    pub(crate) fn standing(&mut self, terms: &Terms, now: Instant) -> Standing {
        if terms.breaks(Rule::AMajorityOfEndsStands) {
            let nodes = 0..terms.quorum.nodes();
            let largest = nodes.filter_map(|node| self.ledger.end_on(node)).max();
            let stands = largest.is_some_and(|end| now < end) && self.ledger.is_kept();
            return if stands { Standing::Held } else { Standing::Not };
        }
        match self.ledger.valid_until() {
            _ if self.ledger.is_past(now) => Standing::Lost,
            Some(end) if self.ledger.is_kept() && now < end => Standing::Held,
            _ => Standing::Not,
        }
    }

    /// Whether the caller has the guard, and believes in it.
    pub(crate) fn believes(&self, terms: &Terms, now: Instant) -> bool {
        self.phase == Phase::Held && self.clone().standing(terms, now) == Standing::Held
    }

    /// Whether somebody sees to it that it is released: as long as it may be somewhere, and its time is not over.
    pub(crate) fn is_chased(&self, now: Instant) -> bool {
        self.ledger.is_released() && self.ledger.is_open() && now < self.ledger.horizon()
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.phase == Phase::Waiting
    }
}
