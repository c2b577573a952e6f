//! What is known of one token on one node.

use core::time::Duration;

use super::RequestNumber;
use crate::Fence;

/// What is known of the token on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LeaseRecord {
    pub(super) state: NodeState,
    /// The newest request that this node has answered.
    pub(super) last_answer: RequestNumber,
    /// The newest request for a place that it told of a grant to.
    pub(super) last_push: RequestNumber,
    /// It has the lease by a grant that counts.
    pub(super) is_vote: bool,
    /// The first request that was granted when the node may have forgotten others, and what it had counted.
    pub(super) unconfirmed: Option<RequestNumber>,
    /// Where its counter was then, or when the lease was last extended.
    pub(super) fence: Option<Fence>,
    /// How many requests the node has not answered, and the shortest that any of them lets a lease last, counted from when
    /// it is applied. A lost one counts for ever: nobody knows when it arrives.
    pub(super) unanswered: u32,
    pub(super) shortest_unanswered: Duration,
    /// The request to acquire is one of these.
    pub(super) is_acquiring: bool,
    /// How many of these extend.
    pub(super) extending: u32,
    /// How many of these may take the lease again.
    pub(super) retaking: u32,
    /// How many requests to yield it has not answered.
    pub(super) yielding: u32,
    /// Nothing is heard of one of them any more.
    pub(super) has_lost_a_yield: bool,
    /// The last such request that it did answer, and the newest request asked until then.
    pub(super) yielded: Option<(RequestNumber, RequestNumber)>,
    /// A lease was taken again while the node was being asked to release: which came first is not known.
    pub(super) stood_meanwhile: bool,
    /// Whether the node is being asked to release right now. One at a time asks and hears what comes of it; two would
    /// each hear "not held" of what the other had released.
    pub(super) is_releasing: bool,
    /// How many requests were unanswered then that may bring a lease, or a place in the queue: in which order the node came to
    /// them and to the release, is not known, whatever has been heard since.
    pub(super) pending_at_release: u32,
}

impl LeaseRecord {
    /// Nothing was asked yet.
    pub(super) const fn none() -> Self {
        Self {
            state: NodeState::None,
            last_answer: RequestNumber(0),
            last_push: RequestNumber(0),
            is_vote: false,
            unconfirmed: None,
            fence: None,
            unanswered: 0,
            shortest_unanswered: Duration::MAX,
            is_acquiring: false,
            extending: 0,
            retaking: 0,
            yielding: 0,
            has_lost_a_yield: false,
            yielded: None,
            stood_meanwhile: false,
            is_releasing: false,
            pending_at_release: 0,
        }
    }

    /// Takes down that what request `number` was granted may be by a node that had forgotten others.
    pub(super) fn mark_unconfirmed(&mut self, number: RequestNumber) {
        self.unconfirmed = Some(self.unconfirmed.map_or(number, |first| first.min(number)));
    }

    pub(super) fn ask(&mut self, trusted: Duration) {
        self.unanswered += 1;
        self.shortest_unanswered = self.shortest_unanswered.min(trusted);
    }

    /// Takes a request off those that are not answered, and gives the shortest that any of them lets a lease last.
    pub(super) fn hear(&mut self) -> Duration {
        let shortest = self.shortest_unanswered;
        self.unanswered = self.unanswered.saturating_sub(1);
        if self.unanswered == 0 {
            self.shortest_unanswered = Duration::MAX;
        }
        shortest
    }

    /// Whether a lease that request `number` was granted may have been yielded since.
    pub(super) fn may_have_yielded(&self, number: RequestNumber) -> bool {
        let is_older = |(yielded, newest)| number != yielded && number <= newest;
        self.yielding > 0 || self.yielded.is_some_and(is_older)
    }

    /// How many requests are unanswered that may bring a lease, or a place in the queue.
    pub(super) const fn pending(&self) -> u32 {
        self.unanswered.saturating_sub(self.extending)
    }

    /// Whether there may be a lease.
    pub(super) const fn may_hold(&self) -> bool {
        matches!(self.state, NodeState::Asked | NodeState::Granted) || self.retaking > 0
    }

    /// Whether there may be something to release: a lease, or a place in the queue.
    pub(super) const fn is_open(&self) -> bool {
        self.may_hold() || matches!(self.state, NodeState::Queued)
    }
}

/// What the answers to acquiring and releasing say of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// It was never asked for there, or was refused: there is nothing to release.
    None,
    /// It was asked for, and the answer is not known: it may be there, or come to be.
    Asked,
    /// It has a place in the queue there, and no lease yet.
    Queued,
    /// It was granted.
    Granted,
    /// It was there and was released. An answer that was under way meanwhile is out of date.
    Released,
}
