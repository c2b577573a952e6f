//! Lease ends in, `valid_until` out.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use core::time::Duration;

use super::{Expiry, Instant, InvalidOption, Quorum};

/// The share of the expiry that is allowed for clocks running at different speeds. Default 0.01, range [0, 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DriftFactor(f64);

impl DriftFactor {
    /// Takes `factor` as the drift factor.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`] when it is not in [0, 1): a negative drift would trust a lease beyond its end, and from 1
    /// on nothing would be left of it.
    pub fn new(factor: f64) -> Result<Self, InvalidOption> {
        if (0.0..1.0).contains(&factor) {
            Ok(Self(factor))
        } else {
            Err(InvalidOption::new("drift_factor", format!("{factor} is not in [0, 1)")))
        }
    }
}

impl Default for DriftFactor {
    fn default() -> Self {
        Self(0.01)
    }
}

/// The allowance for clocks that run at different speeds: expiry × drift factor + 2 ms.
///
/// The 2 ms stand for the precision of the server's expiry and for short expiries. Redlock
/// §"Is the algorithm asynchronous?"; redlock-rb's `drift`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drift(Duration);

impl Drift {
    const FLOOR: Duration = Duration::from_millis(2);

    /// The drift allowance for leases of `expiry`.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`] when it would leave nothing of the expiry: such a lock could never be held.
    pub fn of(expiry: Expiry, factor: DriftFactor) -> Result<Self, InvalidOption> {
        // Rounded up, on the cautious side. Beyond 2^53 ns a double is exact to less than the floor.
        let share = expiry.as_duration().as_nanos() as f64 * factor.0;
        let whole = share as u64;
        let nanos = if (whole as f64) < share { whole.saturating_add(1) } else { whole };
        let drift = Duration::from_nanos(nanos).saturating_add(Self::FLOOR);
        if drift >= expiry.as_duration() {
            let reason =
                format!("{expiry} leaves no time to hold: {drift:?} of it are allowed for clock drift");
            return Err(InvalidOption::new("expiry", reason));
        }
        Ok(Self(drift))
    }

    /// The allowance as a time.
    pub const fn as_duration(self) -> Duration {
        self.0
    }
}

/// When each node's lease ends, as far as this side can be certain; `valid_until` follows from it.
///
/// SAFETY RULE (protocol §3): an end is `sent + expiry − drift`, where `sent` is the instant *before* the first byte
/// of the request left. The server granted later than that, so its own end is later still.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseEnds {
    quorum: Quorum,
    ends: Box<[Option<Instant>]>,
    /// What follows from them: it is asked for more often than they change.
    valid_until: Option<Instant>,
}

impl LeaseEnds {
    /// No lease on any node.
    pub fn none(quorum: Quorum) -> Self {
        Self { quorum, ends: vec![None; quorum.nodes()].into(), valid_until: None }
    }

    /// How long after it was asked for a lease is certain to stand.
    pub fn trusted(expiry: Expiry, drift: Drift) -> Duration {
        expiry.as_duration().saturating_sub(drift.as_duration())
    }

    /// Records that node number `node` granted a lease that ends at `end`.
    pub fn grant(&mut self, node: usize, end: Instant) {
        self.ends[node] = Some(end);
        self.valid_until = self.majority_end();
    }

    /// Until when the lease on node number `node` stands, if there is one.
    pub fn end_on(&self, node: usize) -> Option<Instant> {
        self.ends[node]
    }

    /// Records that node number `node` has no lease of ours.
    pub fn lose(&mut self, node: usize) {
        if self.ends[node].take().is_some() {
            self.valid_until = self.majority_end();
        }
    }

    /// Records that no lease may be trusted beyond `end`: a request is about to be sent that may shorten them all,
    /// whether or not its reply is ever seen.
    pub fn cap(&mut self, end: Instant) {
        for lease in self.ends.iter_mut().flatten() {
            *lease = (*lease).min(end);
        }
        self.valid_until = self.valid_until.map(|until| until.min(end));
    }

    /// SAFETY RULE (protocol §3): the M-th largest lease end. Until then, and no longer, a majority of leases stands.
    ///
    /// `None` when fewer than M nodes granted. Acquiring, extending and losing are all this one rule.
    pub const fn valid_until(&self) -> Option<Instant> {
        self.valid_until
    }

    fn majority_end(&self) -> Option<Instant> {
        let majority = self.quorum.majority();
        if self.ends.iter().flatten().count() < majority {
            return None;
        }
        // N is small: count, for each end, how many stand at least as long.
        let standing = |end: Instant| self.ends.iter().flatten().filter(|other| **other >= end).count();
        self.ends.iter().flatten().copied().filter(|end| standing(*end) >= majority).max()
    }
}

/// The share of the expiry that one node may take to answer. Default 0.05, range (0, 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimeoutFactor(f64);

impl TimeoutFactor {
    /// Takes `factor` as the timeout factor. Go's redsync: `WithTimeoutFactor`.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`] when it is not in (0, 1).
    pub fn new(factor: f64) -> Result<Self, InvalidOption> {
        if factor > 0.0 && factor < 1.0 {
            Ok(Self(factor))
        } else {
            Err(InvalidOption::new("timeout_factor", format!("{factor} is not between 0 and 1")))
        }
    }
}

impl Default for TimeoutFactor {
    fn default() -> Self {
        Self(0.05)
    }
}

/// How long one node may take to answer, connecting included: expiry × timeout factor, but at least 50 ms, at most
/// 2 s, and never longer than the expiry.
///
/// A share alone would be too tight for short leases and absurd for long ones, hence the clamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestTimeout(Duration);

