//! Who is told of what. A node that cannot tell says so, and those who wait ask it again.

use std::time::{Duration, Instant};

use redsync::{Placed, Ticket};

use crate::trial::{Breach, Heard, LESS_LONG, LONG, SHORT, Trial, Verdict, Waiter};

pub(crate) async fn a_hand_over_is_told_once_with_its_name_token_and_round(trial: &Trial) -> Verdict {
    let (lease, [first, second]) = trial.held_with_queue().await?;
    first.client().was_told_only(&[]).await?;
    lease.owner().releases().await?;
    first.comes_to_know(LONG).await?;
    first.client().was_told_only(&[first.grant()]).await?;
    first.owner().releases().await?;
    second.comes_to_know(LONG).await?;
    first.client().was_told_only(&[first.grant(), second.grant()]).await
}

pub(crate) async fn a_hand_over_is_told_with_the_round_of_the_last_enter(trial: &Trial) -> Verdict {
    let (lease, [first, second]) = trial.held_with_queue().await?;
    for _ in 0..3 {
        first.is_queued(LONG, 1, &lease).await?;
    }
    second.is_queued(LONG, 2, &lease).await?;
    lease.owner().releases().await?;
    first.comes_to_know(LONG).await?;
    first.client().is_told(&first.grant()).await
}

pub(crate) async fn rounds_up_to_the_highest_are_told(trial: &Trial) -> Verdict {
    let (lease, [first, second, third]) = trial.held_with_queue().await?;
    let mut holder = lease.owner();
    for (waiter, round) in [(&first, u32::MAX), (&second, 0), (&third, u32::MAX / 2 + 1)] {
        waiter.goes_on_at_round(round);
        waiter.enter(LONG).await?;
        holder.releases().await?;
        waiter.comes_to_know(LONG).await?;
        holder = waiter.owner();
    }
    Ok(())
}

pub(crate) async fn who_is_granted_by_its_own_request_is_answered_and_not_told(trial: &Trial) -> Verdict {
    let (lease, [first, second]) = trial.held_with_queue().await?;
    lease.owner().lets_go().await?;
    first.is_admitted(LONG).await?;
    first.at(5).yields_in_vain(LONG).await?;
    first.is_admitted(LONG).await?;
    second.enter(LONG).await?;
    let freed = Heard::Freed(first.lock().name().clone());
    first.client().was_told_only(&[freed]).await
}

pub(crate) async fn the_first_in_queue_is_told_when_another_enters_a_free_name(trial: &Trial) -> Verdict {
    let (former, [first]) = trial.held_with_queue().await?;
    former.owner().lets_go().await?;
    let other = trial.client().waiter(first.lock(), "other", 20);
    let grant = first.grant();
    let asked = Instant::now();
    other.is_queued(LONG, 1, &first.owner().lease(LONG, asked)).await?;
    first.client().is_told(&grant).await?;
    first.comes_to_know(LONG).await?;
    other.client().was_told_only(&[]).await
}

pub(crate) async fn the_next_is_told_when_the_holder_yields(trial: &Trial) -> Verdict {
    let (lease, [first]) = trial.held_with_queue().await?;
    let yielding = trial.client().waiter_as(lease.owner().clone(), Ticket::from_micros(20));
    yielding.yields_to(&first, LONG, LESS_LONG, 1).await?;
    first.comes_to_know(LONG).await?;
    first.owner().releases().await?;
    yielding.comes_to_know(LESS_LONG).await?;
    yielding.client().was_told_only(&[yielding.grant()]).await?;
    first.client().was_told_only(&[first.grant()]).await
}

pub(crate) async fn another_clients_listener_is_not_told(trial: &Trial) -> Verdict {
    let (lease, [first]) = trial.held_with_queue().await?;
    let (second, idle) = (trial.client().waiter(first.lock(), "second", 20), trial.client());
    second.is_queued(LONG, 2, &lease).await?;
    lease.owner().releases().await?;
    first.comes_to_know(LONG).await?;
    second.client().was_told_only(&[]).await?;
    idle.was_told_only(&[]).await?;
    first.owner().releases().await?;
    second.comes_to_know(LONG).await?;
    second.client().was_told_only(&[second.grant()]).await?;
    first.client().was_told_only(&[first.grant()]).await
}

