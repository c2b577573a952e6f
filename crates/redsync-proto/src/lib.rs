//! What the algorithm decides: no I/O, no clock reads, no runtime.
//!
//! Values go in, decisions come out, so that everything here can be tested with plain arithmetic and
//! held under a model checker. The types carry the rules: an [`Expiry`] is never zero, a [`Token`] never
//! empty, a [`Quorum`] never of no nodes, and the code that uses them never checks again.

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
