//! Contention over networks that are slow, differ from node to node, and change all the time.

#[path = "support/seed.rs"]
mod seed;
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redsync::{Clock, Instant, Redsync, SystemClock};
use redsync_testkit::{Proxy, servers};
use seed::seed;
use support::{DEADLINE, over, wait_until_empty};
use tokio::time::timeout;

/// The longest that a node's network adds to a round trip.
const SLOWEST: Duration = Duration::from_millis(20);
/// A few round trips of the slowest node, there and back: after that a minority is given back.
const CLAIM_WINDOW: Duration = Duration::from_millis(120);
const LONGEST_HOLD: Duration = Duration::from_millis(5);

/// When a lock was held for certain, and until when its guard said it was.
#[derive(Clone, Copy, Debug)]
struct Hold {
    who: usize,
    from: Instant,
    to: Instant,
    valid_until: Instant,
}

/// Runs `contenders`, each with connections of its own, for `time`, and gives all holds.
async fn contend(proxies: &[Proxy], contenders: usize, time: Duration, random: &mut StdRng) -> Vec<Hold> {
    let (holds, is_over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let mut clients: Vec<Redsync> = Vec::new();
    for _ in 0..contenders {
        let client = over(proxies.iter().map(Proxy::url));
        client.check_nodes().await.unwrap();
        clients.push(client);
    }
    let mut tasks = Vec::new();
    for (who, client) in clients.iter().enumerate() {
        let (mutex, holds, is_over) = (
            client.mutex("name").owner(format!("contender-{who}")),
            Arc::clone(&holds),
            Arc::clone(&is_over),
        );
        let mut random = StdRng::seed_from_u64(random.random());
        tasks.push(tokio::spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                let guard = mutex.lock().await.unwrap();
                let from = SystemClock.now();
                // The work under the lock.
                tokio::time::sleep(LONGEST_HOLD.mul_f64(random.random_range(0.0..0.8))).await;
                let (to, valid_until) = (SystemClock.now(), guard.valid_until());
                holds.lock().unwrap().push(Hold { who, from, to, valid_until });
                guard.unlock().await.unwrap();
            }
        }));
    }
    // The time in which they contend.
    tokio::time::sleep(time).await;
    is_over.store(true, Ordering::Relaxed);
    for task in tasks {
        timeout(DEADLINE, task).await.expect("nobody waits for ever").unwrap();
    }
    for client in clients {
        assert!(client.drain(DEADLINE).await);
    }
    let mut holds = std::mem::take(&mut *holds.lock().unwrap());
    holds.sort_by_key(|hold| hold.from);
    holds
}

#[tokio::test(flavor = "multi_thread")]
async fn under_changing_delays_nobody_holds_beside_another_and_nothing_stalls() {
    let seconds = std::env::var("REDSYNC_TEST_SECONDS").map_or(8.0, |seconds| seconds.parse().unwrap());
    let (seed, mut random) = seed();
    println!("seed {seed}");
    let servers = servers(3);
    let proxies: Arc<Vec<Proxy>> = Arc::new(servers.iter().map(Proxy::before).collect());
    let is_over = Arc::new(AtomicBool::new(false));
    let weather = thread::spawn({
        let (proxies, is_over) = (Arc::clone(&proxies), Arc::clone(&is_over));
        let mut random = StdRng::seed_from_u64(random.random());
        move || {
            while !is_over.load(Ordering::Relaxed) {
                proxies.iter().for_each(|proxy| proxy.delay(SLOWEST.mul_f64(random.random_range(0.0..1.0))));
                // How long the weather stays.
                thread::sleep(Duration::from_millis(random.random_range(5..100)));
            }
        }
    });
    let phases = [3, 5, 8, 16];
    let mut stalls = Vec::new();
    let mut overlaps = Vec::new();
    for contenders in phases {
        let time = Duration::from_secs_f64(seconds / phases.len() as f64);
        let holds = contend(&proxies, contenders, time, &mut random).await;
        let mut shares = vec![0; contenders];
        holds.iter().for_each(|hold| shares[hold.who] += 1);
        let mut gaps: Vec<Duration> =
            holds.windows(2).map(|pair| pair[1].from.saturating_since(pair[0].to)).collect();
        gaps.sort_unstable();
        let (median, longest) = (gaps[gaps.len() / 2], *gaps.last().unwrap());
        println!(
            "{contenders} contenders: {} holds, from one to the next {median:?}, at most {longest:?}; {shares:?}",
            holds.len()
        );
        stalls.push(longest);
        overlaps.extend(
            holds
                .windows(2)
                .filter(|pair| pair[1].from < pair[0].to || pair[0].valid_until < pair[0].to)
                .map(<[Hold]>::to_vec),
        );
    }
    is_over.store(true, Ordering::Relaxed);
    weather.join().unwrap();
    proxies.iter().for_each(Proxy::pass);
    assert!(overlaps.is_empty(), "somebody held beside another; seed {seed}: {overlaps:?}");
    let longest = stalls.into_iter().max().unwrap();
    assert!(longest <= 3 * CLAIM_WINDOW + LONGEST_HOLD, "a stall of {longest:?}; seed {seed}");
    wait_until_empty(&servers, DEADLINE);
}
