//! What the lease records make of requests and answers, in whatever order they come.

mod fences;
mod giving_back;

use super::*;
use crate::{Holder, TimeLeft};

type Extended = crate::Extended<Holder>;
type Released = crate::Released<Holder>;

fn at(millis: u64) -> Instant {
    Instant::default() + Duration::from_millis(millis)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Asks all nodes at `sent` to extend for so long.
fn extend(ledger: &mut Leases, sent: u64, trusted: u64, may_retake: bool) -> RequestNumber {
    let number = ledger.ask(at(sent), millis(trusted), at(sent + trusted));
    (0..ledger.nodes.len()).for_each(|node| ledger.ask_to_extend(node, millis(trusted), may_retake));
    number
}

fn over(nodes: usize) -> Leases {
    Leases::new(Quorum::of(nodes).unwrap())
}

/// A ledger whose first request, to acquire until `end`, was granted by `granted`.
fn acquired(nodes: usize, granted: &[usize], end: u64) -> (Leases, RequestNumber) {
    let mut ledger = over(nodes);
    let number = ledger.ask(at(0), millis(end), at(end));
    ledger.ask_to_acquire(millis(end));
    granted.iter().for_each(|&node| ledger.granted(node, number, None, at(0)));
    (ledger, number)
}

#[test]
fn a_late_answer_does_not_override_a_newer_and_shorter_end() {
    let (mut ledger, _) = acquired(1, &[0], 8000);
    let longer = extend(&mut ledger, 0, 8000, false);
    let shorter = extend(&mut ledger, 0, 100, false);
    ledger.extended(0, shorter, &Extended::Extended(None), false, at(1));
    ledger.extended(0, longer, &Extended::Extended(None), false, at(2));
    assert_eq!(ledger.valid_until(), Some(at(100)));
}

#[test]
fn an_answer_is_worth_no_more_than_the_shortest_end_asked_for_since() {
    let (mut ledger, acquire) = acquired(3, &[0, 1], 8000);
    let shorter = extend(&mut ledger, 0, 100, false);
    ledger.extended(0, shorter, &Extended::Extended(None), false, at(1));
    ledger.extended(1, shorter, &Extended::Extended(None), false, at(1));
    // The third node's old answer comes now; whether it has heard of the shorter end is not known.
    ledger.granted(2, acquire, None, at(2));
    let longer = extend(&mut ledger, 1000, 8000, false);
    ledger.extended(0, longer, &Extended::Extended(None), false, at(3));
    assert_eq!(ledger.valid_until(), Some(at(100)));
}

#[test]
fn an_older_and_shorter_request_may_be_applied_after_a_newer_and_longer_one() {
    let (mut ledger, _) = acquired(1, &[0], 8000);
    let shorter = extend(&mut ledger, 10, 100, false);
    let longer = extend(&mut ledger, 20, 8000, false);
    ledger.extended(0, longer, &Extended::Extended(None), false, at(30));
    assert_eq!(
        ledger.valid_until(),
        Some(at(120)),
        "the shorter may be applied any time after the longer was sent"
    );
    ledger.extended(0, shorter, &Extended::Extended(None), false, at(40));
    let newer = extend(&mut ledger, 50, 8000, false);
    ledger.extended(0, newer, &Extended::Extended(None), false, at(60));
    assert_eq!(ledger.valid_until(), Some(at(8050)), "all are answered");
}

#[test]
fn a_lost_request_that_is_shorter_bounds_all_that_come_after() {
    let (mut ledger, _) = acquired(1, &[0], 8000);
    extend(&mut ledger, 10, 100, false);
    for sent in [20, 60, 90] {
        let longer = extend(&mut ledger, sent, 8000, false);
        ledger.extended(0, longer, &Extended::Extended(None), false, at(sent + 1));
        assert_eq!(ledger.valid_until(), Some(at(sent + 100)));
    }
}

#[test]
fn a_lost_request_of_the_same_length_costs_nothing() {
    let (mut ledger, _) = acquired(1, &[0], 8000);
    extend(&mut ledger, 1000, 8000, false);
    let number = extend(&mut ledger, 2000, 8000, false);
    ledger.extended(0, number, &Extended::Extended(None), false, at(2001));
    assert_eq!(ledger.valid_until(), Some(at(10_000)));
}

#[test]
fn longer_ends_count_as_they_are_answered() {
    let (mut ledger, _) = acquired(3, &[0, 1, 2], 8000);
    let mut last = 8000;
    for _ in 0..20 {
        last += 1000;
        let number = extend(&mut ledger, last - 8000, 8000, false);
        ledger.extended(0, number, &Extended::Extended(None), false, at(0));
        ledger.extended(2, number, &Extended::Extended(None), false, at(0));
        assert_eq!(ledger.valid_until(), Some(at(last)));
    }
}

#[test]
fn a_grant_in_doubt_counts_for_nothing_and_is_released() {
    let (mut ledger, acquire) = acquired(3, &[0], 8000);
    ledger.granted_unconfirmed(1, acquire);
    assert_eq!(ledger.valid_until(), None);
    assert_eq!(ledger.holders(), [0, 1, 2], "what was granted is to be released");
    let [(0, _), (1, NodeState::Granted), (2, NodeState::Asked)] = ledger.take(false)[..] else {
        panic!("all are asked to release")
    };
}

#[test]
fn a_last_request_of_who_handed_the_token_on_may_still_be_applied() {
    let mut ledger = over(1);
    ledger.ask(at(0), millis(10_000), at(10_000));
    ledger.presume(Some(millis(1000)));
    let number = extend(&mut ledger, 0, 10_000, false);
    ledger.extended(0, number, &Extended::Extended(None), false, at(1));
    assert_eq!(ledger.valid_until(), Some(at(1000)));
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
fn what_is_over_stays_over() {
    let (mut ledger, _) = acquired(1, &[0], 8000);
    let number = extend(&mut ledger, 7000, 13_000, false);
    assert!(ledger.is_past(at(8000)));
    ledger.extended(0, number, &Extended::Extended(None), false, at(8001));
    assert!(ledger.is_past(at(8002)));
    let another = Extended::HeldByAnother(Holder::new("other", TimeLeft::Unknown));
    ledger.extended(0, number, &another, false, at(8003));
    assert!(ledger.is_past(at(0)), "even if time went back");
}

/// Asks `node` at `sent` for a place that is granted for so long.
fn enter(ledger: &mut Leases, node: usize, sent: u64, trusted: u64) -> RequestNumber {
    let number = ledger.ask(at(sent), millis(trusted), at(sent + trusted));
    ledger.ask_to_enter(node, millis(trusted));
    number
}

fn yields(ledger: &mut Leases, node: usize, sent: u64, trusted: u64) -> RequestNumber {
    let number = ledger.ask(at(sent), millis(trusted), at(sent + trusted));
    ledger.ask_to_yield(node, number, millis(trusted));
    number
}

#[test]
fn a_grant_that_is_told_counts_from_when_the_place_was_last_asked_for() {
    let mut ledger = over(1);
    let first = enter(&mut ledger, 0, 0, 8000);
    ledger.queued(0, first, at(1));
    let second = enter(&mut ledger, 0, 2500, 8000);
    ledger.queued(0, second, at(2501));
    assert!(ledger.told(0, second, None, true, at(5000)));
    assert_eq!(ledger.valid_until(), Some(at(2500 + 8000)), "not from when it was heard of");
}

#[test]
fn a_grant_to_a_place_whose_renewal_is_under_way_counts_from_before_that() {
    let mut ledger = over(1);
    let first = enter(&mut ledger, 0, 0, 8000);
    ledger.queued(0, first, at(1));
    let second = enter(&mut ledger, 0, 2500, 8000);
    assert!(ledger.told(0, first, None, true, at(2501)));
    assert_eq!(ledger.valid_until(), Some(at(8000)));
    ledger.granted(0, second, None, at(2502));
    assert_eq!(ledger.valid_until(), Some(at(2500 + 8000)));
}

#[test]
fn a_grant_that_is_told_before_the_place_was_confirmed_stands() {
    let mut ledger = over(1);
    let number = enter(&mut ledger, 0, 0, 8000);
    assert!(ledger.told(0, number, None, true, at(1)));
    // The answer was given before the grant, and is heard after it.
    ledger.queued(0, number, at(2));
    assert_eq!(ledger.valid_until(), Some(at(8000)));
}

#[test]
fn a_grant_to_a_place_that_was_renewed_since_without_having_the_lease_is_over() {
    let mut ledger = over(1);
    let first = enter(&mut ledger, 0, 0, 8000);
    let second = enter(&mut ledger, 0, 9000, 8000);
    ledger.queued(0, second, at(9001));
    // The lease of the first had run out; what tells of it was held up.
    assert!(!ledger.told(0, first, None, true, at(9002)));
    assert_eq!(ledger.valid_until(), None);
}

#[test]
fn a_grant_from_before_a_yield_is_stale_though_the_yield_is_not_answered_yet() {
    let mut ledger = over(3);
    let entered = enter(&mut ledger, 0, 0, 8000);
    assert!(ledger.told(0, entered, None, true, at(1)));
    assert_eq!(ledger.minority(at(2)), [0]);
    let yielded = yields(&mut ledger, 0, 2, 8000);
    assert!(!ledger.told(0, entered, None, true, at(3)));
    assert_eq!(ledger.end_on(0), None);
    ledger.yielded(0, yielded);
    ledger.queued(0, yielded, at(4));
    assert!(ledger.told(0, yielded, None, true, at(5)), "granted anew, after it");
    assert_eq!(ledger.end_on(0), Some(at(2 + 8000)));
}

#[test]
fn a_lease_counts_for_nothing_as_long_as_a_yield_is_unanswered() {
    let mut ledger = over(3);
    let entered = enter(&mut ledger, 0, 0, 8000);
    ledger.granted(0, entered, None, at(1));
    yields(&mut ledger, 0, 10, 8000);
    // It is lost with its connection, and may be applied yet. Asked anew, the node says that the lease stands.
    let again = enter(&mut ledger, 0, 20, 8000);
    ledger.granted(0, again, None, at(21));
    assert_eq!((ledger.end_on(0), ledger.is_yielding()), (None, true));
}

#[test]
fn what_was_asked_before_a_yield_was_answered_may_have_been_granted_before_it() {
    let mut ledger = over(3);
    let entered = enter(&mut ledger, 0, 0, 8000);
    ledger.granted(0, entered, None, at(1));
    let yielded = yields(&mut ledger, 0, 10, 8000);
    // Sent by another connection, it overtakes the yield on the way there, and its answer comes last.
    let overtaking = enter(&mut ledger, 0, 20, 8000);
    ledger.yielded(0, yielded);
    ledger.queued(0, yielded, at(30));
    ledger.granted(0, overtaking, None, at(31));
    assert_eq!(ledger.end_on(0), None);
    let later = enter(&mut ledger, 0, 40, 8000);
    ledger.granted(0, later, None, at(41));
    assert_eq!(ledger.end_on(0), Some(at(40 + 8000)));
}

#[test]
fn what_is_granted_to_the_yield_itself_counts() {
    let mut ledger = over(3);
    let entered = enter(&mut ledger, 0, 0, 8000);
    ledger.granted(0, entered, None, at(1));
    let yielded = yields(&mut ledger, 0, 10, 8000);
    ledger.yielded(0, yielded);
    ledger.granted(0, yielded, None, at(11));
    assert_eq!((ledger.end_on(0), ledger.is_yielding()), (Some(at(10 + 8000)), false));
}

#[test]
fn a_majority_is_never_yielded() {
    let mut ledger = over(3);
    for node in 0..2 {
        let number = enter(&mut ledger, node, 0, 8000);
        assert_eq!(ledger.minority(at(1)), if node == 0 { vec![] } else { vec![0] });
        ledger.granted(node, number, None, at(1));
    }
    assert_eq!(ledger.minority(at(2)), Vec::<usize>::new());
    ledger.give_back(at(3));
    assert_eq!(ledger.minority(at(4)), Vec::<usize>::new(), "what is given back is released, not yielded");
}

#[test]
fn minorities_of_different_ages_do_not_make_a_lock_that_was_lost_before_it_was_had() {
    let mut ledger = over(3);
    let early = enter(&mut ledger, 0, 0, 100);
    ledger.granted(0, early, None, at(1));
    let late = enter(&mut ledger, 1, 200, 100);
    ledger.granted(1, late, None, at(201));
    assert!(!ledger.is_past(at(202)), "there was never a majority at one time");
    let again = enter(&mut ledger, 0, 210, 100);
    ledger.granted(0, again, None, at(211));
    assert_eq!(ledger.valid_until(), Some(at(300)));
}

#[test]
fn a_lease_that_is_being_yielded_is_not_yielded_again() {
    let mut ledger = over(3);
    let entered = enter(&mut ledger, 0, 0, 8000);
    ledger.granted(0, entered, None, at(1));
    let renewed = enter(&mut ledger, 0, 10, 8000);
    yields(&mut ledger, 0, 20, 8000);
    // What was asked before is answered meanwhile. Two yields could be applied in the other order, and the answer to the
    // later would tell of a lease that the earlier has given to another.
    ledger.granted(0, renewed, None, at(21));
    assert_eq!(ledger.minority(at(22)), Vec::<usize>::new());
}

#[test]
fn a_place_that_comes_of_a_yield_is_known_though_the_lease_was_told_of_meanwhile() {
    let mut ledger = over(3);
    let entered = enter(&mut ledger, 0, 0, 8000);
    ledger.granted(0, entered, None, at(1));
    let renewed = enter(&mut ledger, 0, 10, 8000);
    let yielded = yields(&mut ledger, 0, 20, 8000);
    ledger.granted(0, renewed, None, at(21));
    ledger.yielded(0, yielded);
    ledger.queued(0, yielded, at(22));
    assert!(!ledger.is_granted_on(0), "it is in the queue there");
}
