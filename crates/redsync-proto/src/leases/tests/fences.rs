//! Which counters are votes for a fence, and which may have forgotten what they had counted.

use super::*;

fn fence(number: u64) -> Fence {
    Fence::new(number).unwrap()
}

fn fences(ledger: &Leases, now: u64) -> Vec<u64> {
    ledger.fences(at(now)).map(Fence::as_u64).collect()
}

#[test]
fn a_grant_that_does_not_count_is_no_vote_for_a_fence_though_it_is_extended() {
    let (mut ledger, acquire) = acquired(3, &[], 8000);
    ledger.granted(0, acquire, Some(fence(5)), at(1));
    ledger.granted_unconfirmed(1, acquire);
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
    ledger.granted_unconfirmed(0, early);
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
    ledger.granted_unconfirmed(0, early);
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
    assert_eq!(ledger.unconfirmed_since(0), Some(at(10)));

    ledger.believe(0);
    let asked = enter(&mut ledger, 0, 21, 8000);
    ledger.granted(0, asked, Some(fence(5)), at(22));

    assert_eq!(ledger.unconfirmed_since(0), None);
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
    ledger.granted_unconfirmed(0, later);
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
