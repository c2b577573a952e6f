//! A lock by name, and the ways to take it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument;

use crate::attempt::attempt;
use crate::error::{Error, ErrorKind, NodeError};
use crate::events;
use crate::fenced::FencedMutex;
use crate::guard::Guard;
use crate::lease::Lease;
use crate::leases::{Core, LeaseSet};
use crate::options::{AttemptConfig, LockOptions, Patience, Settings, Waiting, option_methods};
use crate::protocol::{Instant, InvalidOption, LockName, OwnerLabel, RetryDelay};
use crate::waiting::wait_in_queue;

/// A lock by name, with its options: what [`Redsync::mutex`](crate::Redsync::mutex) gives. Nothing is asked of any
/// node until it is taken.
///
/// A `Mutex` holds nothing itself; every acquisition returns a [`Guard`] of its own. It is cheap to clone and may be
/// shared by tasks. Go's redsync: `Mutex` before it is locked.
#[derive(Clone, Debug)]
pub struct Mutex {
    pub(crate) core: Arc<Core>,
    pub(crate) process: OwnerLabel,
    name: String,
    pub(crate) options: LockOptions,
    is_fenced: bool,
}

option_methods!(Mutex, options);

impl Mutex {
    pub(crate) fn new(core: Arc<Core>, process: OwnerLabel, name: String) -> Self {
        Self { core, process, name, options: LockOptions::new(), is_fenced: false }
    }

    /// The lock's name, as given. Go's redsync: `Mutex.Name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same lock with `options` in place of those it had.
    #[must_use]
    pub fn with(mut self, options: LockOptions) -> Self {
        self.options = options;
        self
    }

