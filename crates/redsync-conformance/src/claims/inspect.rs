//! Inspecting: tells, and changes nothing.

use crate::trial::{LESS_LONG, LONG, LONGER, SHORT, Trial, Verdict};

pub(crate) async fn inspect_of_a_free_name_says_nobody(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    lock.is_free().await?;
    let holder = lock.owner("holder");
    holder.is_granted(LONG).await?;
    holder.releases().await?;
    lock.is_free().await
}

pub(crate) async fn inspect_says_who_holds_and_for_how_long(trial: &Trial) -> Verdict {
    for expiry in [LESS_LONG, LONG, LONGER] {
        trial.lock().owner("holder").is_granted(expiry).await?.is_running().await?;
    }
    Ok(())
}

pub(crate) async fn inspect_changes_nothing(trial: &Trial) -> Verdict {
    let free = trial.lock();
    free.is_free().await?;
    free.is_free().await?;
    let lease = free.owner("holder").is_granted(LONG).await?;
    for _ in 0..LOOKS {
        lease.is_running().await?;
    }
    // To wait for the end is to look every few milliseconds.
    trial.lock().owner("holder").is_granted(SHORT).await?.runs_out().await
}

/// Enough for a little time that each look adds to become visible.
const LOOKS: usize = 50;