impl RequestTimeout {
    /// The shortest deadline of a request.
    pub const LEAST: Duration = Duration::from_millis(50);
    const MOST: Duration = Duration::from_secs(2);

    /// The timeout of requests for leases of `expiry`.
    pub fn of(expiry: Expiry, factor: TimeoutFactor) -> Self {
        let share = Duration::from_nanos((expiry.as_duration().as_nanos() as f64 * factor.0) as u64);
        Self(share.clamp(Self::LEAST, Self::MOST).min(expiry.as_duration()))
    }

    /// The same, for one who has no more than `most` left.
    pub fn at_most(self, most: Duration) -> Self {
        Self(self.0.min(most))
    }

    /// The timeout as a time.
    pub const fn as_duration(self) -> Duration {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expiry(millis: u64) -> Expiry {
        Expiry::new(Duration::from_millis(millis)).unwrap()
    }

    fn at(millis: u64) -> Instant {
        Instant::default() + Duration::from_millis(millis)
    }

    #[test]
    fn drift_is_a_share_of_the_expiry_and_two_milliseconds() {
        let drift = Drift::of(expiry(8000), DriftFactor::default()).unwrap();
        assert_eq!(drift.as_duration(), Duration::from_millis(82));
        let drift = Drift::of(expiry(8000), DriftFactor::new(0.0).unwrap()).unwrap();
        assert_eq!(drift.as_duration(), Duration::from_millis(2));
    }

    #[test]
    fn an_expiry_that_drift_eats_up_is_refused() {
        let message = Drift::of(expiry(2), DriftFactor::default()).unwrap_err().to_string();
        assert_eq!(
            message,
            "invalid expiry: 2ms leaves no time to hold: 2.02ms of it are allowed for clock drift"
        );
        assert!(Drift::of(expiry(3), DriftFactor::default()).is_ok());
    }

    #[test]
    fn factors_outside_their_range_are_refused() {
        for factor in [-0.01, 1.0, 2.0, f64::NAN, f64::INFINITY] {
            assert!(DriftFactor::new(factor).is_err(), "{factor}");
            assert!(TimeoutFactor::new(factor).is_err(), "{factor}");
        }
        assert!(TimeoutFactor::new(0.0).is_err());
        assert_eq!(
            DriftFactor::new(1.5).unwrap_err().to_string(),
            "invalid drift_factor: 1.5 is not in [0, 1)"
        );
    }

    #[test]
    fn a_lease_is_trusted_from_before_it_was_asked_for_and_not_to_its_end() {
        let drift = Drift::of(expiry(8000), DriftFactor::default()).unwrap();
        assert_eq!(at(1000) + LeaseEnds::trusted(expiry(8000), drift), at(1000 + 8000 - 82));
    }

    #[test]
    fn valid_until_is_the_mth_largest_end() {
        let mut ends = LeaseEnds::none(Quorum::of(5).unwrap());
        assert_eq!(ends.valid_until(), None);
        ends.grant(0, at(50));
        ends.grant(3, at(10));
        assert_eq!(ends.valid_until(), None, "two of five are no majority");
        ends.grant(1, at(40));
        assert_eq!(ends.valid_until(), Some(at(10)));
        ends.grant(2, at(30));
        assert_eq!(ends.valid_until(), Some(at(30)));
        ends.lose(0);
        assert_eq!(ends.valid_until(), Some(at(10)));
    }

    #[test]
    fn a_shorter_extension_shortens_trust_before_it_is_answered() {
        let mut ends = LeaseEnds::none(Quorum::of(1).unwrap());
        ends.grant(0, at(50));
        ends.cap(at(20));
        assert_eq!(ends.valid_until(), Some(at(20)));
    }

    #[test]
    fn the_request_timeout_is_clamped() {
        let timeout = |millis| RequestTimeout::of(expiry(millis), TimeoutFactor::default()).as_duration();
        assert_eq!(timeout(8000), Duration::from_millis(400));
        assert_eq!(timeout(100), Duration::from_millis(50));
        assert_eq!(timeout(20), Duration::from_millis(20));
        assert_eq!(timeout(3_600_000), Duration::from_secs(2));
    }

    proptest! {
        #[test]
        fn valid_until_agrees_with_sorting(ends in prop::collection::vec(prop::option::of(0_u64..20), 1..9)) {
            let quorum = Quorum::of(ends.len()).unwrap();
            let mut leases = LeaseEnds::none(quorum);
            for (node, end) in ends.iter().enumerate() {
                if let Some(end) = end {
                    leases.grant(node, at(*end));
                }
            }
            let mut sorted: Vec<u64> = ends.iter().flatten().copied().collect();
            sorted.sort_unstable_by(|a, b| b.cmp(a));
            let expected = sorted.get(quorum.majority() - 1).copied().map(at);
            prop_assert_eq!(leases.valid_until(), expected);
        }

        #[test]
        fn valid_until_follows_whatever_happens_to_the_ends(
            nodes in 1_usize..6,
            happening in prop::collection::vec((0_usize..5, 0_u64..20, 0_u8..3), 0..40),
        ) {
            let mut leases = LeaseEnds::none(Quorum::of(nodes).unwrap());
            for (node, end, what) in happening {
                match what {
                    0 => leases.grant(node % nodes, at(end)),
                    1 => leases.lose(node % nodes),
                    _ => leases.cap(at(end)),
                }
                prop_assert_eq!(leases.valid_until(), leases.majority_end());
            }
        }
    }
}
