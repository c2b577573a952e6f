//! Several runtimes keep each other's guards: one that stands still, starts late or ends takes nothing from the others.

#[path = "support/delegate.rs"]
mod delegate;
mod support;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use delegate::delegate;
use redsync::{Answer, Claim, Extended, IfFree, MemoryNode, Node, Redsync};
use redsync_testkit::{servers, wait_until};
use support::{DEADLINE, connect};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

const MILLIS: Duration = Duration::from_millis(1);

/// In how many rounds at most, of which the best counts: a machine that stands still for an expiry loses every lock.
const ROUNDS: usize = 3;

fn held_in_some_round(holds: impl Fn() -> bool) -> bool {
    (0..ROUNDS).any(|_| holds())
}

fn of_one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn of_workers(workers: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap()
}

/// Over a node that needs no runtime to be asked.
fn in_memory() -> Redsync {
    Redsync::new([Arc::new(MemoryNode::new()) as Arc<dyn Node>]).unwrap()
}

#[test]
fn a_keeper_that_was_replaced_does_not_hear_what_its_successor_is_told() {
    let is_held = held_in_some_round(|| {
        let redsync = in_memory();
        let (still, healthy) = (of_one_thread(), of_workers(2));
        let first = redsync.mutex("first").expiry(300 * MILLIS).renew(false);
        let _first = still.block_on(async {
            let guard = first.lock().await.unwrap();
            // Long enough for the keeper to begin here.
            sleep(20 * MILLIS).await;
            guard
        });
        // Its first deadline passes, and it stands still.
        thread::sleep(450 * MILLIS);

        let (_long, short) = healthy.block_on(async {
            let long = redsync.mutex("long").expiry(Duration::from_secs(60)).lock().await.unwrap();
            // Long enough for the new keeper to look, and to sleep until the long lock's renewal.
            sleep(100 * MILLIS).await;
            (long, redsync.mutex("short").expiry(600 * MILLIS).lock().await.unwrap())
        });
        // Several of its expiries.
        thread::sleep(2_000 * MILLIS);
        short.is_valid()
    });
    assert!(is_held, "nobody renewed it");
}

#[test]
fn a_runtime_that_took_over_and_ended_gives_the_guards_back() {
    let is_held = held_in_some_round(|| {
        let redsync = in_memory();
        let lasting = of_workers(1);
        let guard =
            lasting.block_on(redsync.mutex("kept").expiry(1_500 * MILLIS).lock()).expect("it is free");
        // Its only worker is busy across the renewal.
        lasting.spawn(async { thread::sleep(700 * MILLIS) });
        // By now its renewal is overdue.
        thread::sleep(620 * MILLIS);
        let passing = of_one_thread();
        passing.block_on(async {
            redsync.mutex("other").lock().await.unwrap().unlock().await.unwrap();
        });
        drop(passing);

        // Several of its expiries.
        thread::sleep(4_000 * MILLIS);
        guard.is_valid()
    });
    assert!(is_held, "the runtime that is there still did not take it back");
}

#[test]
fn calls_that_keep_a_runtime_busy_do_not_keep_its_guards_from_being_renewed() {
    // Whoever was always replaced would, in some rounds, still have had its turn.
    let mut held = 0;
    for _ in 0..ROUNDS {
        let redsync = in_memory();
        let busy = of_one_thread();
        held += usize::from(busy.block_on(async {
            let guard = redsync.mutex("kept").expiry(Duration::from_secs(4)).lock().await.unwrap();
            let callers: Vec<_> = (0..10)
                .map(|caller| {
                    let redsync = redsync.clone();
                    tokio::spawn(async move {
                        let end = Instant::now() + Duration::from_secs(6);
                        while Instant::now() < end {
                            let mutex = redsync.mutex(format!("busy:{caller}"));
                            let guard = mutex.lock().await.unwrap();
                            // Each holds the only thread for so long that whoever is sent for waits for 100 ms.
                            thread::sleep(10 * MILLIS);
                            guard.unlock().await.unwrap();
                            tokio::task::yield_now().await;
                        }
                    })
                })
                .collect();
            for caller in callers {
                caller.await.unwrap();
            }
            guard.is_valid()
        }));
        if held == ROUNDS - 1 {
            return;
        }
    }
    panic!("whoever was sent for was always replaced before it began");
}

/// A node that never answers the first extension.
#[derive(Debug)]
struct SilentOnce {
    node: MemoryNode,
    is_silent: AtomicBool,
}

impl fmt::Display for SilentOnce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.fmt(f)
    }
}

impl Node for SilentOnce {
    delegate!(node: identity, uptime, health_warnings, acquire, enter, yield_lease, release, inspect, list, listen);

    fn extend<'a>(&'a self, claim: &'a Claim, if_free: IfFree) -> Answer<'a, Extended> {
        match self.is_silent.swap(false, Ordering::SeqCst) {
            true => Box::pin(std::future::pending()),
            false => self.node.extend(claim, if_free),
        }
    }
}

#[test]
fn a_renewal_that_stands_still_with_its_runtime_is_begun_again_in_another() {
    let is_held = held_in_some_round(|| {
        let node = SilentOnce { node: MemoryNode::new(), is_silent: AtomicBool::new(true) };
        let node = Arc::new(node);
        let redsync = Redsync::new([Arc::clone(&node) as Arc<dyn Node>]).unwrap();
        let (still, healthy) = (of_one_thread(), of_workers(1));
        let guard = still.block_on(async {
            let guard = redsync.mutex("name").expiry(Duration::from_secs(4)).lock().await.unwrap();
            // Its renewal begins, is not answered, and then nobody looks at it any more.
            while node.is_silent.load(Ordering::SeqCst) {
                sleep(MILLIS).await;
            }
            guard
        });

        let lost = healthy.block_on(async { timeout(Duration::from_secs(6), guard.lost()).await });
        lost.is_err()
    });
    assert!(is_held, "nobody began it again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_that_one_denial_brings_is_told_before_the_others_have_answered() {
    let mut least = Duration::MAX;
    for _ in 0..ROUNDS {
        let servers = servers(5);
        let redsync = connect(&servers).await;
        let told: Arc<Mutex<Option<Instant>>> = Arc::default();
        let hook = Arc::clone(&told);
        // Each request may take 500 ms.
        let mutex = redsync.mutex("name").expiry(10_000 * MILLIS);
        let mutex = mutex.on_lost(move |_| *hook.lock().unwrap() = Some(Instant::now()));
        servers[3..].iter().for_each(|server| server.pause());
        let guard = mutex.lock().await.unwrap();
        servers[0].flushall();

        while guard.is_valid() {
            sleep(MILLIS).await;
        }
        let lost = Instant::now();
        wait_until("on_lost is called", DEADLINE, || told.lock().unwrap().is_some());

        let late = told.lock().unwrap().unwrap().saturating_duration_since(lost);
        println!("told {late:?} after it was lost");
        least = least.min(late);
        servers[3..].iter().for_each(|server| server.resume());
        if least < 100 * MILLIS {
            break;
        }
    }
    assert!(least < 100 * MILLIS, "{least:?}: the hung nodes were waited for");
}
