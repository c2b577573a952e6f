//! What the ledger makes of requests and answers, in whatever order they come.

use super::*;
use crate::node::{Holder, Released, TimeLeft};

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
        ledger.extended(0, number, &Extended::Extended(None), false, at(0));
        ledger.extended(2, number, &Extended::Extended(None), false, at(0));
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
    ledger.extended(0, number, &Extended::Extended(None), false, at(1));
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
    ledger.granted(0, acquire, None, at(1));
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
    ledger.extended(0, number, &Extended::Extended(None), false, at(8001));
    assert!(ledger.is_past(at(8002)));
    let another = Extended::HeldByAnother(Holder::new("other", TimeLeft::Unknown));
    ledger.extended(0, number, &another, false, at(8003));
    assert!(ledger.is_past(at(0)), "even if time went back");
}

/// Asks `node` at `sent` for a place that is granted for so long.
fn enter(ledger: &mut Ledger, node: usize, sent: u64, trusted: u64) -> RequestNumber {
    let number = ledger.ask(at(sent), millis(trusted), at(sent + trusted));
    ledger.ask_to_enter(node, millis(trusted));
    number
}

fn yields(ledger: &mut Ledger, node: usize, sent: u64, trusted: u64) -> RequestNumber {
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
fn a_place_in_line_is_released_but_not_extended() {
    let mut ledger = over(3);
    let number = enter(&mut ledger, 0, 0, 8000);
    ledger.queued(0, number, at(1));
    assert_eq!(ledger.holders(), Vec::<usize>::new());
    assert_eq!(ledger.take(false), [(0, Mark::Queued)]);
    ledger.released(0, Mark::Queued, &Released::Left);
    assert!(!ledger.is_open());
    assert!(!ledger.told(0, number, None, true, at(2)), "what was under way meanwhile");
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
    assert!(!ledger.is_granted_on(0), "it is in line there");
}

#[test]
fn a_place_that_was_told_of_while_it_was_released_is_released_again() {
    let mut ledger = over(3);
    let entered = enter(&mut ledger, 0, 0, 8000);
    ledger.queued(0, entered, at(1));
    let renewed = enter(&mut ledger, 0, 10, 8000);
    ledger.give_back(at(11));
    assert_eq!(ledger.take(false), [(0, Mark::Queued)]);
    // It may have been applied after the release, whose answer comes last.
    ledger.queued(0, renewed, at(12));
    ledger.released(0, Mark::Queued, &Released::Left);
    assert!(ledger.is_open());
}

#[test]
fn a_release_that_overtakes_a_yield_finds_the_lease_and_the_place_comes_later() {
    let mut ledger = over(3);
    let entered = enter(&mut ledger, 0, 0, 8000);
    ledger.granted(0, entered, None, at(1));
    yields(&mut ledger, 0, 10, 8000);
    ledger.give_back(at(11));
    assert_eq!(ledger.take(false), [(0, Mark::Asked)]);
    ledger.released(0, Mark::Asked, &Released::Released);
    assert!(ledger.is_open(), "what the yield brings has to be released, too");
}

fn fence(number: u64) -> Fence {
    Fence::new(number).unwrap()
}

fn fences(ledger: &Ledger, now: u64) -> Vec<u64> {
    ledger.fences(at(now)).map(Fence::as_u64).collect()
}

#[test]
fn a_grant_that_does_not_count_is_no_vote_for_a_fence_though_it_is_extended() {
    let (mut ledger, acquire) = acquired(3, &[], 8000);
    ledger.granted(0, acquire, Some(fence(5)), at(1));
    ledger.granted_in_doubt(1, acquire);
    assert_eq!(fences(&ledger, 2), [5]);
    let number = ledger.ask(at(10), millis(8000), at(8010));
    for node in 0..2 {
        ledger.ask_to_extend(node, millis(8000), false);
        ledger.extended(node, number, &Extended::Extended(Some(fence(5))), false, at(11));
    }
    assert!(ledger.end_on(1).is_some(), "it is a lease like the others from then on");
    assert_eq!(fences(&ledger, 11), [5], "but may have forgotten what it had counted");
}

#[test]
fn a_lease_that_was_granted_in_doubt_never_counts_for_a_fence() {
    let mut ledger = over(3);
    let early = enter(&mut ledger, 0, 0, 8000);
    ledger.granted_in_doubt(0, early);
    let renewed = enter(&mut ledger, 0, 9000, 8000);
    ledger.granted(0, renewed, Some(fence(5)), at(9001));
    assert!(ledger.end_on(0).is_some(), "it is a lease");
    assert_eq!(fences(&ledger, 9001), []);
    // Given back, and granted anew: counted by a node that remembers.
    let yielded = yields(&mut ledger, 0, 9010, 8000);
    ledger.yielded(0, yielded);
    ledger.granted(0, yielded, Some(fence(9)), at(9011));
    assert_eq!(fences(&ledger, 9011), [9]);
}

#[test]
fn a_place_that_is_being_renewed_may_bring_a_lease_where_an_extension_found_none() {
    let (mut ledger, acquire) = acquired(3, &[], 8000);
    (0..3).for_each(|node| ledger.granted(node, acquire, None, at(1)));
    let renewed = enter(&mut ledger, 0, 10, 8000);
    let number = ledger.ask(at(20), millis(8000), at(8020));
    ledger.ask_to_extend(0, millis(8000), false);
    ledger.extended(0, number, &Extended::NotHeld, false, at(21));
    assert!(ledger.is_open());
    ledger.give_back(at(30));
    assert!(ledger.take(false).iter().any(|(node, _)| *node == 0), "what {renewed:?} brings is released");
}

#[test]
fn a_grant_that_was_told_of_may_have_come_after_an_extension_found_none() {
    let mut ledger = over(3);
    let entered = enter(&mut ledger, 0, 0, 8000);
    ledger.queued(0, entered, at(1));
    let number = ledger.ask(at(20), millis(8000), at(8020));
    ledger.ask_to_extend(0, millis(8000), false);
    // The node came to the extension first, and its answer comes last.
    assert!(ledger.told(0, entered, None, true, at(21)));
    let another = Holder::new("other", TimeLeft::Unknown);
    ledger.extended(0, number, &Extended::HeldByAnother(another), false, at(22));
    assert_eq!(ledger.end_on(0), None);
    assert!(ledger.is_open(), "it is released in the end");
}

#[test]
fn a_fence_is_raised_by_extending_and_gone_with_the_lease() {
    let (mut ledger, acquire) = acquired(3, &[], 8000);
    ledger.granted(0, acquire, Some(fence(5)), at(1));
    ledger.granted(1, acquire, Some(fence(9)), at(1));
    let number = ledger.ask(at(10), millis(8000), at(8010));
    (0..2).for_each(|node| ledger.ask_to_extend(node, millis(8000), false));
    ledger.extended(0, number, &Extended::Extended(Some(fence(9))), false, at(11));
    assert_eq!(fences(&ledger, 11), [9, 9]);
    ledger.extended(1, number, &Extended::NotHeld, false, at(12));
    assert_eq!(fences(&ledger, 12), [9]);
}

#[test]
fn where_a_lease_has_run_out_its_counter_is_no_vote_for_a_fence() {
    let mut ledger = over(3);
    let early = enter(&mut ledger, 0, 0, 100);
    ledger.granted(0, early, Some(fence(5)), at(1));
    let late = enter(&mut ledger, 1, 50, 100);
    ledger.granted(1, late, Some(fence(5)), at(51));
    assert_eq!(fences(&ledger, 99), [5, 5]);
    // Another may have it there by now, with a larger one.
    assert_eq!(fences(&ledger, 100), [5]);
}

#[test]
fn doubt_survives_a_yield_that_was_never_sent_and_not_one_that_was_answered() {
    let mut ledger = over(3);
    let early = enter(&mut ledger, 0, 0, 8000);
    ledger.granted_in_doubt(0, early);
    let yielded = yields(&mut ledger, 0, 100, 8000);
    ledger.not_yielded(0, yielded);
    let renewed = enter(&mut ledger, 0, 9000, 8000);
    ledger.granted(0, renewed, Some(fence(5)), at(9001));
    assert_eq!(fences(&ledger, 9001), [], "what it had counted then, it may have forgotten");

    let yielded = yields(&mut ledger, 0, 9100, 8000);
    ledger.yielded(0, yielded);
    ledger.granted(0, yielded, Some(fence(6)), at(9101));
    assert_eq!(fences(&ledger, 9101), [6], "it was granted anew");
}

#[test]
fn doubt_is_over_when_the_node_turns_out_to_have_forgotten_nothing() {
    let mut ledger = over(3);
    let place = enter(&mut ledger, 0, 10, 8000);
    ledger.queued(0, place, at(11));
    assert!(ledger.told(0, place, Some(fence(5)), false, at(20)));
    assert_eq!(ledger.doubted_since(0), Some(at(10)));

    ledger.believe(0);
    let asked = enter(&mut ledger, 0, 21, 8000);
    ledger.granted(0, asked, Some(fence(5)), at(22));

    assert_eq!(ledger.doubted_since(0), None);
    assert_eq!(fences(&ledger, 22), [5]);
}

#[test]
fn doubt_about_what_was_granted_after_a_yield_survives_its_answer() {
    for is_later in [false, true] {
        let mut ledger = over(3);
        let early = enter(&mut ledger, 0, 0, 8000);
        ledger.granted(0, early, Some(fence(5)), at(1));
        let yielded = yields(&mut ledger, 0, 100, 8000);
        let place = if is_later { enter(&mut ledger, 0, 101, 8000) } else { yielded };
        // The node took the lease back, and handed it over to that place while nobody could trust it: that is heard first.
        assert!(ledger.told(0, place, Some(fence(6)), false, at(102)));

        ledger.yielded(0, yielded);
        ledger.queued(0, yielded, at(103));
        if is_later {
            ledger.queued(0, place, at(104));
        }

        let renewed = enter(&mut ledger, 0, 9000, 8000);
        ledger.granted(0, renewed, Some(fence(6)), at(9001));
        assert_eq!(fences(&ledger, 9001), [], "what it had counted then, it may have forgotten");
    }
}

#[test]
fn doubt_about_a_later_request_survives_the_answer_to_a_yield_and_to_an_earlier_one() {
    let mut ledger = over(3);
    let early = enter(&mut ledger, 0, 0, 8000);
    ledger.granted(0, early, Some(fence(5)), at(1));
    let yielded = yields(&mut ledger, 0, 100, 8000);
    let later = enter(&mut ledger, 0, 101, 8000);
    ledger.granted_in_doubt(0, later);
    ledger.yielded(0, yielded);
    ledger.queued(0, yielded, at(103));
    let renewed = enter(&mut ledger, 0, 9000, 8000);
    ledger.granted(0, renewed, Some(fence(6)), at(9001));
    assert_eq!(fences(&ledger, 9001), []);

    let (mut ledger, first) = acquired(3, &[], 8000);
    let place = enter(&mut ledger, 0, 1, 8000);
    assert!(ledger.told(0, place, Some(fence(6)), false, at(2)));
    ledger.refused(0, first, at(3));
    let renewed = enter(&mut ledger, 0, 9000, 8000);
    ledger.granted(0, renewed, Some(fence(6)), at(9001));
    assert_eq!(fences(&ledger, 9001), []);
}

#[test]
fn a_grant_in_doubt_outlives_the_late_answers_to_what_was_asked_before_it() {
    let (mut ledger, first) = acquired(3, &[], 8000);
    let place = enter(&mut ledger, 0, 1, 8000);
    let renewed = enter(&mut ledger, 0, 2, 8000);
    // Handed over to the place as it was renewed, by a node that may have forgotten others; heard of first.
    assert!(ledger.told(0, renewed, None, false, at(3)));
    ledger.refused(0, first, at(4));
    ledger.queued(0, place, at(5));
    ledger.queued(0, renewed, at(6));
    assert!(ledger.is_granted_on(0), "it has to be given back, or it stands until it expires");
}

#[test]
fn a_lease_that_is_told_of_while_it_is_given_back_is_gone_with_that() {
    let mut ledger = over(1);
    let number = enter(&mut ledger, 0, 0, 8000);
    ledger.queued(0, number, at(1));
    ledger.give_back(at(2));
    assert!(!ledger.told_while_released(0), "nobody gives it back yet");
    let taken = ledger.take(false);
    assert!(ledger.told_while_released(0));

    let mut unheard = ledger.clone();
    unheard.leave(0);
    assert!(unheard.is_granted_on(0) && unheard.is_to_be_released(), "the release was lost");
    ledger.released(0, taken[0].1, &Released::Released);
    assert!(!ledger.is_open());
    assert!(!ledger.told_while_released(0), "nobody gives it back any more");
}

#[test]
fn a_lease_that_a_request_brings_which_its_release_may_have_overtaken_is_to_be_given_back() {
    let mut ledger = over(1);
    let number = enter(&mut ledger, 0, 0, 8000);
    ledger.queued(0, number, at(1));
    let renewal = enter(&mut ledger, 0, 2, 8000);
    ledger.give_back(at(3));
    ledger.take(false);
    assert!(!ledger.told_while_released(0), "a place is being asked for");
    ledger.queued(0, renewal, at(4));
    assert!(!ledger.told_while_released(0), "it was when the release was sent");
}