    /// The same lock with a [`Fence`](crate::Fence) for each holder, by which a resource can refuse what one that was paused
    /// writes too late.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// let redsync = redsync::Redsync::connect(["memory:"]).await?;
    /// let first = redsync.mutex("orders:42").fenced().lock().await?;
    /// let fence = first.fence();
    /// first.unlock().await?;
    /// let second = redsync.mutex("orders:42").fenced().lock().await?;
    /// assert!(fence < second.fence());
    /// # second.unlock().await?;
    /// # Ok::<(), redsync::Error>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fenced(self) -> FencedMutex {
        FencedMutex::new(Self { is_fenced: true, ..self })
    }

    /// Takes the lock. If others have it, waits in the queue: whoever came first gets it next, from the release itself. As long
    /// as it takes, unless [`wait_up_to`](Mutex::wait_up_to) is set. Go's redsync: `Mutex.Lock`, which polls; as this does
    /// with [`tries`](Mutex::tries) or [`retry_delay`](Mutex::retry_delay).
    ///
    /// All nodes order their lines by when the callers came, by their own clocks as far as those can be believed: callers
    /// on different machines that come within milliseconds of each other may be served in either order.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// let redsync = redsync::Redsync::connect(["memory:"]).await?;
    /// let guard = redsync.mutex("orders:42").lock().await?;
    /// // … what must not be done twice …
    /// guard.unlock().await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NoQuorum`] when no quorum of nodes could be reached for longer than the expiry, or answered at all before
    /// [`wait_up_to`](Mutex::wait_up_to) was over, or at once where waiting does not help, as with a wrong password (see
    /// [`Error::remedy`]); [`Error::Taken`] when the wait or the tries were over otherwise, also where the lock was granted so
    /// late that the nodes had no time left to agree on a fence; [`Error::ValidityExhausted`] when nodes are so slow that
    /// nothing is left of the expiry each time; [`Error::InvalidOption`] before anything is asked.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any point. The place in the queue is left, and what may have been granted by then is passed on or
    /// released, in the background.
    pub async fn lock(&self) -> Result<Guard, Error> {
        let settings = self.settings()?;
        let began = self.core.enter()?;
        let mut acquiring = Acquiring::begin(&self.core, &settings.name, began);
        let span = tracing::debug_span!("lock", lock = %settings.name);
        let locked = self.lock_as(&settings, &mut acquiring).instrument(span).await;
        acquiring.end(locked)
    }

    async fn lock_as(&self, settings: &Settings, acquiring: &mut Acquiring) -> Result<Guard, Error> {
        let end = match settings.patience {
            Patience::UpTo(duration) => Some(acquiring.began + duration),
            Patience::Tries(_) | Patience::Unbounded => None,
        };
        let locked = match &settings.waiting {
            Waiting::QueueEntry => {
                wait_in_queue(&self.core, settings, acquiring.began, end, &mut acquiring.tries).await
            }
            Waiting::Polling(delay) => self.poll(settings, delay, end, acquiring).await,
        };
        match end {
            Some(_) => locked.map_err(|error| self.at_the_limit(settings, error)),
            None => locked,
        }
    }

    /// What the end of a wait with a limit is called. A node that answered before has not failed where the limit left it less
    /// time for its last answer than nodes take: without such nodes, a missed quorum may be a lock that others had for too long.
    fn at_the_limit(&self, settings: &Settings, error: Error) -> Error {
        let Error::NoQuorum { name: Some(name), operation, total, nodes } = error else { return error };
        let timeout = settings.request_timeout().as_duration();
        let is_cut_short = |error: &NodeError| match error {
            NodeError::Timeout { node, after } if *after < timeout => {
                let index = self.core.nodes.iter().position(|other| other.to_string() == *node);
                index.is_some_and(|index| self.core.waiters.tickets.may_yet_answer(index, *after))
            }
            _ => false,
        };
        let nodes: Vec<NodeError> = nodes.into_iter().filter(|error| !is_cut_short(error)).collect();
        let failed = nodes.iter().filter(|error| !error.is_answer()).count();
        match total - failed > total / 2 {
            true => Error::Taken { name, operation, nodes },
            false => Error::NoQuorum { name: Some(name), operation, total, nodes },
        }
    }

    /// Tries again and again. Go's redsync.
    async fn poll(
        &self,
        settings: &Settings,
        delay: &RetryDelay,
        end: Option<Instant>,
        acquiring: &mut Acquiring,
    ) -> Result<Guard, Error> {
        // Since when no quorum of nodes could be reached, and what a person should be told in the end.
        let mut unreachable_since: Option<Instant> = None;
        let mut verdict: Option<Error> = None;
        let (mut tries, mut waits) = (0_u32, 0_u32);
        loop {
            tries = tries.saturating_add(1);
            acquiring.tries = acquiring.tries.saturating_add(1);
            let begun = self.core.clock.now();
            let at_most = end.map_or(Duration::MAX, |end| end.saturating_since(begun));
            let error =
                match attempt(&self.core, self.config(settings)?, at_most, settings.shuffle_nodes).await {
                    Ok(guard) => return Ok(guard),
                    Err(error) => error,
                };
            let now = self.core.clock.now();
            let is_over = end.is_some_and(|end| now >= end);
            if error.remedy().is_some() {
                // No further try can end differently.
                return Err(error);
            }
            let wait = error.wait_for_restarted();
            if let Some(wait) = wait {
                // It will pass: this is no try, and nobody is out of reach. It is told once.
                if !acquiring.has_told {
                    events::waits_for_restarted(&settings.name, wait, &error);
                    acquiring.has_told = true;
                }
                tries -= 1;
                waits = waits.saturating_add(1);
                unreachable_since = None;
                verdict = Some(error);
            } else if matches!(error.kind(), ErrorKind::NoQuorum | ErrorKind::ValidityExhausted) {
                let since = *unreachable_since.get_or_insert(begun);
                let is_bound_by_tries = matches!(settings.patience, Patience::Tries(_));
                if !is_bound_by_tries && now.saturating_since(since) > settings.expiry() {
                    return Err(error);
                }
                // A try that the deadline cut short has no verdict of its own; an earlier one tells more.
                if !(is_over && verdict.is_some()) {
                    verdict = Some(error);
                }
            } else if error.kind() == ErrorKind::ShutDown {
                return Err(error);
            } else {
                unreachable_since = None;
                verdict = Some(error);
            }
            let is_last = match settings.patience {
                // One try means: do not wait.
                Patience::Tries(1) => true,
                Patience::Tries(most) => tries >= most || waits >= most,
                Patience::UpTo(_) => is_over,
                Patience::Unbounded => false,
            };
            if is_last && let Some(error) = verdict {
                return Err(error);
            }
            let pause_end = now + wait.unwrap_or_default() + delay.after(tries.max(1), rand::random());
            match end {
                // No new try is begun at the very end; it could not be answered.
                Some(end) if pause_end >= end => {
                    self.core.clock.sleep_until(end).await;
                    if let Some(error) = verdict {
                        return Err(error);
                    }
                }
                _ => self.core.clock.sleep_until(pause_end).await,
            }
        }
    }

    /// Takes the lock if it is free: one try, no waiting. `None` means that others have it. Go's redsync:
    /// `Mutex.TryLock`.
    ///
    /// # Errors
    ///
    /// [`Error::NoQuorum`], [`Error::ValidityExhausted`] or [`Error::InvalidOption`].
    ///
    /// # Cancel safety
    ///
    /// As [`lock`](Mutex::lock).
    pub async fn try_lock(&self) -> Result<Option<Guard>, Error> {
        let settings = self.settings()?;
        let mut acquiring = Acquiring::begin(&self.core, &settings.name, self.core.clock.now());
        acquiring.tries = 1;
        let span = tracing::debug_span!("lock", lock = %settings.name);
        let attempt = attempt(&self.core, self.config(&settings)?, Duration::MAX, settings.shuffle_nodes);
        match acquiring.end(attempt.instrument(span).await) {
            Ok(guard) => Ok(Some(guard)),
            Err(Error::Taken { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`lock`](Mutex::lock), until `cancel` completes. Go's redsync: `Mutex.LockContext`.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// use redsync::{ErrorKind, Redsync};
    ///
    /// let redsync = Redsync::connect(["memory:"]).await?;
    /// let held = redsync.mutex("report").lock().await?;
    /// let cancel = tokio::time::sleep(std::time::Duration::from_millis(20));
    /// let error = redsync.mutex("report").lock_unless(cancel).await.unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Cancelled);
    /// # held.unlock().await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`lock`](Mutex::lock), and [`Error::Cancelled`] when `cancel` came first.
    ///
    /// # Cancel safety
    ///
    /// As [`lock`](Mutex::lock).
    pub async fn lock_unless(&self, cancel: impl Future<Output = ()> + Send) -> Result<Guard, Error> {
        tokio::select! {
            biased;
            () = cancel => Err(Error::Cancelled { name: self.settings()?.name }),
            locked = self.lock() => locked,
        }
    }

    /// Takes over a lock that is already held: by another process that handed its [`Lease`] on, or by another
    /// library, whose token is the key's value. Go's redsync: `WithValue`.
    ///
    /// The nodes verify it: the lease is extended, by this mutex's expiry, and the guard is valid if a majority still
    /// held it for this token.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExpired`], [`Error::Taken`] or [`Error::NoQuorum`], as [`Guard::extend`];
    /// [`Error::InvalidOption`] when the lease is of another lock.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any point. The lock is not released by that; it expires unless it is adopted again.
    pub async fn adopt(&self, lease: &Lease) -> Result<Guard, Error> {
        let settings = self.settings()?;
        if settings.name != *lease.name() {
            let reason = format!("it is of lock {:?}, not {:?}", lease.name(), settings.name);
            return Err(InvalidOption::new("lease", reason).into());
        }
        if self.core.keeper.is_shut() {
            return Err(Error::ShutDown);
        }
        let config = settings.config_for(lease.token().clone(), lease.fence());
        let leases = LeaseSet::new(Arc::clone(&self.core), config);
        let adopted = leases.adopt(lease.pending_expiry(), lease.fence()).await;
        events::adopted(lease.name(), || leases.remaining(), adopted.as_ref());
        adopted?;
        let guard = Guard::new(Arc::clone(&leases)).announced();
        leases.begin_keeping();
        if self.core.keeper.is_shut() {
            // It was shut down meanwhile. The lock stays its former holder's.
            guard.into_lease();
            return Err(Error::ShutDown);
        }
        Ok(guard)
    }

    /// Releases a lock by its lease, without adopting it first.
    ///
    /// # Errors
    ///
    /// As [`Guard::unlock`], and [`Error::InvalidOption`] when the lease is of another lock.
    ///
    /// # Cancel safety
    ///
    /// Dropped midway, some nodes may have released and others not.
    pub async fn release(&self, lease: &Lease) -> Result<(), Error> {
        let settings = self.settings()?;
        if settings.name != *lease.name() {
            let reason = format!("it is of lock {:?}, not {:?}", lease.name(), settings.name);
            return Err(InvalidOption::new("lease", reason).into());
        }
        let leases = LeaseSet::new(Arc::clone(&self.core), settings.config_for(lease.token().clone(), None));
        leases.presume(lease.pending_expiry());
        let released = leases.release().await;
        events::released(lease.name(), released.as_ref());
        released
    }

    pub(crate) fn settings(&self) -> Result<Settings, Error> {
        let by_default = (self.core.restart_guard, self.core.confirm_grants);
        let settings = self.options.checked(&self.name, &self.process, by_default)?;
        Ok(settings.fenced(self.is_fenced))
    }

    fn config(&self, settings: &Settings) -> Result<AttemptConfig, Error> {
        let wall_micros = self.core.clock.wall_micros();
        settings
            .config(wall_micros, || self.core.waiters.tickets.draw(&self.core.clock, self.core.clock.now()))
    }
}

/// A lock being asked for. Dropped before its end, it was cancelled.
struct Acquiring {
    core: Arc<Core>,
    name: LockName,
    began: Instant,
    tries: u32,
    /// Somebody has been told why it takes so long.
    has_told: bool,
    is_over: bool,
}

impl Acquiring {
    fn begin(core: &Arc<Core>, name: &LockName, began: Instant) -> Self {
        Self { core: Arc::clone(core), name: name.clone(), began, tries: 0, has_told: false, is_over: false }
    }

    fn end(mut self, locked: Result<Guard, Error>) -> Result<Guard, Error> {
        self.is_over = true;
        match &locked {
            Ok(guard) => events::acquired(&self.name, self.tries, || self.waited(), || guard.remaining()),
            Err(error) => events::not_acquired(&self.name, self.tries, self.waited(), error),
        }
        locked.map(Guard::announced)
    }

    fn waited(&self) -> Duration {
        self.core.clock.now().saturating_since(self.began)
    }
}

impl Drop for Acquiring {
    fn drop(&mut self) {
        if !self.is_over {
            events::cancelled(&self.name, self.tries, self.waited());
        }
    }
}
