//! Locks whose holders have a number each, without async.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::{Guard, Mutex, RuntimeThread};
use crate::error::Error;
use crate::fenced::{FencedGuard as AsyncFencedGuard, FencedMutex as AsyncFencedMutex};
use crate::lease::Lease;
use crate::options::{LockOptions, option_methods};
use crate::protocol::Fence;

/// A lock whose every holder has a [`Fence`]. The blocking form of [`redsync::FencedMutex`](crate::FencedMutex).
#[derive(Clone)]
pub struct FencedMutex {
    mutex: AsyncFencedMutex,
    thread: Arc<RuntimeThread>,
}

option_methods!(FencedMutex, mutex.mutex.options);

impl Mutex {
    /// The same lock with a [`Fence`] for each holder; see [`redsync::Mutex::fenced`](crate::Mutex::fenced).
    pub fn fenced(self) -> FencedMutex {
        FencedMutex { mutex: self.mutex.fenced(), thread: self.thread }
    }
}

impl FencedMutex {
    /// The lock's name, as given.
    pub fn name(&self) -> &str {
        self.mutex.name()
    }

    /// The same lock with `options` in place of those it had.
    #[must_use]
    pub fn with(self, options: LockOptions) -> Self {
        Self { mutex: self.mutex.with(options), ..self }
    }

    /// Takes the lock, with a fence; see [`redsync::FencedMutex::lock`](crate::FencedMutex::lock).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn lock(&self) -> Result<FencedGuard, Error> {
        let mutex = self.mutex.clone();
        self.thread.wait_for(async move { mutex.lock().await }).map(|guard| self.held(guard))
    }

    /// As [`lock`](FencedMutex::lock), until `cancel` completes; see [`Mutex::lock_unless`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn lock_unless(
        &self,
        cancel: impl Future<Output = ()> + Send + 'static,
    ) -> Result<FencedGuard, Error> {
        let mutex = self.mutex.clone();
        self.thread.wait_for(async move { mutex.lock_unless(cancel).await }).map(|guard| self.held(guard))
    }

    /// Takes the lock if it is free, with a fence; see [`redsync::FencedMutex::try_lock`](crate::FencedMutex::try_lock).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_lock(&self) -> Result<Option<FencedGuard>, Error> {
        let mutex = self.mutex.clone();
        let guard = self.thread.wait_for(async move { mutex.try_lock().await })?;
        Ok(guard.map(|guard| self.held(guard)))
    }

    /// Takes over a held lock with its fence; see [`redsync::FencedMutex::adopt`](crate::FencedMutex::adopt).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn adopt(&self, lease: &Lease) -> Result<FencedGuard, Error> {
        let (mutex, lease) = (self.mutex.clone(), lease.clone());
        self.thread.wait_for(async move { mutex.adopt(&lease).await }).map(|guard| self.held(guard))
    }

    /// Releases a lock by its lease; see [`redsync::Mutex::release`](crate::Mutex::release).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn release(&self, lease: &Lease) -> Result<(), Error> {
        let (mutex, lease) = (self.mutex.clone(), lease.clone());
        self.thread.wait_for(async move { mutex.release(&lease).await })
    }

    fn held(&self, guard: AsyncFencedGuard) -> FencedGuard {
        let fence = guard.fence();
        FencedGuard { fence, guard: Guard { guard: guard.into_guard(), thread: Arc::clone(&self.thread) } }
    }
}

impl fmt::Debug for FencedMutex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.mutex.fmt(f)
    }
}

/// A held lock with a fence. It is a [`Guard`] in all other respects, and has its methods. The blocking form of
/// [`redsync::FencedGuard`](crate::FencedGuard).
#[derive(Debug)]
#[must_use = "a guard that is dropped releases its lock"]
pub struct FencedGuard {
    fence: Fence,
    guard: Guard,
}

impl FencedGuard {
    /// This holder's number; see [`redsync::FencedGuard::fence`](crate::FencedGuard::fence).
    pub const fn fence(&self) -> Fence {
        self.fence
    }

    /// Releases the lock; see [`Guard::unlock`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn unlock(self) -> Result<(), Error> {
        self.guard.unlock()
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
