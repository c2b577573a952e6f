//! What is known of one token on each node. No I/O and no clock: requests and answers go in, in whatever order they
//! come, and validity comes out.
//!
//! Requests are numbered in the order in which they are asked. Nodes may apply them in another order, and answers may come in
//! yet another: by two connections, by a second trip, by threads that were held up. So an answer to an old request is no news
//! after those to newer ones; and an answer is worth no more than *any* request that the node may have applied after it,
//! older ones that are still unanswered among them.

mod record;
mod release;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use self::record::LeaseRecord;
pub use self::record::NodeState;
use crate::answer::Extended;
use crate::{Fence, Instant, LeaseEnds, Quorum, Round};

/// The number of a request, in the order of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestNumber(u32);

impl RequestNumber {
    /// The number as nodes are told it.
    pub const fn round(self) -> Round {
        Round::new(self.0)
    }
}

impl From<Round> for RequestNumber {
    fn from(round: Round) -> Self {
        Self(round.as_u32())
    }
}

/// What is known of one token on each node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leases {
    ends: LeaseEnds,
    nodes: Box<[LeaseRecord]>,
    /// Recent requests, oldest first.
    asked: Vec<SentRequest>,
    requests: u32,
    /// The request to acquire.
    acquiring: RequestNumber,
    /// When the last lease that was ever asked for is over for certain, granted or not.
    horizon: Instant,
    /// A majority stood once.
    was_held: bool,
    /// A majority stood once and does no longer. Final: nothing makes it valid again.
    is_over: bool,
    is_released: bool,
    /// Somebody else goes on with the token.
    is_handed_on: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct SentRequest {
    number: RequestNumber,
    /// Before its first byte was sent.
    sent: Instant,
    /// The earliest end that it or any later one asked for.
    earliest_end: Instant,
}

impl Leases {
    /// How many requests are remembered, and at least so many for each node. An answer to an older one adds no time to the
    /// guard.
    const MEMORY: usize = 8;
    const MEMORY_EACH: usize = 4;

    /// A token on no node.
    pub fn new(quorum: Quorum) -> Self {
        let entry = LeaseRecord::none();
        Self {
            ends: LeaseEnds::none(quorum),
            nodes: vec![entry; quorum.nodes()].into(),
            asked: Vec::with_capacity(1),
            requests: 0,
            acquiring: RequestNumber(0),
            horizon: Instant::default(),
            was_held: false,
            is_over: false,
            is_released: false,
            is_handed_on: false,
        }
    }

    /// Records that leases are about to be asked for, by a request that is sent after `sent`; each is believed to last for
    /// `trusted` after that, and is over for certain at `horizon`. From here on nothing later is believed of any lease:
    /// the request may be applied, whether or not its answer is ever seen.
    pub fn ask(&mut self, sent: Instant, trusted: Duration, horizon: Instant) -> RequestNumber {
        self.requests += 1;
        let number = RequestNumber(self.requests);
        let end = sent + trusted;
        self.ends.cap(end);
        self.asked.iter_mut().for_each(|older| older.earliest_end = older.earliest_end.min(end));
        if self.asked.len() == Self::MEMORY.max(self.nodes.len() * Self::MEMORY_EACH) {
            self.asked.remove(0);
        }
        self.asked.push(SentRequest { number, sent, earliest_end: end });
        self.horizon = self.horizon.max(horizon);
        number
    }

    /// Records that every node is about to be asked to acquire.
    pub fn ask_to_acquire(&mut self, trusted: Duration) {
        self.acquiring = RequestNumber(self.requests);
        for entry in &mut self.nodes {
            entry.state = NodeState::Asked;
            entry.is_acquiring = true;
            entry.ask(trusted);
        }
    }

    /// Records that `node` is about to be asked to extend; `may_retake` if the lease may come to be there by that.
    pub fn ask_to_extend(&mut self, node: usize, trusted: Duration, may_retake: bool) {
        let entry = &mut self.nodes[node];
        entry.ask(trusted);
        entry.extending += 1;
        entry.retaking += u32::from(may_retake);
    }

    /// Records that the token, made elsewhere, may stand on any node; and that an extension of that side's may be under way
    /// to each, which lets the lease last for `under_way`.
    pub fn presume(&mut self, under_way: Option<Duration>) {
        for entry in &mut self.nodes {
            entry.state = NodeState::Granted;
            entry.is_vote = true;
            if let Some(trusted) = under_way {
                entry.ask(trusted);
                entry.extending += 1;
            }
        }
    }

