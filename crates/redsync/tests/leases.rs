//! A held lock handed on as a value: to another process, from another library, and back.

mod support;

use std::time::Duration;

use redsync::{ErrorKind, Lease, LockState};
use redsync_testkit::{RedisServer, servers};
use support::{DEADLINE, assert_contains, connect, connect_to, keys_on};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_written_down_is_adopted_extended_and_released_elsewhere() {
    let servers = servers(3);
    let (here, there) = (connect(&servers).await, connect(&servers).await);
    let lease = here.mutex("orders 42:é").expiry(MINUTE).lock().await.unwrap().into_lease();
    let written = lease.to_string();

    let read: Lease = written.parse().unwrap();
    let guard = there.adopt(&read).await.unwrap();

    assert_eq!(read, lease);
    assert_eq!(guard.token(), lease.token());
    assert!(guard.remaining() > Duration::from_secs(50));
    guard.extend().await.unwrap();
    guard.unlock().await.unwrap();
    assert!(here.mutex("orders 42:é").try_lock().await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_goes_through_json() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let lease = redsync.mutex("na\"me\\").lock().await.unwrap().into_lease();
    let json = serde_json::to_string(&lease).unwrap();

    let read: Lease = serde_json::from_str(&json).unwrap();
    // A reader cannot lend its text, unlike a slice.
    let streamed: Lease = serde_json::from_reader(json.as_bytes()).unwrap();

    assert_eq!(read, lease);
    assert_eq!(streamed, lease);
    redsync.adopt(&read).await.unwrap().unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn json_that_is_no_lease_is_refused_with_the_reason() {
    let error = serde_json::from_str::<Lease>("\"redsync:8000:name\"").unwrap_err();

    assert_contains(&error.to_string(), &["invalid lease", "was the line cut off?"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn making_a_lease_of_a_guard_does_not_release() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let lease = redsync.mutex("name").fail_fast(false).lock().await.unwrap().into_lease();

    assert!(redsync.drain(DEADLINE).await);

    for server in &servers {
        assert_eq!(server.get("name").as_deref(), Some(lease.token().as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_another_lock_is_refused() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let guard = redsync.mutex("name").lock().await.unwrap();
    let another = redsync.mutex("another");

    let adopted = another.adopt(&guard.lease()).await.unwrap_err();
    let released = another.release(&guard.lease()).await.unwrap_err();

    for error in [adopted, released] {
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_contains(&error.to_string(), &["invalid lease: it is of lock \"name\", not \"another\""]);
    }
    assert!(guard.is_valid());
    guard.unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_lease_is_not_adopted_and_brings_nothing_back() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    let lease = Lease::from_parts("name", "long-gone", MINUTE).unwrap();

    let mutex = redsync.mutex("name").fail_fast(false);
    let error = mutex.adopt(&lease).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::AlreadyExpired);
    assert_eq!(keys_on(&servers), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_another_took_over_is_not_adopted() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let lease = redsync.mutex("name").lock().await.unwrap().into_lease();
    server.set("name", "5f1c@thief:1", Some(60_000));

    let error = redsync.adopt(&lease).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Taken);
    assert_contains(&error.to_string(), &["held by thief:1"]);
    assert_eq!(server.get("name").as_deref(), Some("5f1c@thief:1"));
    assert!(server.pttl("name") > 50_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_only_a_minority_holds_is_not_adopted() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    servers[0].set("name", "token", Some(60_000));
    let lease = Lease::from_parts("name", "token", MINUTE).unwrap();

    let error = redsync.adopt(&lease).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::AlreadyExpired);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_another_library_is_adopted_extended_and_released() {
    let servers = servers(3);
    let redsync = connect(&servers).await;
    // As Go's redsync writes it: 16 random bytes in base 64.
    let token = "q1Zx+/b4u0r3o0B3m9nD3A==";
    for server in &servers {
        server.set("name", token, Some(5_000));
    }
    let lease = Lease::from_parts("name", token, MINUTE).unwrap();

    let guard = redsync.mutex("name").expiry(MINUTE).fail_fast(false).adopt(&lease).await.unwrap();

    assert_eq!(guard.token().as_str(), token);
    for server in &servers {
        assert!(server.pttl("name") > 50_000);
    }
    guard.extend().await.unwrap();
    guard.unlock().await.unwrap();
    assert_eq!(keys_on(&servers), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_begins_like_the_holders_adopts_and_releases_nothing() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    server.set("name", "foobar", Some(60_000));
    let lease = Lease::from_parts("name", "foo", MINUTE).unwrap();

    let adopted = redsync.adopt(&lease).await.unwrap_err();
    let released = redsync.mutex("name").release(&lease).await.unwrap_err();

    assert_eq!((adopted.kind(), released.kind()), (ErrorKind::Taken, ErrorKind::Taken));
    assert_eq!(server.get("name").as_deref(), Some("foobar"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_released_by_its_lease_alone() {
    let servers = servers(3);
    let (here, there) = (connect(&servers).await, connect(&servers).await);
    let lease = here.mutex("name").fail_fast(false).lock().await.unwrap().into_lease();

    there.mutex("name").fail_fast(false).release(&lease).await.unwrap();

    assert_eq!(keys_on(&servers), []);
    let again = there.mutex("name").release(&lease).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExpired);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_lock_is_one_lock_with_its_origin() {
    let server = RedisServer::start();
    let redsync = connect_to(&server).await;
    let origin = redsync.mutex("name").lock().await.unwrap();
    let adopted = redsync.adopt(&origin.lease()).await.unwrap();

    adopted.unlock().await.unwrap();

    assert_eq!(redsync.inspect("name").await.unwrap().state(), LockState::Free);
    assert_eq!(origin.unlock().await.unwrap_err().kind(), ErrorKind::AlreadyExpired);
}
