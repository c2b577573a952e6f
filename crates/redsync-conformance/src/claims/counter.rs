//! The counter of a lock's fences: how long it is kept, and how far it goes.

use std::time::{Duration, Instant};

use redsync::{Acquired, Applied, Extended, IfFree, Placed, Released, Succession, Ticket};
use tokio::time::sleep;

use crate::trial::{
    Breach, HALF_A_SECOND, HIGHEST, LONG, Lock, RETENTION, SHORT, SHORT_OR_SLOWER, Trial, Verdict, Waiter,
    Watched, beyond, exactly, proposal,
};

pub(crate) async fn the_counter_outlives_a_release(trial: &Trial) -> Verdict {
    for succession in [Succession::HandOver, Succession::Barging] {
        let (lock, number) = (trial.lock(), trial.node_micros().await? + HALF_A_SECOND);
        let former = lock.owner("former").proposing(number);
        let fence = former.is_fenced().await?;
        former.is_answered(succession, Released::Released).await?;
        lock.is_counted_to(Some(fence)).await?;
        former.is_answered(succession, Released::NotHeld).await?;
        lock.is_counted_to(Some(fence)).await?;
        beyond(fence, lock.owner("next").proposing(1).is_fenced().await?)?;
    }
    Ok(())
}

pub(crate) async fn the_counter_outlives_the_leases_expiry(trial: &Trial) -> Verdict {
    let (lock, number) = (trial.lock(), trial.node_micros().await? + HALF_A_SECOND);
    let former = lock.owner("former").proposing(number);
    let asked = Instant::now();
    let fence = former.is_fenced_for(SHORT).await?;
    former.lease(SHORT, asked).runs_out().await?;
    lock.is_counted_to(Some(fence)).await?;
    beyond(fence, lock.owner("next").proposing(1).is_fenced().await?).map(drop)
}

pub(crate) async fn the_counter_outlives_hand_overs(trial: &Trial) -> Verdict {
    let (lock, number) = (trial.lock(), trial.node_micros().await? + HALF_A_SECOND);
    let former = lock.owner("former").proposing(number);
    let fence = former.is_fenced().await?;
    let client = trial.client();
    let [first, second] = [10, 20].map(|ticket| client.waiter(&lock, "waiter", ticket));
    let second = second.proposing(1);
    client.enter(&[(&first, LONG), (&second, LONG)]).await?;
    former.releases().await?;
    first.comes_to_know(LONG).await?;
    lock.is_counted_to(Some(fence)).await?;
    first.owner().releases().await?;
    beyond(fence, second.is_handed_a_fence().await?).map(drop)
}

pub(crate) async fn a_counter_is_kept_for_its_retention_and_then_forgotten(trial: &Trial) -> Verdict {
    for retention in SHORT_OR_SLOWER {
        let lock = trial.lock();
        let holder = lock.owner("holder").asking_for(proposal(1, retention));
        let asked = Instant::now();
        holder.acquire(SHORT).await?;
        let answered = Instant::now();
        if is_forgotten(&lock, retention, asked, answered).await? == Watched::Closely {
            break;
        }
    }
    Ok(())
}

pub(crate) async fn each_use_of_a_counter_starts_its_retention_anew(trial: &Trial) -> Verdict {
    for retention in SHORT_OR_SLOWER {
        let (locks, client) = ([(); 5].map(|()| trial.lock()), trial.client());
        let asked = Instant::now();
        let holders = locks.each_ref().map(|lock| lock.owner("holder"));
        for holder in &holders {
            holder.asking_for(proposal(1, retention)).acquire(LONG).await?;
        }
        let [acquiring, entering, extending, releasing, retaking] =
            holders.each_ref().map(|holder| holder.proposing(1));
        acquiring.acquire(LONG).await?;
        client.waiter_as(entering, Ticket::from_micros(10)).enter(LONG).await?;
        extending.extend(LONG, IfFree::Leave).await?;
        client.waiter(releasing.lock(), "next", 10).proposing(1).enter(LONG).await?;
        releasing.release().await?;
        retaking.release().await?;
        retaking.extend(LONG, IfFree::Retake).await?;
        if asked.elapsed() >= retention * 3 / 4 {
            // A slow machine may have been too late for it.
            continue;
        }
        holders[0].lease(retention, asked).would_be_over_by_any_count().await;
        for (lock, by) in locks.iter().zip(["acquire", "enter", "extend", "release", "retake"]) {
            if lock.look().await?.fence.is_none() {
                let expected =
                    format!("a counter that was used by {by} is kept for {RETENTION:?} from then on");
                return Err(Breach::new(expected, format!("forgotten after {:?}", asked.elapsed())));
            }
        }
        break;
    }
    Ok(())
}

pub(crate) async fn the_retention_that_was_asked_for_last_counts(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let holder = lock.owner("holder").proposing(1);
    holder.is_fenced().await?;
    let asked = Instant::now();
    holder.asking_for(proposal(1, SHORT)).extend(SHORT, IfFree::Leave).await?;
    is_forgotten(&lock, SHORT, asked, Instant::now()).await.map(drop)
}

