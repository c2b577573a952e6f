//! Dropped answers, and the order of one task's requests.

use std::time::Duration;

use redsync::Released;
use tokio::time::sleep;

use crate::trial::{Breach, LONG, Lease, Owner, SHORT, Trial, Verdict, Waiter};

pub(crate) async fn a_dropped_answer_leaves_the_node_usable(trial: &Trial) -> Verdict {
    for patience in PATIENCE {
        let lock = trial.lock();
        let caller = lock.owner("caller");
        caller.abandons_acquire(LONG, patience).await;
        undo(&caller).await?;
        let next = lock.owner("next");
        let lease = next.is_granted(LONG).await?;
        next.abandons_extend(LONG, patience).await;
        lease.is_running().await?;
        next.abandons_release(patience).await;
        undo(&next).await?;
        lock.is_free().await?;
    }
    Ok(())
}

pub(crate) async fn a_dropped_acquire_comes_before_a_later_release_or_never(trial: &Trial) -> Verdict {
    let callers = callers(trial);
    for (caller, patience) in callers.iter().zip(PATIENCE.into_iter().cycle()) {
        caller.abandons_acquire(LONG, patience).await;
        undo(caller).await?;
        caller.lock().is_free().await?;
    }
    stragglers_are_in().await;
    for caller in callers {
        caller.lock().is_free().await?;
    }
    Ok(())
}

pub(crate) async fn a_dropped_release_comes_before_a_later_acquire_or_never(trial: &Trial) -> Verdict {
    let mut leases = Vec::new();
    for (caller, patience) in callers(trial).into_iter().zip(PATIENCE.into_iter().cycle()) {
        caller.is_granted(LONG).await?;
        caller.abandons_release(patience).await;
        leases.push(caller.is_granted(LONG).await?);
    }
    stragglers_are_in().await;
    all_are_running(&leases).await
}

pub(crate) async fn a_dropped_extend_comes_before_a_later_acquire_or_never(trial: &Trial) -> Verdict {
    let mut leases = Vec::new();
    for (caller, patience) in callers(trial).into_iter().zip(PATIENCE.into_iter().cycle()) {
        caller.is_granted(LONG).await?;
        caller.abandons_extend(SHORT, patience).await;
        leases.push(caller.is_granted(LONG).await?);
    }
    stragglers_are_in().await;
    all_are_running(&leases).await
}

pub(crate) async fn a_dropped_enter_comes_before_a_later_release_or_never(trial: &Trial) -> Verdict {
    let waiters = waiters(trial);
    for (waiter, patience) in waiters.iter().zip(PATIENCE.into_iter().cycle()) {
        waiter.abandons_enter(LONG, patience).await;
        undo(waiter.owner()).await?;
        waiter.lock().is_deserted().await?;
    }
    stragglers_are_in().await;
    for waiter in waiters {
        waiter.lock().is_deserted().await?;
    }
    Ok(())
}

pub(crate) async fn a_dropped_yield_comes_before_a_later_release_or_never(trial: &Trial) -> Verdict {
    let waiters = waiters(trial);
    for (waiter, patience) in waiters.iter().zip(PATIENCE.into_iter().cycle()) {
        waiter.is_admitted(LONG).await?;
        waiter.abandons_yield(LONG, patience).await;
        waiter.owner().releases().await?;
        waiter.lock().is_deserted().await?;
    }
    stragglers_are_in().await;
    for waiter in waiters {
        waiter.lock().is_deserted().await?;
    }
    Ok(())
}

pub(crate) async fn a_dropped_release_comes_before_a_later_enter_or_never(trial: &Trial) -> Verdict {
    let mut leases = Vec::new();
    for (waiter, patience) in waiters(trial).iter().zip(PATIENCE.into_iter().cycle()) {
        waiter.is_admitted(LONG).await?;
        waiter.owner().abandons_release(patience).await;
        leases.push(waiter.is_admitted(LONG).await?);
    }
    stragglers_are_in().await;
    all_are_running(&leases).await
}

/// Enough of them that a node which leaves the order to luck is found out.
fn callers(trial: &Trial) -> Vec<Owner> {
    (0..32).map(|_| trial.lock().owner("caller")).collect()
}

/// As many, with one client.
fn waiters(trial: &Trial) -> Vec<Waiter> {
    let client = trial.client();
    (0..32).map(|_| client.waiter(&trial.lock(), "waiter", 10)).collect()
}

/// A release by somebody who does not know whether there is something to release.
async fn undo(caller: &Owner) -> Verdict {
    match caller.release().await? {
        Released::Released | Released::NotHeld => Ok(()),
        other @ (Released::Left | Released::HeldByAnother(_)) => {
            Err(Breach::answered("release by caller says Released or NotHeld", other))
        }
    }
}

async fn all_are_running(leases: &[Lease]) -> Verdict {
    for lease in leases {
        lease.is_running().await?;
    }
    Ok(())
}

/// A late request announces itself by nothing but its effect, so there is no event to wait for.
async fn stragglers_are_in() {
    sleep(Duration::from_millis(250)).await;
}

/// How long a caller waits before it drops the answer: not past the first poll, or long enough for the request to
/// be anywhere.
const PATIENCE: [Duration; 4] =
    [Duration::ZERO, Duration::from_micros(50), Duration::ZERO, Duration::from_millis(1)];