pub(crate) async fn who_renewed_with_another_client_is_told_there(trial: &Trial) -> Verdict {
    let (lease, [first]) = trial.held_with_queue().await?;
    let moved = trial.client().waiter_as(first.owner().clone(), Ticket::from_micros(10));
    moved.is_queued(LONG, 1, &lease).await?;
    lease.owner().releases().await?;
    moved.comes_to_know(LONG).await?;
    first.client().was_told_only(&[]).await
}

pub(crate) async fn who_has_left_is_told_nothing(trial: &Trial) -> Verdict {
    let (lease, [first, second]) = trial.held_with_queue().await?;
    first.owner().leaves_the_queue().await?;
    lease.owner().releases().await?;
    second.comes_to_know(LONG).await?;
    second.owner().releases().await?;
    first.client().was_told_only(&[second.grant()]).await
}

pub(crate) async fn barging_tells_the_first_in_queue_that_the_name_is_free(trial: &Trial) -> Verdict {
    let (lease, [first]) = trial.held_with_queue().await?;
    let second = trial.client().waiter(first.lock(), "second", 20);
    second.is_queued(LONG, 2, &lease).await?;
    lease.owner().lets_go().await?;
    let freed = Heard::Freed(first.lock().name().clone());
    first.client().is_told(&freed).await?;
    first.client().was_told_only(&[freed]).await?;
    second.client().was_told_only(&[]).await?;
    first.is_admitted(LONG).await?.is_running().await
}

pub(crate) async fn barging_tells_nobody_who_did_not_renew_in_time(trial: &Trial) -> Verdict {
    let (lease, [late]) = trial.held_with_queue().await?;
    let first = trial.client().waiter(late.lock(), "first", 20);
    first.is_queued(LONG, 2, &lease).await?;
    let asked = Instant::now();
    late.is_queued(SHORT, 1, &lease).await?;
    late.owner().lease(SHORT, asked).would_be_over_by_any_count().await;
    lease.owner().lets_go().await?;
    first.client().is_told(&Heard::Freed(first.lock().name().clone())).await?;
    late.client().was_told_only(&[]).await
}

pub(crate) async fn a_node_that_cannot_tell_says_so_each_time(trial: &Trial) -> Verdict {
    let (lease, [first]) = trial.held_with_queue().await?;
    let at_first = first.client().has_to_ask_within();
    let second = trial.client().waiter(first.lock(), "second", 20);
    second.is_queued(LONG, 2, &lease).await?;
    let later = second.client().has_to_ask_within();
    let is_soon = at_first.is_none_or(|within| !within.is_zero() && within < Duration::from_secs(1));
    if at_first.is_some() != later.is_some() || !is_soon {
        let came = format!("within {at_first:?}, and then within {later:?}");
        return Err(Breach::new(
            "every enter says likewise how soon to ask again, within a second, or not to",
            came,
        ));
    }
    Ok(())
}

pub(crate) async fn everybody_in_queue_comes_to_its_turn(trial: &Trial) -> Verdict {
    const CLIENTS: usize = 3;
    const WAITERS: u64 = 24;
    let lock = trial.lock();
    let holder = lock.owner("holder");
    let lease = holder.is_granted(LONG).await?;
    let clients: [_; CLIENTS] = std::array::from_fn(|_| trial.client());
    let queue: Vec<Waiter> = clients
        .iter()
        .cycle()
        .zip(1..=WAITERS)
        .map(|(client, ticket)| client.waiter(&lock, "waiter", ticket))
        .collect();
    for (waiter, position) in queue.iter().zip(1..) {
        waiter.is_queued(LONG, position, &lease).await?;
    }
    holder.releases().await?;
    for waiter in &queue {
        waiter.comes_to_know(LONG).await?;
        if waiter.enter(LONG).await?.places != [Placed::Granted(None)] {
            return Err(Breach::answered("who was told holds", lock.look().await?));
        }
        waiter.owner().releases().await?;
    }
    lock.is_deserted().await
}
