//! The fence of a lock that was acquired: what the nodes counted, made to agree where it differs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::LeaseSet;
use crate::attempt::Unfinished;
use crate::error::{Error, NodeError, Operation};
use crate::events;
use crate::node::{Claim, NodeFault};
use crate::protocol::{Fence, Fenced, Instant, Proposal, Ticket};

impl LeaseSet {
    /// Proposes a later fence than the ticket, for places that are asked for from here on: what a node may have forgotten was
    /// perhaps larger than that.
    pub(crate) fn propose(&self, later: Ticket) {
        self.proposed.fetch_max(later.as_micros(), Ordering::Relaxed);
    }

    /// `claim` for a place at `ticket`.
    pub(super) fn claim_at(&self, ticket: Ticket) -> Claim {
        let mut claim = self.config.claim.clone();
        if let Some(proposal) = &mut claim.fence {
            let later = Ticket::from_micros(self.proposed.load(Ordering::Relaxed));
            proposal.fence = ticket.max(later).into();
        }
        claim
    }

    /// Whether a fence was asked for, and is not agreed on yet.
    pub(crate) fn is_to_be_fenced(&self) -> bool {
        self.config.claim.fence.is_some() && self.fence().is_none()
    }

    /// The fence, where one was asked for and agreed on.
    pub(crate) fn fence(&self) -> Option<Fence> {
        self.fence.get().copied()
    }

    /// Keeps the fence that was agreed on before, by another process.
    pub(super) fn keep_fence(&self, fence: Option<Fence>) {
        if let Some(fence) = fence {
            self.fence.get_or_init(|| fence);
        }
    }

    /// `claim`, with the fence that was agreed on in place of what was proposed.
    pub(super) fn with_fence(&self, claim: &Claim) -> Claim {
        let mut claim = claim.clone();
        if let (Some(proposal), Some(fence)) = (&mut claim.fence, self.fence()) {
            proposal.fence = fence;
        }
        claim
    }

    /// Finds a number that a majority of nodes has for the lock's counter while they hold it for this token. Where they
    /// counted alike, that is known already; where not, a majority is raised to one number, if it answers within `at_most`.
    pub(crate) async fn agree_on_fence(self: &Arc<Self>, at_most: Duration) -> Result<(), Unfinished> {
        let Some(proposal) = self.config.claim.fence else { return Ok(()) };
        let began = self.core.clock.now();
        let timeout = self.config.request_timeout.at_most(at_most).as_duration();
        self.hear_of_nearer(began + timeout.min(at_most / 2).min(self.remaining() / 2)).await;
        // How many of those that would have to be raised to the lowest number have turned out to be silent.
        let mut silent = 0;
        for _ in 0..=2 * self.core.quorum.nodes() {
            let number = match self.counted() {
                // SAFETY RULE (protocol §9): agreed on while the lock is held, or not at all.
                Fenced::Agreed(fence) if self.is_valid() => {
                    self.keep_fence(Some(fence));
                    return Ok(());
                }
                _ if !self.is_valid() => break,
                Fenced::Agreed(_) => break,
                // What a majority can be raised to without those that are ahead; unless one of the others is silent.
                Fenced::Diverged(number) => self.reachable(silent).unwrap_or(number),
                Fenced::Uncounted => return Err(self.uncounted(began)),
            };
            events::fences_differ(&self.config.claim.name, number);
            let mut config = self.config.clone();
            config.claim.fence = Some(Proposal { fence: number, ..proposal });
            config.request_timeout =
                config.request_timeout.at_most(at_most.saturating_sub(self.since(began)));
            // Whoever is silent is not waited for, unless it could spare the others to follow one that is far ahead.
            let could_be_spared = || {
                let next = self.reachable(silent + 1).filter(|next| next.is_far_ahead_of(number));
                self.is_far_ahead(next)
            };
            let left = at_most.saturating_sub(self.since(began)).min(self.remaining());
            let was_patient = could_be_spared();
            let patience = match was_patient {
                true => config.request_timeout.as_duration().min(left / 2),
                false => self.core.waiters.tickets.claim_window(),
            };
            // SAFETY RULE (protocol §9): by extending, which a node does for the holder of the lease alone.
            match self
                .extend_until(config, || matches!(self.counted(), Fenced::Agreed(_)), Some(patience))
                .await
            {
                // One that is far ahead may have been heard of meanwhile.
                Ok(()) if !was_patient && could_be_spared() => {}
                Ok(()) => silent += 1,
                // It was the lock that was asked for, and not to extend it.
                Err(Error::NoQuorum { nodes, .. } | Error::AlreadyExpired { nodes, .. }) => {
                    let (name, total) = (Some(self.name()), self.core.quorum.nodes());
                    let error = Error::NoQuorum { name, operation: Operation::Lock, total, nodes };
                    return Err(Unfinished { error, is_final: false });
                }
                Err(Error::Taken { name, nodes, .. }) => {
                    let error = Error::Taken { name, operation: Operation::Lock, nodes };
                    return Err(Unfinished { error, is_final: false });
                }
                Err(_) => break,
            }
        }
        let error = Error::ValidityExhausted { name: self.name(), took: self.since(began) };
        Err(Unfinished { error, is_final: false })
    }

