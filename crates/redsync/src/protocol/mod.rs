//! What the algorithm decides: no I/O, no clock reads, no runtime.
//!
//! Values go in, decisions come out, so that everything here can be tested with plain arithmetic and
//! held under a model checker. The types carry the rules: an [`Expiry`] is never zero, a [`Token`] never
//! empty, a [`Quorum`] never of no nodes, and the code that uses them never checks again.

mod expiry;
mod fence;
mod instant;
mod line;
mod name;
mod pattern;
mod quarantine;
mod quorum;
mod retry;
mod ticket;
mod token;
mod validity;

pub use self::expiry::Expiry;
pub(crate) use self::fence::Fenced;
pub use self::fence::{Fence, Proposal};
pub use self::instant::Instant;
pub(crate) use self::line::{Line, Waiter};
pub use self::name::LockName;
pub use self::pattern::Pattern;
pub(crate) use self::quarantine::Quarantine;
pub(crate) use self::quorum::{Quorum, Tally, Verdict};
pub(crate) use self::retry::RetryDelay;
pub use self::ticket::{Round, Ticket};
pub use self::token::{OwnerLabel, Token};
pub(crate) use self::token::{facts_in, owner_in};
pub(crate) use self::validity::{Drift, DriftFactor, LeaseEnds, RequestTimeout, TimeoutFactor};

use std::fmt;

/// A value that a lock cannot be made with, and why.
///
/// [`Display`](fmt::Display) is one line for a person: what was given, and what would be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidOption {
    option: &'static str,
    reason: String,
}

impl InvalidOption {
    pub(crate) fn new(option: &'static str, reason: impl Into<String>) -> Self {
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

impl std::error::Error for InvalidOption {}
