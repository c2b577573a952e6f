//! Giving leases back: reported, undone, or left to the background.

use std::sync::Arc;
use std::time::Duration;

use super::{LeaseSet, Standing};
use crate::error::{Error, NodeError, Operation};
use crate::events::{self, RequestKind};
use crate::fan_out::{Count, FanOut, NodeRequest, Returned};
use crate::node::Released;
use crate::protocol::leases::NodeState;
use crate::protocol::{Instant, Verdict};

impl LeaseSet {
    /// Releases the token wherever it may be, and says whether a majority had it until now. What is not answered goes
    /// on in the background.
    pub(crate) async fn release(self: &Arc<Self>) -> Result<(), Error> {
        let now = self.core.enter()?;
        let mut release = Release::begin(self, false, now);
        let mut count = Count::new(Operation::Unlock, &self.core.nodes, self.core.quorum, &release.voters());
        while !count.is_decided(release.outstanding(), self.config.wait_for_all) {
            let Some(released) = release.next().await else { break };
            count.add(released);
        }
        release.hear_the_returned();
        if self.ledger().is_open() {
            let leases = Arc::clone(self);
            let rest = async move {
                release.finish().await;
                leases.retry_release().await;
            };
            match count.verdict() {
                Verdict::Reached => self.core.tasks.run_soon(&self.core.clock, rest),
                Verdict::Open | Verdict::OutOfReach => self.core.tasks.run(rest),
            }
        }
        count.into_error(self.name()).map_or(Ok(()), Err)
    }

    /// Takes back what an attempt that failed was granted: a refusal must not leave leases behind that block others.
    /// Where the answer is not known, that goes on in the background.
    pub(crate) async fn undo(self: &Arc<Self>) {
        Release::begin(self, true, self.core.clock.now()).finish().await;
        self.abandon();
    }

    /// Releases without a caller, for attempts that failed or were dropped. Never blocks.
    pub(crate) fn abandon(self: &Arc<Self>) {
        self.release_in_background(|_| {});
    }

    /// Releases without a caller, for a guard that was dropped, and tells how it ended. Never blocks.
    pub(crate) fn abandon_guard(self: &Arc<Self>) {
        // As for a guard that is unlocked: a lost one has no other outcome, whatever the nodes still say.
        let lost = (self.standing() == Standing::Lost).then(|| Error::Lost(self.lost()));
        let leases = Arc::clone(self);
        self.release_in_background(move |count| {
            let error = lost.or_else(|| count.into_error(leases.name()));
            events::released(&leases.config.claim.name, error.as_ref().map_or(Ok(&()), Err));
        });
    }

    /// Calls `decided` once, as soon as it is certain what the nodes say; not if no runtime is left to ask them in.
    fn release_in_background(self: &Arc<Self>, decided: impl FnOnce(Count) + Send + 'static) {
        let is_open = {
            let mut ledger = self.ledger();
            ledger.give_back(self.core.clock.now());
            ledger.is_open()
        };
        self.end_keeping();
        if !is_open {
            self.expect_no_grants();
            decided(Count::new(Operation::Unlock, &self.core.nodes, self.core.quorum, &[]));
            return;
        }
        let mut unsent = Unsent { leases: Arc::clone(self), was_sent: false };
        // Where it cannot be done, it is dropped, and says so.
        self.core.tasks.run(async move {
            let core = Arc::clone(&unsent.leases.core);
            let mut release = Release::begin(&unsent.leases, false, core.clock.now());
            let mut count = Count::new(Operation::Unlock, &core.nodes, core.quorum, &release.voters());
            while !count.is_decided(release.outstanding(), false) {
                let Some(released) = release.next().await else { break };
                count.add(released);
            }
            decided(count);
            release.finish().await;
            drop(release);
            unsent.was_sent = true;
            unsent.leases.retry_release().await;
        });
    }

