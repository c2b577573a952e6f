//! The loss of a lock: what it is called, and how it is waited for.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::clock::Sleep;
use crate::error::Error;
use crate::leases::{LeaseSet, Standing};
use crate::protocol::{Instant, LockName};

/// A guard is no longer exclusive, and will never be again.
///
/// [`source`](StdError::source) is what the last renewal failed with, where one failed.
#[derive(Clone, Debug)]
pub struct Lost {
    name: LockName,
    was_released: bool,
    cause: Option<Arc<Error>>,
}

impl Lost {
    pub(crate) const fn new(name: LockName, was_released: bool, cause: Option<Arc<Error>>) -> Self {
        Self { name, was_released, cause }
    }

    /// The lock.
    pub const fn name(&self) -> &LockName {
        &self.name
    }

    /// Whether the guard was given back or handed on by its own side, and not lost.
    pub const fn was_released(&self) -> bool {
        self.was_released
    }

    /// What the last renewal or extension failed with, if it did; kept also when the guard was given back after that.
    /// Without it, the lock's time ran out with no renewal on the way: it
    /// was not renewed, or the process stood still.
    pub fn cause(&self) -> Option<&Error> {
        self.cause.as_deref()
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.cause, self.was_released) {
            (_, true) => write!(f, "lock {:?} was released", self.name),
            (None, false) => write!(f, "lock {:?} was lost: its time ran out", self.name),
            (Some(cause), false) => write!(f, "lock {:?} was lost: {cause}", self.name),
        }
    }
}

impl StdError for Lost {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

/// Completes when its guard is no longer exclusive: what [`Guard::lost`](crate::Guard::lost) gives.
///
/// It completes when the guard is lost, by the local clock and on time, whatever the servers do; and likewise when the
/// guard is given back or handed on, since whoever works under it must stop then too. [`Lost::was_released`] tells which.
///
/// It can be cloned, sent to other tasks, and awaited in any runtime. It does not keep the lock: a guard that is dropped is
/// released.
///
/// # Cancel safety
///
/// May be dropped at any point.
#[must_use = "a future does nothing unless it is awaited"]
pub struct LostSignal {
    leases: Arc<LeaseSet>,
    place: Option<u64>,
    /// Until when it sleeps. It has a timer of its own, so that it fires though the runtime that keeps the guard stands
    /// still.
    sleeping: Mutex<Option<(Instant, Sleep)>>,
}

impl LostSignal {
    pub(crate) const fn new(leases: Arc<LeaseSet>) -> Self {
        Self { leases, place: None, sleeping: Mutex::new(None) }
    }

    /// Whether the guard is exclusive now, by this side's clock alone.
    pub fn is_valid(&self) -> bool {
        self.leases.standing() == Standing::Held
    }

    /// As [`is_valid`](LostSignal::is_valid), to be asked with `?` before a step that must not be done twice.
    ///
    /// # Errors
    ///
    /// [`Lost`] when the guard is no longer exclusive.
    pub fn check(&self) -> Result<(), Lost> {
        match self.is_valid() {
            true => Ok(()),
            false => Err(self.leases.lost()),
        }
    }
}

impl Future for LostSignal {
    type Output = Lost;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Lost> {
        let signal = self.get_mut();
        // Before it is looked at, so that a loss in between is heard.
        signal.place = Some(signal.leases.signals.listen(signal.place, context.waker()));
        // Where the runtime of the one that kept the guard has ended or stands still, this one's takes over.
        let clock = &signal.leases.core.clock;
        signal.leases.core.attend(clock.now());
        let sleeping = signal.sleeping.get_mut().unwrap_or_else(PoisonError::into_inner);
        while signal.leases.standing() == Standing::Held {
            let look = signal.leases.next_look(clock.now());
            // A deadline that has moved on is seen when the old one comes.
            let (_, sleep) = match sleeping {
                Some((until, _)) if *until <= look => sleeping.as_mut(),
                _ => Some(sleeping.insert((look, clock.sleep_until(look)))),
            }
            .unwrap_or_else(|| unreachable!("it was put there"));
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            *sleeping = None;
            signal.leases.core.attend(clock.now());
        }
        *sleeping = None;
        Poll::Ready(signal.leases.lost())
    }
}

impl Clone for LostSignal {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.leases))
    }
}

impl Drop for LostSignal {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.leases.signals.forget(place);
        }
    }
}

impl fmt::Debug for LostSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LostSignal").field("is_valid", &self.is_valid()).finish_non_exhaustive()
    }
}

/// Who waits for one guard's loss.
#[derive(Debug, Default)]
pub(crate) struct Signals(Mutex<Listeners>);

#[derive(Debug, Default)]
struct Listeners {
    entered: u64,
    wakers: Vec<(u64, Waker)>,
}

impl Signals {
    /// Wakes all who listen. They listen again if they are still there.
    pub(crate) fn wake(&self) {
        let wakers = std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).wakers);
        for (_, waker) in wakers {
            // One of somebody's that panics must not keep the others asleep.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }

    fn listen(&self, place: Option<u64>, waker: &Waker) -> u64 {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = place.unwrap_or_else(|| {
            listeners.entered += 1;
            listeners.entered
        });
        let former = match listeners.wakers.iter_mut().find(|(other, _)| *other == place) {
            Some((_, present)) if present.will_wake(waker) => None,
            Some((_, present)) => Some(std::mem::replace(present, waker.clone())),
            None => {
                listeners.wakers.push((place, waker.clone()));
                None
            }
        };
        drop(listeners);
        // What a waker takes with it may listen here too.
        drop(former);
        place
    }

    fn forget(&self, place: u64) {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = listeners.wakers.iter().position(|(other, _)| *other == place);
        let waker = at.map(|at| listeners.wakers.swap_remove(at));
        drop(listeners);
        drop(waker);
    }
}

/// A user's function that is called when a guard is lost.
#[derive(Clone)]
pub(crate) struct OnLost(Arc<dyn Fn(&Lost) + Send + Sync>);

impl OnLost {
    pub(crate) fn new(function: impl Fn(&Lost) + Send + Sync + 'static) -> Self {
        Self(Arc::new(function))
    }

    /// Calls it. A panic in it ends nothing else.
    pub(crate) fn call(&self, lost: &Lost) {
        let called = catch_unwind(AssertUnwindSafe(|| (self.0)(lost)));
        if called.is_err() {
            tracing::error!(lock = %lost.name(), "the on_lost function panicked");
        }
    }
}

impl fmt::Debug for OnLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a function")
    }
}
