//! Who has the lease after its holder: hand-overs, those who are skipped, yielding, and letting go.

use std::time::{Duration, Instant};

use redsync::{Placed, Released, Succession, Ticket};

use crate::trial::{LESS_LONG, LONG, LONGER, SHORT, SHORT_OR_SLOWER, Trial, Verdict};

pub(crate) async fn release_hands_over_to_the_lowest_ticket_for_its_own_expiry(trial: &Trial) -> Verdict {
    let (lease, [third, first, second]) = trial.held_with_queue().await?;
    let (first, second, third) = (first.at(5), second.at(15), third.at(25));
    for (waiter, expiry) in [(&second, LONG), (&first, LESS_LONG), (&third, LONGER)] {
        waiter.enter(expiry).await?;
    }
    let mut holder = lease.owner();
    for (waiter, expiry) in [(&first, LESS_LONG), (&second, LONG), (&third, LONGER)] {
        let asked = Instant::now();
        holder.releases().await?;
        waiter.was_handed_it(expiry, asked).await?;
        holder = waiter.owner();
    }
    Ok(())
}

pub(crate) async fn a_lease_that_was_handed_over_ends_at_its_expiry(trial: &Trial) -> Verdict {
    for expiry in SHORT_OR_SLOWER {
        let (lease, [first]) = trial.held_with_queue().await?;
        let asked = Instant::now();
        first.is_queued(expiry, 1, &lease).await?;
        let place = first.owner().lease(expiry, asked);
        let asked = Instant::now();
        lease.owner().releases().await?;
        let is_free = first.lock().inspect().await?.is_none();
        if !(is_free && place.may_be_over()) {
            return first.owner().lease(expiry, asked).runs_out().await;
        }
    }
    Ok(())
}

pub(crate) async fn release_by_one_in_queue_says_left_and_leaves_the_holder(trial: &Trial) -> Verdict {
    let (lease, [first, second, third]) = trial.held_with_queue().await?;
    second.owner().leaves_the_queue().await?;
    first.lock().is_waited_for_by(&[&first, &third]).await?;
    first.owner().is_answered(Succession::Barging, Released::Left).await?;
    first.lock().is_waited_for_by(&[&third]).await?;
    second.owner().cannot_release(&lease).await?;
    lease.is_running().await?;
    let asked = Instant::now();
    lease.owner().releases().await?;
    third.was_handed_it(LONG, asked).await.map(drop)
}

pub(crate) async fn release_by_one_who_was_handed_the_lease_passes_it_on(trial: &Trial) -> Verdict {
    let (lease, [first, second]) = trial.held_with_queue().await?;
    lease.owner().releases().await?;
    let asked = Instant::now();
    first.owner().releases().await?;
    let lease = second.was_handed_it(LONG, asked).await?;
    first.owner().cannot_release(&lease).await?;
    lease.is_running().await
}

pub(crate) async fn release_by_the_last_in_queue_frees_the_name(trial: &Trial) -> Verdict {
    let (lease, [first]) = trial.held_with_queue().await?;
    lease.owner().releases().await?;
    first.owner().releases().await?;
    first.lock().is_deserted().await?;
    first.owner().has_nothing_to_release().await?;
    first.lock().owner("next").is_granted(LONG).await?.is_running().await
}

pub(crate) async fn release_takes_the_holders_own_place_in_queue_with_it(trial: &Trial) -> Verdict {
    for is_first in [true, false] {
        let (former, [first, second]) = trial.held_with_queue().await?;
        former.owner().lets_go().await?;
        let (holder, next) = if is_first { (first, second) } else { (second, first) };
        // Nothing takes it out of the queue when it is granted without its turn: a guard that repairs its quorum does so.
        holder.owner().retakes(LONGER).await?;
        let asked = Instant::now();
        holder.owner().releases().await?;
        next.was_handed_it(LONG, asked).await?;
        next.lock().is_waited_for_by(&[]).await?;
        next.owner().releases().await?;
        next.lock().is_deserted().await?;
    }
    Ok(())
}

pub(crate) async fn letting_go_takes_the_holders_own_place_in_queue_with_it(trial: &Trial) -> Verdict {
    for is_first in [true, false] {
        let (former, [first, second]) = trial.held_with_queue().await?;
        former.owner().lets_go().await?;
        let (holder, next) = if is_first { (first, second) } else { (second, first) };
        holder.owner().is_granted(LONGER).await?;
        holder.owner().lets_go().await?;
        next.lock().is_free().await?;
        next.lock().is_waited_for_by(&[&next]).await?;
    }
    Ok(())
}

