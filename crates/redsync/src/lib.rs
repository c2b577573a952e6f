//! Distributed mutual exclusion over Redis and Valkey.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod attempt;
mod ballot;
#[cfg(feature = "blocking")]
pub mod blocking;
mod clock;
mod error;
mod guard;
mod holding;
mod inspection;
mod lease;
mod mutex;
mod node;
mod options;
mod protocol;
mod redsync;
mod service;

pub use self::clock::{Clock, DrivenClock, Sleep, SystemClock};
pub use self::error::{Error, ErrorKind, NodeError, Operation};
pub use self::guard::Guard;
pub use self::inspection::{Inspection, LockState, NodeReport};
pub use self::lease::{InvalidLease, Lease};
pub use self::mutex::Mutex;
#[cfg(feature = "redis")]
pub use self::node::RedisNode;
#[cfg(feature = "sqlite")]
pub use self::node::SqliteNode;
#[cfg(feature = "redis")]
pub use self::node::redis::client::{Client, Command, Reply};
pub use self::node::{
    Acquired, Answer, Applied, Claim, Extended, FaultKind, Holder, IfFree, InvalidUrl, MemoryNode, Node,
    NodeFault, Released, TimeLeft, redacted,
};
pub use self::options::LockOptions;
pub use self::protocol::{Expiry, Instant, InvalidOption, LockName, OwnerLabel, Token};
pub use self::redsync::{Builder, Redsync};
