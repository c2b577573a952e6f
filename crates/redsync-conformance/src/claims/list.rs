//! Listing: what is held and matches, all of it, and nothing else. It changes nothing.

use std::collections::BTreeSet;

use futures_util::future::join_all;

use crate::trial::{Breach, LESS_LONG, LONG, RETENTION, SHORT, Trial, Verdict, proposal};

pub(crate) async fn what_is_held_is_listed_with_its_holder_and_its_time(trial: &Trial) -> Verdict {
    let prefix = trial.fresh_prefix();
    let mut leases = Vec::new();
    for (name, expiry) in [("a", LONG), ("b", LESS_LONG)] {
        leases.push(trial.lock_named(&format!("{prefix}{name}")).owner("holder").is_granted(expiry).await?);
    }
    trial.lists(&format!("{prefix}*"), &leases.iter().collect::<Vec<_>>()).await
}

pub(crate) async fn what_is_free_again_is_not_listed(trial: &Trial) -> Verdict {
    let prefix = trial.fresh_prefix();
    let released = trial.lock_named(&format!("{prefix}released")).owner("holder");
    released.is_granted(LONG).await?;
    released.releases().await?;
    let expired = trial.lock_named(&format!("{prefix}expired")).owner("holder");
    expired.is_granted(SHORT).await?.runs_out().await?;
    trial.lists(&format!("{prefix}*"), &[]).await
}

pub(crate) async fn only_names_that_match_are_listed(trial: &Trial) -> Verdict {
    let prefix = trial.fresh_prefix();
    let names = ["a", "ab", "abc", "b", "b-c"];
    let mut leases = Vec::new();
    for name in names {
        leases.push(trial.lock_named(&format!("{prefix}{name}")).owner("holder").is_granted(LONG).await?);
    }
    let cases: [(&str, &[&str]); 9] = [
        ("*", &names),
        ("a", &["a"]),
        ("a*", &["a", "ab", "abc"]),
        ("*c", &["abc", "b-c"]),
        ("?", &["a", "b"]),
        ("[a-b]", &["a", "b"]),
        ("[^a]*", &["b", "b-c"]),
        (r"b\-*", &["b-c"]),
        (r"\*", &[]),
    ];
    for (pattern, expected) in cases {
        let matching: Vec<_> = names
            .iter()
            .zip(&leases)
            .filter(|(name, _)| expected.contains(name))
            .map(|(_, lease)| lease)
            .collect();
        trial.lists(&format!("{prefix}{pattern}"), &matching).await?;
    }
    Ok(())
}

pub(crate) async fn what_is_listed_says_how_many_wait_and_where_the_counter_stands(trial: &Trial) -> Verdict {
    let (lease, _line) = trial.held_with_queue::<2>().await?;
    let lock = lease.owner().lock();
    let listed = trial.listed(lock.name().as_str()).await?;
    if listed.iter().map(|found| found.waiting).ne([2]) {
        return Err(Breach::answered(format!("list of {lock} says that 2 wait"), listed));
    }
    let lock = trial.lock();
    lock.owner("holder").asking_for(proposal(1, RETENTION)).is_granted(LONG).await?;
    let (listed, expected) = (trial.listed(lock.name().as_str()).await?, lock.look().await?.fence);
    if listed.iter().map(|found| found.fence).ne([expected]) {
        return Err(Breach::answered(format!("list of {lock} says what inspect says, {expected:?}"), listed));
    }
    Ok(())
}

pub(crate) async fn as_many_as_there_are_are_listed(trial: &Trial) -> Verdict {
    let prefix = trial.fresh_prefix();
    let names: BTreeSet<String> = (0..MANY).map(|number| format!("{prefix}{number}")).collect();
    let granted = names.iter().map(|name| {
        let owner = trial.lock_named(name).owner("holder");
        async move { owner.is_granted(LONG).await.map(drop) }
    });
    join_all(granted).await.into_iter().collect::<Verdict>()?;
    let listed = trial.listed(&format!("{prefix}*")).await?;
    let listed: BTreeSet<String> = listed.iter().map(|found| found.name.to_string()).collect();
    match names.symmetric_difference(&listed).count() {
        0 => Ok(()),
        _ => Err(Breach::new(format!("a list of {MANY} names"), format!("one of {}", listed.len()))),
    }
}

pub(crate) async fn listing_changes_nothing(trial: &Trial) -> Verdict {
    let prefix = trial.fresh_prefix();
    let lock = trial.lock_named(&format!("{prefix}a"));
    let lease = lock.owner("holder").is_granted(LONG).await?;
    for _ in 0..LOOKS {
        trial.listed(&format!("{prefix}*")).await?;
    }
    lease.is_running().await?;
    lock.is_waited_for_by(&[]).await?;
    let brief = trial.lock_named(&format!("{prefix}b")).owner("holder").is_granted(SHORT).await?;
    trial.listed(&format!("{prefix}*")).await?;
    brief.runs_out().await
}

/// More than a page is likely to hold.
const MANY: usize = 300;

/// Enough for a little time that each list adds to become visible.
const LOOKS: usize = 50;