    /// The shortest that any request which a node has not answered lets a lease last that is there: an extension, or one for a
    /// place, which lets the lease start anew where the token has it. The first request, which finds no lease, is none.
    pub fn shortest_under_way(&self) -> Option<Duration> {
        let open = self.nodes.iter().filter(|entry| entry.unanswered > u32::from(entry.is_acquiring));
        open.map(|entry| entry.shortest_unanswered).min()
    }

    /// Records that `node`, whose counter is at `fence`, granted what request `number` asked for.
    pub fn granted(&mut self, node: usize, number: RequestNumber, fence: Option<Fence>, now: Instant) {
        let shortest = self.hear(node, number);
        // The release that found it came after: it is gone.
        if self.nodes[node].state != NodeState::Released && self.stands(node, number, shortest, now) {
            self.counts(node, fence);
        }
    }

    /// Records that `node` granted what request `number` asked for, but may have forgotten that another has it.
    ///
    /// SAFETY RULE (protocol §10): the lease is there to be released, and counts for nothing.
    pub fn granted_unconfirmed(&mut self, node: usize, number: RequestNumber) {
        self.hear(node, number);
        if self.nodes[node].state != NodeState::Released {
            self.nodes[node].state = NodeState::Granted;
            self.nodes[node].mark_unconfirmed(number);
            self.is_news(node, number);
        }
    }

    /// When the request was sent that `node` granted though it may have forgotten others, if that stands unconfirmed and is
    /// remembered.
    pub fn unconfirmed_since(&self, node: usize) -> Option<Instant> {
        self.sent(self.nodes[node].unconfirmed?)
    }

    /// Records that `node` had forgotten nothing when it granted what stood unconfirmed.
    pub fn believe(&mut self, node: usize) {
        self.nodes[node].unconfirmed = None;
    }

    /// Records that `node` refused what request `number` asked for: another has the lease, or nothing was applied.
    pub fn refused(&mut self, node: usize, number: RequestNumber, now: Instant) {
        self.hear(node, number);
        if self.is_news(node, number) {
            let entry = &mut self.nodes[node];
            // Another request may have brought a place in the queue meanwhile, or a lease.
            entry.state = if entry.pending() > 0 { NodeState::Asked } else { NodeState::None };
            self.lose_as_of(node, number);
            self.is_past(now);
        }
    }

    /// Records `node`'s answer to request `number` to extend; `was_retaking` if that could take the lease again.
    pub fn extended<H>(
        &mut self,
        node: usize,
        number: RequestNumber,
        extended: &Extended<H>,
        was_retaking: bool,
        now: Instant,
    ) {
        let shortest = self.not_extended(node, was_retaking);
        match extended {
            Extended::Extended(_) | Extended::Retaken => {
                let entry = &mut self.nodes[node];
                entry.stood_meanwhile |= was_retaking && entry.is_releasing;
                // SAFETY RULE (protocol §9): what a lease was granted by that did not count, is no vote for a fence either.
                if self.stands(node, number, shortest, now)
                    && self.nodes[node].is_vote
                    && let Extended::Extended(fence) = extended
                {
                    self.counts(node, *fence);
                }
            }
            Extended::NotHeld | Extended::HeldByAnother(_) => {
                if self.is_news(node, number) {
                    // Where an answer was never seen, "not held" may only mean "not yet"; and so it may where a grant was told
                    // of, which may have come after this request had.
                    let entry = &mut self.nodes[node];
                    if entry.state == NodeState::Granted {
                        let may_come = entry.pending() > 0 || entry.last_push > RequestNumber(0);
                        entry.state = if may_come { NodeState::Asked } else { NodeState::None };
                    }
                    self.lose(node);
                    self.is_past(now);
                }
            }
        }
    }

    /// Records that a request to extend will not be applied by `node` any more: it was answered, or never was sent.
    pub fn not_extended(&mut self, node: usize, was_retaking: bool) -> Duration {
        let entry = &mut self.nodes[node];
        entry.extending = entry.extending.saturating_sub(1);
        entry.retaking = entry.retaking.saturating_sub(was_retaking.into());
        entry.hear()
    }

