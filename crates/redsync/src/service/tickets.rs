//! Who came first: tickets, drawn by clocks that can be believed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::protocol::{Instant, RequestTimeout, Ticket};

/// Draws tickets, and knows the nodes' clocks and how far away they are.
pub(crate) struct Tickets {
    nodes: Box<[Mutex<NodeClock>]>,
    last: AtomicU64,
}

/// What is known of a node from its answers.
#[derive(Clone, Copy, Debug, Default)]
struct NodeClock {
    /// How long it takes to answer, smoothed.
    round_trip: Duration,
    /// It has answered a request.
    has_answered: bool,
    clock: Option<ClockSample>,
}

/// A look at a node's clock: what it showed, in microseconds, at some instant between two.
#[derive(Clone, Copy, Debug)]
struct ClockSample {
    micros: u64,
    sent: Instant,
    received: Instant,
}

impl Tickets {
    pub(super) fn new(nodes: usize) -> Self {
        Self { nodes: (0..nodes).map(|_| Mutex::default()).collect(), last: AtomicU64::new(0) }
    }

    /// The ticket of one who comes now: by the wall clock, as far as the nodes' clocks agree with it, and after all that
    /// this process drew before.
    pub(crate) fn draw(&self, clock: &Arc<dyn Clock>, now: Instant) -> Ticket {
        let micros = self.corrected(clock.wall_micros(), now, Duration::ZERO);
        let drawn = |last: u64| micros.max(last.saturating_add(1));
        let last = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(drawn(last)))
            .unwrap_or_default();
        Ticket::from_micros(drawn(last))
    }

    /// What a ticket would be that is drawn now, if no other had been drawn before.
    pub(crate) fn time(&self, clock: &Arc<dyn Clock>, now: Instant) -> Ticket {
        Ticket::from_micros(self.corrected(clock.wall_micros(), now, Duration::ZERO))
    }

    /// The ticket to take in place of one that was drawn by a clock that turns out to be wrong.
    pub(super) fn correction(&self, ticket: Ticket, drawn: Instant) -> Option<Ticket> {
        let micros = ticket.as_micros();
        let corrected = self.corrected(micros, drawn, TOLERANCE);
        if corrected == micros {
            return None;
        }
        // Later ones are not to follow a clock that was ahead.
        self.last.fetch_min(corrected, Ordering::Relaxed);
        Some(Ticket::from_micros(corrected))
    }

    /// `micros`, read at `at`; or the nearest to it that most nodes' clocks can have shown then, where it is further from
    /// that than is tolerated.
    ///
    /// One caller's wrong clock must not put it before those who came earlier, nor behind those who come later.
    fn corrected(&self, micros: u64, at: Instant, tolerated: Duration) -> u64 {
        let tolerated = u64::try_from(tolerated.as_micros()).unwrap_or(u64::MAX);
        // Most are right: then it is enough to count the clocks that it is not behind, and those that it is not ahead of.
        let (mut known, mut not_behind, mut not_ahead) = (0, 0, 0);
        for (least, most) in self.shown(at) {
            known += 1;
            not_behind += usize::from(least.saturating_sub(tolerated) <= micros);
            not_ahead += usize::from(micros <= most.saturating_add(tolerated));
        }
        // Fewer than a majority may all be wrong.
        let is_unknown = known <= self.nodes.len() / 2;
        if is_unknown || (not_behind > known / 2 && not_ahead >= known - known / 2) {
            return micros;
        }
        let (mut least, mut most): (Vec<u64>, Vec<u64>) = self.shown(at).unzip();
        least.sort_unstable();
        most.sort_unstable();
        let (least, most) = (least[least.len() / 2], most[most.len() / 2]);
        micros.clamp(least.min(most), most.max(least))
    }

    /// The least and the most that each of those nodes' clocks can have shown at `at` that have been seen.
    fn shown(&self, at: Instant) -> impl Iterator<Item = (u64, u64)> {
        let sample = |node: &Mutex<NodeClock>| node.lock().unwrap_or_else(PoisonError::into_inner).clock;
        let seen = self.nodes.iter().filter_map(sample);
        seen.map(move |sample| (sample.at(at, sample.received), sample.at(at, sample.sent)))
    }

    /// Takes down that node `index` answered a request sent at `sent`, and what its clock showed.
    pub(crate) fn answered(&self, index: usize, sent: Instant, now: Instant, micros: u64) {
        let took = now.saturating_since(sent);
        let mut node = self.node(index);
        node.has_answered = true;
        node.round_trip = match node.round_trip {
            Duration::ZERO => took,
            former => (former * 7 + took) / 8,
        };
        let sample = ClockSample { micros, sent, received: now };
        if node.clock.is_none_or(|former| sample.width() <= former.width() + former.age(now) / 1_000) {
            node.clock = Some(sample);
        }
    }

    /// Takes down that node `index` answered a request that was not about a place.
    pub(crate) fn heard(&self, index: usize) {
        self.node(index).has_answered = true;
    }

    /// Whether node `index` answered earlier, and may answer yet though it has been silent for `silent`: for three of its round
    /// trips or 50 ms, whichever is longer.
    pub(crate) fn may_yet_answer(&self, index: usize, silent: Duration) -> bool {
        let node = self.node(index);
        node.has_answered && silent < (node.round_trip * 3).max(RequestTimeout::LEAST)
    }

    /// How long one who has too few leases waits for more before it yields them: a few of the slowest node's round trips.
    pub(crate) fn claim_window(&self) -> Duration {
        let round_trip =
            |node: &Mutex<NodeClock>| node.lock().unwrap_or_else(PoisonError::into_inner).round_trip;
        let slowest = self.nodes.iter().map(round_trip).max().unwrap_or_default();
        (slowest * 3).clamp(WINDOW_LEAST, WINDOW_MOST)
    }

    fn node(&self, index: usize) -> MutexGuard<'_, NodeClock> {
        self.nodes[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClockSample {
    /// What the clock shows at `at`, if it showed this at `seen`.
    fn at(&self, at: Instant, seen: Instant) -> u64 {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        match at >= seen {
            true => self.micros.saturating_add(micros(at.saturating_since(seen))),
            false => self.micros.saturating_sub(micros(seen.saturating_since(at))),
        }
    }

    /// How exact it is.
    fn width(&self) -> Duration {
        self.received.saturating_since(self.sent)
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_since(self.received)
    }
}

/// How far a ticket may be from what the nodes' clocks can have shown before it is exchanged for another: their clocks
/// differ, too.
const TOLERANCE: Duration = Duration::from_millis(25);

const WINDOW_LEAST: Duration = Duration::from_millis(3);
const WINDOW_MOST: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::DrivenClock;

    fn at(micros: u64) -> Instant {
        Instant::from_nanos(micros * 1_000)
    }

    #[test]
    fn tickets_only_grow() {
        let (drawing, clock) = (Tickets::new(1), Arc::new(DrivenClock::new()) as Arc<dyn Clock>);
        let tickets: Vec<Ticket> = (0..100).map(|_| drawing.draw(&clock, clock.now())).collect();
        assert!(tickets.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn a_ticket_is_what_the_wall_clock_shows_as_long_as_the_nodes_can_agree() {
        let tickets = Tickets::new(1);
        tickets.answered(0, at(1_000), at(3_000), 50_000);
        // The node's clock showed 50,000 at some time from 1,000 to 3,000; at 10,000 it shows 57,000 to 59,000.
        assert_eq!(tickets.corrected(58_000, at(10_000), Duration::ZERO), 58_000);
        assert_eq!(tickets.corrected(10, at(10_000), Duration::ZERO), 57_000, "a clock that is behind");
        assert_eq!(tickets.corrected(1_000_000, at(10_000), Duration::ZERO), 59_000, "one that is ahead");
    }

    #[test]
    fn a_ticket_that_was_drawn_by_a_wrong_clock_is_corrected_once_that_is_known() {
        let tickets = Tickets::new(3);
        let (right, wrong) = (Ticket::from_micros(1_000_000), Ticket::from_micros(9_000_000_000));
        assert_eq!(tickets.correction(wrong, at(1_000_000)), None, "nothing is known yet");
        for node in 0..2 {
            tickets.answered(node, at(1_000_000), at(1_000_100), 1_000_050);
        }
        assert_eq!(tickets.correction(right, at(1_000_000)), None);
        assert_eq!(tickets.correction(wrong, at(1_000_000)), Some(Ticket::from_micros(1_000_050)));
    }

    #[test]
    fn the_clock_of_one_node_of_three_decides_nothing_alone() {
        let tickets = Tickets::new(3);
        tickets.answered(0, at(1_000_000), at(1_000_100), 1_000_050);
        let ticket = Ticket::from_micros(9_000_000_000);
        assert_eq!(tickets.correction(ticket, at(1_000_000)), None, "it may itself be wrong");
        tickets.answered(1, at(1_000_000), at(1_000_100), 1_000_050);
        assert!(tickets.correction(ticket, at(1_000_000)).is_some());
    }

    #[test]
    fn one_node_of_three_with_a_wrong_clock_changes_nothing() {
        let tickets = Tickets::new(3);
        for (node, micros) in [(0, 1_000), (1, 999_000_000), (2, 1_010)] {
            tickets.answered(node, at(990), at(1_010), micros);
        }
        assert_eq!(tickets.correction(Ticket::from_micros(1_000), at(1_000)), None);
    }
}
