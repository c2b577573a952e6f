//! When the vote of a node that restarted counts again.

use core::time::Duration;

use super::{Drift, Expiry};

/// How long a node that restarted may have forgotten leases that are still trusted: the expiry and the allowance for drift.
///
/// SAFETY RULE (protocol §10): until a node has been up for so long, and for attempts that began before, its grants count for
/// nothing. A holder whose lease it forgot may still trust it, and another majority could come together with its vote.
#[derive(Clone, Copy, Debug)]
pub struct Quarantine(Duration);

impl Quarantine {
    /// The quarantine where leases last for `expiry`.
    pub const fn of(expiry: Expiry, drift: Drift) -> Self {
        Self(expiry.as_duration().saturating_add(drift.as_duration()))
    }

    /// For how much longer votes are withheld of a node that has now been up for `uptime`, from an attempt that began `ago`.
    /// `None` where its vote counts.
    pub fn wait(self, uptime: Duration, ago: Duration) -> Option<Duration> {
        (uptime < self.0.saturating_add(ago)).then(|| self.0.saturating_sub(uptime))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DriftFactor;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_vote_counts_when_the_attempt_began_after_the_quarantine() {
        let expiry = Expiry::new(8 * SECOND).unwrap();
        let quarantine = Quarantine::of(expiry, Drift::of(expiry, DriftFactor::default()).unwrap());
        let end = Duration::from_millis(8082);
        assert_eq!(quarantine.wait(SECOND, Duration::ZERO), Some(end - SECOND));
        assert_eq!(quarantine.wait(end, Duration::ZERO), None);
        assert_eq!(quarantine.wait(end, SECOND), Some(Duration::ZERO), "it began before the end");
        assert_eq!(quarantine.wait(end + SECOND, SECOND), None);
    }
}