pub(crate) async fn release_of_a_free_name_hands_it_to_the_first_in_queue(trial: &Trial) -> Verdict {
    let (former, [first, second]) = trial.held_with_queue().await?;
    former.owner().lets_go().await?;
    let asked = Instant::now();
    former.owner().has_nothing_to_release().await?;
    let lease = first.was_handed_it(LONG, asked).await?;
    first.lock().is_waited_for_by(&[&second]).await?;
    former.owner().cannot_release(&lease).await
}

pub(crate) async fn leaving_the_queue_of_a_free_name_hands_it_to_the_first(trial: &Trial) -> Verdict {
    let (former, [first, second, third]) = trial.held_with_queue().await?;
    former.owner().lets_go().await?;
    let asked = Instant::now();
    first.owner().leaves_the_queue().await?;
    second.was_handed_it(LONG, asked).await?;
    first.lock().is_waited_for_by(&[&third]).await
}

pub(crate) async fn release_after_expiry_hands_the_name_to_the_first_in_queue(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let former = lock.owner("former");
    let expired = former.is_granted(SHORT).await?;
    let first = trial.client().waiter(&lock, "first", 10);
    let entered = first.enter(LONG).await?;
    expired.would_be_over_by_any_count().await;
    let asked = Instant::now();
    match entered.places[..] {
        [Placed::Queued(1)] => former.has_nothing_to_release().await?,
        // A slow machine was too late for the queue: there is nothing to be handed over.
        _ => return Ok(()),
    }
    first.was_handed_it(LONG, asked).await?;
    lock.is_waited_for_by(&[]).await
}

pub(crate) async fn who_did_not_renew_its_place_in_time_is_skipped(trial: &Trial) -> Verdict {
    let (lease, [dead, first, late, second]) = trial.held_with_queue().await?;
    let asked = Instant::now();
    dead.is_queued(SHORT, 1, &lease).await?;
    late.enter(SHORT).await?;
    late.owner().lease(SHORT, asked).would_be_over_by_any_count().await;
    let asked = Instant::now();
    lease.owner().releases().await?;
    first.was_handed_it(LONG, asked).await?;
    let asked = Instant::now();
    first.owner().releases().await?;
    second.was_handed_it(LONG, asked).await?;
    dead.lock().is_waited_for_by(&[]).await?;
    dead.client().was_told_only(&[first.grant(), second.grant()]).await
}

pub(crate) async fn a_queue_of_those_who_did_not_renew_in_time_frees_the_name(trial: &Trial) -> Verdict {
    let (lease, [first, second]) = trial.held_with_queue().await?;
    let asked = Instant::now();
    first.enter(SHORT).await?;
    second.enter(SHORT).await?;
    second.owner().lease(SHORT, asked).would_be_over_by_any_count().await;
    lease.owner().releases().await?;
    first.lock().is_deserted().await
}

pub(crate) async fn who_renewed_its_place_is_not_skipped(trial: &Trial) -> Verdict {
    let (lease, [brief]) = trial.held_with_queue().await?;
    let first = brief.client().waiter(brief.lock(), "first", 5);
    first.is_queued(SHORT, 1, &lease).await?;
    let asked = Instant::now();
    first.is_queued(LESS_LONG, 1, &lease).await?;
    // A short place among long ones does not take them with it either.
    brief.enter(SHORT).await?;
    brief.owner().lease(SHORT, asked).would_be_over_by_any_count().await;
    let asked = Instant::now();
    lease.owner().releases().await?;
    first.was_handed_it(LESS_LONG, asked).await.map(drop)
}

pub(crate) async fn yield_hands_over_to_the_lowest_ticket(trial: &Trial) -> Verdict {
    let (lease, [first, second]) = trial.held_with_queue().await?;
    let yielding = first.client().waiter_as(lease.owner().clone(), Ticket::from_micros(15));
    let lease = yielding.yields_to(&first, LONG, LESS_LONG, 1).await?;
    lease.is_running().await?;
    first.lock().is_waited_for_by(&[&yielding, &second]).await?;
    let asked = Instant::now();
    first.owner().releases().await?;
    yielding.was_handed_it(LESS_LONG, asked).await.map(drop)
}

pub(crate) async fn yield_at_the_lowest_ticket_is_granted_anew(trial: &Trial) -> Verdict {
    let (lease, [first, second]) = trial.held_with_queue().await?;
    let yielding = first.client().waiter_as(lease.owner().clone(), Ticket::from_micros(5));
    yielding.yields_in_vain(LESS_LONG).await?.is_running().await?;
    first.lock().is_waited_for_by(&[&first, &second]).await?;
    first.owner().leaves_the_queue().await?;
    second.owner().leaves_the_queue().await?;
    yielding.yields_in_vain(LONGER).await?.is_running().await?;
    first.lock().is_waited_for_by(&[]).await
}

