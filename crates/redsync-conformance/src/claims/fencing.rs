//! Fences: what a grant counts to, who is told, and who leaves the counter as it is.

use std::time::Instant;

use redsync::{IfFree, Placed, Released, Succession, Ticket};

use crate::trial::{
    Breach, HALF_A_SECOND, HIGHEST, LONG, LONGER, Owner, SECOND, SHORT, Trial, Verdict, Waiter, beyond,
    exactly,
};

pub(crate) async fn a_fenced_grant_raises_the_counter_and_says_where_it_stands(trial: &Trial) -> Verdict {
    let (lock, client) = (trial.lock(), trial.client());
    lock.is_counted_to(None).await?;
    let mut last = 0;
    for number in [1, trial.node_micros().await?, 1, HIGHEST, HIGHEST, 1] {
        let holder = lock.owner("holder").proposing(number);
        last = beyond(last, holder.is_fenced().await?)?;
        holder.releases().await?;
        let waiter = client.waiter(&lock, "waiter", 10).proposing(number);
        last = beyond(last, waiter.is_fenced().await?)?;
        waiter.owner().releases().await?;
    }
    Ok(())
}

pub(crate) async fn a_fenced_grant_raises_the_counter_to_what_is_proposed(trial: &Trial) -> Verdict {
    let (lock, client) = (trial.lock(), trial.client());
    let first = lock.owner("first").proposing(1);
    first.is_fenced().await?;
    first.releases().await?;
    // Before the clock allows no more, and after the counter began, on the slowest of machines.
    let number = trial.node_micros().await? + HALF_A_SECOND;
    let second = lock.owner("second").proposing(number);
    exactly(number, second.is_fenced().await?)?;
    second.releases().await?;
    let third = client.waiter(&lock, "third", 10).proposing(number + 1_000);
    exactly(number + 1_000, third.is_fenced().await?)
}

pub(crate) async fn no_proposal_takes_the_counter_far_ahead_of_the_nodes_clock(trial: &Trial) -> Verdict {
    let an_hour_ahead = trial.node_micros().await? + 3_600 * SECOND;
    for number in [an_hour_ahead, HIGHEST] {
        let (lock, client) = (trial.lock(), trial.client());
        let not_far_ahead = async |fence: u64| {
            let most = trial.node_micros().await? + SECOND + ABOUT;
            if fence <= most {
                return Ok(());
            }
            Err(Breach::answered(format!("a fence that is about a second ahead at most: {most}"), fence))
        };
        let holder = lock.owner("holder").proposing(number);
        not_far_ahead(holder.is_fenced().await?).await?;
        let waiter = client.waiter(&lock, "waiter", 10).proposing(number);
        waiter.enter(LONG).await?;
        holder.releases().await?;
        not_far_ahead(waiter.is_handed_a_fence().await?).await?;
        waiter.owner().releases().await?;
        not_far_ahead(holder.is_fenced().await?).await?;
        holder.releases().await?;
        not_far_ahead(waiter.is_fenced().await?).await?;
    }
    Ok(())
}

pub(crate) async fn no_counter_begins_far_behind_the_nodes_clock(trial: &Trial) -> Verdict {
    let least = trial.node_micros().await?.saturating_sub(SECOND + ABOUT);
    let acquiring = trial.lock().owner("holder").proposing(1).is_fenced().await?;
    let client = trial.client();
    let entering = client.waiter(&trial.lock(), "waiter", 10).proposing(1).is_fenced().await?;
    let (lease, [first]) = trial.held_with_queue().await?;
    let first = first.proposing(1);
    first.is_queued(LONG, 1, &lease).await?;
    lease.owner().releases().await?;
    let handed = first.is_handed_a_fence().await?;
    match [acquiring, entering, handed].into_iter().find(|fence| *fence < least) {
        None => Ok(()),
        Some(fence) => {
            Err(Breach::answered(format!("a counter begins about a second behind at most: {least}"), fence))
        }
    }
}

