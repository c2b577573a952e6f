//! Many at once: one holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use redsync::{Acquired, Extended, Holder, IfFree, Token};
use tokio::sync::Barrier;
use tokio::task::{JoinError, JoinSet, yield_now};

use crate::trial::{Breach, LONG, Lock, Owner, Trial, Verdict};

pub(crate) async fn of_many_at_once_exactly_one_is_granted(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let answers = all_at_once(&lock, |caller: Owner| async move {
        match caller.acquire(LONG).await? {
            Acquired::Granted => Ok(None),
            Acquired::Taken(holder) => Ok(Some(holder)),
        }
    });
    exactly_one_has_it(&lock, answers.await?).await
}

pub(crate) async fn of_many_at_once_exactly_one_retakes(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let answers = all_at_once(&lock, |caller: Owner| async move {
        match caller.extend(LONG, IfFree::Retake).await? {
            Extended::Retaken => Ok(None),
            Extended::HeldByAnother(holder) => Ok(Some(holder)),
            other => Err(Breach::answered("extend (IfFree::Retake) says Retaken or HeldByAnother", other)),
        }
    });
    exactly_one_has_it(&lock, answers.await?).await
}

pub(crate) async fn never_do_two_hold_at_once(trial: &Trial) -> Verdict {
    const ROUNDS: usize = 25;
    const TASKS: usize = 8;
    let lock = trial.lock();
    let holding = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (lock, holding) = (lock.clone(), Arc::clone(&holding));
        tasks.spawn(async move {
            for _ in 0..ROUNDS {
                let caller = lock.owner("caller");
                if caller.acquire(LONG).await? == Acquired::Granted {
                    let others = holding.fetch_add(1, Ordering::SeqCst);
                    yield_now().await;
                    holding.fetch_sub(1, Ordering::SeqCst);
                    if others > 0 {
                        return Err(Breach::new("one holder at a time", format!("{} at once", others + 1)));
                    }
                    caller.releases().await?;
                }
                yield_now().await;
            }
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        or_panic(ended)?;
    }
    lock.is_free().await
}

/// What a caller with this token was told: that it holds, or who does.
type Told = (Token, Option<Holder>);

async fn all_at_once<F, A>(lock: &Lock, ask: F) -> Result<Vec<Told>, Breach>
where
    F: Fn(Owner) -> A,
    A: Future<Output = Result<Option<Holder>, Breach>> + Send + 'static,
{
    const CALLERS: usize = 50;
    let start = Arc::new(Barrier::new(CALLERS));
    let mut tasks = JoinSet::new();
    for _ in 0..CALLERS {
        let caller = lock.owner("caller");
        let (token, start) = (caller.token().clone(), Arc::clone(&start));
        let answer = ask(caller);
        tasks.spawn(async move {
            start.wait().await;
            Ok((token, answer.await?))
        });
    }
    let mut told = Vec::with_capacity(CALLERS);
    while let Some(ended) = tasks.join_next().await {
        told.push(or_panic(ended)?);
    }
    Ok(told)
}

async fn exactly_one_has_it(lock: &Lock, told: Vec<Told>) -> Verdict {
    let granted: Vec<&Token> =
        told.iter().filter(|(_, holder)| holder.is_none()).map(|(token, _)| token).collect();
    let [winner] = granted[..] else {
        return Err(Breach::new("exactly one is granted", format!("{} are", granted.len())));
    };
    for holder in told.iter().filter_map(|(_, holder)| holder.as_ref()).chain(&lock.inspect().await?) {
        if holder.token() != winner.as_str() {
            return Err(Breach::answered(format!("all others hear of the token {winner:?}"), holder));
        }
    }
    Ok(())
}

/// The task's outcome. A panic in it goes on here.
fn or_panic<T>(ended: Result<T, JoinError>) -> T {
    ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
