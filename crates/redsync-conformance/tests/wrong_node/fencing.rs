//! Defects in how a node counts its fences.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use redsync::{
    Acquired, Claim, Clock, Entered, Expiry, Extended, Fence, IfFree, LockName, Look, Node, NodeFault, Place,
    Placed, Proposal, Succession, SystemClock,
};

use super::{Defect, WrongNode, time_left, token_of, unfenced};

/// What defects remember of counters.
#[derive(Default)]
pub(super) struct Fences {
    first_told: Mutex<HashMap<LockName, Fence>>,
    /// By how much what is told is lower than what is counted.
    offsets: Mutex<HashMap<LockName, u64>>,
    /// When each counter was asked for first, and for how long it was to be kept then.
    first_kept: Mutex<HashMap<LockName, (Instant, Duration)>>,
    longest_kept: Mutex<HashMap<LockName, Duration>>,
    namesakes: Mutex<HashMap<String, HashSet<LockName>>>,
}

impl Fences {
    /// The fence as the node tells it.
    pub(super) fn misreport(&self, defect: Defect, name: &LockName, fence: Fence) -> Fence {
        let number = match defect {
            Defect::CountsNothing => {
                return *self.first_told.lock().unwrap().entry(name.clone()).or_insert(fence);
            }
            Defect::BeginsCountersAtWhatIsProposed => fence.as_u64() - self.offset(name),
            Defect::KeepsFencesIn14Digits => (fence.as_u64() + 50) / 100 * 100,
            _ => fence.as_u64(),
        };
        number_or_highest(number)
    }

    fn offset(&self, name: &LockName) -> u64 {
        self.offsets.lock().unwrap().get(name).copied().unwrap_or_default()
    }
}

impl WrongNode {
    /// The claim with its proposal as the node understands it.
    pub(super) fn misread_proposal(&self, request: Request, mut claim: Claim) -> Claim {
        let (Some(proposal), fences) = (&mut claim.fence, &self.notes.fences) else { return claim };
        let name = &claim.name;
        match (self.defect, request) {
            (Defect::IgnoresProposals, Request::Acquire | Request::Enter)
            | (Defect::ExtendDoesNotRaise, Request::Extend) => proposal.fence = Fence::MIN,
            (Defect::ExtendIsLimitedByTheClock, Request::Extend) => {
                let most = SystemClock.wall_micros() + 1_000_000;
                proposal.fence = proposal.fence.min(number_or_highest(most));
            }
            (Defect::CountsNoWaiters, Request::Enter) => claim.fence = None,
            (Defect::CountersEndWithLeases, Request::Acquire) => {
                proposal.retention = claim.expiry.as_duration();
            }
            (Defect::NeverForgetsCounters, _) => proposal.retention = Duration::from_secs(86_400),
            (Defect::ForgetsCountersEarly, _) if proposal.retention < Duration::from_secs(10) => {
                proposal.retention /= 10;
            }
            (Defect::UsesDoNotRenewCounters, _) => {
                let mut first_kept = fences.first_kept.lock().unwrap();
                let (since, kept) =
                    *first_kept.entry(name.clone()).or_insert((Instant::now(), proposal.retention));
                proposal.retention = kept.saturating_sub(since.elapsed());
            }
            (Defect::KeepsCountersForTheLongestRetention, _) => {
                let mut longest_kept = fences.longest_kept.lock().unwrap();
                let longest = longest_kept.entry(name.clone()).or_default();
                *longest = proposal.retention.max(*longest);
                proposal.retention = *longest;
            }
            (Defect::BeginsCountersAtWhatIsProposed, _) => {
                proposal.fence = number_or_highest(proposal.fence.as_u64() + fences.offset(name));
            }
            _ => {}
        }
        claim
    }

