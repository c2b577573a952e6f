//! Requests on connections that break under them: each reaches a server once at most, and what was cancelled is undone.

#[path = "support/route.rs"]
mod route;
mod support;

use std::slice;
use std::time::Duration;

use redsync::{Mutex, Redsync};
use redsync_testkit::{RedisServer, wait_until};
use route::Route;
use support::{DEADLINE, connect_to, wait_until_empty};

/// How long the background may take to release what was abandoned; a small part of what the lease would last.
const SOON: Duration = Duration::from_secs(3);

/// Waits until nothing goes on in the background any more, which might send something.
async fn settle(redsync: &Redsync) {
    assert!(redsync.drain(DEADLINE).await, "the background never comes to an end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_whose_reply_was_lost_with_its_connection_is_not_sent_again() {
    let route = Route::open().await;
    let mutex = route.redsync.mutex("name");
    route.proxy.drop_replies();
    let locking = tokio::spawn(async move { mutex.try_lock().await.map(drop) });
    wait_until("the SET is applied", DEADLINE, || route.server.command_count("set") == 1);

    route.proxy.pass();
    route.proxy.reset();

    locking.await.unwrap().expect_err("nobody knows that it was granted");
    settle(&route.redsync).await;
    assert_eq!(route.server.command_count("set"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_whose_reply_was_lost_with_its_connection_is_not_sent_again() {
    let route = Route::open().await;
    let guard = route.redsync.mutex("name").renew(false).lock().await.unwrap();
    // From now on the server knows the script.
    guard.extend().await.unwrap();
    let extensions = || route.server.command_count("pexpire");
    route.proxy.drop_replies();
    let extending = tokio::spawn(async move {
        let extended = guard.extend().await;
        (guard, extended)
    });
    wait_until("the EVALSHA is applied", DEADLINE, || extensions() == 2);
    let sent = route.server.command_count("evalsha");

    route.proxy.pass();
    route.proxy.reset();

    let (_guard, extended) = extending.await.unwrap();
    extended.expect_err("nobody knows that it was extended");
    settle(&route.redsync).await;
    assert_eq!(route.server.command_count("evalsha"), sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_reset_its_connection_is_not_sent_later() {
    let route = Route::open().await;
    route.proxy.reset_on_request();
    // As nobody knows that it was not applied, it is undone again and again, but not for longer than its lease.
    let mutex = route.redsync.mutex("name").expiry(Duration::from_secs(1));
    mutex.try_lock().await.expect_err("the connection was reset");

    route.proxy.pass();
    // Tries while it is known to be down send nothing.
    route.redsync.mutex("another").lock().await.unwrap().unlock().await.unwrap();

    settle(&route.redsync).await;
    assert_eq!(route.server.command_count("set"), 1, "the other one's");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_whose_replies_are_swallowed_are_sent_once_each_at_most() {
    const ASKED: u64 = 20;
    let route = Route::open().await;
    route.proxy.drop_replies();

    for number in 0..ASKED {
        // Of one second's lease a request may take a twentieth.
        let mutex = route.redsync.mutex(format!("name {number}")).expiry(Duration::from_secs(1));
        mutex.try_lock().await.expect_err("no reply comes");
    }
    route.proxy.pass();
    settle(&route.redsync).await;

    let sent = route.server.command_count("set");
    assert!((1..=ASKED).contains(&sent), "{sent} sent, {ASKED} asked");
}

/// A lock whose lease lasts for a minute, so that what is gone soon was released; a request may take 300 ms.
fn long(redsync: &Redsync) -> Mutex {
    redsync.mutex("name").expiry(Duration::from_secs(60)).timeout_factor(0.005)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_cancelled_while_its_request_is_held_up_is_undone() {
    // Shorter than a request may take, and so long that the connection is given up.
    for pause in [Duration::from_millis(50), Duration::from_millis(1500)] {
        let route = Route::open().await;
        route.proxy.hold();
        let locking = tokio::time::timeout(Duration::from_millis(100), long(&route.redsync).lock()).await;
        assert!(locking.is_err(), "it was cancelled");
        // The network is silent for that long.
        tokio::time::sleep(pause).await;

        route.proxy.pass();

        wait_until("the late SET is applied", DEADLINE, || route.server.command_count("set") > 0);
        wait_until_empty(slice::from_ref(&route.server), SOON);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_cancelled_while_replies_are_swallowed_is_undone() {
    let route = Route::open().await;
    route.proxy.drop_replies();
    let locking = tokio::spawn({
        let mutex = long(&route.redsync);
        async move { mutex.lock().await.map(drop) }
    });
    wait_until("the SET is applied", DEADLINE, || route.server.command_count("set") == 1);

    locking.abort();

    wait_until_empty(slice::from_ref(&route.server), SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_cancelled_before_its_connection_breaks_is_undone() {
    let route = Route::open().await;
    route.proxy.drop_replies();
    let locking = tokio::spawn({
        let mutex = long(&route.redsync);
        async move { mutex.lock().await.map(drop) }
    });
    wait_until("the SET is applied", DEADLINE, || route.server.command_count("set") == 1);

    // Nothing gets through from here on, so that only what is sent later can undo it.
    route.proxy.refuse();
    locking.abort();
    route.proxy.pass();

    wait_until_empty(slice::from_ref(&route.server), SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_dropped_on_a_half_open_connection_is_released_over_another() {
    let route = Route::open().await;
    let guard = long(&route.redsync).lock().await.unwrap();
    route.proxy.half_open();

    drop(guard);

    wait_until_empty(slice::from_ref(&route.server), SOON);
}

/// A server that has forgotten its scripts and has counted nothing since, and a guard of a lock on it.
async fn forgetful() -> (RedisServer, Redsync, redsync::Guard) {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let guard = redsync.mutex("name").lock().await.unwrap();
    server.command(&["SCRIPT", "FLUSH"]);
    server.command(&["CONFIG", "RESETSTAT"]);
    (server, redsync, guard)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forgot_its_scripts_costs_one_trip_more() {
    let (server, _redsync, guard) = forgetful().await;

    guard.unlock().await.unwrap();

    assert_eq!((server.command_count("evalsha"), server.command_count("eval")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_learns_its_scripts_again_by_that_trip() {
    let (server, redsync, guard) = forgetful().await;
    guard.unlock().await.unwrap();
    let next = redsync.mutex("name").lock().await.unwrap();
    server.command(&["CONFIG", "RESETSTAT"]);

    next.unlock().await.unwrap();

    assert_eq!((server.command_count("evalsha"), server.command_count("eval")), (1, 0));
}
