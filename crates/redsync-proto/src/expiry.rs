//! How long a lease is asked for.

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::time::Duration;

use super::InvalidOption;

/// How long a lease is asked for: whole milliseconds, from 1 ms to 2⁵³ ms.
///
/// Redis counts expiry in milliseconds, and its scripts hold numbers exactly up to 2⁵³; both ends of the range
/// come from there. A fraction of a millisecond is cut off, so that the holder never believes in more than the
/// server granted. Go's redsync: `WithExpiry`; Redis: `PX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Expiry {
    millis: u64,
}

impl Expiry {
    /// The longest expiry: 2⁵³ ms, some 285,000 years.
    pub const MAX: Self = Self { millis: 1 << 53 };

    /// An expiry of `duration`, with fractions of a millisecond cut off.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`] when it is shorter than 1 ms (a server would delete the key at once) or longer than
    /// [`Expiry::MAX`].
    pub fn new(duration: Duration) -> Result<Self, InvalidOption> {
        let refuse = |reason: String| Err(InvalidOption::new("expiry", reason));
        match u64::try_from(duration.as_millis()) {
            Ok(0) if duration.is_zero() => refuse("it is zero; the least is 1ms".into()),
            Ok(0) => refuse(format!("{duration:?} is less than the 1ms that servers count in")),
            Ok(millis) if millis <= Self::MAX.millis => Ok(Self { millis }),
            _ => refuse(format!("{} s is more than the longest expiry, 2^53 ms", duration.as_secs())),
        }
    }

    /// Milliseconds, as servers take them.
    pub const fn as_millis(self) -> u64 {
        self.millis
    }

    /// The same as a [`Duration`].
    pub const fn as_duration(self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

impl TryFrom<Duration> for Expiry {
    type Error = InvalidOption;

    fn try_from(duration: Duration) -> Result<Self, InvalidOption> {
        Self::new(duration)
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_duration())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        let message = |duration| Expiry::new(duration).unwrap_err().to_string();
        assert_eq!(message(Duration::ZERO), "invalid expiry: it is zero; the least is 1ms");
        assert!(message(Duration::from_micros(999)).contains("999µs is less than the 1ms"));
        assert!(message(Duration::from_millis((1 << 53) + 1)).contains("longest expiry"));
        assert!(message(Duration::MAX).contains("longest expiry"));
    }

    #[test]
    fn fractions_of_a_millisecond_are_cut_off() {
        assert_eq!(Expiry::new(Duration::from_micros(2999)).unwrap().as_millis(), 2);
        assert_eq!(Expiry::new(Duration::from_millis(1 << 53)).unwrap(), Expiry::MAX);
    }
}
