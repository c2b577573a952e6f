//! The queue of those who wait: who is in it, in what order, and what it leaves as it is.

use std::time::{Duration, Instant};

use redsync::{Look, Placed, Ticket};
use tokio::time::sleep;

use crate::trial::{Breach, LESS_LONG, LONG, LONGER, SHORT, Trial, Verdict, Waiter};

pub(crate) async fn a_place_in_a_held_locks_line_is_queued_and_says_who_holds(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let lease = lock.owner("holder").is_granted(LONGER).await?;
    let waiter = trial.client().waiter(&lock, "waiter", 7);
    waiter.is_queued(LONG, 1, &lease).await?;
    lock.is_waited_for_by(&[&waiter]).await?;
    lease.is_running().await
}

pub(crate) async fn positions_count_from_one_in_the_order_of_tickets(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let lease = lock.owner("holder").is_granted(LONGER).await?;
    let client = trial.client();
    let [late, early, later, between] =
        [30, 10, 200, 20].map(|ticket| client.waiter(&lock, "waiter", ticket));
    late.is_queued(LONG, 1, &lease).await?;
    early.is_queued(LONG, 1, &lease).await?;
    later.is_queued(LONG, 3, &lease).await?;
    between.is_queued(LONG, 2, &lease).await?;
    lock.is_waited_for_by(&[&early, &between, &late, &later]).await?;
    late.is_queued(LONG, 3, &lease).await
}

pub(crate) async fn equal_tickets_are_in_the_order_of_tokens(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let lease = lock.owner("holder").is_granted(LONGER).await?;
    let client = trial.client();
    let mut queue: Vec<Waiter> = (0..8).map(|_| client.waiter(&lock, "waiter", 10)).collect();
    for waiter in &queue {
        waiter.enter(LONG).await?;
    }
    queue.sort_by_key(|waiter| waiter.owner().token().clone());
    for (waiter, position) in queue.iter().zip(1..) {
        waiter.is_queued(LONG, position, &lease).await?;
    }
    lock.is_waited_for_by(&queue.iter().collect::<Vec<_>>()).await?;
    let asked = Instant::now();
    lease.owner().releases().await?;
    queue[0].was_handed_it(LONG, asked).await.map(drop)
}

pub(crate) async fn tickets_up_to_the_highest_are_told_apart(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let lease = lock.owner("holder").is_granted(LONGER).await?;
    let (client, highest) = (trial.client(), Ticket::MAX.as_micros());
    let tickets = [highest, highest - 2, 0, highest - 1, 1];
    let [last, third, first, fourth, second] = tickets.map(|ticket| client.waiter(&lock, "waiter", ticket));
    for waiter in [&last, &third, &first, &fourth, &second] {
        waiter.enter(LONG).await?;
    }
    let queue = [&first, &second, &third, &fourth, &last];
    for (waiter, position) in queue.iter().zip(1..) {
        waiter.is_queued(LONG, position, &lease).await?;
    }
    lock.is_waited_for_by(&queue).await
}

pub(crate) async fn entering_twice_keeps_one_place(trial: &Trial) -> Verdict {
    let (lease, [first, second]) = trial.held_with_queue().await?;
    first.is_queued(LONG, 1, &lease).await?;
    second.is_queued(LONG, 2, &lease).await?;
    first.lock().is_waited_for_by(&[&first, &second]).await?;
    first.owner().leaves_the_queue().await?;
    first.lock().is_waited_for_by(&[&second]).await
}

pub(crate) async fn entering_again_at_another_ticket_moves_the_place(trial: &Trial) -> Verdict {
    let (lease, [first, second, third]) = trial.held_with_queue().await?;
    let first = first.at(25);
    first.is_queued(LONG, 2, &lease).await?;
    first.lock().is_waited_for_by(&[&second, &first, &third]).await?;
    let third = third.at(5);
    third.is_queued(LONG, 1, &lease).await?;
    first.lock().is_waited_for_by(&[&third, &second, &first]).await
}

pub(crate) async fn several_places_in_one_request_are_answered_in_order(trial: &Trial) -> Verdict {
    let (lease, [first, second, third, fourth]) = trial.held_with_queue().await?;
    let another = trial.client().waiter(first.lock(), "another", 25);
    another.is_queued(LONG, 3, &lease).await?;
    let holder = first.client().waiter_as(lease.owner().clone(), Ticket::from_micros(1));
    let last = first.client().waiter(first.lock(), "last", 99);
    let request = [&last, &third, &holder, &first, &fourth, &second].map(|waiter| (waiter, LONG));
    let entered = first.client().enter(&request).await?;
    let expected = [6, 4, 0, 1, 5, 2].map(|position| match position {
        0 => Placed::Granted(None),
        position => Placed::Queued(position),
    });
    if entered.places != expected {
        return Err(Breach::answered(format!("enter of six is answered {expected:?}"), entered));
    }
    first.lock().is_waited_for_by(&[&first, &second, &another, &third, &fourth, &last]).await
}

