//! How a lock is asked for: options that can be kept and used again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::identity::drawn_token;
use crate::lost::OnLost;
use crate::node::{Claim, Succession};
use crate::protocol::{
    Drift, DriftFactor, Expiry, Fence, InvalidOption, LeaseEnds, LockName, OwnerLabel, Proposal, Quarantine,
    RequestTimeout, RetryDelay, Ticket, TimeoutFactor, Token,
};

/// How a lock is asked for. A value to keep and use for many locks: [`Mutex::with`](crate::Mutex::with).
///
/// The same methods are on [`Mutex`](crate::Mutex) itself. Nonsense is refused when the lock is first asked for, with
/// the reason. Go's redsync: `Option`, `OptionFunc`.
///
/// ```
/// use std::time::Duration;
/// use redsync::LockOptions;
///
/// let nightly = LockOptions::new().expiry(Duration::from_secs(60)).wait_up_to(Duration::from_secs(600));
/// # let _ = nightly;
/// ```
#[derive(Clone, Debug, Default)]
pub struct LockOptions {
    pub(crate) expiry: Option<Duration>,
    pub(crate) drift_factor: Option<f64>,
    pub(crate) timeout_factor: Option<f64>,
    pub(crate) patience: Option<Patience>,
    pub(crate) delay: Option<Delay>,
    pub(crate) token_fn: Option<TokenFn>,
    pub(crate) owner: Option<String>,
    pub(crate) wait_for_all: bool,
    pub(crate) shuffle_nodes: bool,
    pub(crate) leaves_lost_leases: bool,
    pub(crate) keeps_by_hand: bool,
    pub(crate) max_hold: Option<Duration>,
    pub(crate) on_lost: Option<OnLost>,
    pub(crate) restart_guard: Option<bool>,
    pub(crate) confirm_grants: Option<bool>,
    pub(crate) succession: Succession,
    pub(crate) fence_retention: Option<Duration>,
}

/// How long `lock` goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    Tries(u32),
    UpTo(Duration),
    Unbounded,
}

/// How `lock` waits.
#[derive(Clone, Debug)]
pub(crate) enum Waiting {
    /// In queue.
    QueueEntry,
    /// By trying again and again, with pauses. Go's redsync.
    Polling(RetryDelay),
}

#[derive(Clone, Debug)]
pub(crate) enum Delay {
    Fixed(Duration),
    Function(RetryDelay),
}

#[derive(Clone)]
pub(crate) struct TokenFn(pub(crate) Arc<dyn Fn() -> String + Send + Sync>);

impl fmt::Debug for TokenFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a function")
    }
}

impl LockOptions {
    /// How long a lease lasts unless set: 8 s.
    pub const DEFAULT_EXPIRY: Duration = Duration::from_secs(8);

    /// What is counted anew begins at the time, which clocks may tell wrongly by a second.
    const LEAST_RETENTION: Duration = Duration::from_secs(10);

    /// How often `lock` tries where it polls, unless set: 32 times.
    pub const DEFAULT_TRIES: u32 = 32;

    /// The options as redsync has them by default.
    pub fn new() -> Self {
        Self::default()
    }

