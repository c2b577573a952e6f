//! Looking at a lock without taking it: free, held, contended, or not to be told.

mod support;

use std::time::Duration;

use redsync::{LockState, NodeError, TimeLeft};
use redsync_testkit::{RedisServer, servers};
use support::{connect, connect_to};

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_nobody_has_is_free() {
    let servers = servers(3);
    let redsync = connect(&servers).await;

    let inspection = redsync.inspect("name").await.unwrap();

    assert_eq!(inspection.state(), LockState::Free);
    assert_eq!(inspection.holder(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_lock_shows_its_holder_and_the_time_left() {
    for nodes in [1, 3] {
        let servers = servers(nodes);
        let redsync = connect(&servers).await;
        let mutex = redsync.mutex("name").owner("web-2:311").expiry(Duration::from_secs(60));
        let guard = mutex.lock().await.unwrap();

        let holder = redsync.inspect("name").await.unwrap().holder().unwrap();

        assert_eq!(holder.token(), guard.token().as_str());
        assert_eq!(holder.owner(), Some("web-2:311"));
        assert_eq!(holder.to_string(), "web-2:311");
        let TimeLeft::For(left) = holder.time_left() else {
            panic!("{holder:?}");
        };
        assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(60), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_lock_lasts_as_long_as_a_majority_of_its_leases() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    for (server, millis) in servers.iter().zip([60_000, 20_000, 5_000]) {
        server.set("name", "token", Some(millis));
    }

    let holder = redsync.inspect("name").await.unwrap().holder().unwrap();

    let TimeLeft::For(left) = holder.time_left() else {
        panic!("{holder:?}");
    };
    assert!(left > Duration::from_secs(10) && left <= Duration::from_secs(20), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_expiry_is_held_for_ever() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    server.set("name", "token", None);

    let holder = redsync.inspect("name").await.unwrap().holder().unwrap();

    assert_eq!(holder.time_left(), TimeLeft::Forever);
    assert_eq!(holder.owner(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_which_everybody_has_a_part_is_contended() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    for (server, token) in servers.iter().zip(["ann", "bob", "cem"]) {
        server.set("name", token, Some(60_000));
    }

    let inspection = redsync.inspect("name").await.unwrap();

    assert_eq!(inspection.state(), LockState::Contended);
    assert_eq!(inspection.holder(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_down_is_reported_beside_the_holder() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let guard = redsync.mutex("name").fail_fast(false).lock().await.unwrap();
    servers[1].kill();

    let inspection = redsync.inspect("name").await.unwrap();

    let holder = inspection.holder().unwrap();
    assert_eq!(holder.token(), guard.token().as_str());
    let reported: Vec<(&str, bool)> =
        inspection.nodes().iter().map(|report| (report.node.as_str(), report.answer.is_ok())).collect();
    let urls: Vec<String> = servers.iter().map(RedisServer::url).collect();
    assert_eq!(reported, [(&*urls[0], true), (&*urls[1], false), (&*urls[2], true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_majority_down_nobody_can_tell() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let _guard = redsync.mutex("name").fail_fast(false).lock().await.unwrap();
    servers[0].kill();
    servers[1].kill();

    let inspection = redsync.inspect("name").await.unwrap();

    assert_eq!(inspection.state(), LockState::Unknown);
    assert!(inspection.nodes()[2].answer.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_node_is_waited_for_no_longer_than_a_second_or_so() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    servers[0].pause();

    let (took, inspected) = support::timed(redsync.inspect("name")).await;

    let inspection = inspected.unwrap();
    assert_eq!(inspection.state(), LockState::Free);
    let answer = &inspection.nodes()[0].answer;
    assert!(matches!(answer, Err(NodeError::Timeout { .. })), "{answer:?}");
    assert!(took < Duration::from_millis(2500), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_changes_nothing() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    server.set("name", "token", Some(60_000));

    redsync.inspect("name").await.unwrap();
    redsync.inspect("no-such-lock").await.unwrap();

    assert_eq!(server.keys(), ["name"]);
    assert_eq!(server.get("name").as_deref(), Some("token"));
    assert!(server.pttl("name") > 50_000);
}