    /// Records that `node` is about to be asked for a place in the queue, or to renew it.
    pub fn ask_to_enter(&mut self, node: usize, trusted: Duration) {
        let entry = &mut self.nodes[node];
        if matches!(entry.state, NodeState::None | NodeState::Released) {
            entry.state = NodeState::Asked;
        }
        entry.ask(trusted);
    }

    /// Records that `node` answered request `number` with a place in the queue.
    pub fn queued(&mut self, node: usize, number: RequestNumber, now: Instant) {
        self.nodes[node].hear();
        let entry = &self.nodes[node];
        // A grant to the place that this request took came after it, and may be heard of before.
        let is_overtaken = entry.last_push == number && entry.state == NodeState::Granted;
        if !is_overtaken && self.is_news(node, number) {
            self.nodes[node].state = NodeState::Queued;
            self.lose_as_of(node, number);
            self.is_past(now);
        }
    }

    /// Records that a request for a place will not be applied by `node`: it never was sent.
    pub fn unapplied(&mut self, node: usize) {
        let entry = &mut self.nodes[node];
        entry.hear();
        if entry.state == NodeState::Asked && entry.pending() == 0 {
            entry.state = NodeState::None;
        }
    }

    /// Records that request `number` to yield will not be applied by `node`: the lease is there as it was.
    pub fn not_yielded(&mut self, node: usize, number: RequestNumber) {
        let unconfirmed = self.nodes[node].unconfirmed;
        self.nodes[node].hear();
        self.yielded(node, number);
        let entry = &mut self.nodes[node];
        (entry.state, entry.unconfirmed) = (NodeState::Granted, unconfirmed);
    }

    /// Records that `node` tells of a grant to the place that request `number` took or renewed. False if that is no longer
    /// so.
    ///
    /// SAFETY RULE (protocol §7): when it was granted is not known, but that it was after that request was sent; its end is
    /// counted from there. A grant to a place that was renewed since without having the lease, or yielded, is over. A request
    /// that was never asked was granted nothing, whoever says so.
    pub fn told(
        &mut self,
        node: usize,
        number: RequestNumber,
        fence: Option<Fence>,
        counts: bool,
        now: Instant,
    ) -> bool {
        let entry = &mut self.nodes[node];
        let is_stale = number < entry.last_answer || number.0 > self.requests;
        if matches!(entry.state, NodeState::None | NodeState::Released) || is_stale {
            return false;
        }
        let shortest = entry.shortest_unanswered;
        entry.last_push = entry.last_push.max(number);
        entry.state = NodeState::Granted;
        if !counts {
            entry.mark_unconfirmed(number);
            // What was asked before it, and is answered after it, is no news: it was applied before.
            self.is_news(node, number);
        } else if self.stands(node, number, shortest, now) {
            self.counts(node, fence);
        }
        true
    }

    /// The newest request.
    pub fn newest(&self) -> RequestNumber {
        RequestNumber(self.requests)
    }

    /// When request `number` was sent, if that is remembered.
    pub fn sent(&self, number: RequestNumber) -> Option<Instant> {
        self.asked.iter().find(|asked| asked.number == number).map(|asked| asked.sent)
    }

    /// Whether some node has granted a lease that does not count.
    pub fn has_unconfirmed(&self) -> bool {
        let is_unconfirmed =
            |node: &usize| self.nodes[*node].state == NodeState::Granted && self.ends.end_on(*node).is_none();
        (0..self.nodes.len()).any(|node| is_unconfirmed(&node))
    }

    /// Until when `node`'s lease stands, if it counts.
    pub fn end_on(&self, node: usize) -> Option<Instant> {
        self.ends.end_on(node)
    }

    /// Which nodes have the token while no majority has: those to yield. None where a majority stands.
    ///
    /// SAFETY RULE (protocol §7): a lease that is being given back already is not given back again. Of two such requests, the
    /// node may apply the later one first, and the grant that answers it would be taken for one that stands.
    pub fn minority(&mut self, now: Instant) -> Vec<usize> {
        if !self.is_kept() || self.is_past(now) || self.ends.valid_until().is_some_and(|end| now < end) {
            return Vec::new();
        }
        let is_to_yield = |node: &usize| {
            let entry = &self.nodes[*node];
            entry.state == NodeState::Granted && entry.yielding == 0
        };
        (0..self.nodes.len()).filter(is_to_yield).collect()
    }