    /// The options with everything checked, for the lock called `name`.
    pub(crate) fn checked(
        &self,
        name: &str,
        process: &OwnerLabel,
        (restart_guard, confirm_grants): (bool, bool),
    ) -> Result<Settings, Error> {
        let name = LockName::new(name)?;
        let expiry = Expiry::new(self.expiry.unwrap_or(Self::DEFAULT_EXPIRY))?;
        let drift_factor = self.drift_factor.map_or(Ok(DriftFactor::default()), DriftFactor::new)?;
        let timeout_factor = self.timeout_factor.map_or(Ok(TimeoutFactor::default()), TimeoutFactor::new)?;
        let is_polling = self.delay.is_some() || matches!(self.patience, Some(Patience::Tries(_)));
        let patience = match is_polling {
            true => Patience::Tries(Self::DEFAULT_TRIES),
            false => Patience::Unbounded,
        };
        let patience = match self.patience.unwrap_or(patience) {
            Patience::Tries(0) => {
                return Err(InvalidOption::new("tries", "it is zero; the least is 1").into());
            }
            Patience::UpTo(Duration::ZERO) => {
                return Err(
                    InvalidOption::new("wait_up_to", "it is zero; use try_lock to not wait at all").into()
                );
            }
            patience => patience,
        };
        let waiting = match &self.delay {
            None if !is_polling => Waiting::QueueEntry,
            None => Waiting::Polling(RetryDelay::default()),
            Some(Delay::Fixed(delay)) => Waiting::Polling(RetryDelay::fixed(*delay)?),
            Some(Delay::Function(delay)) => Waiting::Polling(delay.clone()),
        };
        if let Some(max_hold) = self.max_hold.filter(|max_hold| *max_hold < expiry.as_duration()) {
            let reason = format!(
                "{max_hold:?} is shorter than the expiry, {expiry}; the first lease lasts as long as that"
            );
            return Err(InvalidOption::new("max_hold", reason).into());
        }
        let fence_retention = match self.fence_retention {
            Some(retention) if retention < Self::LEAST_RETENTION.max(expiry.as_duration()) => {
                let reason = format!("{retention:?} is shorter than the expiry, {expiry}, or than 10 s");
                return Err(InvalidOption::new("fence_retention", reason).into());
            }
            Some(retention) => retention,
            None => Proposal::DEFAULT_RETENTION.max(expiry.as_duration()),
        };
        let owner = self.owner.as_ref().map_or_else(|| Ok(process.clone()), OwnerLabel::new)?;
        Ok(Settings {
            name,
            expiry,
            drift_factor,
            timeout_factor,
            drift: Drift::of(expiry, drift_factor)?,
            patience,
            waiting,
            owner,
            token_fn: self.token_fn.clone(),
            wait_for_all: self.wait_for_all,
            shuffle_nodes: self.shuffle_nodes,
            repair_on_extend: !self.leaves_lost_leases,
            renew: !self.keeps_by_hand,
            max_hold: self.max_hold,
            on_lost: self.on_lost.clone(),
            restart_guard: self.restart_guard.unwrap_or(restart_guard),
            confirm_grants: self.confirm_grants.unwrap_or(confirm_grants),
            succession: self.succession,
            fence_retention,
            is_fenced: false,
        })
    }
}

/// [`LockOptions`] with everything checked.
pub(crate) struct Settings {
    pub(crate) name: LockName,
    expiry: Expiry,
    drift_factor: DriftFactor,
    timeout_factor: TimeoutFactor,
    drift: Drift,
    pub(crate) patience: Patience,
    pub(crate) waiting: Waiting,
    owner: OwnerLabel,
    token_fn: Option<TokenFn>,
    wait_for_all: bool,
    pub(crate) shuffle_nodes: bool,
    repair_on_extend: bool,
    renew: bool,
    max_hold: Option<Duration>,
    on_lost: Option<OnLost>,
    restart_guard: bool,
    confirm_grants: bool,
    succession: Succession,
    fence_retention: Duration,
    is_fenced: bool,
}

impl Settings {
    /// The same for a lock with fences.
    pub(crate) fn fenced(self, is_fenced: bool) -> Self {
        Self { is_fenced, ..self }
    }

    /// The terms of one attempt; of one who comes at `ticket`, which is only asked for if need be.
    ///
    /// SAFETY RULE (protocol §3): a token belongs to one attempt; each call draws a new one.
    /// `wall_micros` is the time, for the token to tell.
    pub(crate) fn config(
        &self,
        wall_micros: u64,
        ticket: impl FnOnce() -> Ticket,
    ) -> Result<AttemptConfig, Error> {
        let token = match &self.token_fn {
            None => drawn_token(&self.owner, wall_micros / 1_000, self.renew),
            Some(TokenFn(function)) => Token::from_text(function())?,
        };
        let fence = self.is_fenced.then(|| ticket().into());
        Ok(self.config_for(token, fence))
    }

    /// The terms of a lock that `token` has already, or asks for with `fence`.
    pub(crate) fn config_for(&self, token: Token, fence: Option<Fence>) -> AttemptConfig {
        let mut claim = Claim::new(self.name.clone(), token, self.expiry);
        claim.fence = fence.map(|fence| Proposal::new(fence, self.fence_retention));
        AttemptConfig {
            claim,
            drift_factor: self.drift_factor,
            timeout_factor: self.timeout_factor,
            drift: self.drift,
            request_timeout: self.request_timeout(),
            wait_for_all: self.wait_for_all,
            repair_on_extend: self.repair_on_extend,
            renew: self.renew,
            max_hold: self.max_hold,
            on_lost: self.on_lost.clone(),
            restart_guard: self.restart_guard,
            confirm_grants: self.confirm_grants,
            succession: self.succession,
        }
    }

