//! What is known of one token on each node. No I/O and no clock: requests and answers go in, in whatever order they
//! come, and validity comes out.
//!
//! Requests are numbered in the order in which they are asked. Nodes may apply them in another order, and answers may come in
//! yet another: by two connections, by a second trip, by threads that were held up. So an answer to an old request is no news
//! after those to newer ones; and an answer is worth no more than *any* request that the node may have applied after it,
//! older ones that are still unanswered among them.

use std::time::Duration;

use crate::node::{Extended, Released};
use crate::protocol::{Instant, LeaseEnds, Quorum};

/// The number of a request, in the order of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestNumber(u32);

/// What is known of one token on each node.
#[derive(Debug)]
pub(super) struct Ledger {
    ends: LeaseEnds,
    nodes: Box<[Entry]>,
    /// Recent requests, oldest first.
    asked: Vec<Asked>,
    requests: u32,
    /// When the last lease that was ever asked for is over for certain, granted or not.
    horizon: Instant,
    /// A majority stood once.
    was_held: bool,
    /// A majority stood once and does no longer. Final: nothing makes it valid again.
    is_over: bool,
    is_released: bool,
    /// Somebody else goes on with the token.
    is_handed_on: bool,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    number: RequestNumber,
    /// Before its first byte was sent.
    sent: Instant,
    /// The earliest end that it or any later one asked for.
    earliest_end: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    mark: Mark,
    /// The newest request that this node has answered.
    heard: RequestNumber,
    /// How many requests the node has not answered, and the shortest that any of them lets a lease last, counted from when
    /// it is applied. A lost one counts for ever: nobody knows when it arrives.
    unanswered: u32,
    shortest_unanswered: Duration,
    /// How many of these extend.
    extending: u32,
    /// How many of these may take the lease again.
    retaking: u32,
    /// Such a request was answered while the node was being asked to release: which came first is not known.
    stood_meanwhile: bool,
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
    fn ask(&mut self, trusted: Duration) {
        self.unanswered += 1;
        self.shortest_unanswered = self.shortest_unanswered.min(trusted);
    }