pub(crate) async fn who_has_the_lease_is_told_the_same_fence_again(trial: &Trial) -> Verdict {
    let (lock, client) = (trial.lock(), trial.client());
    let holder = lock.owner("holder").proposing(1);
    let fence = holder.is_fenced().await?;
    let entering = |owner: &Owner| client.waiter_as(owner.clone(), Ticket::from_micros(10));
    for number in [1, fence + 1_000, HIGHEST] {
        let holder = holder.proposing(number);
        exactly(fence, holder.is_fenced().await?)?;
        exactly(fence, entering(&holder).is_fenced().await?)?;
    }
    let next = client.waiter(&lock, "next", 20).proposing(1);
    next.enter(LONG).await?;
    holder.releases().await?;
    let fence = next.is_handed_a_fence().await?;
    for number in [fence + 1_000, HIGHEST] {
        exactly(fence, next.proposing(number).is_fenced().await?)?;
        exactly(fence, next.owner().proposing(number).is_fenced().await?)?;
    }
    Ok(())
}

pub(crate) async fn who_does_not_get_the_lease_leaves_the_counter(trial: &Trial) -> Verdict {
    let (lock, client) = (trial.lock(), trial.client());
    let holder = lock.owner("holder").proposing(1);
    let fence = holder.is_fenced().await?;
    let lease = holder.is_granted(LONGER).await?;
    let other = lock.owner("other").proposing(HIGHEST);
    other.is_refused(LONG, &lease).await?;
    lock.is_counted_to(Some(fence)).await?;
    let waiter = client.waiter(&lock, "waiter", 10).proposing(HIGHEST);
    waiter.is_queued(LONG, 1, &lease).await?;
    waiter.is_queued(LONG, 1, &lease).await?;
    waiter.has_nothing_to_yield(LONG, 1, &lease).await?;
    waiter.owner().is_refused(LONG, &lease).await?;
    other.cannot_release(&lease).await?;
    lock.is_counted_to(Some(fence)).await?;
    waiter.owner().leaves_the_queue().await?;
    lock.is_counted_to(Some(fence)).await?;
    exactly(fence, holder.is_fenced().await?)
}

pub(crate) async fn who_asks_for_no_fence_is_told_none_and_leaves_the_counter(trial: &Trial) -> Verdict {
    let (lock, client) = (trial.lock(), trial.client());
    let mut counter = None;
    loop {
        let (holder, waiter) = (lock.owner("holder"), client.waiter(&lock, "waiter", 10));
        let lease = holder.is_granted(LONGER).await?;
        lock.is_counted_to(counter).await?;
        holder.extends(LONGER, IfFree::Leave).await?;
        lock.is_counted_to(counter).await?;
        waiter.is_queued(LONG, 1, &lease).await?;
        holder.releases().await?;
        waiter.comes_to_know(LONG).await?;
        lock.is_counted_to(counter).await?;
        waiter.yields_in_vain(LONG).await?;
        lock.is_counted_to(counter).await?;
        waiter.owner().releases().await?;
        waiter.is_admitted(LONG).await?;
        lock.is_counted_to(counter).await?;
        waiter.owner().releases().await?;
        holder.retakes(LONG).await?;
        lock.is_counted_to(counter).await?;
        holder.releases().await?;
        if counter.is_some() {
            return Ok(());
        }
        let fenced = lock.owner("fenced").proposing(1);
        counter = Some(fenced.is_fenced().await?);
        fenced.releases().await?;
    }
}

pub(crate) async fn an_extend_raises_the_counter_and_never_lowers_it(trial: &Trial) -> Verdict {
    let holder = trial.lock().owner("holder").proposing(1);
    let fence = holder.is_fenced().await?;
    holder.proposing(fence).extends_at(fence).await?;
    holder.proposing(fence + 1_000).extends_at(fence + 1_000).await?;
    holder.proposing(fence + 999).extends_at(fence + 1_000).await?;
    holder.proposing(1).extends_at(fence + 1_000).await?;
    // What others counted is no proposal: no clock limits it.
    let an_hour_ahead = trial.node_micros().await? + 3_600 * SECOND;
    holder.proposing(an_hour_ahead).extends_at(an_hour_ahead).await?;
    exactly(an_hour_ahead, holder.is_fenced().await?)?;
    holder.releases().await?;
    // Where the holder had asked for none, and nobody before it.
    let plain = trial.lock().owner("plain");
    plain.is_granted(LONG).await?;
    plain.proposing(an_hour_ahead).extends_at(an_hour_ahead).await
}