    /// Records that `node` is about to be asked, by request `number`, to take the lease back and give a place in the queue for
    /// it. From here on it counts for nothing there.
    ///
    /// SAFETY RULE (protocol §7): what it granted before is no news any more; and as long as such a request is unanswered, it
    /// may be applied after any other, and a lease that the node grants counts for nothing.
    pub fn ask_to_yield(&mut self, node: usize, number: RequestNumber, trusted: Duration) {
        // What stands unconfirmed does so until it is certain that it was given back.
        let unconfirmed = self.nodes[node].unconfirmed;
        self.lose(node);
        let entry = &mut self.nodes[node];
        (entry.state, entry.unconfirmed) = (NodeState::Asked, unconfirmed);
        entry.last_answer = entry.last_answer.max(number);
        entry.yielding += 1;
        entry.ask(trusted);
    }

    /// Records that `node` answered request `number` to yield, or will not apply it.
    ///
    /// SAFETY RULE (protocol §7): whatever else was asked until now may have been applied before it, and what is granted to
    /// that counts for nothing.
    pub fn yielded(&mut self, node: usize, number: RequestNumber) {
        let newest = RequestNumber(self.requests);
        let entry = &mut self.nodes[node];
        entry.yielding = entry.yielding.saturating_sub(1);
        entry.yielded = Some((number, newest));
        // What was granted since to the place that it took, or to a later one, may have been heard of before: it stands unconfirmed
        // still.
        let may_be_later = entry.last_push >= number || entry.last_answer > number;
        entry.unconfirmed =
            entry.unconfirmed.filter(|_| may_be_later).map(|unconfirmed| unconfirmed.max(number));
    }

    /// Records that nothing is heard any more of any request to yield.
    pub fn yields_lost(&mut self) {
        self.nodes.iter_mut().for_each(|entry| entry.has_lost_a_yield |= entry.yielding > 0);
    }

    /// Records that nothing is heard of a request to yield any more: `node` may apply it, now or later.
    pub fn yield_lost(&mut self, node: usize) {
        self.nodes[node].has_lost_a_yield = true;
    }

    /// Whether a request to yield was lost: then the token cannot be relied on any more.
    pub fn has_lost_a_yield(&self) -> bool {
        self.nodes.iter().any(|entry| entry.has_lost_a_yield)
    }

    /// Whether some node has yet to answer a request to yield.
    pub fn is_yielding(&self) -> bool {
        self.nodes.iter().any(|entry| entry.yielding > 0)
    }

    /// Where the counters of those nodes are that have the token at `now`, by a grant that counts.
    ///
    /// SAFETY RULE (protocol §9): where a lease has run out meanwhile, another may have been granted it, and have a fence, since.
    pub fn fences(&self, now: Instant) -> impl Iterator<Item = Fence> + Clone {
        let stands = move |node: usize| self.ends.end_on(node).is_some_and(|end| now < end);
        let standing = self.nodes.iter().enumerate().filter(move |(node, _)| stands(*node));
        standing.filter_map(|(_, entry)| entry.fence)
    }

    /// Which nodes granted the token without a fence, by a grant that counts.
    pub fn uncounted(&self) -> Vec<usize> {
        let is_uncounted = |node: &usize| self.nodes[*node].is_vote && self.nodes[*node].fence.is_none();
        (0..self.nodes.len()).filter(is_uncounted).collect()
    }

    /// Whether every node is known to have the token.
    pub fn is_granted_everywhere(&self) -> bool {
        self.nodes.iter().all(|entry| entry.state == NodeState::Granted)
    }

    /// Whether a node has not said yet where it counted to, and may still.
    pub fn is_to_be_counted(&self) -> bool {
        self.nodes.iter().any(|entry| matches!(entry.state, NodeState::Asked | NodeState::Queued))
    }

