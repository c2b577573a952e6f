//! Delays between tries.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;

use super::InvalidOption;

/// How long to wait between one try and the next, when a lock is polled for.
///
/// The default is a random time from 50 to 250 ms, new for each try, so that callers who collided once do not
/// collide again. Go's redsync: `WithRetryDelay`, `WithRetryDelayFunc`, `DelayFunc`.
#[derive(Clone)]
pub struct RetryDelay(Kind);

#[derive(Clone)]
enum Kind {
    Between(Duration, Duration),
    Fixed(Duration),
    Function(Arc<dyn Fn(u32) -> Duration + Send + Sync>),
}

impl RetryDelay {
    /// The longest delay: one hour. A longer one is taken for a slip.
    pub const MAX: Duration = Duration::from_secs(3600);

    /// The same delay each time.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`] when it is zero, which would hammer the servers, or longer than [`RetryDelay::MAX`].
    pub fn fixed(delay: Duration) -> Result<Self, InvalidOption> {
        let refuse = |reason: String| Err(InvalidOption::new("retry_delay", reason));
        if delay.is_zero() {
            return refuse("it is zero, which would hammer the servers".into());
        }
        if delay > Self::MAX {
            return refuse(format!("{delay:?} is longer than an hour"));
        }
        Ok(Self(Kind::Fixed(delay)))
    }

    /// What `function` says for each try; it is given the number of tries made so far, from 1 on.
    ///
    /// What it returns is cut to between 1 ms and [`RetryDelay::MAX`].
    pub fn function(function: impl Fn(u32) -> Duration + Send + Sync + 'static) -> Self {
        Self(Kind::Function(Arc::new(function)))
    }

    /// The delay after `tries` tries. `random` chooses it where it is to differ from try to try.
    pub fn after(&self, tries: u32, random: u64) -> Duration {
        match &self.0 {
            Kind::Between(least, most) => {
                let span = most.saturating_sub(*least).as_micros() + 1;
                *least + Duration::from_micros((u128::from(random) % span) as u64)
            }
            Kind::Fixed(delay) => *delay,
            Kind::Function(function) => function(tries).clamp(Duration::from_millis(1), Self::MAX),
        }
    }
}

impl Default for RetryDelay {
    fn default() -> Self {
        Self(Kind::Between(Duration::from_millis(50), Duration::from_millis(250)))
    }
}

impl fmt::Debug for RetryDelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Between(least, most) => write!(f, "random {least:?} to {most:?}"),
            Kind::Fixed(delay) => write!(f, "{delay:?}"),
            Kind::Function(_) => f.write_str("a function"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spread over all numbers: Knuth's multiplier.
    fn random(number: u32) -> u64 {
        u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    #[test]
    fn the_default_is_random_between_50_and_250_milliseconds() {
        let delays: Vec<Duration> =
            (1..500).map(|tries| RetryDelay::default().after(tries, random(tries))).collect();
        let range = Duration::from_millis(50)..=Duration::from_millis(250);
        assert!(delays.iter().all(|delay| range.contains(delay)));
        assert!(delays.iter().max() > Some(&Duration::from_millis(200)));
        assert!(delays.iter().min() < Some(&Duration::from_millis(100)));
    }

    #[test]
    fn a_function_is_told_the_number_of_tries_and_kept_within_reason() {
        let delay = RetryDelay::function(|tries| Duration::from_millis(u64::from(tries) * 10));
        assert_eq!(delay.after(3, 0), Duration::from_millis(30));
        assert_eq!(RetryDelay::function(|_| Duration::ZERO).after(1, 0), Duration::from_millis(1));
        assert_eq!(RetryDelay::function(|_| Duration::MAX).after(1, 0), RetryDelay::MAX);
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        assert!(RetryDelay::fixed(Duration::ZERO).unwrap_err().to_string().contains("hammer"));
        assert!(RetryDelay::fixed(Duration::from_secs(3601)).is_err());
        assert_eq!(
            RetryDelay::fixed(Duration::from_millis(7)).unwrap().after(9, 0),
            Duration::from_millis(7)
        );
    }
}
