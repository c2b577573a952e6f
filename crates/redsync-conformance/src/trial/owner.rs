//! Somebody with a token, and what they may expect of the node.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use redsync::{
    Acquired, Answer, Claim, Expiry, Extended, Fence, IfFree, Node, NodeFault, Proposal, Released,
    Succession, Token,
};
use tokio::time::timeout;

use super::{Breach, Lease, Lock, Verdict, answered};

/// Somebody who may hold a lock.
#[derive(Clone)]
pub(crate) struct Owner {
    lock: Lock,
    token: Token,
    /// What it asks for beside the lease, if it asks for a fence.
    proposal: Option<Proposal>,
}

/// What the node answers. A fault, or no answer in time, is a breach.
impl Owner {
    pub(super) fn new(lock: Lock, token: Token) -> Self {
        Self { lock, token, proposal: None }
    }

    /// The same, who asks for a fence from the next request on.
    pub(crate) fn asking_for(&self, proposal: Proposal) -> Self {
        Self { proposal: Some(proposal), ..self.clone() }
    }

    /// The same, who asks for none.
    pub(crate) fn asking_for_none(&self) -> Self {
        Self { proposal: None, ..self.clone() }
    }

    pub(crate) async fn acquire(&self, lasting: Duration) -> Result<Acquired, Breach> {
        let claim = self.claim(lasting);
        answered(format!("acquire by {}", self.who()), self.node().acquire(&claim)).await
    }

    pub(crate) async fn extend(&self, lasting: Duration, if_free: IfFree) -> Result<Extended, Breach> {
        let claim = self.claim(lasting);
        answered(format!("extend by {}", self.who()), self.node().extend(&claim, if_free)).await
    }

    pub(crate) async fn release(&self) -> Result<Released, Breach> {
        self.release_with(Succession::HandOver).await
    }

    pub(crate) async fn release_with(&self, succession: Succession) -> Result<Released, Breach> {
        let release = self.node().release(&self.lock.name, &self.token, succession);
        answered(format!("release by {}", self.who()), release).await
    }

    /// An acquire that the node may answer with a fault.
    pub(crate) async fn try_acquire(&self, lasting: Duration) -> Result<Result<Acquired, NodeFault>, Breach> {
        let claim = self.claim(lasting);
        let acquire = self.node().acquire(&claim);
        let outcome: Answer<'_, Result<Acquired, NodeFault>> = Box::pin(acquire.map(Ok));
        answered(format!("acquire by {}", self.who()), outcome).await
    }
}

/// What the contract promises.
impl Owner {
    /// Expects that an acquire is granted.
    pub(crate) async fn is_granted(&self, lasting: Duration) -> Result<Lease, Breach> {
        let asked = Instant::now();
        match self.acquire(lasting).await? {
            Acquired::Granted(fence) if self.is_answer(fence) => Ok(self.lease(lasting, asked)),
            other => {
                let granted = self.with_fence("Granted");
                Err(Breach::answered(
                    format!("acquire of {} by {} is {granted}", self.lock, self.who()),
                    other,
                ))
            }
        }
    }

    /// Expects that an acquire is refused, with `lease` for the reason.
    pub(crate) async fn is_refused(&self, lasting: Duration, lease: &Lease) -> Verdict {
        let asked = Instant::now();
        match self.acquire(lasting).await? {
            Acquired::Taken(holder) if lease.is_told_by(&holder, asked) => Ok(()),
            other => {
                let expected = format!("acquire of {} by {} is Taken by {lease}", self.lock, self.who());
                Err(Breach::answered(expected, other))
            }
        }
    }

    /// Expects that the lease can be extended.
    pub(crate) async fn extends(&self, lasting: Duration, if_free: IfFree) -> Result<Lease, Breach> {
        let asked = Instant::now();
        match self.extend(lasting, if_free).await? {
            Extended::Extended(fence) if self.is_answer(fence) => Ok(self.lease(lasting, asked)),
            other => Err(Breach::answered(self.says("extend", if_free, &self.with_fence("Extended")), other)),
        }
    }

    /// Expects that a free name is granted again.
    pub(crate) async fn retakes(&self, lasting: Duration) -> Result<Lease, Breach> {
        let asked = Instant::now();
        match self.extend(lasting, IfFree::Retake).await? {
            Extended::Retaken => Ok(self.lease(lasting, asked)),
            other => Err(Breach::answered(self.says("extend", IfFree::Retake, "Retaken"), other)),
        }
    }

    /// Expects that there is nothing to extend, and that nothing is taken.
    pub(crate) async fn has_nothing_to_extend(&self) -> Verdict {
        match self.extend(super::LONG, IfFree::Leave).await? {
            Extended::NotHeld => Ok(()),
            other => Err(Breach::answered(self.says("extend", IfFree::Leave, "NotHeld"), other)),
        }
    }