    /// Asks again where it is not certain that the token is gone, until its last lease would be over anyway: a node
    /// may have been out of reach, or a request of ours may arrive late.
    pub(crate) async fn retry_release(self: &Arc<Self>) {
        // Others who are asking will go on.
        if !self.ledger().is_to_be_released() {
            return;
        }
        // With so many under way, a node has been out of reach for long; what is not chased expires.
        let Some(_place) = self.core.tasks.begin_chase() else { return };
        let mut pause = Duration::ZERO;
        // What was granted late is there for certain, and what was answered meanwhile shows at once; what is only suspected is
        // given time to show.
        let mut is_urgent = {
            let ledger = self.ledger();
            ledger.is_granted_somewhere() || ledger.has_heard_all()
        };
        while self.is_worth_chasing() {
            if !std::mem::take(&mut is_urgent) {
                pause = (pause * 2).clamp(CHASE_LEAST, CHASE_MOST);
                // Its last lease is over by itself at the horizon.
                let horizon = self.ledger().horizon();
                self.core.clock.sleep_until((self.core.clock.now() + pause).min(horizon)).await;
            }
            let mut release = Release::begin(self, false, self.core.clock.now());
            if release.outstanding() == 0 {
                // Nothing is left, or others are asking, who will go on.
                return;
            }
            release.finish().await;
        }
    }

    fn is_worth_chasing(&self) -> bool {
        let ledger = self.ledger();
        ledger.is_open() && self.core.clock.now() < ledger.horizon()
    }
}

/// A release under way: the nodes it asks are its own until they have answered.
struct Release {
    leases: Arc<LeaseSet>,
    fan_out: FanOut<Released>,
    /// The nodes that have not answered, and what was known of the token there when they were asked.
    asked: Vec<(usize, NodeState)>,
}

impl Release {
    /// Asks the nodes that may have the token, or a place for it, or only those known to. The token is given back from here
    /// on.
    fn begin(leases: &Arc<LeaseSet>, only_known: bool, now: Instant) -> Self {
        let asked = {
            let mut ledger = leases.ledger();
            ledger.give_back(now);
            ledger.take(only_known)
        };
        leases.end_keeping();
        let core = &leases.core;
        let timeout = leases.config.request_timeout.as_duration();
        let voters = asked.iter().map(|(index, _)| *index);
        let fan_out =
            FanOut::open(core, RequestKind::Release, now, voters, timeout, |node| -> NodeRequest<Released> {
                let leases = Arc::clone(leases);
                Box::pin(async move {
                    let claim = &leases.config.claim;
                    node.release(&claim.name, &claim.token, leases.config.succession).await
                })
            });
        Self { leases: Arc::clone(leases), fan_out, asked }
    }

    fn voters(&self) -> Vec<usize> {
        self.asked.iter().map(|(index, _)| *index).collect()
    }

    fn outstanding(&self) -> usize {
        self.fan_out.outstanding()
    }

    /// The next node's answer, recorded.
    async fn next(&mut self) -> Option<Result<(), NodeError>> {
        let (index, returned) = self.fan_out.next().await?;
        self.heard(index, returned)
    }

    /// Answers that are there already need nobody in the background.
    fn hear_the_returned(&mut self) {
        while let Some((index, returned)) = self.fan_out.next_returned() {
            let _ = self.heard(index, returned);
        }
    }

    fn heard(&mut self, index: usize, returned: Returned<Released>) -> Option<Result<(), NodeError>> {
        let at = self.asked.iter().position(|(asked, _)| *asked == index)?;
        let (_, before) = self.asked.swap_remove(at);
        let node = || self.leases.node_name(index);
        Some(match returned {
            Err(error) => {
                self.leases.ledger().leave(index);
                Err(error)
            }
            Ok(released) => {
                self.leases.ledger().released(index, before, &released);
                match released {
                    Released::Released => Ok(()),
                    Released::NotHeld | Released::Left => Err(NodeError::NotHeld { node: node() }),
                    Released::HeldByAnother(holder) => Err(NodeError::Taken { node: node(), holder }),
                }
            }
        })
    }

    async fn finish(&mut self) {
        while self.next().await.is_some() {}
    }
}

/// Dropped midway, the nodes that have not answered are for others to ask again. What they tell of from here on is for
/// nobody.
impl Drop for Release {
    fn drop(&mut self) {
        {
            let mut ledger = self.leases.ledger();
            self.asked.iter().for_each(|(index, _)| ledger.leave(*index));
        }
        self.leases.expect_no_grants();
    }
}

/// A release that nobody waits for. If it is dropped before it was sent, somebody should know.
struct Unsent {
    leases: Arc<LeaseSet>,
    was_sent: bool,
}

impl Drop for Unsent {
    fn drop(&mut self) {
        if !self.was_sent {
            self.leases.expect_no_grants();
            let claim = &self.leases.config.claim;
            events::unsent(&claim.name, claim.expiry.as_duration());
        }
    }
}

const CHASE_LEAST: Duration = Duration::from_millis(50);
const CHASE_MOST: Duration = Duration::from_secs(5);
