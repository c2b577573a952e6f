//! The nodes that redsync brings keep the contract.

mod socket_client;

use std::collections::HashSet;
use std::sync::Arc;

use redsync::{MemoryNode, Node, RedisNode, SqliteNode};
use redsync_conformance::check;
use redsync_testkit::RedisServer;

use self::socket_client::{SocketClient, Version};

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_node_keeps_the_contract() {
    check(Arc::new(MemoryNode::new())).await.assert_ok();
}

#[tokio::test]
async fn the_memory_node_keeps_the_contract_on_a_single_thread() {
    check(Arc::new(MemoryNode::new())).await.assert_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sqlite_node_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    check(Arc::new(SqliteNode::new(directory.path().join("leases")))).await.assert_ok();
}

#[tokio::test]
async fn the_sqlite_node_keeps_the_contract_on_a_single_thread() {
    let directory = tempfile::tempdir().unwrap();
    check(Arc::new(SqliteNode::new(directory.path().join("leases")))).await.assert_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_redis_node_keeps_the_contract() {
    let server = RedisServer::start();
    let node = RedisNode::open(&server.url()).unwrap();
    check(Arc::new(node)).await.assert_ok();
}

#[tokio::test]
async fn the_redis_node_keeps_the_contract_on_a_single_thread() {
    let server = RedisServer::start();
    let node = RedisNode::open(&server.url()).unwrap();
    check(Arc::new(node)).await.assert_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_redis_node_keeps_the_contract_with_a_client_of_ones_own() {
    let server = Arc::new(RedisServer::start());
    let node = RedisNode::with_client(SocketClient::new(server, Version::AsItIs));
    check(Arc::new(node)).await.assert_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_redis_node_keeps_the_contract_with_a_client_of_ones_own_that_can_be_told() {
    let server = Arc::new(RedisServer::start());
    let node = RedisNode::with_client(SocketClient::subscribing(server, Version::AsItIs));
    check(Arc::new(node)).await.assert_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_redis_node_keeps_the_contract_where_set_does_not_take_nx_and_get() {
    let server = Arc::new(RedisServer::start());
    let node = RedisNode::with_client(SocketClient::new(server, Version::BeforeSeven));
    check(Arc::new(node)).await.assert_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_behind_on_the_store_but_counters_for_a_minute() {
    let server = RedisServer::start();
    let node = RedisNode::open(&server.url()).unwrap();
    let report = check(Arc::new(node)).await;
    for key in server.keys() {
        let left = server.command(&["PTTL", &key]).int();
        assert!(key.ends_with(":fence") && (0..=60_000).contains(&left), "{key}: {left} ms");
    }
    report.assert_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_may_be_held_against_the_contract_by_many_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("leases");
    let (first, second) = (SqliteNode::new(&path), SqliteNode::new(&path));
    let (first, second) = tokio::join!(check(Arc::new(first)), check(Arc::new(second)));
    first.assert_ok();
    second.assert_ok();
}

#[tokio::test]
async fn two_nodes_have_one_identity_if_and_only_if_they_are_one_store() {
    let (server, other_server) = (RedisServer::start(), RedisServer::start());
    let directory = tempfile::tempdir().unwrap();
    let (file, other_file) = (directory.path().join("leases"), directory.path().join("others"));
    let memory = MemoryNode::new();
    let redis = |url: &str| -> Box<dyn Node> { Box::new(RedisNode::open(url).unwrap()) };
    let stores: [Vec<Box<dyn Node>>; 6] = [
        vec![redis(&server.url()), redis(&server.unix_url())],
        vec![redis(&other_server.url())],
        vec![Box::new(SqliteNode::new(&file)), Box::new(SqliteNode::new(&file))],
        vec![Box::new(SqliteNode::new(&other_file))],
        vec![Box::new(memory.clone()), Box::new(memory)],
        vec![Box::new(MemoryNode::new())],
    ];

    let mut identities = HashSet::new();
    for store in stores {
        let first = store[0].identity().await.unwrap();
        for node in &store {
            assert_eq!(node.identity().await.unwrap(), first, "{node}");
        }
        assert!(identities.insert(first), "{} is another store", store[0]);
    }
}