    pub(super) async fn acquire_counting(&self, claim: &Claim) -> Result<Acquired, NodeFault> {
        let before = self.inner.inspect(&claim.name).await?;
        let unfenced = unfenced(claim);
        let acquired = match (self.defect, self.inner.acquire(claim).await) {
            (Defect::GrantsTheLastFenceAgain, Err(_)) => {
                self.inner.acquire(&unfenced).await?;
                return Ok(Acquired::Granted(Some(Fence::MAX)));
            }
            (Defect::GrantsWhatItCannotCount, Err(fault)) => {
                self.inner.acquire(&unfenced).await?;
                return Err(fault);
            }
            (Defect::StartsAnewAtItsEnd, Err(_)) => {
                self.inner.acquire(&unfenced).await?;
                self.forget_counter(&claim.name).await?;
                self.inner.acquire(claim).await?
            }
            (_, acquired) => acquired?,
        };
        let is_new = before.holder.is_none();
        let told = match (self.defect, &acquired, claim.fence) {
            (Defect::TakesAnyProposal, Acquired::Granted(Some(fence)), Some(proposal))
                if is_new && proposal.fence > *fence =>
            {
                self.raise_counter(&claim.name, proposal.fence).await?
            }
            (Defect::CountsForTheHolderAgain, Acquired::Granted(Some(fence)), _) if !is_new => {
                self.raise_counter(&claim.name, following(*fence)).await?
            }
            (Defect::RefusalsCount, Acquired::Taken(_), Some(_)) => {
                self.count_once_more(&claim.name).await?;
                return Ok(acquired);
            }
            (Defect::UnfencedGrantsCount, Acquired::Granted(None), _) => {
                self.count_once_more(&claim.name).await?;
                None
            }
            (Defect::TellsEveryoneTheFence, Acquired::Granted(_), _) => {
                self.inner.inspect(&claim.name).await?.fence
            }
            (Defect::SaysTheFenceBefore, Acquired::Granted(Some(fence)), _) => Some(preceding(*fence)),
            (Defect::BeginsCountersAtWhatIsProposed, Acquired::Granted(Some(fence)), Some(proposal))
                if before.fence.is_none() =>
            {
                let offset = fence.as_u64().saturating_sub(proposal.fence.as_u64());
                self.notes.fences.offsets.lock().unwrap().insert(claim.name.clone(), offset);
                Some(*fence)
            }
            (_, Acquired::Granted(fence), _) => *fence,
            (_, Acquired::Taken(_), _) => return Ok(acquired),
        };
        if let Some(fence) = told {
            self.raise_namesakes(&claim.name, fence).await?;
        }
        Ok(Acquired::Granted(told.map(|fence| self.misreport_fence(&claim.name, fence))))
    }

    pub(super) async fn extend_counting(
        &self,
        mut claim: Claim,
        if_free: IfFree,
    ) -> Result<Extended, NodeFault> {
        let name = claim.name.clone();
        let before = self.inner.inspect(&name).await?;
        let is_own = before.holder.as_ref().is_some_and(|holder| holder.token() == claim.token.as_str());
        match (self.defect, claim.fence) {
            (Defect::ExtendLowers, Some(proposal)) if is_own && before.fence > Some(proposal.fence) => {
                self.forget_counter(&name).await?;
            }
            (Defect::RetakeDoesNotRaise, _) if before.holder.is_none() => claim.fence = None,
            _ => {}
        }
        let extended = self.inner.extend(&claim, if_free).await?;
        match (self.defect, &extended, claim.fence) {
            (Defect::ExtendRaisesForOthers, Extended::HeldByAnother(_), Some(proposal)) => {
                self.raise_counter(&name, proposal.fence).await?;
            }
            (Defect::ExtendRaisesForNobody, Extended::NotHeld, Some(_)) => {
                self.inner.extend(&claim, IfFree::Retake).await?;
                self.inner.release(&name, &claim.token, Succession::Barging).await?;
            }
            (_, Extended::Extended(Some(fence)), _) => {
                self.raise_namesakes(&name, *fence).await?;
                return Ok(Extended::Extended(Some(self.misreport_fence(&name, *fence))));
            }
            _ => {}
        }
        Ok(extended)
    }

    /// What a request for places does to the counter before it is answered.
    pub(super) async fn miscount_before_entering(
        &self,
        places: &[Place],
        look: &Look,
    ) -> Result<(), NodeFault> {
        let name = &places[0].claim.name;
        let asks = |place: &Place| place.claim.fence.is_some();
        let holds = |place: &Place| {
            look.holder.as_ref().is_some_and(|holder| holder.token() == place.claim.token.as_str())
        };
        let is_again = places.iter().any(|place| asks(place) && holds(place));
        let is_queued = look.holder.is_some() && places.iter().any(|place| asks(place) && !holds(place));
        match self.defect {
            Defect::EnterCountsForTheHolderAgain if is_again => self.count_once_more(name).await,
            Defect::QueueingCounts if is_queued => self.count_once_more(name).await,
            _ => Ok(()),
        }
    }

