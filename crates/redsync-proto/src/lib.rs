//! The redsync lock protocol without I/O.
//!
//! This crate opens no socket, spawns no task, reads no clock and draws no random number: it is `no_std`, so it cannot. The
//! caller passes in the time, the nodes' answers and the random bytes. The functions return what is true, and until when.
//!
//! # The algorithm
//!
//! ```text
//!            node 1        node 2        node 3
//!          ┌─────────┐   ┌─────────┐   ┌─────────┐
//!   lease  │  A      │   │  A      │   │  B      │    A has 2 of 3 leases: A holds.
//!   queue  │  B, C   │   │  B, C   │   │  C      │    B and C wait, in the order of their tickets.
//!          └─────────┘   └─────────┘   └─────────┘
//!
//!   A releases:   node 1 and node 2 each give B the lease and push the grant to B: B holds.
//! ```
//!
//! **Leases and quorum** ([`Quorum`], [`Tally`]). Each of N nodes grants *leases*: one name, for one [`Expiry`], to one
//! [`Token`]. A client holds the lock while M = N/2 + 1 of its leases are valid. Any two majorities share a node, and that node
//! grants the name to one token at a time. So two clients never hold the lock at once.
//! * Each attempt has a new token. A late request of an old attempt then affects no new one.
//!
//! **Validity** ([`LeaseEnds`], [`Drift`]). The client keeps one lease end for each node:
//! ```text
//! end[node] = sent + expiry - drift      valid_until = M-th largest end      held = now < valid_until
//! ```
//! * The client reads `sent` before it sends the first byte. The node's own lease then ends later.
//! * No end exceeds what an unanswered or a later request would set, because the node may apply that request last.
//! * An answer adds no validity once the node has answered a newer request.
//!
//! **The lease record** ([`leases::Leases`]). It numbers the requests of one token, and takes in answers in any order.
//! From them it derives which leases are valid, which may still exist, and which nodes must be asked to release.
//! * A node checks the token when it extends or releases. The lease may belong to another client by then.
//! * Loss is final: a late answer adds nothing to a lease set whose time was over.
//!
//! **Waiting** ([`NodeQueue`], [`Ticket`]). A waiter draws a ticket: its wall clock, corrected by the nodes' clocks. It
//! sends `enter` to each node, and repeats it before its place expires. A node orders its queue by ticket. A release grants
//! the lease to the lowest live ticket and pushes the grant, in one step.
//! * A grant names the request that set the place, and counts from its `sent`, because the moment of the grant is unknown.
//! * A node skips a waiter whose place has expired or whose connection is gone.
//!
//! **Yielding.** Several waiters may each have a minority of the leases. A waiter without a majority *yields* after a short
//! time: the node takes the lease back and queues the waiter, in one step. All nodes use the same order of tickets, so they
//! converge on one waiter.
//! * A lease counts for nothing from before its yield is sent, because the node may apply the yield at any moment.
//! * A waiter whose yield is lost draws a new token and keeps its ticket.
//!
//! **Fencing** ([`Fence`], [`Fenced`]). Each node keeps a counter for each lock. A grant raises the counter to the proposed
//! ticket, and by one at least. The fence is the number that M nodes report. If they differ, the holder first raises M of them
//! to one number.
//! * Only a grant or the holder raises the counter. The shared node then orders the fences of any two holders.
//!
//! **Restarts** ([`Quarantine`]). With several nodes, a restarted node may have lost leases and counters. Its vote counts only
//! for requests that were sent after it had been up for expiry + drift. A grant that came earlier never supplies a fence.
//!
//! # Modules
//!
//! Values refuse nonsense when they are made: an [`Expiry`] is never zero, a [`Token`] never empty, a [`Quorum`] never of no nodes.
//! The code that uses them never checks again.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod answer;
mod expiry;
mod fence;
mod instant;
pub mod leases;
mod name;
mod node_queue;
mod pattern;
mod quarantine;
mod quorum;
mod retry;
mod ticket;
mod token;
mod validity;
pub mod words;

pub use self::answer::{Acquired, Extended, Holder, IfFree, Released, TimeLeft, show_owner};
pub use self::expiry::Expiry;
pub use self::fence::{Fence, Fenced, Proposal};
pub use self::instant::Instant;
pub use self::name::LockName;
pub use self::node_queue::{NodeQueue, QueuedWaiter};
pub use self::pattern::Pattern;
pub use self::quarantine::Quarantine;
pub use self::quorum::{Quorum, Tally, Verdict};
pub use self::retry::RetryDelay;
pub use self::ticket::{Round, Ticket};
pub use self::token::{OwnerLabel, Token, facts_in, owner_in};
pub use self::validity::{Drift, DriftFactor, LeaseEnds, RequestTimeout, TimeoutFactor};

use alloc::string::String;
use core::fmt;

/// A value that a lock cannot be made with, and why.
///
/// [`Display`](fmt::Display) is one line for a person: what was given, and what would be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidOption {
    option: &'static str,
    reason: String,
}

impl InvalidOption {
    /// Says that `option` has a value that it may not have, and why.
    pub fn new(option: &'static str, reason: impl Into<String>) -> Self {
        Self { option, reason: reason.into() }
    }

    /// The option's name, as its builder method spells it: `"expiry"`, `"drift_factor"`, …
    pub fn option(&self) -> &'static str {
        self.option
    }
}

impl fmt::Display for InvalidOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid {}: {}", self.option, self.reason)
    }
}

impl core::error::Error for InvalidOption {}
