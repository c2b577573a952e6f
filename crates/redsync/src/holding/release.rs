//! Giving leases back: reported, undone, or left to the background.

use std::sync::Arc;
use std::time::Duration;

use super::{Holding, Mark};
use crate::ballot::{Ballot, Count, Returned};
use crate::error::{Error, NodeError, Operation};
use crate::node::{NodeFault, Released};

impl Holding {
    /// Releases the token wherever it may be, and says whether a majority had it until now. What is not answered goes
    /// on in the background.
    pub(crate) async fn release(self: &Arc<Self>) -> Result<(), Error> {
        let voters = self.begin_release();
        let mut count = Count::new(&self.core.nodes, self.core.quorum, &voters);
        let mut ballot = self.release_ballot(voters);
        while !count.is_decided(ballot.outstanding(), self.terms.wait_for_all) {
            let Some((index, returned)) = ballot.next().await else {
                break;
            };
            count.add(self.released(index, returned));
        }
        if !self.releasable().is_empty() {
            let holding = Arc::clone(self);
            self.core.reaper.run(Box::pin(async move {
                while let Some((index, returned)) = ballot.next().await {
                    let _ = holding.released(index, returned);
                }
                holding.chase().await;
            }));
        }
        count
            .into_error(self.name(), Operation::Unlock)
            .map_or(Ok(()), Err)
    }

    /// Takes back what an attempt that failed was granted: a refusal must not leave leases behind that block others.
    /// Where the answer is not known, that goes on in the background.
    pub(crate) async fn undo(self: &Arc<Self>) {
        self.begin_release();
        let granted = self.marked(|mark| mark == Mark::Granted);
        if !granted.is_empty() {
            let mut ballot = self.release_ballot(granted);
            while let Some((index, returned)) = ballot.next().await {
                let _ = self.released(index, returned);
            }
        }
        self.abandon();
    }

    /// Releases without a caller, for guards and attempts that were dropped. Never blocks.
    pub(crate) fn abandon(self: &Arc<Self>) {
        if self.begin_release().is_empty() {
            return;
        }
        let mut unsent = Unsent {
            holding: Arc::clone(self),
            was_sent: false,
        };
        // Where it cannot be done, it is dropped, and says so.
        self.core.reaper.run(Box::pin(async move {
            unsent.holding.release_everywhere().await;
            unsent.was_sent = true;
            unsent.holding.chase().await;
        }));
    }

    /// Releases again, if the token was released while a request for it was still under way.
    pub(crate) async fn release_late_grants(self: &Arc<Self>) {
        if self.state().is_released && !self.releasable().is_empty() {
            self.release_everywhere().await;
            self.chase().await;
        }
    }

    /// Asks again where it is not certain that the token is gone, until its last lease would be over anyway: a node
    /// may have been out of reach, or a request of ours may arrive late by another connection.
    async fn chase(self: &Arc<Self>) {
        let mut pause = CHASE_LEAST;
        loop {
            let now = self.core.clock.now();
            if self.releasable().is_empty() || now >= self.state().horizon {
                return;
            }
            self.core.clock.sleep_until(now + pause).await;
            pause = (pause * 2).min(CHASE_MOST);
            self.release_everywhere().await;
        }
    }

    async fn release_everywhere(self: &Arc<Self>) {
        let mut ballot = self.release_ballot(self.releasable());
        while let Some((index, returned)) = ballot.next().await {
            let _ = self.released(index, returned);
        }
    }

    fn begin_release(&self) -> Vec<usize> {
        self.state().is_released = true;
        self.releasable()
    }

    /// SAFETY RULE (design §4): a node that answered "taken" is never sent a release.
    fn releasable(&self) -> Vec<usize> {
        self.marked(|mark| mark != Mark::None)
    }

    fn release_ballot(
        self: &Arc<Self>,
        voters: Vec<usize>,
    ) -> Ballot<impl Future<Output = (usize, Result<Released, NodeFault>)> + Send + use<>> {
        let timeout = self.terms.request_timeout.as_duration();
        let holding = Arc::clone(self);
        Ballot::open(
            &self.core.nodes,
            voters,
            &self.core.clock,
            timeout,
            move |index, node| {
                let holding = Arc::clone(&holding);
                async move {
                    let claim = &holding.terms.claim;
                    (index, node.release(&claim.name, &claim.token).await)
                }
            },
        )
    }

    fn released(&self, index: usize, returned: Returned<Released>) -> Result<(), NodeError> {
        let released = returned?;
        let is_certain = {
            let state = self.state();
            // Where the answer to the lease was never seen, "not held" may only mean "not yet".
            released != Released::NotHeld || state.marks[index] == Mark::Granted
        };
        if is_certain {
            self.refused(index);
        }
        match released {
            Released::Released => Ok(()),
            Released::NotHeld => Err(NodeError::NotHeld {
                node: self.node_name(index),
            }),
            Released::HeldByAnother(holder) => Err(NodeError::Taken {
                node: self.node_name(index),
                holder,
            }),
        }
    }
}

/// A release that nobody waits for. If it is dropped before it was sent, somebody should know.
struct Unsent {
    holding: Arc<Holding>,
    was_sent: bool,
}

impl Drop for Unsent {
    fn drop(&mut self) {
        if !self.was_sent {
            let claim = &self.holding.terms.claim;
            tracing::warn!(
                lock = %claim.name,
                expiry = %claim.expiry,
                "no runtime is left to release this lock in; it stays taken until it expires",
            );
        }
    }
}

const CHASE_LEAST: Duration = Duration::from_millis(50);
const CHASE_MOST: Duration = Duration::from_secs(5);