pub(crate) async fn several_places_of_a_free_name_grant_it_to_the_first_alone(trial: &Trial) -> Verdict {
    let (lock, client) = (trial.lock(), trial.client());
    let [third, first, second] = [30, 10, 20].map(|ticket| client.waiter(&lock, "waiter", ticket));
    let asked = Instant::now();
    let entered = client.enter(&[(&third, LONG), (&first, LESS_LONG), (&second, LONGER)]).await?;
    let expected = [Placed::Queued(2), Placed::Granted(None), Placed::Queued(1)];
    if entered.places != expected {
        return Err(Breach::answered(format!("enter of three is answered {expected:?}"), entered));
    }
    first.was_handed_it(LESS_LONG, asked).await?;
    lock.is_waited_for_by(&[&second, &third]).await
}

pub(crate) async fn entering_a_free_name_alone_grants_it(trial: &Trial) -> Verdict {
    let waiter = trial.client().waiter(&trial.lock(), "waiter", 10);
    let lease = waiter.is_admitted(LONG).await?;
    lease.is_running().await?;
    waiter.lock().is_waited_for_by(&[]).await?;
    waiter.lock().owner("other").is_refused(LONG, &lease).await
}

pub(crate) async fn entering_a_free_name_grants_it_to_the_first_in_queue(trial: &Trial) -> Verdict {
    let (former, [first, second]) = trial.held_with_queue().await?;
    former.owner().lets_go().await?;
    let asked = Instant::now();
    let third = trial.client().waiter(first.lock(), "third", 30);
    third.is_queued(LONG, 2, &first.owner().lease(LONG, asked)).await?;
    first.was_handed_it(LONG, asked).await?;
    first.lock().is_waited_for_by(&[&second, &third]).await
}

pub(crate) async fn entering_a_free_name_at_the_lowest_ticket_is_granted_before_the_queue(
    trial: &Trial,
) -> Verdict {
    let (former, [first, second]) = trial.held_with_queue().await?;
    former.owner().lets_go().await?;
    let before = trial.client().waiter(first.lock(), "before", 5);
    before.is_admitted(LESS_LONG).await?.is_running().await?;
    first.lock().is_waited_for_by(&[&first, &second]).await
}

pub(crate) async fn entering_after_the_holders_expiry_grants_the_name(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let lease = lock.owner("former").is_granted(SHORT).await?;
    let client = trial.client();
    let [first, second] = [10, 20].map(|ticket| client.waiter(&lock, "waiter", ticket));
    // On a slow machine it is granted at once: the rest holds as well.
    first.enter(LESS_LONG).await?;
    let asked = Instant::now();
    lease.would_be_over_by_any_count().await;
    second.is_queued(LONG, 1, &first.owner().lease(LESS_LONG, asked)).await?;
    first.is_admitted(LONG).await?.is_running().await?;
    lock.is_waited_for_by(&[&second]).await
}

pub(crate) async fn entering_by_the_holder_starts_its_expiry_anew(trial: &Trial) -> Verdict {
    let (lease, [first]) = trial.held_with_queue().await?;
    // At a ticket before the others or after them: it does not wait.
    for (ticket, expiry) in [(5, LONG), (99, LESS_LONG), (1, LONGER)] {
        let holder = first.client().waiter_as(lease.owner().clone(), Ticket::from_micros(ticket));
        holder.is_admitted(expiry).await?.is_running().await?;
        first.lock().is_waited_for_by(&[&first]).await?;
    }
    Ok(())
}

pub(crate) async fn the_queue_is_shown_in_order_with_its_owners(trial: &Trial) -> Verdict {
    let (_, [first, second, third]) = trial.held_with_queue().await?;
    let look = first.lock().look().await?;
    let shown: Vec<_> = look.queue.iter().map(|one| (one.owner(), one.ticket().as_micros())).collect();
    let expected = [(Some("first"), 10), (Some("second"), 20), (Some("third"), 30)];
    if shown != expected || look.waiting != 3 {
        return Err(Breach::answered(format!("inspect shows the line {expected:?}"), look));
    }
    first.lock().is_waited_for_by(&[&first, &second, &third]).await
}

pub(crate) async fn a_long_line_is_shown_from_its_beginning_and_counted_in_full(trial: &Trial) -> Verdict {
    const MORE: usize = 7;
    let (lock, client) = (trial.lock(), trial.client());
    lock.owner("holder").is_granted(LONGER).await?;
    let queue: Vec<Waiter> =
        (1..).take(Look::SHOWN + MORE).map(|ticket| client.waiter(&lock, "waiter", ticket)).collect();
    let backwards: Vec<(&Waiter, Duration)> = queue.iter().rev().map(|waiter| (waiter, LONG)).collect();
    client.enter(&backwards).await?;
    let look = lock.look().await?;
    let expected: Vec<_> = queue[..Look::SHOWN].iter().map(Waiter::in_queue).collect();
    if look.queue == expected && look.waiting == queue.len() as u64 {
        return Ok(());
    }
    let expected = format!("inspect shows the first {} of {}, and counts all", Look::SHOWN, queue.len());
    Err(Breach::new(
        expected,
        format!("{} are shown, and {} counted: {look:?}", look.queue.len(), look.waiting),
    ))
}

