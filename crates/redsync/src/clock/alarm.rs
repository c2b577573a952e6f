//! Wakes sleepers by a timer of the kernel that counts suspended time.
//!
//! The timers of async runtimes stand still while the machine is suspended: a sleep that had a minute left has it still
//! after a night. A lock's loss must be noticed at once. So one thread for the process waits on a timer descriptor on
//! `CLOCK_BOOTTIME` (timerfd_create(2)), which goes off at the resume if its time came meanwhile.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::{io, thread};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::sleepers::{Place, Sleepers};
use super::{Clock, Sleep, SystemClock};
use crate::protocol::Instant;

pub(super) struct Alarm {
    timer: OwnedFd,
    state: Mutex<State>,
}

struct State {
    sleepers: Sleepers,
    /// When the timer goes off. It may be earlier than anybody needs: those who leave do not set it anew.
    set_for: Instant,
}

impl Alarm {
    /// The process's alarm, started when it is first needed. `None` where the system gives no timer or no thread.
    pub(super) fn of_this_process() -> Option<&'static Self> {
        static ALARM: OnceLock<Option<&'static Alarm>> = OnceLock::new();
        *ALARM.get_or_init(|| Self::start().ok())
    }

    fn start() -> io::Result<&'static Self> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?;
        let state = State { sleepers: Sleepers::default(), set_for: Instant::from_nanos(u64::MAX) };
        let alarm: &'static Self = Box::leak(Box::new(Self { timer, state: Mutex::new(state) }));
        thread::Builder::new().name("redsync-clock".into()).stack_size(STACK).spawn(|| alarm.ring())?;
        Ok(alarm)
    }

    pub(super) fn sleep_until(&'static self, deadline: Instant) -> Sleep {
        Box::pin(Sleeping { alarm: self, deadline, place: None })
    }

    fn ring(&self) {
        let mut expirations = [0; 8];
        loop {
            // An error can only be an interruption by a signal: the timer is open and is one. Looking is harmless.
            let _ = rustix::io::read(&self.timer, &mut expirations);
            let woken = {
                let mut state = self.state();
                let woken = state.sleepers.due(SystemClock.now());
                let next = state.sleepers.next_deadline();
                state.set_for = Instant::from_nanos(u64::MAX);
                if let Some(next) = next {
                    self.set(&mut state, next);
                }
                woken
            };
            for waker in woken {
                // A waker of somebody's that panics must not end everybody's sleep.
                let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
            }
        }
    }

    /// Has the timer go off at `deadline`, or at once if that has passed.
    fn set(&self, state: &mut State, deadline: Instant) {
        state.set_for = deadline;
        // Zero would switch it off.
        let nanos = deadline.as_nanos().clamp(1, i64::MAX.unsigned_abs());
        let time = Timespec {
            tv_sec: (nanos / 1_000_000_000).cast_signed(),
            tv_nsec: (nanos % 1_000_000_000).cast_signed(),
        };
        let never_again = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval: never_again, it_value: time };
        // Fails only for a time that is none.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread calls two functions and wakers, which only queue their tasks.
const STACK: usize = 256 * 1024;

struct Sleeping {
    alarm: &'static Alarm,
    deadline: Instant,
    place: Option<Place>,
}

impl Future for Sleeping {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let (alarm, deadline) = (self.alarm, self.deadline);
        if SystemClock.now() >= deadline {
            return Poll::Ready(());
        }
        let waker = context.waker();
        let former = {
            let mut state = alarm.state();
            // The thread may have woken this one a moment before its time; then it has to enter again.
            let (place, former) = match self.place {
                Some(place) => (place, state.sleepers.stay(place, waker)),
                None => (state.sleepers.enter(deadline, waker.clone()), None),
            };
            self.place = Some(place);
            if deadline < state.set_for {
                alarm.set(&mut state, deadline);
            }
            former
        };
        drop(former);
        Poll::Pending
    }
}

impl Drop for Sleeping {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let waker = self.alarm.state().sleepers.leave(place);
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::sync::mpsc;
    use std::task::Waker;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_timer_counts_suspended_time() {
        let alarm = Alarm::of_this_process().expect("Linux gives timers");
        let timer = format!("/proc/self/fdinfo/{}", alarm.timer.as_raw_fd());
        let timer = std::fs::read_to_string(timer).unwrap();
        let clock = timer.lines().find_map(|line| line.strip_prefix("clockid:")).expect("it is a timer");
        // CLOCK_BOOTTIME, clock_gettime(2). CLOCK_MONOTONIC, which stops during suspend, is 1.
        assert_eq!(clock.trim(), "7");
    }

    #[test]
    fn sleepers_wake_after_their_deadlines_and_never_before() {
        struct Told(mpsc::Sender<()>);
        impl std::task::Wake for Told {
            fn wake(self: std::sync::Arc<Self>) {
                let _ = self.0.send(());
            }
        }

        let begun = SystemClock.now();
        let sleepers = [60, 20, 40].map(|millis| {
            thread::spawn(move || {
                let deadline = begun + Duration::from_millis(millis);
                let (told, woken) = mpsc::channel();
                let waker = Waker::from(std::sync::Arc::new(Told(told)));
                let mut sleep = SystemClock.sleep_until(deadline);
                while sleep.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                    woken.recv_timeout(Duration::from_secs(10)).expect("it is woken");
                }
                assert!(SystemClock.now() >= deadline);
            })
        });
        sleepers.into_iter().for_each(|sleeper| sleeper.join().unwrap());
    }
}