    /// Takes a request off those that are not answered, and gives the shortest that any of them lets a lease last.
    fn hear(&mut self) -> Duration {
        let shortest = self.shortest_unanswered;
        self.unanswered = self.unanswered.saturating_sub(1);
        if self.unanswered == 0 {
            self.shortest_unanswered = Duration::MAX;
        }
        shortest
    }

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
        let entry = Entry {
            mark: Mark::None,
            heard: RequestNumber(0),
            unanswered: 0,
            shortest_unanswered: Duration::MAX,
            extending: 0,
            retaking: 0,
            stood_meanwhile: false,
            is_releasing: false,
        };
        Self {
            ends: LeaseEnds::none(quorum),
            nodes: vec![entry; quorum.nodes()].into(),
            asked: Vec::with_capacity(1),
            requests: 0,
            horizon: Instant::default(),
            was_held: false,
            is_over: false,
            is_released: false,
            is_handed_on: false,
        }
    }

    /// Records that leases are about to be asked for, by a request that is sent after `sent`; each is believed to last for
    /// `trusted` after that, and is over for certain at `horizon`. From here on nothing later is believed of any lease:
    /// the request may be applied, whether or not its answer is ever seen.
    pub(super) fn ask(&mut self, sent: Instant, trusted: Duration, horizon: Instant) -> RequestNumber {
        self.requests += 1;
        let number = RequestNumber(self.requests);
        let end = sent + trusted;
        self.ends.cap(end);
        self.asked.iter_mut().for_each(|older| older.earliest_end = older.earliest_end.min(end));
        if self.asked.len() == Self::MEMORY {
            self.asked.remove(0);
        }
        self.asked.push(Asked { number, sent, earliest_end: end });
        self.horizon = self.horizon.max(horizon);
        number
    }

    /// Records that every node is about to be asked to acquire.
    pub(super) fn ask_to_acquire(&mut self, trusted: Duration) {
        for entry in &mut self.nodes {
            entry.mark = Mark::Asked;
            entry.ask(trusted);
        }
    }

    /// Records that `node` is about to be asked to extend; `may_retake` if the lease may come to be there by that.
    pub(super) fn ask_to_extend(&mut self, node: usize, trusted: Duration, may_retake: bool) {
        let entry = &mut self.nodes[node];
        entry.ask(trusted);
        entry.extending += 1;
        entry.retaking += u32::from(may_retake);
    }

    /// Records that the token, made elsewhere, may stand on any node; and that an extension of that side's may be under way
    /// to each, which lets the lease last for `under_way`.
    pub(super) fn presume(&mut self, under_way: Option<Duration>) {
        for entry in &mut self.nodes {
            entry.mark = Mark::Granted;
            if let Some(trusted) = under_way {
                entry.ask(trusted);
                entry.extending += 1;
            }
        }
    }

    /// The shortest that any extension which a node has not answered lets a lease last.
    pub(super) fn shortest_extension_under_way(&self) -> Option<Duration> {
        let extending = self.nodes.iter().filter(|entry| entry.extending > 0);
        extending.map(|entry| entry.shortest_unanswered).min()
    }

    /// Records that `node` granted what request `number` asked for.
    pub(super) fn granted(&mut self, node: usize, number: RequestNumber, now: Instant) {
        let shortest = self.nodes[node].hear();
        // The release that found it came after: it is gone.
        if self.nodes[node].mark != Mark::Released {
            self.stands(node, number, shortest, now);
        }
    }

    /// Records that `node` granted what request `number` asked for, but may have forgotten that another has it.
    ///
    /// SAFETY RULE (design §11): the lease is there to be released, and counts for nothing.
    pub(super) fn granted_in_doubt(&mut self, node: usize, number: RequestNumber) {
        self.nodes[node].hear();
        if self.nodes[node].mark != Mark::Released {
            self.nodes[node].mark = Mark::Granted;
            self.is_news(node, number);
        }
    }

    /// Records that `node` refused what request `number` asked for: another has the lease, or nothing was applied.
    pub(super) fn refused(&mut self, node: usize, number: RequestNumber, now: Instant) {
        self.nodes[node].hear();
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
        let shortest = self.not_extended(node, was_retaking);
        match extended {
            Extended::Extended | Extended::Retaken => {
                let entry = &mut self.nodes[node];
                entry.stood_meanwhile |= was_retaking && entry.is_releasing;
                self.stands(node, number, shortest, now);
            }
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

    /// Records that a request to extend will not be applied by `node` any more: it was answered, or never was sent.
    pub(super) fn not_extended(&mut self, node: usize, was_retaking: bool) -> Duration {
        let entry = &mut self.nodes[node];
        entry.extending = entry.extending.saturating_sub(1);
        entry.retaking = entry.retaking.saturating_sub(was_retaking.into());
        entry.hear()
    }

    /// Which nodes may have the token.
    pub(super) fn holders(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&node| self.nodes[node].is_open()).collect()
    }

    /// Which nodes are not known to have it.
    pub(super) fn missing(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&node| self.nodes[node].mark != Mark::Granted).collect()
    }

    /// Whether some node may have the token.
    pub(super) fn is_open(&self) -> bool {
        self.nodes.iter().any(Entry::is_open)
    }

    /// Whether `node` is known to have the token.
    pub(super) fn is_granted_on(&self, node: usize) -> bool {
        self.nodes[node].mark == Mark::Granted
    }

    /// Whether some node is known to have the token.
    pub(super) fn is_granted_somewhere(&self) -> bool {
        self.nodes.iter().any(|entry| entry.mark == Mark::Granted)
    }

    /// The instant up to which a majority of leases stands.
    pub(super) fn valid_until(&self) -> Option<Instant> {
        self.ends.valid_until()
    }

    /// Whether the token's time was over at `now`, or before it was given back. Once it is, it stays so.
    pub(super) fn is_past(&mut self, now: Instant) -> bool {
        let stands = self.ends.valid_until().is_some_and(|end| now < end);
        self.is_over = self.is_over || (self.was_held && self.is_kept() && !stands);
        self.is_over
    }

    /// Whether the token has no end: it has not been given back or handed on.
    pub(super) fn is_kept(&self) -> bool {
        !self.is_released && !self.is_handed_on
    }

    /// Records that somebody else goes on with the token, from `now` on.
    pub(super) fn hand_on(&mut self, now: Instant) {
        self.is_past(now);
        self.is_handed_on = true;
    }

    /// When the last lease that was ever asked for is over for certain.
    pub(super) fn horizon(&self) -> Instant {
        self.horizon
    }

    /// Whether the token has been given back, so that it must not be anywhere.
    pub(super) fn is_released(&self) -> bool {
        self.is_released
    }

    /// Records that the token is given back at `now`.
    pub(super) fn give_back(&mut self, now: Instant) {
        self.is_past(now);
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
            entry.stood_meanwhile = false;
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
        if entry.stood_meanwhile {
            entry.mark = Mark::Granted;
        }
    }

    fn stands(&mut self, node: usize, number: RequestNumber, shortest: Duration, now: Instant) {
        self.nodes[node].mark = Mark::Granted;
        if !self.is_news(node, number) {
            return;
        }
        // No later than any later request asked for, and no longer than any lets it last that may be applied after this
        // one: that is after this one was sent.
        let asked = self.asked.iter().find(|asked| asked.number == number);
        let end = asked.map(|asked| asked.earliest_end.min(asked.sent + shortest));
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
    use super::*;
    use crate::node::{Holder, TimeLeft};

    fn at(millis: u64) -> Instant {
        Instant::default() + Duration::from_millis(millis)
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Asks all nodes at `sent` to extend for so long.
    fn extend(ledger: &mut Ledger, sent: u64, trusted: u64, may_retake: bool) -> RequestNumber {
        let number = ledger.ask(at(sent), millis(trusted), at(sent + trusted));
        (0..ledger.nodes.len()).for_each(|node| ledger.ask_to_extend(node, millis(trusted), may_retake));
        number
    }

    fn over(nodes: usize) -> Ledger {
        Ledger::new(Quorum::of(nodes).unwrap())
    }

    /// A ledger whose first request, to acquire until `end`, was granted by `granted`.
    fn acquired(nodes: usize, granted: &[usize], end: u64) -> (Ledger, RequestNumber) {
        let mut ledger = over(nodes);
        let number = ledger.ask(at(0), millis(end), at(end));
        ledger.ask_to_acquire(millis(end));
        granted.iter().for_each(|&node| ledger.granted(node, number, at(0)));
        (ledger, number)
    }

    #[test]
    fn a_late_answer_does_not_override_a_newer_and_shorter_end() {
        let (mut ledger, _) = acquired(1, &[0], 8000);
        let longer = extend(&mut ledger, 0, 8000, false);
        let shorter = extend(&mut ledger, 0, 100, false);
        ledger.extended(0, shorter, &Extended::Extended, false, at(1));
        ledger.extended(0, longer, &Extended::Extended, false, at(2));
        assert_eq!(ledger.valid_until(), Some(at(100)));
    }

    #[test]
    fn an_answer_is_worth_no_more_than_the_shortest_end_asked_for_since() {
        let (mut ledger, acquire) = acquired(3, &[0, 1], 8000);
        let shorter = extend(&mut ledger, 0, 100, false);
        ledger.extended(0, shorter, &Extended::Extended, false, at(1));
        ledger.extended(1, shorter, &Extended::Extended, false, at(1));
        // The third node's old answer comes now; whether it has heard of the shorter end is not known.
        ledger.granted(2, acquire, at(2));
        let longer = extend(&mut ledger, 1000, 8000, false);
        ledger.extended(0, longer, &Extended::Extended, false, at(3));
        assert_eq!(ledger.valid_until(), Some(at(100)));
    }

    #[test]
    fn an_older_and_shorter_request_may_be_applied_after_a_newer_and_longer_one() {
        let (mut ledger, _) = acquired(1, &[0], 8000);
        let shorter = extend(&mut ledger, 10, 100, false);
        let longer = extend(&mut ledger, 20, 8000, false);
        ledger.extended(0, longer, &Extended::Extended, false, at(30));
        assert_eq!(
            ledger.valid_until(),
            Some(at(120)),
            "the shorter may be applied any time after the longer was sent"
        );
        ledger.extended(0, shorter, &Extended::Extended, false, at(40));
        let newer = extend(&mut ledger, 50, 8000, false);
        ledger.extended(0, newer, &Extended::Extended, false, at(60));
        assert_eq!(ledger.valid_until(), Some(at(8050)), "all are answered");
    }

    #[test]
    fn a_lost_request_that_is_shorter_bounds_all_that_come_after() {
        let (mut ledger, _) = acquired(1, &[0], 8000);
        extend(&mut ledger, 10, 100, false);
        for sent in [20, 60, 90] {
            let longer = extend(&mut ledger, sent, 8000, false);
            ledger.extended(0, longer, &Extended::Extended, false, at(sent + 1));
            assert_eq!(ledger.valid_until(), Some(at(sent + 100)));
        }
    }

    #[test]
    fn a_lost_request_of_the_same_length_costs_nothing() {
        let (mut ledger, _) = acquired(1, &[0], 8000);
        extend(&mut ledger, 1000, 8000, false);
        let number = extend(&mut ledger, 2000, 8000, false);
        ledger.extended(0, number, &Extended::Extended, false, at(2001));
        assert_eq!(ledger.valid_until(), Some(at(10_000)));
    }

    #[test]
    fn what_stood_again_while_it_was_released_is_released_again() {
        let (mut ledger, _) = acquired(1, &[0], 8000);
        let number = extend(&mut ledger, 1000, 8000, true);
        let [(0, before)] = ledger.take(false)[..] else { panic!("the node is asked to release") };
        ledger.extended(0, number, &Extended::Retaken, true, at(1));
        ledger.released(0, before, &Released::NotHeld);
        assert_eq!(ledger.holders(), [0]);
    }

    #[test]
    fn longer_ends_count_as_they_are_answered() {
        let (mut ledger, _) = acquired(3, &[0, 1, 2], 8000);
        let mut last = 8000;
        for _ in 0..20 {
            last += 1000;
            let number = extend(&mut ledger, last - 8000, 8000, false);
            ledger.extended(0, number, &Extended::Extended, false, at(0));
            ledger.extended(2, number, &Extended::Extended, false, at(0));
            assert_eq!(ledger.valid_until(), Some(at(last)));
        }
    }

    #[test]
    fn not_held_is_not_certain_where_the_answer_to_acquiring_was_never_seen() {
        let (mut ledger, _) = acquired(3, &[0, 1], 8000);
        let number = extend(&mut ledger, 1000, 8000, false);
        ledger.extended(2, number, &Extended::NotHeld, false, at(1));
        assert_eq!(ledger.holders(), [0, 1, 2], "the request may still arrive there");
    }

    #[test]
    fn what_may_be_taken_again_is_released_until_that_is_answered() {
        let (mut ledger, _) = acquired(1, &[0], 8000);
        let number = extend(&mut ledger, 1000, 8000, true);
        ledger.give_back(at(1000));
        let [(0, before)] = ledger.take(false)[..] else { panic!("the node is asked to release") };
        ledger.released(0, before, &Released::NotHeld);
        assert!(ledger.is_open(), "the late request may take it again");
        ledger.extended(0, number, &Extended::Retaken, true, at(1));
        assert_eq!(ledger.holders(), [0]);
        let [(0, before)] = ledger.take(false)[..] else { panic!("the node is asked again") };
        ledger.released(0, before, &Released::Released);
        assert!(!ledger.is_open());
    }

    #[test]
    fn a_grant_in_doubt_counts_for_nothing_and_is_released() {
        let (mut ledger, acquire) = acquired(3, &[0], 8000);
        ledger.granted_in_doubt(1, acquire);
        assert_eq!(ledger.valid_until(), None);
        assert_eq!(ledger.holders(), [0, 1, 2], "what was granted is to be released");
        let [(0, _), (1, Mark::Granted), (2, Mark::Asked)] = ledger.take(false)[..] else {
            panic!("all are asked to release")
        };
    }

    #[test]
    fn a_last_request_of_who_handed_the_token_on_may_still_be_applied() {
        let mut ledger = over(1);
        ledger.ask(at(0), millis(10_000), at(10_000));
        ledger.presume(Some(millis(1000)));
        let number = extend(&mut ledger, 0, 10_000, false);
        ledger.extended(0, number, &Extended::Extended, false, at(1));
        assert_eq!(ledger.valid_until(), Some(at(1000)));
    }

    #[test]
    fn what_expired_before_it_was_given_back_was_lost() {
        let (mut ledger, _) = acquired(1, &[0], 8000);
        ledger.give_back(at(8000));
        assert!(ledger.is_past(at(8000)));
        let (mut ledger, _) = acquired(1, &[0], 8000);
        ledger.give_back(at(7999));
        assert!(!ledger.is_past(at(8000)), "it was given back in time");
    }

    #[test]
    fn an_old_refusal_does_not_undo_a_newer_grant() {
        let (mut ledger, acquire) = acquired(3, &[0, 1], 8000);
        let number = extend(&mut ledger, 1000, 8000, true);
        ledger.extended(2, number, &Extended::Retaken, true, at(1));
        ledger.refused(2, acquire, at(2));
        assert_eq!(ledger.holders(), [0, 1, 2]);
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
        let number = extend(&mut ledger, 7000, 13_000, false);
        assert!(ledger.is_past(at(8000)));
        ledger.extended(0, number, &Extended::Extended, false, at(8001));
        assert!(ledger.is_past(at(8002)));
        let another = Extended::HeldByAnother(Holder::new("other", TimeLeft::Unknown));
        ledger.extended(0, number, &another, false, at(8003));
        assert!(ledger.is_past(at(0)), "even if time went back");
    }
}
