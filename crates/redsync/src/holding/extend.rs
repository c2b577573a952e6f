//! Making leases last longer, and taking over those of another process.

use std::sync::Arc;

use super::{Holding, RequestNumber};
use crate::ballot::{Ballot, Count, Returned};
use crate::error::{Error, NodeError, Operation};
use crate::node::{Extended, IfFree};
use crate::options::Terms;
use crate::protocol::Expiry;

impl Holding {
    /// Lets the leases last for `expiry` from now on. Succeeds if a majority did; releases nothing if not.
    pub(crate) async fn extend(self: &Arc<Self>, expiry: Expiry) -> Result<(), Error> {
        self.core.enter()?;
        // SAFETY RULE (design §9): extending cannot revive what is over; no node is even asked.
        if !self.is_valid() {
            return Err(self.expired());
        }
        let terms = self.terms.retimed(expiry)?;
        let if_free = if terms.repair_on_extend { IfFree::Retake } else { IfFree::Leave };
        self.extend_on(terms, if_free).await
    }

    /// Takes over leases that this token has from before, wherever it has them.
    pub(crate) async fn adopt(self: &Arc<Self>) -> Result<(), Error> {
        self.core.enter()?;
        self.presume();
        self.extend_on(self.terms.clone(), IfFree::Leave).await
    }

    async fn extend_on(self: &Arc<Self>, terms: Terms, if_free: IfFree) -> Result<(), Error> {
        let may_retake = if_free == IfFree::Retake;
        let trusted = terms.trusted();
        let (number, _, voters) = self.ask(&terms, |ledger| {
            let voters = ledger.holders(may_retake);
            voters.iter().for_each(|&index| ledger.ask_to_extend(index, trusted, may_retake));
            voters
        });
        let mut count = Count::new(Operation::Extend, &self.core.nodes, self.core.quorum, &voters);
        let timeout = terms.request_timeout.as_duration();
        let wait_for_all = terms.wait_for_all;
        let claim = Arc::new(terms.claim);
        let mut ballot = Ballot::open(&self.core.nodes, voters, &self.core.clock, timeout, move |node| {
            let claim = Arc::clone(&claim);
            Box::pin(async move { node.extend(&claim, if_free).await })
        });
        while !count.is_decided(ballot.outstanding(), wait_for_all) {
            let Some((index, returned)) = ballot.next().await else { break };
            count.add(self.extended(index, number, if_free, returned));
        }
        if ballot.outstanding() > 0 {
            let holding = Arc::clone(self);
            self.core.reaper.run_soon(&self.core.clock, async move {
                let mut is_late = false;
                while let Some((index, returned)) = ballot.next().await {
                    is_late |= holding.extended(index, number, if_free, returned).is_ok();
                }
                if is_late && holding.is_released() {
                    holding.chase().await;
                }
            });
        }
        match count.into_error(self.name()) {
            None if self.is_valid() => Ok(()),
            None => Err(self.expired()),
            Some(error) => Err(error),
        }
    }

    fn extended(
        &self,
        index: usize,
        number: RequestNumber,
        if_free: IfFree,
        returned: Returned<Extended>,
    ) -> Result<(), NodeError> {
        let was_retaking = if_free == IfFree::Retake;
        let extended = match returned {
            Ok(extended) => extended,
            Err(error) => {
                if error.is_certainly_unapplied() {
                    self.ledger().not_extended(index, was_retaking);
                }
                return Err(error);
            }
        };
        self.ledger().extended(index, number, &extended, was_retaking, self.core.clock.now());
        match extended {
            Extended::Extended | Extended::Retaken => Ok(()),
            Extended::NotHeld => Err(NodeError::NotHeld { node: self.node_name(index) }),
            Extended::HeldByAnother(holder) => Err(NodeError::Taken { node: self.node_name(index), holder }),
        }
    }

    fn expired(&self) -> Error {
        Error::AlreadyExpired { name: self.name(), operation: Operation::Extend, nodes: Vec::new() }
    }
}
