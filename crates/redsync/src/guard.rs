//! A held lock: the live handle, and the lease that can be handed on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::holding::Holding;
use crate::lease::Lease;
use crate::protocol::{Expiry, Instant, LockName, Token};

/// The live handle of a held lock: exclusive until [`valid_until`](Guard::valid_until).
///
/// A guard does not extend itself: call [`extend`](Guard::extend) in time. Every acquisition has a guard of its own,
/// so that tasks that share a [`Mutex`](crate::Mutex) cannot confuse theirs.
///
/// **Dropping** a guard releases in the background, never blocking, and works outside a runtime as long as the one in
/// which redsync works is there. [`unlock`](Guard::unlock) is the way that reports; use it where it matters that the
/// next one gets in now.
///
/// **Not for** work that outlives `valid_until`: nothing stops a paused process from waking up and writing late.
/// Look at [`is_valid`](Guard::is_valid) before each step that must not be done twice.
#[must_use = "a guard that is dropped releases its lock"]
pub struct Guard {
    holding: Arc<Holding>,
    releases_on_drop: bool,
}

impl Guard {
    pub(crate) fn new(holding: Arc<Holding>) -> Self {
        Self { holding, releases_on_drop: true }
    }

    /// The lock's name. Go's redsync: `Mutex.Name`.
    pub fn name(&self) -> &LockName {
        &self.holding.terms.claim.name
    }

    /// This acquisition's token: the value of the key on each node. Go's redsync: `Mutex.Value`.
    pub fn token(&self) -> &Token {
        &self.holding.terms.claim.token
    }

    /// The instant up to which the guard is certainly exclusive, on the clock of its
    /// [`Redsync`](crate::Redsync). Go's redsync: `Mutex.Until`.
    pub fn valid_until(&self) -> Instant {
        self.holding.valid_until().unwrap_or_default()
    }

    /// Whether the guard is exclusive now, by this side's clock alone; no node is asked. Once false, always false.
    /// Go's redsync: `Mutex.Valid`.
    pub fn is_valid(&self) -> bool {
        self.holding.is_valid()
    }

    /// How long the guard will stay exclusive if it is not extended; zero when it is no longer.
    pub fn remaining(&self) -> Duration {
        self.holding.remaining()
    }

    /// Lets the leases last for the expiry from now on. Go's redsync: `Mutex.Extend`.
    ///
    /// # Errors
    ///
    /// * [`Error::AlreadyExpired`] when the guard is no longer valid (no node is asked then), or a majority has lost
    ///   the lease. An expired lock cannot be revived; take it anew.
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
        self.holding.extend(self.holding.terms.claim.expiry).await
    }

    /// Lets the leases last for `expiry` from now on, shorter or longer than before.
    ///
    /// # Errors
    ///
    /// As [`extend`](Guard::extend), and [`Error::InvalidOption`] for an expiry that a lock cannot have.
    ///
    /// # Cancel safety
    ///
    /// As [`extend`](Guard::extend); when `expiry` is shorter, the guard believes the shorter end at once.
    pub async fn extend_by(&self, expiry: Duration) -> Result<(), Error> {
        self.holding.extend(Expiry::new(expiry)?).await
    }

    /// Releases the lock, and says whether it was held until now. Go's redsync: `Mutex.Unlock`.
    ///
    /// Completes as soon as a majority has released; slow nodes finish in the background, and a node that is out of
    /// reach is asked again until its lease would be over anyway. A program that is about to end gives the background
    /// its time with [`Redsync::drain`](crate::Redsync::drain).
    ///
    /// # Errors
    ///
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
        let result = self.holding.release().await;
        self.releases_on_drop = false;
        result
    }

    /// The guard's lease, to be [adopted](crate::Mutex::adopt) by another process when this one lets go of it with
    /// [`into_lease`](Guard::into_lease).
    pub fn lease(&self) -> Lease {
        Lease::new(&self.holding.terms.claim)
    }

    /// Lets go of the lock without releasing it: whoever has the lease may adopt, extend and release it. If nobody
    /// does, it expires.
    pub fn into_lease(mut self) -> Lease {
        self.releases_on_drop = false;
        self.lease()
    }

    #[cfg(feature = "blocking")]
    pub(crate) fn holding(&self) -> Arc<Holding> {
        Arc::clone(&self.holding)
    }

    /// Takes back what a failed attempt was granted.
    pub(crate) async fn give_back(mut self) {
        self.holding.undo().await;
        self.releases_on_drop = false;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.releases_on_drop {
            self.holding.abandon();
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
