//! Futures dropped at each of their await points, at random and under load: a rival always gets in.

mod support;

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redsync::{Error, Guard, Redsync};
use redsync_testkit::servers;
use support::{DEADLINE, both_ways, connect, wait_until_empty};
use tokio::task::{JoinSet, yield_now};

const EXPIRY: Duration = Duration::from_secs(2);
const TASKS: u64 = 8;
const ROUNDS: usize = 125;

/// What a busy machine may add to the time that a rival waits.
const TOLERANCE: Duration = Duration::from_secs(3);

/// Polls `future` at most so many times, with a moment between two polls, and drops it then.
async fn dropped_after<T>(polls: usize, chance: &mut StdRng, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        // Lets answers come: from none at all to all of them.
        for _ in 0..chance.random_range(0..6) {
            yield_now().await;
        }
    }
    None
}

/// What was dropped, how often.
#[derive(Debug, Default)]
struct Dropped {
    locks: usize,
    extensions: usize,
    unlocks: usize,
    runs: usize,
}

/// Takes a lock, extends it, works under it and releases it; one of these is dropped midway, and so is all that comes of it.
async fn one_round(
    redsync: &Redsync,
    name: &str,
    chance: &mut StdRng,
    dropped: &mut Dropped,
) -> Result<(), Error> {
    let polls = chance.random_range(0..8);
    let mutex = redsync.mutex(name).expiry(EXPIRY);
    match chance.random_range(0..4) {
        0 => match dropped_after(polls, chance, mutex.lock()).await {
            None => dropped.locks += 1,
            Some(guard) => drop(guard?),
        },
        1 => {
            let guard = mutex.lock().await?;
            let extending = async { guard.extend().await };
            dropped.extensions += usize::from(dropped_after(polls, chance, extending).await.is_none());
        }
        2 => {
            let guard = mutex.lock().await?;
            dropped.unlocks += usize::from(dropped_after(polls, chance, guard.unlock()).await.is_none());
        }
        _ => {
            let guard = mutex.lock().await?;
            let work = guard.run(async {
                for _ in 0..40 {
                    yield_now().await;
                }
            });
            dropped.runs += usize::from(dropped_after(polls, chance, work).await.is_none());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_dropped_a_rival_gets_in() {
    let seed =
        std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("SEED={seed}");
    let servers = servers(3);
    let (redsync, rivals) = (connect(&servers).await, connect(&servers).await);
    let mut load = JoinSet::new();
    for task in 0..TASKS {
        let redsync = redsync.clone();
        load.spawn(async move {
            loop {
                redsync.mutex(format!("load:{task}")).lock().await?.unlock().await?;
            }
            #[expect(unreachable_code, reason = "says what the errors are")]
            Ok::<(), Error>(())
        });
    }

    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (redsync, rivals) = (redsync.clone(), rivals.clone());
        tasks.spawn(async move {
            let mut chance = StdRng::seed_from_u64(seed.wrapping_add(task));
            let mut dropped = Dropped::default();
            let mut longest = Duration::ZERO;
            for round in 0..ROUNDS {
                let name = format!("dropped:{task}:{}", round % 10);
                one_round(&redsync, &name, &mut chance, &mut dropped).await.unwrap();
                let begun = Instant::now();
                let rival = rivals.mutex(&name).expiry(EXPIRY).wait_up_to(EXPIRY + TOLERANCE);
                let [in_queue, polling] = both_ways(&rival, Duration::from_millis(2));
                let rival = if chance.random() { in_queue } else { polling };
                let got_in: Result<Guard, Error> = rival.lock().await;
                got_in.unwrap().unlock().await.unwrap();
                longest = longest.max(begun.elapsed());
            }
            (dropped, longest)
        });
    }
    let (mut all, mut longest) = (Dropped::default(), Duration::ZERO);
    while let Some(done) = tasks.join_next().await {
        let (dropped, waited) = done.unwrap();
        all.locks += dropped.locks;
        all.extensions += dropped.extensions;
        all.unlocks += dropped.unlocks;
        all.runs += dropped.runs;
        longest = longest.max(waited);
    }
    load.shutdown().await;

    println!("{all:?}; the longest that a rival waited: {longest:?}");
    assert!(all.locks > 50 && all.extensions > 50 && all.unlocks > 50 && all.runs > 50, "{all:?}");
    assert!(longest < EXPIRY + TOLERANCE);
    assert!(redsync.drain(DEADLINE).await);
    wait_until_empty(&servers, EXPIRY + TOLERANCE);
}
