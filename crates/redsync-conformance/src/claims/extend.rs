//! Extending: one's own lease from now on, a free name only on demand, another's never.

use std::time::{Duration, Instant};

use redsync::{Extended, IfFree};

use crate::trial::{Breach, LESS_LONG, LONG, LONGER, SHORT, SHORT_OR_SLOWER, Trial, Verdict, Watched};

pub(crate) async fn extend_by_the_owner_lets_the_lease_last_longer(trial: &Trial) -> Verdict {
    let holder = trial.lock().owner("holder");
    holder.is_granted(LONG).await?;
    holder.extends(LONGER, IfFree::Leave).await?.is_running().await?;
    // Not only by what the node says: it has to outlive its former end.
    for expiry in SHORT_OR_SLOWER {
        let holder = trial.lock().owner("holder");
        let former = holder.is_granted(expiry).await?;
        let asked = Instant::now();
        match holder.extend(LONG, IfFree::Leave).await? {
            Extended::Extended(_) => {
                let lease = holder.lease(LONG, asked);
                former.would_be_over().await;
                return lease.is_running().await;
            }
            Extended::NotHeld if former.may_be_over() => {}
            other => return Err(Breach::answered("extend by holder says Extended", other)),
        }
    }
    Ok(())
}

pub(crate) async fn extend_by_the_owner_lets_the_lease_end_sooner(trial: &Trial) -> Verdict {
    let holder = trial.lock().owner("holder");
    holder.is_granted(LONG).await?;
    holder.extends(LESS_LONG, IfFree::Leave).await?.is_running().await?;
    holder.extends(SHORT, IfFree::Leave).await?.runs_out().await
}

pub(crate) async fn extend_by_another_changes_nothing_and_says_who_holds(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let lease = lock.owner("holder").is_granted(LONG).await?;
    for expiry in [LONGER, LESS_LONG] {
        lock.owner("other").cannot_extend(expiry, IfFree::Leave, &lease).await?;
        lease.is_running().await?;
    }
    Ok(())
}

pub(crate) async fn extend_of_a_free_name_leaves_it_free(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    lock.owner("caller").has_nothing_to_extend().await?;
    lock.is_free().await?;
    let holder = lock.owner("holder");
    holder.is_granted(LONG).await?;
    holder.releases().await?;
    holder.has_nothing_to_extend().await?;
    lock.is_free().await
}

pub(crate) async fn extend_after_expiry_says_not_held(trial: &Trial) -> Verdict {
    let former = trial.lock().owner("former");
    former.is_granted(SHORT).await?.runs_out().await?;
    former.has_nothing_to_extend().await?;
    former.lock().is_free().await
}

pub(crate) async fn retake_of_a_free_name_grants_it(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let lease = lock.owner("caller").retakes(LONG).await?;
    lease.is_running().await?;
    lock.owner("other").is_refused(LONG, &lease).await
}

pub(crate) async fn retake_after_expiry_grants_the_name_again(trial: &Trial) -> Verdict {
    let former = trial.lock().owner("former");
    former.is_granted(SHORT).await?.runs_out().await?;
    former.retakes(LONG).await?.is_running().await
}

pub(crate) async fn a_retaken_lease_ends_at_its_expiry_and_not_before(trial: &Trial) -> Verdict {
    for expiry in SHORT_OR_SLOWER {
        let lease = trial.lock().owner("caller").retakes(expiry).await?;
        if lease.is_watched_to_its_end().await? == Watched::Closely {
            break;
        }
    }
    Ok(())
}

pub(crate) async fn retake_by_the_owner_extends(trial: &Trial) -> Verdict {
    let holder = trial.lock().owner("holder");
    holder.is_granted(LONG).await?;
    holder.extends(LONGER, IfFree::Retake).await?.is_running().await
}

pub(crate) async fn retake_never_takes_anothers_lease(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let lease = lock.owner("holder").is_granted(LONG).await?;
    for expiry in [LONGER, LESS_LONG, Duration::from_millis(1)] {
        lock.owner("other").cannot_extend(expiry, IfFree::Retake, &lease).await?;
        lease.is_running().await?;
    }
    Ok(())
}
