//! What is known of one token on each node. No I/O and no clock: requests and answers go in, in whatever order they
//! come, and validity comes out.
//!
//! Requests are numbered in the order in which they are sent. Answers may come in any other: a slow node's answer to an
//! old request may arrive after the answers to newer ones, and must not be taken for news.

use crate::node::{Extended, Released};
use crate::protocol::{Instant, LeaseEnds, Quorum};

/// The number of a request, in the order of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestNumber(u32);

/// What is known of one token on each node.
#[derive(Debug)]
pub(super) struct Ledger {
    ends: LeaseEnds,
    nodes: Box<[Entry]>,
    /// For recent requests, oldest first: the earliest end that it or any later one asked for. Ends ascend.
    asked_ends: Vec<(RequestNumber, Instant)>,
    requests: u32,
    /// When the last lease that was ever asked for is over for certain, granted or not.
    horizon: Instant,
    /// A majority stood once.
    was_held: bool,
    /// A majority stood once and does no longer. Final: nothing makes it valid again.
    is_over: bool,
    is_released: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    mark: Mark,
    /// The newest request that this node has answered.
    heard: RequestNumber,
    /// How many requests are under way, or were lost, that may take the lease again.
    retaking: u8,
    /// Whether the node is being asked to release right now. One at a time asks and hears what comes of it; two would
    /// each hear "not held" of what the other had released.
    is_releasing: bool,
}

/// What the answers to acquiring and releasing say of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// It was never asked for there, or was refused: there is nothing to release.
    None,
    /// It was asked for, and the answer is not known: it may be there, or come to be.
    Asked,
    /// It was granted.
    Granted,
    /// It was there and was released. An answer that was under way meanwhile is out of date.
    Released,
}

impl Entry {
    /// Whether there may be something to release.
    const fn is_open(&self) -> bool {
        matches!(self.mark, Mark::Asked | Mark::Granted) || self.retaking > 0
    }
}

impl Ledger {
    /// How many requests are remembered. An answer to an older one adds no time to the guard.
    const MEMORY: usize = 8;

    /// A token on no node.
    pub(super) fn new(quorum: Quorum) -> Self {
        let entry = Entry { mark: Mark::None, heard: RequestNumber(0), retaking: 0, is_releasing: false };
        Self {
            ends: LeaseEnds::none(quorum),
            nodes: vec![entry; quorum.nodes()].into(),
            asked_ends: Vec::with_capacity(1),
            requests: 0,
            horizon: Instant::default(),
            was_held: false,
            is_over: false,
            is_released: false,
        }
    }

    /// Records that leases that end at `end`, and on the nodes for certain at `horizon`, are about to be asked for
    /// anywhere. From here on nothing later than `end` is believed of any lease: the request may be applied, whether or
    /// not its answer is ever seen.
    pub(super) fn ask(&mut self, end: Instant, horizon: Instant) -> RequestNumber {
        self.requests += 1;
        let number = RequestNumber(self.requests);
        self.ends.cap(end);
        self.asked_ends.iter_mut().for_each(|(_, earliest)| *earliest = (*earliest).min(end));
        if self.asked_ends.len() == Self::MEMORY {
            self.asked_ends.remove(0);
        }
        self.asked_ends.push((number, end));
        self.horizon = self.horizon.max(horizon);
        number
    }

    /// Records that every node is about to be asked to acquire.
    pub(super) fn ask_to_acquire(&mut self) {
        self.nodes.iter_mut().for_each(|entry| entry.mark = Mark::Asked);
    }

    /// Records that the token, made elsewhere, may stand on any node. Nothing of it is under way.
    pub(super) fn presume(&mut self) {
        self.nodes.iter_mut().for_each(|entry| entry.mark = Mark::Granted);
    }

    /// Records that `node` is about to be asked for a lease that it may not have: it may come to have it.
    pub(super) fn ask_to_retake(&mut self, node: usize) {
        let entry = &mut self.nodes[node];
        entry.retaking = entry.retaking.saturating_add(1);
    }

    /// Records that `node` granted what request `number` asked for.
    pub(super) fn granted(&mut self, node: usize, number: RequestNumber, now: Instant) {
        // The release that found it came after: it is gone.
        if self.nodes[node].mark != Mark::Released {
            self.stands(node, number, now);
        }
    }

    /// Records that `node` refused what request `number` asked for: another has the lease, or nothing was applied.
    pub(super) fn refused(&mut self, node: usize, number: RequestNumber, now: Instant) {
        if self.is_news(node, number) {
            self.nodes[node].mark = Mark::None;
            self.ends.lose(node);
            self.is_past(now);
        }
    }

