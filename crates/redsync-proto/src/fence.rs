//! Fencing tokens: how nodes count, and which number a holder has.
//!
//! Each node keeps one counter for each lock, which only a grant raises, or the holder of the lease. A holder's fence is a
//! number that a majority of nodes had for their counter while this holder had the lease there. Two majorities share a
//! node, on which one of the two holders came later, and found the counter raised: so its fence is the larger.

use alloc::format;
use core::fmt;
use core::num::ParseIntError;
use core::str::FromStr;
use core::time::Duration;

use super::{InvalidOption, Quorum, Ticket};

/// A fencing token: a number that grows with every holder of a lock. A resource that remembers the largest that it has seen
/// can refuse what a former holder, paused meanwhile, writes late.
///
/// Without loss of data on the nodes, no two holders of one lock have the same, and whoever asked for the lock after another
/// had it has a larger one. Numbers of different locks have nothing to do with each other. They are about as large as the
/// time in microseconds since 1970, and are not to be read as one. From 1 to 2⁵³ − 1, so that programs in which all
/// numbers are doubles can compare them. [Kleppmann, "How to do distributed locking", 2016; Lamport's clocks, 1978.]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(u64);

impl Fence {
    /// The smallest.
    pub const MIN: Self = Self(1);

    /// The largest. A lock whose counter is there is granted to nobody any more.
    pub const MAX: Self = Self((1 << 53) - 1);

    /// How far a node's counter may be ahead of its clock by what a caller proposed.
    const LEEWAY: Duration = Duration::from_secs(1);

    /// The fence of this number, as read where it was written down.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`] unless it is from 1 to 2⁵³ − 1.
    pub fn new(number: u64) -> Result<Self, InvalidOption> {
        match number {
            1..=0x1f_ffff_ffff_ffff => Ok(Self(number)),
            _ => Err(InvalidOption::new("fence", format!("{number} is not between 1 and 2^53 - 1"))),
        }
    }

    /// Its number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Its number for a `BIGINT` or another signed integer of 64 bits; never negative, since no fence is above 2⁵³ − 1.
    pub const fn as_i64(self) -> i64 {
        self.0.cast_signed()
    }

    /// What a node counts when it grants a lease: the counter was `counter`, if there was one; the caller proposes
    /// `proposal`, and the node's clock shows `micros` microseconds since 1970. `None` where it cannot count any further.
    ///
    /// The proposal keeps the counters of several nodes alike, and above what one that lost its data had counted. The clock
    /// keeps a caller whose own is wrong from spoiling that: no proposal takes the counter further ahead of it than a second,
    /// and where nothing was counted before, none takes it further behind.
    ///
    /// SAFETY RULE (protocol §9): whatever is proposed, the counter grows with each grant.
    pub fn count(counter: Option<Self>, proposal: Self, micros: u64) -> Option<Self> {
        let leeway = u64::try_from(Self::LEEWAY.as_micros()).unwrap_or(u64::MAX);
        let most = micros.saturating_add(leeway).min(Self::MAX.0);
        let proposed = proposal.0.min(most);
        let counted = match counter {
            Some(counter) => proposed.max(counter.0 + 1),
            None => proposed.max(micros.saturating_sub(leeway)).clamp(Self::MIN.0, Self::MAX.0),
        };
        (counted <= Self::MAX.0).then_some(Self(counted))
    }

    /// Whether it is further ahead of `other` than counters are by which clocks that are right were counted.
    pub fn is_far_ahead_of(self, other: Self) -> bool {
        u128::from(self.0.saturating_sub(other.0)) > Self::LEEWAY.as_micros()
    }
}

/// The ticket of who waits is the fence that is proposed for it.
impl From<Ticket> for Fence {
    fn from(ticket: Ticket) -> Self {
        Self(ticket.as_micros().clamp(Self::MIN.0, Self::MAX.0))
    }
}

impl From<Fence> for u64 {
    fn from(fence: Fence) -> Self {
        fence.0
    }
}

impl TryFrom<u64> for Fence {
    type Error = InvalidOption;

    fn try_from(number: u64) -> Result<Self, InvalidOption> {
        Self::new(number)
    }
}

/// For a `BIGINT`: that is how databases keep it.
impl From<Fence> for i64 {
    fn from(fence: Fence) -> Self {
        fence.as_i64()
    }
}

/// As read from a `BIGINT`.
impl TryFrom<i64> for Fence {
    type Error = InvalidOption;

