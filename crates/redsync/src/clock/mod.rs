//! Suspend-aware monotonic time, and a clock that tests drive.

#[cfg(any(target_os = "linux", target_os = "android"))]
mod alarm;
mod driven;
mod sleepers;
mod system;

use std::fmt;
use std::future::Future;
use std::pin::Pin;

pub use self::driven::DrivenClock;
pub use self::system::SystemClock;
#[cfg(feature = "redis")]
pub(crate) use self::system::coarse_now;
use crate::protocol::Instant;

/// A sleep on a [`Clock`]. It borrows nothing, so that it can be moved into a task.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where redsync reads the time, and what it sleeps on. Nothing in the library reads time in another way where a
/// lock's validity is concerned.
///
/// SAFETY RULE (protocol §2): [`now`](Clock::now) is monotonic, counts the time the machine is suspended, and is not the wall
/// clock. Use [`SystemClock`]; another one is for tests and simulations.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Instant;

    /// Microseconds since 1970 began, by the wall clock. It says in which order callers came, and nothing else: never
    /// whether a lock is valid.
    fn wall_micros(&self) -> u64;

    /// Completes when [`now`](Clock::now) is at or past `deadline`; never before. After a suspend that went on past the
    /// deadline, it completes at once, and not after what was left of it when the machine fell asleep.
    fn sleep_until(&self, deadline: Instant) -> Sleep;
}
