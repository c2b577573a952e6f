//! Waits whose limit ends while healthy nodes are in the midst of something: nobody is blamed for that.

mod support;

use std::time::Duration;

use redsync::{Clock, ErrorKind, SystemClock};
use redsync_testkit::{Proxy, RedisServer, servers, wait_until};
use support::{DEADLINE, connect, over};

/// How far away each node is: a round trip there and back.
const AWAY: Duration = Duration::from_millis(10);

/// Has the fence counters differ by less than clocks may.
fn count_differently(servers: &[RedisServer], name: &str) {
    for (number, server) in servers.iter().enumerate() {
        let counter = SystemClock.wall_micros() + 100_000 * (number as u64 + 1);
        server.set(&format!("{{{name}}}:redsync:fence"), &counter.to_string(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_ends_while_healthy_nodes_agree_on_a_fence_ends_in_taken() {
    let servers = servers(3);
    let proxies: Vec<Proxy> = servers.iter().map(Proxy::before).collect();
    let (near, far) = (connect(&servers).await, over(proxies.iter().map(Proxy::url)));
    far.check_nodes().await.unwrap();
    proxies.iter().for_each(|proxy| proxy.delay(AWAY));
    let most = Duration::from_millis(200);
    let mut ends = Vec::new();
    for round in 0..24_u32 {
        let name = format!("round-{round}");
        let holder = near.mutex(&name).fail_fast(false).lock().await.unwrap();
        count_differently(&servers, &name);
        let mutex = far.mutex(&name).fenced().wait_up_to(most);
        let began = SystemClock.now();
        let waiter = tokio::spawn(async move { mutex.lock().await });
        wait_until("it is in the queue", DEADLINE, || {
            servers.iter().all(|server| server.waiting(&name) == 1)
        });
        // Released at that moment, the lock is granted before the limit, and there is no time left for a round trip.
        let left = Duration::from_millis(round.into());
        SystemClock.sleep_until(began + most - left).await;
        holder.unlock().await.unwrap();
        ends.push(match waiter.await.unwrap() {
            Ok(guard) => {
                guard.unlock().await.unwrap();
                None
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Taken, "{left:?} before the limit: {error}");
                assert!(!error.to_string().contains("did not answer"), "{left:?}: {error}");
                Some(left)
            }
        });
    }
    let in_vain = ends.iter().flatten().count();
    println!("{in_vain} of {} in vain, when the lock was released before the limit by {ends:?}", ends.len());
    assert!(in_vain >= 8, "the limit did not come while nodes agreed: {ends:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_ends_before_healthy_nodes_can_answer_blames_none_of_them() {
    let servers = servers(3);
    let proxies: Vec<Proxy> = servers.iter().map(Proxy::before).collect();
    let far = over(proxies.iter().map(Proxy::url));
    // It is known that they answer.
    far.mutex("name").fail_fast(false).lock().await.unwrap().unlock().await.unwrap();
    proxies.iter().for_each(|proxy| proxy.delay(2 * AWAY));
    let limit = far.mutex("name").wait_up_to(AWAY);
    for mutex in support::both_ways(&limit, Duration::from_millis(1)) {
        for error in [mutex.lock().await.unwrap_err(), mutex.clone().fenced().lock().await.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Taken, "{error}");
            assert!(error.nodes().is_empty(), "{error}");
        }
    }
}
