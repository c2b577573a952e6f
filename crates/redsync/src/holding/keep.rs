//! Renewal and loss of one guard, as the keeper sees to them.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;

use super::{Holding, Standing};
use crate::error::{Error, ErrorKind};
use crate::lost::Lost;
use crate::protocol::{Expiry, Instant};
use crate::service::Deadline;
use crate::telling;

/// What the keeper knows of one guard.
#[derive(Debug)]
pub(crate) struct Keep {
    /// Its place among the deadlines, while it is kept.
    pub(crate) place: Option<Deadline>,
    /// When it is to be renewed, if it is.
    renew_at: Option<Instant>,
    is_renewing: bool,
    /// What the leases are extended by: what was asked for last.
    expiry: Expiry,
    /// When it was acquired.
    since: Instant,
    /// Why the last renewal failed, if it did.
    failure: Option<Arc<Error>>,
}

impl Keep {
    pub(super) const fn new(expiry: Expiry) -> Self {
        let since = Instant::from_nanos(0);
        Self { place: None, renew_at: None, is_renewing: false, expiry, since, failure: None }
    }
}

/// What has come due for a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Renewal,
    Loss,
}

impl Holding {
    /// Has the guard kept from here on: it was acquired.
    pub(crate) fn begin_keeping(self: &Arc<Self>) {
        let now = self.core.clock.now();
        {
            let mut keep = self.keep();
            keep.since = now;
            self.plan(&mut keep, now);
        }
        self.core.keeper.enter(self);
        self.core.attend();
    }

    /// Ends what [`begin_keeping`](Self::begin_keeping) began: the guard is given back, or handed on.
    pub(crate) fn end_keeping(&self) {
        if self.core.keeper.leave(self) {
            telling::held(self.held_for());
            self.signals.wake();
        }
    }

    /// How long the guard has been held.
    pub(crate) fn held_for(&self) -> Duration {
        self.core.clock.now().saturating_since(self.keep().since)
    }

    /// What is due at `now`, or `soon` after where it may be early. A renewal that is due is begun by the caller.
    pub(crate) fn due(&self, keep: &mut Keep, now: Instant, soon: Duration, is_shut: bool) -> Due {
        // SAFETY RULE (design §9): a loss is what the clock says, never what a request comes to.
        if self.valid_until().is_none_or(|end| end <= now) {
            return Due::Loss;
        }
        match keep.renew_at.filter(|at| *at <= now + soon) {
            Some(_) if is_shut => {
                keep.renew_at = None;
                Due::Nothing
            }
            Some(_) => {
                keep.renew_at = None;
                keep.is_renewing = true;
                Due::Renewal
            }
            None => Due::Nothing,
        }
    }

    /// When something comes due next.
    pub(crate) fn next_deadline(&self, keep: &Keep) -> Instant {
        let end = self.valid_until().unwrap_or_default();
        keep.renew_at.map_or(end, |renewal| renewal.min(end))
    }

    /// Extends the leases, in the background. Whatever comes of it, nothing is released, and it is tried again as long as
    /// the guard is valid.
    pub(crate) async fn renew(self: Arc<Self>) {
        let mut renewing = Renewing { holding: &self, result: None };
        // SAFETY RULE (design §9): extending cannot revive what is over, and would keep others out for nothing.
        if !self.is_valid() {
            return;
        }
        let now = self.core.clock.now();
        let expiry = self.capped_expiry(&self.keep(), now);
        // Retimed leases are of an expiry that was checked; a cap may leave too little of it to be one.
        if let Some(expiry) = expiry
            && let Ok(terms) = self.terms.retimed(expiry)
        {
            renewing.result = Some(self.extend_on(terms).await);
        }
    }

    /// Plans anew after an extension by hand: renewals ask for what it asked for.
    pub(super) fn replan(self: &Arc<Self>, expiry: Expiry, failure: Option<&Error>) {
        let now = self.core.clock.now();
        {
            let mut keep = self.keep();
            keep.expiry = expiry;
            keep.failure = failure.cloned().map(Arc::new);
            if !keep.is_renewing {
                self.plan(&mut keep, now);
            }
        }
        self.core.keeper.look_again(self);
    }

    /// What the guard's leases are extended by.
    pub(crate) fn expiry(&self) -> Expiry {
        self.keep().expiry
    }

    /// Fires the loss: tells whoever wants to know. Called once, by the keeper.
    pub(crate) fn fire_loss(&self) {
        if self.standing() != Standing::Lost {
            return;
        }
        let lost = self.lost();
        telling::lost(&lost, self.held_for());
        // First those who stop working; a hook of the user's may take its time.
        self.signals.wake();
        if let Some(hook) = &self.terms.on_lost {
            hook.call(&lost);
        }
    }

    /// The loss in words, with what the last renewal failed with.
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
        let is_renewed = self.terms.renew && self.capped_expiry(keep, at).is_some();
        keep.renew_at = is_renewed.then_some(at);
    }

    /// What a renewal at `now` may ask for, so that the guard is not held for longer than it may; nothing where that would
    /// not prolong it.
    fn capped_expiry(&self, keep: &Keep, now: Instant) -> Option<Expiry> {
        let Some(max_hold) = self.terms.max_hold else { return Some(keep.expiry) };
        let left = (keep.since + max_hold).saturating_since(now);
        if left >= keep.expiry.as_duration() {
            return Some(keep.expiry);
        }
        let expiry = Expiry::new(left).ok()?;
        let end = now + self.terms.retimed(expiry).ok()?.trusted();
        // The allowance for drift shrinks with the expiry; that alone is not worth a request.
        let is_gain = end > self.valid_until()? + self.terms.drift.as_duration() * 2;
        is_gain.then_some(expiry)
    }

    fn renewed(self: &Arc<Self>, result: Option<Result<(), Error>>) {
        let now = self.core.clock.now();
        let left = self.remaining();
        {
            let mut keep = self.keep();
            keep.is_renewing = false;
            match result {
                Some(Ok(())) => {
                    telling::renewed(&self.terms.claim.name, left, keep.failure.take().is_some());
                    self.plan(&mut keep, now);
                }
                Some(Err(error)) => {
                    let is_first = keep.failure.is_none();
                    telling::not_renewed(&self.terms.claim.name, left, &error, is_first);
                    // "Too late" says nothing that an earlier failure does not say better.
                    if !matches!(error.kind(), ErrorKind::Lost) || is_first {
                        keep.failure = Some(Arc::new(error));
                    }
                    let share = rand::rng().random_range(0.5..=1.0);
                    let pause = (left / 8).clamp(RETRY_LEAST, RETRY_MOST).mul_f64(share);
                    keep.renew_at = Some(now + pause);
                }
                // There was nothing to ask for, or the runtime ended midway.
                None => self.plan(&mut keep, now),
            }
        }
        self.core.keeper.look_again(self);
    }
}

/// A renewal under way. Dropped with its runtime, it leaves a guard that another can go on with.
struct Renewing<'a> {
    holding: &'a Arc<Holding>,
    result: Option<Result<(), Error>>,
}

impl Drop for Renewing<'_> {
    fn drop(&mut self) {
        self.holding.renewed(self.result.take());
    }
}

/// After a renewal that failed, until the next: an eighth of what is left, within these.
const RETRY_LEAST: Duration = Duration::from_millis(10);
const RETRY_MOST: Duration = Duration::from_secs(1);
