//! Waits that are given up at any moment, thousands of them, while others contend: the lock goes on from one to the next,
//! and nothing is left behind.

#[path = "support/seed.rs"]
mod seed;
mod support;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redsync::{Clock, Error, Guard, Instant, Redsync, SystemClock};
use redsync_testkit::servers;
use seed::seed;
use support::{DEADLINE, connect, keys_on};
use tokio::time::timeout;

const GIVEN_UP: usize = 10_000;
const EXPIRY: Duration = Duration::from_secs(2);
const CLIENTS: usize = 4;

/// What all who contend know.
#[derive(Default)]
struct Shared {
    given_up: AtomicUsize,
    acquired: AtomicUsize,
    is_over: AtomicBool,
    overlaps: AtomicUsize,
    /// When the lock was last had, and the longest time from one to the next.
    last: Mutex<(Instant, Duration)>,
    is_held: AtomicBool,
}

impl Shared {
    /// Has the lock for a moment.
    async fn hold(&self, guard: Guard, random: &mut StdRng) {
        let now = SystemClock.now();
        {
            let mut last = self.last.lock().unwrap();
            let (before, longest) = *last;
            *last = (now, longest.max(now.saturating_since(before)));
        }
        self.acquired.fetch_add(1, Ordering::Relaxed);
        let is_beside = self.is_held.swap(true, Ordering::SeqCst);
        if is_beside {
            self.overlaps.fetch_add(1, Ordering::Relaxed);
        }
        for _ in 0..random.random_range(0..4) {
            tokio::task::yield_now().await;
        }
        assert!(guard.is_valid());
        self.is_held.store(false, Ordering::SeqCst);
        if random.random_bool(0.5) {
            guard.unlock().await.unwrap();
        }
    }
}

/// When a wait is given up.
enum Moment {
    /// When it was polled so often and is still not done.
    Poll(u32),
    /// So much later, with the precision of timers.
    Later(Duration),
}

impl Moment {
    fn any(random: &mut StdRng) -> Self {
        match random.random_range(0..4) {
            0 => Self::Poll(1),
            1 => Self::Poll(random.random_range(2..12)),
            2 => Self::Later(Duration::from_micros(random.random_range(0..3_000))),
            _ => Self::Later(Duration::from_micros(random.random_range(0..30_000))),
        }
    }
}

/// Waits until that moment.
async fn lock_until(mutex: &redsync::Mutex, moment: Moment) -> Option<Result<Guard, Error>> {
    match moment {
        Moment::Later(time) => timeout(time, mutex.lock()).await.ok(),
        Moment::Poll(most) => {
            let mut wait = pin!(mutex.lock());
            let mut polls = 0;
            poll_fn(|context| {
                polls += 1;
                match wait.as_mut().poll(context) {
                    Poll::Ready(locked) => Poll::Ready(Some(locked)),
                    Poll::Pending if polls >= most => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await
        }
    }
}

/// Gives up again and again.
async fn give_up(redsync: Redsync, shared: Arc<Shared>, mut random: StdRng) {
    let mutex = redsync.mutex("name").expiry(EXPIRY);
    while !shared.is_over.load(Ordering::Relaxed) {
        match lock_until(&mutex, Moment::any(&mut random)).await {
            Some(locked) => shared.hold(locked.unwrap(), &mut random).await,
            None => {
                let given_up = shared.given_up.fetch_add(1, Ordering::Relaxed) + 1;
                if given_up >= GIVEN_UP {
                    shared.is_over.store(true, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Never gives up.
async fn contend(redsync: Redsync, shared: Arc<Shared>, mut random: StdRng) {
    let mutex = redsync.mutex("name").expiry(EXPIRY);
    while !shared.is_over.load(Ordering::Relaxed) {
        let guard = mutex.lock().await.unwrap();
        shared.hold(guard, &mut random).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_waits_that_are_given_up_leave_no_lock_stuck_and_nothing_behind() {
    let (seed, mut random) = seed();
    println!("seed {seed}");
    let servers = servers(3);
    let shared = Arc::new(Shared::default());
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(connect(&servers).await);
    }
    shared.last.lock().unwrap().0 = SystemClock.now();
    let mut tasks = Vec::new();
    for number in 0..4 * CLIENTS {
        let (client, shared) = (clients[number % CLIENTS].clone(), Arc::clone(&shared));
        let random = StdRng::seed_from_u64(random.random());
        tasks.push(match number < CLIENTS {
            true => tokio::spawn(contend(client, shared, random)),
            false => tokio::spawn(give_up(client, shared, random)),
        });
    }
    let began = SystemClock.now();
    for task in tasks {
        timeout(Duration::from_secs(120), task).await.expect("all come to an end").unwrap();
    }
    let took = SystemClock.now().saturating_since(began);
    for client in &clients {
        assert!(client.drain(DEADLINE).await, "the background has an end; seed {seed}");
    }
    let left = keys_on(&servers);
    let longest = shared.last.lock().unwrap().1;
    let (given_up, acquired) =
        (shared.given_up.load(Ordering::Relaxed), shared.acquired.load(Ordering::Relaxed));
    println!(
        "{given_up} given up and {acquired} acquired in {took:?}; the longest time between two: {longest:?}"
    );
    assert_eq!(shared.overlaps.load(Ordering::Relaxed), 0, "somebody held beside another; seed {seed}");
    assert!(longest <= EXPIRY, "the lock was stuck for {longest:?}; seed {seed}");
    assert_eq!(left, [], "something is left behind; seed {seed}");
}
