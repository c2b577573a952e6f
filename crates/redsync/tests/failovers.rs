//! A failover behind a stable address: connections stay on the server that was demoted, and new ones lead to the new primary.

mod support;

use std::time::{Duration, Instant};

use redsync::{Mutex, Redsync};
use redsync_testkit::{Pair, wait_until};
use support::{DEADLINE, over};

/// How long all locks here last: each is renewed several times.
const EXPIRY: Duration = Duration::from_secs(3);

/// A client whose connection was made before the failover.
async fn connect(pair: &Pair) -> Redsync {
    let redsync = over([pair.proxy.url()]);
    redsync.check_nodes().await.unwrap();
    redsync
}

fn mutex(redsync: &Redsync) -> Mutex {
    redsync.mutex("name").expiry(EXPIRY)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_keeps_its_lock() {
    let pair = Pair::start();
    let redsync = connect(&pair).await;
    let guard = mutex(&redsync).lock().await.unwrap();
    let first_end = guard.valid_until();
    pair.fail_over();
    wait_until("the lock is renewed beyond what it was granted for", DEADLINE, || {
        guard.valid_until() >= first_end + EXPIRY
    });
    assert_eq!(pair.second.get("name").as_deref(), Some(guard.token().as_str()));
    guard.unlock().await.unwrap();
    assert_eq!(pair.second.get("name"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_call_after_it_succeeds() {
    let pair = Pair::start();
    let redsync = connect(&pair).await;
    let (plain, fenced) = (redsync.mutex("plain"), redsync.mutex("fenced").fenced());
    // Each of these calls is the first that learns of a failover.
    let [released, adopted] = [plain.lock().await.unwrap(), redsync.mutex("kept").lock().await.unwrap()];
    let lease = adopted.into_lease();
    pair.fail_over();
    released.unlock().await.unwrap();
    let again = connect(&pair).await;
    again.adopt(&lease).await.unwrap().unlock().await.unwrap();
    drop((plain.try_lock().await.unwrap().unwrap(), fenced.try_lock().await.unwrap().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_tried_first_is_taken() {
    for is_fenced in [false, true] {
        let pair = Pair::start();
        let redsync = connect(&pair).await;
        pair.fail_over();
        match is_fenced {
            true => drop(mutex(&redsync).fenced().try_lock().await.unwrap().unwrap()),
            false => drop(mutex(&redsync).try_lock().await.unwrap().unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_gets_the_lock_in_its_turn() {
    let pair = Pair::start();
    let [holder, waiter, later] = [connect(&pair).await, connect(&pair).await, connect(&pair).await];
    let guard = mutex(&holder).lock().await.unwrap();
    let waiting = tokio::spawn({
        let mutex = mutex(&waiter);
        async move { mutex.lock().await.map(|guard| (guard, Instant::now())) }
    });
    wait_until("it is in the queue", DEADLINE, || pair.first.waiting("name") == 1);
    let behind = tokio::spawn({
        let mutex = mutex(&later);
        async move { mutex.lock().await.map(|guard| (guard, Instant::now())) }
    });
    wait_until("the other is in the queue", DEADLINE, || pair.first.waiting("name") == 2);
    pair.fail_over();
    // Until all have noticed: each renews its lease or place every third of the expiry.
    wait_until("all are on the new primary", DEADLINE, || {
        let clients = pair.second.command(&["PUBSUB", "CHANNELS", "*redsync*"]).array().len();
        clients == 2
    });
    guard.unlock().await.unwrap();
    let (guard, first) = waiting.await.unwrap().unwrap();
    guard.unlock().await.unwrap();
    let (guard, second) = behind.await.unwrap().unwrap();
    guard.unlock().await.unwrap();
    assert!(first < second);
}

/// A server tells its replicas what it publishes, and they tell their own clients. A waiter whose connection is on the
/// demoted server hears of grants that the new primary took back, since nobody heard of them there.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_on_the_demoted_server_is_not_told_of_a_grant_that_another_got() {
    let pair = Pair::start();
    let (holder, waiter) = (connect(&pair).await, connect(&pair).await);
    let guard = mutex(&holder).lock().await.unwrap();
    let waiting = tokio::spawn({
        // It does not look by itself before all is over.
        let mutex = waiter.mutex("name").expiry(Duration::from_secs(60));
        async move { mutex.lock().await }
    });
    wait_until("it is in the queue", DEADLINE, || pair.first.waiting("name") == 1);
    pair.fail_over();
    let newcomer = connect(&pair).await;
    let behind = tokio::spawn({
        let mutex = newcomer.mutex("name").expiry(Duration::from_secs(60));
        async move { mutex.lock().await }
    });
    wait_until("the newcomer is in the queue", DEADLINE, || pair.second.waiting("name") == 2);
    guard.unlock().await.unwrap();
    let leases = behind.await.unwrap().unwrap();
    // The waiter asks again when the lease of the holder that it knows of runs out.
    tokio::time::sleep(EXPIRY).await;
    assert!(leases.is_valid());
    assert!(!waiting.is_finished(), "two hold the lock at once");
    leases.unlock().await.unwrap();
    waiting.await.unwrap().unwrap().unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stays_a_replica_is_not_connected_to_all_the_time() {
    let pair = Pair::start();
    let redsync = connect(&pair).await;
    pair.fail_over();
    pair.proxy.lead_to(&pair.first);
    let before = pair.proxy.connections();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        let error = mutex(&redsync).try_lock().await.unwrap_err();
        assert!(error.to_string().contains("READONLY"), "{error}");
    }
    let connections = pair.proxy.connections() - before;
    assert!(connections <= 8, "{connections} connections in 3 s");
}
