//! Fences: asked for, told, and what they must be like.

use std::time::Duration;

use redsync::{Acquired, Extended, Fence, IfFree, Placed, Proposal};

use super::{Breach, LONG, Lock, Owner, Trial, Verdict, Waiter};

/// The largest fence.
pub(crate) const HIGHEST: u64 = Fence::MAX.as_u64();

/// In microseconds, which fences and clocks count.
pub(crate) const SECOND: u64 = 1_000_000;
pub(crate) const HALF_A_SECOND: u64 = SECOND / 2;

/// How long counters are kept, unless a clause says otherwise: longer than it takes.
pub(crate) const RETENTION: Duration = Duration::from_secs(60);

/// A proposal of `number`, or of the nearest fence.
pub(crate) fn proposal(number: u64, retention: Duration) -> Proposal {
    let fence = Fence::new(number.clamp(1, HIGHEST)).expect("it is in the range of fences");
    Proposal::new(fence, retention)
}

impl Trial {
    /// What the node's clock shows, in microseconds since 1970.
    pub(crate) async fn node_micros(&self) -> Result<u64, Breach> {
        Ok(self.client().waiter(&self.lock(), "clock", 10).enter(LONG).await?.micros)
    }
}

impl Lock {
    /// Expects that the counter stands there; nowhere, if there is none.
    pub(crate) async fn is_counted_to(&self, expected: Option<u64>) -> Verdict {
        let fence = self.look().await?.fence.map(Fence::as_u64);
        if fence == expected {
            return Ok(());
        }
        Err(Breach::answered(format!("inspect of {self} says that its counter is at {expected:?}"), fence))
    }
}

/// Those who ask for a fence.
impl Owner {
    pub(crate) fn proposing(&self, number: u64) -> Self {
        self.asking_for(proposal(number, RETENTION))
    }

    /// Expects that an acquire is granted and says where the counter stands, as inspect does.
    pub(crate) async fn is_fenced(&self) -> Result<u64, Breach> {
        self.is_fenced_for(LONG).await
    }

    pub(crate) async fn is_fenced_for(&self, lasting: Duration) -> Result<u64, Breach> {
        match self.acquire(lasting).await? {
            Acquired::Granted(Some(fence)) => {
                self.lock().is_counted_to(Some(fence.as_u64())).await?;
                Ok(fence.as_u64())
            }
            other => {
                let expected =
                    format!("acquire of {} by {} is Granted with a fence", self.lock(), self.who());
                Err(Breach::answered(expected, other))
            }
        }
    }

    /// Expects that an extend by the holder says that the counter stands at `expected`, as inspect does.
    pub(crate) async fn extends_at(&self, expected: u64) -> Verdict {
        match self.extend(LONG, IfFree::Leave).await? {
            Extended::Extended(Some(fence)) if fence.as_u64() == expected => {
                self.lock().is_counted_to(Some(expected)).await
            }
            other => {
                let expected = format!("extend by {} says Extended with the fence {expected}", self.who());
                Err(Breach::answered(expected, other))
            }
        }
    }
}

/// Those who ask for a fence.
impl Waiter {
    pub(crate) fn proposing(&self, number: u64) -> Self {
        self.asking_for(proposal(number, RETENTION))
    }

    /// Expects that it has the lease as soon as it enters, and is told where the counter stands, as inspect says, too.
    pub(crate) async fn is_fenced(&self) -> Result<u64, Breach> {
        let entered = self.enter(LONG).await?;
        match entered.places[..] {
            [Placed::Granted(Some(fence))] => {
                self.lock().is_counted_to(Some(fence.as_u64())).await?;
                Ok(fence.as_u64())
            }
            _ => {
                let who = self.owner().who();
                let expected = format!("enter of {} by {who} is Granted with a fence", self.lock());
                Err(Breach::answered(expected, entered))
            }
        }
    }

    /// Expects that it comes to know that it was handed the lease, with the fence that inspect says, and that it is told
    /// when it asks again.
    pub(crate) async fn is_handed_a_fence(&self) -> Result<u64, Breach> {
        let Some(fence) = self.comes_to_know_its_fence(LONG).await?.map(Fence::as_u64) else {
            return Err(Breach::new(format!("{} is granted with a fence", self.owner().who()), "none"));
        };
        self.lock().is_counted_to(Some(fence)).await?;
        let again = self.is_fenced().await?;
        if again == fence {
            return Ok(fence);
        }
        Err(Breach::answered(format!("who was handed the fence {fence} is told it again"), again))
    }
}

/// The fence, if it is larger than the last.
pub(crate) fn beyond(last: u64, fence: u64) -> Result<u64, Breach> {
    if fence > last {
        return Ok(fence);
    }
    Err(Breach::answered(format!("a fence that is larger than the one before it, {last}"), fence))
}

/// Expects this fence.
pub(crate) fn exactly(expected: u64, fence: u64) -> Verdict {
    if fence == expected {
        return Ok(());
    }
    Err(Breach::answered(format!("the fence {expected}"), fence))
}
