//! Making leases last longer, and taking over those of another process.

use std::sync::Arc;

use super::{Holding, Mark};
use crate::ballot::{Ballot, Count, Returned};
use crate::error::{Error, NodeError, Operation};
use crate::node::{Extended, IfFree};
use crate::options::Terms;
use crate::protocol::{Expiry, Instant, LeaseEnds};

impl Holding {
    /// Lets the leases last for `expiry` from now on. Succeeds if a majority did; releases nothing if not.
    pub(crate) async fn extend(self: &Arc<Self>, expiry: Expiry) -> Result<(), Error> {
        // SAFETY RULE (design §9): extending cannot revive what is over; no node is even asked.
        if !self.is_valid() {
            return Err(self.expired());
        }
        let terms = self.terms.retimed(expiry)?;
        let if_free = if terms.repair_on_extend { IfFree::Retake } else { IfFree::Leave };
        let voters = self.marked(|mark| if_free == IfFree::Retake || mark != Mark::None);
        self.extend_on(voters, terms, if_free).await
    }

    /// Takes over leases that this token has from before, wherever it has them.
    pub(crate) async fn adopt(self: &Arc<Self>) -> Result<(), Error> {
        self.presume();
        let everywhere = self.marked(|_| true);
        self.extend_on(everywhere, self.terms.clone(), IfFree::Leave).await
    }

    async fn extend_on(
        self: &Arc<Self>,
        voters: Vec<usize>,
        terms: Terms,
        if_free: IfFree,
    ) -> Result<(), Error> {
        // SAFETY RULE (design §3): every bound starts before the first byte is sent.
        let sent = self.core.clock.now();
        let end = LeaseEnds::end(sent, terms.claim.expiry, terms.drift);
        let mut retaking = Vec::new();
        {
            let mut state = self.state();
            state.ends.cap(end);
            state.horizon = state.horizon.max(sent + terms.claim.expiry.as_duration());
            // Where the lease may be taken again, it may come to be from here on, and must be released with the others.
            if if_free == IfFree::Retake {
                voters
                    .iter()
                    .filter(|&&index| state.marks[index] == Mark::None)
                    .for_each(|&index| retaking.push(index));
                retaking.iter().for_each(|&index| state.marks[index] = Mark::Asked);
            }
        }
        let mut count = Count::new(Operation::Extend, &self.core.nodes, self.core.quorum, &voters);
        let timeout = terms.request_timeout.as_duration();
        let wait_for_all = terms.wait_for_all;
        let claim = Arc::new(terms.claim);
        let mut ballot = Ballot::open(&self.core.nodes, voters, &self.core.clock, timeout, move |node| {
            let claim = Arc::clone(&claim);
            Box::pin(async move { node.extend(&claim, if_free).await })
        });
        while !count.is_decided(ballot.outstanding(), wait_for_all) {
            let Some((index, returned)) = ballot.next().await else {
                break;
            };
            count.add(self.extended(index, end, &retaking, returned));
        }
        if ballot.outstanding() > 0 {
            let holding = Arc::clone(self);
            self.core.reaper.run(async move {
                while let Some((index, returned)) = ballot.next().await {
                    if holding.extended(index, end, &retaking, returned).is_ok() && holding.is_released() {
                        holding.chase().await;
                    }
                }
            });
        }
        match count.into_error(self.name()) {
            None if self.is_valid() => Ok(()),
            None => Err(self.expired()),
            Some(error) => Err(error),
        }
    }

    /// Records one node's answer. Nodes in `retaking` had no lease when they were asked.
    fn extended(
        &self,
        index: usize,
        end: Instant,
        retaking: &[usize],
        returned: Returned<Extended>,
    ) -> Result<(), NodeError> {
        match returned {
            Ok(Extended::Extended | Extended::Retaken) => {
                self.stands(index, end);
                Ok(())
            }
            Ok(Extended::NotHeld) => {
                self.refused(index);
                Err(NodeError::NotHeld { node: self.node_name(index) })
            }
            Ok(Extended::HeldByAnother(holder)) => {
                self.refused(index);
                Err(NodeError::Taken { node: self.node_name(index), holder })
            }
            Err(error) => {
                if retaking.contains(&index) && error.is_certainly_unapplied() {
                    self.refused(index);
                }
                Err(error)
            }
        }
    }

    fn expired(&self) -> Error {
        Error::AlreadyExpired { name: self.name(), operation: Operation::Extend, nodes: Vec::new() }
    }
}
