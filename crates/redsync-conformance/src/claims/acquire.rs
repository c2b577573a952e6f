//! Acquiring: granted if free or one's own, refused otherwise, and over at its expiry.

use std::time::Duration;

use redsync::{Acquired, Applied, Expiry, IfFree};

use crate::trial::{Breach, LESS_LONG, LONG, LONGER, SHORT, SHORT_OR_SLOWER, Trial, Verdict, Watched};

pub(crate) async fn a_free_name_is_granted(trial: &Trial) -> Verdict {
    trial.lock().owner("holder").is_granted(LONG).await?.is_running().await
}

pub(crate) async fn a_taken_name_is_refused_and_says_who_holds(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let lease = lock.owner("holder").is_granted(LONG).await?;
    let other = lock.owner("other");
    other.is_refused(LONG, &lease).await?;
    other.is_refused(LONG, &lease).await?;
    lock.owner("third").is_refused(LONG, &lease).await
}

pub(crate) async fn a_refused_acquire_leaves_the_holder_and_its_time(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let lease = lock.owner("holder").is_granted(LONG).await?;
    for expiry in [LONGER, LESS_LONG] {
        // Whatever it is told: that is another clause's business.
        lock.owner("other").acquire(expiry).await?;
        lease.is_running().await?;
    }
    Ok(())
}

pub(crate) async fn the_same_token_is_granted_again(trial: &Trial) -> Verdict {
    let holder = trial.lock().owner("holder");
    holder.is_granted(LONG).await?;
    holder.is_granted(LONG).await?.is_running().await
}

pub(crate) async fn the_same_token_again_starts_its_expiry_anew(trial: &Trial) -> Verdict {
    let holder = trial.lock().owner("holder");
    let short = holder.is_granted(SHORT).await?;
    // A slow machine may be too late for it, and is granted a new lease: the claim holds for that one as well.
    let long = holder.is_granted(LONG).await?;
    short.would_be_over().await;
    long.is_running().await?;
    holder.is_granted(LONGER).await?.is_running().await
}

pub(crate) async fn the_same_token_again_does_not_shorten_its_lease(trial: &Trial) -> Verdict {
    let holder = trial.lock().owner("holder");
    let lease = holder.is_granted(LONGER).await?;
    for expiry in [LESS_LONG, SHORT] {
        holder.is_granted(expiry).await?;
        lease.is_running().await?;
    }
    Ok(())
}

pub(crate) async fn a_lease_ends_at_its_expiry_and_not_before(trial: &Trial) -> Verdict {
    for expiry in SHORT_OR_SLOWER {
        let lease = trial.lock().owner("holder").is_granted(expiry).await?;
        if lease.is_watched_to_its_end().await? == Watched::Closely {
            break;
        }
    }
    Ok(())
}

pub(crate) async fn an_expired_lease_is_free_for_another(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let expired = lock.owner("former").is_granted(SHORT).await?;
    expired.is_followed_by(&lock.owner("next"), LONG).await?.is_running().await
}

pub(crate) async fn the_shortest_expiry_is_granted_and_soon_over(trial: &Trial) -> Verdict {
    trial.lock().owner("holder").is_granted(Duration::from_millis(1)).await?.runs_out().await
}

pub(crate) async fn the_longest_expiry_is_granted_or_refused_without_a_lease(trial: &Trial) -> Verdict {
    let longest = Expiry::MAX.as_duration();
    let lock = trial.lock();
    let holder = lock.owner("holder");
    match holder.try_acquire(longest).await? {
        Ok(Acquired::Granted(_)) => {
            holder.is_granted(longest).await?.is_running().await?;
            holder.extends(longest, IfFree::Leave).await?.is_running().await?;
            holder.releases().await
        }
        Err(fault) if fault.applied() == Applied::No => lock.is_free().await,
        other => {
            let expected = format!("acquire for {longest:?} is Granted, or a fault that says Applied::No");
            Err(Breach::answered(expected, other))
        }
    }
}