pub(crate) async fn an_extend_leaves_the_counter_to_who_has_the_lease(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let holder = lock.owner("holder").proposing(1);
    let fence = holder.is_fenced().await?;
    let lease = holder.is_granted(LONGER).await?;
    let other = lock.owner("other").proposing(fence + 1_000);
    for if_free in [IfFree::Leave, IfFree::Retake] {
        other.cannot_extend(LONG, if_free, &lease).await?;
        lock.is_counted_to(Some(fence)).await?;
    }
    exactly(fence, holder.is_fenced().await?)
}

pub(crate) async fn an_extend_that_takes_nothing_leaves_the_counter(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let former = lock.owner("former").proposing(1);
    former.proposing(HIGHEST).has_nothing_to_extend().await?;
    lock.is_counted_to(None).await?;
    let fence = former.is_fenced().await?;
    former.releases().await?;
    former.proposing(fence + 1_000).has_nothing_to_extend().await?;
    lock.is_counted_to(Some(fence)).await
}

pub(crate) async fn a_retake_raises_the_counter_and_never_lowers_it(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let holder = lock.owner("holder").proposing(1);
    let fence = holder.is_fenced().await?;
    for (number, expected) in [(fence, fence), (fence + 1_000, fence + 1_000), (1, fence + 1_000)] {
        holder.releases().await?;
        holder.proposing(number).retakes(LONG).await?;
        lock.is_counted_to(Some(expected)).await?;
    }
    let uncounted = trial.lock();
    uncounted.owner("holder").proposing(fence).retakes(LONG).await?;
    uncounted.is_counted_to(Some(fence)).await
}

pub(crate) async fn a_hand_over_counts_by_the_proposal_of_who_is_granted(trial: &Trial) -> Verdict {
    let Queue { holder, waiters: [first, second, third], numbers, .. } = Queue::of(trial).await?;
    holder.releases().await?;
    exactly(numbers[0], first.is_handed_a_fence().await?)?;
    first.owner().releases().await?;
    exactly(numbers[1], second.is_handed_a_fence().await?)?;
    // By the release of one who has nothing but a place behind.
    second.owner().lets_go().await?;
    holder.has_nothing_to_release().await?;
    exactly(numbers[2], third.is_handed_a_fence().await?)
}

pub(crate) async fn a_hand_over_raises_the_counter_by_one_at_least(trial: &Trial) -> Verdict {
    let (lock, client) = (trial.lock(), trial.client());
    let holder = lock.owner("holder").proposing(HIGHEST);
    let mut last = holder.is_fenced().await?;
    let queue = [10, 20, 30].map(|ticket| client.waiter(&lock, "waiter", ticket).proposing(1));
    for waiter in &queue {
        waiter.enter(LONG).await?;
    }
    let mut holder = &holder;
    for waiter in &queue {
        holder.releases().await?;
        last = beyond(last, waiter.is_handed_a_fence().await?)?;
        holder = waiter.owner();
    }
    Ok(())
}

pub(crate) async fn a_yield_counts_by_the_proposal_of_who_is_granted(trial: &Trial) -> Verdict {
    let Queue { holder, waiters: [first, second, ..], numbers, .. } = Queue::of(trial).await?;
    let yielding = first.client().waiter_as(holder.proposing(HIGHEST), Ticket::from_micros(15));
    yielding.yields_to(&first, LONG, LONG, 1).await?;
    exactly(numbers[0], first.is_handed_a_fence().await?)?;
    // Granted anew to the one who yields, it is another grant.
    yielding.owner().leaves_the_queue().await?;
    let before = first.at(5).proposing(numbers[1] - 1_000);
    before.yields_in_vain(LONG).await?;
    exactly(numbers[1] - 1_000, before.is_fenced().await?)?;
    before.owner().releases().await?;
    exactly(numbers[1], second.is_handed_a_fence().await?)
}

