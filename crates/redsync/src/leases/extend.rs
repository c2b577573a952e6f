//! Making leases last longer, and taking over those of another process.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use super::{LeaseSet, RequestNumber, Standing};
use crate::clock::Sleep;
use crate::error::{Error, NodeError, Operation};
use crate::events::{self, RequestKind};
use crate::fan_out::{Count, FanOut, Returned};
use crate::node::{Extended, IfFree};
use crate::options::AttemptConfig;
use crate::protocol::{Expiry, Fence, InvalidOption, Verdict};

impl LeaseSet {
    /// Lets the leases last for `expiry` from now on. Succeeds if a majority did; releases nothing if not.
    pub(crate) async fn extend(self: &Arc<Self>, expiry: Expiry) -> Result<(), Error> {
        self.core.enter()?;
        // SAFETY RULE (protocol §8): extending cannot revive what is over; no node is even asked.
        if !self.is_valid() {
            return Err(Error::Lost(self.lost()));
        }
        let config = self.config.retimed(expiry)?;
        let asked = self.ask_to_extend(&config, IfFree::Leave);
        // Dropped from here on, the guard believes in the shorter time, and is renewed by it.
        self.replan(expiry);
        let extended = self.extended_by(asked, config).await;
        self.replan(expiry);
        extended
    }

    /// Takes over leases that this token has from before, wherever it has them, with the fence that it has.
    pub(crate) async fn adopt(
        self: &Arc<Self>,
        pending_expiry: Option<Expiry>,
        fence: Option<Fence>,
    ) -> Result<(), Error> {
        self.core.enter()?;
        self.presume(pending_expiry);
        let Some(fence) = fence else {
            return self.extend_on(self.config.clone()).await;
        };
        let mut config = self.config.clone();
        if let Some(proposal) = &mut config.claim.fence {
            // It raises nothing: what the lease says is to be found out first.
            proposal.fence = Fence::MIN;
        }
        let is_counted = || self.has_counted(fence);
        let extended = self.extend_until(config, is_counted, None).await;
        self.note(&extended);
        extended?;
        if !is_counted() {
            let reason = "its fence is not what the nodes have counted; was it cut off?";
            return Err(InvalidOption::new("lease", reason).into());
        }
        self.keep_fence(Some(fence));
        Ok(())
    }

    /// Extends by `config` on all nodes that may have the token.
    pub(super) async fn extend_on(self: &Arc<Self>, config: AttemptConfig) -> Result<(), Error> {
        let asked = self.ask_to_extend(&config, IfFree::Leave);
        self.extended_by(asked, config).await
    }

    /// As [`extend_on`](Self::extend_on), until `is_enough` has come about, or all have answered; or, once a majority has, for so
    /// long as `patience` says.
    pub(super) async fn extend_until(
        self: &Arc<Self>,
        config: AttemptConfig,
        is_enough: impl Fn() -> bool,
        patience: Option<Duration>,
    ) -> Result<(), Error> {
        let asked = self.ask_to_extend(&config, IfFree::Leave);
        self.heard_by(asked, config, is_enough, patience).await
    }

    /// Records that nodes are about to be asked: those that may have the token, or, to take the lease again, those that
    /// have not.
    fn ask_to_extend(&self, config: &AttemptConfig, if_free: IfFree) -> (RequestNumber, Vec<usize>) {
        let is_retaking = if_free == IfFree::Retake;
        let (trusted, now) = (config.trusted(), self.core.clock.now());
        let (number, _, voters) = self.ask(config, |ledger| {
            // SAFETY RULE (protocol §8): looked at in the step that asks. What is over, or given back or handed on meanwhile, is
            // not asked for any more.
            let voters = match (ledger.is_kept() && !ledger.is_past(now), is_retaking) {
                (false, _) => Vec::new(),
                (true, false) => ledger.holders(),
                (true, true) => ledger.missing(),
            };
            voters.iter().for_each(|&index| ledger.ask_to_extend(index, trusted, is_retaking));
            voters
        });
        (number, voters)
    }

    async fn extended_by(
        self: &Arc<Self>,
        asked: (RequestNumber, Vec<usize>),
        config: AttemptConfig,
    ) -> Result<(), Error> {
        let extended = self.heard_by(asked, config, || true, None).await;
        self.note(&extended);
        extended
    }

