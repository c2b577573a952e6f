//! What has to be asked of whom until a token that is given back is nowhere.

use super::*;

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
fn what_expired_before_it_was_given_back_was_lost() {
    let (mut ledger, _) = acquired(1, &[0], 8000);
    ledger.give_back(at(8000));
    assert!(ledger.is_past(at(8000)));
    let (mut ledger, _) = acquired(1, &[0], 8000);
    ledger.give_back(at(7999));
    assert!(!ledger.is_past(at(8000)), "it was given back in time");
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
fn a_place_in_queue_is_released_but_not_extended() {
    let mut ledger = over(3);
    let number = enter(&mut ledger, 0, 0, 8000);
    ledger.queued(0, number, at(1));
    assert_eq!(ledger.holders(), Vec::<usize>::new());
    assert_eq!(ledger.take(false), [(0, NodeState::Queued)]);
    ledger.released(0, NodeState::Queued, &Released::Left);
    assert!(!ledger.is_open());
    assert!(!ledger.told(0, number, None, true, at(2)), "what was under way meanwhile");
}

#[test]
fn a_place_that_was_told_of_while_it_was_released_is_released_again() {
    let mut ledger = over(3);
    let entered = enter(&mut ledger, 0, 0, 8000);
    ledger.queued(0, entered, at(1));
    let renewed = enter(&mut ledger, 0, 10, 8000);
    ledger.give_back(at(11));
    assert_eq!(ledger.take(false), [(0, NodeState::Queued)]);
    // It may have been applied after the release, whose answer comes last.
    ledger.queued(0, renewed, at(12));
    ledger.released(0, NodeState::Queued, &Released::Left);
    assert!(ledger.is_open());
}

#[test]
fn a_release_that_overtakes_a_yield_finds_the_lease_and_the_place_comes_later() {
    let mut ledger = over(3);
    let entered = enter(&mut ledger, 0, 0, 8000);
    ledger.granted(0, entered, None, at(1));
    yields(&mut ledger, 0, 10, 8000);
    ledger.give_back(at(11));
    assert_eq!(ledger.take(false), [(0, NodeState::Asked)]);
    ledger.released(0, NodeState::Asked, &Released::Released);
    assert!(ledger.is_open(), "what the yield brings has to be released, too");
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
fn a_lease_that_is_told_of_while_it_is_given_back_is_gone_with_that() {
    let mut ledger = over(1);
    let number = enter(&mut ledger, 0, 0, 8000);
    ledger.queued(0, number, at(1));
    ledger.give_back(at(2));
    assert!(!ledger.told_while_released(0, number), "nobody gives it back yet");
    let taken = ledger.take(false);
    assert!(ledger.told_while_released(0, number));

    let mut unheard = ledger.clone();
    unheard.leave(0);
    assert!(unheard.is_granted_on(0) && unheard.is_to_be_released(), "the release was lost");
    ledger.released(0, taken[0].1, &Released::Released);
    assert!(!ledger.is_open());
    assert!(!ledger.told_while_released(0, number), "nobody gives it back any more");
}

#[test]
fn a_lease_that_a_request_brings_which_its_release_may_have_overtaken_is_to_be_given_back() {
    let mut ledger = over(1);
    let number = enter(&mut ledger, 0, 0, 8000);
    ledger.queued(0, number, at(1));
    let renewal = enter(&mut ledger, 0, 2, 8000);
    ledger.give_back(at(3));
    ledger.take(false);
    assert!(!ledger.told_while_released(0, number), "a place is being asked for");
    ledger.queued(0, renewal, at(4));
    assert!(!ledger.told_while_released(0, number), "it was when the release was sent");
}

#[test]
fn what_says_too_late_that_nothing_was_there_does_not_keep_a_lease_from_being_given_back() {
    for may_retake in [false, true] {
        let mut ledger = over(3);
        let entered = enter(&mut ledger, 0, 0, 8000);
        ledger.queued(0, entered, at(1));
        let extending = ledger.ask(at(2), millis(8000), at(8002));
        ledger.ask_to_extend(0, millis(8000), may_retake);
        ledger.give_back(at(3));
        ledger.take(false);
        assert!(ledger.told_while_released(0, entered));
        // It came to the extension first, then handed over; and the answer comes last.
        let another = Holder::new("other", TimeLeft::Unknown);
        ledger.extended(0, extending, &Extended::HeldByAnother(another), may_retake, at(4));
        assert!(ledger.is_open(), "the release is under way");

        ledger.leave(0);

        assert!(ledger.is_to_be_released(), "it was lost");
    }
}
