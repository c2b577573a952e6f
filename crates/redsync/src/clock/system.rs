//! The machine's clock.

use std::time::Duration;

use super::{Clock, Sleep};
use crate::protocol::Instant;

/// The machine's own monotonic clock, which goes on counting while the machine is suspended.
///
/// `CLOCK_BOOTTIME` on Linux and Android, `CLOCK_MONOTONIC` on Apple systems (where it includes sleep). Rust's
/// [`std::time::Instant`] stops during suspend on Linux: a lock judged by it looks valid after its expiry.
///
/// On Linux and Android sleeps are woken by a timer of the kernel on the same clock, which goes off as soon as the
/// machine resumes; elsewhere they are woken by the timers of the tokio runtime that
/// they need, and look at the clock again every second.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

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

    #[expect(clippy::disallowed_types, reason = "for the order of callers, never for validity")]
    fn wall_micros(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(alarm) = super::alarm::Alarm::of_this_process() {
            return alarm.sleep_until(deadline);
        }
        Box::pin(in_slices(deadline))
    }
}

/// The time to a few milliseconds, on a clock of its own and for a fraction of the price: to tell a request that was given up
/// at once from one that nobody answered. Never for validity.
#[cfg(feature = "redis")]
pub(crate) fn coarse_now() -> Instant {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
        Instant::from_nanos(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    SystemClock.now()
}

/// Sleeps by the runtime's timers, which stand still while the machine is suspended: after a resume, late by no more than
/// a slice.
async fn in_slices(deadline: Instant) {
    const SLICE: Duration = Duration::from_secs(1);
    loop {
        let left = deadline.saturating_since(SystemClock.now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(SLICE)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_counts_from_boot_suspend_included() {
        let uptime = std::fs::read_to_string("/proc/uptime").expect("/proc/uptime: these tests run on Linux");
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        // /proc/uptime is the kernel's boot time clock, in hundredths of a second.
        let now = SystemClock.now().as_nanos() as f64 / 1e9;
        assert!((now - uptime).abs() < 5.0, "{now} beside {uptime}");
    }
}
