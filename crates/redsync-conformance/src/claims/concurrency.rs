//! Many at once: one holds.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use redsync::{Acquired, Extended, Holder, IfFree, Placed, Token};
use tokio::sync::Barrier;
use tokio::task::{JoinError, JoinSet, yield_now};

use crate::trial::{Breach, LONG, Lock, Owner, Trial, Verdict, Waiter};

pub(crate) async fn of_many_at_once_exactly_one_is_granted(trial: &Trial) -> Verdict {
    let lock = trial.lock();
    let answers = all_at_once(&lock, |caller: Owner| async move {
        match caller.acquire(LONG).await? {
            Acquired::Granted(_) => Ok(None),
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
                if caller.acquire(LONG).await? == Acquired::Granted(None) {
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

pub(crate) async fn never_do_two_have_the_same_fence(trial: &Trial) -> Verdict {
    const GRANTS: usize = 10;
    const TASKS: u64 = 8;
    let (lock, number) = (trial.lock(), trial.node_micros().await?);
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for ticket in 1..=TASKS {
        let (lock, client, told) = (lock.clone(), trial.client(), Arc::clone(&told));
        tasks.spawn(async move {
            for _ in 0..GRANTS {
                let waiter = client.waiter(&lock, "waiter", ticket).proposing(number);
                let fence = match waiter.enter(LONG).await?.places[..] {
                    [Placed::Granted(fence)] => fence,
                    _ => waiter.comes_to_know_its_fence(LONG).await?,
                };
                // In the order in which they hold.
                told.lock().unwrap_or_else(PoisonError::into_inner).push(fence);
                waiter.owner().releases().await?;
            }
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        or_panic(ended)?;
    }
    let told = told.lock().unwrap_or_else(PoisonError::into_inner);
    if told.iter().all(Option::is_some) && told.is_sorted_by(|former, next| former < next) {
        return Ok(());
    }
    Err(Breach::answered("each holder has a larger fence than the one before", &*told))
}

pub(crate) async fn of_many_who_enter_at_once_one_is_granted_and_the_others_wait(trial: &Trial) -> Verdict {
    const WAITERS: u64 = 40;
    let (lock, client) = (trial.lock(), trial.client());
    let waiters: Vec<Waiter> = (1..=WAITERS).map(|ticket| client.waiter(&lock, "waiter", ticket)).collect();
    let start = Arc::new(Barrier::new(waiters.len()));
    let mut tasks = JoinSet::new();
    for waiter in waiters.iter().cloned() {
        let start = Arc::clone(&start);
        tasks.spawn(async move {
            start.wait().await;
            let is_granted = waiter.enter(LONG).await?.places == [Placed::Granted(None)];
            Ok((waiter, is_granted))
        });
    }
    let mut granted = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        let (waiter, is_granted) = or_panic(ended)?;
        granted.extend(is_granted.then_some(waiter));
    }
    let [holder] = &granted[..] else {
        return Err(Breach::new("exactly one is granted", format!("{} are", granted.len())));
    };
    let is_holder = |waiter: &Waiter| waiter.owner().token() == holder.owner().token();
    let queue: Vec<&Waiter> = waiters.iter().filter(|waiter| !is_holder(waiter)).collect();
    lock.is_waited_for_by(&queue).await?;
    let mut holder = holder;
    for next in queue {
        let asked = Instant::now();
        holder.owner().releases().await?;
        next.was_handed_it(LONG, asked).await?;
        holder = next;
    }
    holder.owner().releases().await?;
    lock.is_deserted().await
}

pub(crate) async fn no_stranger_comes_between_those_in_queue(trial: &Trial) -> Verdict {
    const WAITERS: u64 = 40;
    const STRANGERS: usize = 3;
    let (lock, client) = (trial.lock(), trial.client());
    let holder = lock.owner("holder");
    let lease = holder.is_granted(LONG).await?;
    let queue: Vec<Waiter> = (1..=WAITERS).map(|ticket| client.waiter(&lock, "waiter", ticket)).collect();
    for (waiter, position) in queue.iter().zip(1..) {
        waiter.is_queued(LONG, position, &lease).await?;
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let mut strangers = JoinSet::new();
    for _ in 0..STRANGERS {
        let (stranger, is_over) = (lock.owner("stranger"), Arc::clone(&is_over));
        strangers.spawn(async move {
            while !is_over.load(Ordering::SeqCst) {
                if stranger.acquire(LONG).await? == Acquired::Granted(None) {
                    return Err(Breach::new("strangers are refused while there is a line", "one is granted"));
                }
                yield_now().await;
            }
            Ok(())
        });
    }
    let mut holder = &holder;
    for next in &queue {
        holder.release().await?;
        yield_now().await;
        holder = next.owner();
    }
    is_over.store(true, Ordering::SeqCst);
    while let Some(ended) = strangers.join_next().await {
        or_panic(ended)?;
    }
    Ok(())
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
