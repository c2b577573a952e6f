//! A clock that tests drive.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::sleepers::{Place, Sleepers};
use super::{Clock, Sleep};
use crate::protocol::Instant;

/// A clock that stands still until it is [advanced](DrivenClock::advance), for tests in which an hour takes
/// microseconds. Clones share one time.
#[derive(Clone, Debug, Default)]
pub struct DrivenClock {
    state: Arc<Mutex<Driven>>,
}

#[derive(Debug, Default)]
struct Driven {
    now: Instant,
    sleepers: Sleepers,
}

impl DrivenClock {
    /// A clock at its beginning.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves time on by `duration` and wakes whoever slept until then.
    pub fn advance(&self, duration: Duration) {
        let woken = {
            let mut state = self.lock();
            state.now = state.now + duration;
            let now = state.now;
            state.sleepers.due(now)
        };
        // Outside the lock: a waker may run code that looks at the time.
        woken.into_iter().for_each(Waker::wake);
    }

    /// When the next sleeper wants to wake, if anybody sleeps.
    pub fn next_wake(&self) -> Option<Instant> {
        self.lock().sleepers.next_deadline()
    }

    fn lock(&self) -> MutexGuard<'_, Driven> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for DrivenClock {
    fn now(&self) -> Instant {
        self.lock().now
    }

    fn wall_micros(&self) -> u64 {
        self.now().as_nanos() / 1_000
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        Box::pin(DrivenSleep { clock: self.clone(), deadline, place: None })
    }
}

struct DrivenSleep {
    clock: DrivenClock,
    deadline: Instant,
    place: Option<Place>,
}

impl Future for DrivenSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let (deadline, place) = (self.deadline, self.place);
        let mut state = self.clock.lock();
        if state.now >= deadline {
            return Poll::Ready(());
        }
        let waker = context.waker();
        let (place, former) = match place {
            Some(place) => (place, state.sleepers.stay(place, waker)),
            None => (state.sleepers.enter(deadline, waker.clone()), None),
        };
        drop(state);
        drop(former);
        self.place = Some(place);
        Poll::Pending
    }
}

impl Drop for DrivenSleep {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let waker = self.clock.lock().sleepers.leave(place);
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn driven_sleepers_wake_at_their_time_and_not_before() {
        let clock = DrivenClock::new();
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let mut sleep = clock.sleep_until(clock.now() + Duration::from_secs(3600));

        assert!(sleep.as_mut().poll(&mut context).is_pending());
        clock.advance(Duration::from_secs(3599));
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        assert!(sleep.as_mut().poll(&mut context).is_pending());
        clock.advance(Duration::from_secs(1));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(sleep.as_mut().poll(&mut context).is_ready());
        assert_eq!(clock.next_wake(), None);
    }

    #[test]
    fn a_dropped_sleep_leaves_no_sleeper() {
        let clock = DrivenClock::new();
        let mut sleep = clock.sleep_until(clock.now() + Duration::from_secs(1));
        let mut context = Context::from_waker(Waker::noop());
        assert!(sleep.as_mut().poll(&mut context).is_pending());
        assert!(clock.next_wake().is_some());
        drop(sleep);
        assert_eq!(clock.next_wake(), None);
    }

    #[test]
    fn a_waker_that_owns_another_sleep_may_be_dropped_with_its_own() {
        struct Owner(#[expect(dead_code, reason = "held for its drop")] Mutex<Sleep>);
        impl Wake for Owner {
            fn wake(self: Arc<Self>) {}
        }

        let clock = DrivenClock::new();
        let later = || clock.sleep_until(clock.now() + Duration::from_secs(1));
        let mut inner = later();
        assert!(inner.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let mut outer = later();
        {
            let waker = Waker::from(Arc::new(Owner(Mutex::new(inner))));
            assert!(outer.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        drop(outer);
        assert_eq!(clock.next_wake(), None);
    }
}
