//! Locks whose holders have a number each: what a resource needs to refuse a late write.

use std::fmt;
use std::future::Future;
use std::ops::Deref;

use crate::error::Error;
use crate::guard::Guard;
use crate::lease::Lease;
use crate::mutex::Mutex;
use crate::options::{LockOptions, option_methods};
use crate::protocol::{Fence, InvalidOption};

/// A lock whose every holder has a [`Fence`]: what [`Mutex::fenced`] gives. The same lock as without; only those who ask for
/// a fence are numbered.
///
/// Where the nodes counted alike, which is nearly always, a fence costs no further round trip.
#[derive(Clone, Debug)]
pub struct FencedMutex {
    pub(crate) mutex: Mutex,
}

option_methods!(FencedMutex, mutex.options);

impl FencedMutex {
    /// `mutex`, which asks for fences.
    pub(crate) const fn new(mutex: Mutex) -> Self {
        Self { mutex }
    }

    /// The lock's name, as given.
    pub fn name(&self) -> &str {
        self.mutex.name()
    }

    /// The same lock with `options` in place of those it had.
    #[must_use]
    pub fn with(self, options: LockOptions) -> Self {
        Self { mutex: self.mutex.with(options) }
    }

    /// Takes the lock, as [`Mutex::lock`], with a fence.
    ///
    /// # Errors
    ///
    /// As there. [`Error::NoQuorum`], too, where a majority of nodes has something else in the place of the lock's counter.
    ///
    /// # Cancel safety
    ///
    /// As there.
    pub async fn lock(&self) -> Result<FencedGuard, Error> {
        self.mutex.lock().await.map(FencedGuard::new)?
    }

    /// As [`lock`](FencedMutex::lock), until `cancel` completes; see [`Mutex::lock_unless`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As there.
    pub async fn lock_unless(&self, cancel: impl Future<Output = ()> + Send) -> Result<FencedGuard, Error> {
        self.mutex.lock_unless(cancel).await.map(FencedGuard::new)?
    }

    /// Takes the lock if it is free, as [`Mutex::try_lock`], with a fence.
    ///
    /// # Errors
    ///
    /// As there, and as [`lock`](FencedMutex::lock).
    ///
    /// # Cancel safety
    ///
    /// As there.
    pub async fn try_lock(&self) -> Result<Option<FencedGuard>, Error> {
        self.mutex.try_lock().await?.map(FencedGuard::new).transpose()
    }

    /// Takes over a lock that is already held, with the fence that it was taken with; see [`Mutex::adopt`].
    ///
    /// # Errors
    ///
    /// As there, and [`Error::InvalidOption`] when the lease has no fence.
    ///
    /// # Cancel safety
    ///
    /// As there.
    pub async fn adopt(&self, lease: &Lease) -> Result<FencedGuard, Error> {
        if lease.fence().is_none() {
            return Err(no_fence().into());
        }
        self.mutex.adopt(lease).await.map(FencedGuard::new)?
    }

    /// Releases a lock by its lease; see [`Mutex::release`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As there.
    pub async fn release(&self, lease: &Lease) -> Result<(), Error> {
        self.mutex.release(lease).await
    }
}

/// A held lock with a fence. It is a [`Guard`] in all other respects, and has its methods.
#[must_use = "a guard that is dropped releases its lock"]
pub struct FencedGuard {
    guard: Guard,
    fence: Fence,
}

impl FencedGuard {
    fn new(guard: Guard) -> Result<Self, Error> {
        // Whoever asked for a fence has one; were it not so, the lock is let go of.
        let fence = guard.fence().ok_or_else(no_fence)?;
        Ok(Self { guard, fence })
    }

    /// This holder's number: larger than that of any who held the lock before it with a fence, as long as nodes keep what they
    /// counted (`docs/safety.md` of the repository says what holds where they do not). Extending does not change it.
    ///
    /// Give it to the resource with each request, and have the resource refuse those whose fence is smaller than one that
    /// it has seen: [`FenceCheck`](crate::FenceCheck), and `docs/fencing.md` of the repository for databases and services.
    pub const fn fence(&self) -> Fence {
        self.fence
    }

    /// Releases the lock, and says whether it was held until now; see [`Guard::unlock`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As there.
    pub async fn unlock(self) -> Result<(), Error> {
        self.guard.unlock().await
    }

    /// Lets go of the lock without releasing it; see [`Guard::into_lease`]. The lease carries the fence.
    pub fn into_lease(self) -> Lease {
        self.guard.into_lease()
    }

    /// The guard without its fence.
    pub fn into_guard(self) -> Guard {
        self.guard
    }
}

impl Deref for FencedGuard {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.guard
    }
}

impl fmt::Debug for FencedGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FencedGuard").field("fence", &self.fence).field("guard", &self.guard).finish()
    }
}

fn no_fence() -> InvalidOption {
    InvalidOption::new("lease", "it has no fence: the lock was taken without one")
}
