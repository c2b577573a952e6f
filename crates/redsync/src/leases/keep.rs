//! Renewal and loss of one guard, as the keeper sees to them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;

use super::{LeaseSet, Standing};
use crate::error::{Error, NodeError, Operation};
use crate::events;
use crate::lost::Lost;
use crate::protocol::{Expiry, Instant};
use crate::service::{Deadline, Keeper};

/// What the keeper knows of one guard.
#[derive(Debug)]
pub(crate) struct Keep {
    /// Its place among the deadlines, while it is kept.
    pub(crate) place: Option<Deadline>,
    /// When it is to be renewed, if it is.
    renew_at: Option<Instant>,
    /// The renewal that is under way, and when it should be over.
    renewing: Option<(u32, Instant)>,
    renewals: u32,
    /// The last renewal failed.
    is_failing: bool,
    /// What the leases are extended by: what was asked for last.
    expiry: Expiry,
    /// When it was acquired.
    since: Instant,
    /// Why the last extension failed, if it did.
    failure: Option<Arc<Error>>,
}

impl Keep {
    pub(super) const fn new(expiry: Expiry) -> Self {
        let since = Instant::from_nanos(0);
        Self {
            place: None,
            renew_at: None,
            renewing: None,
            renewals: 0,
            is_failing: false,
            expiry,
            since,
            failure: None,
        }
    }
}

/// What has come due for a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Renewal,
    Loss,
}

impl LeaseSet {
    /// Has the guard kept from here on: it was acquired.
    pub(crate) fn begin_keeping(self: &Arc<Self>) {
        let now = self.core.clock.now();
        {
            let mut keep = self.keep();
            keep.since = now;
            self.plan(&mut keep, now);
        }
        self.core.keeper.enter(self);
        self.core.attend(now);
    }

    /// Ends what [`begin_keeping`](Self::begin_keeping) began: the guard is given back, or handed on.
    pub(crate) fn end_keeping(self: &Arc<Self>) {
        let was_kept = self.core.keeper.leave(self);
        self.signals.wake();
        if !was_kept {
            return;
        }
        if self.standing() != Standing::Lost {
            events::held(|| self.held_for());
            return;
        }
        // Its time was over before, and nobody has told yet. Not here, where a hook might meet its caller's locks.
        let untold = Untold::of(Arc::clone(self));
        match self.core.tasks.runtime() {
            Some(runtime) => drop(runtime.spawn(async move { drop(untold) })),
            None => drop(untold),
        }
    }

    /// How long the guard has been held.
    fn held_for(&self) -> Duration {
        self.core.clock.now().saturating_since(self.keep().since)
    }

    /// What is due at `now`, or `soon` after where it may be early. A renewal that is due is begun by the caller.
    pub(crate) fn due(&self, keep: &mut Keep, now: Instant, soon: Duration, is_shut: bool) -> Due {
        // SAFETY RULE (protocol §8): a loss is what the clock says, never what a request comes to.
        let Some(left) =
            self.valid_until().map(|end| end.saturating_since(now)).filter(|left| !left.is_zero())
        else {
            return Due::Loss;
        };
        // A guard of a few milliseconds is not renewed again and again.
        let soon = soon.min(left / 16);
        let is_due = match keep.renewing {
            // One that stands still with its runtime does not keep others from renewing.
            Some((_, until)) => until <= now,
            None => keep.renew_at.is_some_and(|at| at <= now + soon),
        };
        if is_due {
            keep.renew_at = None;
            keep.renewing = None;
        }
        if !is_due || is_shut {
            return Due::Nothing;
        }
        keep.renewals = keep.renewals.wrapping_add(1);
        let at_most = self.config.request_timeout.as_duration() * 2 + Keeper::OVERDUE;
        keep.renewing = Some((keep.renewals, now + at_most));
        Due::Renewal
    }

    /// When something comes due next.
    pub(crate) fn next_deadline(&self, keep: &Keep) -> Instant {
        let end = self.valid_until().unwrap_or_default();
        let next = keep.renewing.map(|(_, until)| until).or(keep.renew_at);
        next.map_or(end, |next| next.min(end))
    }

    /// When somebody who waits for the loss should look whether the keeper does: at the loss, or when the keeper should
    /// have done something, and a moment more.
    pub(crate) fn next_look(&self, now: Instant) -> Instant {
        let end = self.valid_until().unwrap_or_default();
        let place = self.keep().place;
        place.map_or(end, |place| (place.at().max(now) + Keeper::OVERDUE).min(end))
    }

    /// Plans anew after an extension by hand: renewals ask for what it asked for.
    pub(super) fn replan(self: &Arc<Self>, expiry: Expiry) {
        let now = self.core.clock.now();
        {
            let mut keep = self.keep();
            keep.expiry = expiry;
            if keep.renewing.is_none() {
                self.plan(&mut keep, now);
            }
        }
        self.core.keeper.look_again(self);
        // The end may have come nearer; who waits for it has to look at it again.
        self.signals.wake();
    }

    /// Has everybody look at the guard again whose end has come nearer: a node denied its lease.
    pub(super) fn end_comes_nearer(self: &Arc<Self>, denial: &NodeError) {
        if self.standing() == Standing::Lost {
            let (name, operation, nodes) = (self.name(), Operation::Extend, vec![denial.clone()]);
            self.note(&Err(match denial {
                NodeError::Taken { .. } => Error::Taken { name, operation, nodes },
                _ => Error::AlreadyExpired { name, operation, nodes },
            }));
        }
        self.core.keeper.look_again(self);
        self.signals.wake();
    }

