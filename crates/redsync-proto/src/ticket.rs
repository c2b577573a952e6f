//! A waiter's place in the queue, and which of its requests a node has seen.

use core::fmt;

/// A waiter's place in the queue: the time at which it came, in microseconds since 1970. The lowest is next; where two are the
/// same, the lower token is. All nodes order their lines by it, so that they come to agree on who is next. [The bakery
/// algorithm's number.]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

impl Ticket {
    /// The highest ticket. Scores of sorted sets, and numbers in Lua, are exact up to here.
    pub const MAX: Self = Self((1 << 53) - 1);

    /// The ticket of one who came `micros` microseconds after 1970 began; [`Ticket::MAX`] at most.
    pub const fn from_micros(micros: u64) -> Self {
        if micros > Self::MAX.0 { Self::MAX } else { Self(micros) }
    }

    /// Microseconds since 1970.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The ticket after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self::from_micros(self.0.saturating_add(1))
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a waiter's request, in the order of asking. A place in the queue carries that of the request which last
/// renewed it, and a grant carries that of the place: so the waiter knows that it was granted after that request was sent,
/// and whether it has given the lease back since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Round(u32);

impl Round {
    /// The round of this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn as_u32(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_stay_within_what_a_score_can_tell_apart() {
        assert_eq!(Ticket::from_micros(u64::MAX), Ticket::MAX);
        assert_eq!(Ticket::MAX.next(), Ticket::MAX);
        assert_eq!(Ticket::from_micros(7).next().as_micros(), 8);
        assert!((Ticket::MAX.as_micros() as f64) - 1.0 < Ticket::MAX.as_micros() as f64);
    }
}
