//! Messages that look like a node's and are not: published by a user who may read who waits and publish, and may not write.

mod support;

use std::time::Duration;

use redsync::{Clock, FencedGuard, Redsync, SystemClock};
use redsync_testkit::{RedisServer, wait_until};
use support::{DEADLINE, over};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A server with a user who reads and publishes.
fn server() -> RedisServer {
    RedisServer::builder().user("reader", "secret", "~* &* -@all +zrange +publish").start()
}

/// What the server publishes when it hands the lock to the first in line, by somebody else, with this fence.
fn forge(server: &RedisServer, fence: u64) {
    let read = server.command_as("reader", "secret", &["ZRANGE", "{name}:redsync:line", "0", "1"]);
    let members: Vec<String> = read.array().iter().map(|member| member.text().to_owned()).collect();
    let [token, place] = members.as_slice() else { panic!("nobody waits: {members:?}") };
    let (_, place) = place.split_once('\0').expect("it is a place");
    let parts: Vec<&str> = place.splitn(6, ':').collect();
    let (round, contact) = (parts[1], parts[5]);
    let message = format!("{round}:{fence}:{}:{token}name", token.len());
    let heard = server.command_as("reader", "secret", &["PUBLISH", &contact[1..], &message]);
    assert_eq!(heard.int(), 1, "the waiter listens");
}

fn in_line(redsync: &Redsync, servers: &[RedisServer], confirms: bool) -> JoinHandle<FencedGuard> {
    let mutex = redsync.mutex("name").confirm_grants(confirms).fenced();
    let waiter = tokio::spawn(async move { mutex.lock().await.unwrap() });
    wait_until("it is in line", DEADLINE, || servers.iter().all(|server| server.waiting("name") == 1));
    waiter
}

/// Whether one who waits takes a forged grant with this fence, in microseconds ahead of the time, for one of the nodes'.
async fn is_believed(nodes: usize, ahead: u64, confirms: bool) -> bool {
    let servers: Vec<RedisServer> = (0..nodes).map(|_| server()).collect();
    let urls = || servers.iter().map(RedisServer::url);
    let (first, second) = (over(urls()), over(urls()));
    let holder = first.mutex("name").fenced().fail_fast(false).lock().await.unwrap();
    let waiter = in_line(&second, &servers, confirms);
    let asked = |server: &RedisServer| server.command_counts(["eval", "evalsha"]).iter().sum::<u64>();
    let before: Vec<u64> = servers.iter().map(asked).collect();
    let fence = SystemClock.wall_micros() + ahead;
    servers.iter().for_each(|server| forge(server, fence));

    wait_until("it believes, or asks each node", DEADLINE, || {
        waiter.is_finished() || servers.iter().zip(&before).all(|(server, before)| asked(server) > *before)
    });
    // What is heard last may be the answers.
    tokio::time::sleep(Duration::from_millis(100)).await;
    if waiter.is_finished() {
        return true;
    }
    assert!(holder.is_valid());
    let former = holder.fence();
    holder.unlock().await.unwrap();
    let guard = timeout(DEADLINE, waiter).await.expect("it has its turn").unwrap();
    assert!(guard.is_valid() && guard.fence() > former);
    assert!(guard.fence().as_u64() < fence || ahead < 1_000_000, "the forged fence is taken over");
    guard.unlock().await.unwrap();
    false
}

const HOUR: u64 = 3_600_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_grant_is_not_believed_where_grants_are_confirmed() {
    for nodes in [1, 3] {
        assert!(!is_believed(nodes, 1_000, true).await, "{nodes} nodes: it holds beside the holder");
        assert!(!is_believed(nodes, HOUR, true).await, "{nodes} nodes: it holds beside the holder");
        // As it is without: whoever may read who waits and publish is trusted.
        assert!(is_believed(nodes, 1_000, false).await, "{nodes} nodes: the forger does nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_told_fence_that_no_clock_explains_is_confirmed_before_it_is_believed() {
    for nodes in [1, 3] {
        assert!(!is_believed(nodes, HOUR, false).await, "{nodes} nodes: it holds beside the holder");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_to_a_request_that_was_never_made_does_not_keep_the_waiter_from_its_turn() {
    let servers = [server()];
    let (first, second) = (over([servers[0].url()]), over([servers[0].url()]));
    let holder = first.mutex("name").fenced().lock().await.unwrap();
    let waiter = in_line(&second, &servers, false);
    let line = servers[0].command(&["ZRANGE", "{name}:redsync:line", "0", "1"]);
    let members: Vec<String> = line.array().iter().map(|member| member.text().to_owned()).collect();
    let contact = members[1].rsplit_once(":P").expect("it is told on any channel").1;
    let message = format!("4000000000:1:{}:{}name", members[0].len(), members[0]);
    servers[0].command(&["PUBLISH", contact, &message]);

    holder.unlock().await.unwrap();

    let guard = timeout(Duration::from_secs(2), waiter).await.expect("it has its turn at once").unwrap();
    guard.unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_that_are_confirmed_cost_one_request_more_and_are_had_at_once() {
    for nodes in [1, 3] {
        let servers: Vec<RedisServer> = (0..nodes).map(|_| server()).collect();
        let urls = || servers.iter().map(RedisServer::url);
        let builder = urls().fold(Redsync::builder().restart_guard(false), redsync::Builder::url);
        let (first, second) = (over(urls()), builder.confirm_grants(true).build().unwrap());
        let mut took = Vec::new();
        for _ in 0..20 {
            let holder = first.mutex("name").fenced().fail_fast(false).lock().await.unwrap();
            let mutex = second.mutex("name").fenced();
            let waiter = tokio::spawn(async move { (mutex.lock().await.unwrap(), SystemClock.now()) });
            wait_until("it is in line", DEADLINE, || {
                servers.iter().all(|server| server.waiting("name") == 1)
            });
            let released = SystemClock.now();
            holder.unlock().await.unwrap();
            let (guard, had) = timeout(DEADLINE, waiter).await.expect("it is handed over").unwrap();
            took.push(had.saturating_since(released));
            // Counted from when it was confirmed.
            assert!(guard.remaining() > Duration::from_secs(7), "{:?}", guard.remaining());
            guard.unlock().await.unwrap();
        }
        let median = support::median(took);
        println!("{nodes} nodes: handed over in {median:?}");
        assert!(median < Duration::from_millis(50), "{nodes} nodes: {median:?}");
    }
}