pub(crate) async fn yield_by_one_who_does_not_hold_only_queues(trial: &Trial) -> Verdict {
    let (lease, [first, second]) = trial.held_with_queue().await?;
    let other = trial.client().waiter(first.lock(), "other", 15);
    other.has_nothing_to_yield(LONG, 2, &lease).await?;
    let second = second.at(5);
    second.has_nothing_to_yield(LONG, 1, &lease).await?;
    first.lock().is_waited_for_by(&[&second, &first, &other]).await?;
    lease.is_running().await
}

pub(crate) async fn yield_of_a_free_name_grants_it_to_the_first_in_queue(trial: &Trial) -> Verdict {
    let (former, [first, second]) = trial.held_with_queue().await?;
    former.owner().lets_go().await?;
    let former = first.client().waiter_as(former.owner().clone(), Ticket::from_micros(15));
    former.yields_to(&first, LONG, LESS_LONG, 1).await?.is_running().await?;
    first.lock().is_waited_for_by(&[&former, &second]).await?;
    let alone = first.client().waiter(&trial.lock(), "alone", 10);
    alone.yields_in_vain(LONG).await?.is_running().await
}

pub(crate) async fn barging_frees_the_name_and_keeps_the_queue(trial: &Trial) -> Verdict {
    let (lease, [first, second]) = trial.held_with_queue().await?;
    lease.owner().lets_go().await?;
    first.lock().is_free().await?;
    first.lock().is_waited_for_by(&[&first, &second]).await?;
    lease.owner().is_answered(Succession::Barging, Released::NotHeld).await?;
    first.lock().is_free().await?;
    first.lock().is_waited_for_by(&[&first, &second]).await
}

pub(crate) async fn barging_lets_anybody_take_the_name(trial: &Trial) -> Verdict {
    for retakes in [false, true] {
        let (former, [first, second]) = trial.held_with_queue().await?;
        former.owner().lets_go().await?;
        let stranger = first.lock().owner("stranger");
        let lease = match retakes {
            true => stranger.retakes(LESS_LONG).await?,
            false => stranger.is_granted(LESS_LONG).await?,
        };
        lease.is_running().await?;
        first.is_queued(LONG, 1, &lease).await?;
        first.lock().is_waited_for_by(&[&first, &second]).await?;
        stranger.releases().await?;
        first.is_admitted(LONG).await?.is_running().await?;
    }
    Ok(())
}

pub(crate) async fn barging_lets_the_first_in_queue_take_the_name(trial: &Trial) -> Verdict {
    let (former, [first, second]) = trial.held_with_queue().await?;
    former.owner().lets_go().await?;
    let lease = first.is_admitted(LESS_LONG).await?;
    lease.is_running().await?;
    second.is_queued(LONG, 1, &lease).await?;
    first.lock().is_waited_for_by(&[&second]).await
}

pub(crate) async fn nothing_is_left_when_all_have_gone(trial: &Trial) -> Verdict {
    let (lease, [first, second, third, fourth]) = trial.held_with_queue().await?;
    let lock = first.lock();
    second.owner().leaves_the_queue().await?;
    lease.owner().releases().await?;
    first.at(99).yields_to(&third, LONG, LONG, 2).await?;
    third.owner().lets_go().await?;
    fourth.is_admitted(LONG).await?;
    fourth.owner().releases().await?;
    first.owner().releases().await?;
    lock.is_deserted().await?;
    for waiter in [&first, &second, &third, &fourth] {
        waiter.owner().has_nothing_to_release().await?;
    }
    lease.owner().has_nothing_to_release().await?;
    lock.is_deserted().await
}

pub(crate) async fn the_longest_expiry_is_queued_or_refused_without_a_place(trial: &Trial) -> Verdict {
    let longest = redsync::Expiry::MAX.as_duration();
    let (lease, [first]) = trial.held_with_queue().await?;
    let last = trial.client().waiter(first.lock(), "last", 99);
    if last.may_be_queued(longest).await? {
        last.is_queued(longest, 2, &lease).await?;
        lease.owner().releases().await?;
        let asked = Instant::now();
        first.owner().releases().await?;
        last.was_handed_it(longest, asked).await?;
        return last.owner().releases().await;
    }
    first.lock().is_waited_for_by(&[&first]).await
}

pub(crate) async fn the_shortest_expiry_is_queued_and_soon_over(trial: &Trial) -> Verdict {
    let (lease, [first, second]) = trial.held_with_queue().await?;
    let brief = Duration::from_millis(1);
    let asked = Instant::now();
    first.is_queued(brief, 1, &lease).await?;
    first.owner().lease(brief, asked).would_be_over_by_any_count().await;
    let asked = Instant::now();
    lease.owner().releases().await?;
    second.was_handed_it(LONG, asked).await.map(drop)
}
