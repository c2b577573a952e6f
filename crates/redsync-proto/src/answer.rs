//! What a node answers.

use alloc::string::String;
use core::fmt;
use core::time::Duration;

use crate::Fence;
use crate::words::clean;

/// The answer to a request to acquire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// The token has the lease, for the expiry that was asked for; and where a fence was asked for, this is where the
    /// lock's counter stands.
    Granted(Option<Fence>),
    /// Another token has it.
    Taken(Holder),
}

/// What a request to extend does with a name that nobody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfFree {
    /// Leaves it free.
    Leave,
    /// Grants it to the token: a repair, for a guard that is valid by its other leases. Go's redsync:
    /// `WithSetNXOnExtend`.
    Retake,
}

/// The answer to a request to extend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::enum_variant_names, reason = "the plain outcome has the plain name")]
pub enum Extended<H = Holder> {
    /// The token's lease lasts for the expiry that was asked for; and where a fence was, this is where the lock's counter
    /// stands.
    Extended(Option<Fence>),
    /// Nobody had the lease; the token has it again.
    Retaken,
    /// Nobody has the lease.
    NotHeld,
    /// Another token has it.
    HeldByAnother(H),
}

/// The answer to a request to release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::enum_variant_names, reason = "the plain outcome has the plain name")]
pub enum Released<H = Holder> {
    /// The token had the lease, and has it no longer.
    Released,
    /// The token had a place in the queue, and has it no longer.
    Left,
    /// Nobody has the lease: it had expired, or was never granted.
    NotHeld,
    /// Another token has it.
    HeldByAnother(H),
}

/// Who has a lease on one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    token: String,
    time_left: TimeLeft,
}

impl Holder {
    /// The holder with `token`, whose lease goes on for `time_left`.
    pub fn new(token: impl Into<String>, time_left: TimeLeft) -> Self {
        Self { token: token.into(), time_left }
    }

    /// The token's text as the node keeps it; bytes that are no UTF-8 are replaced.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The owner's label at the token's end, if it has one. Tokens of other libraries have none.
    pub fn owner(&self) -> Option<&str> {
        crate::owner_in(&self.token)
    }

    /// When its token was drawn: milliseconds since 1970, by the wall clock of the holder's machine. `None` where the token
    /// does not say, as those of other libraries.
    ///
    /// That is when the holder asked for the lock. Where it had to wait in the queue, it was granted the lock later; nothing on the
    /// nodes says when.
    pub fn since(&self) -> Option<u64> {
        crate::facts_in(&self.token).map(|facts| facts.since)
    }

    /// Whether the holder renews its lease until it releases the lock, as it said when it asked. Then
    /// [`time_left`](Self::time_left) says nothing of when the lock will be free. `None` where the token does not say, as
    /// those of other libraries.
    ///
    /// A lease that is taken over by another process keeps its token: what its first holder said still stands there.
    pub fn renews(&self) -> Option<bool> {
        crate::facts_in(&self.token).map(|facts| facts.renews)
    }

    /// How long the lease still lasts, on the node's clock.
    pub const fn time_left(&self) -> TimeLeft {
        self.time_left
    }
}

/// The owner's label, or the token's beginning where it has none.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_owner(&self.token, f)
    }
}

/// Writes the label at the end of a token, or the beginning of a token without one.
///
/// # Errors
///
/// Those of `f`.
pub fn show_owner(token: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // Any program may have written it, and at any length.
    const SHOWN: usize = 16;
    match crate::owner_in(token) {
        Some(owner) => f.write_str(&clean(owner, crate::OwnerLabel::MAX_BYTES)),
        None => write!(f, "token {}", clean(token, SHOWN)),
    }
}

/// How long a lease still lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeLeft {
    /// For about this long, or longer where the node cannot count so far.
    For(Duration),
    /// For ever: the key has no expiry. Somebody else's program set it.
    Forever,
    /// The node did not say, as when all it was asked for was the lease.
    Unknown,
}
