//! Releasing: one's own lease, and nobody else's.

use crate::trial::{LONG, SHORT, Trial, Verdict};

pub(crate) async fn release_by_the_owner_frees_the_name(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let holder = lock.owner("holder");
    holder.is_granted(LONG).await?;
    holder.releases().await?;
    lock.is_free().await?;
    lock.owner("next").is_granted(LONG).await?.is_running().await
}

pub(crate) async fn release_by_another_leaves_the_lease_and_says_who_holds(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let lease = lock.owner("holder").is_granted(LONG).await?;
    lock.owner("other").cannot_release(&lease).await?;
    lease.is_running().await
}

pub(crate) async fn release_of_a_free_name_says_not_held(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    lock.owner("caller").has_nothing_to_release().await?;
    lock.is_free().await
}

pub(crate) async fn a_second_release_says_not_held(trial: &Trial) -> Verdict {
    let holder = trial.lock().owner("holder");
    holder.is_granted(LONG).await?;
    holder.releases().await?;
    holder.has_nothing_to_release().await
}

pub(crate) async fn release_after_expiry_says_not_held(trial: &Trial) -> Verdict {
    let former = trial.lock().owner("former");
    former.is_granted(SHORT).await?.runs_out().await?;
    former.has_nothing_to_release().await
}

pub(crate) async fn release_after_expiry_leaves_the_next_holder(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let former = lock.owner("former");
    let expired = former.is_granted(SHORT).await?;
    let lease = expired.is_followed_by(&lock.owner("next"), LONG).await?;
    former.cannot_release(&lease).await?;
    lease.is_running().await
}
