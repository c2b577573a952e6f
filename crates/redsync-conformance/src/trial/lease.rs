//! A lease that the node granted, and what it must be like from then on.

use std::fmt;
use std::time::{Duration, Instant};

use redsync::{Holder, TimeLeft};
use tokio::time::sleep;

use super::{Breach, Owner, Verdict};

/// A lease that the node granted.
pub(crate) struct Lease {
    owner: Owner,
    lasting: Duration,
    /// Before the request was sent: the node's count began no earlier.
    asked: Instant,
    /// When the answer was there: the node's count began no later.
    answered: Instant,
}

impl Lease {
    pub(super) fn new(owner: Owner, lasting: Duration, asked: Instant) -> Self {
        Self { owner, lasting, asked, answered: Instant::now() }
    }

    /// Who has it.
    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Expects that the node says of this lease who has it and how long it still lasts.
    pub(crate) async fn is_running(&self) -> Verdict {
        let asked = Instant::now();
        match self.owner.lock().inspect().await? {
            Some(holder) if self.is_told_in_full_by(&holder, asked) => Ok(()),
            other => {
                Err(Breach::answered(format!("inspect of {} says Some, {self}", self.owner.lock()), other))
            }
        }
    }

    /// Expects that the lease ends when its time is over, and not before.
    pub(crate) async fn runs_out(&self) -> Verdict {
        self.is_watched_to_its_end().await.map(drop)
    }

    /// The same, and says how closely it could be watched.
    pub(crate) async fn is_watched_to_its_end(&self) -> Result<Watched, Breach> {
        let mut watched = Watched::Loosely;
        loop {
            let asked = Instant::now();
            if self.owner.lock().inspect().await?.is_none() {
                return self.may_have_ended().map(|()| watched);
            }
            if asked.duration_since(self.asked) >= self.lasting * 3 / 4 {
                watched = Watched::Closely;
            }
            self.should_not_have_ended_long_ago()?;
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Expects that `next` is granted when this lease's time is over, and not before.
    pub(crate) async fn is_followed_by(&self, next: &Owner, lasting: Duration) -> Result<Self, Breach> {
        loop {
            let asked = Instant::now();
            if let redsync::Acquired::Granted(_) = next.acquire(lasting).await? {
                self.may_have_ended()?;
                return Ok(Self::new(next.clone(), lasting, asked));
            }
            self.should_not_have_ended_long_ago()?;
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until the lease, left alone, would be over.
    pub(crate) async fn would_be_over(&self) {
        sleep((self.lasting + OVER).saturating_sub(self.answered.elapsed())).await;
    }

    /// The same on a node that counts in whole seconds, where a place in the queue lasts as long as a lease would and its end does
    /// not show.
    pub(crate) async fn would_be_over_by_any_count(&self) {
        let seconds = Duration::from_secs(self.lasting.as_millis().div_ceil(1_000) as u64);
        sleep((seconds + OVER).saturating_sub(self.answered.elapsed())).await;
    }

    /// Whether the lease may have ended on its own by now, at the earliest that the contract allows.
    pub(crate) fn may_be_over(&self) -> bool {
        self.asked.elapsed() >= self.lasting.saturating_sub(self.drift())
    }

    /// Whether `holder`, an answer to a request made at `asked` and answered now, tells of this lease.
    pub(crate) fn is_told_by(&self, holder: &Holder, asked: Instant) -> bool {
        let time_left_fits = match holder.time_left() {
            TimeLeft::For(left) => {
                let least = self.lasting.saturating_sub(self.asked.elapsed());
                let most = self.lasting.saturating_sub(asked.duration_since(self.answered));
                left >= least.min(LIFETIME).saturating_sub(ABOUT) && left <= most.saturating_add(ABOUT)
            }
            TimeLeft::Forever => false,
            TimeLeft::Unknown => true,
        };
        holder.token() == self.owner.token().as_str() && time_left_fits
    }

    /// The same, with the time that is left.
    pub(crate) fn is_told_in_full_by(&self, holder: &Holder, asked: Instant) -> bool {
        holder.time_left() != TimeLeft::Unknown && self.is_told_by(holder, asked)
    }

    fn may_have_ended(&self) -> Verdict {
        if self.may_be_over() {
            return Ok(());
        }
        let expected = format!("a lease for {:?} lasts at least that long", self.lasting);
        Err(Breach::new(expected, format!("free again {:?} after it was asked for", self.asked.elapsed())))
    }

    fn should_not_have_ended_long_ago(&self) -> Verdict {
        if self.answered.elapsed() < self.lasting + LATE {
            return Ok(());
        }
        let expected = format!("a lease for {:?} ends", self.lasting);
        Err(Breach::new(expected, format!("still taken {:?} after it was granted", self.answered.elapsed())))
    }

    /// What two good clocks may differ by.
    fn drift(&self) -> Duration {
        self.lasting / 100 + Duration::from_millis(2)
    }
}

/// How closely a lease could be watched to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// It was seen in the last quarter of its time, so it did not end much too early.
    Closely,
    /// The machine was too slow to tell.
    Loosely,
}

/// The end of a sentence about an answer.
impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.lasting.saturating_sub(self.asked.elapsed());
        write!(f, "token {:?}, time left about {left:?}", self.owner.token())
    }
}

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A lease that is still there so long after its time counts as one that never ends.
const LATE: Duration = Duration::from_secs(5);

/// A lease that ought to go on is looked at so long after its former end.
const OVER: Duration = Duration::from_millis(50);

/// How far off a node may be about the time that is left.
const ABOUT: Duration = Duration::from_secs(2);

/// A lease that lasts longer than any machine need not be told to the year: a node's clock may end before it.
const LIFETIME: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
