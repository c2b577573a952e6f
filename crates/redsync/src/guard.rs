//! A held lock: the live handle, and the lease that can be handed on.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tracing::Instrument;

use crate::error::Error;
use crate::events;
use crate::lease::Lease;
use crate::leases::{LeaseSet, Standing};
use crate::lost::{Lost, LostSignal};
use crate::protocol::{Expiry, Fence, Instant, LockName, Token};

/// The live handle of a held lock: exclusive until [`valid_until`](Guard::valid_until).
///
/// A guard renews itself in the background until it is dropped, unless it was asked
/// [not to](crate::Mutex::renew). When that fails for too long it is **lost**: [`lost`](Guard::lost) completes, on time
/// and by the local clock, whatever the servers do. Loss is final. Every acquisition has a guard of its own, so that tasks
/// that share a [`Mutex`](crate::Mutex) cannot confuse theirs.
///
/// Renewal needs a runtime that runs: one that is only entered for a moment, by `block_on`, renews nothing in between. Use
/// a multi-threaded one there, or `redsync::blocking`.
///
/// **Dropping** a guard releases in the background, never blocking, and works outside a runtime as long as the one in
/// which redsync works is there. [`unlock`](Guard::unlock) is the way that reports; use it where it matters that the
/// next one gets in now.
///
/// **Not for** work that outlives `valid_until`: nothing stops a paused process from waking up and writing late. Have it
/// [`run`](Guard::run) under the guard, or look at [`is_valid`](Guard::is_valid) before each step that must not be done
/// twice.
#[must_use = "a guard that is dropped releases its lock"]
pub struct Guard {
    leases: Arc<LeaseSet>,
    releases_on_drop: bool,
    /// True if an event said that the lock was acquired, and none has said yet how it ended.
    owes_event: bool,
}

impl Guard {
    pub(crate) fn new(leases: Arc<LeaseSet>) -> Self {
        Self { leases, releases_on_drop: true, owes_event: false }
    }

    /// From here on, the guard is its caller's, and its end is an event.
    pub(crate) fn announced(mut self) -> Self {
        self.owes_event = true;
        self
    }

    /// The lock's name. Go's redsync: `Mutex.Name`.
    pub fn name(&self) -> &LockName {
        &self.leases.config.claim.name
    }

    /// This acquisition's token: the value of the key on each node. Go's redsync: `Mutex.Value`.
    pub fn token(&self) -> &Token {
        &self.leases.config.claim.token
    }

    /// The instant up to which the guard is certainly exclusive, on the clock of its
    /// [`Redsync`](crate::Redsync). Go's redsync: `Mutex.Until`.
    pub fn valid_until(&self) -> Instant {
        self.leases.valid_until().unwrap_or_default()
    }

    /// Whether the guard is exclusive now, by this side's clock alone; no node is asked. Once false, always false.
    /// Go's redsync: `Mutex.Valid`.
    pub fn is_valid(&self) -> bool {
        self.leases.is_valid()
    }

    /// How long the guard will stay exclusive if it is not extended; zero when it is no longer.
    pub fn remaining(&self) -> Duration {
        self.leases.remaining()
    }

