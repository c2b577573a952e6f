//! The fence of a lock that was acquired: what the nodes counted, made to agree where it differs.

use std::sync::Arc;

use super::Holding;
use crate::attempt::Unfinished;
use crate::error::{Error, NodeError, Operation};
use crate::node::{Claim, NodeFault};
use crate::protocol::{Fence, Fenced, Proposal};
use crate::telling;

impl Holding {
    /// Whether a fence was asked for, and is not agreed on yet.
    pub(crate) fn is_to_be_fenced(&self) -> bool {
        self.terms.claim.fence.is_some() && self.fence().is_none()
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
    /// counted alike, that is known already; where not, all are raised to the highest.
    pub(crate) async fn agree_on_fence(self: &Arc<Self>) -> Result<(), Unfinished> {
        let Some(proposal) = self.terms.claim.fence else { return Ok(()) };
        let began = self.core.clock.now();
        // Each round hears of a higher counter than the one before, or is the last: there are no more than nodes.
        for _ in 0..=self.core.quorum.nodes() {
            let highest = match self.counted() {
                // SAFETY RULE (design §10): agreed on while the lock is held, or not at all.
                Fenced::Agreed(fence) if self.is_valid() => {
                    self.keep_fence(Some(fence));
                    return Ok(());
                }
                Fenced::Agreed(_) => break,
                Fenced::Diverged(highest) => highest,
                Fenced::Uncounted => return Err(self.uncounted()),
            };
            telling::fences_differ(&self.terms.claim.name, highest);
            let mut terms = self.terms.clone();
            terms.claim.fence = Some(Proposal { fence: highest, ..proposal });
            // SAFETY RULE (design §10): by extending, which a node does for the holder of the lease alone.
            match self.extend_until(terms, || matches!(self.counted(), Fenced::Agreed(_))).await {
                Ok(()) => {}
                // It was the lock that was asked for, and not to extend it.
                Err(Error::NoQuorum { name, total, nodes, .. }) => {
                    let error = Error::NoQuorum { name, operation: Operation::Lock, total, nodes };
                    return Err(Unfinished { error, is_final: false });
                }
                Err(_) => break,
            }
        }
        let took = self.core.clock.now().saturating_since(began);
        let error = Error::ValidityExhausted { name: self.name(), took };
        Err(Unfinished { error, is_final: false })
    }

    fn counted(&self) -> Fenced {
        Fenced::by(self.core.quorum, &self.ledger().fences(self.core.clock.now()))
    }

    /// Where nodes granted the lock without a fence, though one was asked for. Others may count in their stead, unless these
    /// are too many.
    fn uncounted(&self) -> Unfinished {
        let uncounted = self.ledger().uncounted();
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