    fn since(&self, began: Instant) -> Duration {
        self.core.clock.now().saturating_since(began)
    }

    /// Whether this can have been agreed on: some node that has the lease has counted so far, and not many times as far. What
    /// was counted for others since is little more; a number that was cut off is a tenth or less.
    pub(super) fn has_counted(&self, fence: Fence) -> bool {
        let is_near = |counter: Fence| fence <= counter && fence.as_u64() > counter.as_u64() / 10;
        self.ledger().fences(self.core.clock.now()).any(is_near)
    }

    /// What a majority can be raised to if so many of those that would have to be are silent.
    fn reachable(&self, silent: usize) -> Option<Fence> {
        let mut fences: Vec<Fence> = self.ledger().fences(self.core.clock.now()).collect();
        fences.sort_unstable();
        let needed = (self.core.quorum.majority() - 1).saturating_add(silent);
        fences.get(needed).or(fences.last()).copied()
    }

    /// Whether nobody should be taken along to `number` who need not be: it is ahead of what others counted, and of the time.
    fn is_far_ahead(&self, number: Option<Fence>) -> bool {
        let (clock, now) = (&self.core.clock, self.core.clock.now());
        let Some((number, lowest)) = number.zip(self.ledger().fences(now).min()) else { return false };
        let time = || Fence::from(self.core.waiters.tickets.time(clock, now));
        number.is_far_ahead_of(lowest) && number.is_far_ahead_of(time())
    }

    /// Where the majority that was first to answer would have to follow one of them that is far ahead, waits until `end` for the
    /// others.
    async fn hear_of_nearer(&self, end: Instant) {
        let clock = &self.core.clock;
        let mut pause = Duration::from_millis(1);
        while matches!(self.counted(), Fenced::Diverged(number) if self.is_far_ahead(Some(number)))
            && self.ledger().is_to_be_counted()
            && self.is_valid()
            && clock.now() < end
        {
            clock.sleep_until((clock.now() + pause).min(end)).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn counted(&self) -> Fenced {
        Fenced::by(self.core.quorum, &self.ledger().fences(self.core.clock.now()))
    }

    /// Where nodes granted the lock without a fence, though one was asked for. Others may count in their stead, unless these
    /// are too many.
    fn uncounted(&self, began: Instant) -> Unfinished {
        let uncounted = self.ledger().uncounted();
        if uncounted.is_empty() {
            // By leases of nodes that may have forgotten what they had counted: those are given back, and granted anew.
            let error = Error::ValidityExhausted { name: self.name(), took: self.since(began) };
            return Unfinished { error, is_final: false };
        }
        let quorum = self.core.quorum;
        let is_final = uncounted.len() > quorum.nodes() - quorum.majority();
        let reason = "it granted the lock without a fence: its fence counter is no number, or at its end";
        let failed = |node: String| NodeError::Failed { node, source: NodeFault::refused("FENCE", reason) };
        let error = Error::NoQuorum {
            name: Some(self.name()),
            operation: Operation::Lock,
            total: quorum.nodes(),
            nodes: uncounted.into_iter().map(|index| failed(self.node_name(index))).collect(),
        };
        Unfinished { error, is_final }
    }
}
