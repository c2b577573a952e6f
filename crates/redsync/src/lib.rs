//! Distributed mutual exclusion over Redis and Valkey: one lock on one server, or on N independent ones of which a
//! majority must agree (the [Redlock] algorithm). The system of the Go package *redsync*, and compatible with it on the
//! wire.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! use redsync::Redsync;
//!
//! // Or "redis://10.0.0.1", "redis://10.0.0.2", "redis://10.0.0.3"; or "sqlite:///var/lib/app/locks.db".
//! let redsync = Redsync::connect(["memory:"]).await?;
//!
//! let guard = redsync.mutex("orders:42").lock().await?;
//! guard.run(async { /* … what must not be done twice; dropped at the moment that the lock is lost … */ }).await?;
//! guard.unlock().await?;
//!
//! match redsync.mutex("report").try_lock().await? {
//!     Some(guard) => drop(guard), // released in the background
//!     None => println!("somebody else has it"),
//! }
//! # Ok::<(), redsync::Error>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is promised
//!
//! * **Exclusive until [`valid_until`](Guard::valid_until).** As long as a majority of nodes keeps its leases, no two
//!   guards of one name are valid at the same time. The time is counted from before the first byte was sent, on a clock
//!   that goes on during suspend, less an allowance for clock drift.
//! * **Guards renew themselves, and know when they are lost.** In the background, as long as they live. When renewal fails
//!   for too long, [`lost`](Guard::lost) completes at `valid_until`, by the local clock, though every server hangs;
//!   [`run`](Guard::run) drops the work that must not go on.
//! * **A restarted server cannot break the lock.** With several nodes, the vote of one that may have forgotten a lease is
//!   withheld until that lease has run out.
//! * **First come, first served.** [`lock`](Mutex::lock) waits in the queue, among all processes and on any number of nodes; a
//!   release hands the lock to the next in one round trip. Dead waiters are skipped.
//! * **Every holder can have a number** that is larger than that of any before it, on any number of nodes:
//!   [`fenced`](Mutex::fenced). By it, a resource refuses what a paused holder writes too late: [`FenceCheck`].
//! * **Nothing is left behind.** A future dropped at any await point, a failed attempt, a dropped guard: what may have
//!   been granted is released, and at the very worst runs out after one expiry.
//! * **A slow or dead minority costs nothing.** All nodes are asked at once, each under a deadline, and the verdict falls
//!   as soon as it is certain.
//! * **Errors say which node said what**, and keep the cause.
//!
//! # What is not
//!
//! No lock service can stop a process that was paused, and wakes up after its lock ran out, from writing late; a resource that
//! looks at [fences](Mutex::fenced) can. A server that
//! was flushed, or evicts keys, votes as if nothing had been. Programs that lock by other libraries do not wait in the queue, and may
//! find a busy lock never free: [`barging`](Mutex::barging) is for fleets that have such.
//! `docs/safety.md` of the repository has the whole list, and `docs/operating.md` what is told to operators.
//!
//! # Features
//!
//! | feature | adds | default |
//! | --- | --- | --- |
//! | `redis` | `RedisNode`: Redis and Valkey | yes |
//! | `tls` | `rediss://`, by rustls | |
//! | `sqlite` | `SqliteNode`: one machine, many processes | |
//! | `blocking` | the module `blocking`: the same without async | |
//! | `serde` | [`Lease`] and [`Fence`] as serialisable values | |
//! | `metrics` | numbers by the `metrics` facade; their names are in `docs/operating.md` | |
//!
//! [Redlock]: https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/

mod attempt;
#[cfg(feature = "blocking")]
pub mod blocking;
mod clock;
mod error;
mod events;
mod fan_out;
mod fence_check;
mod fenced;
mod forcing;
#[cfg(test)]
mod fuzz;
mod guard;
mod identity;
mod inspection;
mod lease;
mod leases;
mod listing;
mod lost;
mod mutex;
mod node;
mod options;
#[cfg(doctest)]
mod pages;
mod redsync;
mod roll;
mod service;
mod waiting;

use redsync_proto as protocol;

pub use self::clock::{Clock, DrivenClock, Sleep, SystemClock};
pub use self::error::{Error, ErrorKind, NodeError, Operation};
pub use self::fence_check::{FenceCheck, StaleFence};
pub use self::fenced::{FencedGuard, FencedMutex};
pub use self::guard::Guard;
pub use self::identity::{drawn_token, random_token, this_process};
pub use self::inspection::{HealthWarning, Inspection, LockState, NodeReport};
pub use self::lease::{InvalidLease, Lease};
pub use self::listing::{ListedLock, Listing};
pub use self::lost::{Lost, LostSignal};
pub use self::mutex::Mutex;
#[cfg(feature = "redis")]
pub use self::node::RedisNode;
#[cfg(feature = "redis")]
pub use self::node::redis::client::{Client, Command, Messages, Reply};
pub use self::node::{
    Acquired, Answer, Applied, Claim, ClientId, Entered, Extended, FaultKind, Grant, Holder, IfFree,
    IntoNode, InvalidUrl, Listed, Listener, Look, MemoryNode, Node, NodeFault, Page, Place, Placed,
    QueueEntry, Released, Remedy, Search, Succession, TimeLeft, Uptime, redacted,
};
#[cfg(feature = "sqlite")]
pub use self::node::{Sharing, SqliteNode};
pub use self::options::LockOptions;
pub use self::protocol::{
    Expiry, Fence, Instant, InvalidOption, LockName, OwnerLabel, Pattern, Proposal, Round, Ticket, Token,
};
pub use self::redsync::{Builder, Redsync};

/// The README's examples, as tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