    pub(crate) fn expiry(&self) -> Duration {
        self.expiry.as_duration()
    }

    pub(crate) fn request_timeout(&self) -> RequestTimeout {
        RequestTimeout::of(self.expiry, self.timeout_factor)
    }
}

/// What one attempt asks for, and the guard that comes of it lives by.
#[derive(Clone, Debug)]
pub(crate) struct AttemptConfig {
    pub(crate) claim: Claim,
    drift_factor: DriftFactor,
    timeout_factor: TimeoutFactor,
    pub(crate) drift: Drift,
    pub(crate) request_timeout: RequestTimeout,
    pub(crate) wait_for_all: bool,
    pub(crate) repair_on_extend: bool,
    pub(crate) renew: bool,
    pub(crate) max_hold: Option<Duration>,
    pub(crate) on_lost: Option<OnLost>,
    pub(crate) restart_guard: bool,
    pub(crate) confirm_grants: bool,
    pub(crate) succession: Succession,
}

impl AttemptConfig {
    /// How long after it was asked for a lease is certain to stand: the expiry less the drift allowance.
    pub(crate) fn trusted(&self) -> Duration {
        LeaseEnds::trusted(self.claim.expiry, self.drift)
    }

    /// For how long a node that restarted may have forgotten leases with this configuration.
    pub(crate) fn quarantine(&self) -> Quarantine {
        Quarantine::of(self.claim.expiry, self.drift)
    }

    /// The same terms for leases of another expiry.
    pub(crate) fn retimed(&self, expiry: Expiry) -> Result<Self, Error> {
        let mut config = self.clone();
        config.claim.expiry = expiry;
        if let Some(proposal) = &mut config.claim.fence {
            proposal.retention = proposal.retention.max(expiry.as_duration());
        }
        config.drift = Drift::of(expiry, self.drift_factor)?;
        config.request_timeout = RequestTimeout::of(expiry, self.timeout_factor);
        Ok(config)
    }
}

