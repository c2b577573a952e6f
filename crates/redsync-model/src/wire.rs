//! What is under way between clients and nodes.
//!
//! Each client has one connection to each node. Its requests are applied in their order; the answers are heard in any order,
//! since those who wait for them are tasks of their own; pushes come whenever they come. What a client has stopped waiting
//! for, or what was under way on a connection that broke, strays: it may be applied at any time later, or never, and nobody
//! hears the answer.

use crate::node::{Acquired, Extended, Placed, Released, Token};
use redsync_proto::leases::{NodeState, RequestNumber};

/// One connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    /// Requests that the node has not applied yet, the next first.
    pub(crate) requests: Vec<Request>,
    /// Answers that the client has not heard yet.
    pub(crate) answers: Vec<Answer>,
    /// Requests that may be applied at any time, or never.
    pub(crate) strays: Vec<Request>,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Request {
    /// Which of its client's attempts asks. The node does not know; whoever waits for the answer does.
    pub(crate) attempt: u8,
    pub(crate) token: Token,
    pub(crate) number: RequestNumber,
    pub(crate) what: What,
    /// The fence that is proposed, or that the counter is to be raised to.
    pub(crate) fence: Option<u64>,
    /// It is on its way for longer than a tick.
    pub(crate) is_slow: bool,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum What {
    Acquire,
    Enter {
        ticket: u64,
    },
    Yield {
        ticket: u64,
    },
    Extend {
        retakes: bool,
    },
    /// What was known of the node when it was asked; nothing where the token is not known any more.
    Release {
        before: Option<NodeState>,
    },
}

/// An answer on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Answer {
    pub(crate) request: Request,
    pub(crate) said: Said,
}

/// What a node said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Said {
    Acquired(Acquired),
    Placed(Placed),
    Extended(Extended),
    Released(Released),
}

impl Link {
    /// Whether nothing is on its way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.requests.is_empty() && self.answers.is_empty()
    }

    /// What is asked and not answered, or answered and not heard.
    pub(crate) fn unheard(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter().chain(self.answers.iter().map(|answer| &answer.request))
    }

    /// What may be applied yet.
    pub(crate) fn unapplied(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter().chain(&self.strays)
    }
}