    /// Takes down what an extension failed with, or that it did not, for whoever asks why the guard was lost.
    pub(super) fn note(&self, result: &Result<(), Error>) {
        let failure = result.as_ref().err().cloned().map(Arc::new);
        let former = std::mem::replace(&mut self.keep().failure, failure);
        drop(former);
    }

    /// What the guard's leases are extended by.
    pub(crate) fn expiry(&self) -> Expiry {
        self.keep().expiry
    }

    /// Tells of the guard's end, after who waits for it was woken. Called once.
    fn tell_end(&self) {
        let told = catch_unwind(AssertUnwindSafe(|| match self.standing() {
            Standing::Lost => {
                let lost = self.lost();
                events::lost(&lost, self.held_for());
                if let Some(hook) = &self.config.on_lost {
                    hook.call(&lost);
                }
            }
            // It was given back in time, at the last moment.
            Standing::Held | Standing::Released => events::held(|| self.held_for()),
        }));
        // A listener of the program's that panics has told what there is to tell.
        drop(told);
    }

    /// The loss in words, with what the last extension failed with.
    pub(crate) fn lost(&self) -> Lost {
        let cause = self.keep().failure.clone();
        Lost::new(self.name(), self.standing() == Standing::Released, cause)
    }

    pub(crate) fn keep(&self) -> MutexGuard<'_, Keep> {
        self.keep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans the next renewal: when a third of what is left has passed, and a little earlier at random, so that guards that
    /// were acquired together are not all renewed together.
    fn plan(&self, keep: &mut Keep, now: Instant) {
        let left = self.valid_until().map_or(Duration::ZERO, |end| end.saturating_since(now));
        let share = rand::rng().random_range(0.9..=1.0);
        let pause = (left / 3).mul_f64(share).max(Duration::from_millis(1));
        let at = now + pause;
        let is_renewed = self.config.renew && self.capped_expiry(keep, at).is_some();
        keep.renew_at = is_renewed.then_some(at);
    }

    /// What a renewal at `now` may ask for, so that the guard is not held for longer than it may; nothing where that would
    /// not prolong it.
    fn capped_expiry(&self, keep: &Keep, now: Instant) -> Option<Expiry> {
        let Some(max_hold) = self.config.max_hold else { return Some(keep.expiry) };
        let left = (keep.since + max_hold).saturating_since(now);
        if left >= keep.expiry.as_duration() {
            return Some(keep.expiry);
        }
        let expiry = Expiry::new(left).ok()?;
        let end = now + self.config.retimed(expiry).ok()?.trusted();
        // The allowance for drift shrinks with the expiry; that alone is not worth a request.
        let is_gain = end > self.valid_until()? + self.config.drift.as_duration() * 2;
        is_gain.then_some(expiry)
    }
}

/// A renewal that is due. Dropped before its end, with its runtime, it leaves a guard that another can go on with.
pub(crate) struct Renewal {
    leases: Arc<LeaseSet>,
    number: u32,
    result: Option<Result<(), Error>>,
}

impl Renewal {
    pub(crate) fn of(leases: &Arc<LeaseSet>) -> Self {
        Self { leases: Arc::clone(leases), number: leases.keep().renewals, result: None }
    }

    /// Extends the leases. Whatever comes of it, nothing is released, and it is tried again as long as the guard is valid.
    pub(crate) async fn run(mut self) {
        let leases = Arc::clone(&self.leases);
        // SAFETY RULE (protocol §8): extending cannot revive what is over, and would keep others out for nothing.
        if !leases.is_valid() {
            return;
        }
        let expiry = leases.capped_expiry(&leases.keep(), leases.core.clock.now());
        // Retimed leases are of an expiry that was checked; a cap may leave too little of it to be one.
        if let Some(expiry) = expiry
            && let Ok(config) = leases.config.retimed(expiry)
        {
            self.result = Some(leases.extend_on(config).await);
        }
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        let leases = &self.leases;
        let now = leases.core.clock.now();
        let (standing, left) = (leases.standing(), leases.remaining());
        let result = self.result.take();
        let (was_failing, is_failing) = {
            let mut keep = leases.keep();
            if keep.renewing.is_none_or(|(number, _)| number != self.number) {
                // It stood still for so long that another has taken its place.
                return;
            }
            keep.renewing = None;
            let was_failing = keep.is_failing;
            match &result {
                Some(Err(_)) => {
                    keep.is_failing = true;
                    let share = rand::rng().random_range(0.5..=1.0);
                    let pause = (left / 8).clamp(RETRY_LEAST, RETRY_MOST).mul_f64(share);
                    keep.renew_at = Some(now + pause);
                }
                Some(Ok(())) => {
                    keep.is_failing = false;
                    leases.plan(&mut keep, now);
                }
                // There was nothing to ask for, or the runtime ended midway.
                None => leases.plan(&mut keep, now),
            }
            (was_failing, keep.is_failing)
        };
        leases.core.keeper.look_again(leases);
        // A guard that was given back meanwhile, or lost, has its own words.
        if standing == Standing::Held {
            let name = &leases.config.claim.name;
            match &result {
                Some(Ok(())) => events::renewed(name, left, was_failing),
                Some(Err(error)) => events::not_renewed(name, left, error, is_failing && !was_failing),
                None => {}
            }
        }
    }
}

/// A guard's end that nobody has told of. Told when it is dropped, wherever that is.
pub(crate) struct Untold(Arc<LeaseSet>);

impl Untold {
    pub(crate) const fn of(leases: Arc<LeaseSet>) -> Self {
        Self(leases)
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        self.0.tell_end();
    }
}

/// After a renewal that failed, until the next: an eighth of what is left, within these, less up to a half at random.
const RETRY_LEAST: Duration = Duration::from_millis(20);
const RETRY_MOST: Duration = Duration::from_secs(1);