    async fn heard_by(
        self: &Arc<Self>,
        (number, voters): (RequestNumber, Vec<usize>),
        config: AttemptConfig,
        is_enough: impl Fn() -> bool,
        patience: Option<Duration>,
    ) -> Result<(), Error> {
        let mut count = Count::new(Operation::Extend, &self.core.nodes, self.core.quorum, &voters);
        let timeout = config.request_timeout.as_duration();
        let wait_for_all = config.wait_for_all;
        let claim = self.with_fence(&config.claim);
        let mut fan_out = FanOut::open(
            &self.core,
            RequestKind::Extend,
            self.core.clock.now(),
            voters,
            timeout,
            move |node| {
                let claim = claim.clone();
                Box::pin(async move { node.extend(&claim, IfFree::Leave).await })
            },
        );
        // Where it turns out to be over, somebody waits to hear why: no longer than until that is certain. And once a majority
        // has answered, for those who have more to say.
        let mut over: Option<Sleep> = None;
        loop {
            let outstanding = fan_out.outstanding();
            let is_decided = count.is_decided(outstanding, wait_for_all && self.standing() != Standing::Lost);
            if is_decided && (outstanding == 0 || count.verdict() != Verdict::Reached || is_enough()) {
                break;
            }
            if let Some(patience) = patience.filter(|_| is_decided && over.is_none()) {
                over = Some(self.core.clock.sleep_until(self.core.clock.now() + patience));
            }
            let over = async {
                match &mut over {
                    Some(over) => over.await,
                    None => pending().await,
                }
            };
            let next = tokio::select! {
                biased;
                next = fan_out.next() => next,
                () = over => None,
            };
            let Some((index, returned)) = next else { break };
            count.add(self.extended(index, number, IfFree::Leave, returned));
        }
        if fan_out.outstanding() > 0 {
            let leases = Arc::clone(self);
            self.core.tasks.run_soon(&self.core.clock, async move {
                let mut is_late = false;
                while let Some((index, returned)) = fan_out.next().await {
                    is_late |= leases.extended(index, number, IfFree::Leave, returned).is_ok();
                }
                if is_late && leases.is_released() {
                    leases.retry_release().await;
                }
            });
        }
        match count.into_error(self.name()) {
            None if self.is_valid() => {
                if self.is_to_be_repaired() {
                    match wait_for_all {
                        true => Arc::clone(self).repair(config).await,
                        false => self.core.tasks.run(Arc::clone(self).repair(config)),
                    }
                }
                Ok(())
            }
            None => Err(Error::Lost(self.lost())),
            Some(error) => Err(error),
        }
    }

    /// Takes the lease again on nodes that have none of this token: they lost it, or were out of reach.
    ///
    /// SAFETY RULE (protocol §3): only for a guard that is valid by its other leases, of which a majority has just been
    /// confirmed; so a lease that is taken again adds a vote, and never stands in for one that was lost.
    async fn repair(self: Arc<Self>, config: AttemptConfig) {
        if !self.is_valid() {
            return;
        }
        let (number, voters) = self.ask_to_extend(&config, IfFree::Retake);
        let (timeout, claim) = (config.request_timeout.as_duration(), self.with_fence(&config.claim));
        let mut fan_out = FanOut::open(
            &self.core,
            RequestKind::Extend,
            self.core.clock.now(),
            voters,
            timeout,
            move |node| {
                let claim = claim.clone();
                Box::pin(async move { node.extend(&claim, IfFree::Retake).await })
            },
        );
        while let Some((index, returned)) = fan_out.next().await {
            // What a node says that has not got it again changes nothing.
            let _ = self.extended(index, number, IfFree::Retake, returned);
        }
        if self.is_released() {
            self.retry_release().await;
        }
    }

    fn is_to_be_repaired(&self) -> bool {
        // A single node is believed: what it has forgotten, nobody else confirms.
        let is_wanted = self.config.repair_on_extend && self.core.quorum.nodes() > 1;
        // Nor are others asked before it is decided what they are to be raised to.
        is_wanted && !self.is_to_be_fenced() && !self.ledger().missing().is_empty()
    }

    fn extended(
        self: &Arc<Self>,
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
        let end = self.valid_until();
        self.ledger().extended(index, number, &extended, was_retaking, self.core.clock.now());
        let denial = match extended {
            Extended::Extended(_) => return Ok(()),
            Extended::Retaken => {
                events::retaken(&self.config.claim.name, &*self.core.nodes[index]);
                return Ok(());
            }
            Extended::NotHeld => NodeError::NotHeld { node: self.node_name(index) },
            Extended::HeldByAnother(holder) => NodeError::Taken { node: self.node_name(index), holder },
        };
        // At once, whatever the other nodes will say, and when.
        if self.valid_until() < end {
            self.end_comes_nearer(&denial);
        }
        Err(denial)
    }
}
