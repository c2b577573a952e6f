//! Suspend-aware monotonic time, and a clock that tests drive.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::protocol::Instant;

/// A sleep on a [`Clock`]. It borrows nothing, so that it can be moved into a task.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where redsync reads the time, and what it sleeps on. Nothing in the library reads time in another way where a
/// lock's validity is concerned.
///
/// SAFETY RULE (design §3): a clock is monotonic, counts the time the machine is suspended, and is not the wall
/// clock. Use [`SystemClock`]; another one is for tests and simulations.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Instant;

    /// Completes when [`now`](Clock::now) is at or past `deadline`; never before.
    fn sleep_until(&self, deadline: Instant) -> Sleep;
}

/// The machine's own monotonic clock, which goes on counting while the machine is suspended.
///
/// `CLOCK_BOOTTIME` on Linux and Android, `CLOCK_MONOTONIC` on Apple systems (where it includes sleep). Rust's
/// [`std::time::Instant`] stops during suspend on Linux: a lock judged by it looks valid after its expiry.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// How long a sleep may go on before the time is looked at again. Timers of the runtime stand still while the
    /// machine is suspended; after a resume, a sleep is late by no more than this.
    const SLICE: Duration = Duration::from_secs(1);
}

impl Clock for SystemClock {
    #[cfg(unix)]
    fn now(&self) -> Instant {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;

        let time = rustix::time::clock_gettime(CLOCK);
        Instant::from_nanos(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
    }

    #[cfg(not(unix))]
    fn now(&self) -> Instant {
        static BEGINNING: std::sync::LazyLock<std::time::Instant> =
            std::sync::LazyLock::new(std::time::Instant::now);
        Instant::default() + BEGINNING.elapsed()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        Box::pin(async move {
            loop {
                let left = deadline.saturating_since(Self.now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(Self::SLICE)).await;
            }
        })
    }
}

/// A clock that stands still until it is [advanced](DrivenClock::advance), for tests in which an hour takes
/// microseconds. Clones share one time.
#[derive(Clone, Debug, Default)]
pub struct DrivenClock {
    state: Arc<Mutex<Driven>>,
}

#[derive(Debug, Default)]
struct Driven {
    now: Instant,
    next_sleeper: u64,
    sleepers: BTreeMap<(Instant, u64), Waker>,
}

impl DrivenClock {
    /// A clock at its beginning.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves time on by `duration` and wakes whoever slept until then.
    pub fn advance(&self, duration: Duration) {
        let woken: Vec<Waker> = {
            let mut state = self.lock();
            state.now = state.now + duration;
            let now = state.now;
            let later = state.sleepers.split_off(&(now, u64::MAX));
            std::mem::replace(&mut state.sleepers, later).into_values().collect()
        };
        // Outside the lock: a waker may run code that looks at the time.
        woken.into_iter().for_each(Waker::wake);
    }

    /// When the next sleeper wants to wake, if anybody sleeps.
    pub fn next_wake(&self) -> Option<Instant> {
        self.lock().sleepers.keys().next().map(|(deadline, _)| *deadline)
    }

    fn lock(&self) -> MutexGuard<'_, Driven> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for DrivenClock {
    fn now(&self) -> Instant {
        self.lock().now
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        Box::pin(DrivenSleep { clock: self.clone(), deadline, place: None })
    }
}

struct DrivenSleep {
    clock: DrivenClock,
    deadline: Instant,
    place: Option<u64>,
}

impl Future for DrivenSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        let place = {
            let mut state = self.clock.lock();
            if state.now >= deadline {
                return Poll::Ready(());
            }
            let place = self.place.unwrap_or(state.next_sleeper);
            state.next_sleeper = state.next_sleeper.max(place + 1);
            state.sleepers.insert((deadline, place), context.waker().clone());
            place
        };
        self.place = Some(place);
        Poll::Pending
    }
}

impl Drop for DrivenSleep {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.clock.lock().sleepers.remove(&(self.deadline, place));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(std::sync::atomic::AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }

    #[test]
    fn the_system_clock_counts_from_boot_suspend_included() {
        let uptime = std::fs::read_to_string("/proc/uptime").expect("/proc/uptime: these tests run on Linux");
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        // /proc/uptime is the kernel's boot time clock, in hundredths of a second.
        let now = SystemClock.now().as_nanos() as f64 / 1e9;
        assert!((now - uptime).abs() < 5.0, "{now} beside {uptime}");
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
        assert_eq!(count.0.load(std::sync::atomic::Ordering::SeqCst), 0);
        assert!(sleep.as_mut().poll(&mut context).is_pending());
        clock.advance(Duration::from_secs(1));
        assert_eq!(count.0.load(std::sync::atomic::Ordering::SeqCst), 1);
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
}