    /// What a release does to the counter before it is answered.
    pub(super) async fn miscount_before_release(
        &self,
        name: &LockName,
        look: &Look,
        skipped: impl Iterator<Item = Proposal>,
        succession: Succession,
    ) -> Result<(), NodeFault> {
        match self.defect {
            Defect::ReleaseForgetsTheCounter if look.waiting == 0 => self.forget_counter(name).await,
            Defect::HandOverForgetsTheCounter if look.waiting > 0 => self.forget_counter(name).await,
            Defect::BargingCounts if succession == Succession::Barging && look.waiting > 0 => {
                self.count_once_more(name).await
            }
            Defect::TheSkippedCount => {
                for proposal in skipped {
                    self.raise_counter(name, proposal.fence).await?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The answer to those who entered, as the node gives it.
    pub(super) fn misreport_fences(&self, places: &[Place], entered: &mut Entered) {
        for (place, placed) in places.iter().zip(&mut entered.places) {
            match placed {
                Placed::Granted(Some(fence)) => *fence = self.misreport_fence(&place.claim.name, *fence),
                Placed::Granted(fence @ None)
                    if self.defect == Defect::HandsTheLastFenceOn && place.claim.fence.is_some() =>
                {
                    *fence = Some(Fence::MAX);
                }
                _ => {}
            }
        }
    }

    pub(super) fn misreport_fence(&self, name: &LockName, fence: Fence) -> Fence {
        self.notes.fences.misreport(self.defect, name, fence)
    }

    async fn count_once_more(&self, name: &LockName) -> Result<(), NodeFault> {
        if let Some(fence) = self.inner.inspect(name).await?.fence {
            self.raise_counter(name, following(fence)).await?;
        }
        Ok(())
    }

    /// Raises the counter of a lock that somebody has.
    async fn raise_counter(&self, name: &LockName, fence: Fence) -> Result<Option<Fence>, NodeFault> {
        self.extend_for_the_holder(name, Proposal::new(fence, RETENTION)).await?;
        Ok(self.inner.inspect(name).await?.fence)
    }

    /// Forgets the counter of a lock that somebody has.
    async fn forget_counter(&self, name: &LockName) -> Result<(), NodeFault> {
        self.extend_for_the_holder(name, Proposal::new(Fence::MIN, Duration::ZERO)).await
    }

    async fn extend_for_the_holder(&self, name: &LockName, proposal: Proposal) -> Result<(), NodeFault> {
        let Some(holder) = self.inner.inspect(name).await?.holder else { return Ok(()) };
        if let Ok(expiry) = Expiry::new(time_left(&holder)) {
            let claim = Claim::new(name.clone(), token_of(&holder), expiry).fenced(proposal);
            self.inner.extend(&claim, IfFree::Leave).await?;
        }
        Ok(())
    }

    /// Raises the counters of all that are named alike but for braces.
    async fn raise_namesakes(&self, name: &LockName, fence: Fence) -> Result<(), NodeFault> {
        if self.defect != Defect::CountsNamesakesTogether {
            return Ok(());
        }
        let namesakes = {
            let mut namesakes = self.notes.fences.namesakes.lock().unwrap();
            let namesakes = namesakes.entry(name.as_str().replace(['{', '}'], "")).or_default();
            namesakes.insert(name.clone());
            namesakes.clone()
        };
        for namesake in namesakes.iter().filter(|namesake| *namesake != name) {
            self.raise_counter(namesake, fence).await?;
        }
        Ok(())
    }
}

/// What a proposal is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Acquire,
    Extend,
    Enter,
}

pub(super) fn following(fence: Fence) -> Fence {
    number_or_highest(fence.as_u64() + 1)
}

pub(super) fn preceding(fence: Fence) -> Fence {
    number_or_highest(fence.as_u64() - 1)
}

fn number_or_highest(number: u64) -> Fence {
    Fence::new(number).unwrap_or(if number == 0 { Fence::MIN } else { Fence::MAX })
}

const RETENTION: Duration = Duration::from_secs(60);