    /// Expects that another's lease cannot be extended.
    pub(crate) async fn cannot_extend(&self, lasting: Duration, if_free: IfFree, lease: &Lease) -> Verdict {
        let asked = Instant::now();
        match self.extend(lasting, if_free).await? {
            Extended::HeldByAnother(holder) if lease.is_told_by(&holder, asked) => Ok(()),
            other => {
                let expected = self.says("extend", if_free, &format!("HeldByAnother, {lease}"));
                Err(Breach::answered(expected, other))
            }
        }
    }

    /// Expects that the lease can be released.
    pub(crate) async fn releases(&self) -> Verdict {
        self.is_answered(Succession::HandOver, Released::Released).await
    }

    /// Expects that the lease can be released without being handed over.
    pub(crate) async fn lets_go(&self) -> Verdict {
        self.is_answered(Succession::Barging, Released::Released).await
    }

    /// Expects that there is a place in the queue to leave, and nothing else to release.
    pub(crate) async fn leaves_the_queue(&self) -> Verdict {
        self.is_answered(Succession::HandOver, Released::Left).await
    }

    /// Expects that there is nothing to release.
    pub(crate) async fn has_nothing_to_release(&self) -> Verdict {
        self.is_answered(Succession::HandOver, Released::NotHeld).await
    }

    /// Expects that a release has just this answer.
    pub(crate) async fn is_answered(&self, succession: Succession, expected: Released) -> Verdict {
        let answer = self.release_with(succession).await?;
        if answer == expected {
            return Ok(());
        }
        let expected = format!(
            "release (Succession::{succession:?}) of {} by {} says {expected:?}",
            self.lock,
            self.who()
        );
        Err(Breach::answered(expected, answer))
    }

    /// Expects that another's lease cannot be released.
    pub(crate) async fn cannot_release(&self, lease: &Lease) -> Verdict {
        let asked = Instant::now();
        match self.release().await? {
            Released::HeldByAnother(holder) if lease.is_told_by(&holder, asked) => Ok(()),
            other => {
                let expected =
                    format!("release of {} by {} says HeldByAnother, {lease}", self.lock, self.who());
                Err(Breach::answered(expected, other))
            }
        }
    }
}

/// Requests whose answer nobody waits for.
impl Owner {
    pub(crate) async fn abandons_acquire(&self, lasting: Duration, patience: Duration) {
        abandon(self.node().acquire(&self.claim(lasting)), patience).await;
    }

    pub(crate) async fn abandons_extend(&self, lasting: Duration, patience: Duration) {
        abandon(self.node().extend(&self.claim(lasting), IfFree::Leave), patience).await;
    }

    pub(crate) async fn abandons_release(&self, patience: Duration) {
        abandon(self.node().release(&self.lock.name, &self.token, Succession::HandOver), patience).await;
    }
}

impl Owner {
    pub(crate) fn lock(&self) -> &Lock {
        &self.lock
    }

    pub(crate) fn token(&self) -> &Token {
        &self.token
    }

    /// What reports call this owner.
    pub(crate) fn who(&self) -> &str {
        self.token.owner().unwrap_or(self.token.as_str())
    }

    /// The lease that this owner has now, asked for at `asked`.
    pub(crate) fn lease(&self, lasting: Duration, asked: Instant) -> Lease {
        Lease::new(self.clone(), lasting, asked)
    }

    pub(super) fn claim(&self, lasting: Duration) -> Claim {
        let expiry = Expiry::new(lasting).expect("a clause's expiries are in range");
        let claim = Claim::new(self.lock.name.clone(), self.token.clone(), expiry);
        match self.proposal {
            Some(proposal) => claim.fenced(proposal),
            None => claim,
        }
    }

    /// Whether this is told to one who asks for what this one asks for: a fence, or none.
    pub(super) const fn is_answer(&self, fence: Option<Fence>) -> bool {
        fence.is_some() == self.proposal.is_some()
    }

    /// What it is to be told.
    pub(super) fn with_fence(&self, answer: &str) -> String {
        let fence = if self.proposal.is_some() { "a fence" } else { "no fence" };
        format!("{answer} with {fence}")
    }

    pub(super) fn node(&self) -> &dyn Node {
        &*self.lock.trial.node
    }

    fn says(&self, request: &str, if_free: IfFree, answer: &str) -> String {
        format!("{request} (IfFree::{if_free:?}) of {} by {} says {answer}", self.lock, self.who())
    }
}

/// Asks, and drops the answer: after the first poll if there is no patience at all.
pub(super) async fn abandon<T>(answer: Answer<'_, T>, patience: Duration) {
    if patience.is_zero() {
        let _ = answer.now_or_never();
    } else {
        let _ = timeout(patience, answer).await;
    }
}
