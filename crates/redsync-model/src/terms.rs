//! What all attempts of one configuration have in common, and what the library makes of time.

use std::time::Duration;

use crate::rules::Rule;
use redsync_proto::{Drift, DriftFactor, Expiry, Instant, LeaseEnds, Quarantine, Quorum};

/// One step of time.
pub(crate) const TICK: Duration = Duration::from_secs(1);
const TICK_MICROS: u64 = 1_000_000;

/// What nodes' clocks show when clients' clocks begin: far enough from zero for clocks that are wrong.
const EPOCH: u64 = 1_000 * TICK_MICROS;

/// How long counters are kept: longer than anything here.
pub(crate) const RETENTION: u64 = 1_000 * TICK_MICROS;

#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) quorum: Quorum,
    pub(crate) expiry: Duration,
    /// How long a lease is believed in, from before it was asked for.
    pub(crate) trusted: Duration,
    pub(crate) quarantine: Quarantine,
    /// How long it lasts on a node, at worst.
    pub(crate) granted_micros: u64,
    pub(crate) broken: Option<Rule>,
}

impl Terms {
    /// Terms on `nodes` nodes for leases of `ticks`; nodes' clocks may run so fast that they last for `hurry` ticks less.
    pub(crate) fn new(nodes: usize, ticks: u8, hurry: u8, broken: Option<Rule>) -> Self {
        let expiry = Expiry::new(TICK * u32::from(ticks)).expect("it is a second at least");
        let share = f64::from(hurry) / f64::from(ticks);
        let factor = DriftFactor::new(share).expect("clocks do not run faster than an expiry");
        let drift = Drift::of(expiry, factor).expect("it leaves some of the expiry");
        let trusted = match broken {
            Some(Rule::DriftIsTakenOff) => expiry.as_duration(),
            _ => LeaseEnds::trusted(expiry, drift),
        };
        Self {
            quorum: Quorum::of(nodes).expect("there are some"),
            expiry: expiry.as_duration(),
            trusted,
            quarantine: Quarantine::of(expiry, drift),
            granted_micros: u64::from(ticks - hurry) * TICK_MICROS,
            broken,
        }
    }

    pub(crate) fn breaks(&self, rule: Rule) -> bool {
        self.broken == Some(rule)
    }
}

/// Clients' clocks at `tick`.
pub(crate) fn instant(tick: u8) -> Instant {
    Instant::default() + TICK * u32::from(tick)
}

/// Nodes' clocks at `tick`; and clients' wall clocks, as far as they are right.
pub(crate) fn micros(tick: u8) -> u64 {
    EPOCH + u64::from(tick) * TICK_MICROS
}

/// The instant by clients' clocks at which nodes' show `micros`.
pub(crate) fn instant_at(micros: u64) -> Instant {
    Instant::default() + Duration::from_micros(micros - EPOCH)
}

/// What a wall clock shows at `tick` that is `offset` ticks ahead.
pub(crate) fn wall_micros(tick: u8, offset: i8) -> u64 {
    micros(tick).saturating_add_signed(i64::from(offset) * TICK_MICROS.cast_signed())
}