pub(crate) async fn fences_up_to_the_highest_are_exact(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let holder = lock.owner("holder").proposing(1);
    holder.is_fenced().await?;
    for number in [HIGHEST / 2, HIGHEST / 2 + 1, HIGHEST - 3, HIGHEST - 2, HIGHEST - 1] {
        holder.proposing(number).extends_at(number).await?;
        exactly(number, holder.is_fenced().await?)?;
    }
    holder.releases().await?;
    lock.is_counted_to(Some(HIGHEST - 1)).await?;
    exactly(HIGHEST, lock.owner("last").proposing(1).is_fenced().await?)?;
    // And in what is handed over.
    let lock = trial.lock();
    let holder = lock.owner("holder").proposing(1);
    holder.is_fenced().await?;
    holder.proposing(HIGHEST - 1).extends_at(HIGHEST - 1).await?;
    let last = trial.client().waiter(&lock, "last", 10).proposing(1);
    last.enter(LONG).await?;
    holder.releases().await?;
    exactly(HIGHEST, last.is_handed_a_fence().await?)
}

pub(crate) async fn a_counter_at_its_end_lets_no_fenced_lease_be_acquired(trial: &Trial) -> Verdict {
    let lock = at_its_end(trial).await?;
    let next = lock.owner("next").proposing(1);
    match next.try_acquire(LONG).await? {
        Err(fault) if fault.applied() == Applied::No => {}
        other => {
            let expected = "acquire at the counter's end is a fault that says Applied::No";
            return Err(Breach::answered(expected, other));
        }
    }
    lock.is_deserted().await?;
    lock.is_counted_to(Some(HIGHEST)).await?;
    lock.owner("plain").is_granted(LONG).await?.is_running().await
}

pub(crate) async fn a_counter_at_its_end_lets_the_queue_go_on_without_fences(trial: &Trial) -> Verdict {
    let lock = at_its_end(trial).await?;
    let client = trial.client();
    let holder = lock.owner("holder");
    holder.is_granted(LONG).await?;
    let [first, second] = [10, 20].map(|ticket| client.waiter(&lock, "waiter", ticket).proposing(1));
    client.enter(&[(&first, LONG), (&second, LONG)]).await?;
    let asked = Instant::now();
    holder.releases().await?;
    first.was_handed_it(LONG, asked).await?;
    has_no_fence(&first).await?;
    let asked = Instant::now();
    first.owner().releases().await?;
    second.was_handed_it(LONG, asked).await?;
    has_no_fence(&second).await?;
    second.owner().releases().await?;
    let asked = Instant::now();
    let alone = client.waiter(&lock, "alone", 30).proposing(1);
    alone.enter(LONG).await?;
    alone.was_handed_it(LONG, asked).await?;
    never_hears_of_one(&alone).await
}

/// A lock whose counter stands as high as any can, and that nobody has.
async fn at_its_end(trial: &Trial) -> Result<Lock, Breach> {
    let lock = trial.lock();
    let holder = lock.owner("last").proposing(1);
    holder.is_fenced().await?;
    holder.proposing(HIGHEST).extends_at(HIGHEST).await?;
    holder.releases().await?;
    Ok(lock)
}

async fn has_no_fence(waiter: &Waiter) -> Verdict {
    match waiter.comes_to_know_its_fence(LONG).await? {
        None => never_hears_of_one(waiter).await,
        fence => Err(Breach::answered("a hand-over at the counter's end is told without a fence", fence)),
    }
}

/// Expects that nothing that this holder asks tells it the fence of a former one.
async fn never_hears_of_one(waiter: &Waiter) -> Verdict {
    let without = "who was granted without a fence, the counter being at its end, is not told another's";
    let entered = waiter.enter(LONG).await?;
    if entered.places != [Placed::Granted(None)] {
        return Err(Breach::answered(without, entered));
    }
    if let acquired @ Ok(Acquired::Granted(Some(_))) = waiter.owner().try_acquire(LONG).await? {
        return Err(Breach::answered(without, acquired));
    }
    for number in [1, HIGHEST] {
        let extended = waiter.owner().proposing(number).extend(LONG, IfFree::Leave).await?;
        if extended != Extended::Extended(None) {
            return Err(Breach::answered(without, extended));
        }
    }
    Ok(())
}

/// Expects that the counter is kept for `retention`, from a request made at `asked` and answered at `answered` on, and
/// forgotten some time after.
async fn is_forgotten(
    lock: &Lock,
    retention: Duration,
    asked: Instant,
    answered: Instant,
) -> Result<Watched, Breach> {
    let mut watched = Watched::Loosely;
    loop {
        let looked = Instant::now();
        if lock.look().await?.fence.is_none() {
            break;
        }
        if answered.elapsed() > retention + FORGOTTEN_WITHIN {
            let expected = format!("a counter that is kept for {retention:?} is forgotten after that");
            return Err(Breach::new(expected, format!("it is still there {:?} later", answered.elapsed())));
        }
        if looked.duration_since(asked) >= retention * 3 / 4 {
            watched = Watched::Closely;
        }
        sleep(Duration::from_millis(10)).await;
    }
    // What two good clocks may differ by.
    let drift = retention / 100 + Duration::from_millis(2);
    if asked.elapsed() < retention.saturating_sub(drift) {
        let expected = format!("a counter is kept for {retention:?}");
        return Err(Breach::new(expected, format!("it is forgotten {:?} later", asked.elapsed())));
    }
    Ok(watched)
}

const FORGOTTEN_WITHIN: Duration = Duration::from_secs(5);