pub(crate) async fn inspect_of_a_line_changes_nothing(trial: &Trial) -> Verdict {
    let (lease, [first, second]) = trial.held_with_queue().await?;
    for _ in 0..LOOKS {
        lease.is_running().await?;
        first.lock().is_waited_for_by(&[&first, &second]).await?;
    }
    lease.owner().lets_go().await?;
    for _ in 0..LOOKS {
        first.lock().is_free().await?;
        first.lock().is_waited_for_by(&[&first, &second]).await?;
    }
    Ok(())
}

pub(crate) async fn strangers_are_refused_where_there_is_a_line_and_leave_it(trial: &Trial) -> Verdict {
    use redsync::IfFree::{Leave, Retake};
    let (lease, [first, second]) = trial.held_with_queue().await?;
    let stranger = first.lock().owner("stranger");
    stranger.is_refused(LESS_LONG, &lease).await?;
    stranger.cannot_extend(LESS_LONG, Leave, &lease).await?;
    stranger.cannot_extend(LESS_LONG, Retake, &lease).await?;
    stranger.cannot_release(&lease).await?;
    lease.is_running().await?;
    first.lock().is_waited_for_by(&[&first, &second]).await
}

pub(crate) async fn those_in_queue_are_refused_like_strangers(trial: &Trial) -> Verdict {
    use redsync::IfFree::{Leave, Retake};
    let (lease, [first]) = trial.held_with_queue().await?;
    first.owner().is_refused(LESS_LONG, &lease).await?;
    first.owner().cannot_extend(LESS_LONG, Leave, &lease).await?;
    first.owner().cannot_extend(LESS_LONG, Retake, &lease).await?;
    lease.is_running().await?;
    first.lock().is_waited_for_by(&[&first]).await
}

pub(crate) async fn the_holder_extends_where_there_is_a_line(trial: &Trial) -> Verdict {
    use redsync::IfFree::{Leave, Retake};
    let (lease, [first]) = trial.held_with_queue().await?;
    lease.owner().extends(LONG, Leave).await?.is_running().await?;
    lease.owner().extends(LESS_LONG, Retake).await?.is_running().await?;
    lease.owner().is_granted(LONGER).await?.is_running().await?;
    first.lock().is_waited_for_by(&[&first]).await
}

pub(crate) async fn one_token_waits_in_each_line_on_its_own(trial: &Trial) -> Verdict {
    let (lease, [first]) = trial.held_with_queue().await?;
    let lock = trial.lock();
    let other_lease = lock.owner("holder").is_granted(LESS_LONG).await?;
    let same = lock.owner_with(first.owner().token().clone());
    let same = first.client().waiter_as(same, Ticket::from_micros(99));
    same.is_queued(LONG, 1, &other_lease).await?;
    first.lock().is_waited_for_by(&[&first]).await?;
    first.owner().leaves_the_queue().await?;
    lock.is_waited_for_by(&[&same]).await?;
    let asked = Instant::now();
    other_lease.owner().releases().await?;
    same.was_handed_it(LONG, asked).await?;
    lease.is_running().await?;
    first.lock().is_waited_for_by(&[]).await
}

pub(crate) async fn the_nodes_clock_counts_microseconds_and_never_goes_back(trial: &Trial) -> Verdict {
    const STEP: Duration = Duration::from_millis(20);
    const STEPS: u32 = 5;
    // How far it may be set meanwhile, or corrected.
    const CORRECTED: Duration = Duration::from_secs(2);
    let waiter = trial.client().waiter(&trial.lock(), "waiter", 10);
    let asked = Instant::now();
    let first = waiter.enter(LONG).await?.micros;
    let mut last = first;
    for _ in 0..STEPS {
        sleep(STEP).await;
        let micros = waiter.enter(LONG).await?.micros;
        if micros < last {
            return Err(Breach::answered(format!("a time that is not before {last}"), micros));
        }
        last = micros;
    }
    let (passed, most) = (Duration::from_micros(last - first), asked.elapsed() + CORRECTED);
    if passed < STEP * STEPS / 2 || passed > most {
        let expected = format!("{:?} later, the node's clock has gone on by about as much", STEP * STEPS);
        return Err(Breach::answered(expected, passed));
    }
    Ok(())
}

/// Enough for a little that each look changes to become visible.
const LOOKS: usize = 20;