pub(crate) async fn entering_a_free_name_counts_by_the_proposal_of_who_is_granted(trial: &Trial) -> Verdict {
    let Queue { holder, waiters: [first, second, third], numbers, .. } = Queue::of(trial).await?;
    holder.lets_go().await?;
    // At the head of the queue is another than the one who asks.
    let last = trial.client().waiter(first.lock(), "last", 99).proposing(HIGHEST);
    last.enter(LONG).await?;
    exactly(numbers[0], first.is_handed_a_fence().await?)?;
    first.owner().lets_go().await?;
    // At the head of the queue is one of those who ask.
    let entered = second.client().enter(&[(&third, LONG), (&second, LONG)]).await?;
    match entered.places[..] {
        [Placed::Queued(1), Placed::Granted(Some(fence))] => exactly(numbers[1], fence.as_u64())?,
        _ => {
            let expected = format!("enter of two is [Queued(1), Granted({})]", numbers[1]);
            return Err(Breach::answered(expected, entered));
        }
    }
    exactly(numbers[1], second.is_fenced().await?)
}

pub(crate) async fn a_place_is_granted_by_the_proposal_that_was_made_last(trial: &Trial) -> Verdict {
    let Queue { holder, waiters: [first, second, third], numbers, fence } = Queue::of(trial).await?;
    // Those who came with a wrong clock correct it, one way or the other.
    let (first, second) = (first.proposing(fence + 500), second.proposing(numbers[2] - 500));
    first.client().enter(&[(&first, LONG), (&second, LONG)]).await?;
    // Or want no fence any more.
    let third = third.asking_for_none();
    third.enter(LONG).await?;
    holder.releases().await?;
    exactly(fence + 500, first.is_handed_a_fence().await?)?;
    first.owner().releases().await?;
    exactly(numbers[2] - 500, second.is_handed_a_fence().await?)?;
    second.owner().releases().await?;
    third.comes_to_know(LONG).await?;
    first.lock().is_counted_to(Some(numbers[2] - 500)).await
}

pub(crate) async fn barging_leaves_the_counter(trial: &Trial) -> Verdict {
    let Queue { holder, waiters: [first, ..], numbers, fence } = Queue::of(trial).await?;
    holder.lets_go().await?;
    first.lock().is_counted_to(Some(fence)).await?;
    holder.is_answered(Succession::Barging, Released::NotHeld).await?;
    first.lock().is_counted_to(Some(fence)).await?;
    exactly(numbers[0], first.is_fenced().await?)
}

pub(crate) async fn those_who_are_skipped_leave_the_counter(trial: &Trial) -> Verdict {
    let Queue { holder, waiters: [next, dead, late], fence, .. } = Queue::of(trial).await?;
    let (dead, late) = (dead.at(5), late.at(6));
    let asked = Instant::now();
    dead.enter(SHORT).await?;
    late.enter(SHORT).await?;
    late.owner().lease(SHORT, asked).would_be_over_by_any_count().await;
    let next = next.proposing(fence + 10);
    next.enter(LONG).await?;
    holder.releases().await?;
    exactly(fence + 10, next.is_handed_a_fence().await?)?;
    next.owner().releases().await?;
    next.lock().is_counted_to(Some(fence + 10)).await
}

/// A lock that is held, and three who wait for it at the tickets 10, 20 and 30, each with a proposal of its own that the clock
/// allows, the later the higher.
struct Queue {
    holder: Owner,
    waiters: [Waiter; 3],
    numbers: [u64; 3],
    /// Where the counter stands.
    fence: u64,
}

impl Queue {
    async fn of(trial: &Trial) -> Result<Self, Breach> {
        let (lock, client) = (trial.lock(), trial.client());
        let holder = lock.owner("holder").proposing(1);
        let fence = holder.is_fenced().await?;
        let numbers = [1, 2, 3].map(|number| fence + number * 100_000);
        let waiter = |ticket: u64, number| client.waiter(&lock, "waiter", ticket).proposing(number);
        let waiters = [waiter(10, numbers[0]), waiter(20, numbers[1]), waiter(30, numbers[2])];
        let places = [(&waiters[0], LONG), (&waiters[1], LONG), (&waiters[2], LONG)];
        client.enter(&places).await?;
        Ok(Self { holder, waiters, numbers, fence })
    }
}

/// What a clause allows beyond the second that the contract does: a clock may be set meanwhile. In microseconds.
const ABOUT: u64 = SECOND;