    /// Completes when the guard is lost, at [`valid_until`](Guard::valid_until) and not when some request fails; and when
    /// it is given back or handed on. It may be cloned, and awaited anywhere.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// let redsync = redsync::Redsync::connect(["memory:"]).await?;
    /// let guard = redsync.mutex("report").lock().await?;
    /// tokio::select! {
    ///     lost = guard.lost() => eprintln!("stopping: {lost}"),
    ///     () = async { /* … work … */ } => guard.unlock().await?,
    /// }
    /// # Ok::<(), redsync::Error>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lost(&self) -> LostSignal {
        LostSignal::new(Arc::clone(&self.leases))
    }

    /// Does `work` as long as the guard is exclusive, and drops it the moment that it is not.
    ///
    /// The clock is looked at before each poll of `work`: after the process or the machine stood still for too long, not
    /// one more queue of it runs. What `work` does between two awaits cannot be interrupted.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// let redsync = redsync::Redsync::connect(["memory:"]).await?;
    /// let guard = redsync.mutex("report").lock().await?;
    /// let report = guard.run(async { "report" }).await?;
    /// # assert_eq!(report, "report");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Lost`] when the guard was lost before `work` had completed, or was so already; `work` is dropped then.
    ///
    /// # Cancel safety
    ///
    /// As `work`, which is dropped too. The guard stays.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, Lost> {
        let mut work = pin!(work);
        let mut lost = pin!(self.lost());
        poll_fn(|context| {
            // SAFETY RULE (protocol §8): the clock first, and the work only after it.
            if let Poll::Ready(lost) = lost.as_mut().poll(context) {
                return Poll::Ready(Err(lost));
            }
            match work.as_mut().poll(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(output) if self.is_valid() => Poll::Ready(Ok(output)),
                // Done, but when its end came the lock's had come already.
                Poll::Ready(_) => Poll::Ready(Err(self.leases.lost())),
            }
        })
        .await
    }

    /// Lets the leases last for the expiry from now on. Go's redsync: `Mutex.Extend`.
    ///
    /// The expiry is that of the mutex, whatever [`extend_by`](Guard::extend_by) asked for meanwhile. A guard that renews
    /// itself needs this only to be sure of more time before something long begins.
    ///
    /// # Errors
    ///
    /// * [`Error::Lost`] when the guard is no longer valid; no node is asked then. A lost lock cannot be revived; take it
    ///   anew.
    /// * [`Error::AlreadyExpired`] when a majority of nodes has lost the lease.
    /// * [`Error::Taken`] when others have it on so many nodes that no majority is left.
    /// * [`Error::NoQuorum`] when too many nodes failed.
    ///
    /// A failed extension releases nothing: the guard stays valid until [`valid_until`](Guard::valid_until), and
    /// extending may be tried again until then.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any point; each node then has the old end or the new one, and the guard believes the old.
    pub async fn extend(&self) -> Result<(), Error> {
        self.leases.extend(self.leases.config.claim.expiry).await
    }

    /// Lets the leases last for `expiry` from now on, shorter or longer than before, and be renewed by that from then on.
    ///
    /// The [restart guard](crate::Mutex::restart_guard) of those who ask for the lock reckons with their own expiry: a lease
    /// that is longer than that is not covered by it on a node that restarts.
    ///
    /// # Errors
    ///
    /// As [`extend`](Guard::extend), and [`Error::InvalidOption`] for an expiry that a lock cannot have.
    ///
    /// # Cancel safety
    ///
    /// As [`extend`](Guard::extend); when `expiry` is shorter, the guard believes the shorter end at once.
    pub async fn extend_by(&self, expiry: Duration) -> Result<(), Error> {
        self.leases.extend(Expiry::new(expiry)?).await
    }

    /// Releases the lock, and says whether it was held until now. Go's redsync: `Mutex.Unlock`.
    ///
    /// Completes as soon as a majority has released; slow nodes finish in the background, and a node that is out of
    /// reach is asked again until its lease would be over anyway. A program that is about to end gives the background
    /// its time with [`Redsync::drain`](crate::Redsync::drain).
    ///
    /// # Errors
    ///
    /// * [`Error::Lost`] when the guard was lost before. That is said at once; what may be left of its leases is released in
    ///   the background.
    /// * [`Error::AlreadyExpired`] when the lease was already over on a majority.
    /// * [`Error::Taken`] when it was, and another has it now on some node. That lease is left as it is.
    /// * [`Error::NoQuorum`] when too many nodes failed: the lock is released when they come back, or expires.
    ///
    /// In each case there is nothing left to do for the caller.
    ///
    /// # Cancel safety
    ///
    /// Dropped at any point, the release goes on in the background.
    pub async fn unlock(mut self) -> Result<(), Error> {
        let result = match self.leases.standing() {
            // What is left of it is released when this guard is dropped.
            Standing::Lost => Err(Error::Lost(self.leases.lost())),
            Standing::Held | Standing::Released => {
                let span = tracing::debug_span!("unlock", lock = %self.name());
                let result = self.leases.release().instrument(span).await;
                // Outside of a runtime nothing was begun; the background does it, as for a guard that is dropped.
                self.releases_on_drop = matches!(result, Err(Error::Runtime { .. }));
                result
            }
        };
        self.owes_event = false;
        events::released(self.name(), result.as_ref());
        result
    }

    /// The guard's lease, to be [adopted](crate::Mutex::adopt) by another process when this one lets go of it with
    /// [`into_lease`](Guard::into_lease).
    pub fn lease(&self) -> Lease {
        let leases = &self.leases;
        Lease::new(&leases.config.claim, leases.expiry(), leases.pending_expiry(), leases.fence())
    }

    /// Lets go of the lock without releasing it: whoever has the lease may adopt, extend and release it. If nobody
    /// does, it expires.
    pub fn into_lease(mut self) -> Lease {
        self.releases_on_drop = false;
        self.leases.hand_on();
        events::handed_on(self.name());
        self.lease()
    }

    /// The fence that was agreed on, if one was asked for.
    pub(crate) fn fence(&self) -> Option<Fence> {
        self.leases.fence()
    }

    #[cfg(feature = "blocking")]
    pub(crate) fn leases(&self) -> Arc<LeaseSet> {
        Arc::clone(&self.leases)
    }

    /// Takes back what a failed attempt was granted, and returns when that is done; or in the time that is left and a moment, which
    /// is what nodes that do not hang need. It then goes on in the background.
    pub(crate) async fn give_back(mut self, at_most: Duration) {
        let clock = Arc::clone(&self.leases.core.clock);
        if at_most == Duration::MAX {
            self.leases.undo().await;
        } else {
            let end = clock.now() + at_most.max(RELEASE_GRACE);
            tokio::select! {
                biased;
                () = self.leases.undo() => {}
                // Dropped, it goes on in the background.
                () = clock.sleep_until(end) => return,
            }
        }
        self.releases_on_drop = false;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        match (self.releases_on_drop, self.owes_event) {
            (true, true) => self.leases.abandon_guard(),
            (true, false) => self.leases.abandon(),
            (false, _) => {}
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("name", self.name())
            .field("token", self.token())
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

/// How long nodes that do not hang may take to give a lease back, though the time to wait is up.
const RELEASE_GRACE: Duration = Duration::from_millis(20);