    /// Which nodes may have a lease for the token.
    pub fn holders(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&node| self.nodes[node].may_hold()).collect()
    }

    /// Which nodes are not known to have it.
    pub fn missing(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&node| self.nodes[node].state != NodeState::Granted).collect()
    }

    /// Whether some node may have the token.
    pub fn is_open(&self) -> bool {
        self.nodes.iter().any(LeaseRecord::is_open)
    }

    /// Whether `node` is known to have the token.
    pub fn is_granted_on(&self, node: usize) -> bool {
        self.nodes[node].state == NodeState::Granted
    }

    /// Whether some node is known to have the token.
    pub fn is_granted_somewhere(&self) -> bool {
        self.nodes.iter().any(|entry| entry.state == NodeState::Granted)
    }

    /// The instant up to which a majority of leases stands.
    pub fn valid_until(&self) -> Option<Instant> {
        self.ends.valid_until()
    }

    /// Whether the token's time was over at `now`, or before it was given back. Once it is, it stays so.
    pub fn is_past(&mut self, now: Instant) -> bool {
        let stands = self.ends.valid_until().is_some_and(|end| now < end);
        self.is_over = self.is_over || (self.was_held && self.is_kept() && !stands);
        self.is_over
    }

    /// Whether the token's time was over before it was given back or handed on, if it was: no clock changes that any more.
    pub fn was_lost(&self) -> Option<bool> {
        (!self.is_kept()).then_some(self.is_over)
    }

    /// Whether the token has no end: it has not been given back or handed on.
    pub fn is_kept(&self) -> bool {
        !self.is_released && !self.is_handed_on
    }

    /// Whether somebody else goes on with the token.
    pub fn is_handed_on(&self) -> bool {
        self.is_handed_on
    }

    /// Records that somebody else goes on with the token, from `now` on.
    pub fn hand_on(&mut self, now: Instant) {
        self.is_past(now);
        self.is_handed_on = true;
    }

    /// When the last lease that was ever asked for is over for certain.
    pub fn horizon(&self) -> Instant {
        self.horizon
    }

    /// Takes down that request `number` is answered; see [`LeaseRecord::hear`].
    fn hear(&mut self, node: usize, number: RequestNumber) -> Duration {
        let entry = &mut self.nodes[node];
        entry.is_acquiring &= number != self.acquiring;
        entry.hear()
    }

    /// The lease is there. Says whether that is news, and counts.
    fn stands(&mut self, node: usize, number: RequestNumber, shortest: Duration, now: Instant) -> bool {
        self.nodes[node].state = NodeState::Granted;
        if !self.is_news(node, number) || self.nodes[node].may_have_yielded(number) {
            return false;
        }
        // No later than any later request asked for, and no longer than any lets it last that may be applied after this
        // one: that is after this one was sent.
        let asked = self.asked.iter().find(|asked| asked.number == number);
        let end = asked.map(|asked| asked.earliest_end.min(asked.sent + shortest));
        // SAFETY RULE (protocol §8): loss is final. A late answer adds nothing to a guard whose time was over.
        let Some(end) = end.filter(|_| !self.is_past(now)) else { return false };
        self.ends.grant(node, end);
        self.was_held = self.was_held || self.ends.valid_until().is_some_and(|end| now < end);
        true
    }

    /// `node` has the lease by a grant that counts, and its counter is at `fence`.
    ///
    /// SAFETY RULE (protocol §9): a lease that was first granted when the node may have forgotten what it had counted, was
    /// counted by that. It comes to count as a lease when it is renewed later, and never for a fence; nor does what was counted
    /// for an earlier lease, which may have ended since.
    fn counts(&mut self, node: usize, fence: Option<Fence>) {
        let entry = &mut self.nodes[node];
        (entry.is_vote, entry.fence) = match entry.unconfirmed {
            None => (true, fence),
            Some(_) => (false, None),
        };
    }

    /// Records that `node` had no lease when it answered request `number`. What it told of since is another matter.
    fn lose_as_of(&mut self, node: usize, number: RequestNumber) {
        let is_later = self.nodes[node].last_push >= number;
        let unconfirmed =
            self.nodes[node].unconfirmed.filter(|_| is_later).map(|unconfirmed| unconfirmed.max(number));
        self.lose(node);
        self.nodes[node].unconfirmed = unconfirmed;
    }

    fn lose(&mut self, node: usize) {
        self.ends.lose(node);
        let entry = &mut self.nodes[node];
        (entry.is_vote, entry.unconfirmed, entry.fence) = (false, None, None);
    }

    /// Whether `node` has answered no later request yet; from here on it has answered this one.
    fn is_news(&mut self, node: usize, number: RequestNumber) -> bool {
        let last_answer = &mut self.nodes[node].last_answer;
        let is_news = *last_answer <= number;
        *last_answer = (*last_answer).max(number);
        is_news
    }
}

#[cfg(test)]
mod tests;