/// The options' methods, for the options and for whatever carries them.
macro_rules! option_methods {
    ($carrier:ty, $($options:ident).*) => {
        impl $carrier {
            /// How long a lease lasts unless it is extended: up to 2⁵³ ms, and at least 3 ms, since less than that is
            /// eaten up by the allowance for clock drift. Default 8 s.
            ///
            /// Go's redsync: `WithExpiry`, `SetExpiry`.
            #[must_use]
            pub fn expiry(mut self, expiry: std::time::Duration) -> Self {
                self $(.$options)* .expiry = Some(expiry);
                self
            }

            /// Has `lock` try so often, the first time included, with [pauses](Self::retry_delay) in between, in place of
            /// waiting in the queue: at least 1. Takes the place of `wait_up_to` and `wait_without_limit`.
            ///
            /// That is how Go's redsync waits, and most other libraries: with no place in the queue, whoever happens to try first
            /// gets the lock, and after whoever waits in the queue.
            ///
            /// Go's redsync: `WithTries`, `SetTries`.
            #[must_use]
            pub fn tries(mut self, tries: u32) -> Self {
                self $(.$options)* .patience = Some($crate::options::Patience::Tries(tries));
                self
            }

            /// How long `lock` waits at most. Without it, as long as it takes; or 32 tries, where it polls. Hung nodes do not
            /// prolong it.
            ///
            /// When no quorum of nodes could be reached for longer than the expiry, waiting ends before, with
            /// [`Error::NoQuorum`](crate::Error::NoQuorum). Go: a context with a deadline.
            #[must_use]
            pub fn wait_up_to(mut self, duration: std::time::Duration) -> Self {
                self $(.$options)* .patience = Some($crate::options::Patience::UpTo(duration));
                self
            }

            /// `lock` waits as long as it takes, which is the default where it does not poll. Waiting ends with
            /// [`Error::NoQuorum`](crate::Error::NoQuorum) when no quorum of nodes could be reached for longer than
            /// the expiry.
            #[must_use]
            pub fn wait_without_limit(mut self) -> Self {
                self $(.$options)* .patience = Some($crate::options::Patience::Unbounded);
                self
            }

            /// Has `lock` poll, with this time between one try and the next, up to an hour, in place of waiting in the queue;
            /// 32 times unless [`tries`](Self::tries) or [`wait_up_to`](Self::wait_up_to) says otherwise. Where only `tries`
            /// is set, the time is random, 50 to 250 ms, which keeps callers that collided once from colliding again.
            ///
            /// Go's redsync: `WithRetryDelay`, `SetRetryDelay`.
            #[must_use]
            pub fn retry_delay(mut self, delay: std::time::Duration) -> Self {
                self $(.$options)* .delay = Some($crate::options::Delay::Fixed(delay));
                self
            }

            /// As [`retry_delay`](Self::retry_delay), with a time that is a function of the tries made so far (from 1 on).
            /// What it returns is cut to between 1 ms and an hour.
            ///
            /// Go's redsync: `WithRetryDelayFunc`, `SetRetryDelayFunc`, `DelayFunc`.
            #[must_use]
            pub fn retry_delay_fn(mut self, function: impl Fn(u32) -> std::time::Duration + Send + Sync + 'static) -> Self {
                self $(.$options)* .delay = Some($crate::options::Delay::Function($crate::protocol::RetryDelay::function(function)));
                self
            }

            /// The share of the expiry allowed for clocks of different speeds, in [0, 1). Default 0.01; another
            /// 2 ms are always added.
            ///
            /// Go's redsync: `WithDriftFactor`, `SetDriftFactor`.
            #[must_use]
            pub fn drift_factor(mut self, factor: f64) -> Self {
                self $(.$options)* .drift_factor = Some(factor);
                self
            }

            /// The share of the expiry that one node may take to answer, connecting included, between 0 and 1.
            /// Default 0.05. The time is clamped to 50 ms to 2 s, and never longer than the expiry. On busy machines,
            /// locks of a second or less may want a larger share than the 50 ms that they get.
            ///
            /// Go's redsync: `WithTimeoutFactor`.
            #[must_use]
            pub fn timeout_factor(mut self, factor: f64) -> Self {
                self $(.$options)* .timeout_factor = Some(factor);
                self
            }

            /// Where tokens come from, in place of [`Token::drawn`](crate::Token::drawn). It is called once for each
            /// try and **must never return the same text twice**: two holders of one token are one holder to every
            /// node, and would exclude nobody.
            ///
            /// Go's redsync: `WithGenValueFunc`. For its `WithValue`, see [`Mutex::adopt`](crate::Mutex::adopt).
            #[must_use]
            pub fn token_fn(mut self, function: impl Fn() -> String + Send + Sync + 'static) -> Self {
                self $(.$options)* .token_fn = Some($crate::options::TokenFn(std::sync::Arc::new(function)));
                self
            }

            /// The label that shows people who holds, at the end of each token. Printable, without blanks, up to
            /// 128 bytes. Default `host:pid`.
            #[must_use]
            pub fn owner(mut self, label: impl Into<String>) -> Self {
                self $(.$options)* .owner = Some(label.into());
                self
            }

            /// Whether to decide as soon as the verdict is certain, while slow nodes finish in the background. On by
            /// default: one hung node then never slows a lock down. Off, every node is heard, or its deadline
            /// awaited, so that an error tells what each of them said.
            ///
            /// Go's redsync: `WithFailFast`.
            #[must_use]
            pub fn fail_fast(mut self, fail_fast: bool) -> Self {
                self $(.$options)* .wait_for_all = !fail_fast;
                self
            }

            /// Whether the nodes are asked in a new random order each time. Off by default; since all are asked at
            /// once, it only spreads who is asked first.
            ///
            /// Go's redsync: `WithShufflePools`.
            #[must_use]
            pub fn shuffle_nodes(mut self, shuffle: bool) -> Self {
                self $(.$options)* .shuffle_nodes = shuffle;
                self
            }

            /// Whether a *valid* guard takes its lease again on nodes that lost it (restarted, evicted) or were out of
            /// reach, each time that it was extended or renewed and a majority of nodes confirmed their leases. On by
            /// default: it only adds votes, and a rolling restart of the servers costs no lock. A lock that a majority
            /// has lost is lost, and so is one on a single node that lost it: nobody could say that it was not somebody
            /// else's meanwhile.
            ///
            /// Go's redsync: `WithSetNXOnExtend`.
            #[must_use]
            pub fn repair_on_extend(mut self, repair: bool) -> Self {
                self $(.$options)* .leaves_lost_leases = !repair;
                self
            }

            /// Whether guards renew themselves, in the background, each time that a third of their time has passed. On
            /// by default. Off, a guard lasts for its expiry unless [`Guard::extend`](crate::Guard::extend) is called
            /// in time, as in Go's redsync.
            #[must_use]
            pub fn renew(mut self, renew: bool) -> Self {
                self $(.$options)* .keeps_by_hand = !renew;
                self
            }

            /// How long renewal may keep a lock held, from its acquisition on; then it is lost, and others get in. At
            /// least the expiry. Without it, as long as the guard lives: a task that hangs for ever holds its lock for
            /// ever. Extending by hand is not capped.
            #[must_use]
            pub fn max_hold(mut self, duration: std::time::Duration) -> Self {
                self $(.$options)* .max_hold = Some(duration);
                self
            }

            /// A function to be called when a guard is lost; not when it is released. It is called once, in the
            /// background, right after [`Guard::lost`](crate::Guard::lost) has fired. **It must not block**: the functions of
            /// other guards wait for it, and in a runtime of one thread all else does.
            #[must_use]
            pub fn on_lost(mut self, function: impl Fn(&$crate::lost::Lost) + Send + Sync + 'static) -> Self {
                self $(.$options)* .on_lost = Some($crate::lost::OnLost::new(function));
                self
            }

            /// Whether the lock is let go of when it is released, in place of being handed over to the first in the queue. Off by
            /// default.
            ///
            /// Handed over, a lock is never free as long as somebody waits in the queue, and programs that poll for it, as those do
            /// that use other libraries, may never get it. Where such programs share a busy lock with these, all of these
            /// should set this: the first in the queue is told that the lock is free, and whoever asks first gets it.
            #[must_use]
            pub fn barging(mut self, barging: bool) -> Self {
                self $(.$options)* .succession = match barging {
                    true => $crate::node::Succession::Barging,
                    false => $crate::node::Succession::HandOver,
                };
                self
            }

            /// How long nodes keep the counter of a lock's [fences](crate::Fence) after it was last used, as whoever used it
            /// last has asked for; at least the expiry, and 10 s. Default 30 days, or the expiry where that is longer. Of no meaning for locks without fences.
            ///
            /// A counter that is forgotten begins anew at the time by the node's clock and the caller's, so that fences go
            /// on growing as long as those are right to the second. Each name that is in use costs a node one small key.
            #[must_use]
            pub fn fence_retention(mut self, duration: std::time::Duration) -> Self {
                self $(.$options)* .fence_retention = Some(duration);
                self
            }

            /// Whether the vote of a node that restarted is withheld until it has been up for the expiry and the
            /// allowance for drift: it may have forgotten that another holds the lock. On by default with more than one
            /// node, where a quorum makes the promise that this keeps; off with one.
            ///
            /// All who use a lock should use one expiry for it: it is the longest lease that a node can have forgotten.
            /// Turn it off where servers keep every write through a restart (`appendfsync always`).
            #[must_use]
            pub fn restart_guard(mut self, guard: bool) -> Self {
                self $(.$options)* .restart_guard = Some(guard);
                self
            }

            /// Whether a waiter asks the node before it believes that a release handed the lock to it. Off by default.
            ///
            /// A node announces a hand-over by a message. On a Redis server, other users may be permitted to publish such
            /// messages and to read who waits, though not to take locks. Turn this on where you do not trust them: a forged
            /// message then costs a request, and brings nobody the lock. Each hand-over takes one round trip more.
            ///
            /// Messages with a fence that no clock explains (more than a second ahead of the time) are always confirmed.
            #[must_use]
            pub fn confirm_grants(mut self, confirm: bool) -> Self {
                self $(.$options)* .confirm_grants = Some(confirm);
                self
            }
        }
    };
}

pub(crate) use option_methods;

option_methods!(LockOptions,);
