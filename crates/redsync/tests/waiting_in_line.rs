//! Waiting in line: who comes first is served first, by the release itself.

mod support;

use std::sync::Arc;
use std::time::Duration;

use redsync::{MemoryNode, Node, Redsync};
use redsync_testkit::RedisServer;
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::support::{DEADLINE, connect_to, connect};

async fn in_turn(fleet: Vec<Redsync>, waiters: usize) {
    let holder = fleet[0].mutex("line").lock().await.unwrap();
    let (served, mut order) = mpsc::unbounded_channel();
    let mut tasks = Vec::new();
    for number in 0..waiters {
        let (mutex, served) = (fleet[number % fleet.len()].mutex("line"), served.clone());
        tasks.push(tokio::spawn(async move {
            let guard = mutex.lock().await.unwrap();
            served.send(number).unwrap();
            guard.unlock().await.unwrap();
        }));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    holder.unlock().await.unwrap();
    for number in 0..waiters {
        let next = timeout(DEADLINE, order.recv()).await.expect("nobody is forgotten").unwrap();
        assert_eq!(next, number);
    }
    for task in tasks { task.await.unwrap(); }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_line() {
    let nodes: Vec<Arc<dyn Node>> = (0..3).map(|_| Arc::new(MemoryNode::new()) as Arc<dyn Node>).collect();
    let fleet = (0..4).map(|_| Redsync::new(nodes.clone()).unwrap()).collect();
    in_turn(fleet, 16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_line() {
    let server = RedisServer::start();
    let mut fleet = Vec::new();
    for _ in 0..4 { fleet.push(connect_to(&server).await); }
    in_turn(fleet, 16).await;
    assert_eq!(server.keys(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_quorum_line() {
    let servers = redsync_testkit::servers(3);
    let mut fleet = Vec::new();
    for _ in 0..4 { fleet.push(connect(&servers).await); }
    in_turn(fleet, 16).await;
    support::wait_until_empty(&servers, DEADLINE);
}
