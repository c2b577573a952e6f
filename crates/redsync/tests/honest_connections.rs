//! Connections that end while nobody looks, servers that quote passwords, and nodes that hide who they are.

mod support;

use std::time::Duration;

use redsync::{Error, ErrorKind, Redsync};
use redsync_testkit::{RedisServer, servers};
use support::{DEADLINE, assert_contains, connect, timed, with_causes};

const EXPIRY: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_connection_that_the_server_closed_while_idle_costs_no_request() {
    let servers: Vec<RedisServer> =
        (0..3).map(|_| RedisServer::builder().config("timeout", "1").start()).collect();
    let redsync = connect(&servers).await;
    let guard = redsync.mutex("name").expiry(EXPIRY).lock().await.unwrap();
    let is_closed = |server: &RedisServer| !server.command(&["CLIENT", "LIST"]).text().contains("resp=3");
    wait_until_async("the servers have closed idle connections", || servers.iter().all(is_closed)).await;

    guard.extend().await.expect("the connections are made anew");
    guard.unlock().await.unwrap();
}

#[tokio::test]
async fn a_server_that_quotes_the_password_does_not_make_us_do_so() {
    // Without HELLO, Redis 7 answers with the whole command, and the password in it.
    let server = RedisServer::builder().password("hunter2").config("rename-command", "HELLO \"\"").start();

    let error = Redsync::connect([server.url()]).await.unwrap_err();

    let told = format!("{}\n{error:?}", with_causes(&error));
    assert!(!told.contains("hunter2"), "{told}");
    assert_contains(&error.to_string(), &["Redis 6 or later is needed"]);
}

#[tokio::test]
async fn a_server_that_quotes_the_command_does_not_make_us_show_the_token() {
    let server = RedisServer::builder().config("rename-command", "SET \"\"").start();
    let redsync = Redsync::connect([server.url()]).await.unwrap();
    let mutex = redsync.mutex("name").token_fn(|| "hunter2".into());

    let error = mutex.try_lock().await.unwrap_err();

    let told = format!("{}\n{error:?}", with_causes(&error));
    assert!(!told.contains("hunter2"), "{told}");
    assert_contains(&error.to_string(), &["unknown command"]);
}

#[tokio::test]
async fn a_hung_node_does_not_hide_that_two_others_are_one_server() {
    let servers = servers(2);
    servers[1].pause();
    let twice = [servers[0].url(), servers[0].unix_url(), servers[1].url()];

    let (took, connected) = timed(Redsync::connect(twice)).await;

    let error = connected.unwrap_err();
    assert!(matches!(error, Error::DuplicateNode { .. }), "{error}");
    assert!(
        took < Duration::from_millis(900),
        "{took:?}: it was known long before the hung node's time was over"
    );
}

#[tokio::test]
async fn a_hung_minority_delays_connecting_by_no_more_than_a_moment() {
    let servers = servers(3);
    servers[2].pause();

    let (took, connected) = timed(Redsync::connect(servers.iter().map(RedisServer::url))).await;

    connected.unwrap();
    assert!(took < Duration::from_millis(900), "{took:?}");
}

#[tokio::test]
async fn a_release_by_lease_alone_is_tried_again_when_the_node_comes_back() {
    let server = RedisServer::builder().persistent().start();
    let redsync = Redsync::connect([server.url()]).await.unwrap();
    let lease = redsync.mutex("name").expiry(EXPIRY).lock().await.unwrap().into_lease();
    server.pause();

    let error = redsync.mutex("name").expiry(EXPIRY).timeout_factor(0.001).release(&lease).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoQuorum);
    server.resume();

    wait_until_async("the lock is released", || server.get("name").is_none()).await;
}

#[test]
fn without_a_runtime_there_is_an_error_and_no_panic() {
    let redsync = Redsync::builder().url("redis://127.0.0.1:1").build().unwrap();
    let mutex = redsync.mutex("name");
    let mut locking = Box::pin(mutex.lock());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());

    let std::task::Poll::Ready(Err(error)) = locking.as_mut().poll(&mut context) else {
        panic!("it is at once")
    };

    assert_eq!(error.kind(), ErrorKind::Runtime);
    assert_contains(&error.to_string(), &["tokio runtime", "redsync::blocking"]);
}

#[tokio::test]
async fn a_cancel_that_came_before_wins_over_a_free_lock() {
    let redsync = Redsync::connect(["memory:"]).await.unwrap();
    let error = redsync.mutex("name").lock_unless(std::future::ready(())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

/// Waits for something that needs this thread's runtime to come about.
async fn wait_until_async(what: &str, mut condition: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + DEADLINE;
    while !condition() {
        assert!(std::time::Instant::now() < end, "waited in vain until {what}");
        // Nothing to be woken by: the server tells nobody.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