    fn try_from(number: i64) -> Result<Self, InvalidOption> {
        let refused = || InvalidOption::new("fence", format!("{number} is not between 1 and 2^53 - 1"));
        u64::try_from(number).map_err(|_| refused()).and_then(Self::new)
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Fence {
    type Err = InvalidOption;

    /// The number in decimal digits, as [`Display`](fmt::Display) writes it.
    fn from_str(text: &str) -> Result<Self, InvalidOption> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().map_err(|_: ParseIntError| ()).ok().filter(|_| is_plain);
        let number =
            number.ok_or_else(|| InvalidOption::new("fence", format!("{text:?} is not a number")))?;
        Self::new(number)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Fence {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Fence {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// What a claim asks for beside the lease: a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// What the counter is to be raised to, at least: by a grant if the node's clock allows, and by an extension.
    pub fence: Fence,
    /// How long the node keeps the counter after it was last asked for it.
    pub retention: Duration,
}

impl Proposal {
    /// How long counters are kept, unless set: 30 days.
    pub const DEFAULT_RETENTION: Duration = Duration::from_secs(30 * 24 * 60 * 60);

    /// A proposal of `fence`, where counters are kept for `retention`.
    pub const fn new(fence: Fence, retention: Duration) -> Self {
        Self { fence, retention }
    }
}

/// What nodes counted for one holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fenced {
    /// A majority counted to the same.
    Agreed(Fence),
    /// A majority counted, and not alike; this is what a majority can be raised to.
    Diverged(Fence),
    /// No majority counted.
    Uncounted,
}

impl Fenced {
    /// What comes of `counters`: for each node that has the lease, by a grant that counts, where its counter was when it last
    /// answered.
    ///
    /// SAFETY RULE (protocol §9): a majority has exactly this number. What a few have is a fence only after a majority was raised
    /// to it, by the holder of the leases.
    pub fn by(quorum: Quorum, counters: &(impl Iterator<Item = Fence> + Clone)) -> Self {
        let alike = |fence: Fence| counters.clone().filter(|other| *other == fence).count();
        if let Some(fence) = counters.clone().filter(|fence| alike(*fence) >= quorum.majority()).max() {
            return Self::Agreed(fence);
        }
        // One node that is far ahead does not take the others along, where a majority can do without it.
        let up_to = |fence: Fence| counters.clone().filter(|other| *other <= fence).count();
        let reachable = counters.clone().filter(|fence| up_to(*fence) >= quorum.majority()).min();
        // None, where fewer have counted: what the others have counted before, nobody knows.
        reachable.map_or(Self::Uncounted, Self::Diverged)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_700_000_000_000_000;
    const SECOND: u64 = 1_000_000;

    fn count(counter: Option<u64>, proposal: u64) -> Option<u64> {
        let fence = |number| Fence::new(number).unwrap();
        Fence::count(counter.map(fence), fence(proposal), NOW).map(Fence::as_u64)
    }

    fn by(counters: &[u64], nodes: usize) -> Fenced {
        let counters = counters.iter().map(|number| Fence::new(*number).unwrap());
        Fenced::by(Quorum::of(nodes).unwrap(), &counters)
    }

    #[test]
    fn a_node_counts_to_what_is_proposed_or_one_further() {
        assert_eq!(count(Some(7), NOW), Some(NOW));
        assert_eq!(count(Some(NOW), NOW), Some(NOW + 1));
        assert_eq!(count(Some(NOW + 5), NOW), Some(NOW + 6));
    }

    #[test]
    fn a_wrong_clock_takes_a_counter_no_further_than_a_second_from_the_nodes() {
        assert_eq!(count(Some(7), NOW + 365 * 86_400 * SECOND), Some(NOW + SECOND));
        assert_eq!(count(None, NOW + 365 * 86_400 * SECOND), Some(NOW + SECOND));
        assert_eq!(count(None, 1), Some(NOW - SECOND));
        assert_eq!(count(Some(7), 1), Some(8));
    }

    #[test]
    fn a_counter_at_its_end_counts_no_further() {
        assert_eq!(count(Some(Fence::MAX.as_u64()), NOW), None);
        assert_eq!(Fence::count(None, Fence::MAX, u64::MAX), Some(Fence::MAX));
    }

    #[test]
    fn a_fence_is_what_a_majority_has_exactly() {
        assert_eq!(by(&[5, 5], 3), Fenced::Agreed(Fence(5)));
        assert_eq!(by(&[5, 6], 3), Fenced::Diverged(Fence(6)));
        assert_eq!(by(&[5, 6, 5], 3), Fenced::Agreed(Fence(5)));
        assert_eq!(by(&[900, 5, 6], 3), Fenced::Diverged(Fence(6)), "a majority can do without the first");
        assert_eq!(by(&[6, 6, 5, 5], 5), Fenced::Diverged(Fence(6)));
        assert_eq!(by(&[9], 1), Fenced::Agreed(Fence(9)));
        assert_eq!(by(&[], 1), Fenced::Uncounted);
        assert_eq!(by(&[9], 3), Fenced::Uncounted);
    }

    #[test]
    fn what_is_no_fence_is_refused() {
        let message = |text: &str| text.parse::<Fence>().unwrap_err().to_string();
        assert_eq!(message("0"), "invalid fence: 0 is not between 1 and 2^53 - 1");
        assert_eq!(
            message("9007199254740992"),
            "invalid fence: 9007199254740992 is not between 1 and 2^53 - 1"
        );
        for text in ["", "+5", "-5", "5.0", "99999999999999999999"] {
            assert_eq!(message(text), format!("invalid fence: {text:?} is not a number"));
        }
        assert_eq!("42".parse::<Fence>().unwrap().to_string(), "42");
    }

    #[test]
    fn a_fence_goes_into_a_bigint_and_comes_back() {
        for fence in [Fence::MIN, Fence(NOW), Fence::MAX] {
            let number = i64::from(fence);
            assert_eq!(u64::try_from(number), Ok(fence.as_u64()));
            assert_eq!((Fence::try_from(number).unwrap(), fence.as_i64()), (fence, number));
        }
        for number in [0, -1, i64::MIN, 1 << 53, i64::MAX] {
            let refused = Fence::try_from(number).unwrap_err().to_string();
            assert_eq!(refused, format!("invalid fence: {number} is not between 1 and 2^53 - 1"));
        }
    }

    proptest! {
        #[test]
        fn a_counter_only_grows(counter in prop::option::of(1_u64..1 << 53), proposal in 1_u64..1 << 53, micros: u64) {
            let (counter, proposal) = (counter.map(Fence), Fence(proposal));
            let counted = Fence::count(counter, proposal, micros);
            prop_assert!(counted.is_none_or(|counted| Some(counted) > counter && Fence::new(counted.0).is_ok()));
            prop_assert_eq!(counted.is_none(), counter == Some(Fence::MAX));
        }
    }
}