    /// Records `node`'s answer to request `number` to extend; `was_retaking` if that could take the lease again.
    pub(super) fn extended(
        &mut self,
        node: usize,
        number: RequestNumber,
        extended: &Extended,
        was_retaking: bool,
        now: Instant,
    ) {
        if was_retaking {
            self.not_retaken(node);
        }
        match extended {
            Extended::Extended | Extended::Retaken => self.stands(node, number, now),
            Extended::NotHeld | Extended::HeldByAnother(_) => {
                if self.is_news(node, number) {
                    // Where the answer to acquiring was never seen, "not held" may only mean "not yet".
                    if self.nodes[node].mark == Mark::Granted {
                        self.nodes[node].mark = Mark::None;
                    }
                    self.ends.lose(node);
                    self.is_past(now);
                }
            }
        }
    }

    /// Records that a request that might have taken `node`'s lease again was answered, or certainly not applied.
    pub(super) fn not_retaken(&mut self, node: usize) {
        let entry = &mut self.nodes[node];
        entry.retaking = entry.retaking.saturating_sub(1);
    }

    /// Which nodes may have the token, or, with `everywhere`, all.
    pub(super) fn holders(&self, everywhere: bool) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&node| everywhere || self.nodes[node].is_open()).collect()
    }

    /// Whether some node may have the token.
    pub(super) fn is_open(&self) -> bool {
        self.nodes.iter().any(Entry::is_open)
    }

    /// Whether some node is known to have the token.
    pub(super) fn is_granted_somewhere(&self) -> bool {
        self.nodes.iter().any(|entry| entry.mark == Mark::Granted)
    }

    /// The instant up to which a majority of leases stands.
    pub(super) fn valid_until(&self) -> Option<Instant> {
        self.ends.valid_until()
    }

    /// Whether the token's time is over at `now`. Once it is, it stays so.
    pub(super) fn is_past(&mut self, now: Instant) -> bool {
        let stands = self.ends.valid_until().is_some_and(|end| now < end);
        self.is_over = self.is_over || (self.was_held && !stands);
        self.is_over
    }

    /// When the last lease that was ever asked for is over for certain.
    pub(super) fn horizon(&self) -> Instant {
        self.horizon
    }

    /// Whether the token has been given back, so that it must not be anywhere.
    pub(super) fn is_released(&self) -> bool {
        self.is_released
    }

    /// Records that the token is given back.
    pub(super) fn give_back(&mut self) {
        self.is_released = true;
    }

    /// Takes the nodes that are to be asked to release, and that nobody else is asking: those that may have the token,
    /// or only those that are known to. They are the caller's until each has been [answered](Self::released) or
    /// [left](Self::leave).
    pub(super) fn take(&mut self, only_granted: bool) -> Vec<(usize, Mark)> {
        // SAFETY RULE (design §4): a node that answered "taken" is never sent a release: it has no mark.
        let wanted = |entry: &Entry| match only_granted {
            true => entry.mark == Mark::Granted,
            false => entry.is_open(),
        };
        let free =
            self.nodes.iter_mut().enumerate().filter(|(_, entry)| wanted(entry) && !entry.is_releasing);
        free.map(|(node, entry)| {
            entry.is_releasing = true;
            (node, entry.mark)
        })
        .collect()
    }

    /// Gives `node` back without an answer.
    pub(super) fn leave(&mut self, node: usize) {
        self.nodes[node].is_releasing = false;
    }

    /// Records `node`'s answer to a release that was asked when its mark was `before`.
    pub(super) fn released(&mut self, node: usize, before: Mark, released: &Released) {
        self.leave(node);
        self.ends.lose(node);
        let entry = &mut self.nodes[node];
        match released {
            Released::Released => entry.mark = Mark::Released,
            // Where the answer to acquiring had not been seen, "not held" may only mean "not yet".
            Released::NotHeld if before == Mark::Asked => {}
            Released::NotHeld | Released::HeldByAnother(_) => entry.mark = Mark::None,
        }
    }

    fn stands(&mut self, node: usize, number: RequestNumber, now: Instant) {
        self.nodes[node].mark = Mark::Granted;
        if !self.is_news(node, number) {
            return;
        }
        // The end that this request asked for, or an earlier one that a later request may have set meanwhile.
        let end = self.asked_ends.iter().find(|(asked, _)| *asked == number).map(|(_, end)| *end);
        // SAFETY RULE (design §9): loss is final. A late answer adds nothing to a guard whose time was over.
        if let Some(end) = end.filter(|_| !self.is_past(now)) {
            self.ends.grant(node, end);
            self.was_held = self.was_held || self.ends.valid_until().is_some();
        }
    }

    /// Whether `node` has answered no later request yet; from here on it has answered this one.
    fn is_news(&mut self, node: usize, number: RequestNumber) -> bool {
        let heard = &mut self.nodes[node].heard;
        let is_news = *heard <= number;
        *heard = (*heard).max(number);
        is_news
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::node::{Holder, TimeLeft};

    fn at(millis: u64) -> Instant {
        Instant::default() + Duration::from_millis(millis)
    }

    fn over(nodes: usize) -> Ledger {
        Ledger::new(Quorum::of(nodes).unwrap())
    }

    /// A ledger whose first request, to acquire until `end`, was granted by `granted`.
    fn acquired(nodes: usize, granted: &[usize], end: u64) -> (Ledger, RequestNumber) {
        let mut ledger = over(nodes);
        let number = ledger.ask(at(end), at(end));
        ledger.ask_to_acquire();
        granted.iter().for_each(|&node| ledger.granted(node, number, at(0)));
        (ledger, number)
    }

    #[test]
    fn a_late_answer_does_not_override_a_newer_and_shorter_end() {
        let (mut ledger, _) = acquired(1, &[0], 8000);
        let longer = ledger.ask(at(8000), at(8000));
        let shorter = ledger.ask(at(100), at(8000));
        ledger.extended(0, shorter, &Extended::Extended, false, at(1));
        ledger.extended(0, longer, &Extended::Extended, false, at(2));
        assert_eq!(ledger.valid_until(), Some(at(100)));
    }

    #[test]
    fn an_answer_is_worth_no_more_than_the_shortest_end_asked_for_since() {
        let (mut ledger, acquire) = acquired(3, &[0, 1], 8000);
        let shorter = ledger.ask(at(100), at(8000));
        ledger.extended(0, shorter, &Extended::Extended, false, at(1));
        ledger.extended(1, shorter, &Extended::Extended, false, at(1));
        // The third node's old answer comes now; whether it has heard of the shorter end is not known.
        ledger.granted(2, acquire, at(2));
        let longer = ledger.ask(at(9000), at(9000));
        ledger.extended(0, longer, &Extended::Extended, false, at(3));
        assert_eq!(ledger.valid_until(), Some(at(100)));
    }

    #[test]
    fn longer_ends_count_as_they_are_answered() {
        let (mut ledger, _) = acquired(3, &[0, 1, 2], 8000);
        let mut last = 8000;
        for _ in 0..20 {
            last += 1000;
            let number = ledger.ask(at(last), at(last));
            ledger.extended(0, number, &Extended::Extended, false, at(0));
            ledger.extended(2, number, &Extended::Extended, false, at(0));
            assert_eq!(ledger.valid_until(), Some(at(last)));
        }
    }

    #[test]
    fn not_held_is_not_certain_where_the_answer_to_acquiring_was_never_seen() {
        let (mut ledger, _) = acquired(3, &[0, 1], 8000);
        let number = ledger.ask(at(9000), at(9000));
        ledger.extended(2, number, &Extended::NotHeld, false, at(1));
        assert_eq!(ledger.holders(false), [0, 1, 2], "the request may still arrive there");
    }

    #[test]
    fn what_may_be_taken_again_is_released_until_that_is_answered() {
        let (mut ledger, _) = acquired(1, &[0], 8000);
        let number = ledger.ask(at(9000), at(9000));
        ledger.ask_to_retake(0);
        ledger.give_back();
        let [(0, before)] = ledger.take(false)[..] else { panic!("the node is asked to release") };
        ledger.released(0, before, &Released::NotHeld);
        assert!(ledger.is_open(), "the late request may take it again");
        ledger.extended(0, number, &Extended::Retaken, true, at(1));
        assert_eq!(ledger.holders(false), [0]);
        let [(0, before)] = ledger.take(false)[..] else { panic!("the node is asked again") };
        ledger.released(0, before, &Released::Released);
        assert!(!ledger.is_open());
    }

    #[test]
    fn an_old_refusal_does_not_undo_a_newer_grant() {
        let (mut ledger, acquire) = acquired(3, &[0, 1], 8000);
        let number = ledger.ask(at(9000), at(9000));
        ledger.ask_to_retake(2);
        ledger.extended(2, number, &Extended::Retaken, true, at(1));
        ledger.refused(2, acquire, at(2));
        assert_eq!(ledger.holders(false), [0, 1, 2]);
    }

    #[test]
    fn an_answer_that_was_under_way_during_the_release_is_out_of_date() {
        let (mut ledger, acquire) = acquired(1, &[], 8000);
        let [(0, before)] = ledger.take(false)[..] else { panic!("the node is asked to release") };
        ledger.released(0, before, &Released::Released);
        ledger.granted(0, acquire, at(1));
        assert!(!ledger.is_open());
    }

    #[test]
    fn a_node_is_asked_to_release_by_one_at_a_time() {
        let (mut ledger, _) = acquired(2, &[0, 1], 8000);
        assert_eq!(ledger.take(false).len(), 2);
        assert_eq!(ledger.take(false).len(), 0);
        ledger.leave(1);
        assert_eq!(ledger.take(false).len(), 1);
    }

    #[test]
    fn what_is_over_stays_over() {
        let (mut ledger, _) = acquired(1, &[0], 8000);
        let number = ledger.ask(at(20_000), at(20_000));
        assert!(ledger.is_past(at(8000)));
        ledger.extended(0, number, &Extended::Extended, false, at(8001));
        assert!(ledger.is_past(at(8002)));
        let another = Extended::HeldByAnother(Holder::new("other", TimeLeft::Unknown));
        ledger.extended(0, number, &another, false, at(8003));
        assert!(ledger.is_past(at(0)), "even if time went back");
    }
}
