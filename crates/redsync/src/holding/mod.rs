//! One token's leases on all nodes, from the first request to the last release.
//!
//! An attempt, the guard it becomes, and the undo of either work on the same [`Holding`]. What is known of each node
//! is recorded here; [`extend`] and [`release`] ask the nodes.

mod extend;
mod release;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::ballot::Nodes;
use crate::clock::Clock;
use crate::options::Terms;
use crate::protocol::{Instant, LeaseEnds, LockName, Quorum};
use crate::service::Reaper;

/// What all locks of one [`Redsync`](crate::Redsync) share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) nodes: Nodes,
    pub(crate) quorum: Quorum,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) reaper: Reaper,
}

/// One token's leases on all nodes.
pub(crate) struct Holding {
    pub(crate) core: Arc<Core>,
    pub(crate) terms: Terms,
    state: Mutex<State>,
}

struct State {
    ends: LeaseEnds,
    marks: Box<[Mark]>,
    /// Which nodes are being asked to release right now. One at a time asks and hears what comes of it; two would
    /// each hear "not held" of what the other had released.
    releasing: Box<[bool]>,
    /// When the last lease that was ever asked for is over for certain, granted or not.
    horizon: Instant,
    /// A majority stood once.
    was_held: bool,
    /// A majority stood once and does no longer. Final: nothing makes it valid again.
    is_over: bool,
    is_released: bool,
}

/// What is known of this token on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// It was never asked for there, or was refused, or is released: there is nothing to release.
    None,
    /// It was asked for, and the answer is not known: it may be there, or come to be.
    Asked,
    /// It was granted.
    Granted,
}

impl Holding {
    /// A token on no node yet.
    pub(crate) fn new(core: Arc<Core>, terms: Terms) -> Arc<Self> {
        let state = State {
            ends: LeaseEnds::none(core.quorum),
            marks: vec![Mark::None; core.quorum.nodes()].into(),
            releasing: vec![false; core.quorum.nodes()].into(),
            horizon: Instant::default(),
            was_held: false,
            is_over: false,
            is_released: false,
        };
        Arc::new(Self { core, terms, state: Mutex::new(state) })
    }

    /// Records that a lease is about to be asked for on all nodes: what may come of it must be undone from here on.
    /// Gives the instant that its validity is counted from.
    pub(crate) fn ask(&self) -> Instant {
        // SAFETY RULE (design §3): every bound starts before the first byte is sent.
        let sent = self.core.clock.now();
        self.core.reaper.settle();
        let mut state = self.state();
        state.marks.fill(Mark::Asked);
        state.horizon = sent + self.terms.claim.expiry.as_duration();
        sent
    }

    /// Records that the token, made elsewhere, may have been granted on any node. Nothing of it is under way.
    pub(crate) fn presume(&self) {
        self.core.reaper.settle();
        self.state().marks.fill(Mark::Granted);
    }

    /// Records that node `index` granted what was asked for at `sent`.
    pub(crate) fn granted(&self, index: usize, sent: Instant) {
        self.stands(index, LeaseEnds::end(sent, self.terms.claim.expiry, self.terms.drift));
    }

    /// Records that node `index` holds nothing for this token.
    pub(crate) fn refused(&self, index: usize) {
        let now = self.core.clock.now();
        let mut state = self.state();
        state.marks[index] = Mark::None;
        state.ends.lose(index);
        state.is_past(now);
    }

    /// Whether the token is exclusive now, and was without a break since it was granted.
    pub(crate) fn is_valid(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// How long it will stay exclusive, if nothing is done; zero if it is not.
    pub(crate) fn remaining(&self) -> Duration {
        let now = self.core.clock.now();
        let mut state = self.state();
        match state.ends.valid_until() {
            Some(end) if !state.is_released && !state.is_past(now) => end.saturating_since(now),
            _ => Duration::ZERO,
        }
    }

    /// The instant up to which a majority of leases stands.
    pub(crate) fn valid_until(&self) -> Option<Instant> {
        self.state().ends.valid_until()
    }

    /// Records that node `index` has a lease for this token that ends at `end`.
    fn stands(&self, index: usize, end: Instant) {
        let now = self.core.clock.now();
        let mut state = self.state();
        state.marks[index] = Mark::Granted;
        // SAFETY RULE (design §9): loss is final. A late answer adds nothing to a guard whose time was over.
        if !state.is_past(now) {
            state.ends.grant(index, end);
            state.was_held = state.was_held || state.ends.valid_until().is_some();
        }
    }

    /// Whether the token has been given back, so that it must not be anywhere.
    pub(crate) fn is_released(&self) -> bool {
        self.state().is_released
    }

    fn name(&self) -> LockName {
        self.terms.claim.name.clone()
    }

    fn node_name(&self, index: usize) -> String {
        self.core.nodes[index].to_string()
    }

    fn marked(&self, wanted: impl Fn(Mark) -> bool) -> Vec<usize> {
        let state = self.state();
        (0..state.marks.len()).filter(|&index| wanted(state.marks[index])).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this lock; and if it did, each step is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether the guard's time is over at `now`. Once it is, it stays so.
    fn is_past(&mut self, now: Instant) -> bool {
        let stands = self.ends.valid_until().is_some_and(|end| now < end);
        self.is_over = self.is_over || (self.was_held && !stands);
        self.is_over
    }
}
